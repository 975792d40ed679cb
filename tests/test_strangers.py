"""Avatars from strangers: bombs, links, places, impossible numbers, each refused with a sentence, nothing left, quickly."""

from __future__ import annotations

import json
import shutil
import stat
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from gmtalker.avatars.storage import export_avatar, import_avatar, list_avatars
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.media.full_frame import IdleLoop
from gmtalker.media.video_writer import VideoWriter
from studio.avatars import picture_of

SECONDS_MAX = 5.0


@pytest.fixture
def packed(tmp_path, tiny_avatar) -> Path:
    return export_avatar(tiny_avatar, tmp_path / "tiny.zip")


def refused(path: Path, home: Path, pattern: str = "") -> str:
    """The sentence with which an archive is refused."""
    before, began = {entry.folder for entry in list_avatars()}, time.monotonic()
    with pytest.raises(UnusableAvatar, match=pattern) as caught:
        import_avatar(path, "stranger")
    assert time.monotonic() - began < SECONDS_MAX
    assert {entry.folder for entry in list_avatars()} == before
    assert not [left for left in (home / "avatars").iterdir() if left.name.startswith(".")]
    return str(caught.value)


def with_files(packed: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(packed, "a", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_small_file_that_unfolds_to_much(packed, home, method):
    assert "too large" in refused(with_files(packed, {"more.safetensors": bytes(90 * 2**20)}, method), home)


def test_one_file_that_is_larger_than_such_a_file_is(packed, home):
    assert "large.json is too large" in refused(with_files(packed, {"large.json": bytes(2**20 + 1)}), home)


def test_a_million_names(tmp_path, home, tiny_avatar):
    """The list of a zip file, written by hand: entries that all name the same few bytes."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    listed = entry * 1_000_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1_000_000 & 0xFFFF, 1_000_000 & 0xFFFF, len(listed), 0, 0)
    (tmp_path / "million.zip").write_bytes(listed + end)
    assert "too many files" in refused(tmp_path / "million.zip", home)


@pytest.mark.parametrize("damage", [b"", b"PK", b"PK\x05\x06", b"PK\x05\x06" + bytes(18), b"x" * 100_000])
def test_no_archive_at_all(tmp_path, home, tiny_avatar, damage):
    (tmp_path / "no.zip").write_bytes(damage)
    assert ".importing" not in refused(tmp_path / "no.zip", home, "^no(.zip)? is not an (exported )?avatar")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damaged_packing(tmp_path, packed, home, method):
    with zipfile.ZipFile(packed) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "new.zip", "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    data = bytearray((tmp_path / "new.zip").read_bytes())
    data[200:400] = bytes(200)
    (tmp_path / "new.zip").write_bytes(data)
    assert "new.zip is not an exported avatar" in refused(tmp_path / "new.zip", home)


@pytest.mark.parametrize(
    "name",
    ["../out.json", "/tmp/out.json", "C:\\out.json", "a/../../out.json", "a\\..\\out.json", ".hidden.json", "a/b/c/d.json",
     "code.py", "weights.pt", "w.PKL", "face.safetensors/x.json", "new\nline.json", "长.json", "x" * 300 + ".json"],
)  # fmt: skip
def test_a_place_where_no_file_of_an_avatar_stands(packed, home, name):
    refused(with_files(packed, {name: b"{}"}), home)
    assert not Path("/tmp/out.json").exists()


def test_a_link_becomes_no_link(packed, home, tmp_path):
    link = zipfile.ZipInfo("poster.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    folder = import_avatar(packed, "linked")
    assert not (folder / "poster.jpg").is_symlink() and (folder / "poster.jpg").read_bytes() == b"/etc/passwd"
    assert picture_of(folder / "poster.jpg", (64, 64)) is None


def test_a_name_given_twice(packed, home):
    with pytest.warns(UserWarning, match="Duplicate"):
        with_files(packed, {"avatar.json": b"{}"})
    refused(packed, home)


def rebuilt(packed: Path, change) -> Path:
    """The archive with its files changed in a folder."""
    folder = packed.with_suffix("")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder)
    change(folder)
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
    return packed


CONFIGS = ("head_generator/config.json", "emotion_mapping/config.json")
IMPOSSIBLE = (0, -1, 1, 7, 65_536, 2**62, 3.5, "x", None, [], [0], [65_536] * 3, [8] * 5000, True, {"a": 1})


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_with_any_number_is_taken_or_refused(packed, home, config, tiny_pipeline):
    with zipfile.ZipFile(packed) as archive:
        options = [name for name in json.loads(archive.read(config)) if not name.startswith("_")]
    original = packed.read_bytes()
    for option in options:
        for value in IMPOSSIBLE:

            def change(folder: Path, option=option, value=value) -> None:
                written = json.loads((folder / config).read_text())
                (folder / config).write_text(json.dumps(written | {option: value}))

            packed.write_bytes(original)
            rebuilt(packed, change)
            began = time.monotonic()
            try:
                folder = import_avatar(packed, "stranger")
                tiny_pipeline.still(str(folder))
                shutil.rmtree(folder)
            except UnusableInput as error:
                assert str(error), (option, value)
                shutil.rmtree(home / "avatars" / "stranger", ignore_errors=True)
            assert time.monotonic() - began < SECONDS_MAX, (option, value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("tensor", ["neutral_shape", "crop", "motion_mean", "motion_scale", "reference_points", "source_size"])
def test_a_face_of_impossible_numbers_is_drawn_or_refused(packed, home, tiny_pipeline, tensor, value):
    def change(folder: Path) -> None:
        tensors = load_file(folder / "face.safetensors")
        tensors[tensor] = np.full_like(tensors[tensor], value)
        save_file(tensors, folder / "face.safetensors")

    began = time.monotonic()
    try:
        folder = import_avatar(rebuilt(packed, change), "stranger")
        tiny_pipeline.still(str(folder))
    except UnusableInput as error:
        assert str(error)
    assert time.monotonic() - began < SECONDS_MAX


@pytest.mark.parametrize("header", [b"\xff" * 8, struct.pack("<Q", 2**40), struct.pack("<Q", 10) + b"{" * 10, b""])
def test_a_header_that_lies(packed, home, header):
    def change(folder: Path) -> None:
        (folder / "face.safetensors").write_bytes(header)

    refused(rebuilt(packed, change), home, "broken|missing")


def test_tensors_that_claim_more_than_the_file_holds(packed, home):
    head = json.dumps({"crop": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()

    def change(folder: Path) -> None:
        (folder / "face.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)

    refused(rebuilt(packed, change), home, "broken|missing")


def idle_loop(folder: Path, crop: list[float]) -> Path:
    with VideoWriter(folder / "idle.mp4", 64, 64) as writer:
        for _ in range(5):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    tensors = {"shoulders": np.zeros((5, 4), np.float32), "crop": np.array(crop, np.float32)}
    save_file(tensors, folder / "idle.safetensors")
    return folder


@pytest.mark.parametrize("crop", [[0, 0, 1e9], [0, 0, np.inf], [0, 0, np.nan], [-1e12, 0, 64], [np.nan, 0, 64]])
def test_footage_with_an_impossible_crop(tmp_path, crop):
    with pytest.raises(UnusableAvatar, match="footage"):
        IdleLoop.load(idle_loop(tmp_path, crop))
    assert len(IdleLoop.load(idle_loop(tmp_path, [0, 0, 64])).pictures) == 5


def test_a_picture_that_unfolds_to_gigabytes_is_not_shown(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "bomb.jpg")
    data = bytearray((tmp_path / "bomb.jpg").read_bytes())
    place = data.find(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", 65_000, 65_000)
    (tmp_path / "bomb.jpg").write_bytes(data)
    assert picture_of(tmp_path / "bomb.jpg", (64, 64)) is None
    picture = zlib.compress(b"x")
    (tmp_path / "no.jpg").write_bytes(picture)
    assert picture_of(tmp_path / "no.jpg", (64, 64)) is None
