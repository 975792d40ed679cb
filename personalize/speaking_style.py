"""Learn a person's speaking style from their own speech: a LoRA of the generic expression generator, and an accent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from gmtalker.avatars.speaking_style import save_speaking_style
from gmtalker.clock import EMOTIONS
from gmtalker.device import one_core
from gmtalker.errors import UnusableInput
from gmtalker.face.model import FaceModel
from gmtalker.models.expression_generator import ExpressionBatch, ExpressionGenerator
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.training.loop import TrainOptions, fit
from personalize.emotion_offsets import OFFSET_FRAMES, generic_offsets
from personalize.sound_sync import SpokenFootage

STYLE_RANK, STYLE_FRAMES, STYLE_BATCH = 16, 50, 12
CLIP_START_SHARE = 0.2  # of the windows are at the start of a clip
VALIDATION_SHARE = 0.2  # of the frames, which only decide how much of the style is used
VALIDATION_FRAMES_MAX, VALIDATION_FRAMES_MIN = 500, 75
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
STRENGTH_WITHOUT_VALIDATION = 0.0  # a style from so little footage does more harm than good
STANDARD_ERRORS = 2.0  # by which validation must improve before the style is used
COMPARED_FRAMES = 75  # of lip opening that one correlation is taken over
FOLDS, RIDGE_ALPHAS = 4, (300.0, 1000.0, 3000.0, 10_000.0, 30_000.0, 1e12)  # of an accent; the last alpha means none


def adapt_style(
    footage: SpokenFootage,
    pipeline: GMTalkerPipeline,
    work: Path,
    minutes: float,
    folder: Path,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Learn a person's LoRA of the generic expression generator, and their accent, from their own speech and face.

    footage: its last usable part validates how much of the LoRA is used.
    work: folder that keeps the checkpoint; the same call resumes.
    minutes: of training.
    folder: of the avatar; the style is written into its speaking_style/.
    Errors: UnusableInput when there are no two seconds of uninterrupted speech.
    Source: docs/method.md section 10; LoRA: arXiv 2106.09685.
    """
    generator = _with_lora(pipeline.expression_generator)
    lip_basis = pipeline.face_model.lip_basis()
    train, validation = _train_and_validation(footage)
    batches = _StyleBatches(train, pipeline.expression_generator, lip_basis)
    options = TrainOptions("style", minutes=minutes, learning_rate=5e-4, warm_up=30, ema_decay=0.99, weight_decay=0.0)
    if validation:
        fit(generator, batches, work / "style", options, on_progress)
    strength = _best_strength(generator.eval(), validation, pipeline.face_model)
    if validation:
        message = f"The speaking style is used at {strength:.0%}, where it agrees best with unseen footage."
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
    """Batches of the person's speech by step number, half of their rows with the generic offset of another emotion on top.

    The clips hardly show most emotions: without that, the style would forget all but the person's own.
    """

    def __init__(self, footage: SpokenFootage, generic: ExpressionGenerator, lip_basis: Tensor) -> None:
        self.footage, self.lip_basis = footage, lip_basis
        self.starts = _windows(footage)
        self.clip_starts = np.intersect1d(footage.clip_starts, self.starts)
        self.offsets = generic_offsets(generic, footage.features[self.starts[len(self.starts) // 2] :][:OFFSET_FRAMES])

    def __call__(self, number: int) -> ExpressionBatch:
        footage, draw = self.footage, np.random.default_rng([7, number])
        chosen = draw.choice(self.starts, STYLE_BATCH)
        if len(self.clip_starts):  # a style learned from the middle of speech alone does not know how to begin
            at_start = draw.random(STYLE_BATCH) < CLIP_START_SHARE
            chosen = np.where(at_start, draw.choice(self.clip_starts, STYLE_BATCH), chosen)
        rows = [slice(start, start + STYLE_FRAMES) for start in chosen]
        expression = torch.stack([footage.coefficients[row] for row in rows])
        emotion = torch.stack([footage.emotion[row].mean(0) for row in rows])
        strength = torch.from_numpy(draw.uniform(0.3, 1.0, STYLE_BATCH) * (draw.random(STYLE_BATCH) < 0.5)).float()[:, None]
        other = torch.from_numpy(draw.integers(1, len(EMOTIONS), STYLE_BATCH))
        return ExpressionBatch(
            expression=expression + (strength * self.offsets[other])[:, None],
            speech=torch.stack([footage.features[row] for row in rows]),
            speech_mask=torch.ones(STYLE_BATCH, dtype=torch.bool),
            mask=torch.ones(STYLE_BATCH, STYLE_FRAMES, dtype=torch.bool),
            emotion=(1 - strength) * emotion + strength * torch.eye(len(EMOTIONS))[other],
            labelled=torch.ones(STYLE_BATCH, dtype=torch.bool),
            speaker=torch.full((STYLE_BATCH,), -1),
            lip_basis=self.lip_basis,
        )


def _train_and_validation(footage: SpokenFootage) -> tuple[SpokenFootage, list[tuple[Tensor, Tensor]]]:
    """Split off the last usable frames.

    Returns: the footage without them, and of each stretch of them coefficients (frames, n) and features (frames, d); the whole
        footage and nothing where there is too little to spare any.
    """
    usable = np.flatnonzero(footage.usable)
    spared = int(min(VALIDATION_SHARE * len(usable), VALIDATION_FRAMES_MAX))
    if spared < VALIDATION_FRAMES_MIN:
        return footage, []
    first = usable[-spared]
    validation = []
    for start, end in pairwise([first, *(start for start in footage.clip_starts if start > first), len(footage.usable)]):
        rows = start + np.flatnonzero(footage.usable[start:end])
        if len(rows) >= STYLE_FRAMES and len(rows) == rows[-1] - rows[0] + 1:
            validation.append((footage.coefficients[rows[0] : rows[-1] + 1], footage.features[rows[0] : rows[-1] + 1]))
    before = footage.usable & (np.arange(len(footage.usable)) < first)
    return (replace(footage, usable=before), validation) if validation else (footage, [])


@torch.no_grad()
@one_core()
def learn_accent(generator: ExpressionGenerator, footage: SpokenFootage, lip_basis: Tensor) -> nn.Linear | None:
    """Fit what the person's face does with the same sounds beyond what the generator makes of them, linear in the features.

    lip_basis: (n, lip coordinates), in which the error of the cross-validation is measured.
    Returns: the map from features to coefficients, without the mean over the footage: where a face rests is not its accent;
        None when no accent predicts the lips better than none.
    Source: docs/method.md section 10.
    """
    rows = np.flatnonzero(footage.usable)
    features, residual = footage.features[rows].double(), _residual(generator, footage)[rows].double()
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    weight = fit_ridge(((features - mean) / deviation).numpy(), residual.numpy(), lip_basis.double().numpy())
    if weight is None:
        return None
    weight = torch.from_numpy(weight) / deviation[:, None]
    accent = nn.Linear(len(weight), weight.shape[1])
    accent.weight.copy_(weight.T)
    accent.bias.zero_().sub_((mean @ weight).float())
    return accent


def _residual(generator: ExpressionGenerator, footage: SpokenFootage) -> Tensor:
    """(frames, n) what the generator, running freely, leaves of the person's coefficients."""
    residual = torch.zeros_like(footage.coefficients)
    for clip in footage.clips():
        speech, emotion = (x[clip].to(generator.device) for x in (footage.features, footage.emotion))
        generated = generator.generate(speech, generator.latent(emotion, seed=0, temperature=0.0)).cpu()
        residual[clip] = footage.coefficients[clip] - generated
    return residual


def fit_ridge(inputs: np.ndarray, targets: np.ndarray, projection: np.ndarray) -> np.ndarray | None:
    """Ridge regression of the targets around their mean, with the alpha of the least error over contiguous folds.

    inputs: (rows, d), standardised over all rows.
    targets: (rows, n).
    projection: (n, k), under which errors are measured.
    Returns: (d, n) weights; None when the best of RIDGE_ALPHAS is the one that stands for no regression.
    """

    def ridge(alpha: float) -> TransformedTargetRegressor:  # the intercept is the mean target, in each fold its own
        return TransformedTargetRegressor(Ridge(alpha, fit_intercept=False), transformer=StandardScaler(with_std=False))

    predictions = (cross_val_predict(ridge(alpha), inputs, targets, cv=KFold(FOLDS)) for alpha in RIDGE_ALPHAS)
    errors = [np.square((targets - predicted) @ projection).sum() for predicted in predictions]
    best = RIDGE_ALPHAS[int(np.argmin(errors))]
    return None if best == RIDGE_ALPHAS[-1] else ridge(best).fit(inputs, targets).regressor_.coef_.T


@torch.no_grad()
@one_core()
def _best_strength(generator: ExpressionGenerator, validation: Sequence[tuple[Tensor, Tensor]], face_model: FaceModel) -> float:
    """The strength of the LoRA with the best lip correlation on validation; 0 where the gain may be chance, which does harm."""
    if not validation:
        return STRENGTH_WITHOUT_VALIDATION
    correlations = {}
    for strength in STRENGTHS:
        _scale(generator, strength)
        correlations[strength] = _lip_correlations(generator, validation, face_model)
    _scale(generator, 1.0)
    best = max(STRENGTHS, key=lambda strength: (correlations[strength].mean(), -strength))
    gain = correlations[best] - correlations[0.0]
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return best if gain.mean() > STANDARD_ERRORS * error else 0.0


def _lip_correlations(
    generator: ExpressionGenerator, validation: Sequence[tuple[Tensor, Tensor]], face_model: FaceModel
) -> np.ndarray:
    """(pieces,) correlation of generated with real lip opening over pieces of about COMPARED_FRAMES."""
    neutral = torch.eye(len(EMOTIONS), device=generator.device)[:1]
    pieces = []
    for coefficients, features in validation:
        features = features.to(generator.device)
        generated = generator.generate(features, generator.latent(neutral.expand(len(features), -1), seed=0)).cpu()
        lips = np.stack([face_model.lip_opening(rows.numpy()) for rows in (generated, coefficients)])
        pieces += np.array_split(lips, max(1, len(features) // COMPARED_FRAMES), axis=1)
    return np.array([np.corrcoef(piece)[0, 1] if piece.std(1).min() > 1e-9 else 0.0 for piece in pieces])


def _scale(generator: ExpressionGenerator, strength: float) -> None:
    """Use the LoRA at a strength, 0 to 1."""
    for layer in generator.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale(next(iter(layer.scaling)), strength)


def _windows(footage: SpokenFootage) -> np.ndarray:
    """First frames of the windows of STYLE_FRAMES usable frames within one clip."""
    usable = footage.usable
    inside = np.ones(len(usable), bool)
    for clip in footage.clips():
        inside[max(0, clip.stop - STYLE_FRAMES + 1) : clip.stop] = False
    whole = np.convolve(usable, np.ones(STYLE_FRAMES, int), "full")[STYLE_FRAMES - 1 :][: len(usable)] == STYLE_FRAMES
    starts = np.flatnonzero(whole & inside)
    if not len(starts):
        raise UnusableInput("No two seconds of speech with the face in view were found; please film a longer stretch of talking.")
    return starts
