"""The discriminator of head training: sees a frame and the rendering it was generated from (docs/method.md section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from gmtalker.models.config import NetworkConfig
from gmtalker.models.head_generator import haar


class Discriminator(ModelMixin, NetworkConfig):
    """Conditional discriminator: a frame and the appearance channels of its rendering to a map of logits.

    widths: channels of each level, from half the size of the picture down.
    """

    @register_to_config
    def __init__(self, widths: Sequence[int] = (32, 64, 128, 128)):
        super().__init__()
        self.enter = nn.Conv2d(24, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths[:-1], widths[1:]))
        self.judge = nn.Conv2d(widths[-1], 1, 3, padding=1)  # to the logits; the name is that of the weights on disk

    def forward(self, frame: Tensor, rendering: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits of frames, positive for real ones.

        frame: (B, 3, H, W) in [-1, 1].
        rendering: (B, 3 or more, H, W) in [-1, 1], of which the first three channels, the appearance, are read.
        Returns: logits (B, 1, H/16, W/16), and the features of each level below the first, for feature matching.
        """
        features = [nn.functional.leaky_relu(self.enter(haar(torch.cat([frame, rendering[:, :3]], dim=1))), 0.2)]
        for down in self.down:
            features.append(nn.functional.leaky_relu(down(features[-1]), 0.2))
        return self.judge(features[-1]), features[1:]
