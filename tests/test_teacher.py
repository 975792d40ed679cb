"""The probe of the teacher's states: what it learns, and the labels that it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gmtalker.clock import SAMPLES_PER_FRAME
from gmtalker.models.articulation import ARTICULATION_DIM, CLOSED, SPEAKING
from gmtalker.models.speech_encoder import IGNORED
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.recordings import Recording
from gmtalker.pretrain.speech_labels import PHONES
from gmtalker.pretrain.teacher import SURE, ProbeBatch, StateScale, TeacherProbe, frame_states, with_labels

WIDTH, LIPS = 6, 4
DIM = 2 * WIDTH


def recording(frames: int = 20, seed: int = 0, **changes) -> Recording:
    """A recording of random states, of which nothing is known."""
    states = (3 + 5 * np.random.default_rng(seed).standard_normal((2 * frames, WIDTH))).astype(np.float16)
    row = Row(Path("a.wav"), "a.wav", "speech", "p", 3.0, True, None, "ok")
    sound, phones = np.zeros(frames * SAMPLES_PER_FRAME, np.int16), np.full(frames, IGNORED, np.int64)
    nothing = np.full((frames, ARTICULATION_DIM), np.nan, np.float32)
    return replace(Recording(row, 0, 1.0, sound, states, phones, nothing), **changes)


def batch_of(clips: int = 8, frames: int = 20) -> ProbeBatch:
    """Windows whose targets can be read off single states."""
    states = torch.randn(clips, frames, DIM, generator=torch.Generator().manual_seed(0))
    return ProbeBatch(
        states,
        articulation=(states[..., :3] > 0).float(),
        phones=states[..., 3:8].argmax(-1),
        lips=states[..., 8 : 8 + LIPS],
        lips_mask=torch.ones(clips, frames, dtype=torch.bool),
    )


def test_the_two_steps_of_a_frame_stand_side_by_side():
    states = np.arange(4 * WIDTH).reshape(4, WIDTH)
    frames = frame_states(states)
    assert frames.shape == (2, DIM) and frames[1].tolist() == [*states[2], *states[3]]


def test_states_are_scaled_to_mean_0_and_deviation_1():
    recordings = [recording(seed=seed) for seed in range(40)]
    scale = StateScale.of(recordings)
    scaled = np.concatenate([scale(item.states) for item in recordings])
    assert scaled.shape == (800, DIM) and scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(scaled.std(0), 1, atol=0.05)
    constant = [recording(states=np.full((40, WIDTH), 7, np.float16))]
    assert np.isfinite(StateScale.of(constant)(constant[0].states)).all()


def test_what_the_states_say_of_their_place_is_taken_off():
    """A teacher with absolute positions says the same of every recording at the same moment."""
    positions = np.repeat(np.linspace(-20, 20, 20), 2)[:, None]
    recordings = [recording(seed=seed) for seed in range(40)]
    moved = [replace(item, states=(item.states + positions).astype(np.float16)) for item in recordings]
    scale, plain = StateScale.of(moved), StateScale.of(recordings)
    inner = slice(2, -2)  # at the ends the mean over neighbouring places is lopsided
    np.testing.assert_allclose(scale(moved[0].states)[inner], plain(recordings[0].states)[inner], atol=0.05)
    np.testing.assert_array_equal(scale(moved[0].states[10:], first=5), scale(moved[0].states)[5:])
    longer = recording(frames=30)
    assert np.isfinite(scale(longer.states)).all() and len(scale(longer.states)) == 30  # beyond the longest that was heard


def test_places_that_few_recordings_reach_have_no_mean_of_their_own():
    recordings = [recording(frames=20, seed=seed) for seed in range(300)] + [recording(frames=50)]
    assert len(StateScale.of(recordings).mean) == 20


def test_the_probe_learns_all_it_is_told():
    torch.manual_seed(0)
    probe, batch = TeacherProbe(DIM, LIPS), batch_of()
    optimizer, losses = torch.optim.AdamW(probe.parameters(), 3e-3), []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(probe.loss(batch))
        losses[-1]["total"].backward()
        optimizer.step()
    assert losses[0].keys() == {"articulation", "phones", "lips", "total"}
    assert all(losses[-1][name].item() < 0.6 * losses[0][name].item() for name in losses[0])


def test_what_is_unknown_costs_the_probe_nothing():
    probe, batch = TeacherProbe(DIM, LIPS).eval(), batch_of()
    unknown = replace(
        batch,
        articulation=torch.full_like(batch.articulation, torch.nan),
        phones=torch.full_like(batch.phones, IGNORED),
        lips_mask=torch.zeros_like(batch.lips_mask),
    )
    assert probe.loss(unknown)["total"].item() == 0
    half = batch.lips_mask.clone()
    half[:, 10:] = False
    wild = replace(batch, lips=batch.lips.masked_fill(~half[..., None], 1e3), lips_mask=half)
    assert probe.loss(wild)["lips"] == probe.loss(replace(batch, lips_mask=half))["lips"]


class SurePhone(torch.nn.Module):
    """A probe that hears closed lips and one phone, m, as surely as it is told."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = torch.nn.Parameter(torch.tensor(logit))

    def forward(self, states: torch.Tensor):
        articulation = torch.zeros(*states.shape[:2], ARTICULATION_DIM)
        articulation[..., CLOSED] = 2.0
        phones = torch.zeros(*states.shape[:2], len(PHONES))
        phones[..., PHONES.index("m")] = self.logit
        return articulation, phones, torch.zeros(*states.shape[:2], LIPS)


def test_labels_are_given_where_nothing_was_known_and_phones_only_surely():
    known = recording()
    known.articulation[5] = 0.0, 1.0, 1.0
    known.phones[5] = PHONES.index("u")
    scale = StateScale.of([known])
    sure, unsure = (with_labels(SurePhone(logit), scale, known) for logit in (10.0, 1.0))
    assert sure.articulation[5].tolist() == [0.0, 1.0, 1.0] and sure.phones[5] == PHONES.index("u")
    others = np.arange(20) != 5
    np.testing.assert_allclose(sure.articulation[others, CLOSED], torch.tensor(2.0).sigmoid().item(), atol=1e-5)
    np.testing.assert_allclose(sure.articulation[others, SPEAKING], 0.5)
    assert (sure.phones[others] == PHONES.index("m")).all() and (unsure.phones[others] == IGNORED).all()
    assert 0.5 < SURE < 1 and np.isnan(known.articulation[others]).all()  # the recording itself is left as it was
