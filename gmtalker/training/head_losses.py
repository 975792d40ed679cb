"""Losses of the head generator (docs/method.md, EGHG)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gmtalker.face.landmarks import EYE_REGION, LIPS
from gmtalker.face.model import FaceModel
from gmtalker.face.renderer import canonical_colours

# Weights are keyed like the metrics. L1 in [-1, 1] is small beside the critic's logits, so it is weighted up (our choice).
LOSS_WEIGHTS = {"pixel": 10.0, "edges": 5.0, "structure": 5.0, "texture": 0.2, "critic": 0.05, "features": 1.0, "anchor": 1.0}


DETAIL = 2e-3  # energy of the Laplacian, in [-1, 1], below which it is the noise of a camera
MOUTH_WEIGHT, EYE_WEIGHT = 3.0, 2.0


class PixelWeights:
    """More weight where people look: mouth and eyes, found by the canonical coordinates that the rendering carries."""

    def __init__(self, model: FaceModel):
        place = canonical_colours(model, model.mean_shape)
        lips, eyes = place[list(LIPS), :2], place[list(EYE_REGION), :2]
        self.boxes = (
            (MOUTH_WEIGHT, lips.min(0) - [10, 8], lips.max(0) + [10, 12]),
            (EYE_WEIGHT, eyes.min(0) - 4, eyes.max(0) + 4),
        )

    def __call__(self, rendering: Tensor) -> Tensor:
        """(B, H, W, channels) uint8 to (B, H, W) float32."""
        weight = torch.ones(rendering.shape[:3], device=rendering.device)
        for extra, low, high in self.boxes:
            across, down = rendering[..., 3], rendering[..., 4]
            inside = (across >= low[0]) & (across <= high[0]) & (down >= low[1]) & (down <= high[1])
            weight += extra * inside
        return weight


def edge_loss(drawn: Tensor, frame: Tensor) -> Tensor:
    """L1 between horizontal and vertical differences: holds edges where plain L1 blurs them."""
    across = (drawn.diff(dim=-1) - frame.diff(dim=-1)).abs().mean()
    return across + (drawn.diff(dim=-2) - frame.diff(dim=-2)).abs().mean()


def structure_loss(drawn: Tensor, frame: Tensor) -> Tensor:
    """1 - SSIM of pictures (B, 3, H, W) in [-1, 1], in windows of 7 (Wang et al. 2004, equation 13)."""

    def mean(picture: Tensor) -> Tensor:
        return F.avg_pool2d(picture, 7, 1)

    a, b = mean(drawn), mean(frame)
    variances = mean(drawn.square()) - a.square() + mean(frame.square()) - b.square()
    covariance = mean(drawn * frame) - a * b
    # 0.01 and 0.03 of the range 2, squared
    similar = (2 * a * b + 4e-4) * (2 * covariance + 3.6e-3) / ((a.square() + b.square() + 4e-4) * (variances + 3.6e-3))
    return 1 - similar.mean()


def texture_loss(drawn: Tensor, frame: Tensor, weight: Tensor) -> Tensor:
    """How far apart the energies of detail are, log of the Laplacian's in blocks of 8: what plain L1 leaves smooth costs here."""

    def energy(picture: Tensor) -> Tensor:
        grey = picture.mean(1, keepdim=True)
        around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
        return F.avg_pool2d((around - 4 * grey[..., 1:-1, 1:-1]).square(), 8, 4)

    apart = (energy(drawn) + DETAIL).log() - (energy(frame) + DETAIL).log()
    return (apart.abs() * F.adaptive_avg_pool2d(weight, apart.shape[-2:])).mean()
