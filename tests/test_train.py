"""From a real clip to an avatar that speaks, in seconds of training: every part is there, held-out frames stay held out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import personalize.benchmark as head_comparison
from gmtalker.avatars.ready import load_avatar
from gmtalker.avatars.storage import list_avatars
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.media.video import read_frames
from gmtalker.pipeline import GMTalkerPipeline
from personalize.benchmark import compare_heads
from personalize.consent import Consent
from personalize.train import train_avatar
from tests.media import babble, real_clip, write_clip

pytestmark = pytest.mark.xdist_group("training")  # one at a time: each trains


@pytest.fixture(scope="module")
def pipeline() -> GMTalkerPipeline:
    return GMTalkerPipeline.from_pretrained()


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("GMTALKER_HOME", str(tmp_path / "home of “tests”"))
    return tmp_path


def test_a_clip_becomes_an_avatar_that_speaks(workspace, pipeline):
    told = []
    clip = real_clip("av/vrt2.mp4")
    consent = Consent.given_now("Ann O'Nymous")
    folder = train_avatar(
        [clip], "Ann’s “first”", consent, minutes=0.15, emotions={clip: "happy"}, report=told.append, pipeline=pipeline
    )
    card = json.loads((folder / "avatar.json").read_text(encoding="utf-8"))
    assert card["consent"]["who"] == "Ann O'Nymous" and card["source"]["held_out_seconds"] > 0
    assert card["measures"]["psnr"] > 25 and card["measures"]["frames"] == round(card["source"]["held_out_seconds"] * 25)
    assert card["source"]["emotions_seen"]["happy"] == 1.0
    for name in ("poster.jpg", "emotions.jpg", "preview.mp4", "README.md", "speaking_style"):
        assert (folder / name).exists()
    percents = [line["percent"] for line in told if "percent" in line]
    assert percents == sorted(percents) and percents[-1] == 100 and any("its" in line for line in told)
    avatar = load_avatar("Ann’s “first”")
    performance = pipeline(babble(1.0).astype(np.float32), avatar, emotion={"happy": 0.8}, seed=3)
    first, again = list(performance), list(performance)
    assert len(first) == 25 and all(np.array_equal(a, b) for a, b in zip(first, again))
    still = pipeline.still(avatar)
    assert np.abs(still.astype(int) - avatar.face.reference.astype(int)).mean() < 25  # it is this person


def test_unseen_emotions_still_look_like_the_person(workspace, pipeline):
    clip = real_clip("av/vrt2.mp4")
    folder = train_avatar([clip], "ann", Consent.given_now("ann"), minutes=0.15, emotions={clip: "neutral"}, pipeline=pipeline)
    avatar = load_avatar(folder)
    neutral = pipeline.still(avatar).astype(int)
    for emotion in EMOTIONS[1:]:
        assert np.abs(pipeline.still(avatar, {emotion: 1.0}) - neutral).mean() < 20


def test_silent_clip_trains_the_picture_and_says_so(workspace, pipeline):
    frames = [frame for _, frame in zip(range(60), read_frames(real_clip("av/vrt5.mp4")))]
    silent = write_clip(workspace / "silent one.mp4", frames)
    told = []
    folder = train_avatar([silent], "quiet", Consent.given_now("quiet"), minutes=0.05, report=told.append, pipeline=pipeline)
    assert not (folder / "speaking_style").exists()
    assert any("not the speaking style" in line.get("message", "") for line in told)
    assert load_avatar(folder).speaking_style is None


def test_no_face_leaves_no_avatar(workspace, pipeline):
    grey = write_clip(workspace / "grey.mp4", [np.full((96, 128, 3), 90, np.uint8)] * 60)
    with pytest.raises(UnusableInput, match="No face"):
        train_avatar([grey], "nobody", Consent.given_now("nobody"), minutes=0.05, pipeline=pipeline)
    assert [entry.name for entry in list_avatars() if not entry.bundled] == []
    left = [path for path in (workspace / "home of “tests”" / "avatars").glob("*")]
    assert left == []


def test_training_needs_consent_and_a_known_preset(workspace, pipeline):
    with pytest.raises(ValueError, match="consent"):
        train_avatar([], "x", None, pipeline=pipeline)
    with pytest.raises(ValueError, match="preset"):
        train_avatar([], "x", Consent.given_now("x"), preset="ultra", pipeline=pipeline)


def test_held_out_frames_are_never_drawn_for_training(workspace, pipeline, monkeypatch):
    import personalize.training as training

    seen = {}

    def spy(state, people, *, held_out, **options):
        seen["train"], seen["held"] = people[0].frames, held_out[0].frames
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_head", spy)
    monkeypatch.setattr(training, "adapt_style", lambda *arguments: None)
    with pytest.raises(KeyboardInterrupt):
        train_avatar([real_clip("av/vrt2.mp4")], "h", Consent.given_now("h"), minutes=0.1, pipeline=pipeline)
    train, held = (torch.from_numpy(seen[name].reshape(len(seen[name]), -1).astype(np.int16)) for name in ("train", "held"))
    assert len(train) + len(held) >= 110
    assert min(int((train - row).abs().sum(1).min()) for row in held) > 0


def test_two_heads_are_compared_on_the_same_footage(workspace, pipeline, monkeypatch, tmp_path):
    monkeypatch.setitem(head_comparison.REFERENCE_WIDTHS, 256, (4, 4, 4, 4, 4))
    result = compare_heads([real_clip("av/vrt2.mp4")], 0.05, pipeline, picture=tmp_path / "c.png")
    curves = result["seconds_and_held_out_psnr"]
    assert set(curves) == {"ours", "reference"} and all(10 < curve[-1][1] < 60 for curve in curves.values())
    assert result["ours_better_by_db"] == pytest.approx(curves["ours"][-1][1] - curves["reference"][-1][1], abs=0.02)
    assert (tmp_path / "c.png").stat().st_size > 1000
