"""How well lips and sound belong together, by the lip-sync network: agreement and lag (docs/method.md section 4, "Sync")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from gmtalker.assets import GENERIC
from gmtalker.clock import FPS
from gmtalker.device import one_core
from gmtalker.face.model import FaceModel
from gmtalker.models.lip_sync import LAG_MAX, LipSync, read_correlation
from gmtalker.models.weights import CONFIG_FILE, load_strict

FOLDER = "lip_sync"  # of the network, among the generic stages
CONFIDENCE_MIN = 2.0  # from which the lag is believed, and the sound is the mouth's
FRAMES_MIN = 2 * LAG_MAX  # of a clip; a shorter one does not hold every lag


@dataclass(frozen=True)
class SpokenLips:
    """One clip: what is heard and what the lips do; frames beyond the shorter of the two are ignored.

    features: (frames, d) speech features.
    lips: (frames, lip points * 3) displacement from the neutral face, in face heights.
    known: (frames,) bool, where the lips count; None is everywhere.
    """

    features: Tensor
    lips: Tensor
    known: np.ndarray | None = None

    @classmethod
    def of_track(
        cls, features: Tensor, coefficients: Tensor | np.ndarray, model: FaceModel, known: np.ndarray | None = None
    ) -> SpokenLips:
        """The lips of expression coefficients (frames, n), generated or tracked."""
        return cls(features, torch.as_tensor(np.asarray(coefficients), dtype=torch.float32) @ model.lip_basis(), known)

    def cut(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features, lips and known of the frames that there are of both."""
        frames = min(len(self.features), len(self.lips))
        known = np.ones(frames, bool) if self.known is None else self.known[:frames]
        return self.features[:frames].cpu().float(), self.lips[:frames].cpu(), torch.from_numpy(known.copy())


@dataclass(frozen=True)
class SyncMeasure:
    """How well lips and sound belong together.

    agreement: correlation of their embeddings at the best lag less that at far lags; unrelated sound has little, and less the
        longer it is.
    lag_frames: by how many frames the sound is late, at most LAG_MAX to either side; early below 0.
    confidence: agreement over what unrelated speech of as many frames gets on average: 1 is chance.
    frames: how many were compared.
    """

    agreement: float
    lag_frames: float
    confidence: float
    frames: int

    @property
    def lag_ms(self) -> float:
        """The lag in milliseconds."""
        return 1000 * self.lag_frames / FPS

    @property
    def is_sure(self) -> bool:
        """Whether the sound is the mouth's, so that the lag means something."""
        return self.confidence >= CONFIDENCE_MIN

    def figures(self) -> dict[str, float]:
        """As the commands of measuring write them."""
        return {
            "sync_agreement": round(self.agreement, 3),
            "sync_lag_frames": round(self.lag_frames, 2),
            "sync_lag_ms": round(self.lag_ms),
            "sync_confidence": round(self.confidence, 2),
        }


@cache
def load_lip_sync(feature_dim: int) -> LipSync | None:
    """The bundled lip-sync network; None where there is none for speech features of this size."""
    if not (GENERIC / FOLDER / CONFIG_FILE).is_file():
        return None
    network = load_strict(LipSync, GENERIC / FOLDER)
    return network if network.config.feature_dim == feature_dim else None


def sync_of(network: LipSync, features: Tensor, lips: Tensor, known: np.ndarray | None = None) -> SyncMeasure | None:
    """Agreement and lag of one clip; the fields of SpokenLips. None for a clip that is too short."""
    return sync_of_clips(network, [SpokenLips(features, lips, known)])


@torch.no_grad()
@one_core()
def sync_of_clips(network: LipSync, clips: Sequence[SpokenLips]) -> SyncMeasure | None:
    """Agreement and lag of clips that share one lag, each counted by its frames. None when all of them are too short.

    Source: docs/method.md section 4, equation (25a).
    """
    correlations, frames = [], []
    for features, lips, known in (clip.cut() for clip in clips):
        if known.sum() >= FRAMES_MIN:
            correlations.append(network.correlate(features, lips, known))
            frames.append(int(known.sum()))
    if not frames:
        return None
    weights = torch.tensor(frames) / sum(frames)
    agreement, lag = read_correlation((weights[:, None] * torch.stack(correlations)).sum(0))
    return SyncMeasure(agreement, lag, agreement * sum(frames) ** 0.5 / float(network.chance), sum(frames))


def sync_figures(made: Sequence[SpokenLips], real: Sequence[SpokenLips] = ()) -> dict[str, float]:
    """Figures of generated lips, and under names that end in "_real" those of the real person's lips with the same speech.

    Returns: empty where there is no network for these features, or too little speech.
    """
    network = load_lip_sync(made[0].features.shape[1]) if made else None
    figures: dict[str, float] = {}
    for clips, suffix in ((made, ""), (real, "_real")):
        measure = None if network is None else sync_of_clips(network, clips)
        if measure is not None:
            figures |= {f"{name}{suffix}": value for name, value in measure.figures().items()}
    return figures
