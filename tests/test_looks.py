"""Clips of one room are told from those of another, however the person moves in them."""

from __future__ import annotations

import numpy as np
import pytest

from gmtalker.assets import GENERIC
from gmtalker.face.model import FaceModel
from personalize.looks import LookPicture, looks_of


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """(478, 3) a face of 120 pixels in the middle of a picture of 320 x 240."""
    return FaceModel.load(GENERIC / "face_model").mean_shape * 120 + [160, 110, 0]


def room(wall: int, face: int = 150, seed: int = 0) -> np.ndarray:
    frame = np.full((240, 320, 3), wall, np.uint8)
    frame[55:165, 115:205] = face
    return (frame + np.random.default_rng(seed).integers(0, 9, frame.shape)).astype(np.uint8)


def test_a_face_that_moves_or_blushes_is_the_same_look(points):
    pictures = [LookPicture.of(room(90), points), LookPicture.of(room(90, 230, 1), points + [3, 2, 0])]
    assert pictures[0].change(pictures[1]) < 8 and looks_of(pictures).tolist() == [0, 0]


def test_every_room_is_a_look_and_light_that_drifts_is_not(points):
    walls = [90, 200, 110, 128, 205, 20]  # 90 and 128 differ by more than one look may, but 110 lies between them
    assert looks_of([LookPicture.of(room(wall, seed=wall), points) for wall in walls]).tolist() == [0, 1, 0, 0, 1, 2]


def test_one_clip_has_one_look(points):
    assert looks_of([LookPicture.of(room(90), points[:, :2])]).tolist() == [0]
