"""EGHG: StyleUNet generates a frame from the rendered face; a style modulates its decoder (docs/method.md section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from gmtalker.models.config import NetworkConfig


def haar(picture: Tensor) -> Tensor:
    """Haar wavelet transform, orthonormal: mean, vertical, horizontal and diagonal coefficients.

    picture: (B, C, H, W).
    Returns: (B, 4C, H/2, W/2).
    Source: docs/method.md section 3, equation (18).
    """
    a, b = picture[..., 0::2, 0::2], picture[..., 0::2, 1::2]
    c, d = picture[..., 1::2, 0::2], picture[..., 1::2, 1::2]
    return torch.cat([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d], dim=1) / 2


def inverse_haar(coefficients: Tensor) -> Tensor:
    """Inverse of haar: (B, 4C, H, W) to (B, C, 2H, 2W)."""
    mean, vertical, horizontal, diagonal = coefficients.chunk(4, dim=1)
    a, b = mean + vertical + horizontal + diagonal, mean + vertical - horizontal - diagonal
    c, d = mean - vertical + horizontal - diagonal, mean - vertical - horizontal + diagonal
    # One pixel shuffle puts the four corners of each 2x2 block in place without strided writes.
    return F.pixel_shuffle(torch.stack([a, b, c, d], dim=2).flatten(1, 2) / 2, 2)


def _doubled(picture: Tensor) -> Tensor:
    return F.interpolate(picture, scale_factor=2, mode="bilinear", align_corners=False)


class ModulatedConvolution(nn.Module):
    """StyleGAN2 convolution: the style scales the input channels, demodulation restores unit variance.

    Written as scaling before and after one shared convolution, which gives the same result and batches on any device.

    up: double the size, after the convolution.
    Source: StyleGAN2, arXiv 1912.04958, equations 1 to 3.
    """

    def __init__(
        self, in_channels: int, out_channels: int, style_dim: int, kernel: int = 3, up: bool = False, demodulate: bool = True
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel) / math.sqrt(in_channels * kernel**2))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.affine = nn.Linear(style_dim, in_channels)
        nn.init.normal_(self.affine.weight, std=0.1 / math.sqrt(style_dim))
        nn.init.ones_(self.affine.bias)
        self.up, self.demodulate = up, demodulate

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """(B, out_channels, H, W), or twice that size, from features (B, in_channels, H, W) and style (B, style_dim)."""
        scale = self.affine(style)
        features = F.conv2d(
            features * scale[:, :, None, None].to(features.dtype), self.weight, padding=self.weight.shape[-1] // 2
        )
        if self.demodulate:
            energy = self.weight.float().square().sum((2, 3))
            factor = torch.rsqrt(scale.float().square() @ energy.T + 1e-8)
            features = features * factor[:, :, None, None].to(features.dtype)
        if self.up:  # after the convolution, which costs a quarter there (our choice; StyleGAN2's transposed one works at twice)
            features = _doubled(features)
        return features + self.bias[None, :, None, None].to(features.dtype)


class Noise(nn.Module):
    """Fixed noise with a learned strength: the same in every frame, so that texture does not flicker."""

    def __init__(self, size: int):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(1))
        self.register_buffer("pattern", torch.randn(1, 1, size, size))

    def forward(self, features: Tensor) -> Tensor:
        """features (B, C, size, size) with the noise added to every channel."""
        return features + (self.strength * self.pattern).to(features.dtype)


class DecoderLevel(nn.Module):
    """One resolution of the synthesis network: modulated convolution, encoder map joined, modulated convolution, ToRGB.

    size: pixels of a side of this level.
    up: whether the first convolution doubles the size; the deepest level's does not.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, style_dim: int, size: int, up: bool):
        super().__init__()
        self.first = ModulatedConvolution(in_channels, out_channels, style_dim, up=up)
        self.second = ModulatedConvolution(out_channels + skip_channels, out_channels, style_dim)
        self.first_noise, self.second_noise = Noise(size), Noise(size)
        self.to_rgb = _to_picture(out_channels, 3, style_dim)
        self.to_matte: ModulatedConvolution | None = None  # with HeadGenerator's has_matte

    def forward(self, features: Tensor, skip: Tensor, style: Tensor, matte: bool) -> tuple[Tensor, Tensor]:
        """One level up.

        features: of the level below, (B, in_channels, size/2, size/2), or (..., size, size) at the deepest.
        skip: the encoder's map of this level, (B, skip_channels, size, size).
        style: (B, style_dim).
        matte: whether the picture has one.
        Returns: features (B, out_channels, size, size), and what this level adds to the picture, RGB and matte:
            (B, 3 or 4, 2 size, 2 size) float32.
        """
        features = F.leaky_relu(self.first_noise(self.first(features, style)), 0.2)
        features = F.leaky_relu(self.second_noise(self.second(torch.cat([features, skip], dim=1), style)), 0.2)
        picture = inverse_haar(self.to_rgb(features, style).float())
        if matte and self.to_matte is not None:
            picture = torch.cat([picture, inverse_haar(self.to_matte(features, style).float())], dim=1)
        return features, picture


def _to_picture(in_channels: int, colours: int, style_dim: int) -> ModulatedConvolution:
    """To so many colours as Haar coefficients."""
    convolution = ModulatedConvolution(in_channels, 4 * colours, style_dim, kernel=1, demodulate=False)
    nn.init.normal_(convolution.weight, std=0.02)
    return convolution


# Of size/2, size/4, ... down to 8. 1024 is 512 with one more level at its end, and starts from it.
WIDTHS = {
    256: (32, 64, 128, 192, 256),
    512: (24, 48, 96, 160, 224, 256),
    1024: (16, 24, 48, 96, 160, 224, 256),
}
# StyleAvatar's at 512 (arXiv 2305.00942), and the same without its last level.
REFERENCE_WIDTHS = {256: (128, 256, 512, 512, 512), 512: (64, 128, 256, 512, 512, 512)}


class HeadGenerator(ModelMixin, NetworkConfig):
    """StyleUNet of the EGHG: a rendering of the face and a style vector to a frame.

    RGB leaves, and the rendering enters, as Haar coefficients at half size.

    size: pixels of a side of rendering and frame.
    rendering_channels: of which the first three are the appearance, in RGB.
    style_dim: size of the style vector.
    widths: channels of size/2, size/4, ... down to 8: WIDTHS, for two CPU cores (our choice), or REFERENCE_WIDTHS.
    has_matte: it also draws the person's outline, our addition.
    Source: StyleAvatar, arXiv 2305.00942; docs/method.md section 3.
    """

    FORMER_NAMES = {"channels": "rendering_channels", "style": "style_dim"}
    LATER_OPTIONS = {"has_matte": False}

    @register_to_config
    def __init__(
        self,
        size: int = 256,
        rendering_channels: int = 8,
        style_dim: int = 64,
        widths: Sequence[int] = WIDTHS[256],
        has_matte: bool = False,
    ):
        super().__init__()
        if size // 2 >> (len(widths) - 1) < 4:
            raise ValueError(f"{len(widths)} widths are too many for a picture of {size} pixels")
        self.enter = nn.Conv2d(4 * rendering_channels, widths[0], 3, padding=1)
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
            in_channels = widths[level] if deepest else widths[level + 1]
            levels.append(DecoderLevel(in_channels, widths[level], widths[level], style_dim, sizes[level], up=not deepest))
        self.levels = nn.ModuleList(levels)
        if has_matte:
            for level in levels:
                level.to_matte = _to_picture(level.second.weight.shape[0], 1, style_dim)

    def with_matte(self) -> HeadGenerator:
        """This network, or a copy that learns a matte beside what it can draw."""
        config = {name: value for name, value in self.config.items() if not name.startswith("_")}
        if config["has_matte"]:
            return self
        larger = type(self)(**config | {"has_matte": True})
        missing = larger.load_state_dict(self.state_dict(), strict=False).missing_keys
        assert all("to_matte" in name for name in missing)
        return larger

    @torch.no_grad()
    def adopt(self, smaller: HeadGenerator) -> None:
        """Copy the levels of a generator of smaller pictures with the same widths; the levels beyond stay as they are."""
        shift = len(self.down) - len(smaller.down)
        for name, weight in smaller.state_dict().items():
            if name.startswith("down."):
                _, level, rest = name.split(".", 2)
                name = f"down.{int(level) + shift}.{rest}"
            elif not name.startswith("levels."):
                continue  # it reads the picture at another size
            own = self.get_parameter(name) if name in dict(self.named_parameters()) else self.get_buffer(name)
            own.copy_(weight)

    def forward(self, rendering: Tensor, style: Tensor, matte: bool = False) -> Tensor:
        """Generate frames.

        rendering: (B, rendering_channels, size, size) in [-1, 1].
        style: (B, style_dim).
        matte: also of the person's outline.
        Returns: (B, 3, size, size) float32, about [-1, 1] and not clamped; with a matte (B, 4, size, size), from -1 for what is
            behind to 1 for the person.
        Errors: ValueError for a matte that was never learned.
        """
        if matte and not self.config.has_matte:
            raise ValueError("this head generator has learned no matte")
        features = F.leaky_relu(self.enter(haar(rendering)), 0.2)
        maps = [features]
        for down in self.down:
            maps.append(down(maps[-1]))
        features, picture = maps[-1], None
        for level, skip in zip(self.levels, reversed(maps)):
            features, more = level(features, skip, style, matte)
            # Skips are summed in image space, as StyleGAN2 does, so that each level adds its own detail.
            picture = more if picture is None else more + _doubled(picture)
        rgb = picture[:, :3] + rendering[:, :3].float()  # the network adds what the carried reference picture lacks
        return torch.cat([rgb, torch.tanh(picture[:, 3:])], dim=1) if matte else rgb
