"""Learn a person's speaking style from their own speech: a LoRA of the generic expression generator, and an accent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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

from gmtalker.avatars.avatar import read_avatar, save_card
from gmtalker.avatars.emotion_offsets import generic_offsets
from gmtalker.avatars.speaking_style import save_speaking_style
from gmtalker.clock import EMOTIONS, SAMPLES_PER_FRAME
from gmtalker.device import one_core
from gmtalker.errors import UnusableInput
from gmtalker.face.lip_guard import as_spoken
from gmtalker.face.model import FaceModel
from gmtalker.face.person import PersonFace
from gmtalker.face.tracking import track_of_person, track_points
from gmtalker.files import temporary_folder
from gmtalker.media.audio import read_sound_or_none, silent_frames
from gmtalker.models.articulation import ARTICULATION_DIM
from gmtalker.models.expression_generator import (
    ACCENT_AHEAD,
    ACCENT_BACK,
    ExpressionBatch,
    ExpressionGenerator,
    StyleReference,
    accent_windows,
)
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.training.loop import TrainOptions, fit
from personalize.emotion_offsets import OFFSET_FRAMES
from personalize.sound_sync import SpokenFootage, shift_sound, sound_lag

STYLE_RANK, STYLE_FRAMES, STYLE_BATCH = 16, 50, 12
CLIP_START_SHARE = 0.2  # of the windows are at the start of a clip
VALIDATION_SHARE = 0.2  # of the frames, which only decide how much of the style is used
VALIDATION_FRAMES_MAX, VALIDATION_FRAMES_MIN = 500, 75
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
STANDARD_ERRORS = 1.0  # by which validation must improve before a part of the style is used
LORA_FRAMES_MIN = 800  # of usable speech from which a LoRA learns more than the embedding knows
STYLE_WINDOWS = 40  # of the footage that the embedding is inferred from
COMPARED_FRAMES = 75  # of lip opening that one correlation is taken over
FOLDS, RIDGE_ALPHAS = 4, (1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e12)  # of an accent; the last alpha means none


@dataclass(frozen=True)
class StyleReport:
    """What a speaking style changed, on the validation footage: for the report card.

    parts: what it consists of, of "embedding", "lora" and "accent"; empty where the average person's style was the best.
    lips_before, lips_after: correlation of the lip opening with the real one; None without footage to validate on.
    strength: of the LoRA, 0 to 1.
    """

    parts: tuple[str, ...]
    lips_before: float | None
    lips_after: float | None
    strength: float = 0.0

    @classmethod
    def of(cls, parts: Sequence[str], before: np.ndarray | None, after: np.ndarray | None, strength: float) -> StyleReport:
        """With the means of the correlations (pieces,) on validation, None without any."""
        return cls(tuple(parts), *(None if x is None else round(float(x.mean()), 3) for x in (before, after)), strength)

    def figures(self) -> dict[str, object]:
        """By name, as avatar.json holds them among the measures."""
        return {
            "speaking_style": ", ".join(self.parts) or "the average person's",
            "lips_follow_in_general_style": self.lips_before,
            "lips_follow_in_own_style": self.lips_after,
        }

    def __str__(self) -> str:
        if not self.parts:
            return "The speaking style is the average person's: there was too little speech to learn another, or none was better."
        if self.lips_before is None or self.lips_after is None:
            return "The speaking style was inferred from the footage; there was too little of it to try it on."
        if self.lips_after - self.lips_before < 0.01:
            return "The person's way of speaking was learned."
        return (
            "The speaking style was learned: on footage it never saw, lips follow the person at "
            f"{100 * self.lips_after:.0f} %, before at {100 * self.lips_before:.0f} %."
        )


def adapt_style(
    footage: SpokenFootage,
    pipeline: GMTalkerPipeline,
    work: Path,
    minutes: float,
    folder: Path,
    on_progress: OnProgress = ignore_progress,
) -> StyleReport:
    """Learn how a person speaks: an embedding, a LoRA and an accent, each if it helps on the last usable part of the footage.

    work: folder that keeps the checkpoint; the same call resumes.
    minutes: of training the LoRA.
    folder: of the avatar; the style is written into its speaking_style/.
    Errors: UnusableInput when there are no two seconds of uninterrupted speech.
    Source: docs/method.md section 10.
    """
    train, validation = _train_and_validation(footage)
    generator = _with_lora(pipeline.expression_generator)
    _scale(generator, 0.0)
    lips, parts, strength = _LipsOnValidation(validation, pipeline.face_model), [], 0.0
    before = best = lips(generator)
    generator.style = _style_of(generator, train).cpu()
    if validation and not lips.better(generator, best):
        generator.style = None
    else:
        parts, best = ["embedding"], lips(generator)
    if validation and train.usable.sum() >= LORA_FRAMES_MIN:
        _fit_lora(generator, train, pipeline, work / "style", minutes, on_progress)
        strength = _best_strength(generator, lips, best)
        _scale(generator, strength)
        parts, best = [*parts, "lora"] if strength else parts, lips(generator)
    accented = _add_accent(generator.eval(), train, lips, best)
    if generator.accent is not None:
        parts, best = [*parts, "accent"], accented
        generator.accent = None  # learned again with what validation took
        generator.accent = learn_accent(generator, footage, pipeline.face_model.lip_basis())
    _scale(generator, 1.0)
    save_speaking_style(generator, folder / "speaking_style", strength)
    on_progress(Progress(message=str(report := StyleReport.of(parts, before, best, strength))))
    return report


def _add_accent(
    generator: ExpressionGenerator, train: SpokenFootage, lips: _LipsOnValidation, before: np.ndarray | None
) -> np.ndarray | None:
    """Give the generator an accent, if one is better on validation footage. Returns: its lip correlations there."""
    generator.accent = learn_accent(generator, train, lips.face_model.lip_basis())
    if generator.accent is not None and before is not None and not lips.better(generator, before):
        generator.accent = None
    return lips(generator)


def _fit_lora(
    generator: ExpressionGenerator,
    train: SpokenFootage,
    pipeline: GMTalkerPipeline,
    folder: Path,
    minutes: float,
    on_progress: OnProgress,
) -> None:
    """Train the generator's LoRA, at its full strength. folder: of the checkpoint."""
    batches = _StyleBatches(train, pipeline.expression_generator, pipeline.face_model.lip_basis())
    options = TrainOptions("style", minutes=minutes, learning_rate=5e-4, warm_up=30, ema_decay=0.99, weight_decay=0.0)
    _scale(generator, 1.0)
    fit(generator, batches, folder, options, on_progress)
    generator.eval()


def relearn_style(
    folder: Path, clips: Sequence[Path], pipeline: GMTalkerPipeline, minutes: float, on_progress: OnProgress = ignore_progress
) -> StyleReport:
    """Learn the speaking style of a finished avatar again, from clips of its person, and write it into the avatar.

    minutes: of training the LoRA.
    Errors: UnusableAvatar; UnusableVideo when a clip can't be read or shows no face; UnusableInput when there is not enough
        speech in them.
    """
    avatar = read_avatar(folder)
    parts = []
    for number, clip in enumerate(clips):
        on_progress(Progress(f"tracking {Path(clip).name}", number, len(clips)))
        parts.append(_spoken(clip, avatar.face, pipeline))
    starts = np.cumsum([0, *(len(part.usable) for part in parts)])[:-1].tolist()
    tensors = (torch.cat([getattr(part, name) for part in parts]) for name in ("coefficients", "features"))
    usable, emotion = np.concatenate([part.usable for part in parts]), torch.cat([part.emotion for part in parts])
    footage = SpokenFootage(*tensors, usable, emotion, starts)
    footage = shift_sound(footage, sound_lag(pipeline.expression_generator, footage, pipeline.face_model))
    with temporary_folder() as work:
        report = adapt_style(footage, pipeline, work, minutes, folder, on_progress)
    save_card(folder, avatar.card | {"measures": avatar.card.get("measures", {}) | report.figures()})
    return report


def _spoken(clip: Path, face: PersonFace, pipeline: GMTalkerPipeline) -> SpokenFootage:
    """The speech of one clip; no frame is usable where it holds no sound."""
    track = track_of_person(track_points(clip), pipeline.face_model, face)[0]
    sound = read_sound_or_none(clip)
    features = pipeline.encode(np.zeros(SAMPLES_PER_FRAME, np.float32) if sound is None else sound).cpu()
    features = features[torch.arange(len(track)).clamp(max=len(features) - 1)]
    silent = np.ones(len(track), bool) if sound is None else silent_frames(sound, len(track))
    coefficients = as_spoken(track.expression.coefficients, silent, pipeline.lip_guard, features[:, -ARTICULATION_DIM:])
    usable = track.found.numpy() & (sound is not None)
    return SpokenFootage(coefficients, features, usable, pipeline.recognise(track, features).at(len(track)), [0])


class _LipsOnValidation:
    """Lip correlations of a generator on validation footage."""

    def __init__(self, validation: Sequence[tuple[Tensor, Tensor]], face_model: FaceModel) -> None:
        self.validation, self.face_model = validation, face_model

    @torch.no_grad()
    @one_core()
    def __call__(self, generator: ExpressionGenerator) -> np.ndarray | None:
        """(pieces,) correlation of generated with real lip opening over pieces of about COMPARED_FRAMES; None without footage."""
        neutral, pieces = torch.eye(len(EMOTIONS), device=generator.device)[:1], []
        for coefficients, features in self.validation:
            features = features.to(generator.device)
            generated = generator.generate(features, generator.latent(neutral.expand(len(features), -1), seed=0)).cpu()
            lips = np.stack([self.face_model.lip_opening(rows.numpy()) for rows in (generated, coefficients)])
            pieces += np.array_split(lips, max(1, len(features) // COMPARED_FRAMES), axis=1)
        correlations = [np.corrcoef(piece)[0, 1] if piece.std(1).min() > 1e-9 else 0.0 for piece in pieces]
        return np.array(correlations) if pieces else None

    def better(self, generator: ExpressionGenerator, before: np.ndarray) -> bool:
        """Whether a generator is better than `before` by more than chance would have it."""
        gain = self(generator) - before
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
        return bool(gain.mean() > STANDARD_ERRORS * error)


def _style_of(generator: ExpressionGenerator, footage: SpokenFootage) -> Tensor:
    """The style embedding (style_dim,) of a person's usable speech."""
    starts = _windows(footage)
    starts = starts[:: max(1, len(starts) // STYLE_WINDOWS)]
    rows = [slice(start, start + STYLE_FRAMES) for start in starts]
    mask = torch.ones(len(rows), STYLE_FRAMES, dtype=torch.bool)
    clips = (
        torch.stack([values[row] for row in rows]).to(generator.device) for values in (footage.coefficients, footage.features)
    )
    return generator.eval().style_of(StyleReference(*clips, mask.to(generator.device)))


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
    windows = torch.cat([_accent_windows(footage.features[clip]) for clip in footage.clips()])
    features, residual = windows[rows].double(), _residual(generator, footage)[rows].double()
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    weight = fit_ridge(((features - mean) / deviation).numpy(), residual.numpy(), lip_basis.double().numpy())
    if weight is None:
        return None
    weight = torch.from_numpy(weight) / deviation[:, None]
    accent = nn.Linear(len(weight), weight.shape[1])
    accent.weight.copy_(weight.T)
    accent.bias.zero_().sub_((mean @ weight).float())
    return accent


def _accent_windows(features: Tensor) -> Tensor:
    """What an accent reads (frames, ACCENT_FRAMES * d) of each frame of a clip's features (frames, d)."""
    return accent_windows(torch.cat([features[:1].repeat(ACCENT_BACK, 1), features, features[-1:].repeat(ACCENT_AHEAD, 1)]))


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


def _best_strength(generator: ExpressionGenerator, lips: _LipsOnValidation, before: np.ndarray) -> float:
    """The strength of the LoRA with the best lip correlation on validation; 0 where the gain over `before` may be chance."""
    correlations = {0.0: before}
    for strength in STRENGTHS:
        _scale(generator, strength)
        correlations[strength] = lips(generator)
    best = max(correlations, key=lambda strength: (correlations[strength].mean(), -strength))
    _scale(generator, best)
    return best if best and lips.better(generator, before) else 0.0


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
