"""Rare appearances are kept whole, common ones thinned; blurred frames go first."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gmtalker.assets import GENERIC
from gmtalker.face.landmarks import LIPS
from gmtalker.face.model import FaceModel
from personalize.frame_selection import choose_frames, sharpest


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(GENERIC / "face_model")


def test_rare_mouth_shapes_are_kept_and_common_ones_thinned(model):
    points = np.repeat(model.mean_shape[None], 1000, axis=0) + 1e-4 * np.random.default_rng(0).normal(size=(1000, 478, 3))
    rare = np.arange(1000) % 50 == 7  # an open mouth in 20 frames of 1000
    points[np.ix_(rare, LIPS, [1])] += 0.1 * np.linspace(0, 1, len(LIPS))[None, :, None]
    found = np.ones(1000, bool)
    found[:100] = False
    chosen = choose_frames(points, found, model, 200)
    assert len(chosen) <= 200 and np.all(np.diff(chosen) > 0) and found[chosen].all()
    assert rare[chosen].sum() >= 2.5 * 200 * rare[found].mean()
    assert np.array_equal(choose_frames(points, found, model, 900), np.flatnonzero(found))


def test_blurred_frames_are_dropped():
    sharp = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    frames = [cv2.GaussianBlur(sharp, (0, 0), 3) if index in (2, 5) else sharp for index in range(8)]
    assert sharpest(frames, 6).tolist() == [0, 1, 3, 4, 6, 7]
