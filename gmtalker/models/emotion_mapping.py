"""EMN: emotion weights to the style vector of the head generator (method section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class EmotionMapping(ModelMixin, ConfigMixin):
    """Emotion mapping network (EMN): z_style -> 2 shared layers -> 8 parallel heads -> times omega -> summed: the style.

    z_style is one fixed draw, kept with the weights (our choice: a style that changed between videos would flicker).
    """

    @register_to_config
    def __init__(self, emotions: int = 8, latent: int = 64, hidden: int = 128, style: int = 64):
        super().__init__()
        self.register_buffer("z_style", torch.randn(1, latent))
        self.shared = nn.Sequential(nn.Linear(latent, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2))
        self.heads = nn.ModuleList(nn.Linear(hidden, style) for _ in range(emotions))

    def forward(self, weights: Tensor) -> Tensor:
        """weights (B, emotions), each row >= 0 with sum 1, to style (B, style)."""
        z = F.normalize(self.z_style, dim=-1) * self.z_style.shape[-1] ** 0.5
        shared = self.shared(z)
        styles = torch.stack([head(shared)[0] for head in self.heads])
        return weights @ styles
