"""Avatars are data: names, checks, writing whole or not at all, one file out and in."""

import json
import os
import shutil
import unicodedata
import zipfile

import pytest
import torch
from conftest import CONSENT
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gmtalker.avatars.ready import load_avatar
from gmtalker.avatars.storage import delete_avatar, export_avatar, find_avatar, import_avatar, list_avatars, write_avatar
from gmtalker.avatars.workspace import clean_name, slug
from gmtalker.errors import UnusableAvatar, UnusableInput

NAMES = st.text(min_size=1, max_size=60).filter(lambda text: text.strip() and " ".join(text.split()).isprintable())
WEIGHTS = "diffusion_pytorch_model.safetensors"


def own() -> list:
    return [entry for entry in list_avatars() if not entry.bundled]


@given(NAMES, NAMES)
def test_two_names_never_share_a_folder(one, other):
    try:
        one, other = clean_name(one), clean_name(other)
    except ValueError:
        return
    assert (slug(one) == slug(other)) == (one == other)


@given(NAMES)
def test_a_folder_is_safe_on_every_file_system(name):
    try:
        folder = slug(name)
    except ValueError:
        return
    assert folder.isascii() and folder == folder.lower() and len(folder) < 60
    assert not set(folder) - set("abcdefghijklmnopqrstuvwxyz0123456789-") and not folder.startswith("-")


def test_names_that_could_collide_do_not():
    tricky = ["s1", "S1", "s-1", "s 1", "s_1", "s1-0123456789", "../s1", "/etc", "con"]
    tricky += ["李雷", "韩梅梅", "Zoë", "Zoe", 'a"b', "a'b"]
    assert len({slug(name) for name in tricky}) == len(tricky)
    assert slug(slug("S1")) != slug("S1")  # a name that looks like another name's folder gets a folder of its own
    assert slug(unicodedata.normalize("NFD", "Zoë")) == slug(unicodedata.normalize("NFC", "Zoë"))


@pytest.mark.parametrize("name", ["", "  ", "a" * 81, "two\0", "bell\x07"])
def test_a_name_that_cannot_be_shown_is_refused(name):
    with pytest.raises(ValueError, match="printable"):
        slug(name)


def test_an_avatar_is_found_by_name_by_folder_and_by_its_odd_name(home, avatar_folder):
    with write_avatar("Zoë's „test“ 1") as folder:
        fill(folder, avatar_folder, "Zoë's „test“ 1")
    assert [entry.name for entry in own()] == ["Zoë's „test“ 1"]
    avatar = load_avatar("Zoë's „test“ 1")
    assert avatar.folder == own()[0].folder == find_avatar(str(avatar.folder)) and avatar.speaking_style is None
    assert not avatar.head_generator.training
    assert load_avatar(avatar_folder).name == "tiny"


def test_a_missing_avatar_names_those_there_are_and_the_hub_is_named(tiny_avatar, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnusableAvatar, match="no avatar 'nobody'.*tiny"):
        load_avatar("nobody")
    with pytest.raises(UnusableInput, match="Hub"):
        load_avatar("owner/avatar")


def test_a_half_written_avatar_never_appears(home, avatar_folder):
    with pytest.raises(RuntimeError), write_avatar("half") as folder:
        fill(folder, avatar_folder, "half")
        raise RuntimeError("the training died")
    with pytest.raises(UnusableAvatar, match="incomplete"), write_avatar("half") as folder:
        fill(folder, avatar_folder, "half")
        (folder / "face.safetensors").unlink()
    assert own() == [] and list((home / "avatars").iterdir()) == []


def test_a_taken_name_is_refused_and_replaced_when_asked(tiny_avatar, avatar_folder):
    with pytest.raises(UnusableAvatar, match="already"), write_avatar("tiny"):
        pytest.fail("the block must not run")
    with write_avatar("tiny", replace=True) as folder:
        fill(folder, avatar_folder, "tiny", measures={"psnr": 30.0})
    assert [entry.card["measures"] for entry in own()] == [{"psnr": 30.0}]


def test_deleting_leaves_nothing_and_the_bundled_stay(tiny_avatar, home, avatar_folder):
    delete_avatar("tiny")
    assert list((home / "avatars").iterdir()) == []
    with pytest.raises(UnusableAvatar, match="workspace"):
        delete_avatar(str(avatar_folder))
    assert avatar_folder.exists()


@pytest.mark.parametrize("name", ["head_generator/old.bin", "run.PY", "emotion_mapping/w.pt", "x.pkl", "speaking_style/a.ckpt"])
def test_a_file_that_can_run_code_is_refused(tiny_avatar, home, name):
    path = home / "avatars" / "tiny" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(UnusableAvatar, match="can run code"):
        load_avatar("tiny")


def test_a_link_is_refused(tiny_avatar, home, tmp_path):
    (home / "avatars" / "tiny" / "poster.jpg").symlink_to(tmp_path)
    with pytest.raises(UnusableAvatar, match="link"):
        load_avatar("tiny")


@pytest.mark.parametrize("part", ["head_generator", "emotion_mapping"])
def test_a_missing_and_an_unknown_weight_are_errors(tiny_avatar, home, part):
    path = home / "avatars" / "tiny" / part / WEIGHTS
    weights = load_file(path)
    save_file(weights | {"stranger": torch.zeros(2)}, path)
    with pytest.raises(UnusableAvatar, match="stranger"):
        load_avatar("tiny")
    save_file(dict(list(weights.items())[1:]), path)
    with pytest.raises(UnusableAvatar, match="lacks"):
        load_avatar("tiny")


@pytest.mark.parametrize(
    "card",
    [
        "not json",
        "[]",
        json.dumps({"consent": CONSENT}),
        json.dumps({"name": "x"}),
        json.dumps({"name": "x", "consent": {"who": "me"}}),
        json.dumps({"name": "x", "consent": CONSENT, "measures": [1]}),
        json.dumps({"name": "a\nb\0", "consent": CONSENT}),
        "[" * 100_000,
    ],
)
def test_a_broken_card_is_one_sentence_and_not_in_the_list(tiny_avatar, home, card):
    (home / "avatars" / "tiny" / "avatar.json").write_text(card)
    assert own() == []
    with pytest.raises(UnusableAvatar) as caught:
        load_avatar(str(home / "avatars" / "tiny"))
    assert "\n" not in str(caught.value)


def test_export_and_import_give_the_same_avatar(tiny_avatar, tmp_path):
    packed = export_avatar("tiny", tmp_path / "with a 'quote'.zip")
    with pytest.raises(UnusableAvatar, match="already"):
        import_avatar(packed)
    folder = import_avatar(packed, name="Twin")
    assert find_avatar("Twin") == folder
    one, other = load_avatar("tiny"), load_avatar("Twin")
    assert other.card == one.card | {"name": "Twin"}
    state = other.head_generator.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.head_generator.state_dict().items())
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize(
    "name", ["../escaped.json", "/escaped.json", "a/../../escaped.json", "c:\\escaped.json", "run.py", ".hidden", "a/b/c/d.json"]
)
def test_an_archive_can_not_leave_its_folder_or_bring_code(tiny_avatar, tmp_path, home, name):
    packed = export_avatar("tiny", tmp_path / "a.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, "{}")
    before = sorted(path.name for path in (home / "avatars").iterdir())
    with pytest.raises(UnusableAvatar, match="not an exported avatar"):
        import_avatar(packed, name="evil")
    assert sorted(path.name for path in (home / "avatars").iterdir()) == before
    assert not list(tmp_path.parent.glob("**/escaped.json"))


def test_what_is_no_archive_is_one_sentence(home, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no zip at all")
    for path in (tmp_path / "a.zip", tmp_path / "missing.zip", tmp_path):
        with pytest.raises(UnusableAvatar, match="not an exported avatar"):
            import_avatar(path)


def fill(folder, source, name, **card):
    shutil.copytree(source, folder, dirs_exist_ok=True)
    known = json.loads((source / "avatar.json").read_text())
    (folder / "avatar.json").write_text(json.dumps(known | {"name": name} | card), encoding="utf-8")


def test_what_was_left_half_written_long_ago_is_swept_away(home, avatar_folder):
    old, new = home / "avatars" / ".writing-old", home / "avatars" / ".pulling-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    with write_avatar("tiny") as folder:
        shutil.copytree(avatar_folder, folder, dirs_exist_ok=True)
    assert not old.exists() and new.exists()
