"""Every video that is made is signed and marked, and verify says what became of it."""

import json
import os
import shutil
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import c2pa
import numpy as np
import pytest
from conftest import write_speech
from media import ffmpeg

import gmtalker
from gmtalker.__main__ import main
from gmtalker.avatars.ready import load_avatar
from gmtalker.avatars.storage import rename_avatar
from gmtalker.errors import UnusableInput, UnusableVideo
from gmtalker.media.video import read_frames
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.provenance import credentials
from gmtalker.provenance.credentials import Seal, avatar_id, verify
from gmtalker.request import SpeakRequest


@pytest.fixture
def speech(tmp_path):
    return write_speech(tmp_path / "speech.wav", seconds=1.2)


@pytest.fixture(scope="module")
def bundled_video(tmp_path_factory):
    """Of the bundled avatar: the tiny one's pictures are noise too small for any mark."""
    folder = tmp_path_factory.mktemp("video")
    os.environ["GMTALKER_HOME"], before = str(folder / "home"), os.environ.get("GMTALKER_HOME")
    try:
        speech = write_speech(folder / "speech.wav", seconds=1.2)
        return GMTalkerPipeline.from_pretrained(device="cpu").speak(SpeakRequest(speech), folder / "made.mp4")
    finally:
        if before is None:
            del os.environ["GMTALKER_HOME"]
        else:
            os.environ["GMTALKER_HOME"] = before


@pytest.fixture
def video(bundled_video, home, tmp_path):
    """A copy of it in a workspace that did not sign it."""
    return Path(shutil.copy(bundled_video, tmp_path / "a vidéo.mp4"))


def test_a_video_names_its_avatar_and_is_valid_to_c2pas_own_reader(video):
    found, card = verify(video), load_avatar().card
    assert (found.credentials, found.marked, found.avatar, found.avatar_id) == ("valid", True, card["name"], avatar_id(card))
    with open(video, "rb") as file:
        reader = c2pa.Reader("video/mp4", file)
        assert str(reader.get_validation_state()).lower() in ("valid", "trusted")
        manifest = reader.get_active_manifest()
    actions = next(x["data"]["actions"] for x in manifest["assertions"] if x["label"].startswith("c2pa.actions"))
    assert manifest["claim_generator_info"][0]["version"] == gmtalker.__version__
    assert actions[0]["action"] == "c2pa.created" and actions[0]["digitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert "AI-generated" in found.sentence() and card["name"] in found.sentence()


def test_the_bundled_preview_says_whose_it_is(home):
    avatar = load_avatar()
    found = verify(avatar.folder / "preview.mp4")
    assert (found.credentials, found.marked, found.avatar_id) == ("valid", True, avatar_id(avatar.card))


def test_one_changed_byte_is_found(video):
    data = bytearray(video.read_bytes())
    data[len(data) // 2] ^= 1
    video.write_bytes(data)
    assert verify(video).credentials == "broken" and "changed" in verify(video).sentence()


def test_saved_again_it_is_stripped_but_still_marked(video, tmp_path):
    ffmpeg("-i", video, "-c", "copy", tmp_path / "copied.mp4")
    found = verify(tmp_path / "copied.mp4")
    assert (found.credentials, found.marked, found.avatar) == ("none", True, load_avatar().name)
    assert "stripped" in found.sentence()


def test_a_renamed_avatar_keeps_its_id(tiny_avatar):
    before = avatar_id(load_avatar(tiny_avatar).card)
    assert avatar_id(load_avatar(rename_avatar(tiny_avatar, "Another Name")).card) == before


def test_an_id_is_the_avatars_own_whatever_the_programs_version(monkeypatch):
    card = {"name": "x", "consent": {"who": "A", "when": "B", "words": "C"}, "versions": {"gmtalker": "0.1.0"}, "measures": {}}
    assert avatar_id(card) == "76ce1db82e"
    monkeypatch.setattr("gmtalker.__version__", "9.9")
    monkeypatch.setattr("gmtalker.provenance.credentials.__version__", "9.9")
    assert avatar_id(card | {"name": "y", "measures": {"psnr": 30.0}, "hub": {"repo": "a/b"}}) == avatar_id(card)
    assert avatar_id(card | {"versions": {}}) != avatar_id(card)


def test_a_video_of_elsewhere_says_nothing(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration=1", "-pix_fmt", "yuv420p", tmp_path / "other.mp4")
    found = verify(tmp_path / "other.mp4")
    assert (found.credentials, found.marked, found.avatar_id) == ("none", False, None)
    with pytest.raises(UnusableVideo, match="does not exist"):
        verify(tmp_path / "nothing.mp4")


def test_key_and_certificate_are_made_once_and_kept_from_others(home):
    Seal({"name": "x", "consent": {}, "versions": {}})
    key = home / "provenance" / "key.pem"
    assert key.stat().st_mode & 0o077 == 0 or os.name == "nt"
    before = key.read_bytes()
    Seal({"name": "x", "consent": {}, "versions": {}})
    assert key.read_bytes() == before


def test_a_half_or_broken_pair_is_said_before_anything_is_drawn(tiny_pipeline, tiny_avatar, speech, home, tmp_path):
    folder = home / "provenance"
    folder.mkdir(parents=True)
    (folder / "key.pem").write_text("no key")
    with pytest.raises(UnusableInput, match="certificate.pem"):
        tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "out.mp4")
    (folder / "certificate.pem").write_text("no certificate")
    with pytest.raises(UnusableInput, match="No video can be signed"):
        tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    shutil.rmtree(folder)


def test_a_label_is_seen_and_repeated_by_the_command(tiny_pipeline, tiny_avatar, speech, tmp_path):
    request = SpeakRequest(speech, tiny_avatar, label=True)
    assert request.command().endswith("--label")
    plain = next(read_frames(tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "plain.mp4")))
    shown = next(read_frames(tiny_pipeline.speak(request, tmp_path / "shown.mp4")))
    changed = np.abs(shown.astype(int) - plain).max(2) > 60
    assert changed[-12:].any() and not changed[: shown.shape[0] // 2].any()


def put_pair(home: Path, since: timedelta, until: timedelta) -> None:
    """A pair of ours that is valid between two moments, told from now."""
    folder, now = home / "provenance", datetime.now(timezone.utc)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in zip(("certificate.pem", "key.pem"), credentials._new_pair(now + since, now + until)):
        (folder / name).write_bytes(data)


CARD_OF_NOBODY = {"name": "x", "consent": {}, "versions": {}}


@pytest.mark.parametrize(("since", "until"), [(400, 4000), (-4000, -10)])
def test_a_pair_that_was_made_while_the_clock_was_wrong_is_renewed(home, video, since, until):
    put_pair(home, timedelta(days=since), timedelta(days=until))
    before = (home / "provenance" / "key.pem").read_bytes()
    Seal(CARD_OF_NOBODY).sign(video)
    assert (home / "provenance" / "key.pem").read_bytes() != before
    assert verify(video).credentials == "valid" and verify(video).signed_here
    assert len(list(home.glob("provenance-until-*/key.pem"))) == 1, "the old one is kept"


def test_ones_own_certificate_out_of_its_dates_is_named_before_anything_is_drawn(home, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(credentials, "AUTHORITY", "A real authority")
        put_pair(home, timedelta(days=-20), timedelta(days=-10))
    with pytest.raises(UnusableInput, match=r"certificate\.pem is valid from .* to .*, and today is"):
        Seal(CARD_OF_NOBODY)


def test_a_video_whose_certificate_has_ended_since_is_not_called_changed(home, video):
    put_pair(home, timedelta(days=-2), timedelta(seconds=2.5))
    Seal(CARD_OF_NOBODY).sign(video)
    time.sleep(3)
    found = verify(video)
    assert found.credentials in ("valid", "outdated") and "was not changed" in found.sentence()


@pytest.mark.parametrize(
    ("codes", "credentials_are"),
    [
        (["signingCredential.expired"], "outdated"),
        (["signingCredential.untrusted", "claimSignature.outsideValidity"], "outdated"),
        (["signingCredential.expired", "assertion.dataHash.mismatch"], "broken"),
        (["signingCredential.invalid"], "broken"),
        ([], "broken"),
    ],
)
def test_dates_are_told_from_changes_by_what_c2pa_says(home, video, monkeypatch, codes, credentials_are):
    class Reader:
        """What c2pa says of a file: signing one with another clock is not for a test."""

        try_create = classmethod(lambda cls, kind, file: cls())
        get_validation_state = staticmethod(lambda: "Invalid")
        get_active_manifest = staticmethod(lambda: {"claim_generator_info": [{"name": "GMTalker Studio"}]})
        get_validation_results = staticmethod(lambda: {"activeManifest": {"failure": [{"code": code} for code in codes]}})

    monkeypatch.setattr(c2pa, "Reader", Reader)
    assert verify(video).credentials == credentials_are


def test_who_signed_is_told_apart(home, video):
    Seal(CARD_OF_NOBODY).sign(video)
    assert "signed by this workspace" in verify(video).sentence()
    shutil.rmtree(home / "provenance")
    found = verify(video)
    assert found.credentials == "valid" and not found.signed_here and "does not know" in found.sentence()


def test_verify_tells_a_script_by_its_exit_code(video, tmp_path, capsys):
    data = bytearray(video.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed.mp4").write_bytes(data)
    ffmpeg("-i", video, "-c", "copy", tmp_path / "stripped.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration=1", "-pix_fmt", "yuv420p", tmp_path / "other.mp4")
    codes = [main(["verify", str(tmp_path / f"{name}.mp4")]) for name in ("changed", "stripped", "other")]
    assert [main(["verify", str(video)]), *codes] == [0, 4, 4, 3]


def test_verify_on_the_command_line(video, capsys):
    assert main(["verify", str(video), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["credentials"] == "valid" and told["marked"] and told["sentence"].startswith("AI-generated")
    assert main(["verify", str(video.with_name("missing.mp4"))]) == 1
    assert "does not exist" in capsys.readouterr().err
