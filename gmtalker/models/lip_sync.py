"""Lip-sync network: how well lips and speech belong together, at every lag (docs/method.md section 4, "Sync")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.models.config import NetworkConfig

LAG_MAX = 15  # frames to either side
NEAR_FRAMES = 3  # moments that are closer together than this look and sound alike: neither is the other's negative
TEMPERATURE = 0.1  # of the softmax over cosines, at the start of training
FAR_FRAMES = 5  # from the best lag: speech that is farther away says something else
LEAST_SPREAD = 0.1  # of lips, in deviations of the training clips: what moves less is not blown up
VELOCITY_SCALE = 1.5  # which gives velocity about the spread of the positions


@dataclass(frozen=True)
class SyncBatch:
    """Windows of clips of one length.

    speech: (B, T, feature_dim).
    lips: (B, T, 2 * num_components) from LipSync.lip_shape.
    mask: (B, T), False on padding.
    """

    speech: Tensor
    lips: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        assert self.speech.shape[:2] == self.lips.shape[:2] == self.mask.shape


def read_correlation(correlation: Tensor) -> tuple[float, float]:
    """What a correlation by lag, (2 * LAG_MAX + 1,) of LipSync.correlate, says.

    Returns: the agreement, correlation at the best lag less its mean at lags far from it, so that unrelated speech has about 0;
        and that lag in frames, between frames by the parabola through the peak and its neighbours, above 0 where sound is late.
    """
    peak = int(correlation.argmax())
    lag = torch.arange(2 * LAG_MAX + 1, device=correlation.device)
    agreement = float(correlation[peak] - correlation[(lag - peak).abs() > FAR_FRAMES].mean())
    if peak in (0, 2 * LAG_MAX):
        return agreement, float(peak - LAG_MAX)
    before, here, after = correlation[peak - 1 : peak + 2].tolist()
    return agreement, peak - LAG_MAX + 0.5 * (after - before) / max(2 * here - before - after, 1e-6)


class Tower(nn.Module):
    """Residual convolutions over time from one modality to unit vectors, one a frame."""

    def __init__(self, input_dim: int, width: int, embedding_dim: int, num_blocks: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(input_dim, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_blocks))
        self.over_time = nn.ModuleList(nn.Conv1d(width, width, kernel, padding=kernel // 2) for _ in range(num_blocks))
        self.back = nn.ModuleList(nn.Linear(width, width) for _ in range(num_blocks))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, embedding_dim) of length 1 from (B, T, input_dim)."""
        x = self.first(x)
        for norm, over_time, back in zip(self.norms, self.over_time, self.back):
            moved = over_time(norm(x).transpose(1, 2)).transpose(1, 2)
            x = x + back(self.dropout(F.gelu(moved)))
        return F.normalize(self.last(self.norm(x)), dim=-1)


class LipSync(ModelMixin, NetworkConfig):
    """Two towers, after SyncNet: speech and lip shape of a frame and its neighbours to one embedding, alike where they belong.

    feature_dim: speech features per frame; the network is of use only with the encoder that it was trained with.
    lip_dim: lip points * 3.
    num_components: principal components of the lip displacement that are looked at.
    Source: docs/method.md section 4, "Sync"; Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016).
    """

    @register_to_config
    def __init__(
        self,
        feature_dim: int = 259,
        lip_dim: int = 120,
        num_components: int = 8,
        width: int = 96,
        embedding_dim: int = 64,
        num_blocks: int = 2,
        kernel: int = 5,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.speech_tower = Tower(feature_dim, width, embedding_dim, num_blocks, kernel, dropout)
        self.lip_tower = Tower(2 * num_components, width, embedding_dim, num_blocks, kernel, dropout)
        self.sharpness = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))
        self.register_buffer("speech_mean", torch.zeros(feature_dim))
        self.register_buffer("speech_scale", torch.ones(feature_dim))
        self.register_buffer("components", torch.eye(num_components, lip_dim))
        # Mean agreement of lips with speech of somebody else, times the root of the frames: it falls with the length that way.
        self.register_buffer("chance", torch.tensor(2.0))

    @torch.no_grad()
    def fit_inputs(self, features: Sequence[Tensor], lips: Sequence[Tensor]) -> None:
        """Set the scale of the features, and the principal components of the lips, one deviation each.

        features: (frames, feature_dim) of each clip.
        lips: (frames, lip_dim) displacement of each clip.
        """
        rows = torch.cat([clip.float() for clip in features])
        self.speech_mean.copy_(rows.mean(0))
        self.speech_scale.copy_(rows.std(0).clamp(min=1e-2))
        moved = torch.cat([clip.float() - clip.float().mean(0) for clip in lips])
        variance, axes = torch.linalg.eigh(moved.T @ moved / len(moved))
        count = self.config.num_components
        strongest = axes[:, -count:].flip(1) / variance[-count:].flip(0).clamp(min=1e-12).sqrt()
        self.components.copy_(strongest.T)

    def lip_shape(self, lips: Tensor) -> Tensor:
        """What the lip tower reads: shape and velocity of the lips of one whole clip, around its mean and by its own spread.

        lips: (T, lip_dim) displacement of the lips from the neutral face, in face heights.
        Returns: (T, 2 * num_components).
        """
        shape = (lips - lips.mean(0)) @ self.components.T
        shape = shape / (shape.square().mean().sqrt() + LEAST_SPREAD)
        velocity = torch.zeros_like(shape)
        velocity[1:-1] = VELOCITY_SCALE * (shape[2:] - shape[:-2]) / 2
        return torch.cat([shape, velocity], dim=1)

    def embed_speech(self, speech: Tensor) -> Tensor:
        """(B, T, embedding_dim) from speech features (B, T, feature_dim)."""
        return self.speech_tower((speech - self.speech_mean) / self.speech_scale)

    def correlate(self, speech: Tensor, lips: Tensor, known: Tensor) -> Tensor:
        """Correlation of the embeddings of one clip's lips with those of its speech, at every lag.

        speech: (T, feature_dim).
        lips: (T, lip_dim) displacement, in face heights.
        known: (T,) bool, frames whose lips count.
        Returns: (2 * LAG_MAX + 1,), each -1 to 1; a peak at index LAG_MAX + n means that the sound is n frames late. Around the
            clip's mean embeddings, so that speech of another moment has 0; past the clip's ends the speech is taken for its mean.
        Source: docs/method.md section 4, equation (25a).
        """
        heard, seen = self.embed_speech(speech[None])[0], self.lip_tower(self.lip_shape(lips)[None])[0]
        heard = heard - heard.mean(0)
        seen = (seen - seen[known].mean(0)) * known[:, None]
        norm = (heard.square().sum(-1).mean() * seen[known].square().sum(-1).mean()).sqrt() * known.sum()
        padded = F.pad(heard, (0, 0, LAG_MAX, LAG_MAX))
        return torch.stack([(padded[lag : lag + len(seen)] * seen).sum() for lag in range(2 * LAG_MAX + 1)]) / norm.clamp(
            min=1e-6
        )

    def loss(self, batch: SyncBatch) -> dict[str, Tensor]:
        """InfoNCE both ways: every second frame finds its partner among all frames of the batch but its own neighbours.

        Source: docs/method.md section 4, equation (25b).
        """
        heard, seen = self.embed_speech(batch.speech).flatten(0, 1), self.lip_tower(batch.lips).flatten(0, 1)
        clips, frames = batch.mask.shape
        valid, place = batch.mask.flatten(), torch.arange(clips * frames, device=batch.mask.device)
        asked = place[valid & (place % 2 == 0)]
        distance = (asked[:, None] - place).abs()
        near = (distance > 0) & (distance < NEAR_FRAMES) & (asked[:, None] // frames == place // frames)
        excluded, total = near | ~valid, torch.zeros((), device=heard.device)
        for one, other in ((seen, heard), (heard, seen)):
            cosines = (one[asked] @ other.T) * self.sharpness.exp()
            total = total + 0.5 * F.cross_entropy(cosines.masked_fill(excluded, -1e4), asked)
        return {"total": total}
