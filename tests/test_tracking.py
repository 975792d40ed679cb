"""Smoothing without lag, the crop, the person's own measures, and what the tracker finds in a real clip."""

from __future__ import annotations

from itertools import islice

import cv2
import numpy as np
import pytest

from gmtalker.assets import GENERIC
from gmtalker.errors import UnusableVideo
from gmtalker.face.landmarks import CHIN, FOREHEAD
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import (
    CROP_FACES,
    choose_crop,
    cut,
    detect_landmarks,
    fill_and_smooth,
    find_cuts,
    in_crop,
    measure_neutral,
    measure_person,
    measure_shape,
    track_video,
)
from gmtalker.media.video import read_frames
from gmtalker.tracks import BLINK, GAZE
from tests.media import bundled_clip
from tests.test_face_model import make_face


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(GENERIC / "face_model")


def walk(model: FaceModel, frames: int, height: float = 100.0) -> np.ndarray:
    """A face that swings sideways once a second: (frames, 478, 3) in pixels of a 400 x 300 picture."""
    across = 200 + 30 * np.sin(2 * np.pi * np.arange(frames) / 25)
    return model.mean_shape * height + np.stack([across, np.full(frames, 150.0), np.zeros(frames)], axis=1)[:, None]


def test_smoothing_has_no_lag_and_takes_jitter_away(model):
    clean = walk(model, 100)
    noisy = clean + np.random.default_rng(0).normal(0, 0.5, clean.shape)
    smooth = fill_and_smooth(noisy, np.ones(100, bool))
    assert np.abs(smooth - clean)[3:-3].mean() < 0.8 * np.abs(noisy - clean)[3:-3].mean()
    x, true = smooth[:, :, 0].mean(1), clean[:, :, 0].mean(1)
    errors = [np.abs(x[5 + lag : 95 + lag] - true[5:95]).mean() for lag in (-1, 0, 1)]
    assert int(np.argmin(errors)) == 1


def test_smoothing_does_not_reach_across_a_cut(model):
    points = np.concatenate([walk(model, 20), walk(model, 20) + [80, 0, 0]])
    smooth = fill_and_smooth(points, np.ones(40, bool))
    assert np.abs(smooth[18:22] - points[18:22]).max() < 2.0


def test_cuts_are_found_even_where_the_face_hardly_jumps(model):
    points = np.concatenate([walk(model, 40)[:1].repeat(40, 0), walk(model, 40)[:1].repeat(40, 0) + [4, 2, 0]])
    points += np.random.default_rng(0).normal(0, 0.2, (80, 1, 3))
    assert find_cuts(points).tolist() == [40]
    assert find_cuts(walk(model, 100)).tolist() == []


def test_missing_frames_are_filled_from_their_neighbours(model):
    points = walk(model, 30)
    found = np.ones(30, bool)
    found[10:13] = False
    points[10:13] = np.nan
    filled = fill_and_smooth(points, found)
    assert np.isfinite(filled).all() and np.abs(filled - walk(model, 30))[10:13].max() < 3


def test_no_face_at_all_is_said():
    with pytest.raises(UnusableVideo, match="No face"):
        fill_and_smooth(np.full((5, 478, 3), np.nan), np.zeros(5, bool))


@pytest.mark.parametrize(("width", "height"), [(400, 300), (1920, 1080), (300, 900), (130, 130)])
def test_crop_is_square_and_holds_the_face(model, width, height):
    points = model.mean_shape * 100 + np.array([width / 2, height / 2, 0])
    left, top, side = choose_crop(points[None].repeat(3, 0), width, height)
    inside = in_crop(points, np.array([left, top, side]))
    assert (inside[:, :2] > 0).all() and (inside[:, :2] < 1).all()
    face = np.linalg.norm(points[CHIN] - points[FOREHEAD])
    assert side <= CROP_FACES * face + 1


def test_cut_keeps_the_aspect_and_pads(model):
    frame = np.zeros((60, 100, 3), np.uint8)
    cv2.circle(frame, (50, 30), 20, (255, 255, 255), -1)
    square = cut(frame, np.array([0, -20, 100]), 200)
    assert square.shape == (200, 200, 3)
    rows, columns = np.nonzero(square[..., 0] > 127)
    assert abs((rows.max() - rows.min()) - (columns.max() - columns.min())) <= 2  # the circle stays round
    assert abs(rows.mean() - 100) < 2 and abs(columns.mean() - 100) < 2


def test_neutral_shape_is_found_among_talking_frames(model):
    face = make_face(model)
    random = np.random.default_rng(0)
    coefficients = random.normal(size=(60, model.coefficient_dim)) * 0.5
    coefficients[::4] = 0
    coefficients[:, 0] = np.abs(coefficients[:, 0])
    shapes = np.stack([model.shape(face, c, np.zeros(2), np.zeros(2)) for c in coefficients])
    neutral = measure_neutral(model, shapes * 200)
    assert np.linalg.norm(neutral[:468] - model.mean_shape[:468], axis=-1).mean() < 0.02


def test_the_shape_is_measured_in_neutral_frames_where_there_are_any(model):
    """Half of the frames hold another expression: labelled or not, lids and lips alone could not tell."""
    face, other = make_face(model), np.zeros(model.coefficient_dim)
    other[3] = 2.0
    shapes = np.stack([model.shape(face, c, np.zeros(2), np.zeros(2)) for c in (np.zeros_like(other), other) for _ in range(30)])
    neutral = np.arange(60) < 30
    with_labels, none = (measure_shape(model, shapes * 200, labels) for labels in (neutral, np.zeros(60, bool)))
    away = [np.linalg.norm((shape.neutral_shape - model.mean_shape)[:468], axis=-1).mean() for shape in (with_labels, none)]
    assert away[0] < 0.002 < away[1]
    assert with_labels.eye_open == pytest.approx(face.eye_open, rel=0.02)
    assert with_labels.eye_closed == pytest.approx(0.35 * with_labels.eye_open)  # they never blinked


def test_real_face_is_redrawn_where_it_was_found(model):
    frames = list(islice(read_frames(bundled_clip("idle.mp4")), 40))
    points, found = detect_landmarks(frames)
    assert found.all()
    points = fill_and_smooth(points, found)
    size = frames[0].shape[1], frames[0].shape[0]
    crop = choose_crop(points, *size)
    face = measure_person(model, points, crop, size, frames.__getitem__, found)
    track = model.track(in_crop(points, crop), face, 1.0, found)
    motion, coefficients = track.motion.stacked().numpy(), track.expression.coefficients.numpy()
    for index in range(0, 40, 5):
        shape = model.shape(face, coefficients[index], motion[index, BLINK], motion[index, GAZE])
        again = model.project(shape, motion[index].astype(float), 256.0)
        assert np.linalg.norm((again - in_crop(points[index], crop, 256.0))[:468, :2], axis=-1).mean() < 0.6


def test_track_video_of_anyone(model):
    track = track_video(bundled_clip("preview.mp4"), model)
    assert track.found.float().mean() > 0.95 and len(track) > 100
    assert track.motion.rotation.abs().max() < 1.0 and track.expression.coefficients.std() > 0.1
