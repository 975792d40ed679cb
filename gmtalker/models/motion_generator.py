"""From speech features to head motion, blinks and gaze: GMTalker's NFMG (docs/method.md section 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.clock import FPS
from gmtalker.models.attention import DecoderSpan, EncoderLayer
from gmtalker.models.autoregressive_decoder import AutoregressiveDecoder
from gmtalker.models.config import NetworkConfig
from gmtalker.tracks import BLINK, MOTION_DIM, count_blinks

STRIDE = 4  # frames per latent
LOSS_WEIGHTS = {"reconstruction": 1.0, "continuity": 3.0, "divergence": 0.4}
BLINK_GAIN = 4.0  # an open eye is 0 and a blink lasts 5 frames: unscaled, never blinking would cost next to nothing
FREE_NATS = 1.0  # of divergence per latent
GAIN_MAX = 1.6
SOFT_LID = 0.15  # from so far below the threshold to so far above it, lids go from open to shut
SETTLE_FRAMES = 12  # in which the head leaves its mean pose
BLINK_THRESHOLDS = (0.15, 1.5, 136)  # lowest, highest, and how many are tried


@dataclass(frozen=True)
class MotionBatch:
    """Clips of one length.

    motion: (B, T, 10), normalised.
    speech: (B, T, feature_dim).
    speech_mask: (B,), True where the speech is usable.
    mask: (B, T), True on valid frames; padding is at the end.
    """

    motion: Tensor
    speech: Tensor
    speech_mask: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        clips, frames = self.mask.shape
        assert self.motion.shape == (clips, frames, MOTION_DIM)
        assert self.speech.shape[:2] == (clips, frames) and self.speech_mask.shape == (clips,)


class Coupling(nn.Module):
    """One affine coupling: a Transformer over time reads the second half and the speech, and scales and shifts the first half.

    Its last layer is zero-initialised, so that it starts as the identity.
    Source: docs/method.md section 2, equation (12).
    """

    def __init__(self, channels: int, condition_dim: int, width: int, heads: int, reach: int) -> None:
        super().__init__()
        half = channels // 2
        self.read = nn.Linear(half + condition_dim, width)
        self.layer = EncoderLayer(width, heads, reach, dropout=0.0)
        self.norm = nn.LayerNorm(width)
        self.scale_and_shift = nn.Linear(width, 2 * half)
        nn.init.zeros_(self.scale_and_shift.weight)
        nn.init.zeros_(self.scale_and_shift.bias)

    def forward(self, second: Tensor, condition: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of the first half of the channels.

        second: (B, N, channels / 2), the other half.
        condition: (B, N, condition_dim).
        valid: (B, N), False on padding.
        Returns: log scale, within +-1.5, and shift, (B, N, channels / 2) each.
        """
        x = self.layer(self.read(torch.cat([second, condition], dim=-1)), valid)
        log_scale, shift = self.scale_and_shift(self.norm(x)).chunk(2, -1)
        return 1.5 * torch.tanh(log_scale), shift


class TransformerFlow(nn.Module):
    """F_psi: from simple noise z_n to the motion latents z_n', invertible, conditioned on the speech.

    forward is the direction of generation, z_n -> z_n'. inverse is the direction of training: the motion encoder's sample lives
    on the side of z_n', and its density under the prior is N(F^-1(z_n')) |det dF^-1/dz_n'|.

    channels: of a latent, an even number.
    condition_dim: of the speech that every coupling reads.
    steps: number of couplings.
    reach: latents that a coupling reads on either side.
    """

    def __init__(self, channels: int, condition_dim: int, width: int, heads: int, steps: int, reach: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"the flow splits its channels in halves, so {channels} must be even")
        self.steps = nn.ModuleList(Coupling(channels, condition_dim, width, heads, reach) for _ in range(steps))

    def forward(self, z: Tensor, condition: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """z_n to z_n'.

        z: (B, N, channels).
        condition: (B, N, condition_dim).
        valid: (B, N), False on padding.
        Returns: z_n' (B, N, channels), and log |det dz_n'/dz_n| of each latent (B, N).
        """
        log_determinant = z.new_zeros(z.shape[:2])
        for step in self.steps:
            first, second = z.chunk(2, -1)
            log_scale, shift = step(second, condition, valid)
            z = torch.cat([first * log_scale.exp() + shift, second], dim=-1).flip(-1)
            log_determinant = log_determinant + log_scale.sum(-1)
        return z, log_determinant * valid

    def inverse(self, z: Tensor, condition: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """z_n' to z_n, with the parameters of forward. Returns: z_n (B, N, channels), and log |det dz_n/dz_n'| (B, N)."""
        log_determinant = z.new_zeros(z.shape[:2])
        for step in reversed(self.steps):
            first, second = z.flip(-1).chunk(2, -1)
            log_scale, shift = step(second, condition, valid)
            z = torch.cat([(first - shift) * (-log_scale).exp(), second], dim=-1)
            log_determinant = log_determinant - log_scale.sum(-1)
        return z, log_determinant * valid


class MotionEncoder(nn.Module):
    """E(rho, a): the Gaussian of z_n' for every four frames of motion and speech."""

    def __init__(
        self, feature_dim: int, latent_dim: int, width: int, heads: int, layers: int, reach: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(STRIDE * (MOTION_DIM + feature_dim), width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, reach, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.gaussian = nn.Linear(width, 2 * latent_dim)

    def forward(self, motion: Tensor, speech: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian of every latent.

        motion: (B, 4N, 10), normalised.
        speech: (B, 4N, feature_dim).
        valid: (B, N), False on padding.
        Returns: mean and log variance, (B, N, latent_dim) each.
        """
        x = self.embed(torch.cat([motion, speech], dim=-1).unflatten(1, (-1, STRIDE)).flatten(2))
        for layer in self.layers:
            x = layer(x, valid)
        mean, log_variance = self.gaussian(self.norm(x)).chunk(2, -1)
        return mean, 5 * torch.tanh(log_variance / 5)


class MotionGenerator(ModelMixin, NetworkConfig):
    """Normalizing-flow motion generator (NFMG): a VAE over head motion whose prior is a Transformer flow.

    Works on normalised motion: (motion - the person's mean) / scale, except the eyelids, which stay 0 open to 1 closed; see
    normalise and restore.

    feature_dim: speech features per frame.
    latent_dim: channels of z_n, which has a quarter of the frame rate.
    flow_steps: couplings of the flow.
    flow_reach: latents that encoder and flow read on either side.
    window, period, reach: of the decoder, in frames; see DecoderSpan.
    Source: docs/method.md section 2; sizes of the flow after GeneFace, arXiv 2301.13430.
    """

    FORMER_NAMES = {"features": "feature_dim", "latent": "latent_dim"}

    @register_to_config
    def __init__(
        self,
        feature_dim: int = 128,
        latent_dim: int = 16,
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
        self.register_buffer("scale", torch.ones(MOTION_DIM))
        self.register_buffer("blink_threshold", torch.tensor([0.5]))
        self.register_buffer("gain", torch.ones(MOTION_DIM))
        self.no_speech = nn.Parameter(torch.zeros(feature_dim))
        self.encoder = MotionEncoder(feature_dim, latent_dim, width, heads, encoder_layers, flow_reach, dropout)
        self.listen = nn.Linear(feature_dim, flow_width)
        self.flow = TransformerFlow(latent_dim, flow_width, flow_width, heads, flow_steps, flow_reach)
        self.unfold = nn.Linear(
            3 * latent_dim, STRIDE * width
        )  # a latent and its neighbours to the conditions of its four frames
        span = DecoderSpan(window, period, reach)
        self.decoder = AutoregressiveDecoder(MOTION_DIM, feature_dim, width, heads, decoder_layers, span, dropout)

    def normalise(self, motion: Tensor, mean: Tensor) -> Tensor:
        """Motion as this model works on it.

        motion: (T, 10) in the units of MotionTrack.
        mean: (10,), the person's.
        Returns: (T, 10).
        """
        return (motion - _without_blink(mean)) / self.scale

    def restore(self, normalised: Tensor, mean: Tensor) -> Tensor:
        """Inverse of normalise.

        normalised: (T, 10).
        mean: (10,), of the person who is to move like that.
        Returns: (T, 10) in the units of MotionTrack.
        """
        return normalised * self.scale + _without_blink(mean)

    def fit_scale(self, motions: list[Tensor]) -> None:
        """Set scale to the standard deviation of motions, (T, 10) each, around their own means; the eyelids keep 1."""
        centred = torch.cat([motion - motion.mean(0) for motion in motions])
        self.scale.copy_(centred.std(0).clamp(min=1e-4))
        self.scale[BLINK] = 1

    @torch.no_grad()
    def fit_gain(self, speeches: Sequence[Tensor], motions: Sequence[Tensor]) -> None:
        """Set gain so that heads and eyes move as widely in generation as in the real motion of the same speeches.

        The reconstruction is a mean over what the latents leave open, and means move less than what they are means of.

        speeches: (T, feature_dim) each.
        motions: (T, 10) each, normalised.
        Source: docs/method.md section 2, equation (16).
        """
        generated = [torch.stack(list(self._unsettled(speech, seed))) for seed, speech in enumerate(speeches)]
        wide, narrow = (torch.stack([x.std(0) for x in rows]).mean(0).to(self.gain) for rows in (motions, generated))
        self.gain.copy_((wide / narrow.clamp(min=1e-6)).clamp(1.0, GAIN_MAX))
        self.gain[BLINK] = 1

    @torch.no_grad()
    def fit_blinks(self, speeches: Sequence[Tensor], a_minute: float) -> None:
        """Set blink_threshold so that eyes blink a_minute times per minute in generation.

        Where it can't know the moment of a blink, the decoder closes the lids a little for long: they shut where that passes the
        threshold, and are open elsewhere.

        speeches: (T, feature_dim) each.
        Source: docs/method.md section 2, equation (15).
        """
        generated = [self._unsettled(speech, seed) for seed, speech in enumerate(speeches)]
        lids = [torch.stack([frame[BLINK].mean() for frame in frames]) for frames in generated]
        minutes = sum(map(len, lids)) / (60 * FPS)
        thresholds = torch.linspace(*BLINK_THRESHOLDS).tolist()
        rates = [sum(count_blinks(_shut(x, threshold).cpu().numpy()) for x in lids) / minutes for threshold in thresholds]
        self.blink_threshold.fill_(min(zip(thresholds, rates), key=lambda pair: abs(pair[1] - a_minute))[0])

    # Generation

    def generate(self, speech: Tensor, seed: int, temperature: float = 1.0) -> Tensor:
        """Head motion for speech of any length; the head starts in its mean pose.

        speech: (T, feature_dim).
        temperature: tau of z_n ~ N(0, tau^2); 0 for the head that moves least.
        Returns: (T, 10), normalised.
        """
        motion = speech.new_zeros(len(speech), MOTION_DIM)
        for index, frame in enumerate(self.stream(speech, seed, temperature)):
            motion[index] = frame
        return motion

    @torch.no_grad()
    def stream(self, speech: Tensor, seed: int, temperature: float = 1.0) -> Iterator[Tensor]:
        """Head motion frame by frame, with the parameters of generate. Yields: (10,), normalised."""
        for index, frame in enumerate(self._unsettled(speech, seed, temperature)):
            share = min(1.0, index / SETTLE_FRAMES)
            settled = self.gain * frame * (share * share * (3 - 2 * share))
            settled[BLINK] = _shut(frame[BLINK].mean(), float(self.blink_threshold))  # both eyes blink together
            yield settled

    @torch.no_grad()
    def _unsettled(self, speech: Tensor, seed: int, temperature: float = 1.0) -> Iterator[Tensor]:
        """The decoder's frames (10,) before gain, start in the mean pose and blink threshold; eyelids are unbounded."""
        if not len(speech):
            return
        condition = self._conditions(self.prior(speech, seed, temperature)[None])[:, : len(speech)]
        for frame in self.decoder.stream(condition, speech[None]):
            yield _amplify_blink(frame[0], 1 / BLINK_GAIN)

    @torch.no_grad()
    def prior(self, speech: Tensor, seed: int, temperature: float = 1.0) -> Tensor:
        """Sample the motion latents: z_n' = F(z_n), z_n ~ N(0, temperature^2).

        The flow reads a bounded stretch of time, so it is applied in pieces with that much around them: the result is that of one
        pass, the memory that of a piece.

        speech: (T, feature_dim).
        Returns: (ceil(T / 4), latent_dim).
        """
        config = self.config
        condition = self.listen(_pooled(_padded(speech[None])))
        count = condition.shape[1]
        generator = torch.Generator().manual_seed(seed)
        noise = temperature * torch.randn(1, count, config.latent_dim, generator=generator).to(speech)
        context, pieces = config.flow_steps * config.flow_reach, []
        for begin in range(0, count, 2 * context):
            left, end = max(0, begin - context), begin + 3 * context
            valid = torch.ones(1, min(end, count) - left, dtype=torch.bool, device=speech.device)
            piece, _ = self.flow(noise[:, left:end], condition[:, left:end], valid)
            pieces.append(piece[0, begin - left : begin - left + 2 * context])
        return torch.cat(pieces)

    def _conditions(self, z: Tensor) -> Tensor:
        """z_n' (B, N, latent_dim) -> the decoder's condition of every frame (B, 4N, width)."""
        around = F.pad(z, (0, 0, 1, 1)).unfold(1, 3, 1).flatten(2)
        return self.unfold(around).unflatten(-1, (STRIDE, -1)).flatten(1, 2)

    # Objective

    def loss(self, batch: MotionBatch) -> dict[str, Tensor]:
        """L_NFMG: the VAE's objective with the flow as prior.

        In training mode a tenth of the clips lose their speech.

        Returns: "total", and its parts before weighting: reconstruction, continuity (of the velocity) and divergence.
        Source: docs/method.md section 2, equations (13) and (14); weights after GeneFace, arXiv 2301.13430.
        """
        motion = _amplify_blink(batch.motion, BLINK_GAIN)
        audible = batch.speech_mask
        if self.training:
            audible = audible & (torch.rand(len(audible), device=audible.device) > 0.1)
        speech = torch.where(audible[:, None, None], batch.speech, self.no_speech)
        motion, speech, mask = _padded(motion), _padded(speech), _padded(batch.mask[..., None])[..., 0]
        valid = mask.unflatten(1, (-1, STRIDE)).any(-1)
        z, divergence = self._encode(motion, speech, valid)
        error = self.decoder.scheduled_sampling_pass(motion, self._conditions(z * valid[..., None]), speech, mask) - motion
        pairs = mask[:, 1:] & mask[:, :-1]
        parts = {
            "reconstruction": (error.square().mean(-1) * mask).sum() / mask.sum().clamp(min=1),
            "continuity": (error.diff(dim=1).square().mean(-1) * pairs).sum() / pairs.sum().clamp(min=1),
            "divergence": divergence.clamp(min=FREE_NATS) / (STRIDE * MOTION_DIM),
        }
        parts["total"] = sum(LOSS_WEIGHTS[name] * value for name, value in parts.items())
        return parts

    def _encode(self, motion: Tensor, speech: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """A sample z_n' (B, N, latent_dim) of the posterior, and its divergence from the prior per latent, in nats.

        One-sample estimate of KL(q(z'|rho,a) || p(z'|a)) = log q(z') - log N(F^-1(z')) - log |det dF^-1/dz'|, equation (13).
        """
        mean, log_variance = self.encoder(motion, speech, valid)
        noise = torch.randn_like(mean)
        z = mean + noise * (0.5 * log_variance).exp()
        simple, log_determinant = self.flow.inverse(z, self.listen(_pooled(speech)), valid)
        log_posterior = -0.5 * (noise.square() + log_variance + math.log(2 * math.pi)).sum(-1)
        log_prior = -0.5 * (simple.square() + math.log(2 * math.pi)).sum(-1) + log_determinant
        return z, ((log_posterior - log_prior) * valid).sum() / valid.sum().clamp(min=1)


def _without_blink(mean: Tensor) -> Tensor:
    mean = mean.clone()
    mean[BLINK] = 0
    return mean


def _amplify_blink(motion: Tensor, gain: float) -> Tensor:
    factor = torch.ones(MOTION_DIM, device=motion.device)
    factor[BLINK] = gain
    return motion * factor


def _shut(lids: Tensor, threshold: float) -> Tensor:
    """Eyelids, 0 open to 1 closed, from lids that hesitate around the threshold: equation (15)."""
    share = ((lids - threshold) / (2 * SOFT_LID) + 0.5).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _padded(x: Tensor) -> Tensor:
    """(B, T, c) with zeros appended until T is a multiple of four."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % STRIDE))


def _pooled(x: Tensor) -> Tensor:
    """(B, 4N, c) -> (B, N, c), the mean of every four frames."""
    return x.unflatten(1, (-1, STRIDE)).mean(2)
