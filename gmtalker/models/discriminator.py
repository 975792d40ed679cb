"""The critic of head training: sees a frame and the rendering it was drawn from together (method section 3)."""

from __future__ import annotations

from typing import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from gmtalker.models.head_generator import haar


class Discriminator(ModelMixin, ConfigMixin):
    """Conditional discriminator: frame (B, 3, H, W) and the rendering's look (B, 3, H, W) to a map of logits and its features."""

    @register_to_config
    def __init__(self, widths: Sequence[int] = (32, 64, 128, 128)):
        super().__init__()
        self.enter = nn.Conv2d(24, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths[:-1], widths[1:]))
        self.judge = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, frame: Tensor, rendering: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, 1, H/16, W/16), and each level's features for feature matching."""
        features = [nn.functional.leaky_relu(self.enter(haar(torch.cat([frame, rendering[:, :3]], dim=1))), 0.2)]
        for down in self.down:
            features.append(nn.functional.leaky_relu(down(features[-1]), 0.2))
        return self.judge(features[-1]), features[1:]
