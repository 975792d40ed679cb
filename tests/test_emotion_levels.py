"""Labelled clips: against a calm face, and as strong as they look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gmtalker.assets import GENERIC
from gmtalker.clock import EMOTIONS
from gmtalker.face.lip_guard import LipGuard
from gmtalker.face.model import FaceModel
from gmtalker.pretrain.corpus import Clip
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.emotion_levels import emotional_displacements, with_levels

ANGRY, HAPPY = EMOTIONS.index("angry"), EMOTIONS.index("happy")


@pytest.fixture(scope="module")
def guard() -> LipGuard:
    return LipGuard(FaceModel.load(GENERIC / "face_model"))


@pytest.fixture(scope="module")
def changes(guard) -> np.ndarray:
    """(8, 40) what each emotion changes at the full level, with closed lips."""
    import torch

    values = np.random.default_rng(0).normal(size=(len(EMOTIONS), 40))
    values[0] = 0
    return guard.closed(torch.tensor(values).float(), torch.tensor(1.0)).double().numpy()


def clip(person: str, emotion: str, face: np.ndarray, level: float = 1.0, graded: bool = True) -> Clip:
    row = Row(Path("set/x.mp4"), "set/x.mp4", "emotion", person, 1.0, True, emotion, "ok", level, graded=graded)
    frames = 30
    wobble = 0.01 * np.random.default_rng(1).normal(size=(frames, 40))
    expression = (face + wobble - wobble.mean(0)).astype(np.float32)
    return Clip(row, expression, np.zeros((frames, 10)), None, np.zeros(frames, bool), np.zeros((frames, 3), np.float32))


def actors(changes: np.ndarray) -> list[Clip]:
    """Four people with a neutral clip, who show everything."""
    return [clip(f"p{index}", name, changes[k]) for index in range(4) for k, name in enumerate(EMOTIONS)]


def test_the_displacement_is_what_people_share(changes):
    clips = actors(changes)
    displacements = emotional_displacements(clips, [each.expression.mean(0) for each in clips])
    found = displacements.emotions
    assert not displacements.people and np.allclose(found[0], 0, atol=0.05)
    for index in range(1, len(EMOTIONS)):
        assert np.corrcoef(found[index], changes[index])[0, 1] > 0.99
        assert 0.9 < np.linalg.norm(found[index]) / np.linalg.norm(changes[index]) <= 1


def test_what_another_cause_does_is_no_emotion(changes):
    """Angry clips in which lips open more than in others: the opening is told apart from the anger."""
    clips, opened = actors(changes), np.random.default_rng(3).normal(size=40)
    causes = np.random.default_rng(4).uniform(0, 1, (len(clips), 1)) + np.array([[each.row.emotion == "angry"] for each in clips])
    rows = [each.expression.mean(0) + cause * opened for each, cause in zip(clips, causes)]
    found = emotional_displacements(clips, rows, causes)
    assert np.corrcoef(found.causes[0], opened)[0, 1] > 0.97
    assert np.corrcoef(found.emotions[ANGRY], changes[ANGRY])[0, 1] > 0.97


def test_somebody_without_a_neutral_clip_is_moved_to_where_others_are_calm(changes, guard):
    """Measured against the mean of an angry and a happy face, neither looks like anything."""
    mean = (changes[ANGRY] + changes[HAPPY]) / 2
    lone = [clip("lone", "angry", changes[ANGRY] - mean), clip("lone", "happy", changes[HAPPY] - mean)]
    mended = with_levels([*actors(changes), *lone], guard)[-2:]
    for each, index in zip(mended, (ANGRY, HAPPY)):
        before = np.linalg.norm(changes[index] - mean - changes[index])
        assert np.linalg.norm(each.expression.mean(0) - changes[index]) < 0.4 * before


def test_a_clip_without_a_level_gets_the_one_that_it_shows(changes, guard):
    some = [clip("mild", "neutral", np.zeros(40), graded=False)]
    some += [clip("mild", "angry", share * changes[ANGRY], graded=False) for share in (0.0, 0.3, 0.8)]
    levels = [each.row.level for each in with_levels([*actors(changes), *some], guard)[-3:]]
    assert levels == pytest.approx([0.05, 0.3, 0.8], abs=0.08)


def test_a_level_that_the_set_tells_is_kept_and_so_is_that_of_a_lone_emotion(changes, guard):
    told = [clip("p0", "angry", 0.2 * changes[ANGRY], level=0.6)]
    lone = [clip("x", "sad", np.zeros(40), graded=False)]
    assert [each.row.level for each in with_levels([*actors(changes), *told, *lone], guard)[-2:]] == [0.6, 1.0]


def test_clips_without_labels_pass(guard):
    assert with_levels([], guard) == []
