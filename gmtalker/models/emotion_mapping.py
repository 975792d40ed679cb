"""EMN: emotion weights to the style vector of the head generator (docs/method.md section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from gmtalker.models.config import NetworkConfig


class EmotionMapping(ModelMixin, NetworkConfig):
    """Emotion mapping network (EMN): z_style passes shared layers and one head per emotion; the heads' weighted sum is the style.

    z_style is one fixed draw, stored with the weights: a style that changed between videos would flicker.

    latent_dim: size of z_style.
    hidden_dim: width of the shared layers.
    style_dim: size of the style vector.
    Source: docs/method.md section 3, equation (19).
    """

    FORMER_NAMES = {"emotions": "num_emotions", "latent": "latent_dim", "hidden": "hidden_dim", "style": "style_dim"}

    @register_to_config
    def __init__(self, num_emotions: int = 8, latent_dim: int = 64, hidden_dim: int = 128, style_dim: int = 64):
        super().__init__()
        self.register_buffer("z_style", torch.randn(1, latent_dim))
        self.shared = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim), nn.LeakyReLU(0.2), nn.Linear(hidden_dim, hidden_dim), nn.LeakyReLU(0.2)
        )
        self.heads = nn.ModuleList(nn.Linear(hidden_dim, style_dim) for _ in range(num_emotions))

    def forward(self, weights: Tensor) -> Tensor:
        """Style (B, style_dim) for emotion weights (B, num_emotions), rows that are >= 0 and sum to 1."""
        z = F.normalize(self.z_style, dim=-1) * self.z_style.shape[-1] ** 0.5
        shared = self.shared(z)
        styles = torch.stack([head(shared)[0] for head in self.heads])
        return weights @ styles
