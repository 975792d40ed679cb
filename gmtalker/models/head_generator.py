"""EGHG: StyleUNet draws the person from the rendered face; the emotion style modulates its decoder only (method section 3)."""

from __future__ import annotations

import math
from typing import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


def haar(picture: Tensor) -> Tensor:
    """(B, C, H, W) to its Haar wavelet coefficients (B, 4C, H/2, W/2): mean, vertical, horizontal, diagonal; orthonormal."""
    a, b = picture[..., 0::2, 0::2], picture[..., 0::2, 1::2]
    c, d = picture[..., 1::2, 0::2], picture[..., 1::2, 1::2]
    return torch.cat([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d], dim=1) / 2


def inverse_haar(coefficients: Tensor) -> Tensor:
    """The inverse of haar: (B, 4C, H, W) to (B, C, 2H, 2W)."""
    mean, vertical, horizontal, diagonal = coefficients.chunk(4, dim=1)
    a, b = mean + vertical + horizontal + diagonal, mean + vertical - horizontal - diagonal
    c, d = mean - vertical + horizontal - diagonal, mean - vertical - horizontal + diagonal
    # One pixel shuffle puts the four corners of each 2x2 block in place without strided writes.
    return F.pixel_shuffle(torch.stack([a, b, c, d], dim=2).flatten(1, 2) / 2, 2)


class ModulatedConvolution(nn.Module):
    """StyleGAN2 convolution: the style scales the input channels, demodulation restores unit variance.

    arXiv 1912.04958, equations 1 to 3. Written as scaling before and after one shared convolution: the same, and it batches
    on any device.
    """

    def __init__(self, inputs: int, outputs: int, style: int, kernel: int = 3, up: bool = False, demodulate: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / math.sqrt(inputs * kernel**2))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = nn.Linear(style, inputs)
        nn.init.normal_(self.affine.weight, std=0.1 / math.sqrt(style))
        nn.init.ones_(self.affine.bias)
        self.up, self.demodulate = up, demodulate

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        scale = self.affine(style)
        features = F.conv2d(
            features * scale[:, :, None, None].to(features.dtype), self.weight, padding=self.weight.shape[-1] // 2
        )
        if self.demodulate:
            energy = self.weight.float().square().sum((2, 3))
            factor = torch.rsqrt(scale.float().square() @ energy.T + 1e-8)
            features = features * factor[:, :, None, None].to(features.dtype)
        if self.up:  # after the convolution, which costs a quarter there (our choice; StyleGAN2's transposed one works at twice)
            features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
        return features + self.bias[None, :, None, None].to(features.dtype)


class Noise(nn.Module):
    """Fixed noise with a learned strength: the same in every frame, so that texture does not flicker."""

    def __init__(self, size: int):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(1))
        self.register_buffer("pattern", torch.randn(1, 1, size, size))

    def forward(self, features: Tensor) -> Tensor:
        return features + (self.strength * self.pattern).to(features.dtype)


class DecoderLevel(nn.Module):
    """One resolution of the synthesis network: modulated convolution (up), encoder map joined, modulated convolution, ToRGB."""

    def __init__(self, inputs: int, skip: int, outputs: int, style: int, size: int, up: bool):
        super().__init__()
        self.first = ModulatedConvolution(inputs, outputs, style, up=up)
        self.second = ModulatedConvolution(outputs + skip, outputs, style)
        self.first_noise, self.second_noise = Noise(size), Noise(size)
        self.to_rgb = ModulatedConvolution(outputs, 12, style, kernel=1, demodulate=False)
        nn.init.normal_(self.to_rgb.weight, std=0.02)

    def forward(self, features: Tensor, skip: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        features = F.leaky_relu(self.first_noise(self.first(features, style)), 0.2)
        features = F.leaky_relu(self.second_noise(self.second(torch.cat([features, skip], dim=1), style)), 0.2)
        return features, self.to_rgb(features, style)


# Of size/2, size/4, ... down to 8. 1024 is 512 with one more level at its end, and starts from it.
WIDTHS = {
    256: (32, 64, 128, 192, 256),
    512: (24, 48, 96, 160, 224, 256),
    1024: (16, 24, 48, 96, 160, 224, 256),
}
# StyleAvatar's at 512 (arXiv 2305.00942), and the same without its last level.
REFERENCE_WIDTHS = {256: (128, 256, 512, 512, 512), 512: (64, 128, 256, 512, 512, 512)}


class HeadGenerator(ModelMixin, ConfigMixin):
    """StyleUNet of the EGHG: rendering (B, channels, size, size) in [-1, 1] and style (B, style) to a frame (B, 3, size, size).

    RGB leaves, and the rendering enters, as Haar coefficients at half size; widths are those of size/2, size/4, ... down to 8:
    WIDTHS, for two CPU cores (our choice), or REFERENCE_WIDTHS.
    """

    @register_to_config
    def __init__(self, size: int = 256, channels: int = 8, style: int = 64, widths: Sequence[int] = WIDTHS[256]):
        super().__init__()
        if size // 2 >> (len(widths) - 1) < 4:
            raise ValueError(f"{len(widths)} widths are too many for a picture of {size} pixels")
        self.enter = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(b, b, 3, padding=1), nn.LeakyReLU(0.2)
            )
            for a, b in zip(widths[:-1], widths[1:])
        )
        sizes = [size // 2 >> level for level in range(len(widths))]
        levels = []
        for level in reversed(range(len(widths))):
            deepest = level == len(widths) - 1
            inputs = widths[level] if deepest else widths[level + 1]
            levels.append(DecoderLevel(inputs, widths[level], widths[level], style, sizes[level], up=not deepest))
        self.levels = nn.ModuleList(levels)

    @torch.no_grad()
    def adopt(self, smaller: HeadGenerator) -> None:
        """Take over the levels of a generator that draws smaller pictures with the same widths; those beyond stay as they are."""
        shift = len(self.down) - len(smaller.down)
        for name, weight in smaller.state_dict().items():
            if name.startswith("down."):
                _, level, rest = name.split(".", 2)
                name = f"down.{int(level) + shift}.{rest}"
            elif not name.startswith("levels."):
                continue  # it reads the picture at another size
            own = self.get_parameter(name) if name in dict(self.named_parameters()) else self.get_buffer(name)
            own.copy_(weight)

    def forward(self, rendering: Tensor, style: Tensor) -> Tensor:
        features = F.leaky_relu(self.enter(haar(rendering)), 0.2)
        maps = [features]
        for down in self.down:
            maps.append(down(maps[-1]))
        features, rgb = maps[-1], None
        for level, skip in zip(self.levels, reversed(maps)):
            features, more = level(features, skip, style)
            more = inverse_haar(more.float())
            # Skips are summed in image space, as StyleGAN2 does, so that each level adds its own detail.
            rgb = more if rgb is None else more + F.interpolate(rgb, scale_factor=2, mode="bilinear", align_corners=False)
        return rgb + rendering[:, :3].float()  # the network draws what the carried reference picture lacks
