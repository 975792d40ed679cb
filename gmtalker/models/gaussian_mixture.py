"""The Gaussian mixture over a clip's latents, of the expression generator (docs/method.md section 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.clock import EMOTIONS


@dataclass(frozen=True)
class LatentPosterior:
    """q(w|beta,a) and q(z|beta,a), diagonal Gaussians, one vector each per clip: docs/method.md section 1, equation (1).

    w_mean, w_log_variance: (B, w_dim).
    z_mean, z_log_variance: (B, z_dim).
    """

    w_mean: Tensor
    w_log_variance: Tensor
    z_mean: Tensor
    z_log_variance: Tensor

    def sample(self) -> tuple[Tensor, Tensor]:
        """Reparametrised samples of w (B, w_dim) and z (B, z_dim)."""
        return (
            self.w_mean + torch.randn_like(self.w_mean) * (0.5 * self.w_log_variance).exp(),
            self.z_mean + torch.randn_like(self.z_mean) * (0.5 * self.z_log_variance).exp(),
        )


class GaussianPooling(nn.Module):
    """One Gaussian per clip: a learned softmax over its frames weights them."""

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.attend = nn.Linear(width, 1)
        self.gaussian = nn.Linear(width, 2 * latent_dim)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, latent_dim) of x (B, T, width) where valid (B, T)."""
        weight = self.attend(x).masked_fill(~valid[..., None], -math.inf).softmax(1)
        mean, log_variance = self.gaussian((weight * x).sum(1)).chunk(2, -1)
        return mean, 5 * torch.tanh(log_variance / 5)


class MixtureMapper(nn.Module):
    """w to the K components (mu_k, Sigma_k) of z's prior; component k is emotion k, and Sigma_k is diagonal.

    Source: docs/method.md section 1, equation (2).
    """

    def __init__(self, w_dim: int, z_dim: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(w_dim, width), nn.GELU())
        self.mean = nn.Linear(width, len(EMOTIONS) * z_dim)
        self.log_variance = nn.Linear(width, len(EMOTIONS) * z_dim)
        nn.init.normal_(self.mean.bias)  # components start apart: nothing would separate them if they started together

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances (B, 8, z_dim) for w (B, w_dim)."""
        hidden = self.hidden(w)
        mean, log_variance = (x.unflatten(-1, (len(EMOTIONS), -1)) for x in (self.mean(hidden), self.log_variance(hidden)))
        return mean, 1.5 * torch.tanh(log_variance) - 1.0  # bounded: a component can neither vanish nor swallow the rest


def log_component_posterior(z: Tensor, means: Tensor, log_variances: Tensor) -> Tensor:
    """log p(e=k|z,w), with every component equally likely beforehand: equation (3).

    z: (B, z_dim).
    means, log_variances: of the components, (B, 8, z_dim).
    Returns: (B, 8).
    """
    distance = (z[:, None] - means).square() * (-log_variances).exp()
    return (-0.5 * (distance + log_variances).sum(-1)).log_softmax(-1)


def blend_components(weights: Tensor, means: Tensor, log_variances: Tensor, noise: Tensor) -> Tensor:
    """sum omega_k mu_k + (sum omega_k Sigma_k)^1/2 noise: equation (11).

    weights: omega, (N, 8).
    means, log_variances: of the components, (N or 1, 8, z_dim).
    noise: (N or 1, z_dim), or (z_dim,) for all rows.
    Returns: (N, z_dim).
    """
    mean, variance = ((weights[..., None] * x).sum(1) for x in (means, log_variances.exp()))
    return mean + variance.clamp(min=1e-4).sqrt() * noise  # weights past the ends of a blend may be negative


def gaussian_divergence(mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(prior_mean, prior_variance)) of diagonal Gaussians, summed over the last axis, in nats."""
    ratio = (log_variance.exp() + (mean - prior_mean).square()) * (-prior_log_variance).exp()
    return 0.5 * F.relu(ratio - 1 + prior_log_variance - log_variance).sum(-1)
