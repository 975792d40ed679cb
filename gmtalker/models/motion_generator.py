"""From speech features to head motion, blinks and gaze: GMTalker's NFMG (docs/method.md section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.models.attention import DecoderSpan, EncoderLayer
from gmtalker.models.attention_stream import EncoderLayerStream
from gmtalker.models.autoregressive_decoder import STREAM_CHUNK, AutoregressiveDecoder
from gmtalker.models.config import NetworkConfig
from gmtalker.tracks import BLINK, MOTION_DIM

STRIDE = 4  # frames per latent
HEARD = 2  # of these frames, and as many before them, a latent knows the speech: no frame waits for more than the next
LOSS_WEIGHTS = {"reconstruction": 1.0, "continuity": 3.0, "divergence": 0.4}
BLINK_GAIN = 4.0  # an open eye is 0 and a blink lasts 5 frames: unscaled, never blinking would cost next to nothing
FREE_NATS = 1.0  # of divergence per latent
GAIN_MAX = 1.6
SETTLE_FRAMES = 12  # in which the head leaves its mean pose


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
    """One affine coupling: a causal Transformer reads the second half and the speech, and scales and shifts the first half.

    Its last layer is zero-initialised, so that it starts as the identity.
    Source: docs/method.md section 2, equation (12).
    """

    def __init__(self, channels: int, condition_dim: int, width: int, heads: int, reach: int) -> None:
        super().__init__()
        half = channels // 2
        self.read = nn.Linear(half + condition_dim, width)
        self.layer = EncoderLayer(width, heads, back=reach, ahead=0, dropout=0.0)
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
        return self._bounded(self.layer(self.read(torch.cat([second, condition], dim=-1)), valid))

    def step(self, second: Tensor, condition: Tensor, layer: EncoderLayerStream) -> tuple[Tensor, Tensor]:
        """The same of the next latent alone.

        second: (B, channels / 2).
        condition: (B, condition_dim).
        layer: the stream of this coupling's layer.
        """
        return self._bounded(layer.step(self.read(torch.cat([second, condition], dim=-1))))

    def _bounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.scale_and_shift(self.norm(x)).chunk(2, -1)
        return 1.5 * torch.tanh(log_scale), shift


class TransformerFlow(nn.Module):
    """F_psi: from simple noise z_n to the motion latents z_n', invertible, conditioned on the speech.

    forward is the direction of generation, z_n -> z_n'. inverse is the direction of training: the motion encoder's sample lives
    on the side of z_n', and its density under the prior is N(F^-1(z_n')) |det dF^-1/dz_n'|. Both read no later latent, so that
    generation can stream.

    channels: of a latent, an even number.
    condition_dim: of the speech that every coupling reads.
    steps: number of couplings.
    reach: latents before its own that a coupling reads.
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
            log_scale, shift = step(z.chunk(2, -1)[1], condition, valid)
            z = _coupled(z, log_scale, shift)
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


class FlowStream:
    """The flow in the direction of generation, a latent at a time: what forward gives without a batch and padding."""

    def __init__(self, flow: TransformerFlow) -> None:
        self.flow = flow
        self._layers = [EncoderLayerStream(step.layer, clips=1) for step in flow.steps]

    def step(self, z: Tensor, condition: Tensor) -> Tensor:
        """z_n' (1, channels) of the next latent, from z_n (1, channels) and condition (1, condition_dim)."""
        for step, layer in zip(self.flow.steps, self._layers):
            z = _coupled(z, *step.step(z.chunk(2, -1)[1], condition, layer))
        return z

    def reset(self) -> None:
        """Forget every latent."""
        for layer in self._layers:
            layer.reset()


class MotionEncoder(nn.Module):
    """E(rho, a): the Gaussian of z_n' for every four frames of motion and speech. Training alone needs it: it reads ahead too."""

    def __init__(
        self, feature_dim: int, latent_dim: int, width: int, heads: int, layers: int, reach: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(STRIDE * (MOTION_DIM + feature_dim), width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, reach, reach, dropout) for _ in range(layers))
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
    flow_reach: latents that the flow reads before its own, and the encoder on either side.
    window, period, back, ahead: of the decoder, in frames; see DecoderSpan.
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
        back: int = 4,
        ahead: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(MOTION_DIM))
        self.register_buffer("gain", torch.ones(MOTION_DIM))
        self.no_speech = nn.Parameter(torch.zeros(feature_dim))
        self.encoder = MotionEncoder(feature_dim, latent_dim, width, heads, encoder_layers, flow_reach, dropout)
        self.listen = nn.Linear(feature_dim, flow_width)
        self.flow = TransformerFlow(latent_dim, flow_width, flow_width, heads, flow_steps, flow_reach)
        self.unfold = nn.Linear(2 * latent_dim, STRIDE * width)  # a latent and the one before to conditions of four frames
        span = DecoderSpan(window, period, back, ahead)
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
        generated = [self._decoded(speech, seed) for seed, speech in enumerate(speeches)]
        wide, narrow = (torch.stack([x.std(0) for x in rows]).mean(0).to(self.gain) for rows in (motions, generated))
        self.gain.copy_((wide / narrow.clamp(min=1e-6)).clamp(1.0, GAIN_MAX))
        self.gain[BLINK] = 1

    # Generation

    def generate(self, speech: Tensor, seed: int, temperature: float = 1.0) -> Tensor:
        """Head motion for speech of any length; the head starts in its mean pose.

        speech: (T, feature_dim).
        temperature: tau of z_n ~ N(0, tau^2); 0 for the head that moves least.
        Returns: (T, 10), normalised; of the eyelids, how much the decoder wants them to close, from 0 on.
        """
        return _all_frames(self.open(seed, temperature), speech)

    def open(self, seed: int, temperature: float = 1.0) -> MotionStream:
        """Begin to generate the head motion of a speech that comes in pieces, with the parameters of generate."""
        return MotionStream(self, seed, temperature)

    def _decoded(self, speech: Tensor, seed: int) -> Tensor:
        """The decoder's own frames (T, 10): before the gain, without the start in the mean pose, lids unbounded."""
        return _all_frames(MotionStream(self, seed, settled=False), speech)

    def _conditions(self, z: Tensor) -> Tensor:
        """z_n' (B, N, latent_dim) -> the decoder's condition of every frame (B, 4N, width)."""
        before = F.pad(z, (0, 0, 1, -1))
        return self.unfold(torch.cat([before, z], dim=-1)).unflatten(-1, (STRIDE, -1)).flatten(1, 2)

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
        z, divergence = self._encode(motion, speech, mask)
        error = self.decoder.scheduled_sampling_pass(motion, self._conditions(z * valid[..., None]), speech, mask) - motion
        pairs = mask[:, 1:] & mask[:, :-1]
        parts = {
            "reconstruction": (error.square().mean(-1) * mask).sum() / mask.sum().clamp(min=1),
            "continuity": (error.diff(dim=1).square().mean(-1) * pairs).sum() / pairs.sum().clamp(min=1),
            "divergence": divergence.clamp(min=FREE_NATS) / (STRIDE * MOTION_DIM),
        }
        parts["total"] = sum(LOSS_WEIGHTS[name] * value for name, value in parts.items())
        return parts

    def _encode(self, motion: Tensor, speech: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A sample z_n' (B, N, latent_dim) of the posterior, and its divergence from the prior per latent, in nats.

        One-sample estimate of KL(q(z'|rho,a) || p(z'|a)) = log q(z') - log N(F^-1(z')) - log |det dF^-1/dz'|, equation (13).

        motion: (B, 4N, 10), normalised.
        speech: (B, 4N, feature_dim).
        mask: (B, 4N), True on valid frames.
        """
        valid = mask.unflatten(1, (-1, STRIDE)).any(-1)
        mean, log_variance = self.encoder(motion, speech, valid)
        noise = torch.randn_like(mean)
        z = mean + noise * (0.5 * log_variance).exp()
        simple, log_determinant = self.flow.inverse(z, self.listen(_pooled(speech, mask)), valid)
        log_posterior = -0.5 * (noise.square() + log_variance + math.log(2 * math.pi)).sum(-1)
        log_prior = -0.5 * (simple.square() + math.log(2 * math.pi)).sum(-1) + log_determinant
        return z, ((log_posterior - log_prior) * valid).sum() / valid.sum().clamp(min=1)


class MotionStream:
    """The head motion of one speech that comes in pieces.

    However it is cut into pieces, the frames are those of the whole: each latent draws its own noise. Memory does not grow with
    the frames.
    """

    _speech: Tensor  # (n, feature_dim), what the next latent hears, as far as it is known
    _latent: Tensor  # (1, latent_dim), the last one
    _heard: int  # frames
    _latents: int
    _frames: int

    @torch.no_grad()
    def __init__(self, generator: MotionGenerator, seed: int, temperature: float = 1.0, settled: bool = True) -> None:
        """settled: False gives the decoder's own frames, which fit_gain compares with real ones."""
        self.generator, self.seed, self.temperature, self.settled = generator, seed, temperature, settled
        self._flow, self._decoder = FlowStream(generator.flow), generator.decoder.open(clips=1)
        self.reset()

    @torch.no_grad()
    def push(self, features: Tensor) -> Tensor:
        """Generate every frame that `ahead` frames of speech after it are known of.

        features: speech (n, feature_dim), the next frames.
        Returns: (m, 10) of the next m frames, as generate gives them.
        """
        self._speech = torch.cat([self._speech, features])
        self._heard += len(features)
        conditions = self._conditions((self._heard - HEARD) // STRIDE + 1)
        return self._finished(self._decoder.push(conditions, features[None]))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The last frames, (m, 10), where no more speech comes; then the stream is as new, and would move in the same way."""
        conditions = self._conditions(-(-self._heard // STRIDE))
        decoded = [self._decoder.push(conditions, self._speech[None, :0]), self._decoder.finish()]
        frames = self._finished(torch.cat(decoded, dim=1))
        self.reset()
        return frames

    def reset(self) -> None:
        """Forget everything, and draw the same noise again: the next push is the first."""
        self._flow.reset()
        self._decoder.reset()
        self._noise = torch.Generator().manual_seed(self.seed)
        self._speech = self.generator.no_speech.detach()[None][:0]
        self._heard = self._latents = self._frames = 0
        self._latent = self._speech.new_zeros(1, self.generator.config.latent_dim)

    def _conditions(self, latents: int) -> Tensor:
        """The decoder's conditions (1, 4k, width) of the next k latents, up to a number of latents."""
        conditions = [self._speech.new_empty(1, 0, self.generator.config.width)]
        for _ in range(self._latents, latents):
            conditions.append(self._next_condition())
        return torch.cat(conditions, dim=1)

    def _next_condition(self) -> Tensor:
        """Draw the next latent and give the conditions (1, 4, width) of its four frames."""
        generator = self.generator
        heard = STRIDE if self._latents else HEARD  # no speech stands before the first frame
        condition = generator.listen(self._speech[:heard].mean(0, keepdim=True))
        noise = torch.randn(1, generator.config.latent_dim, generator=self._noise).to(condition)
        before, self._latent = self._latent, self._flow.step(self.temperature * noise, condition)
        self._speech = self._speech[heard:]
        self._latents += 1
        return generator.unfold(torch.cat([before, self._latent], dim=-1)).unflatten(-1, (STRIDE, -1))

    def _finished(self, decoded: Tensor) -> Tensor:
        """Motion (m, 10) from the decoder's next frames (1, m, 10): with the gain, and from the mean pose on."""
        decoded = _amplify_blink(decoded[0], 1 / BLINK_GAIN)
        share = torch.arange(self._frames, self._frames + len(decoded), device=decoded.device) / SETTLE_FRAMES
        self._frames += len(decoded)
        if not self.settled:
            return decoded
        share = share.clamp(max=1)[:, None]
        motion = self.generator.gain * decoded * (share * share * (3 - 2 * share))
        motion[:, BLINK] = decoded[:, BLINK].clamp(min=0)
        return motion


def _all_frames(stream: MotionStream, speech: Tensor) -> Tensor:
    """(T, 10) of a whole speech (T, feature_dim), in pieces that keep memory flat."""
    return torch.cat([*(stream.push(piece) for piece in speech.split(STREAM_CHUNK)), stream.finish()])


def _coupled(z: Tensor, log_scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift the first half of the channels, then reverse their order: equation (12)."""
    first, second = z.chunk(2, -1)
    return torch.cat([first * log_scale.exp() + shift, second], dim=-1).flip(-1)


def _without_blink(mean: Tensor) -> Tensor:
    mean = mean.clone()
    mean[BLINK] = 0
    return mean


def _amplify_blink(motion: Tensor, gain: float) -> Tensor:
    factor = torch.ones(MOTION_DIM, device=motion.device)
    factor[BLINK] = gain
    return motion * factor


def _padded(x: Tensor) -> Tensor:
    """(B, T, c) with zeros appended until T is a multiple of four."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % STRIDE))


def _pooled(speech: Tensor, mask: Tensor) -> Tensor:
    """What each latent hears: the mean of the frames of mask (B, 4N) from 4n - 2 to 4n + 1, (B, N, c) of speech (B, 4N, c)."""
    known = mask[..., None].to(speech.dtype)
    sums, counts = (F.pad(x, (0, 0, HEARD, -HEARD)).unflatten(1, (-1, STRIDE)).sum(2) for x in (speech * known, known))
    return sums / counts.clamp(min=1)
