"""How a person speaks: a LoRA of the generic expression generator, adapted to their own speech and face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from gmtalker.device import one_core
from gmtalker.errors import UnusableInput
from gmtalker.face_model import FaceModel
from gmtalker.models.expression_generator import ExpressionBatch, ExpressionGenerator
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.speaking_style import save_speaking_style
from gmtalker.tracks import EMOTIONS
from personalize.evaluation import shifted_correlation
from personalize.fitting import FitOptions, fit
from personalize.material import interpolated
from personalize.moods import SHIFT_FRAMES, emotion_shifts

STYLE_RANK, STYLE_FRAMES, STYLE_BATCH = 16, 50, 12
OPENING_SHARE = 0.2  # of the windows begin where a clip does
WATCHED_SHARE, MOST_WATCHED, LEAST_WATCHED = 0.2, 500, 75  # frames that only tell how much of the style is good
UNWATCHED = 0.0  # of the LoRA is used where there was too little footage to tell: from so little it does more harm than good
SURE_GAIN = 2.0  # errors of the mean by which a style must help: less is chance, and of chance it does harm elsewhere
COMPARED = 75  # frames that the lips are compared over, at a time
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LARGEST_LAG, MOST_LISTENED, SURE_AGREEMENT = 5, 1500, 0.3  # frames that sound may lag, that are heard; agreement that tells
FOLDS, FIRMNESS = 4, (300.0, 1000.0, 3000.0, 10_000.0, 30_000.0, 1e12)  # of an accent, in frames; the last is none


@dataclass(frozen=True)
class SpokenFootage:
    """All clips of a person on one clock: coefficients (frames, n), speech features (frames, d), emotion (frames, 8).

    usable: (frames,) bool, where the face is found, speech is heard, and the frame may be learned from; begins: first frame of
    each clip.
    """

    coefficients: Tensor
    features: Tensor
    usable: np.ndarray
    emotion: Tensor
    begins: Sequence[int]


@torch.no_grad()
@one_core()
def sound_lag(generator: ExpressionGenerator, footage: SpokenFootage, face_model: FaceModel) -> float:
    """By how many frames the generator's lips come after the person's: so far does the footage's sound lag behind its picture.

    Between frames by the parabola through the best one and its neighbours; 0 when that can't be told.
    """
    neutral = torch.eye(len(EMOTIONS), device=generator.device)[:1]
    tables, weights = [], []
    edges = [*footage.begins, len(footage.usable)]
    for begin, end in zip(edges[:-1], edges[1:]):
        rows = begin + np.flatnonzero(footage.usable[begin:end])[:MOST_LISTENED]
        if len(rows) < STYLE_FRAMES:
            continue
        speech = footage.features[rows].to(generator.device)
        said = generator.generate(speech, generator.latent(neutral.expand(len(rows), -1), seed=0)).cpu()
        made, real = (face_model.lip_opening(x.numpy()) for x in (said, footage.coefficients[rows]))
        tables.append([shifted_correlation(made, real, lag) for lag in range(-LARGEST_LAG, LARGEST_LAG + 1)])
        weights.append(len(rows))
        if sum(weights) > MOST_LISTENED:
            break
    if not tables:
        return 0.0
    agreement = np.average(tables, axis=0, weights=weights)
    best = int(agreement.argmax())
    if best in (0, len(agreement) - 1) or agreement[best] < SURE_AGREEMENT:
        return 0.0
    before, here, after = agreement[best - 1 : best + 2]
    return float(best - LARGEST_LAG + 0.5 * (after - before) / max(2 * here - before - after, 1e-6))


def in_time(footage: SpokenFootage, lag: float) -> SpokenFootage:
    """The footage with its sound moved `lag` frames forward, each clip for itself, its ends held."""
    features = footage.features.clone()
    edges = [*footage.begins, len(footage.usable)]
    for begin, end in zip(edges[:-1], edges[1:]):
        times = np.arange(end - begin) + lag
        features[begin:end] = torch.from_numpy(interpolated(footage.features[begin:end].numpy(), np.maximum(times, 0)))
    return replace(footage, features=features)


def adapt_style(
    footage: SpokenFootage,
    pipeline: GMTalkerPipeline,
    work: Path,
    minutes: float,
    folder: Path,
    report: Callable[[dict], None],
) -> None:
    """LoRA of the generic expression generator on the person's own speech and face, and their accent, into folder/speaking_style.

    work: keeps the checkpoint; the same call goes on from it. Errors: UnusableInput when nobody speaks for two seconds in a row.
    """
    generic = pipeline.expression_generator
    config = {name: value for name, value in generic.config.items() if not name.startswith("_")}
    generator = ExpressionGenerator(**config)
    generator.load_state_dict({name: tensor.detach().cpu().clone() for name, tensor in generic.state_dict().items()})
    generator.requires_grad_(False)
    torch.manual_seed(0)
    style = LoraConfig(
        r=STYLE_RANK,
        lora_alpha=STYLE_RANK,
        lora_dropout=0.05,
        target_modules=[
            name for name, layer in generator.named_modules() if name.startswith("decoder.") and isinstance(layer, nn.Linear)
        ],
    )
    generator.add_adapter(style)
    lip_basis = pipeline.face_model.lip_basis()
    whole, (footage, watched) = footage, _without_last_part(footage)
    starts = _windows(footage)
    openings = np.intersect1d(footage.begins, starts)
    coefficients = footage.coefficients
    shifts = emotion_shifts(generic, footage.features[starts[len(starts) // 2] :][:SHIFT_FRAMES])

    def batch(number: int) -> ExpressionBatch:
        draw = np.random.default_rng([7, number])
        chosen = draw.choice(starts, STYLE_BATCH)
        if len(openings):  # a style learned from the middle of speech alone does not know how to begin
            chosen = np.where(draw.random(STYLE_BATCH) < OPENING_SHARE, draw.choice(openings, STYLE_BATCH), chosen)
        rows = [slice(start, start + STYLE_FRAMES) for start in chosen]
        expression = torch.stack([coefficients[row] for row in rows])
        emotion = torch.stack([footage.emotion[row].mean(0) for row in rows])
        # The person hardly showed most emotions: half of the rows get the generic look of one on top, or the style would forget
        # all but their own mood.
        strength = torch.from_numpy(draw.uniform(0.3, 1.0, STYLE_BATCH) * (draw.random(STYLE_BATCH) < 0.5)).float()[:, None]
        other = torch.from_numpy(draw.integers(1, len(EMOTIONS), STYLE_BATCH))
        expression = expression + (strength * shifts[other])[:, None]
        emotion = (1 - strength) * emotion + strength * torch.eye(len(EMOTIONS))[other]
        return ExpressionBatch(
            expression=expression,
            speech=torch.stack([footage.features[row] for row in rows]),
            speech_mask=torch.ones(STYLE_BATCH, dtype=torch.bool),
            mask=torch.ones(STYLE_BATCH, STYLE_FRAMES, dtype=torch.bool),
            emotion=emotion,
            labelled=torch.ones(STYLE_BATCH, dtype=torch.bool),
            speaker=torch.full((STYLE_BATCH,), -1),
            lip_basis=lip_basis,
        )

    options = FitOptions("style", minutes=minutes, learning_rate=5e-4, warm_up=30, average=0.99, weight_decay=0.0)
    if watched:
        fit(generator, batch, work / "style", options, report)
    strength = _best_strength(generator.eval(), watched, pipeline.face_model)
    if watched:
        report({"message": f"The speaking style is used at {strength:.0%}: what agrees best with seconds it never saw."})
    _scale(generator, strength)
    generator.accent = learn_accent(generator, whole, lip_basis)
    _scale(generator, 1.0)
    save_speaking_style(generator, folder / "speaking_style", strength)


def _without_last_part(footage: SpokenFootage) -> tuple[SpokenFootage, list[tuple[Tensor, Tensor]]]:
    """The footage whose last usable seconds may not be learned from, and those: coefficients (frames, n) and features (frames, d)
    of each stretch; none where there is too little to spare any."""
    usable = np.flatnonzero(footage.usable)
    spared = int(min(WATCHED_SHARE * len(usable), MOST_WATCHED))
    if spared < LEAST_WATCHED:
        return footage, []
    first = usable[-spared]
    edges = [first, *(begin for begin in footage.begins if begin > first), len(footage.usable)]
    watched = []
    for begin, end in zip(edges[:-1], edges[1:]):
        rows = begin + np.flatnonzero(footage.usable[begin:end])
        if len(rows) >= STYLE_FRAMES and len(rows) == rows[-1] - rows[0] + 1:
            watched.append((footage.coefficients[rows[0] : rows[-1] + 1], footage.features[rows[0] : rows[-1] + 1]))
    kept = footage.usable & (np.arange(len(footage.usable)) < first)
    return (replace(footage, usable=kept), watched) if watched else (footage, [])


@torch.no_grad()
@one_core()
def learn_accent(generator: ExpressionGenerator, footage: SpokenFootage, lip_basis: Tensor) -> nn.Linear | None:
    """What the person's face does with the same sounds beyond what the generator makes of them, linear in the speech features.

    Ridge regression of what the generator, running freely, leaves over. How firmly it is held to nothing is what lets parts of
    the footage foretell the lips of the others best (cross-validation); None when nothing helps.
    """
    edges = [*footage.begins, len(footage.usable)]
    left_over = torch.zeros_like(footage.coefficients)
    for begin, end in zip(edges[:-1], edges[1:]):
        speech, emotion = (x[begin:end].to(generator.device) for x in (footage.features, footage.emotion))
        said = generator.generate(speech, generator.latent(emotion, seed=0, temperature=0.0)).cpu()
        left_over[begin:end] = footage.coefficients[begin:end] - said
    rows = torch.from_numpy(np.flatnonzero(footage.usable))
    heard, wanted = footage.features[rows].double(), left_over[rows].double()
    mean, deviation = heard.mean(0), heard.std(0) + 1e-3
    heard = (heard - mean) / deviation

    def ridge(chosen: Tensor, firmness: float) -> tuple[Tensor, Tensor]:
        middle, x = wanted[chosen].mean(0), heard[chosen]
        held = x.T @ x + firmness * torch.eye(x.shape[1], dtype=x.dtype)
        return torch.linalg.solve(held, x.T @ (wanted[chosen] - middle)), middle

    folds = torch.arange(len(rows)).tensor_split(FOLDS)
    errors = {}
    for firmness in FIRMNESS:
        error = 0.0
        for fold in folds:
            others = torch.cat([other for other in folds if other is not fold])
            weight, middle = ridge(others, firmness)
            error += float(((wanted[fold] - middle - heard[fold] @ weight) @ lip_basis.double()).square().sum())
        errors[firmness] = error
    firmness = min(errors, key=errors.get)
    if firmness == FIRMNESS[-1]:
        return None
    weight, middle = ridge(torch.arange(len(rows)), firmness)
    weight = weight / deviation[:, None]
    accent = nn.Linear(len(weight), weight.shape[1])
    accent.weight.copy_(weight.T)
    accent.bias.zero_().sub_((mean @ weight).float())  # around the person's mean speech: where a face rests is not its accent
    return accent


@torch.no_grad()
@one_core()
def _best_strength(generator: ExpressionGenerator, watched: Sequence[tuple[Tensor, Tensor]], face_model: FaceModel) -> float:
    """Which part of the style makes the lips agree best with the watched stretches: a style learned from little may do harm."""
    if not watched:
        return UNWATCHED
    agreement = {}
    neutral = torch.eye(len(EMOTIONS), device=generator.device)[:1]
    for strength in STRENGTHS:
        _scale(generator, strength)
        pieces = []
        for coefficients, features in watched:
            features = features.to(generator.device)
            said = generator.generate(features, generator.latent(neutral.expand(len(features), -1), seed=0)).cpu()
            lips = np.stack([face_model.lip_opening(rows.numpy()) for rows in (said, coefficients)])
            pieces += np.array_split(lips, max(1, len(features) // COMPARED), axis=1)
        agreement[strength] = np.array([np.corrcoef(piece)[0, 1] if piece.std(1).min() > 1e-9 else 0.0 for piece in pieces])
    _scale(generator, 1.0)
    best = max(STRENGTHS, key=lambda strength: (agreement[strength].mean(), -strength))
    gain = agreement[best] - agreement[0.0]
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return best if gain.mean() > SURE_GAIN * error else 0.0


def _scale(generator: ExpressionGenerator, strength: float) -> None:
    for layer in generator.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale(next(iter(layer.scaling)), strength)


def _windows(footage: SpokenFootage) -> np.ndarray:
    """First frames of the stretches of speech that lie within one clip."""
    usable = footage.usable
    inside = np.ones(len(usable), bool)
    ends = [*footage.begins[1:], len(usable)]
    for end in ends:
        inside[max(0, end - STYLE_FRAMES + 1) : end] = False
    whole = np.convolve(usable, np.ones(STYLE_FRAMES, int), "full")[STYLE_FRAMES - 1 :][: len(usable)] == STYLE_FRAMES
    starts = np.flatnonzero(whole & inside)
    if not len(starts):
        raise UnusableInput("No two seconds of speech with the face in view were found; please film a longer stretch of talking.")
    return starts
