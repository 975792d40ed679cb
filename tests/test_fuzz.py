"""Inputs drawn by chance: each is taken or refused with one sentence and the right exit code, and leaves nothing behind.

Every change draws a few; `make fuzz` draws 500 of each, and writes the slowest into build/fuzz.jsonl.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import write_speech
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from media import bundled_clip, ffmpeg, write_wav

import gmtalker.__main__ as gmtalker_command
import personalize.__main__ as personalize_command
from gmtalker.avatars.storage import export_avatar, import_avatar, list_avatars
from gmtalker.clock import EMOTIONS, FPS
from gmtalker.emotion_script import timeline_of_script
from gmtalker.errors import UnusableInput
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.request import SpeakRequest
from gmtalker.tracks import EmotionKey
from personalize.check_sound import synchrony
from studio.spacefile import Spacefile

MANY = int(os.environ.get("FUZZ", "0"))
BUILD = Path(__file__).resolve().parent.parent / "build"
SECONDS_MAX = 60.0  # for one input: longer is a hang


def drawn(few: int, share: float = 1.0):
    """Settings for a test: `few` inputs, or with FUZZ that share of so many; those of one run are those of the next."""
    return settings(
        max_examples=max(1, round(share * MANY)) if MANY else few,
        deadline=None,
        derandomize=not MANY,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a found input is shown as it is: making it smaller takes minutes
    )


@contextmanager
def timed(what: str, shown: object) -> Iterator[None]:
    """Note how long an input took; too long is a failure."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    if MANY:
        BUILD.mkdir(exist_ok=True)
        with (BUILD / "fuzz.jsonl").open("a") as file:
            file.write(json.dumps({"what": what, "seconds": round(took, 2), "input": str(shown)[:300]}) + "\n")
    assert took < SECONDS_MAX, f"{shown} took {took:.0f} seconds"


def run(main, arguments: list[str], capsys, codes: tuple[int, ...]) -> int:
    """The exit code of a command, which must be one of these; failures say one sentence, and none is the program's own."""
    try:
        code = main(arguments)
    except SystemExit as error:  # argparse
        code = error.code
    out, err = capsys.readouterr()
    assert code in codes, (code, err)
    assert "Traceback" not in err + out and "went wrong inside" not in err + out, err
    if code:
        assert (err + out).strip(), "a failure is told"
    return code


# --- Uploads -------------------------------------------------------------------------------------------------------------------

# Containers with codecs that they hold.
FILMS = {
    ".mp4": (["libx264", "mpeg4", "libx265"], ["aac", "mp3", "alac"]),
    ".mov": (["libx264", "prores_ks", "mjpeg"], ["aac", "pcm_s16le"]),
    ".mkv": (["libx264", "ffv1", "mpeg2video", "libvpx"], ["flac", "libopus", "ac3", "pcm_f32le", "libvorbis"]),
    ".webm": (["libvpx", "libvpx-vp9"], ["libopus", "libvorbis"]),
    ".avi": (["mpeg4", "mjpeg", "libx264"], ["mp3", "pcm_s16le", "ac3"]),
    ".ts": (["libx264", "mpeg2video"], ["aac", "ac3", "mp2"]),
    ".mpg": (["mpeg2video", "mpeg1video"], ["mp2"]),
    ".flv": (["libx264", "flv"], ["aac", "mp3"]),
    ".wmv": (["wmv2", "msmpeg4"], ["wmav2"]),
    ".3gp": (["h263", "libx264"], ["aac"]),
}
SOUNDS = {
    ".wav": ["pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_f32le", "pcm_mulaw", "adpcm_ima_wav"],
    ".mp3": ["libmp3lame"],
    ".m4a": ["aac", "alac"],
    ".ogg": ["libvorbis", "libopus", "flac"],
    ".flac": ["flac"],
    ".aiff": ["pcm_s16be"],
    ".aac": ["aac"],
    ".ac3": ["ac3"],
    ".wma": ["wmav2"],
}
CHANNELS = {1: "mono", 2: "stereo", 4: "quad", 6: "5.1"}


@dataclass(frozen=True)
class Upload:
    """A file: how it is made, and the damage done to it."""

    suffix: str
    picture: str | None
    sound: str | None
    size: tuple[int, int]
    fps: int
    rate: int
    channels: int
    seconds: float
    damage: tuple[tuple[str, float, int], ...]
    name: str


@st.composite
def uploads(draw, pictures: bool) -> Upload:
    suffix = draw(st.sampled_from(sorted(FILMS if pictures else SOUNDS)))
    codecs = FILMS[suffix] if pictures else ([None], SOUNDS[suffix])
    return Upload(
        suffix,
        draw(st.sampled_from(codecs[0])),
        draw(st.sampled_from([*codecs[1], None] if pictures else codecs[1])),
        draw(st.sampled_from([(352, 288), (176, 144), (320, 180), (288, 512), (16, 16), (640, 480)])),
        draw(st.sampled_from([25, 30, 10, 5, 60, 1])),
        draw(st.sampled_from([16_000, 8000, 44_100, 48_000])),
        draw(st.sampled_from(sorted(CHANNELS))),
        draw(st.sampled_from([0.04, 0.3, 1.0, 3.2])),
        tuple(
            draw(
                st.lists(
                    st.tuples(st.sampled_from(["flip", "zero", "cut", "drop", "repeat"]), st.floats(0, 1), st.integers(1, 5000)),
                    max_size=4,
                )
            )
        ),
        draw(st.sampled_from(["clip", "-a", "my film", "x" * 200, "长😀", "a'b\"c", "a;b&c", "%20", "no", "new\nline"])),
    )


def made(upload: Upload, folder: Path, bases: Path) -> Path | None:
    """The file; None for what ffmpeg itself does not make."""
    key = "-".join(
        map(str, (upload.picture, upload.sound, *upload.size, upload.fps, upload.rate, upload.channels, upload.seconds))
    )
    base = bases / f"{key}{upload.suffix}"
    if not base.exists():
        width, height = upload.size
        speech = write_wav(bases / "speech.wav", 0.2 * np.sin(np.arange(64_000) * 0.07) * (np.arange(64_000) // 3000 % 2))
        options = ["-t", upload.seconds]
        if upload.picture:
            options += ["-vf", f"scale={width}:{height},fps={upload.fps}", "-c:v", upload.picture, "-q:v", 4]
        if upload.sound:
            options += ["-c:a", upload.sound, "-ar", upload.rate, "-ac", upload.channels, "-strict", "-2"]
        inputs = [*(["-i", bundled_clip("idle.mp4")] if upload.picture else []), *(["-i", speech] if upload.sound else [])]
        try:
            ffmpeg(*inputs, *options, base)
        except Exception:  # noqa: BLE001 - this codec does not take that rate, or that size
            base.write_bytes(b"")
    data = bytearray(base.read_bytes())
    if not data:
        return None
    for kind, place, count in upload.damage:
        at = int(place * len(data))
        if kind == "flip":
            for index in range(at, min(at + count, len(data)), 97):
                data[index] ^= 0x5A
        elif kind == "zero":
            data[at : at + count] = bytes(min(count, max(len(data) - at, 0)))
        elif kind == "cut":
            del data[max(at, 16) :]
        elif kind == "drop":
            del data[at : at + count]
        else:
            data[at:at] = data[at : at + count]
    path = folder / f"{upload.name}{upload.suffix}"
    path.write_bytes(bytes(data))
    return path


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def tiny(tiny_generic) -> GMTalkerPipeline:
    return GMTalkerPipeline.from_pretrained(tiny_generic, device="cpu")


@given(upload=uploads(pictures=True))
@drawn(12, 0.5)
def test_any_clip_is_checked_or_refused(upload, tmp_path, bases, tiny, home, capsys, monkeypatch):
    monkeypatch.setattr("personalize.check_sound.SynchronyApart", lambda: nullcontext(partial(synchrony, stages=tiny.stages)))
    path = made(upload, tmp_path, bases)
    if path is None:
        return
    before = set(tmp_path.iterdir())
    with timed("clip", upload):
        run(personalize_command.main, ["check", str(path), "--json"], capsys, (0, 1))
    assert set(tmp_path.iterdir()) - {home} == before - {home}
    path.unlink()


@given(upload=uploads(pictures=False))
@drawn(15, 0.5)
def test_any_sound_is_spoken_or_refused(upload, tmp_path, bases, tiny, tiny_avatar, capsys, monkeypatch):
    monkeypatch.setattr("gmtalker.__main__.load_pipeline", lambda options: tiny)
    path, output = made(upload, tmp_path, bases), tmp_path / "out.mp4"
    if path is None:
        return
    before = set(tmp_path.iterdir())
    with timed("sound", upload):
        code = run(
            gmtalker_command.main,
            ["speak", "--avatar", "tiny", "--speech", str(path), "--output", str(output), "--json"],
            capsys,
            (0, 1),
        )
    made_files = {output, output.with_suffix(".request.json")} if code == 0 else set()
    assert set(tmp_path.iterdir()) - before == made_files
    for left in {path, *made_files}:
        left.unlink()


# --- Requests ------------------------------------------------------------------------------------------------------------------

numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(),
    st.floats(-1, 4),
    st.sampled_from(["", "x", "1e400", "-0", "½", "0x1"]),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
emotions = st.dictionaries(st.sampled_from([*EMOTIONS, "", "joy", "HAPPY"]), st.floats(-0.5, 1.5) | values, max_size=3)
keys = st.lists(st.fixed_dictionaries({"time": st.floats(-1, 20) | values, "emotion": emotions | values}) | values, max_size=5)


@st.composite
def options_of_speak(draw) -> list[str]:
    words = []
    for option in ("intensity", "seed", "head", "blink", "gaze"):
        if draw(st.booleans()):
            words.append(f"--{option}={draw(numbers)}")
    if draw(st.booleans()):
        words.append(f"--motion={draw(st.sampled_from(['own', 'still', 'lively', 'wild', '']))}")
    kind = draw(st.sampled_from(["none", "emotion", "timeline", "script"]))
    if kind == "emotion":
        text = ",".join(f"{name}={weight}" for name, weight in draw(emotions).items()) or draw(st.text(max_size=20))
        words.append(f"--emotion={text}")
    elif kind == "timeline":
        words.append(f"--timeline={json.dumps(draw(keys))}")
    elif kind == "script":
        words.append("--script=script.txt")
    others = ["--label", "--full-frame", "--nonsense", "--avatar=nobody", "--device=tpu"]
    return words + draw(st.lists(st.sampled_from(others), max_size=1))


TAGS = "[happy 0.8]", "[sad]", "[happy, sad 0.2]", "[joy]", "[happy nan]", "[happy inf]", "[]"
PARTS = (*TAGS, "[", "]", "words ", "。你好", "\n", "\0")
scripts = st.lists(st.sampled_from(PARTS) | st.text(max_size=12), max_size=8).map("".join)
FIELDS = (*SpeakRequest.__dataclass_fields__, "request", "other")


@given(words=options_of_speak(), script=scripts)
@drawn(40)
def test_any_options_are_done_or_refused(words, script, tmp_path, tiny, tiny_avatar, capsys, monkeypatch):
    monkeypatch.setattr("gmtalker.__main__.load_pipeline", lambda options: tiny)
    monkeypatch.chdir(tmp_path)
    write_speech(tmp_path / "speech.wav", 0.6)
    (tmp_path / "script.txt").write_text(script, encoding="utf-8", errors="replace")
    before = set(tmp_path.iterdir())
    with timed("options", words):
        run(
            gmtalker_command.main,
            ["speak", "--avatar=tiny", "--speech=speech.wav", "--output=out.mp4", *(word.replace("\0", "") for word in words)],
            capsys,
            (0, 1, 2),
        )
    for left in set(tmp_path.iterdir()) - before:
        assert left.name in ("out.mp4", "out.request.json")
        left.unlink()


@given(given_values=st.dictionaries(st.sampled_from(FIELDS), values, max_size=6))
@drawn(60)
def test_any_saved_request_is_read_or_refused(given_values, tmp_path, capsys):
    file = tmp_path / "wild.request.json"
    file.write_text(json.dumps({"request": "speak", "speech": "nobody.wav"} | given_values))
    with timed("saved request", given_values):
        code = run(gmtalker_command.main, ["speak", f"--request={file}", f"--output={tmp_path / 'o.mp4'}"], capsys, (1, 2))
    assert code == 1 and [left.name for left in tmp_path.iterdir()] == [file.name]


@given(text=st.binary(max_size=200))
@drawn(30)
def test_any_bytes_as_a_request_or_a_timeline_are_refused(text, tmp_path, capsys):
    file = tmp_path / "wild.json"
    file.write_bytes(text)
    speech = write_speech(tmp_path / "speech.wav", 0.6)
    spoken = f"--speech={speech}"
    for words in ([f"--request={file}"], [spoken, f"--timeline={file}"], [spoken, f"--script={file}"]):
        with timed("bytes", text):
            run(gmtalker_command.main, ["speak", "--avatar=nobody", *words, f"--output={tmp_path / 'o.mp4'}"], capsys, (1, 2))
    assert {left.name for left in tmp_path.iterdir()} == {"wild.json", "speech.wav"}


@given(script=scripts, silent=st.lists(st.booleans(), min_size=1, max_size=200))
@drawn(200)
def test_keys_of_any_script_are_in_order(script, silent):
    try:
        found = timeline_of_script(script, np.array(silent))
    except ValueError as error:
        assert str(error)
        return
    times = [key.time for key in found]
    assert times == sorted(times) and 0 <= times[-1] <= len(silent) / FPS + 1


@given(timeline=keys)
@drawn(200)
def test_any_timeline_is_read_or_refused(timeline):
    try:
        found = EmotionKey.read_all(timeline)
    except ValueError as error:
        assert str(error)
        return
    assert [key.to_json() for key in EmotionKey.read_all([key.to_json() for key in found])] == [key.to_json() for key in found]


# --- Avatar files, Spacefiles, films -------------------------------------------------------------------------------------------

damages = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), st.integers(1, 64)), min_size=1, max_size=5)


def damaged(data: bytes, damage: list[tuple[float, int, int]]) -> bytes:
    """Some bytes of it changed."""
    data = bytearray(data)
    for place, value, count in damage:
        at = int(place * (len(data) - 1))
        data[at : at + count] = bytes([value]) * len(data[at : at + count])
    return bytes(data)


@given(damage=damages, part=st.sampled_from(["archive", "avatar.json", "face.safetensors", "head_generator/config.json"]))
@drawn(40)
def test_any_avatar_file_is_taken_or_refused(damage, part, tmp_path, tiny_avatar, home):
    packed = export_avatar("tiny", tmp_path / "tiny.zip")
    if part == "archive":
        packed.write_bytes(damaged(packed.read_bytes(), damage))
    else:
        with zipfile.ZipFile(packed) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        files[part] = damaged(files[part], damage)
        with zipfile.ZipFile(packed, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    before = {entry.folder for entry in list_avatars()}
    try:
        with timed("avatar", (part, damage)):
            folder = import_avatar(packed, "wild")
        assert {entry.folder for entry in list_avatars()} - before == {folder}
        shutil.rmtree(folder)
    except (UnusableInput, ValueError) as error:
        assert str(error).strip()
        assert {entry.folder for entry in list_avatars()} == before
    assert not [left for left in (home / "avatars").iterdir() if left.name.startswith(".")]


spacefiles = values | st.dictionaries(st.sampled_from(sorted(Spacefile.model_fields)), values)


@given(text=st.text(max_size=100) | spacefiles.map(yaml.safe_dump))
@drawn(100)
def test_any_spacefile_is_read_or_refused(text, tmp_path):
    file = tmp_path / "Spacefile"
    file.write_text(text, encoding="utf-8", errors="replace")
    try:
        with timed("Spacefile", text):
            Spacefile.read(file)
    except UnusableInput as error:
        assert str(error).strip()


@pytest.fixture(scope="module")
def film(tiny, tiny_generic, avatar_folder, tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("film")
    tiny.speak(SpeakRequest(write_speech(folder / "speech.wav", 0.6), str(avatar_folder)), folder / "film.mp4")
    return (folder / "film.mp4").read_bytes()


@given(damage=damages)
@drawn(20)
def test_any_film_is_verified_or_refused(damage, film, tmp_path, capsys):
    path = tmp_path / "film.mp4"
    path.write_bytes(damaged(film, damage))
    with timed("film", damage):
        run(gmtalker_command.main, ["verify", str(path), "--json"], capsys, (0, 1, 3, 4))
