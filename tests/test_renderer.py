"""The drawn face lies where the model says, moves with the head, and opens its mouth."""

from __future__ import annotations

import numpy as np
import pytest

from gmtalker.assets import GENERIC
from gmtalker.face.model import FaceModel
from gmtalker.face.renderer import APPEARANCE, CANONICAL, CANONICAL_X, CHANNELS, EYE_MAP, MOUTH_MAP, Renderer
from gmtalker.tracks import GAZE, ROTATION, TRANSLATION
from tests.test_face_model import make_face


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    model = FaceModel.load(GENERIC / "face_model")
    return Renderer(model, make_face(model, 128), 128)


def at_rest(renderer: Renderer) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(renderer.model.coefficient_dim), renderer.face.motion_mean.astype(float)


def test_shape_and_channels(renderer):
    picture = renderer.render(*at_rest(renderer))
    assert picture.shape == (128, 128, CHANNELS) and picture.dtype == np.uint8
    assert (picture[..., CANONICAL].any(-1)).mean() > 0.05 and (picture[..., EYE_MAP] == 255).any()


def test_reference_pose_draws_the_reference(renderer):
    picture = renderer.render(*at_rest(renderer))
    closed = picture[..., MOUTH_MAP] == 0
    error = np.abs(picture[..., APPEARANCE].astype(int) - renderer.reference.astype(int))[closed]
    assert error.mean() < 2


def test_face_follows_the_head(renderer):
    coefficients, motion = at_rest(renderer)
    here = renderer.render(coefficients, motion)[..., CANONICAL_X].astype(bool)
    motion[TRANSLATION] += 0.2, 0, 0
    there = renderer.render(coefficients, motion)[..., CANONICAL_X].astype(bool)
    moved = np.argwhere(there).mean(0) - np.argwhere(here).mean(0)
    assert moved[1] == pytest.approx(0.2 * 0.45 * 128, abs=0.7) and abs(moved[0]) < 0.5


def test_points_lie_on_the_drawn_face(renderer):
    coefficients, motion = at_rest(renderer)
    motion[ROTATION] = 0.3, -0.1, 0.1
    mask = renderer.render(coefficients, motion)[..., CANONICAL_X] > 0
    inner = renderer.points(coefficients, motion)[[4, 6, 50, 280, 200], :2].astype(int)
    assert mask[inner[:, 1], inner[:, 0]].all()


def test_opening_the_lips_opens_the_mouth(renderer):
    coefficients, motion = at_rest(renderer)
    openings = np.array([renderer.model.lip_opening(np.eye(len(coefficients))[k : k + 1] * 3)[0] for k in range(6)])
    shut = (renderer.render(coefficients, motion)[..., MOUTH_MAP] > 0).sum()
    coefficients[int(openings.argmax())] = 3.0
    wide = (renderer.render(coefficients, motion)[..., MOUTH_MAP] > 0).sum()
    assert wide > shut + 20


def test_gaze_moves_the_irises(renderer):
    coefficients, motion = at_rest(renderer)
    places = []
    for yaw in (-0.3, 0.3):
        motion[GAZE] = yaw, 0
        places.append(np.argwhere(renderer.render(coefficients, motion)[..., EYE_MAP] == 255).mean(0)[1])
    assert places[1] > places[0] + 1


def test_rendering_twice_is_the_same(renderer):
    assert np.array_equal(renderer.render(*at_rest(renderer)), renderer.render(*at_rest(renderer)))


def test_a_face_outside_the_picture_is_no_error(renderer):
    coefficients, motion = at_rest(renderer)
    motion[TRANSLATION] = 5, 0, np.log(0.45)
    assert not renderer.render(coefficients, motion)[..., CANONICAL.start :].any()
