"""From clips to an avatar that speaks, in seconds of training: every part is there, held-out frames stay held out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from gmtalker.avatars.ready import load_avatar
from gmtalker.avatars.storage import list_avatars
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.media.video import read_frames
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import ignore_progress
from personalize import benchmark, person_head, train
from personalize.benchmark import compare_heads
from personalize.consent import Consent
from personalize.footage import held_out_frames
from personalize.progress import TRAINING_CURVE, TRAINING_STRIP, TrainingProgress
from personalize.request import REQUEST_FILE, TrainRequest
from personalize.speaking_style import StyleReport
from personalize.train import train_avatar
from tests.media import babble, bundled_clip, ffmpeg, real_clip, write_clip

SPEAKING, SILENT = bundled_clip("preview.mp4"), bundled_clip("idle.mp4")


@pytest.fixture(scope="module")
def pipeline() -> GMTalkerPipeline:
    return GMTalkerPipeline.from_pretrained()


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory) -> Iterator[Path]:
    """One workspace for all of them: a training takes most of a minute."""
    folder = tmp_path_factory.mktemp("trained") / "home of “tests”"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GMTALKER_HOME", str(folder))
        yield folder


def request_of(name, *clips, minutes=0.05, **options):
    return TrainRequest(name, clips, Consent.given_now(options.pop("who", name)), minutes=minutes, **options)


@pytest.fixture(scope="module")
def ann(home, pipeline):
    """An avatar of a clip that is labelled happy. Returns: its folder; what was asked for; what was told."""
    request = request_of("Ann’s “first”", SPEAKING, who="Ann O'Nymous", minutes=0.1, emotions={SPEAKING: "happy"})
    reports: list = []
    return train_avatar(request, reports.append, pipeline), request, reports


def test_a_clip_becomes_an_avatar_that_speaks(home, ann, pipeline):
    folder, request, reports = ann
    card = json.loads((folder / "avatar.json").read_text(encoding="utf-8"))
    assert card["consent"]["who"] == "Ann O'Nymous" and card["source"]["held_out_seconds"] > 0
    assert card["measures"]["psnr"] > 25 and card["measures"]["frames"] == round(card["source"]["held_out_seconds"] * 25)
    assert card["source"]["emotions_seen"]["happy"] == 1.0 and card["source"]["labelled_emotions"] == ["happy"]
    assert card["training"]["minutes"] == 0.1 and card["training"]["preset"] == "standard"
    for name in ("poster.jpg", "emotions.jpg", "preview.mp4", "README.md", "speaking_style", "idle.mp4", "behind.mp4"):
        assert (folder / name).exists()
    check_progress(reports)
    work = home / "training" / folder.name
    assert {path.name for path in work.iterdir()} == {REQUEST_FILE, TRAINING_STRIP, TRAINING_CURVE}
    assert TrainRequest.load(work / REQUEST_FILE) == request

    avatar = load_avatar("Ann’s “first”")
    whole = next(iter(pipeline(babble(0.5).astype(np.float32), avatar, full_frame=True)))
    assert avatar.has_matte and whole.shape[:2] == tuple(card["source"]["picture"][::-1])
    performance = pipeline(babble(1.0).astype(np.float32), avatar, emotion={"happy": 0.8}, seed=3)
    first, again = list(performance), list(performance)
    assert len(first) == 25 and all(np.array_equal(a, b) for a, b in zip(first, again))
    assert avatar.motion_habits.blinks == pytest.approx(avatar.card["source"]["movement"]["blinks_a_minute"], abs=0.06)
    still = pipeline.still(avatar)
    assert np.abs(still.astype(int) - avatar.face.reference.astype(int)).mean() < 25  # it is this person


def check_progress(reports):
    """The percentage rises to 100, time left and steps are known while training, and the stages come in order."""
    percents = [report.percent for report in reports if report.percent is not None]
    assert percents == sorted(percents) and percents[-1] == 100
    head = [report for report in reports if report.stage == "training the head"]
    assert any("its" in report.figures and "step" in report.figures for report in head)
    assert all(report.seconds_left >= 0 for report in head if report.seconds_left is not None)
    assert list(dict.fromkeys(report.stage for report in reports)) == [
        "finding the face", "cropping the head", "learning how hair and shoulders move", "learning the speaking style",
        "training the head", "measuring", "pictures of the avatar", "done",
    ]  # fmt: skip
    assert "held_out_psnr" in reports[-1].figures and reports[-1].to_json()["percent"] == 100


def test_unseen_emotions_still_look_like_the_person(ann, pipeline):
    avatar = load_avatar(ann[0])
    neutral = pipeline.still(avatar).astype(int)
    for emotion in EMOTIONS[1:]:
        assert np.abs(pipeline.still(avatar, {emotion: 1.0}) - neutral).mean() < 20


@pytest.fixture(scope="module")
def footage(pipeline, tmp_path_factory):
    """A silent clip without a label and a labelled one with speech, at different sizes."""
    request = request_of("two", SILENT, SPEAKING, emotions={SPEAKING: "happy"})
    work, reports = tmp_path_factory.mktemp("work"), []
    return train.gather_footage(request, pipeline, work, TrainingProgress(reports.append)), request, work


def test_clips_become_one_footage(footage, pipeline, monkeypatch):
    gathered, request, work = footage
    count = len(gathered.track)
    assert gathered.clip_starts == [0, 125] and count == 250 and gathered.seconds == 10.0
    assert gathered.frames.shape == (250, 256, 256, 3) and gathered.frame_numbers.tolist() == list(range(250))
    assert not gathered.speaks[:125].any() and gathered.speaks[125:].all() and (gathered.features[:125] == 0).all()
    assert set(gathered.labels[:125]) == {-1} and set(gathered.labels[125:]) == {EMOTIONS.index("happy")}
    assert (gathered.emotion[125:, EMOTIONS.index("happy")] == 1).all()
    assert gathered.held_out.nonzero()[0].tolist() == [*range(113, 125), *range(238, 250)]  # a tenth, at the end of each
    spoken = gathered.spoken(pipeline.lip_guard)
    assert not spoken.usable[:125].any() and not spoken.usable[238:].any() and spoken.usable[125:238].all()

    monkeypatch.setattr("personalize.footage.track_points", lambda *_: pytest.fail("tracked again"))  # the work folder keeps it
    again = train.gather_footage(request, pipeline, work, TrainingProgress(ignore_progress))
    assert torch.equal(again.track.motion.stacked(), gathered.track.motion.stacked())


def test_the_picture_is_learned_from_one_room(pipeline, tmp_path):
    dark = write_clip(tmp_path / "evening.mp4", [frame // 3 for frame in read_frames(SILENT)][:60])
    reports: list = []
    gathered = train.gather_footage(request_of("two rooms", dark, SPEAKING), pipeline, tmp_path, TrainingProgress(reports.append))
    assert gathered.clips == [SPEAKING, dark] and gathered.clip_starts == [0, 125] and len(gathered.track) == 185
    assert gathered.frame_numbers.tolist() == list(range(125)) and gathered.frames[:, :40].mean() > 80
    said = [report.message for report in reports if report.message]
    assert any("2 looks" in message and "preview.mp4 alone" in message for message in said)

    asked = request_of("two rooms", dark, SPEAKING, look=dark)
    gathered = train.gather_footage(asked, pipeline, tmp_path, TrainingProgress(ignore_progress))
    assert gathered.clips == [dark, SPEAKING] and gathered.frame_numbers.tolist() == list(range(60))
    assert gathered.frames[:, :40].mean() < 60 and gathered.face.source_size.tolist() == [360, 288]


def test_of_long_footage_the_sharp_frames_of_every_appearance_are_kept(footage, pipeline, monkeypatch):
    gathered, request, work = footage
    monkeypatch.setattr("personalize.footage.TRAINING_FRAMES_MAX", 60)
    reports = []
    chosen = train.gather_footage(request, pipeline, work, TrainingProgress(reports.append))
    assert len(chosen.frames) == len(chosen.frame_numbers) == 60 and len(chosen.track) == 250
    assert np.array_equal(chosen.frames, gathered.frames[chosen.frame_numbers])
    assert any("60 of 250 frames" in report.message for report in reports)


def test_silent_clip_trains_the_picture_and_says_so(tmp_path, pipeline):
    reports: list = []
    clip = write_clip(tmp_path / "quiet.mp4", list(read_frames(SILENT))[:76])  # the shortest that is taken
    folder = train_avatar(request_of("quiet", clip), reports.append, pipeline)
    assert not (folder / "speaking_style").exists()
    assert any("not the speaking style" in report.message for report in reports)
    assert load_avatar(folder).speaking_style is None


def test_no_face_leaves_no_avatar(home, tmp_path, pipeline):
    before = [entry.name for entry in list_avatars()], sorted((home / "avatars").glob("*"))
    grey = write_clip(tmp_path / "grey.mp4", [np.full((96, 128, 3), 90, np.uint8)] * 60)
    with pytest.raises(UnusableInput, match="No face"):
        train_avatar(request_of("nobody", grey), pipeline=pipeline)
    assert ([entry.name for entry in list_avatars()], sorted((home / "avatars").glob("*"))) == before


def test_the_end_of_every_clip_is_held_out():
    """Of clips with a label each, the last one may show an emotion that no other does: it is learned from, too."""
    held_out = held_out_frames([0, 100, 300], 400)
    assert held_out.nonzero()[0].tolist() == [*range(90, 100), *range(280, 300), *range(390, 400)]
    long = held_out_frames([0, 5000], 10000)
    assert long.sum() == 500 and not long[:4750].any() and long[4750:5000].all() and long[9750:].all()


def test_held_out_frames_are_never_drawn_for_training(pipeline, monkeypatch):
    used = {}

    def spy(training, people, held_out, options, hooks):
        used["train"], used["held out"] = people[0].frames, held_out[0].frames
        raise KeyboardInterrupt

    monkeypatch.setattr(person_head, "train_head", spy)
    monkeypatch.setattr(train, "adapt_style", lambda *arguments: StyleReport((), None, None))
    with pytest.raises(KeyboardInterrupt):
        train_avatar(request_of("h", SPEAKING, minutes=0.1), pipeline=pipeline)
    learned, held = (torch.from_numpy(frames.reshape(len(frames), -1).astype(np.int16)) for frames in used.values())
    assert len(learned) + len(held) >= 110
    assert min(int((learned - row).abs().sum(1).min()) for row in held) > 0


def test_two_heads_are_compared_on_the_same_footage(pipeline, monkeypatch, tmp_path):
    monkeypatch.setitem(benchmark.REFERENCE_WIDTHS, 256, (4, 4, 4, 4, 4))
    result = compare_heads([SPEAKING], 0.05, pipeline, picture=tmp_path / "c.png")
    curves = result["seconds_and_held_out_psnr"]
    assert set(curves) == {"ours", "reference"} and all(10 < curve[-1][1] < 60 for curve in curves.values())
    assert result["ours_better_by_db"] == pytest.approx(curves["ours"][-1][1] - curves["reference"][-1][1], abs=0.02)
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_a_real_person_is_drawn_well(tmp_path, pipeline):
    """The bundled clips show an avatar or a still face; this one a person who talks."""
    ffmpeg("-i", real_clip("av/vrt2.mp4"), "-t", 5, "-vf", "scale=-2:400", tmp_path / "talks.mp4")
    folder = train_avatar(request_of("real", tmp_path / "talks.mp4", minutes=0.1), pipeline=pipeline)
    card = json.loads((folder / "avatar.json").read_text(encoding="utf-8"))
    assert card["measures"]["psnr"] > 25 and (folder / "speaking_style").exists()
