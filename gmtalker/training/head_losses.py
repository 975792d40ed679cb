"""Losses of the head generator and its discriminator: docs/method.md section 3, equations (20) and (21)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gmtalker.face.landmarks import EYE_REGION, LIPS
from gmtalker.face.model import FaceModel
from gmtalker.face.renderer import CanonicalBox
from gmtalker.models.discriminator import Discriminator

# Keyed like the reported figures. L1 in [-1, 1] is small beside the discriminator's logits, so it is weighted up (our choice).
LOSS_WEIGHTS = {
    "pixel": 10.0,
    "edges": 5.0,
    "structure": 5.0,
    "texture": 0.2,
    "adversarial": 0.05,
    "features": 1.0,
    "anchor": 1.0,
    "matte": 4.0,
}
DETAIL = 2e-3  # energy of the Laplacian, in [-1, 1], below which it is the noise of a camera
MOUTH_WEIGHT, EYE_WEIGHT = 3.0, 3.0
SSIM_WINDOW = 7  # pixels


class PixelWeights:
    """How much each pixel counts: more where people look, at mouth and eyes, found by the rendering's canonical coordinates."""

    def __init__(self, model: FaceModel):
        self.boxes = (
            (MOUTH_WEIGHT, CanonicalBox.around(model, LIPS, (10, 8), (10, 12))),
            (EYE_WEIGHT, CanonicalBox.around(model, EYE_REGION, (4, 4), (4, 4))),
        )

    def __call__(self, rendering: Tensor) -> Tensor:
        """W of equation (20).

        rendering: (B, H, W, channels) uint8.
        Returns: (B, H, W) float32, 1 where nobody looks.
        """
        weight = torch.ones(rendering.shape[:3], device=rendering.device)
        for extra, box in self.boxes:
            weight += extra * box.holds(rendering)
        return weight


def matte_loss(drawn: Tensor, matte: Tensor) -> Tensor:
    """L_matte: L1 to the person's outline as the segmentation sees it.

    drawn: (m, H, W) in [-1, 1], -1 for what is behind.
    matte: (m, H, W) uint8, 255 for the person.
    """
    return F.l1_loss(drawn, matte.float() / 127.5 - 1)


def reconstruction_losses(generated: Tensor, frame: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """L_pix, L_edge, L_ssim and L_tex, by the names of LOSS_WEIGHTS.

    generated, frame: (B, 3, H, W) in [-1, 1].
    weight: W, (B, 1, H, W).
    """
    return {
        "pixel": ((generated - frame).abs() * weight).mean(),
        "edges": edge_loss(generated, frame),
        "structure": structure_loss(generated, frame),
        "texture": texture_loss(generated, frame, weight.square()),
    }


def edge_loss(generated: Tensor, frame: Tensor) -> Tensor:
    """L_edge: L1 distance of horizontal and of vertical pixel differences, which keeps edges that plain L1 blurs.

    generated, frame: (B, 3, H, W).
    """
    across = (generated.diff(dim=-1) - frame.diff(dim=-1)).abs().mean()
    return across + (generated.diff(dim=-2) - frame.diff(dim=-2)).abs().mean()


def structure_loss(generated: Tensor, frame: Tensor) -> Tensor:
    """L_ssim = 1 - SSIM, in windows of SSIM_WINDOW.

    generated, frame: (B, 3, H, W) in [-1, 1].
    Source: Wang et al. 2004, equation 13.
    """

    channels = generated.shape[1]
    row = generated.new_full((channels, 1, 1, SSIM_WINDOW), 1 / SSIM_WINDOW)

    def mean(picture: Tensor) -> Tensor:
        # Rows, then columns, as convolutions: PyTorch's pooling of 7 x 7 on a CPU takes ten times as long.
        return F.conv2d(F.conv2d(picture, row, groups=channels), row.transpose(2, 3), groups=channels)

    # ... and four times as long over planes as over pixels.
    generated, frame = (picture.contiguous(memory_format=torch.channels_last) for picture in (generated, frame))
    a, b = mean(generated), mean(frame)
    variances = mean(generated.square()) - a.square() + mean(frame.square()) - b.square()
    covariance = mean(generated * frame) - a * b
    # 0.01 and 0.03 of the range 2, squared
    similar = (2 * a * b + 4e-4) * (2 * covariance + 3.6e-3) / ((a.square() + b.square() + 4e-4) * (variances + 3.6e-3))
    return 1 - similar.mean()


def texture_loss(generated: Tensor, frame: Tensor, weight: Tensor) -> Tensor:
    """L_tex: difference of the log energies of detail, so that what plain L1 leaves smooth costs here.

    The energy is the mean squared Laplacian of grey in blocks of 8 pixels.

    generated, frame: (B, 3, H, W) in [-1, 1].
    weight: (B, 1, H, W), W squared in training.
    """

    def energy(picture: Tensor) -> Tensor:
        grey = picture.mean(1, keepdim=True)
        around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
        return F.avg_pool2d((around - 4 * grey[..., 1:-1, 1:-1]).square(), 8, 4)

    difference = (energy(generated) + DETAIL).log() - (energy(frame) + DETAIL).log()
    return (difference.abs() * F.adaptive_avg_pool2d(weight, difference.shape[-2:])).mean()


def adversarial_loss(logits: Tensor, weight: Tensor) -> Tensor:
    """L_adv: the non-saturating GAN loss of the generator.

    Weighted where people look: there, a mouth or an eye that is right on average is blurred.

    logits: the discriminator's of generated frames, (B, 1, h, w).
    weight: W squared, (B, 1, H, W).
    """
    return (F.softplus(-logits.float()) * F.adaptive_avg_pool2d(weight, logits.shape[-2:])).mean()


def feature_matching_loss(generated: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """L_feat: mean L1 distance of the discriminator's feature maps of generated and real frames.

    Source: pix2pixHD, arXiv 1711.11585.
    """
    return sum(F.l1_loss(a.float(), b.float()) for a, b in zip(generated, real)) / len(generated)


def discriminator_loss(generated: Tensor, real: Tensor) -> Tensor:
    """The first term of L_D, equation (21), from the logits of generated and of real frames, (B, 1, h, w)."""
    return F.softplus(generated.float()).mean() + F.softplus(-real.float()).mean()


def r1_penalty(discriminator: Discriminator, frame: Tensor, rendering: Tensor) -> Tensor:
    """Squared norm of the discriminator's gradient at real frames: the last term of L_D, equation (21), without its weight.

    frame: (B, 3, H, W) in [-1, 1].
    rendering: (B, channels, H, W) in [-1, 1].
    Source: arXiv 1801.04406.
    """
    frame = frame.detach().requires_grad_()
    logits, _ = discriminator(frame, rendering)
    # The mean over the map stands for StyleGAN2's one logit; a sum would smother the discriminator.
    (gradient,) = torch.autograd.grad(logits.mean((1, 2, 3)).sum(), frame, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()
