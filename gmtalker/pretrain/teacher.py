"""What the teacher's states know of phones, closures and lips, brought out by a small network (docs/method.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.models.articulation import ARTICULATION_DIM
from gmtalker.models.speech_encoder import IGNORED
from gmtalker.pretrain.recordings import STATES_PER_FRAME, Recording
from gmtalker.pretrain.speech_labels import PHONES

PROBE_WIDTH, PROBE_KERNEL = 192, 5
PLACE_RECORDINGS_MIN, PLACE_SMOOTHING = 200, 3  # recordings that must reach a place for its mean, and frames it is taken over
SURE = 0.9  # probability of a phone from which it is taken for known


class TeacherProbe(nn.Module):
    """From the teacher's states to articulation, phones and lips, two steps a frame, with the neighbours on either side."""

    def __init__(self, state_dim: int, lip_dim: int) -> None:
        super().__init__()
        self.sizes = (ARTICULATION_DIM, len(PHONES), lip_dim)
        self.layers = nn.Sequential(
            nn.Dropout(0.2),
            nn.Conv1d(state_dim, PROBE_WIDTH, 1),
            nn.GELU(),
            nn.Conv1d(PROBE_WIDTH, PROBE_WIDTH, PROBE_KERNEL, padding=PROBE_KERNEL // 2),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Conv1d(PROBE_WIDTH, PROBE_WIDTH, PROBE_KERNEL, padding=PROBE_KERNEL // 2),
            nn.GELU(),
            nn.Conv1d(PROBE_WIDTH, sum(self.sizes), 1),
        )

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of articulation (B, T, 3) and phones (B, T, phones), and lips (B, T, lip_dim), from states (B, T, d)."""
        return self.layers(states.transpose(1, 2)).transpose(1, 2).split(self.sizes, dim=-1)

    def loss(self, batch: ProbeBatch) -> dict[str, Tensor]:
        """Cross-entropies and the lips' mean square over what is known. Returns: "total" and its parts."""
        articulation, phones, lips = self(batch.states)
        known = ~batch.articulation.isnan()
        cost = F.binary_cross_entropy_with_logits(articulation, batch.articulation.nan_to_num(), reduction="none")
        said = F.cross_entropy(phones.flatten(0, 1), batch.phones.flatten(), ignore_index=IGNORED, reduction="sum")
        error = (lips - batch.lips).square().mean(-1) * batch.lips_mask
        parts = {
            "articulation": (cost * known).sum() / known.sum().clamp(min=1),
            "phones": said / (batch.phones != IGNORED).sum().clamp(min=1),
            "lips": error.sum() / batch.lips_mask.sum().clamp(min=1),
        }
        return parts | {"total": parts["articulation"] + 0.2 * parts["phones"] + parts["lips"]}


@dataclass(frozen=True)
class ProbeBatch:
    """Windows of recordings.

    states: (B, T, d), normalised.
    articulation: (B, T, 3), NaN where unknown.
    phones: (B, T), IGNORED where unknown.
    lips, lips_mask: (B, T, lip_dim) and (B, T).
    """

    states: Tensor
    articulation: Tensor
    phones: Tensor
    lips: Tensor
    lips_mask: Tensor


@dataclass(frozen=True)
class StateScale:
    """Mean (places, 2 * width) of the teacher's states at each frame of a recording, and their deviation (2 * width,) around it.

    A Whisper's positions are absolute: of tiny.en's last layer, the place in the recording alone is more than a quarter of the
    variance, which no network that hears a piece could know.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, recordings: Sequence[Recording]) -> StateScale:
        """Over recordings, which the teacher heard from their beginning."""
        longest = max(len(item) for item in recordings)
        total, count = np.zeros((longest, recordings[0].states.shape[1] * STATES_PER_FRAME)), np.zeros((longest, 1))
        for item in recordings:
            states = frame_states(item.states)
            total[: len(states)] += states
            count[: len(states)] += 1
        known = max(1, int((count[:, 0] >= min(PLACE_RECORDINGS_MIN, count[0, 0])).sum()))
        mean = uniform_filter1d(total[:known] / count[:known], PLACE_SMOOTHING, axis=0, mode="nearest").astype(np.float32)
        chosen = recordings[:: max(1, len(recordings) // 400)]
        rows = [frame_states(item.states) - mean[np.minimum(np.arange(len(item)), known - 1)] for item in chosen]
        return cls(mean, (np.concatenate(rows).std(0) + 1e-3).astype(np.float32))

    def __call__(self, states: np.ndarray, first: int = 0) -> np.ndarray:
        """(frames, 2 * width) float32 with mean 0 and deviation 1, of states (2 * frames, width) from frame `first` on."""
        rows = frame_states(states).astype(np.float32)
        return (rows - self.mean[np.minimum(np.arange(first, first + len(rows)), len(self.mean) - 1)]) / self.deviation


def frame_states(states: np.ndarray) -> np.ndarray:
    """(frames, 2 * width): the two steps of each frame side by side, of states (2 * frames, width)."""
    return states.reshape(len(states) // STATES_PER_FRAME, -1)


@torch.no_grad()
def with_labels(probe: TeacherProbe, scale: StateScale, recording: Recording) -> Recording:
    """A recording labelled by the probe where nothing was known: articulation as probabilities, phones where it is sure."""
    device = next(probe.parameters()).device
    articulation, phones, _ = probe.eval()(torch.from_numpy(scale(recording.states))[None].to(device))
    shares, best = phones[0].softmax(-1).max(-1)
    guess, named = articulation[0].sigmoid().cpu().numpy(), np.where((shares > SURE).cpu(), best.cpu(), IGNORED)
    return replace(
        recording,
        articulation=np.where(np.isnan(recording.articulation), guess, recording.articulation).astype(np.float32),
        phones=np.where(recording.phones == IGNORED, named, recording.phones),
    )
