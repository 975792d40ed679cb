"""How a person speaks: a LoRA of the generic expression generator, adapted to their own speech and face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from gmtalker.avatars.speaking_style import save_speaking_style
from gmtalker.clock import EMOTIONS
from gmtalker.device import one_core
from gmtalker.errors import UnusableInput
from gmtalker.face.model import FaceModel
from gmtalker.models.expression_generator import ExpressionBatch, ExpressionGenerator
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress, nobody_listens
from gmtalker.training.loop import TrainOptions, fit
from personalize.emotion_offsets import SHIFT_FRAMES, emotion_shifts
from personalize.sound_sync import SpokenFootage

STYLE_RANK, STYLE_FRAMES, STYLE_BATCH = 16, 50, 12
OPENING_SHARE = 0.2  # of the windows begin where a clip does
VALIDATION_SHARE = 0.2  # of the frames, which only tell how much of the style is good
VALIDATION_FRAMES_MAX, VALIDATION_FRAMES_MIN = 500, 75
STRENGTH_WITHOUT_VALIDATION = 0.0  # where there is too little footage to tell: from so little a style does more harm than good
SURE_GAIN_ERRORS = 2.0  # standard errors by which validation must improve before the style is used
COMPARED = 75  # frames that the lips are compared over, at a time
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
FOLDS, RIDGE_ALPHAS = 4, (300.0, 1000.0, 3000.0, 10_000.0, 30_000.0, 1e12)  # of an accent, in frames; the last is none


def adapt_style(
    footage: SpokenFootage,
    pipeline: GMTalkerPipeline,
    work: Path,
    minutes: float,
    folder: Path,
    on_progress: OnProgress = nobody_listens,
) -> None:
    """Learn a LoRA of the generic expression generator on the person's own speech and face, and their accent.

    work: folder that keeps the checkpoint; the same call goes on from it.
    minutes: of training.
    folder: of the avatar; the style is written into its speaking_style/.
    Errors: UnusableInput when nobody speaks for two seconds in a row.
    """
    generator = _with_lora(pipeline.expression_generator)
    lip_basis = pipeline.face_model.lip_basis()
    learned, validation = _without_last_part(footage)
    batches = _StyleBatches(learned, pipeline.expression_generator, lip_basis)
    options = TrainOptions("style", minutes=minutes, learning_rate=5e-4, warm_up=30, average=0.99, weight_decay=0.0)
    if validation:
        fit(generator, batches, work / "style", options, on_progress)
    strength = _best_strength(generator.eval(), validation, pipeline.face_model)
    if validation:
        message = f"The speaking style is used at {strength:.0%}: what agrees best with seconds it never saw."
        on_progress(Progress(message=message))
    _scale(generator, strength)
    generator.accent = learn_accent(generator, footage, lip_basis)
    _scale(generator, 1.0)
    save_speaking_style(generator, folder / "speaking_style", strength)


def _with_lora(generic: ExpressionGenerator) -> ExpressionGenerator:
    """A copy of the generator on the CPU, frozen but for a fresh LoRA of its decoder's linear layers."""
    config = {name: value for name, value in generic.config.items() if not name.startswith("_")}
    generator = ExpressionGenerator(**config)
    generator.load_state_dict({name: tensor.detach().cpu().clone() for name, tensor in generic.state_dict().items()})
    generator.requires_grad_(False)
    torch.manual_seed(0)
    layers = [name for name, layer in generator.named_modules() if name.startswith("decoder.") and isinstance(layer, nn.Linear)]
    generator.add_adapter(LoraConfig(r=STYLE_RANK, lora_alpha=STYLE_RANK, lora_dropout=0.05, target_modules=layers))
    return generator


class _StyleBatches:
    """Batches of the person's speech by step number, half of them with the generic look of an emotion on top.

    The person hardly showed most emotions: without that, the style would forget all but their own.
    """

    def __init__(self, footage: SpokenFootage, generic: ExpressionGenerator, lip_basis: Tensor) -> None:
        self.footage, self.lip_basis = footage, lip_basis
        self.starts = _windows(footage)
        self.openings = np.intersect1d(footage.clip_starts, self.starts)
        self.shifts = emotion_shifts(generic, footage.features[self.starts[len(self.starts) // 2] :][:SHIFT_FRAMES])

    def __call__(self, number: int) -> ExpressionBatch:
        footage, draw = self.footage, np.random.default_rng([7, number])
        chosen = draw.choice(self.starts, STYLE_BATCH)
        if len(self.openings):  # a style learned from the middle of speech alone does not know how to begin
            chosen = np.where(draw.random(STYLE_BATCH) < OPENING_SHARE, draw.choice(self.openings, STYLE_BATCH), chosen)
        rows = [slice(start, start + STYLE_FRAMES) for start in chosen]
        expression = torch.stack([footage.coefficients[row] for row in rows])
        emotion = torch.stack([footage.emotion[row].mean(0) for row in rows])
        strength = torch.from_numpy(draw.uniform(0.3, 1.0, STYLE_BATCH) * (draw.random(STYLE_BATCH) < 0.5)).float()[:, None]
        other = torch.from_numpy(draw.integers(1, len(EMOTIONS), STYLE_BATCH))
        return ExpressionBatch(
            expression=expression + (strength * self.shifts[other])[:, None],
            speech=torch.stack([footage.features[row] for row in rows]),
            speech_mask=torch.ones(STYLE_BATCH, dtype=torch.bool),
            mask=torch.ones(STYLE_BATCH, STYLE_FRAMES, dtype=torch.bool),
            emotion=(1 - strength) * emotion + strength * torch.eye(len(EMOTIONS))[other],
            labelled=torch.ones(STYLE_BATCH, dtype=torch.bool),
            speaker=torch.full((STYLE_BATCH,), -1),
            lip_basis=self.lip_basis,
        )


def _without_last_part(footage: SpokenFootage) -> tuple[SpokenFootage, list[tuple[Tensor, Tensor]]]:
    """The footage whose last usable seconds may not be learned from, and those: coefficients (frames, n) and features (frames, d)
    of each stretch; none where there is too little to spare any."""
    usable = np.flatnonzero(footage.usable)
    spared = int(min(VALIDATION_SHARE * len(usable), VALIDATION_FRAMES_MAX))
    if spared < VALIDATION_FRAMES_MIN:
        return footage, []
    first = usable[-spared]
    edges = [first, *(begin for begin in footage.clip_starts if begin > first), len(footage.usable)]
    validation = []
    for begin, end in zip(edges[:-1], edges[1:]):
        rows = begin + np.flatnonzero(footage.usable[begin:end])
        if len(rows) >= STYLE_FRAMES and len(rows) == rows[-1] - rows[0] + 1:
            validation.append((footage.coefficients[rows[0] : rows[-1] + 1], footage.features[rows[0] : rows[-1] + 1]))
    kept = footage.usable & (np.arange(len(footage.usable)) < first)
    return (replace(footage, usable=kept), validation) if validation else (footage, [])


@torch.no_grad()
@one_core()
def learn_accent(generator: ExpressionGenerator, footage: SpokenFootage, lip_basis: Tensor) -> nn.Linear | None:
    """What the person's face does with the same sounds beyond what the generator makes of them, linear in the speech features.

    Ridge regression of what the generator, running freely, leaves over. How firmly it is held to nothing is what lets parts of
    the footage foretell the lips of the others best (cross-validation); None when nothing helps.
    """
    edges = [*footage.clip_starts, len(footage.usable)]
    left_over = torch.zeros_like(footage.coefficients)
    for begin, end in zip(edges[:-1], edges[1:]):
        speech, emotion = (x[begin:end].to(generator.device) for x in (footage.features, footage.emotion))
        said = generator.generate(speech, generator.latent(emotion, seed=0, temperature=0.0)).cpu()
        left_over[begin:end] = footage.coefficients[begin:end] - said
    rows = torch.from_numpy(np.flatnonzero(footage.usable))
    heard, wanted = footage.features[rows].double(), left_over[rows].double()
    mean, deviation = heard.mean(0), heard.std(0) + 1e-3
    heard = (heard - mean) / deviation

    def ridge(chosen: Tensor, ridge_alpha: float) -> tuple[Tensor, Tensor]:
        middle, x = wanted[chosen].mean(0), heard[chosen]
        gram = x.T @ x + ridge_alpha * torch.eye(x.shape[1], dtype=x.dtype)
        return torch.linalg.solve(gram, x.T @ (wanted[chosen] - middle)), middle

    folds = torch.arange(len(rows)).tensor_split(FOLDS)
    errors = {}
    for ridge_alpha in RIDGE_ALPHAS:
        error = 0.0
        for fold in folds:
            others = torch.cat([other for other in folds if other is not fold])
            weight, middle = ridge(others, ridge_alpha)
            error += float(((wanted[fold] - middle - heard[fold] @ weight) @ lip_basis.double()).square().sum())
        errors[ridge_alpha] = error
    ridge_alpha = min(errors, key=errors.get)
    if ridge_alpha == RIDGE_ALPHAS[-1]:
        return None
    weight, middle = ridge(torch.arange(len(rows)), ridge_alpha)
    weight = weight / deviation[:, None]
    accent = nn.Linear(len(weight), weight.shape[1])
    accent.weight.copy_(weight.T)
    accent.bias.zero_().sub_((mean @ weight).float())  # around the person's mean speech: where a face rests is not its accent
    return accent


@torch.no_grad()
@one_core()
def _best_strength(generator: ExpressionGenerator, validation: Sequence[tuple[Tensor, Tensor]], face_model: FaceModel) -> float:
    """Which part of the style makes the lips agree best with the watched stretches: a style learned from little may do harm."""
    if not validation:
        return STRENGTH_WITHOUT_VALIDATION
    agreement = {}
    neutral = torch.eye(len(EMOTIONS), device=generator.device)[:1]
    for strength in STRENGTHS:
        _scale(generator, strength)
        pieces = []
        for coefficients, features in validation:
            features = features.to(generator.device)
            said = generator.generate(features, generator.latent(neutral.expand(len(features), -1), seed=0)).cpu()
            lips = np.stack([face_model.lip_opening(rows.numpy()) for rows in (said, coefficients)])
            pieces += np.array_split(lips, max(1, len(features) // COMPARED), axis=1)
        agreement[strength] = np.array([np.corrcoef(piece)[0, 1] if piece.std(1).min() > 1e-9 else 0.0 for piece in pieces])
    _scale(generator, 1.0)
    best = max(STRENGTHS, key=lambda strength: (agreement[strength].mean(), -strength))
    gain = agreement[best] - agreement[0.0]
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return best if gain.mean() > SURE_GAIN_ERRORS * error else 0.0


def _scale(generator: ExpressionGenerator, strength: float) -> None:
    for layer in generator.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale(next(iter(layer.scaling)), strength)


def _windows(footage: SpokenFootage) -> np.ndarray:
    """First frames of the stretches of speech that lie within one clip."""
    usable = footage.usable
    inside = np.ones(len(usable), bool)
    ends = [*footage.clip_starts[1:], len(usable)]
    for end in ends:
        inside[max(0, end - STYLE_FRAMES + 1) : end] = False
    whole = np.convolve(usable, np.ones(STYLE_FRAMES, int), "full")[STYLE_FRAMES - 1 :][: len(usable)] == STYLE_FRAMES
    starts = np.flatnonzero(whole & inside)
    if not len(starts):
        raise UnusableInput("No two seconds of speech with the face in view were found; please film a longer stretch of talking.")
    return starts
