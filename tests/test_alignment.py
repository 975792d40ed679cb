"""A track that is a little beside the picture is moved onto it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gmtalker.face.alignment import aligned, context_flow_of_renderings
from gmtalker.face.context_motion import ContextFlow
from gmtalker.face.model import FaceModel
from gmtalker.face.person import POSE_FEATURES, SHOULDER_STEP, PersonFace
from gmtalker.face.renderer import APPEARANCE, Renderer
from gmtalker.tracks import POSE, ExpressionTrack, FaceTrack, MotionTrack
from tests.test_context_motion import SIZE, face, model  # noqa: F401  the fixtures

FRAMES = 6


@pytest.fixture(scope="module")
def shouldered(face: PersonFace) -> PersonFace:  # noqa: F811
    """The same person with shoulders: the lowest rows of the picture move as far as they do."""
    motion = face.context_motion.copy()
    for side, columns in ((0, slice(0, 24)), (2, slice(24, 48))):
        for axis in (0, 1):
            motion[POSE_FEATURES + side + axis, 40:, columns, axis] = -SHOULDER_STEP
    return replace(face, context_motion=motion)


def track_of(face: PersonFace, model: FaceModel, motion: np.ndarray, shoulders: np.ndarray, found: np.ndarray) -> FaceTrack:  # noqa: F811
    expression = ExpressionTrack(torch.zeros(len(motion), model.coefficient_dim))
    rows = (torch.from_numpy(rows).float() for rows in (motion, shoulders))
    return FaceTrack(expression, MotionTrack.unstacked(next(rows)), torch.from_numpy(found), next(rows))


def test_pose_and_shoulders_come_back_to_the_picture(shouldered, model):  # noqa: F811
    random = np.random.default_rng(3)
    true = np.tile(shouldered.motion_mean.astype(float), (FRAMES, 1))
    true[:, :2] += random.uniform(-0.08, 0.08, (FRAMES, 2))
    lifted = random.uniform(-0.01, 0.01, (FRAMES, 4))
    renderer = Renderer(model, shouldered, SIZE)
    still = np.zeros(model.coefficient_dim)
    frames = [renderer.render(still, *row)[..., APPEARANCE] for row in zip(true, lifted)]
    wrong = true.copy()
    wrong[:, POSE] += random.choice([-1, 1], (FRAMES, 6)) * [0.01, 0.01, 0.006, 0.003, 0.003, 0.003]
    found = np.arange(FRAMES) != FRAMES - 1
    seen: list[int] = []
    result = aligned(model, shouldered, frames, track_of(shouldered, model, wrong, 0 * lifted, found), seen.append)
    motion, shoulders = result.motion.stacked().numpy(), result.shoulders.numpy()

    def beside(rows: np.ndarray) -> np.ndarray:
        """(frames,) mean pixels that the face is drawn beside its place."""
        return np.array([np.abs(renderer.points(still, a) - renderer.points(still, b)).mean() for a, b in zip(rows, true)])

    assert (beside(motion)[:-1] < 0.4 * beside(wrong)[:-1]).all()
    assert np.abs(shoulders - lifted)[:-1].mean() < 0.25 * np.abs(lifted[:-1]).mean()
    assert motion[-1] == pytest.approx(wrong[-1], abs=1e-6), "a frame without a face shows nothing to be aligned with"
    assert seen == list(range(FRAMES))


def test_a_track_that_lies_on_its_picture_stays(shouldered, model):  # noqa: F811
    motion = np.tile(shouldered.motion_mean.astype(float), (2, 1))
    frame = Renderer(model, shouldered, SIZE).render(np.zeros(model.coefficient_dim), motion[0], np.zeros(4))[..., APPEARANCE]
    track = track_of(shouldered, model, motion, np.zeros((2, 4)), np.ones(2, bool))
    result = aligned(model, shouldered, [frame, np.zeros_like(frame)], track)  # and a black picture tells nothing
    assert result.motion.stacked().numpy() == pytest.approx(motion, abs=2e-3)


def test_what_is_around_the_face_is_found_again_through_renderings(shouldered, model):  # noqa: F811
    """The second measure starts from what is known, and finds what was wrong with it."""
    motion = np.tile(shouldered.motion_mean.astype(float), (4, 1))
    motion[:, 0] += [-0.05, 0.05, 0.1, -0.1]
    track = track_of(shouldered, model, motion, np.zeros((4, 4)), np.ones(4, bool))
    true = shouldered.context_motion.copy()
    true[1, :8] += 0.01  # the yaw moves the upper sixth of the picture by so much more
    frames = [
        Renderer(model, replace(shouldered, context_motion=true), SIZE).render(np.zeros(model.coefficient_dim), row, np.zeros(4))[
            ..., APPEARANCE
        ]
        for row in motion
    ]
    rows, features = np.arange(4), shouldered.context_features(motion, np.zeros((4, 4)))
    flow = ContextFlow(np.zeros((4, 4), np.float32), np.zeros((4, 48, 48, 2), np.float32), rows)
    cells = context_flow_of_renderings(model, shouldered, frames, track, flow).cells
    known, wanted = (np.tensordot(features, moves, 1) for moves in (shouldered.context_motion, true))
    upper = np.s_[:, 1:6, 4:44]
    assert np.abs(cells - wanted)[upper].mean() < 0.25 * np.abs(known - wanted)[upper].mean()
    lower = np.s_[:, 40:46, 4:44]
    assert np.abs(cells - known)[lower].mean() * SIZE < 0.2, "what was right stays"
