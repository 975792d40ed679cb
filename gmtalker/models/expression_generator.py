"""From speech features and emotion weights to expression coefficients: GMTalker's GMEG (docs/method.md section 1)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from gmtalker.clock import EMOTIONS
from gmtalker.models.attention import DecoderSpan, EncoderLayer
from gmtalker.models.autoregressive_decoder import STREAM_CHUNK, AutoregressiveDecoder
from gmtalker.models.config import NetworkConfig
from gmtalker.models.gaussian_mixture import (
    GaussianPooling,
    LatentPosterior,
    MixtureMapper,
    blend_components,
    gaussian_divergence,
    log_component_posterior,
)
from gmtalker.models.style_encoder import StyleEncoder

LOSS_WEIGHTS = {
    "reconstruction": 1.0,
    "velocity": 1.0,
    "lips": 2.0,
    "lip_velocity": 2.0,
    # High for a VAE: generation draws from the mixture, so what z keeps outside of it is lost, and lips come from the speech.
    "w": 0.02,
    "condition": 0.02,
    "emotion": 0.05,
    "interpolation": 4.0,
}
INTERPOLATED_CLIPS = 6  # clips of a batch that the interpolation loss is computed on
PRIOR_SAMPLED_SHARE = 0.9  # of the clips whose z is sampled as in generation
INTERPOLATED_SHARE = 1 / 3  # of the steps that pay for the interpolation loss, which then counts for the others too
EXTRAPOLATION = 0.2  # how far the blends of such clips go past either end, or the ends would be flat
ACCENT_BACK, ACCENT_AHEAD = 2, 1  # frames of speech around its own that an accent reads
ACCENT_FRAMES = ACCENT_BACK + 1 + ACCENT_AHEAD
FREE_W, FREE_CONDITION, FREE_EMOTION = 1.0, 2.0, 0.5  # nats that cost nothing, or the latents collapse and the clusters merge


@dataclass(frozen=True)
class StyleReference:
    """Clips that show how people speak.

    expression: (B, S, coefficient_dim) in standard deviations.
    speech: (B, S, feature_dim).
    mask: (B, S), True on frames that count; a row of False is a person whose style is not known.
    """

    expression: Tensor
    speech: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> StyleReference:
        """The same on a device."""
        return StyleReference(self.expression.to(device), self.speech.to(device), self.mask.to(device))


@dataclass(frozen=True)
class ExpressionBatch:
    """Clips of one length.

    expression: (B, T, coefficient_dim) in standard deviations.
    speech: (B, T, feature_dim).
    speech_mask: (B,) or (B, T), True where the speech is usable.
    mask: (B, T), True on valid frames; padding is at the end.
    emotion: (B, 8) rows of weights that sum to 1, read where labelled.
    labelled: (B,), True where the emotion is known.
    reference: other clips of the same people, for their speaking style; None where nobody's is known.
    lip_basis: (coefficient_dim, 3 * lip vertices), from coefficients to lip vertices, or None.
    interpolate: whether training may move clips towards the emotion of other clips.
    """

    expression: Tensor
    speech: Tensor
    speech_mask: Tensor
    mask: Tensor
    emotion: Tensor
    labelled: Tensor
    reference: StyleReference | None = None
    lip_basis: Tensor | None = None
    interpolate: bool = False

    def __post_init__(self) -> None:
        clips, frames = self.mask.shape
        assert self.expression.shape[:2] == self.speech.shape[:2] == (clips, frames)
        assert self.speech_mask.shape in {(clips,), (clips, frames)} and self.emotion.shape == (clips, len(EMOTIONS))
        assert self.labelled.shape == (clips,)


class ExpressionGenerator(ModelMixin, NetworkConfig, PeftAdapterMixin):
    """Gaussian-mixture expression generator (GMEG): a Transformer GMVAE over clips, whose mixture components are the emotions.

    coefficient_dim: expression coefficients per frame.
    feature_dim: speech features per frame.
    style_dim: numbers of a speaking style; 0 is the average person's.
    z_dim, w_dim: sizes of the latents.
    window, period, back, ahead: of the decoder, in frames; see DecoderSpan.
    by_label: True replaces the mixture by one learned vector per emotion, without sampling: the baseline it is measured against.
    Source: docs/method.md section 1; GMVAE, arXiv 1611.02648.
    """

    FORMER_NAMES = {
        "coefficients": "coefficient_dim",
        "features": "feature_dim",
        "z_size": "z_dim",
        "w_size": "w_dim",
    }

    @register_to_config
    def __init__(
        self,
        coefficient_dim: int = 40,
        feature_dim: int = 128,
        style_dim: int = 16,
        width: int = 128,
        heads: int = 4,
        encoder_layers: int = 2,
        decoder_layers: int = 3,
        z_dim: int = 32,
        w_dim: int = 8,
        window: int = 50,
        period: int = 25,
        back: int = 4,
        ahead: int = 1,
        dropout: float = 0.1,
        by_label: bool = False,
    ) -> None:
        super().__init__()
        self.no_speech = nn.Parameter(torch.zeros(feature_dim))
        if not by_label:
            self.embed_expression = nn.Linear(coefficient_dim, width)
            self.embed_speech = nn.Linear(feature_dim, width)
            self.encoder = nn.ModuleList(EncoderLayer(width, heads, period, period, dropout) for _ in range(encoder_layers))
            self.encoder_norm = nn.LayerNorm(width)
            self.pool_w = GaussianPooling(width, w_dim)
            self.pool_z = GaussianPooling(width, z_dim)
            self.mixture = MixtureMapper(w_dim, z_dim, width)
        else:
            self.labels = nn.Parameter(torch.randn(len(EMOTIONS), z_dim))
        self.embed_z = nn.Linear(z_dim, width)
        self.style_encoder = StyleEncoder(coefficient_dim, feature_dim, width, heads, period, style_dim)
        self.embed_style = nn.Linear(style_dim, width, bias=False)
        self.style: Tensor | None = None  # (style_dim,), a person's, from their speaking style; generic stages have none
        self.accent: nn.Linear | None = None  # of accent_windows, a person's, likewise
        span = DecoderSpan(window, period, back, ahead)
        self.decoder = AutoregressiveDecoder(coefficient_dim, feature_dim, width, heads, decoder_layers, span, dropout)

    # Encoder and mixture

    def posterior(
        self, expression: Tensor, speech: Tensor, mask: Tensor | None = None, speech_mask: Tensor | None = None
    ) -> LatentPosterior:
        """Encode clips: equation (1).

        expression: (B, T, coefficient_dim).
        speech: (B, T, feature_dim).
        mask: (B, T), True on valid frames; None where all are.
        speech_mask: (B,) or (B, T), True where the speech is usable; None where all is.
        """
        if mask is None:
            mask = torch.ones(expression.shape[:2], dtype=torch.bool, device=expression.device)
        x = self.embed_expression(expression) + self.embed_speech(self._where_audible(speech, speech_mask))
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.encoder_norm(x)
        return LatentPosterior(*self.pool_w(x, mask), *self.pool_z(x, mask))

    def components(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances (B, 8, z_dim) of the mixture for w (B, w_dim), in the order of EMOTIONS: equation (2)."""
        return self.mixture(w)

    def emotion_posterior(self, z: Tensor, w: Tensor) -> Tensor:
        """p(e=k|z,w), with every emotion equally likely beforehand: equation (3).

        z: (B, z_dim).
        w: (B, w_dim).
        Returns: (B, 8).
        """
        return log_component_posterior(z, *self.components(w)).exp()

    # Decoder

    @torch.no_grad()
    def latent(self, weights: Tensor, seed: int, temperature: float = 1.0) -> Tensor:
        """Sample z for emotion weights: z = sum omega_k mu_k(w) + tau (sum omega_k Sigma_k(w))^1/2 epsilon, equation (11).

        The seed fixes w and epsilon, so z is continuous in the weights and nothing else changes with them.

        weights: omega, (T, 8).
        temperature: tau.
        Returns: (T, z_dim).
        """
        if self.config.by_label:
            return weights @ self.labels
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(1, self.config.w_dim, generator=generator).to(weights)
        noise = torch.randn(self.config.z_dim, generator=generator).to(weights)
        return blend_components(weights, *self.components(w), temperature * noise)

    def stream(self, speech: Tensor, z: Tensor) -> Iterator[Tensor]:
        """Generate frame by frame; memory does not grow with T.

        speech: (T, feature_dim).
        z: (T, z_dim).
        Yields: coefficients (coefficient_dim,).
        """
        for frame in self.stream_conditions(speech, z[None]):
            yield frame[0]

    def stream_conditions(self, speech: Tensor, z: Tensor) -> Iterator[Tensor]:
        """Generate the same speech in B ways at once, frame by frame.

        speech: (T, feature_dim).
        z: (B, T, z_dim).
        Yields: coefficients (B, coefficient_dim).
        Errors: ValueError when speech and z differ in length.
        """
        if len(speech) != z.shape[1]:
            raise ValueError(f"speech has {len(speech)} frames and z {z.shape[1]}")
        stream = self.open(conditions=len(z))
        for piece in zip(speech.split(STREAM_CHUNK), z.split(STREAM_CHUNK, dim=1)):
            yield from stream.push(*piece).unbind(1)
        yield from stream.finish().unbind(1)

    def open(self, conditions: int = 1) -> ExpressionStream:
        """Begin to generate a speech that comes in pieces, in this generator's style.

        conditions: B, in how many ways at once.
        """
        return ExpressionStream(self, conditions)

    def generate(self, speech: Tensor, z: Tensor) -> Tensor:
        """All frames of stream, (T, coefficient_dim)."""
        frames = list(self.stream(speech, z))
        return torch.stack(frames) if frames else speech.new_zeros(0, self.config.coefficient_dim)

    @torch.no_grad()
    def style_of(self, reference: StyleReference) -> Tensor:
        """The speaking style (style_dim,) of one person: the mean over their clips, or pieces of one."""
        return self.style_encoder(reference.expression, reference.speech, reference.mask).mean(0)

    def _condition(self, z: Tensor, style: Tensor | None) -> Tensor:
        """What is added to every step's input, (B, T, width), for z (B, T, z_dim) and styles (B, style_dim) or None."""
        condition = self.embed_z(z)
        return condition if style is None else condition + self.embed_style(style)[:, None]

    def _styles(self, batch: ExpressionBatch) -> Tensor | None:
        """(B, style_dim) of the reference clips, or this generator's own; in training three tenths are the average's, 0."""
        if batch.reference is None:
            return None if self.style is None else self.style.to(batch.expression).expand(len(batch.expression), -1)
        style = self.style_encoder(batch.reference.expression, batch.reference.speech, batch.reference.mask)
        known = batch.reference.mask.any(1)
        if self.training:
            known = known & (torch.rand(len(known), device=known.device) > 0.3)
        return style * known[:, None]

    def _where_audible(self, speech: Tensor, speech_mask: Tensor | None) -> Tensor:
        """speech (B, T, feature_dim), with the learned "no speech" where speech_mask, (B,) or (B, T), is False."""
        if speech_mask is None:
            return speech
        return torch.where(speech_mask.reshape(len(speech), -1, 1), speech, self.no_speech)

    # Objective

    def loss(self, batch: ExpressionBatch) -> dict[str, Tensor]:
        """L_GMEG = L_rec + 0.02 L_w + 0.02 L_cond + 0.05 L_emo + 4 L_lin.

        In training mode a tenth of the clips lose their speech, three tenths their style, half of the silent labelled clips
        borrow the speech of another clip, and nine tenths of all get a z as generation samples it, on the way to another clip's
        emotion: so silence, people of unknown style, emotion under speech and every mixture of emotions are practised too.

        Returns: "total", and its parts before weighting, by the names of LOSS_WEIGHTS.
        Source: docs/method.md section 1, equations (5) to (10); divergences after GMVAE, arXiv 1611.02648.
        """
        audible = batch.speech_mask.reshape(len(batch.mask), -1).expand_as(batch.mask)
        style = self._styles(batch)
        if self.training:
            audible = audible & (torch.rand(len(audible), device=audible.device) > 0.1)[:, None]
        z, divergences, emotion = self._infer(batch, audible)
        spoken = replace(batch, speech_mask=audible)
        if self.training:
            spoken = _with_borrowed_speech(spoken)
        interpolation: dict[str, Tensor] = {}
        if self.training and batch.interpolate and emotion is not None:
            if torch.rand(()) < INTERPOLATED_SHARE:
                losses = self._interpolation_loss(spoken, emotion, style)
                interpolation = {name: loss / INTERPOLATED_SHARE for name, loss in losses.items()}
            spoken, z = self._sample_prior(spoken, z, emotion)
        predicted = self.decoder.scheduled_sampling_pass(
            spoken.expression,
            self._condition(z[:, None], style),
            self._where_audible(spoken.speech, spoken.speech_mask),
            spoken.mask,
        )
        parts = _reconstruction_losses(predicted, spoken) | divergences | interpolation
        parts["total"] = sum(LOSS_WEIGHTS[name] * value for name, value in parts.items())
        return parts

    def _infer(self, batch: ExpressionBatch, audible: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """z (B, z_dim) of each clip, L_w, L_cond and L_emo of equations (6) to (8), and the emotion (B, 8) it shows.

        audible: (B, T). The baseline by label has no divergences and no emotion.
        """
        if self.config.by_label:
            neutral = torch.eye(len(EMOTIONS), device=audible.device)[0]
            return torch.where(batch.labelled[:, None], batch.emotion, neutral) @ self.labels, {}, None
        posterior = self.posterior(batch.expression, batch.speech, batch.mask, audible)
        w, z = posterior.sample()
        means, log_variances = self.components(w)
        log_emotion = log_component_posterior(z, means, log_variances)
        labelled = batch.labelled
        emotion = torch.where(labelled[:, None], batch.emotion, log_emotion.exp())
        to_prior = gaussian_divergence(posterior.w_mean, posterior.w_log_variance, *(torch.zeros_like(w),) * 2)
        to_components = gaussian_divergence(
            posterior.z_mean[:, None], posterior.z_log_variance[:, None], means, log_variances
        )  # (B, 8)
        cross_entropy = -(batch.emotion * log_emotion).sum(-1)
        from_uniform = (log_emotion.exp() * (log_emotion + math.log(len(EMOTIONS)))).sum(-1)
        divergences = {
            "w": to_prior.mean().clamp(min=FREE_W),
            "condition": (emotion * to_components).sum(-1).mean().clamp(min=FREE_CONDITION),
            "emotion": torch.where(labelled, cross_entropy, from_uniform.clamp(min=FREE_EMOTION)).mean(),
        }
        return z, divergences, emotion

    def _interpolation_loss(self, batch: ExpressionBatch, emotion: Tensor, style: Tensor | None) -> dict[str, Tensor]:
        """Interpolation loss: deviation of the face at a random blend of two emotions from the linear blend of its ends' faces.

        With it, a slider that moves a little moves the face equally far wherever it stands. Each of the three faces reads a past
        that it generated itself; only the middle one gets a gradient. Source: equation (9).

        emotion: (B, 8) of the first ends; the other ends are drawn from the labelled clips.
        """
        labelled = batch.labelled.nonzero()[:, 0]
        if not len(labelled):
            return {}
        used = slice(0, INTERPOLATED_CLIPS)
        first, mask = emotion[used], batch.mask[used]
        last = batch.emotion[labelled[torch.randint(len(labelled), (len(first),), device=first.device)]]
        share = torch.rand(len(first), 1, device=first.device)
        components = self.components(torch.randn(len(first), self.config.w_dim, device=first.device))
        noise = torch.randn(len(first), self.config.z_dim, device=first.device)
        blends = (first, last, torch.lerp(first, last, share))
        latents = [blend_components(weights, *components, noise) for weights in blends]
        speech = self._where_audible(batch.speech[used], batch.speech_mask[used])
        style = None if style is None else style[used]
        conditions = [self._condition(z[:, None], style) for z in latents]
        frames = self.decoder.stream(torch.cat(conditions).expand(-1, speech.shape[1], -1), speech.repeat(len(latents), 1, 1))
        start, end, past = torch.stack(list(frames), dim=1).chunk(len(latents))
        middle = self.decoder(past, conditions[2], speech, mask)
        return {"interpolation": _mean_square(middle - torch.lerp(start, end, share[:, None]), mask)}

    def _sample_prior(self, batch: ExpressionBatch, z: Tensor, emotion: Tensor) -> tuple[ExpressionBatch, Tensor]:
        """Give most clips a z as generation samples it, at a random blend of their emotion and that of a labelled clip.

        Their mean face is moved by the same share of the way. The posterior's z tells clips apart: a decoder that met no other
        would jump from clip to clip where a slider moves.

        z: (B, z_dim) of the posterior.
        emotion: (B, 8) that the clips show.
        """
        labelled = batch.labelled.nonzero()[:, 0]
        if not len(labelled):
            return batch, z
        other = labelled[torch.randint(len(labelled), (len(z),), device=z.device)]
        chosen, share = torch.rand(2, len(z), 1, device=z.device)
        chosen, share = chosen < PRIOR_SAMPLED_SHARE, share * (1 + 2 * EXTRAPOLATION) - EXTRAPOLATION
        share = torch.where((batch.emotion[other] - emotion).abs().sum(1, keepdim=True) > 0.2, share, 0.0)
        weights = torch.lerp(emotion, batch.emotion[other], share)
        components = self.components(torch.randn(len(z), self.config.w_dim, device=z.device))
        sampled = blend_components(weights, *components, torch.randn_like(z))
        mean = _clip_mean(batch.expression, batch.mask)
        moved = batch.expression + (chosen * share)[..., None] * (mean[other] - mean)
        return replace(batch, expression=moved), torch.where(chosen, sampled, z)


def accent_windows(speech: Tensor) -> Tensor:
    """What an accent reads of speech (T, feature_dim): of each frame with enough around it, its neighbours and itself.

    Returns: (T - ACCENT_BACK - ACCENT_AHEAD, ACCENT_FRAMES * feature_dim); nothing of a speech that is shorter.
    """
    if len(speech) < ACCENT_FRAMES:
        return speech.new_empty(0, ACCENT_FRAMES * speech.shape[1])
    return speech.unfold(0, ACCENT_FRAMES, 1).transpose(1, 2).flatten(1)


class ExpressionStream:
    """One speech said in B ways at once, that comes in pieces.

    However it is cut into pieces, the frames are those of the whole. Memory does not grow with the frames.
    """

    _accent: Tensor  # (n, coefficient_dim), of the frames to come
    _accent_speech: Tensor  # (n, feature_dim) that an accent still reads

    def __init__(self, generator: ExpressionGenerator, conditions: int) -> None:
        self.generator = generator
        self.styles = None if generator.style is None else generator.style.to(generator.device).expand(conditions, -1)
        self._decoder = generator.decoder.open(conditions)
        self.reset()

    @torch.no_grad()
    def push(self, speech: Tensor, z: Tensor) -> Tensor:
        """Generate every frame that `ahead` frames of speech after it are known of.

        speech: (n, feature_dim), the next frames.
        z: (B, n, z_dim), of the same frames.
        Returns: coefficients (B, m, coefficient_dim) of the next m frames.
        Errors: ValueError when speech and z differ in length.
        """
        if len(speech) != z.shape[1]:
            raise ValueError(f"speech has {len(speech)} frames and z {z.shape[1]}")
        self._hear_accent(speech)
        return self._accented(self._decoder.push(self.generator._condition(z, self.styles), speech[None]))

    def finish(self) -> Tensor:
        """The last frames, (B, m, coefficient_dim), where no more speech comes; then the stream is as new."""
        self._hear_accent(self._accent_speech[-1:].repeat(ACCENT_AHEAD, 1))
        frames = self._accented(self._decoder.finish())
        self.reset()
        return frames

    def reset(self) -> None:
        """Forget everything: the next push is the first."""
        self._decoder.reset()
        self._accent = self.generator.no_speech.new_empty(0, self.generator.config.coefficient_dim)
        self._accent_speech = self.generator.no_speech.new_empty(0, self.generator.config.feature_dim)

    def _hear_accent(self, speech: Tensor) -> None:
        """Work out the accent of the frames that are known by speech (n, feature_dim), the next frames."""
        if self.generator.accent is None or not len(speech):
            return
        past = self._accent_speech if len(self._accent_speech) else speech[:1].repeat(ACCENT_BACK, 1)
        speech = torch.cat([past, speech])
        self._accent = torch.cat([self._accent, self.generator.accent(accent_windows(speech))])
        self._accent_speech = speech[-(ACCENT_BACK + ACCENT_AHEAD) :]

    def _accented(self, frames: Tensor) -> Tensor:
        """Frames (B, m, coefficient_dim) with the accent, which is not fed back: the decoder never met it."""
        if self.generator.accent is None:
            return frames
        accent, self._accent = self._accent.split([frames.shape[1], len(self._accent) - frames.shape[1]])
        return frames + accent


def _with_borrowed_speech(batch: ExpressionBatch) -> ExpressionBatch:
    """Give half of the silent labelled clips the speech and the movement of another clip, around their own mean face.

    Labelled footage often has no usable sound. Learned from it alone, an emotion would show in silence only: the decoder would
    never meet such a z together with speech. speech_mask is (B, T).
    """
    silent = ~batch.speech_mask.any(1)
    speaking = (batch.speech_mask & batch.mask).any(1).nonzero()[:, 0]
    chosen = silent & batch.labelled & (torch.rand(len(silent), device=silent.device) < 0.5)
    if not len(speaking) or not chosen.any():
        return batch
    source = speaking[torch.randint(len(speaking), (len(silent),), device=silent.device)]
    mean = _clip_mean(batch.expression, batch.mask)
    borrowed = (batch.expression - mean)[source] + mean
    return replace(
        batch,
        expression=torch.where(chosen[:, None, None], borrowed, batch.expression),
        speech=torch.where(chosen[:, None, None], batch.speech[source], batch.speech),
        speech_mask=torch.where(chosen[:, None], batch.speech_mask[source], batch.speech_mask),
        mask=torch.where(chosen[:, None], batch.mask[source], batch.mask),
    )


def _clip_mean(x: Tensor, mask: Tensor) -> Tensor:
    """(B, 1, n): the mean of x (B, T, n) over the frames of mask (B, T)."""
    return (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]


def _reconstruction_losses(predicted: Tensor, batch: ExpressionBatch) -> dict[str, Tensor]:
    """L_rec of equation (5): in coefficients and, where there is speech, in lip vertices; each with its velocity."""
    error = predicted - batch.expression
    audible = batch.mask & batch.speech_mask
    parts = {"reconstruction": _mean_square(error, batch.mask), "velocity": _mean_square_step(error, batch.mask)}
    if batch.lip_basis is not None:
        # In units of the lips' own spread, so the weight means the same whatever the basis is measured in.
        spread = batch.lip_basis.square().sum(0).mean().sqrt().clamp(min=1e-9)
        lips = error @ (batch.lip_basis / spread)
        parts |= {"lips": _mean_square(lips, audible), "lip_velocity": _mean_square_step(lips, audible)}
    return parts


def _mean_square(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames of mask (B, T) and all columns of error (B, T, n)."""
    return (error.square().mean(-1) * mask).sum() / mask.sum().clamp(min=1)


def _mean_square_step(error: Tensor, mask: Tensor) -> Tensor:
    """The same of the differences between neighbouring frames."""
    return _mean_square(error.diff(dim=1), mask[:, 1:] & mask[:, :-1])
