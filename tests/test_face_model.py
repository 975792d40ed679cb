"""Known rotations, coefficients, eyelids and gaze go in and come back."""

from __future__ import annotations

import numpy as np
import pytest

from gmtalker.assets import GENERIC
from gmtalker.errors import UnusableAvatar
from gmtalker.face.geometry import align, rotation_angles, rotation_matrix, steadied
from gmtalker.face.model import FaceModel
from gmtalker.face.person import PersonFace
from gmtalker.tracks import FaceTrack


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(GENERIC / "face_model")


def make_face(model: FaceModel, size: int = 64) -> PersonFace:
    """A person whose face is the mean one, in a grey picture with a gradient."""
    motion = np.array([0, 0, 0, 0, 0, np.log(0.45), 0, 0, 0, 0])
    points = model.project(model.mean_shape, motion, 1.0)
    picture = np.tile(np.linspace(40, 220, size, dtype=np.uint8)[None, :, None], (size, 1, 3))
    canonical = model.mean_shape[None]
    from gmtalker.face.geometry import lid_distance

    eye_open = lid_distance(canonical)[0]
    return PersonFace(
        model.mean_shape.astype(np.float32),
        picture,
        points.astype(np.float32),
        eye_open.astype(np.float32),
        (0.25 * eye_open).astype(np.float32),
        motion.astype(np.float32),
        np.ones(10, np.float32),
        np.array([0, 0, size], np.float32),
        np.array([size, size], np.float32),
    )


def test_rotation_angles_invert_rotation_matrix():
    angles = np.random.default_rng(0).uniform(-1.2, 1.2, (50, 3))
    matrix = rotation_matrix(angles)
    assert np.allclose(rotation_angles(matrix), angles)
    assert np.allclose(matrix @ matrix.swapaxes(-1, -2), np.eye(3)) and np.allclose(np.linalg.det(matrix), 1)


def test_yaw_turns_the_nose_to_the_right_of_the_picture():
    turned = rotation_matrix(np.array([-0.3, 0, 0])) @ np.array([0, 0, -1.0])  # the nose points at the camera: -z
    assert turned[0] > 0.2


def test_align_recovers_a_similarity(model):
    random = np.random.default_rng(1)
    scale, rotation, offset = (
        random.uniform(50, 200, 5),
        rotation_matrix(random.uniform(-0.6, 0.6, (5, 3))),
        random.normal(size=(5, 3)),
    )
    target = scale[:, None, None] * np.einsum("tij,nj->tni", rotation, model.mean_shape) + offset[:, None]
    found = align(model.mean_shape, target)
    for have, want in zip(found, (scale, rotation, offset)):
        assert np.allclose(have, want)


def test_align_never_mirrors(model):
    mirrored = (model.mean_shape * [-1, 1, 1])[None]
    assert np.linalg.det(align(model.mean_shape, mirrored)[1][0]) > 0.99


def test_known_motion_and_coefficients_come_back(model):
    face = make_face(model)
    random = np.random.default_rng(2)
    frames = 40
    coefficients = random.normal(size=(frames, model.coefficients)) * np.linspace(1, 0.2, model.coefficients)
    motion = np.zeros((frames, 10))
    motion[:, :3] = random.uniform(-0.4, 0.4, (frames, 3))
    motion[:, 3:5] = random.uniform(-0.1, 0.1, (frames, 2))
    motion[:, 5] = np.log(random.uniform(0.35, 0.6, frames))
    motion[:, 8:] = random.uniform(-0.2, 0.2, (frames, 2))
    points = np.stack([model.project(model.shape(face, c, m[6:8], m[8:]), m, 200.0) for c, m in zip(coefficients, motion)])
    track = model.track(points, face, 200.0, np.ones(frames, bool))
    back = track.motion.stacked().numpy()
    # Expression moves the rigid points a little, so the angles are right to about a degree, not to the bit.
    assert np.degrees(np.abs(back[:, :3] - motion[:, :3])).mean() < 1.0
    assert np.abs(back[:, 3:6] - motion[:, 3:6]).mean() < 0.01
    found, given = track.expression.coefficients.numpy(), coefficients
    assert np.mean([np.corrcoef(found[:, k], given[:, k])[0, 1] for k in range(8)]) > 0.95
    assert np.corrcoef(back[:, 8], motion[:, 8])[0, 1] > 0.95


def test_still_expression_comes_back_exactly(model):
    face = make_face(model)
    motion = np.array([[0.2, -0.1, 0.05, 0.02, -0.03, np.log(0.5), 0, 0, 0, 0]])
    points = model.project(model.shape(face, np.zeros(model.coefficients), motion[0, 6:8], motion[0, 8:]), motion[0], 256.0)[None]
    track = model.track(points, face, 256.0, np.ones(1, bool))
    assert np.allclose(track.motion.stacked()[:, :6], motion[:, :6], atol=1e-4)
    assert np.abs(track.expression.coefficients).max() < 0.05


def test_closing_the_eyes_is_found_as_a_blink(model):
    face = make_face(model)
    motion = face.motion_mean.astype(float)
    shapes = [model.shape(face, np.zeros(model.coefficients), np.full(2, blink), np.zeros(2)) for blink in (0.0, 0.5, 1.0)]
    blinks = model.track(
        np.stack([model.project(s, motion, 256.0) for s in shapes]), face, 256.0, np.ones(3, bool)
    ).motion.blink.mean(1)
    assert blinks[0] < 0.1 and blinks[0] < blinks[1] < blinks[2] and blinks[2] > 0.5


def test_basis_is_in_standard_deviations_and_invertible(model):
    given = np.eye(model.coefficients)
    back = (given @ model.expression_basis[:, :468].reshape(model.coefficients, -1)) @ model.projection.T
    assert np.allclose(back, given, atol=1e-3)


def test_face_survives_saving_and_a_broken_file_is_named(model, tmp_path):
    face = make_face(model)
    face.save(tmp_path / "face.safetensors")
    again = PersonFace.load(tmp_path / "face.safetensors")
    assert np.array_equal(again.reference, face.reference) and np.array_equal(again.neutral_shape, face.neutral_shape)
    (tmp_path / "broken.safetensors").write_bytes(b"not this")
    with pytest.raises(UnusableAvatar):
        PersonFace.load(tmp_path / "broken.safetensors")


def test_track_file_round_trip(model, tmp_path):
    face = make_face(model)
    points = model.project(model.mean_shape, face.motion_mean.astype(float), 100.0)[None].repeat(3, 0)
    track = model.track(points, face, 100.0, np.ones(3, bool))
    track.save(tmp_path / "t.safetensors")
    again = FaceTrack.load(tmp_path / "t.safetensors")
    assert np.array_equal(again.expression.coefficients, track.expression.coefficients) and again.found.all()


def test_jitter_is_stilled_and_a_quick_turn_is_kept():
    random = np.random.default_rng(0)
    turn = np.where(np.arange(80) < 40, 0.0, 0.5)[:, None].repeat(2, axis=1)
    jitter = random.normal(0, 0.01, turn.shape)
    steady = steadied(turn + jitter, [0.01, 0.01], 5)
    assert np.abs(np.diff(steady[5:35], axis=0)).mean() < 0.6 * np.abs(np.diff(jitter[5:35], axis=0)).mean()
    assert (steady[40:42] - steady[38:40]).min() > 0.45
    assert steadied(turn[:1], [0.01, 0.01], 5).shape == (1, 2)
