"""Expression ratio images: how the brightness of the skin changes with expression and emotion (docs/method.md section 3)."""

from __future__ import annotations

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from gmtalker.clock import EMOTIONS
from gmtalker.models.config import NetworkConfig
from gmtalker.tracks import WIDEST_LID

COEFFICIENT_MAX = 5.0  # standard deviations; beyond, more of an expression makes no deeper folds
LID_UNIT, EMOTION_UNIT = 2.0, 3.0  # scales on which lids and emotions count as much as a coefficient


class RatioImages(ModelMixin, NetworkConfig):
    """The logarithm of the skin's brightness over that of the same face at rest, on the canonical grid.

    Linear in the expression and its positive part, so that a raised and a lowered brow have folds of their own, and in the
    emotion, for what the mesh does not show. The same for everybody: folds lie where faces fold.

    coefficient_dim: of the expression.
    grid: cells to a side of the canonical grid.
    Source: the idea, Liu, Shan, Zhang, "Expressive expression mapping with ratio images" (2001); the regression is ours.
    """

    @register_to_config
    def __init__(self, coefficient_dim: int = 40, grid: int = 80) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2 * coefficient_dim + 4 + len(EMOTIONS) - 1, grid * grid))

    def forward(self, coefficients: Tensor, lids: Tensor, emotion: Tensor) -> Tensor:
        """Ratio images (B, grid, grid).

        coefficients: (B, n).
        lids: (B, 2), 0 open to 1 closed.
        emotion: (B, 8) weights.
        """
        images = ratio_features(coefficients, lids, emotion) @ self.weights
        return images.reshape(-1, self.config.grid, self.config.grid)


def ratio_features(coefficients: Tensor, lids: Tensor, emotion: Tensor) -> Tensor:
    """(B, features) of what RatioImages takes; all zero at rest."""
    coefficients = coefficients.clamp(-COEFFICIENT_MAX, COEFFICIENT_MAX)
    lids = LID_UNIT * lids.clamp(WIDEST_LID, 1)
    return torch.cat([coefficients, coefficients.clamp(min=0), lids, lids.clamp(min=0), EMOTION_UNIT * emotion[:, 1:]], dim=1)
