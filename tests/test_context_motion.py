"""Known movements of hair, shoulders and background go in and come back."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from gmtalker.assets import GENERIC
from gmtalker.avatars.motion import FollowingShoulders
from gmtalker.face.context_motion import ContextFlow, learn_context_motion, measure_shoulders
from gmtalker.face.model import FaceModel
from gmtalker.face.person import CONTEXT_CELLS, PersonFace
from gmtalker.face.renderer import APPEARANCE, CANONICAL_X, Renderer
from gmtalker.face.rigid_head import RigidHead
from gmtalker.tracks import MOTION_DIM, ExpressionTrack, FaceTrack, MotionTrack
from tests.test_face_model import make_face

SIZE = 256


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(GENERIC / "face_model")


@pytest.fixture(scope="module")
def face(model) -> PersonFace:
    """The mean face in a picture full of soft spots, moving by 0.1 a standard deviation."""
    spots = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(SIZE, SIZE, 3)), (0, 0), 3)
    picture = np.clip(128 + 400 * spots, 0, 255).astype(np.uint8)
    return replace(make_face(model, SIZE), reference=picture, motion_scale=np.full(MOTION_DIM, 0.1, np.float32))


def moved(picture: np.ndarray, across: float, down: float) -> np.ndarray:
    matrix = np.array([[1, 0, across], [0, 1, down]], np.float32)
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REFLECT)


def test_shoulders_are_found_where_they_went(face):
    places = [(0, 0)] * 8 + [(5, -3)] * 8 + [(-4, 2)] * 8
    frames = [moved(face.reference, *by) for by in places]
    frames[4] = moved(face.reference, 9, 9)  # one frame where flow is wrong
    assert measure_shoulders(face, frames) * SIZE == pytest.approx(np.tile(places, 2), abs=0.5)


def test_a_shoulder_that_is_raised_alone_is_told_from_the_other(face):
    raised, x = face.reference.copy(), int(face.reference_points[152, 0] * SIZE)
    raised[:, x:] = moved(face.reference, 0, -4)[:, x:]
    assert measure_shoulders(face, [raised]) * SIZE == pytest.approx(np.array([[0, 0, 0, -4]]), abs=0.5)


def test_a_close_up_without_shoulders_has_none_to_move(model, face):
    below = replace(face, reference_points=face.reference_points + np.float32([0, 0.3, 0]))
    assert not measure_shoulders(below, [moved(face.reference, 5, 5)]).any()


def test_context_motion_is_how_the_picture_moves_with_the_head(model, face):
    """Everything moves 60 px for each unit of yaw: a frame of a turn that was never shown is drawn in its place."""
    motion = np.tile(face.motion_mean.astype(float), (160, 1))
    motion[:, 0] = np.random.default_rng(1).uniform(-0.12, 0.12, 160)
    frames = [moved(face.reference, 60 * yaw, 0) for yaw in motion[:, 0]]
    usable = np.arange(160) < 150
    learned, shoulders = learn_context_motion(face, frames, motion, usable)
    assert shoulders[:, 0] * SIZE == pytest.approx(60 * motion[:, 0], abs=0.5)
    for index in (152, 157):
        around = Renderer(model, learned, SIZE).render(np.zeros(model.coefficient_dim), motion[index])
        still = Renderer(model, face, SIZE).render(np.zeros(model.coefficient_dim), motion[index])
        outside = (around[..., CANONICAL_X] == 0) & (np.abs(np.arange(SIZE) - SIZE / 2) < 100)[None]
        error, before = (
            np.abs(picture[..., APPEARANCE].astype(int) - frames[index])[outside].mean() for picture in (around, still)
        )
        assert error < 0.35 * before


def test_frames_that_are_not_usable_teach_nothing(face):
    motion = np.tile(face.motion_mean.astype(float), (20, 1))
    motion[:, 1] = np.linspace(-0.1, 0.1, 20)
    frames = [face.reference] * 10 + [moved(face.reference, 9, 9)] * 10
    learned, _ = learn_context_motion(face, frames, motion, np.arange(20) < 10)
    assert np.abs(learned.context_motion).max() * SIZE < 0.2


def test_shoulders_do_not_tremble_with_the_head(face):
    """Whatever shares a moment with the head's turn by chance: shoulders are where shoulders were measured."""
    random = np.random.default_rng(2)
    motion = np.tile(face.motion_mean.astype(float), (60, 1))
    motion[:, 0] = random.uniform(-0.12, 0.12, 60)
    frames = [moved(face.reference, 60 * yaw, 0) for yaw in motion[:, 0]]
    learned, _ = learn_context_motion(face, frames, motion, np.ones(60, bool))
    held = np.zeros((2, 4))
    turned = np.stack([face.motion_mean, face.motion_mean]).astype(float)
    turned[1, 0] += 0.1
    at_rest, after = (np.tensordot(row, learned.context_motion, 1) * SIZE for row in learned.context_features(turned, held))
    assert np.abs(after - at_rest)[-3:, [2, -3]].max() < 0.2 < 1 < np.abs(after - at_rest)[10].max()


def test_what_is_behind_the_person_stays_where_it_is(face):
    motion = np.tile(face.motion_mean.astype(float), (40, 1))
    motion[:, 1] = np.linspace(-0.1, 0.1, 40)
    person = np.zeros((SIZE, SIZE), bool)
    person[60:, 60:200] = True
    frames = []
    for pitch in motion[:, 1]:
        frame = face.reference.copy()
        frame[person] = moved(face.reference, 0, 80 * pitch)[person]
        frames.append(frame)
    usable = np.ones(40, bool)
    without, _ = learn_context_motion(face, frames, motion, usable)
    learned, _ = learn_context_motion(face, frames, motion, usable, person=person)
    assert np.abs(without.context_motion[:, :, :6]).max() > 0 and not learned.context_motion[:, :, :6].any()
    assert np.array_equal(learned.context_motion[:, 16:, 20:30], without.context_motion[:, 16:, 20:30])
    shaken = [moved(face.reference, 0, 80 * pitch) for pitch in motion[:, 1]]
    learned, _ = learn_context_motion(face, shaken, motion, usable, person=person)
    assert learned.context_motion[:, :, :6].any(), "a camera that moves takes what is behind along"


def test_shoulders_follow_slowly_and_in_pieces_as_at_once(face):
    follow = np.zeros((15, 4), np.float32)
    follow[1] = 0.03
    heavy = replace(face, shoulder_follow=follow)
    values = torch.from_numpy(np.tile(face.motion_mean, (50, 1)))
    values[:, 0] += 0.05 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    values[25:, 0] += 0.3
    motion = MotionTrack.unstacked(values)
    whole = FollowingShoulders(heavy).push(motion)
    pieces = FollowingShoulders(heavy)
    joined = torch.cat([pieces.push(MotionTrack.unstacked(values[rows])) for rows in (slice(0, 7), slice(7, 30), slice(30, 50))])
    assert torch.equal(whole, joined)
    straight = heavy.pose_features(values.double().numpy()) @ follow
    assert np.abs(np.diff(whole, n=2, axis=0)).mean() < 0.1 * np.abs(np.diff(straight, n=2, axis=0)).mean()
    assert whole[24, 0] == pytest.approx(0, abs=0.01) and whole[49, 0] == pytest.approx(straight[49, 0], abs=0.03)


def test_shoulders_that_were_not_measured_follow_the_head(face):
    follow = np.zeros((15, 4), np.float32)
    follow[1, ::2] = 0.03  # one standard deviation of yaw
    learned = replace(face, shoulder_follow=follow)
    motion = face.motion_mean[None].astype(float)
    motion[0, 0] += 0.11  # a standard deviation and the hundredth that keeps a still head from being divided by nothing
    features = learned.context_features(motion)
    assert features == pytest.approx(learned.context_features(motion, np.array([[0.03, 0, 0.03, 0]])), abs=1e-6)
    assert not np.allclose(features, learned.context_features(motion, np.zeros((1, 4))))


def test_shoulders_are_kept_with_the_track(tmp_path):
    parts = ExpressionTrack(torch.zeros(4, 3)), MotionTrack.unstacked(torch.zeros(4, MOTION_DIM)), torch.ones(4, dtype=torch.bool)
    track = FaceTrack(*parts, shoulders=torch.arange(16.0).reshape(4, 4))
    track.save(tmp_path / "t.safetensors")
    again = FaceTrack.load(tmp_path / "t.safetensors")
    assert torch.equal(again.shoulders, track.shoulders) and torch.equal(again[1:3].shoulders, track.shoulders[1:3])
    FaceTrack(*parts).save(tmp_path / "n.safetensors")
    assert FaceTrack.load(tmp_path / "n.safetensors").shoulders is None
    with pytest.raises(ValueError, match="shoulders"):
        FaceTrack(*parts, shoulders=torch.zeros(3, 2))


def test_a_flow_that_is_quite_wrong_in_some_frames_counts_for_little(face):
    random = np.random.default_rng(5)
    motion = np.tile(face.motion_mean.astype(float), (60, 1))
    motion[:, 0] += random.uniform(-0.2, 0.2, 60)
    shifts = 20 * motion[:, 0]
    frames = [moved(face.reference, shift, 0) for shift in shifts]
    for wrong in (5, 23, 41, 50):
        frames[wrong] = moved(face.reference, 11, -8)
    learned, shoulders = learn_context_motion(face, frames, motion, np.ones(60, bool))
    drawn = np.tensordot(learned.context_features(motion, shoulders), learned.context_motion, 1)[:, 4:12, 8:40] * SIZE
    right = np.delete(np.arange(60), [5, 23, 41, 50])
    assert np.abs(drawn[right, ..., 0] + shifts[right, None, None]).mean() < 0.35
    assert np.abs(drawn[right, ..., 1]).mean() < 0.2


def nodding(face: PersonFace, model: FaceModel) -> tuple[PersonFace, np.ndarray]:
    """A person whose head was seen to turn a little, with hair that turns along before a wall that stays; and that motion."""
    random, rigid = np.random.default_rng(6), RigidHead(model, face)
    motion = np.tile(face.motion_mean.astype(float), (80, 1))
    motion[:, :6] += random.normal(size=(80, 6)) * [0.04, 0.04, 0.04, 0.01, 0.01, 0.01]
    face = replace(face, motion_scale=motion.std(0).astype(np.float32))
    middles = (np.arange(CONTEXT_CELLS) + 0.5) / CONTEXT_CELLS
    places = np.stack(np.meshgrid(middles, middles), axis=-1)
    cells = np.stack([rigid.before(places, row, face.motion_mean) - places for row in motion])
    cells[:, :, :8] = cells[:, :, 40:] = 0  # the wall
    flow = ContextFlow(np.zeros((80, 4), np.float32), cells.astype(np.float32), np.arange(80))
    return flow.fitted(face, motion, flow.shoulders), motion


def test_a_head_that_turns_further_than_it_ever_did_keeps_its_hair(model, face):
    learned, motion = nodding(face, model)
    share = RigidHead(model, learned).share
    assert share[4:20, 12:36].min() > 0.8 and share[:, :6].max() < 0.05, "hair is told from the wall"
    far = face.motion_mean.astype(float)
    far[:3] += [0.35, -0.2, 0.15]  # five to nine times further than usual
    sources = Renderer(model, learned, SIZE).around_the_face(far, np.zeros(4))
    pixels = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1)
    expected = RigidHead(model, learned).before((pixels + 0.5) / SIZE, far, face.motion_mean) * SIZE - 0.5
    hair = slice(20, 60), slice(100, 160)
    assert np.abs(sources[hair] - expected[hair]).mean() < 2, "hair stays on the head"
    assert np.abs(sources[:, :24] - pixels[:, :24]).mean() < 0.5, "the wall stays where it is"


def test_poses_within_reach_are_as_learned_and_reach_ends_gently(model, face):
    learned, motion = nodding(face, model)
    assert np.array_equal(learned.within_reach(motion[:5]), motion[:5])
    assert not RigidHead(model, face).share.any(), "of a face without footage nothing is known"
    edge = face.motion_mean.astype(float)
    direction = np.zeros(10)
    direction[0] = 1.0
    edge += direction * 4.0 / np.linalg.norm(learned.pose_whitening @ direction[:6])
    renderer, still = Renderer(model, learned, SIZE), np.zeros(4)
    inside, outside = (renderer.around_the_face(edge + by * direction, still) for by in (-1e-4, 1e-4))
    assert np.abs(inside - outside).max() < 0.3, "no jump where the footage ends"


def test_a_face_of_a_version_that_knew_no_reach_is_read(model, face, tmp_path):
    face.save(tmp_path / "face.safetensors")
    tensors = load_file(tmp_path / "face.safetensors")
    del tensors["pose_whitening"]
    save_file(tensors, tmp_path / "former.safetensors")
    assert not PersonFace.load(tmp_path / "former.safetensors").pose_whitening.any()
