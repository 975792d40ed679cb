"""What a speech encoder says of the mouth beside its features: lips closed, lips rounded, somebody speaks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.models.config import NetworkConfig

ARTICULATION_DIM = 3
CLOSED, ROUNDED, SPEAKING = -3, -2, -1  # columns of speech features (frames, d): probabilities
ARTICULATION_NAMES = ("closed", "rounded", "speaking")  # of these columns, in their order
# Of frames that have each: a closure that is missed is an open mouth, one too many a blink of the lips.
POSITIVE_WEIGHTS = (3.0, 1.0, 1.0)
BACK, AHEAD = 2, 1  # frames that the head's first convolution reads before and after each; the second reads no later ones


SURE = 0.85  # of the probability that somebody speaks
SPOKEN_FRAMES, SPOKEN_SHARE = 5, 0.02  # of a sound's frames, in which somebody surely speaks, or nobody does at all


def is_spoken(features: Tensor) -> bool:
    """Whether anybody speaks in a sound, of its speech features (frames, d): music, noise and humming are no speech."""
    sure = int((features[:, SPEAKING] > SURE).sum())
    return sure >= max(SPOKEN_FRAMES, SPOKEN_SHARE * len(features))


@dataclass(frozen=True)
class ArticulationBatch:
    """Stretches of speech with what is known of the mouth.

    features: (B, T, d) speech features.
    targets: (B, T, 3) probabilities in the order of ARTICULATION_NAMES, NaN where unknown.
    """

    features: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        assert self.targets.shape == (*self.features.shape[:2], ARTICULATION_DIM)


class ArticulationHead(ModelMixin, NetworkConfig):
    """Articulation of each frame from the features of a frozen encoder, at most one frame after it.

    feature_dim: features per video frame that it reads.
    width: channels of its convolutions.
    Source: docs/method.md section 5.
    """

    @register_to_config
    def __init__(self, feature_dim: int, width: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_dim)
        self.project = nn.Sequential(nn.Dropout(dropout), nn.Linear(feature_dim, width), nn.GELU())
        self.near = nn.Conv1d(width, width, BACK + 1 + AHEAD)
        self.past = nn.Conv1d(width, width, 3, dilation=2)
        self.out = nn.Linear(width, ARTICULATION_DIM)

    @property
    def feature_dim(self) -> int:
        """Features per video frame that it reads."""
        return self.norm.normalized_shape[0]

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, T, 3) in the order of ARTICULATION_NAMES, from features (B, T, feature_dim)."""
        x = self.project(self.norm(features)).transpose(1, 2)
        x = x + F.gelu(self.near(F.pad(x, (BACK, AHEAD))))
        x = x + F.gelu(self.past(F.pad(x, (4, 0))))
        return self.out(x.transpose(1, 2))

    def loss(self, batch: ArticulationBatch) -> dict[str, Tensor]:
        """L_articulation: "total", the sum of the parts that articulation_losses gives, and these."""
        parts = articulation_losses(self(batch.features), batch.targets)
        return {"total": sum(parts.values())} | parts


def articulation_losses(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Binary cross-entropy of each articulation over its known entries; 0 where none is known.

    logits: (B, T, 3).
    targets: (B, T, 3) probabilities, NaN where unknown.
    Returns: the mean losses by ARTICULATION_NAMES.
    """
    known = ~targets.isnan()
    weight = torch.tensor(POSITIVE_WEIGHTS, device=logits.device)
    targets = targets.nan_to_num().float()
    entropy = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none", pos_weight=weight) * known
    means = entropy.sum((0, 1)) / known.sum((0, 1)).clamp(min=1)
    return dict(zip(ARTICULATION_NAMES, means))
