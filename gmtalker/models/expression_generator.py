"""From speech features and emotion weights to expression coefficients: GMTalker's GMEG (method section 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Iterator

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.clock import EMOTIONS
from gmtalker.models.attention import EncoderLayer
from gmtalker.models.autoregressive_decoder import AutoregressiveDecoder

STRANGER = -1
LOSS_WEIGHTS = {
    "reconstruction": 1.0,
    "velocity": 1.0,
    "lips": 2.0,
    "lip_velocity": 2.0,
    # High for a VAE: generation draws from the mixture, so what z keeps outside of it is lost, and lips come from the speech.
    "w": 0.02,
    "condition": 0.02,
    "emotion": 0.05,
    "straightness": 4.0,
}
INTERPOLATED_CLIPS = 6  # clips of a batch whose way to another emotion is made straight
PRIOR_SAMPLED_SHARE = 0.9  # of the clips gets a z as generation samples it
BEYOND = 0.2  # how far their blend of emotions goes past either end
FREE_W, FREE_CONDITION, FREE_EMOTION = 1.0, 2.0, 0.5  # nats that cost nothing, or the latents collapse and the clusters merge


@dataclass(frozen=True)
class ExpressionBatch:
    """Clips of one length.

    expression: (B,T,n) in standard deviations; speech: (B,T,d); speech_mask: (B,) or (B,T), True where the speech is usable;
    mask: (B,T), True on valid frames, padding at the end; emotion: (B,8) soft label rows with sum 1, read where labelled: (B,);
    speaker: (B,) rows of the speaker table, -1 an unseen speaker; lip_basis: (n,L*3) from coefficients to lip vertices, or None;
    walks: whether training may move a clip to the mood of another one.
    """

    expression: Tensor
    speech: Tensor
    speech_mask: Tensor
    mask: Tensor
    emotion: Tensor
    labelled: Tensor
    speaker: Tensor
    lip_basis: Tensor | None = None
    walks: bool = False

    def __post_init__(self) -> None:
        clips, frames = self.mask.shape
        assert self.expression.shape[:2] == self.speech.shape[:2] == (clips, frames)
        assert self.speech_mask.shape in {(clips,), (clips, frames)} and self.emotion.shape == (clips, len(EMOTIONS))
        assert self.labelled.shape == self.speaker.shape == (clips,)


@dataclass(frozen=True)
class LatentPosterior:
    """q(w|beta,a): (B,dw) and q(z|beta,a): (B,dz), diagonal Gaussians, one vector each per clip."""

    w_mean: Tensor
    w_log_variance: Tensor
    z_mean: Tensor
    z_log_variance: Tensor

    def sample(self) -> tuple[Tensor, Tensor]:
        """w (B,dw), z (B,dz), differentiable."""
        return (
            self.w_mean + torch.randn_like(self.w_mean) * (0.5 * self.w_log_variance).exp(),
            self.z_mean + torch.randn_like(self.z_mean) * (0.5 * self.z_log_variance).exp(),
        )


class GaussianPooling(nn.Module):
    """One Gaussian per clip: a learned query picks which frames count."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.attend = nn.Linear(width, 1)
        self.gaussian = nn.Linear(width, 2 * latent)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """x (B,T,width), valid (B,T) -> mean and log variance (B,latent)."""
        weight = self.attend(x).masked_fill(~valid[..., None], -math.inf).softmax(1)
        mean, log_variance = self.gaussian((weight * x).sum(1)).chunk(2, -1)
        return mean, 5 * torch.tanh(log_variance / 5)


class MixtureMapper(nn.Module):
    """w to the K components (mu_k, Sigma_k) of z's prior; component k is emotion k. Sigma_k is diagonal."""

    def __init__(self, w_size: int, z_size: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(w_size, width), nn.GELU())
        self.mean = nn.Linear(width, len(EMOTIONS) * z_size)
        self.log_variance = nn.Linear(width, len(EMOTIONS) * z_size)
        nn.init.normal_(self.mean.bias)  # components start apart: started together they would be told apart by nothing

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """w (B,dw) -> means and log variances (B,8,dz)."""
        hidden = self.hidden(w)
        mean, log_variance = (x.unflatten(-1, (len(EMOTIONS), -1)) for x in (self.mean(hidden), self.log_variance(hidden)))
        return mean, 1.5 * torch.tanh(log_variance) - 1.0  # bounded: a component can neither vanish nor swallow the rest


class ExpressionGenerator(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """GMEG: a Transformer GMVAE over expression clips, whose mixture components are the emotions.

    coefficients: expression numbers a frame (n). features: speech features a frame (d). speakers: rows of the speaker table;
    anybody else is an unseen speaker with one learned embedding. window and period, in frames, belong to the
    decoder's causal mask; reach is how many speech frames it reads on either side. by_label: True puts one learned vector an
    emotion in the place of the mixture, without anything drawn: the baseline that the mixture is measured against.
    """

    @register_to_config
    def __init__(
        self,
        coefficients: int = 40,
        features: int = 128,
        speakers: int = 64,
        width: int = 128,
        heads: int = 4,
        encoder_layers: int = 2,
        decoder_layers: int = 3,
        z_size: int = 32,
        w_size: int = 8,
        window: int = 50,
        period: int = 25,
        reach: int = 2,
        dropout: float = 0.1,
        by_label: bool = False,
    ) -> None:
        super().__init__()
        self.no_speech = nn.Parameter(torch.zeros(features))
        if not by_label:
            self.embed_expression = nn.Linear(coefficients, width)
            self.embed_speech = nn.Linear(features, width)
            self.encoder = nn.ModuleList(EncoderLayer(width, heads, period, dropout) for _ in range(encoder_layers))
            self.encoder_norm = nn.LayerNorm(width)
            self.pool_w = GaussianPooling(width, w_size)
            self.pool_z = GaussianPooling(width, z_size)
            self.mixture = MixtureMapper(w_size, z_size, width)
        else:
            self.labels = nn.Parameter(torch.randn(len(EMOTIONS), z_size))
        self.embed_z = nn.Linear(z_size, width)
        self.embed_speaker = nn.Embedding(speakers + 1, width)  # row 0 is the unseen speaker
        nn.init.normal_(self.embed_speaker.weight, std=0.02)
        self.accent: nn.Linear | None = None  # a person's, from their speaking style; generic stages have none
        self.decoder = AutoregressiveDecoder(coefficients, features, width, heads, decoder_layers, window, period, reach, dropout)

    # Encoder and mixture

    def posterior(
        self, expression: Tensor, speech: Tensor, mask: Tensor | None = None, speech_mask: Tensor | None = None
    ) -> LatentPosterior:
        """q(w|beta,a) and q(z|beta,a) of expression (B,T,n) and speech (B,T,d); mask (B,T) is True on valid frames."""
        if mask is None:
            mask = torch.ones(expression.shape[:2], dtype=torch.bool, device=expression.device)
        x = self.embed_expression(expression) + self.embed_speech(self._heard(speech, speech_mask))
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.encoder_norm(x)
        return LatentPosterior(*self.pool_w(x, mask), *self.pool_z(x, mask))

    def components(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The mixture for w (B,dw): means and log variances (B,8,dz), in the order of EMOTIONS."""
        return self.mixture(w)

    def emotion_posterior(self, z: Tensor, w: Tensor) -> Tensor:
        """p(e=k|z,w) of z (B,dz) and w (B,dw) -> (B,8); every emotion is as likely beforehand."""
        return self._log_emotion_posterior(z, *self.components(w)).exp()

    @staticmethod
    def _log_emotion_posterior(z: Tensor, means: Tensor, log_variances: Tensor) -> Tensor:
        distance = (z[:, None] - means).square() * (-log_variances).exp()
        return (-0.5 * (distance + log_variances).sum(-1)).log_softmax(-1)

    # Decoder

    @torch.no_grad()
    def latent(self, weights: Tensor, seed: int, temperature: float = 1.0) -> Tensor:
        """z (T,dz) for emotion weights omega (T,8): mu = sum omega_k mu_k(w), Sigma likewise, z = mu + tau Sigma^1/2 epsilon.

        The seed fixes w and epsilon, so z is continuous in the weights and nothing else moves with them.
        """
        if self.config.by_label:
            return weights @ self.labels
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(1, self.config.w_size, generator=generator).to(weights)
        noise = torch.randn(self.config.z_size, generator=generator).to(weights)
        return _mixed(weights, *self.components(w), temperature * noise)

    def stream(self, speech: Tensor, z: Tensor, speaker: int | None = None) -> Iterator[Tensor]:
        """Coefficients (n,) frame by frame, from speech (T,d) and z (T,dz); memory does not grow with T.

        speaker: a row of the speaker table, None for an unseen speaker.
        """
        for frame in self.stream_conditions(speech, z[None], speaker):
            yield frame[0]

    def stream_conditions(self, speech: Tensor, z: Tensor, speaker: int | None = None) -> Iterator[Tensor]:
        """Coefficients (B,n) frame by frame: one speech (T,d) said in B ways at once, z (B,T,dz)."""
        if len(speech) != z.shape[1]:
            raise ValueError(f"speech has {len(speech)} frames and z {z.shape[1]}")
        with torch.no_grad():
            speakers = torch.full((len(z),), STRANGER if speaker is None else speaker, device=z.device)
            condition = self._condition(z, speakers)
            accent = None if self.accent is None else self.accent(speech)
        for index, frame in enumerate(self.decoder.stream(condition, speech.expand(len(z), -1, -1))):
            yield frame if accent is None else frame + accent[index]  # not fed back: the decoder never met it

    def generate(self, speech: Tensor, z: Tensor, speaker: int | None = None) -> Tensor:
        """(T,n): all of stream at once."""
        frames = list(self.stream(speech, z, speaker))
        return torch.stack(frames) if frames else speech.new_zeros(0, self.config.coefficients)

    def _condition(self, z: Tensor, speaker: Tensor) -> Tensor:
        """z (B,T,dz) and speaker (B,) -> what is added to every step's input (B,T,width)."""
        return self.embed_z(z) + self.embed_speaker(speaker + 1)[:, None]

    def _heard(self, speech: Tensor, speech_mask: Tensor | None) -> Tensor:
        """speech (B,T,d) with the learned "no speech" where speech_mask, (B,) or (B,T), is False."""
        if speech_mask is None:
            return speech
        return torch.where(speech_mask.reshape(len(speech), -1, 1), speech, self.no_speech)

    # Objective

    def loss(self, batch: ExpressionBatch) -> dict[str, Tensor]:
        """L_rec, L_w, L_cond and L_emo of method section 1: "total", and the parts before weighting.

        In training mode a tenth of the clips lose their speech, three tenths their speaker, half of the silent labelled clips
        are given the speech of another clip, and nine tenths of all get a z as generation draws it, on the way to another clip's
        emotion, so that silence,
        unseen speakers, emotion under speech and every mixture of emotions are practised too.
        """
        audible = batch.speech_mask.reshape(len(batch.mask), -1).expand_as(batch.mask)
        speaker = batch.speaker
        if self.training:
            deaf, unknown = torch.rand(2, len(audible), device=audible.device)
            audible = audible & (deaf > 0.1)[:, None]
            speaker = torch.where(unknown > 0.3, speaker, STRANGER)
        z, divergences, emotion = self._inferred(batch, audible)
        spoken = replace(batch, speech_mask=audible)
        if self.training:
            spoken = _with_borrowed_speech(spoken)
        crooked: dict[str, Tensor] = {}
        if self.training and batch.walks and emotion is not None:
            crooked = self._interpolation_loss(spoken, emotion, speaker)
            spoken, z = self._drawn(spoken, z, emotion)
        predicted = self.decoder.scheduled_sampling_pass(
            spoken.expression,
            self._condition(z[:, None], speaker),
            self._heard(spoken.speech, spoken.speech_mask),
            spoken.mask,
        )
        parts = _reconstruction(predicted, spoken) | divergences | crooked
        parts["total"] = sum(LOSS_WEIGHTS[name] * value for name, value in parts.items())
        return parts

    def _inferred(self, batch: ExpressionBatch, audible: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """z (B,dz) of each clip, what it costs to keep it near the mixture, and the emotion (B,8) it shows. audible (B,T)."""
        if self.config.by_label:
            neutral = torch.eye(len(EMOTIONS), device=audible.device)[0]
            return torch.where(batch.labelled[:, None], batch.emotion, neutral) @ self.labels, {}, None
        posterior = self.posterior(batch.expression, batch.speech, batch.mask, audible)
        w, z = posterior.sample()
        means, log_variances = self.components(w)
        log_emotion = self._log_emotion_posterior(z, means, log_variances)
        labelled = batch.labelled
        emotion = torch.where(labelled[:, None], batch.emotion, log_emotion.exp())
        to_prior = _gaussian_divergence(posterior.w_mean, posterior.w_log_variance, *(torch.zeros_like(w),) * 2)
        to_components = _gaussian_divergence(
            posterior.z_mean[:, None], posterior.z_log_variance[:, None], means, log_variances
        )  # (B,8)
        named = -(batch.emotion * log_emotion).sum(-1)
        uniform = (log_emotion.exp() * (log_emotion + math.log(len(EMOTIONS)))).sum(-1)
        divergences = {
            "w": to_prior.mean().clamp(min=FREE_W),
            "condition": (emotion * to_components).sum(-1).mean().clamp(min=FREE_CONDITION),
            "emotion": torch.where(labelled, named, uniform.clamp(min=FREE_EMOTION)).mean(),
        }
        return z, divergences, emotion

    def _interpolation_loss(self, batch: ExpressionBatch, emotion: Tensor, speaker: Tensor) -> dict[str, Tensor]:
        """How far, on the way from a clip's emotion (B,8) to that of a labelled clip, the face is from the straight line between
        its ends: a slider that moves a little moves the face as far wherever it stands.

        Each of the three faces is made from a past of its own making, as generation does; only the middle one learns.
        """
        moods = batch.labelled.nonzero()[:, 0]
        if not len(moods):
            return {}
        few = slice(0, INTERPOLATED_CLIPS)
        first, mask = emotion[few], batch.mask[few]
        last = batch.emotion[moods[torch.randint(len(moods), (len(first),), device=first.device)]]
        share = torch.rand(len(first), 1, device=first.device)
        components = self.components(torch.randn(len(first), self.config.w_size, device=first.device))
        noise = torch.randn(len(first), self.config.z_size, device=first.device)
        ways = [_mixed(weights, *components, noise) for weights in (first, last, torch.lerp(first, last, share))]
        speech = self._heard(batch.speech[few], batch.speech_mask[few])
        conditions = [self._condition(z[:, None], speaker[few]) for z in ways]
        made = self.decoder.stream(torch.cat(conditions).expand(-1, speech.shape[1], -1), speech.repeat(len(ways), 1, 1))
        start, end, past = torch.stack(list(made), dim=1).chunk(len(ways))
        middle = self.decoder(past, conditions[2], speech, mask)
        return {"straightness": _mean_square(middle - torch.lerp(start, end, share[:, None]), mask)}

    def _drawn(self, batch: ExpressionBatch, z: Tensor, emotion: Tensor) -> tuple[ExpressionBatch, Tensor]:
        """Some clips with a z (B,dz) as generation draws it, on the way from their own emotion (B,8) to that of a labelled clip;
        their mean face has gone the same part of the way.

        The posterior's z tells clips apart, so that the decoder, which met no other, jumps from clip to clip where a slider goes.
        A little farther than the whole way, or the ends would be flat.
        """
        moods = batch.labelled.nonzero()[:, 0]
        if not len(moods):
            return batch, z
        other = moods[torch.randint(len(moods), (len(z),), device=z.device)]
        chosen, share = torch.rand(2, len(z), 1, device=z.device)
        chosen, share = chosen < PRIOR_SAMPLED_SHARE, share * (1 + 2 * BEYOND) - BEYOND
        share = torch.where((batch.emotion[other] - emotion).abs().sum(1, keepdim=True) > 0.2, share, 0.0)
        weights = torch.lerp(emotion, batch.emotion[other], share)
        drawn = _mixed(weights, *self.components(torch.randn(len(z), self.config.w_size, device=z.device)), torch.randn_like(z))
        mean = _clip_mean(batch.expression, batch.mask)
        moved = batch.expression + (chosen * share)[..., None] * (mean[other] - mean)
        return replace(batch, expression=moved), torch.where(chosen, drawn, z)


def _with_borrowed_speech(batch: ExpressionBatch) -> ExpressionBatch:
    """Half of the silent labelled clips with the speech and the movement of another clip of the batch around their own mean.

    Footage with a label often has no usable sound. Learned from it alone, an emotion would show in silence only: the decoder
    never met such a z together with speech. speech_mask (B,T).
    """
    silent = ~batch.speech_mask.any(1)
    speaking = (batch.speech_mask & batch.mask).any(1).nonzero()[:, 0]
    chosen = silent & batch.labelled & (torch.rand(len(silent), device=silent.device) < 0.5)
    if not len(speaking) or not chosen.any():
        return batch
    source = speaking[torch.randint(len(speaking), (len(silent),), device=silent.device)]
    mean = _clip_mean(batch.expression, batch.mask)
    with_borrowed_speech = (batch.expression - mean)[source] + mean
    return replace(
        batch,
        expression=torch.where(chosen[:, None, None], with_borrowed_speech, batch.expression),
        speech=torch.where(chosen[:, None, None], batch.speech[source], batch.speech),
        speech_mask=torch.where(chosen[:, None], batch.speech_mask[source], batch.speech_mask),
        mask=torch.where(chosen[:, None], batch.mask[source], batch.mask),
    )


def _mixed(weights: Tensor, means: Tensor, log_variances: Tensor, noise: Tensor) -> Tensor:
    """sum omega_k mu_k + (sum omega_k Sigma_k)^1/2 noise (N,dz), for weights (N,8) and components (N or 1,8,dz)."""
    mean, variance = ((weights[..., None] * x).sum(1) for x in (means, log_variances.exp()))
    return mean + variance.clamp(min=1e-4).sqrt() * noise  # weights beyond the ends of a way may be negative


def _clip_mean(x: Tensor, mask: Tensor) -> Tensor:
    """(B,1,n): the mean of x (B,T,n) over the frames of mask (B,T)."""
    return (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]


def _reconstruction(predicted: Tensor, batch: ExpressionBatch) -> dict[str, Tensor]:
    """L_rec in coefficients and, where speech is heard, in lip vertices; each with its velocity. speech_mask (B,T)."""
    error = predicted - batch.expression
    heard = batch.mask & batch.speech_mask
    parts = {"reconstruction": _mean_square(error, batch.mask), "velocity": _mean_square_step(error, batch.mask)}
    if batch.lip_basis is not None:
        # In units of the lips' own spread, so the weight means the same whatever the basis is measured in.
        spread = batch.lip_basis.square().sum(0).mean().sqrt().clamp(min=1e-9)
        lips = error @ (batch.lip_basis / spread)
        parts |= {"lips": _mean_square(lips, heard), "lip_velocity": _mean_square_step(lips, heard)}
    return parts


def _mean_square(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames of mask (B,T) and all columns of error (B,T,n)."""
    return (error.square().mean(-1) * mask).sum() / mask.sum().clamp(min=1)


def _mean_square_step(error: Tensor, mask: Tensor) -> Tensor:
    return _mean_square(error.diff(dim=1), mask[:, 1:] & mask[:, :-1])


def _gaussian_divergence(mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(prior_mean, prior_variance)) of diagonal Gaussians, summed over the last axis, in nats."""
    ratio = (log_variance.exp() + (mean - prior_mean).square()) * (-prior_log_variance).exp()
    return 0.5 * F.relu(ratio - 1 + prior_log_variance - log_variance).sum(-1)
