"""Known rotations, coefficients, eyelids and gaze go in and come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gmtalker.assets import GENERIC
from gmtalker.errors import UnusableAvatar
from gmtalker.face.geometry import align, lid_distance, rotation_angles, rotation_matrix, steadied
from gmtalker.face.model import FaceModel
from gmtalker.face.person import FaceShape, PersonFace
from gmtalker.tracks import BLINK, GAZE, MOTION_DIM, POSE, ROTATION, TRANSLATION, FaceTrack


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(GENERIC / "face_model")


def make_face(model: FaceModel, size: int = 64) -> PersonFace:
    """A person whose face is the mean one, in a grey picture with a gradient."""
    motion = np.array([0, 0, 0, 0, 0, np.log(0.45), 0, 0, 0, 0])
    points = model.project(model.mean_shape, motion, 1.0)
    picture = np.tile(np.linspace(40, 220, size, dtype=np.uint8)[None, :, None], (size, 1, 3))
    eye_open = lid_distance(model.mean_shape[None])[0]
    return PersonFace(
        neutral_shape=model.mean_shape.astype(np.float32),
        eye_open=eye_open.astype(np.float32),
        eye_closed=(0.25 * eye_open).astype(np.float32),
        reference=picture,
        reference_points=points.astype(np.float32),
        motion_mean=motion.astype(np.float32),
        motion_scale=np.ones(MOTION_DIM, np.float32),
        crop=np.array([0, 0, size], np.float32),
        source_size=np.array([size, size], np.float32),
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
    coefficients = random.normal(size=(frames, model.coefficient_dim)) * np.linspace(1, 0.2, model.coefficient_dim)
    motion = np.zeros((frames, MOTION_DIM))
    motion[:, ROTATION] = random.uniform(-0.4, 0.4, (frames, 3))
    place, scale = random.uniform(-0.1, 0.1, (frames, 2)), np.log(random.uniform(0.35, 0.6, frames))
    motion[:, TRANSLATION] = np.column_stack([place, scale])
    motion[:, GAZE] = random.uniform(-0.2, 0.2, (frames, 2))
    points = np.stack([model.project(model.shape(face, c, m[BLINK], m[GAZE]), m, 200.0) for c, m in zip(coefficients, motion)])
    track = model.track(points, face, 200.0, np.ones(frames, bool))
    back = track.motion.stacked().numpy()
    # Expression moves the rigid points a little, so the angles are right to about a degree, not to the bit.
    assert np.degrees(np.abs(back - motion)[:, ROTATION]).mean() < 1.0
    assert np.abs(back - motion)[:, TRANSLATION].mean() < 0.01
    found, given = track.expression.coefficients.numpy(), coefficients
    assert np.mean([np.corrcoef(found[:, k], given[:, k])[0, 1] for k in range(8)]) > 0.95
    assert np.corrcoef(back[:, GAZE][:, 0], motion[:, GAZE][:, 0])[0, 1] > 0.95


def test_still_expression_comes_back_exactly(model):
    face = make_face(model)
    motion = np.array([[0.2, -0.1, 0.05, 0.02, -0.03, np.log(0.5), 0, 0, 0, 0]])
    shape = model.shape(face, np.zeros(model.coefficient_dim), motion[0, BLINK], motion[0, GAZE])
    points = model.project(shape, motion[0], 256.0)[None]
    track = model.track(points, face, 256.0, np.ones(1, bool))
    assert np.allclose(track.motion.stacked()[:, POSE], motion[:, POSE], atol=1e-4)
    assert np.abs(track.expression.coefficients).max() < 0.05


def test_closing_the_eyes_is_found_as_a_blink(model):
    face = make_face(model)
    motion = face.motion_mean.astype(float)
    shapes = [model.shape(face, np.zeros(model.coefficient_dim), np.full(2, blink), np.zeros(2)) for blink in (0.0, 0.5, 1.0)]
    points = np.stack([model.project(shape, motion, 256.0) for shape in shapes])
    blinks = model.track(points, face, 256.0, np.ones(3, bool)).motion.blink.mean(1)
    assert blinks[0] < 0.1 and blinks[0] < blinks[1] < blinks[2] and blinks[2] > 0.5


def test_basis_is_in_standard_deviations_and_invertible(model):
    given = np.eye(model.coefficient_dim)
    back = (given @ model.expression_basis[:, :468].reshape(model.coefficient_dim, -1)) @ model.projection.T
    assert np.allclose(back, given, atol=1e-3)


def test_face_survives_saving_and_a_broken_file_is_named(model, tmp_path):
    face = make_face(model)
    face.save(tmp_path / "face.safetensors")
    again = PersonFace.load(tmp_path / "face.safetensors")
    assert np.array_equal(again.reference, face.reference) and np.array_equal(again.neutral_shape, face.neutral_shape)
    (tmp_path / "broken.safetensors").write_bytes(b"not this")
    with pytest.raises(UnusableAvatar):
        PersonFace.load(tmp_path / "broken.safetensors")


def test_a_face_from_before_context_motion_had_its_name_is_read(model, tmp_path):
    face = replace(make_face(model), context_motion=np.random.default_rng(0).normal(size=(19, 48, 48, 2)).astype(np.float32))
    face.save(tmp_path / "face.safetensors")
    tensors = load_file(tmp_path / "face.safetensors")
    assert "surroundings" not in tensors
    former = {name: tensor for name, tensor in tensors.items() if name != "context_motion"}
    save_file(former | {"surroundings": face.context_motion}, tmp_path / "former.safetensors")
    assert np.array_equal(PersonFace.load(tmp_path / "former.safetensors").context_motion, face.context_motion)
    for wrong in (former, tensors | {"surroundings": face.context_motion}, tensors | {"unknown": face.crop}):
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(UnusableAvatar, match="another version"):
            PersonFace.load(tmp_path / "wrong.safetensors")


def test_tracking_needs_no_more_of_a_person_than_the_shape(model):
    face = make_face(model)
    shape = FaceShape(face.neutral_shape, face.eye_open, face.eye_closed)
    points = model.project(model.mean_shape, face.motion_mean.astype(float), 100.0)[None].repeat(3, 0)
    of_face, of_shape = (model.track(points, one, 100.0, np.ones(3, bool)) for one in (face, shape))
    assert np.array_equal(of_shape.motion.stacked(), of_face.motion.stacked())
    with pytest.raises(ValueError, match="eye_open"):
        FaceShape(face.neutral_shape, np.full(2, np.nan), face.eye_closed)


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
