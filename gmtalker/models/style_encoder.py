"""From a person's clips to how they speak: the style embedding of the expression generator (docs/method.md section 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmtalker.models.attention import EncoderLayer

STYLE_RANGE = 1.5  # to either side, of each number of a style
STYLE_NOISE = 0.2  # of a style while training, so that styles nearby speak alike


class StyleEncoder(nn.Module):
    """Expression and speech of a clip to one small vector, the speaking style; 0 is the average person's.

    The decoder reads the style of another clip of the same person, so the vector holds what their clips share: how far the mouth
    opens for which sound, and what the lips do beside.
    Source: s_n of docs/method.md section 1, which is a table of speakers in FaceFormer (arXiv 2112.05329).
    """

    def __init__(self, coefficient_dim: int, feature_dim: int, width: int, heads: int, reach: int, style_dim: int) -> None:
        super().__init__()
        self.embed_expression = nn.Linear(2 * coefficient_dim, width)
        self.embed_speech = nn.Linear(feature_dim, width)
        self.layer = EncoderLayer(width, heads, reach, reach, dropout=0.1)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(2 * width, style_dim)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)

    def forward(self, expression: Tensor, speech: Tensor, mask: Tensor) -> Tensor:
        """The style (B, style_dim) of clips.

        expression: (B, T, coefficient_dim).
        speech: (B, T, feature_dim).
        mask: (B, T), True on frames that count.
        """
        speed = torch.diff(expression, dim=1, prepend=expression[:, :1])
        x = self.embed_expression(torch.cat([expression, speed], dim=-1)) + self.embed_speech(speech)
        x = self.norm(self.layer(x, mask))
        weight = mask[..., None].to(x)
        count = weight.sum(1).clamp(min=1)
        mean = (x * weight).sum(1) / count
        spread = (((x - mean[:, None]).square() * weight).sum(1) / count + 1e-6).sqrt()
        style = STYLE_RANGE * torch.tanh(self.project(torch.cat([mean, spread], dim=-1)))
        return style + STYLE_NOISE * torch.randn_like(style) if self.training else style
