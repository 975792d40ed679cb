"""What people take for an emotion: clips count by how much of it they show."""

from __future__ import annotations

import numpy as np
import pytest
from test_emotion_levels import clip

from gmtalker.assets import GENERIC
from gmtalker.clock import EMOTIONS
from gmtalker.face.landmarks import BROWS, MOUTH_CORNERS, NOSE_WINGS
from gmtalker.face.model import FaceModel
from gmtalker.pretrain.emotion_levels import emotional_displacements
from gmtalker.pretrain.prototypes import PROTOTYPES, WEIGHT_MIN, movements, shown
from gmtalker.tracks import BLINK

SAD = EMOTIONS.index("sad")


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(GENERIC / "face_model")


def face(model: FaceModel, moved: dict[int, tuple[float, float]]) -> np.ndarray:
    """The coefficients whose face comes nearest to points moved by (right, down), in face heights."""
    points = list(moved)
    basis = model.expression_basis[:, points, :2].reshape(len(model.expression_basis), -1)
    return np.linalg.lstsq(basis.T, np.array([moved[point] for point in points]).ravel(), rcond=None)[0]


@pytest.fixture(scope="module")
def mourning(model) -> np.ndarray:
    """Corners of the mouth down, inner ends of the brows up."""
    return face(model, {**{c: (0, 0.02) for c in MOUTH_CORNERS}, **{b: (0, -0.015) for b in BROWS[0]}, BROWS[1][0]: (0, 0.005)})


def test_movements_are_those_of_the_named_parts(model):
    smile = face(model, {MOUTH_CORNERS[0]: (-0.01, -0.02), MOUTH_CORNERS[1]: (0.01, -0.02), **{b: (0, 0.0) for b in BROWS[0]}})
    assert movements(smile, 0.1, model)[[0, 1, 2, 5]] == pytest.approx([2, 1, 0, 0.5], abs=0.05)
    wrinkled = face(model, {wing: (0, -0.005) for wing in NOSE_WINGS})
    assert movements(wrinkled, 0, model)[4] == pytest.approx(1, abs=0.05)


def test_each_prototype_agrees_most_with_itself():
    ways = {emotion: np.array(prototype[1:]) for emotion, prototype in PROTOTYPES.items()}
    for emotion, prototype in PROTOTYPES.items():
        length = np.linalg.norm(ways[emotion])
        agreement = {other: prototype.agreement(way / np.linalg.norm(way)) for other, way in ways.items()}
        assert prototype.agreement(ways[emotion]) == pytest.approx(length) and max(agreement, key=agreement.get) == emotion
        assert prototype.agreement(-ways[emotion]) == pytest.approx(-length)


def test_a_clip_counts_by_what_it_shows_of_its_emotion(model, mourning):
    rest = clip("a", "neutral", np.zeros(40))
    clips = [
        rest,
        clip("a", "sad", mourning),
        clip("a", "sad", 0.5 * mourning),
        clip("a", "sad", -mourning),
        clip("a", "contempt", mourning),
    ]
    weights = shown(clips, model)
    assert weights[1] == pytest.approx(2 * weights[2], rel=0.1) and weights[1] > 1
    assert weights[[0, 3, 4]].tolist() == [1, WEIGHT_MIN, 1]


def test_wide_eyes_are_wide_beside_the_same_persons_neutral_ones(model):
    clips = [clip(who, emotion, np.zeros(40)) for who in ("a", "b") for emotion in ("neutral", "fear")]
    clips[0].motion[:, BLINK], clips[1].motion[:, BLINK] = 0.3, -0.1  # "b" keeps them as they are
    assert shown(clips, model)[[1, 3]].tolist() == pytest.approx([2 / np.linalg.norm(PROTOTYPES["fear"][1:]), WEIGHT_MIN])
    assert shown(clips[1:2], model).tolist() == [WEIGHT_MIN]  # nothing to compare with


def test_faces_that_show_it_outweigh_those_that_do_not(model, mourning):
    """One who mourns among three who open their mouths, as most clips with this label do."""
    other = np.zeros(40)
    other[:5] = 1
    people = [("a", mourning), ("b", other), ("c", other), ("d", other)]
    clips = [each for who, shape in people for each in (clip(who, "neutral", np.zeros(40)), clip(who, "sad", shape))]
    rows = [each.expression.mean(0) for each in clips]
    plain = emotional_displacements(clips, rows).emotions[SAD]
    weighted = emotional_displacements(clips, rows, weights=shown(clips, model)).emotions[SAD]
    agreement = PROTOTYPES["sad"].agreement
    assert agreement(movements(weighted, 0, model)) > 2 * agreement(movements(plain, 0, model))
