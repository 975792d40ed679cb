"""Emotions that nobody showed, rehearsed: frames bent with the mesh, skin lit as the expression folds it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from gmtalker.assets import GENERIC
from gmtalker.clock import EMOTIONS
from gmtalker.face.bending import FilmedFace, bend
from gmtalker.face.canonical_grid import GRID, CanonicalGrid
from gmtalker.face.landmarks import CHIN, INNER_LIPS
from gmtalker.face.renderer import CANONICAL_X, CANONICAL_Y, MOUTH_MAP
from gmtalker.models.ratio_image import RatioImages
from gmtalker.models.weights import load_strict
from gmtalker.tracks import BLINK
from gmtalker.training.head_data import HeadBatches, PersonFrames
from gmtalker.training.rehearsal import Rehearsal
from tests.test_head import tiny_person

HAPPY = EMOTIONS.index("happy")


@pytest.fixture(scope="module")
def person():
    return tiny_person(frames=8)[1]


@pytest.fixture(scope="module")
def ratio_images() -> RatioImages:
    return load_strict(RatioImages, GENERIC / "ratio_images")


def opening(person, strength: float) -> np.ndarray:
    """Coefficients that open the lips by `strength` of what the first ones do."""
    basis = person.renderer.model.expression_basis
    upper, lower = INNER_LIPS
    gap = basis[:, lower, 1] - basis[:, upper, 1]
    return strength * gap / np.linalg.norm(gap)


def filmed(person, index: int = 0) -> FilmedFace:
    return FilmedFace(person.frames[index], person.coefficients[index], person.motion[index])


def test_a_frame_bent_to_its_own_expression_stays_as_it_was(person):
    face = filmed(person)
    picture = bend(person.renderer, face, face.coefficients, face.motion, np.zeros((GRID, GRID)))
    assert np.abs(picture.astype(int) - face.frame).max() <= 1


def test_pixels_move_with_the_mesh(person):
    """A frame that shows the canonical coordinates shows those of the other expression when it is bent to it."""
    renderer, base, motion = person.renderer, np.zeros(40), person.motion[0]
    wide = opening(person, 12.0)
    before, after = (renderer.render(x, motion)[..., [CANONICAL_X, CANONICAL_Y, CANONICAL_X]].astype(int) for x in (base, wide))
    picture = bend(renderer, FilmedFace(before.astype(np.uint8), base, motion), wide, motion)
    moved = (before[..., 0] > 0) & (after[..., 0] > 0) & (np.abs(after - before)[..., 1] > 6)
    assert moved.sum() > 20
    assert np.abs(after - picture)[moved].mean() < 0.5 * np.abs(after - before)[moved].mean()


def test_what_lies_far_from_the_face_stays(person):
    face, size = filmed(person), len(person.frames[0])
    picture = bend(person.renderer, face, opening(person, 4.0), face.motion)
    chin = person.renderer.points(face.coefficients, face.motion)[CHIN]
    corner = np.s_[: size // 10, : size // 10]
    assert chin[1] > size // 2 and np.array_equal(picture[corner], face.frame[corner])


def test_between_lips_that_open_another_frame_shows_what_is_there(person):
    """A closed mouth has no teeth to stretch; red ones come from a frame that was open, its skin does not."""
    renderer, motion, wide = person.renderer, person.motion[0], opening(person, 12.0)
    closed = FilmedFace(np.full_like(person.frames[0], 90), np.zeros(40), motion)
    inside = renderer.render(wide, motion)[..., MOUTH_MAP] > 0
    frame = np.full_like(person.frames[0], 200)
    frame[inside] = 255, 0, 0
    plain = bend(renderer, closed, wide, motion)
    shown = bend(renderer, closed, wide, motion, mouth=FilmedFace(frame, wide, motion))
    assert inside.sum() > 10 and np.abs(plain.astype(int) - 90).max() <= 1
    core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3))) > 0
    assert shown[core][:, 0].mean() > 200 and shown[core][:, 1].mean() < 60
    around = cv2.dilate(inside.astype(np.uint8), np.ones((7, 7))) > 0
    assert np.abs(shown[~around].astype(int) - 90).max() <= 1


def test_the_frame_for_a_mouth_is_one_whose_lips_are_open(person, ratio_images):
    rehearsal, wide = rehearsal_of_smiles(person, ratio_images), opening(person, 12.0)
    model, shape = person.renderer.model, person.renderer.face.neutral_shape
    openings = model.lip_opening(person.coefficients, shape)
    chosen = rehearsal._mouth(person, int(openings.argmin()), wide, np.random.default_rng(0))
    assert model.lip_opening(chosen.coefficients[None], shape)[0] >= np.median(openings)
    assert rehearsal._mouth(person, 0, opening(person, -2.0), np.random.default_rng(0)) is None, "closed lips show nothing"
    opened = PersonFrames(person.renderer, person.frames, person.track, person.emotion)
    opened.coefficients = np.tile(wide, (len(person.frames), 1))
    assert rehearsal._mouth(opened, 0, wide, np.random.default_rng(0)) is None, "its own mouth is open"


def test_a_ratio_image_changes_the_skin_and_nothing_else(person):
    face = filmed(person)
    plain = bend(person.renderer, face, face.coefficients, face.motion)
    darker = bend(person.renderer, face, face.coefficients, face.motion, np.full((GRID, GRID), -0.3))
    outside = person.rendering(0)[..., CANONICAL_X] == 0
    assert np.array_equal(darker[outside], plain[outside])
    assert darker[~outside].mean() < 0.9 * plain[~outside].mean()


def test_the_grid_takes_what_it_spreads(person):
    """A smooth picture of the canonical coordinates, taken onto the grid, is the grid's own coordinates."""
    renderer, grid = person.renderer, CanonicalGrid(person.renderer.model)
    motion = renderer.face.motion_mean.astype(float)
    rendering = renderer.render(np.zeros(40), motion)
    taken = grid.take(rendering[..., CANONICAL_X].astype(np.float32), renderer.points(np.zeros(40), motion) - 0.5)
    across = np.tile(np.linspace(40, 255, GRID), (GRID, 1))
    inner = grid.covered & (np.abs(across - 147) < 60)
    assert np.median(np.abs(taken - across)[inner]) < 6
    spread = CanonicalGrid.spread(across.astype(np.float32), rendering[..., [CANONICAL_X, CANONICAL_Y]])
    face = rendering[..., CANONICAL_X] > 0
    assert np.abs(spread - rendering[..., CANONICAL_X])[face].max() < 3


def test_at_rest_the_skin_is_as_it_is_and_a_frown_darkens_it_between_the_brows(ratio_images):
    calm = torch.eye(8)[:1]
    still = ratio_images(torch.zeros(1, 40), torch.zeros(1, 2), calm)
    assert still.shape == (1, GRID, GRID) and not still.any()
    assert ratio_images(torch.zeros(1, 40), torch.zeros(1, 2), torch.eye(8)[1:2]).abs().max() > 0.01


def rehearsal_of_smiles(person, ratio_images) -> Rehearsal:
    neutral = np.zeros((5, 40))
    emotional = np.stack([neutral] * len(EMOTIONS))
    emotional[HAPPY] += opening(person, 2.0)
    lids = np.zeros((len(EMOTIONS), 2))
    lids[HAPPY] = 0.3
    return Rehearsal(neutral, emotional, lids, ratio_images)


def test_rehearsed_frames_have_weights_and_the_pose_of_a_filmed_one(person, ratio_images):
    rehearsal, rng = rehearsal_of_smiles(person, ratio_images), np.random.default_rng(0)
    drawn = [rehearsal.draw(person, rng) for _ in range(40)]
    weights = np.stack([emotion for _, _, emotion, _ in drawn])
    assert np.allclose(weights.sum(1), 1) and (weights >= -1e-9).all()
    assert (weights[:, 1:].sum(1) > 0.2).mean() > 0.6, "an emotion is told"
    assert (weights[:, 0] == 1).any(), "and now and then its shape comes without it"
    assert all(r.shape == (64, 64, 8) and f.shape == (64, 64, 3) and r.dtype == f.dtype == np.uint8 for r, f, _, _ in drawn)


def test_batches_rehearse_a_part_of_their_frames(person, ratio_images):
    rehearsal = rehearsal_of_smiles(person, ratio_images)
    batch = HeadBatches([person], 60, False, 0, rehearsal)[0]
    own = {frame.tobytes() for frame in person.frames}
    filmed_frames = [frame.numpy().tobytes() in own for frame in batch.frame]
    assert 0.45 < np.mean(filmed_frames) < 0.85
    assert all(weights[0] == 1 for weights, real in zip(batch.emotion, filmed_frames) if real), "filmed frames keep their label"


def test_lids_of_an_emotion_are_drawn(person, ratio_images):
    """The rendering of a rehearsed frame has lids as low as the emotion lets them rest."""
    rehearsal = rehearsal_of_smiles(person, ratio_images)
    rehearsal._weights = lambda rng: np.eye(len(EMOTIONS))[HAPPY]
    rng = np.random.default_rng(1)
    rows = [rehearsal.draw(person, rng) for _ in range(12)]
    told = [rendering for rendering, _, emotion, _ in rows if emotion[HAPPY] == 1]
    motion = person.motion[0].copy()
    motion[BLINK] = 0.3
    wanted = (person.renderer.render(opening(person, 2.0), motion)[..., 6] > 0).sum()
    open_eyes = (person.renderer.render(opening(person, 2.0), person.motion[0])[..., 6] > 0).sum()
    assert np.median([(rendering[..., 6] > 0).sum() for rendering in told]) < (wanted + open_eyes) / 2 + 1
