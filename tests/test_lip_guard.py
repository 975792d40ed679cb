"""An emotion may not hold lips open that the speech closes, and keeps everything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmtalker.assets import GENERIC
from gmtalker.face.landmarks import LIPS
from gmtalker.face.lip_guard import CLOSED, CLOSING, OPEN, LipGuard, resting
from gmtalker.face.model import FaceModel


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(GENERIC / "face_model")


@pytest.fixture(scope="module")
def guard(model) -> LipGuard:
    return LipGuard(model)


def with_measures(guard: LipGuard, *wanted: float) -> torch.Tensor:
    """The smallest expression whose three openings and width differ from the neutral face by this much."""
    return torch.tensor(wanted) @ guard.change.T


def test_lips_that_must_close_close_in_an_emotion_that_opens_them(guard):
    neutral = with_measures(guard, 0.0, 0.0, 0.0, 0.0)
    emotional = neutral + with_measures(guard, 0.05, 0.05, 0.05, 0.02)
    safe = guard(emotional, neutral)
    assert (emotional @ guard.measures.T)[:3].min() > 0.045
    assert (safe @ guard.measures.T)[:3].abs().max() < 0.003
    assert (safe @ guard.measures.T)[3] == pytest.approx(0.02, abs=0.003)  # the smile stays


def test_open_lips_keep_the_whole_emotion(guard):
    neutral = with_measures(guard, *[OPEN + 0.005] * 3, 0.005)
    emotional = neutral + with_measures(guard, 0.03, 0.03, 0.03, 0.03)
    assert torch.allclose(guard(emotional, neutral), emotional, atol=1e-5)


def test_an_emotion_that_presses_the_lips_is_left_alone(guard):
    neutral = with_measures(guard, CLOSED, CLOSED, CLOSED, 0.0)
    emotional = neutral - with_measures(guard, 0.01, 0.01, 0.01, 0.01)
    assert torch.allclose(guard(emotional, neutral), emotional, atol=1e-5)


def test_the_rest_of_the_face_hardly_moves(model, guard):
    neutral = torch.zeros(model.coefficient_dim)
    emotional = 1.5 * torch.randn(model.coefficient_dim, generator=torch.Generator().manual_seed(3))
    emotional = emotional if (emotional @ guard.measures.T)[0] > 0 else -emotional
    change = torch.tensordot(guard(emotional, neutral) - emotional, torch.tensor(model.expression_basis, dtype=torch.float32), 1)
    moved = change.norm(dim=-1)
    brows = [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]
    assert moved[list(LIPS)].max() > 4 * moved[brows].max()


def test_many_frames_at_once(guard):
    emotional, neutral = torch.randn(2, 7, guard.measures.shape[1], generator=torch.Generator().manual_seed(0))
    rows = torch.stack([guard(a, b) for a, b in zip(emotional, neutral)])
    assert torch.allclose(guard(emotional, neutral), rows, atol=1e-5)


def test_lips_are_closed_by_a_part_and_all_else_is_kept(guard):
    speaking = with_measures(guard, 0.04, 0.05, 0.04, 0.02).expand(3, -1)
    closed = guard.closed(speaking, torch.tensor([0.0, 0.5, 1.0])) @ guard.measures.T
    assert torch.allclose(closed[:, :3], torch.tensor([[1.0], [0.5], [0.0]]) * torch.tensor([0.04, 0.05, 0.04]), atol=1e-5)
    assert torch.equal(guard.closed(speaking, torch.zeros(3)), speaking)


def test_lips_are_still_in_silence_at_their_own_level_and_emotions_come_and_go(guard):
    silent = np.zeros(60, bool)
    silent[20:40] = True
    opening = 0.02 + 0.01 * torch.sin(torch.arange(60.0))
    spoken = torch.stack([with_measures(guard, float(x), float(x), float(x), 0.0) for x in opening])
    emotion = torch.stack([with_measures(guard, 0.001 * t, 0.001 * t, 0.001 * t, 0.0) for t in range(60)])
    still = guard.still(spoken + emotion, spoken, silent)
    lips = (still @ guard.measures.T)[:, 0]
    level = opening[20:40].mean()
    assert lips[20:40].tolist() == pytest.approx([float(level) + 0.001 * t for t in range(20, 40)], abs=1e-4)
    assert torch.equal(still[:10], (spoken + emotion)[:10]) and torch.equal(still[50:], (spoken + emotion)[50:])


def test_lips_rest_wholly_in_silence_and_come_to_it_around():
    silent = np.zeros(60, bool)
    silent[20:40] = True
    share = resting(silent)
    assert torch.all(share[20:40] == 1) and not share[: 20 - CLOSING].any() and not share[40 + CLOSING :].any()
    assert share.diff().abs().max() <= 1 / CLOSING + 1e-6
