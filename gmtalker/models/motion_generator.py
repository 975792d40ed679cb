"""From speech features to head motion, blinks and gaze: GMTalker's NFMG (method section 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.clock import FPS
from gmtalker.models.attention import EncoderLayer
from gmtalker.models.autoregressive_decoder import AutoregressiveDecoder
from gmtalker.tracks import count_blinks

CHANNELS = 10  # rotation 3, translation 3, blink 2, gaze 2: MotionTrack.stacked()
BLINK = slice(6, 8)
STRIDE = 4  # frames a latent
LOSS_WEIGHTS = {"reconstruction": 1.0, "continuity": 3.0, "divergence": 0.4}
BLINK_GAIN = 4.0  # an open eye is 0 and a blink lasts 5 frames: unscaled, never blinking would cost next to nothing
FREE_NATS = 1.0  # of divergence per latent
LARGEST_GAIN = 1.6
SOFT_LID = 0.15  # from so far below the threshold to so far above it, lids go from open to shut
SETTLE = 12  # frames in which the head leaves its mean pose


@dataclass(frozen=True)
class MotionBatch:
    """Clips of one length.

    motion: (B,T,10) normalised; speech: (B,T,d); speech_mask: (B,), True where the speech is usable; mask: (B,T), True on valid
    frames, padding at the end.
    """

    motion: Tensor
    speech: Tensor
    speech_mask: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        clips, frames = self.mask.shape
        assert self.motion.shape == (clips, frames, CHANNELS)
        assert self.speech.shape[:2] == (clips, frames) and self.speech_mask.shape == (clips,)


class Coupling(nn.Module):
    """One affine coupling: a Transformer over time reads the second half and the speech, and scales and shifts the first half.

    Zero-initialised at the end, so that it starts as the identity.
    """

    def __init__(self, channels: int, condition: int, width: int, heads: int, reach: int) -> None:
        super().__init__()
        half = channels // 2
        self.read = nn.Linear(half + condition, width)
        self.layer = EncoderLayer(width, heads, reach, dropout=0.0)
        self.norm = nn.LayerNorm(width)
        self.scale_and_shift = nn.Linear(width, 2 * half)
        nn.init.zeros_(self.scale_and_shift.weight)
        nn.init.zeros_(self.scale_and_shift.bias)

    def forward(self, second: Tensor, condition: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """second (B,N,half), condition (B,N,c), valid (B,N) -> log scale, within +-1.5, and shift of the first half."""
        x = self.layer(self.read(torch.cat([second, condition], dim=-1)), valid)
        log_scale, shift = self.scale_and_shift(self.norm(x)).chunk(2, -1)
        return 1.5 * torch.tanh(log_scale), shift


class TransformerFlow(nn.Module):
    """F_psi: from simple noise z_n to the motion latents z_n', invertible, conditioned on the speech.

    forward is the direction of generation, z_n -> z_n'. inverse is the direction of training: the motion encoder's sample lives
    on the side of z_n', and its density under the prior is N(F^-1(z_n')) |det dF^-1/dz_n'|.
    """

    def __init__(self, channels: int, condition: int, width: int, heads: int, steps: int, reach: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"the flow splits its channels in halves, so {channels} must be even")
        self.steps = nn.ModuleList(Coupling(channels, condition, width, heads, reach) for _ in range(steps))

    def forward(self, z: Tensor, condition: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """z_n (B,N,channels), condition (B,N,c), valid (B,N) -> z_n' and log |det dz_n'/dz_n| of each latent (B,N)."""
        log_determinant = z.new_zeros(z.shape[:2])
        for step in self.steps:
            first, second = z.chunk(2, -1)
            log_scale, shift = step(second, condition, valid)
            z = torch.cat([first * log_scale.exp() + shift, second], dim=-1).flip(-1)
            log_determinant = log_determinant + log_scale.sum(-1)
        return z, log_determinant * valid

    def inverse(self, z: Tensor, condition: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """z_n' -> z_n and log |det dz_n/dz_n'| of each latent (B,N)."""
        log_determinant = z.new_zeros(z.shape[:2])
        for step in reversed(self.steps):
            first, second = z.flip(-1).chunk(2, -1)
            log_scale, shift = step(second, condition, valid)
            z = torch.cat([(first - shift) * (-log_scale).exp(), second], dim=-1)
            log_determinant = log_determinant - log_scale.sum(-1)
        return z, log_determinant * valid


class MotionEncoder(nn.Module):
    """E(rho, speech): the Gaussian of z_n' for every four frames."""

    def __init__(self, features: int, latent: int, width: int, heads: int, layers: int, reach: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(STRIDE * (CHANNELS + features), width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, reach, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.gaussian = nn.Linear(width, 2 * latent)

    def forward(self, motion: Tensor, speech: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """motion (B,4N,10), speech (B,4N,d), valid (B,N) -> mean and log variance (B,N,latent)."""
        x = self.embed(torch.cat([motion, speech], dim=-1).unflatten(1, (-1, STRIDE)).flatten(2))
        for layer in self.layers:
            x = layer(x, valid)
        mean, log_variance = self.gaussian(self.norm(x)).chunk(2, -1)
        return mean, 5 * torch.tanh(log_variance / 5)


class MotionGenerator(ModelMixin, ConfigMixin):
    """NFMG: a VAE over head motion whose prior is a Transformer flow, with an autoregressive decoder.

    Works on normalised motion: (motion - the person's mean) / scale, except the eyelids, which stay 0 open to 1 closed; see
    normalise and restore. features: speech features a frame. latent: channels of z_n at a quarter of the frame rate. flow_reach:
    latents the flow reads on either side; window, period, reach: of the decoder, in frames.
    """

    @register_to_config
    def __init__(
        self,
        features: int = 128,
        latent: int = 16,
        width: int = 128,
        heads: int = 4,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        flow_steps: int = 4,
        flow_width: int = 64,
        flow_reach: int = 12,
        window: int = 50,
        period: int = 25,
        reach: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(CHANNELS))
        self.register_buffer("blink_threshold", torch.tensor([0.5]))
        self.register_buffer("gain", torch.ones(CHANNELS))
        self.no_speech = nn.Parameter(torch.zeros(features))
        self.encoder = MotionEncoder(features, latent, width, heads, encoder_layers, flow_reach, dropout)
        self.listen = nn.Linear(features, flow_width)
        self.flow = TransformerFlow(latent, flow_width, flow_width, heads, flow_steps, flow_reach)
        self.unfold = nn.Linear(3 * latent, STRIDE * width)  # a latent and its neighbours to the conditions of its four frames
        self.decoder = AutoregressiveDecoder(CHANNELS, features, width, heads, decoder_layers, window, period, reach, dropout)

    def normalise(self, motion: Tensor, mean: Tensor) -> Tensor:
        """motion (T,10) in its units and the person's mean (10,) -> (T,10) as this model works on it."""
        return (motion - _without_blink(mean)) / self.scale

    def restore(self, normalised: Tensor, mean: Tensor) -> Tensor:
        """The inverse of normalise: normalised (T,10) and a person's mean (10,) -> motion in its units."""
        return normalised * self.scale + _without_blink(mean)

    def fit_scale(self, motions: list[Tensor]) -> None:
        """Sets scale to the deviation of motions, (T,10) each, around their own means; the eyelids keep 1."""
        centred = torch.cat([motion - motion.mean(0) for motion in motions])
        self.scale.copy_(centred.std(0).clamp(min=1e-4))
        self.scale[BLINK] = 1

    @torch.no_grad()
    def fit_gain(self, speeches: Sequence[Tensor], motions: Sequence[Tensor]) -> None:
        """Sets gain so that heads and eyes move as widely over the speeches, (T,d) each, as in their normalised motions (T,10).

        The reconstruction is a mean over what the latents leave open, and means move less than what they are of.
        """
        made = [torch.stack(list(self._raw(speech, seed))) for seed, speech in enumerate(speeches)]
        wide, narrow = (torch.stack([x.std(0) for x in rows]).mean(0).to(self.gain) for rows in (motions, made))
        self.gain.copy_((wide / narrow.clamp(min=1e-6)).clamp(1.0, LARGEST_GAIN))
        self.gain[BLINK] = 1

    @torch.no_grad()
    def fit_blinks(self, speeches: Sequence[Tensor], a_minute: float) -> None:
        """Sets blink_threshold so that eyes blink so often over the speeches, (T,d) each.

        Where it can't know the moment of a blink, the decoder closes the lids a little for long: they shut where that passes the
        threshold, and are open elsewhere.
        """
        lids = [torch.stack([frame[BLINK].mean() for frame in self._raw(speech, seed)]) for seed, speech in enumerate(speeches)]
        minutes = sum(map(len, lids)) / (60 * FPS)
        thresholds = torch.linspace(0.15, 1.5, 136).tolist()
        rates = [sum(count_blinks(_shut(x, threshold).cpu().numpy()) for x in lids) / minutes for threshold in thresholds]
        self.blink_threshold.fill_(min(zip(thresholds, rates), key=lambda pair: abs(pair[1] - a_minute))[0])

    # Generation

    def generate(self, speech: Tensor, seed: int, temperature: float = 1.0) -> Tensor:
        """Normalised motion (T,10) for speech (T,d) of any length; the head starts in its mean pose.

        temperature: tau of z_n ~ N(0, tau^2), 0 for the calmest head.
        """
        motion = speech.new_zeros(len(speech), CHANNELS)
        for index, frame in enumerate(self.stream(speech, seed, temperature)):
            motion[index] = frame
        return motion

    @torch.no_grad()
    def stream(self, speech: Tensor, seed: int, temperature: float = 1.0) -> Iterator[Tensor]:
        """Normalised motion (10,) frame by frame."""
        for index, frame in enumerate(self._raw(speech, seed, temperature)):
            share = min(1.0, index / SETTLE)
            settled = self.gain * frame * (share * share * (3 - 2 * share))
            settled[BLINK] = _shut(frame[BLINK].mean(), float(self.blink_threshold))  # both eyes blink together
            yield settled

    @torch.no_grad()
    def _raw(self, speech: Tensor, seed: int, temperature: float = 1.0) -> Iterator[Tensor]:
        """What the decoder makes of every frame (10,), from the first on, eyelids unbounded."""
        if not len(speech):
            return
        condition = self._conditions(self.prior(speech, seed, temperature)[None])[:, : len(speech)]
        for frame in self.decoder.stream(condition, speech[None]):
            yield _amplify_blink(frame[0], 1 / BLINK_GAIN)

    @torch.no_grad()
    def prior(self, speech: Tensor, seed: int, temperature: float = 1.0) -> Tensor:
        """z_n' (ceil(T/4),latent) = F(z_n), z_n ~ N(0, temperature^2), for speech (T,d).

        The flow reads a bounded stretch of time, so it is applied in pieces with that much around them: the result is that of one
        pass, the memory that of a piece.
        """
        config = self.config
        condition = self.listen(_pooled(_padded(speech[None])))
        count = condition.shape[1]
        generator = torch.Generator().manual_seed(seed)
        noise = temperature * torch.randn(1, count, config.latent, generator=generator).to(speech)
        context, pieces = config.flow_steps * config.flow_reach, []
        for begin in range(0, count, 2 * context):
            left, end = max(0, begin - context), begin + 3 * context
            valid = torch.ones(1, min(end, count) - left, dtype=torch.bool, device=speech.device)
            piece, _ = self.flow(noise[:, left:end], condition[:, left:end], valid)
            pieces.append(piece[0, begin - left : begin - left + 2 * context])
        return torch.cat(pieces)

    def _conditions(self, z: Tensor) -> Tensor:
        """z_n' (B,N,latent) -> the decoder's condition for every frame (B,4N,width)."""
        around = F.pad(z, (0, 0, 1, 1)).unfold(1, 3, 1).flatten(2)
        return self.unfold(around).unflatten(-1, (STRIDE, -1)).flatten(1, 2)

    # Objective

    def loss(self, batch: MotionBatch) -> dict[str, Tensor]:
        """The VAE's objective with the flow as prior: "total", and the parts before weighting.

        divergence is a one-sample estimate of KL(q(z'|rho,a) || p(z'|a)) = log q(z') - log N(F^-1(z')) - log |det dF^-1/dz'|, per
        latent and divided by its 40 numbers, so that it stands on the scale of a mean square.
        """
        motion = _amplify_blink(batch.motion, BLINK_GAIN)
        heard = batch.speech_mask
        if self.training:
            heard = heard & (torch.rand(len(heard), device=heard.device) > 0.1)
        speech = torch.where(heard[:, None, None], batch.speech, self.no_speech)
        motion, speech, mask = _padded(motion), _padded(speech), _padded(batch.mask[..., None])[..., 0]
        valid = mask.unflatten(1, (-1, STRIDE)).any(-1)

        mean, log_variance = self.encoder(motion, speech, valid)
        noise = torch.randn_like(mean)
        z = mean + noise * (0.5 * log_variance).exp()
        simple, log_determinant = self.flow.inverse(z, self.listen(_pooled(speech)), valid)
        log_posterior = -0.5 * (noise.square() + log_variance + math.log(2 * math.pi)).sum(-1)
        log_prior = -0.5 * (simple.square() + math.log(2 * math.pi)).sum(-1) + log_determinant
        divergence = ((log_posterior - log_prior) * valid).sum() / valid.sum().clamp(min=1)

        error = self.decoder.scheduled_sampling_pass(motion, self._conditions(z * valid[..., None]), speech, mask) - motion
        pairs = mask[:, 1:] & mask[:, :-1]
        parts = {
            "reconstruction": (error.square().mean(-1) * mask).sum() / mask.sum().clamp(min=1),
            "continuity": (error.diff(dim=1).square().mean(-1) * pairs).sum() / pairs.sum().clamp(min=1),
            "divergence": divergence.clamp(min=FREE_NATS) / (STRIDE * CHANNELS),
        }
        parts["total"] = sum(LOSS_WEIGHTS[name] * value for name, value in parts.items())
        return parts


def _without_blink(mean: Tensor) -> Tensor:
    mean = mean.clone()
    mean[BLINK] = 0
    return mean


def _amplify_blink(motion: Tensor, gain: float) -> Tensor:
    factor = torch.ones(CHANNELS, device=motion.device)
    factor[BLINK] = gain
    return motion * factor


def _shut(lids: Tensor, threshold: float) -> Tensor:
    """Eyelids, 0 open to 1 closed, from lids that hesitate around the threshold."""
    share = ((lids - threshold) / (2 * SOFT_LID) + 0.5).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _padded(x: Tensor) -> Tensor:
    """(B,T,c) with T filled up with zeros to a multiple of four."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % STRIDE))


def _pooled(x: Tensor) -> Tensor:
    """(B,4N,c) -> (B,N,c), the mean of every four frames."""
    return x.unflatten(1, (-1, STRIDE)).mean(2)
