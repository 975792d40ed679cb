"""Lips do what the sounds need: an emotion may not hold them open where they close, and noise may not move them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmtalker.assets import GENERIC
from gmtalker.face.landmarks import AROUND_CORNERS, LIPS
from gmtalker.face.lip_guard import (
    CLOSED,
    CLOSING,
    FAINT_CLOSED,
    HANGOVER_FRAMES,
    LOW,
    OPEN,
    PEAK_CLOSED,
    REST_FRAMES,
    SURE_CLOSED,
    TAUGHT_CLOSED,
    LipGuard,
    as_spoken,
    closed_share,
    resting,
)
from gmtalker.face.model import FaceModel
from gmtalker.models.articulation import ARTICULATION_DIM, SPEAKING
from gmtalker.models.articulation import CLOSED as CLOSED_COLUMN


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


def test_lips_rest_wholly_in_silence_and_come_to_it_around():
    silent = np.zeros(60, bool)
    silent[20:40] = True
    share = resting(silent)
    assert torch.all(share[20:40] == 1) and not share[: 20 - CLOSING].any() and not share[40 + CLOSING :].any()
    assert share.diff().abs().max() <= 1 / CLOSING + 1e-6


# --- Lips in a stream ----------------------------------------------------------------------------------------------------------


def opened(guard: LipGuard, openings: torch.Tensor | list[float]) -> torch.Tensor:
    """Expressions (frames, n) with these openings (frames,) in all three places."""
    return torch.stack([with_measures(guard, *[float(opening)] * 3, 0.0) for opening in openings])


def heard(frames: int, closed: dict[int, float] | None = None, speaking: float | list[float] = 0.95) -> torch.Tensor:
    """Articulation (frames, 3) of open lips, but for the given frames."""
    articulation = torch.full((frames, ARTICULATION_DIM), 0.02)
    articulation[:, SPEAKING] = torch.as_tensor(speaking)
    for frame, probability in (closed or {}).items():
        articulation[frame, CLOSED_COLUMN] = probability
    return articulation


def streamed(guard: LipGuard, articulation: torch.Tensor, emotional: torch.Tensor, neutral: torch.Tensor) -> torch.Tensor:
    stream = guard.open()
    stream.hear(articulation)
    return stream.push(emotional, neutral)


@pytest.mark.parametrize("emotion", [-0.03, 0.0, 0.03, 0.08])
@pytest.mark.parametrize("opening", [0.01, 0.05])
def test_lips_close_in_the_frame_of_an_m_whatever_the_emotion(guard, emotion, opening):
    neutral, articulation = opened(guard, [opening] * 24), heard(24, {10: 0.99, 18: SURE_CLOSED[1], 19: SURE_CLOSED[1]})
    emotional = opened(guard, [opening + emotion] * 24)
    lips = guard.openings(streamed(guard, articulation, emotional, neutral))
    assert lips[[10, 18, 19]].abs().max() < 0.05 * max(opening, abs(opening + emotion))
    free = guard.openings(guard(emotional, neutral))
    torch.testing.assert_close(lips[[5, 8, 12, 14, 23]], free[[5, 8, 12, 14, 23]], atol=1e-5, rtol=0)


def test_a_closure_that_is_heard_faintly_is_seen_in_one_frame(guard):
    """Where its probability peaks; a frame beside that closes only where the sound is sure."""
    neutral = opened(guard, [0.05] * 12)
    peak, beside = PEAK_CLOSED[1], min(PEAK_CLOSED[1] - 0.01, SURE_CLOSED[0])
    faint = guard.openings(streamed(guard, heard(12, {5: beside, 6: peak, 7: beside}), neutral, neutral))[:, 0]
    assert faint[4:9].tolist() == pytest.approx([0.05, 0.05, 0, 0.05, 0.05], abs=0.002)
    sure = {5: SURE_CLOSED[1], 6: 0.999, 7: sum(SURE_CLOSED) / 2}
    closed = guard.openings(streamed(guard, heard(12, sure), neutral, neutral))[:, 0]
    assert closed[4:9].tolist() == pytest.approx([0.05, 0, 0, 0.025, 0.05], abs=0.002)


def test_low_lips_close_for_less(guard):
    """Where the probability peaks and the expression nearly closes already, a faint closure is enough."""
    for opening, wanted in ((LOW[1] - 0.005, 0.0), (LOW[0] + 0.005, LOW[0] + 0.005)):
        neutral = opened(guard, [opening] * 8)
        lips = guard.openings(streamed(guard, heard(8, {4: FAINT_CLOSED[1]}), neutral, neutral))[:, 0]
        assert lips[3:6].tolist() == pytest.approx([opening, wanted, opening], abs=0.002)


def test_a_sound_that_is_no_closure_leaves_the_lips(guard):
    neutral = opened(guard, [0.05] * 6)
    torch.testing.assert_close(streamed(guard, heard(6, {3: PEAK_CLOSED[0]}), neutral, neutral), neutral, atol=1e-6, rtol=0)
    low, high = TAUGHT_CLOSED
    assert closed_share(heard(3, {0: low, 1: (low + high) / 2, 2: high})).tolist() == pytest.approx([0, 0.5, 1], abs=1e-4)


def test_a_closure_brings_the_whole_lips_to_the_persons_own_and_leaves_the_face(model, guard):
    """Not their opening alone: an emotion curls them, and curled lips are drawn apart."""
    emotional = 1.5 * torch.randn(1, model.coefficient_dim, generator=torch.Generator().manual_seed(3))
    shut = guard.shut(emotional, torch.ones(1, 1))
    basis = torch.tensor(model.expression_basis, dtype=torch.float32)
    before, after = (torch.tensordot(x[0], basis, 1).norm(dim=-1) for x in (emotional, shut))
    lips = [point for point in LIPS if point not in AROUND_CORNERS]
    brows = [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]
    assert after[lips].mean() < 0.2 * before[lips].mean() and after[brows].mean() > 0.8 * before[brows].mean()
    assert guard.openings(shut).abs().max() < 0.003
    assert torch.equal(guard.shut(emotional, torch.zeros(1, 1)), emotional)


def test_noise_can_not_move_the_lips_where_nobody_speaks(guard):
    noise = 0.03 + 0.02 * torch.randn(60, generator=torch.Generator().manual_seed(0))
    neutral, speaking = opened(guard, noise), [0.95] * 20 + [0.1] * 40
    lips = guard.openings(streamed(guard, heard(60, speaking=speaking), neutral, neutral))[:, 0]
    settled = 20 + HANGOVER_FRAMES + REST_FRAMES
    assert lips[settled:].abs().max() < 1e-5
    assert lips[:20].tolist() == pytest.approx(noise[:20].tolist(), abs=1e-4)  # in speech they are free
    before = guard.openings(streamed(guard, heard(20, speaking=0.1), neutral[:20], neutral[:20]))
    assert before.abs().max() < 1e-5  # and at rest from the first frame on


def test_lips_come_to_rest_step_by_step_and_start_at_once(guard):
    neutral, speaking = opened(guard, [0.05] * 60), [0.05] * 20 + [0.95] * 10 + [0.05] * 30
    lips = guard.openings(streamed(guard, heard(60, speaking=speaking), neutral, neutral))[:, 0]
    assert lips[:19].abs().max() < 1e-5 and lips[19:30].min() > 0.0499  # a frame before the sound they are free
    falling = lips[30 + HANGOVER_FRAMES - 1 : 30 + HANGOVER_FRAMES + REST_FRAMES + 1]
    assert (falling.diff() <= 1e-6).all() and falling.diff().min() >= -0.05 / REST_FRAMES - 1e-5 and falling[-1].abs() < 1e-5


def test_a_short_pause_between_words_is_no_rest(guard):
    neutral, speaking = opened(guard, [0.05] * 30), [0.95] * 10 + [0.05] * HANGOVER_FRAMES + [0.95] * (20 - HANGOVER_FRAMES)
    lips = guard.openings(streamed(guard, heard(30, speaking=speaking), neutral, neutral))
    assert lips.min() > 0.0499


def test_an_emotion_that_opens_the_mouth_keeps_it_open_at_rest(guard):
    random = torch.Generator().manual_seed(1)
    said = 0.02 * torch.randn(60, generator=random)
    emotional, neutral = opened(guard, said + 0.04 + 0.004 * torch.randn(60, generator=random)), opened(guard, said)
    lips = guard.openings(streamed(guard, heard(60, speaking=0.02), emotional, neutral))[:, 0]
    assert lips[30:].min() > 0.035 and lips[30:].diff().abs().max() < 0.002
    pressed = guard.openings(streamed(guard, heard(60, speaking=0.02), neutral - emotional + neutral, neutral))[:, 0]
    assert pressed[30:].max() < -0.035


@pytest.mark.parametrize("size", [1, 2, 7, 59])
def test_any_pieces_give_the_same_lips(guard, size):
    random = torch.Generator().manual_seed(2)
    articulation = torch.rand(60, ARTICULATION_DIM, generator=random)
    emotional, neutral = 0.5 * torch.randn(2, 60, guard.measures.shape[1], generator=random)
    whole = streamed(guard, articulation, emotional, neutral)
    stream, pieces, done = guard.open(), [], 0
    for begin in range(0, 60, size):
        stream.hear(articulation[begin : begin + size])
        ready = min(begin + size, 60) - 1  # the next frame's sound is heard before a frame is shaped
        pieces.append(stream.push(emotional[done:ready], neutral[done:ready]))
        done = ready
    pieces.append(stream.push(emotional[done:], neutral[done:]))
    torch.testing.assert_close(torch.cat(pieces), whole, atol=3e-5, rtol=0)


def test_a_reset_forgets_the_speech(guard):
    neutral, articulation = opened(guard, [0.05] * 8), heard(8, speaking=0.4)
    stream = guard.open()
    stream.hear(articulation)
    first = stream.push(neutral, neutral)
    stream.hear(heard(3))
    stream.push(opened(guard, [0.2] * 3), neutral[:3])
    stream.reset()
    stream.hear(articulation)
    assert torch.equal(stream.push(neutral, neutral), first)


# --- Training targets ----------------------------------------------------------------------------------------------------------


def test_targets_are_closed_in_silence_and_at_labials(guard):
    silent = np.zeros((2, 60), bool)
    silent[0, 20:40] = True
    spoken = opened(guard, [0.05] * 60).expand(2, -1, -1)
    articulation = heard(60, {50: 0.99}).expand(2, -1, -1)
    lips = guard.openings(as_spoken(spoken, silent, guard, articulation))[..., 0]
    assert lips[0, 20:40].abs().max() < 1e-5 and lips[:, 50].abs().max() < 1e-5
    assert lips[1, :50].min() > 0.0499 and lips[:, [49, 51]].min() > 0.0499
    without = guard.openings(as_spoken(spoken, silent, guard))[..., 0]
    assert without[:, 50].min() > 0.0499 and without[0, 20:40].abs().max() < 1e-5
