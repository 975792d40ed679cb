"""Pretraining of the expression generator: `pretrain expression` (docs/method.md section 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmtalker.clock import EMOTIONS
from gmtalker.face.lip_guard import LipGuard, as_spoken
from gmtalker.face.model import FaceModel
from gmtalker.models.articulation import ARTICULATION_DIM
from gmtalker.models.expression_generator import ExpressionBatch, ExpressionGenerator, StyleReference
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.emotion_levels import with_levels
from gmtalker.pretrain.samples import (
    BATCH_CLIPS,
    VIEWS,
    PretrainOptions,
    Sampler,
    TrackedSpeech,
    encode_speech_views,
    hold_out,
    random_times,
    read_corpus,
    read_face_model,
    read_speech_encoder,
    samplers_of,
    save_stage,
    shares_of,
    start_from,
)
from gmtalker.pretrain.sound_augmentation import read_noises
from gmtalker.progress import OnProgress, ignore_progress
from gmtalker.training.loop import TrainOptions, fit

MINUTES = 40.0
WINDOW_FRAMES = 75  # of a training sample: what a GRID clip has
AUGMENTED_SHARE = 0.75  # of the samples have an augmented view of their speech
SPEECH_SHARE = 9 / 16  # of a batch; the rest is drawn by emotion
# Clips that the figures look at.
FOLLOWED_CLIPS, EMOTION_CLIPS, NEUTRAL_CLIPS = 16, 3, 20


def pretrain_expression(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Train the expression generator on the tracked clips; clips without usable speech teach emotion alone.

    output: folder of stages.
    options: with by_label, the baseline that `emotions` compares with is trained on the same batches, into expression_baseline/.
    Returns: the folder of the weights.
    Errors: UnusableInput when an earlier stage is missing, or no clip can be used.
    """
    options, output = options if options.steps else options.with_minutes(MINUTES), Path(output)
    face_model, speech_encoder = read_face_model(output), read_speech_encoder(output)
    clips = with_levels(read_corpus(rows, output, on_progress), LipGuard(face_model))
    noises = read_noises(options.noises)
    tracked = encode_speech_views(clips, speech_encoder, output / "corpus", options.seed, noises, on_progress)
    train, validation = hold_out(tracked, lambda item: item.features is not None, lambda item: item.person)
    torch.manual_seed(options.seed)
    dimensions = face_model.coefficient_dim, speech_encoder.feature_dim
    model = ExpressionGenerator(*dimensions, by_label=options.by_label)
    if options.start is not None:
        start_from(options.start, model)
    batches = _Batches(train, face_model, speech_encoder.feature_dim, options.seed)

    def evaluate(network: ExpressionGenerator) -> dict[str, float]:
        recognised = _emotion_recognition(network, tracked) if not options.by_label else {}
        return _lip_agreement(network, validation, face_model) | recognised | _emotion_agreement(network, tracked, validation)

    stage = "expression_baseline" if options.by_label else "expression"
    minutes = None if options.steps else options.minutes
    train_options = TrainOptions(stage, minutes, options.steps, learning_rate=7e-4, seed=options.seed, device=options.device)
    state = fit(model, batches, output / "checkpoints" / stage, train_options, on_progress, evaluate)
    return save_stage(model, stage, output, rows, state, options, evaluate(model))


class _Batches:
    """The batch of every training step.

    Speech teaches the lips, labels teach the mixture; clips are drawn by emotion, or the neutral corpora would drown the others.
    """

    def __init__(self, train: Sequence[TrackedSpeech], face_model: FaceModel, feature_dim: int, seed: int):
        groups = {"speech": [item for item in train if item.features is not None]}
        for index, emotion in enumerate(EMOTIONS):
            groups[emotion] = [item for item in train if item.emotion is not None and int(item.emotion.argmax()) == index]
        self.samplers: dict[str, Sampler] = samplers_of(groups)
        self.spoken: dict[str, list[TrackedSpeech]] = {item.person: [] for item in train}
        for item in groups["speech"]:
            self.spoken[item.person].append(item)
        emotion_share = (1 - SPEECH_SHARE) / len(EMOTIONS)
        self.shares = shares_of([SPEECH_SHARE if group == "speech" else emotion_share for group in self.samplers])
        guard = LipGuard(face_model)
        self.targets = {id(item): target_expression(item, guard) for item in train}
        self.lip_basis, self.feature_dim, self.seed = face_model.lip_basis(), feature_dim, seed

    def __call__(self, step: int) -> ExpressionBatch:
        rng = np.random.default_rng([self.seed, step])
        groups = rng.choice(list(self.samplers), BATCH_CLIPS, p=self.shares)
        return self._stack([self.samplers[group].draw(rng) for group in groups], rng)

    def _stack(self, items: Sequence[TrackedSpeech], rng: np.random.Generator) -> ExpressionBatch:
        """A window of each clip, at a random place, with a random view of its speech."""
        frames = WINDOW_FRAMES
        names = ("expression", "speech", "speech_mask", "mask", "emotion", "labelled")
        rows: dict[str, list] = {name: [] for name in names}
        for item in items:
            times = random_times(len(item), frames, 1.0, rng).round().astype(int)
            known, times = times < len(item), np.minimum(times, len(item) - 1)
            audible = item.features is not None
            view = rng.integers(1, VIEWS) if rng.random() < AUGMENTED_SHARE else 0
            rows["expression"].append(self.targets[id(item)][view][times])
            rows["speech"].append(item.features[view][times].float() if audible else torch.zeros(frames, self.feature_dim))
            rows["speech_mask"].append(torch.tensor(audible))
            rows["mask"].append(torch.from_numpy(known))
            rows["emotion"].append(torch.zeros(len(EMOTIONS)) if item.emotion is None else item.emotion)
            rows["labelled"].append(torch.tensor(item.emotion is not None))
        stacked = {name: torch.stack(values) for name, values in rows.items()}
        references = [self._reference(item, rng) for item in items]
        reference = StyleReference(*(torch.stack(values) for values in zip(*references)))
        return ExpressionBatch(**stacked, reference=reference, lip_basis=self.lip_basis, interpolate=True)

    def _reference(self, item: TrackedSpeech, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A window of another clip of the same person, or of the same one, and its mask; all False without any speech."""
        others = [other for other in self.spoken[item.person] if other is not item] or self.spoken[item.person]
        frames = WINDOW_FRAMES
        if not others:
            empty = self.targets[id(item)].shape[-1], self.feature_dim
            return torch.zeros(frames, empty[0]), torch.zeros(frames, empty[1]), torch.zeros(frames, dtype=torch.bool)
        other = others[rng.integers(len(others))]
        times = random_times(len(other), frames, 1.0, rng).round().astype(int)
        known, times = times < len(other), np.minimum(times, len(other) - 1)
        view = rng.integers(VIEWS)
        return self.targets[id(other)][view][times], other.features[view][times].float(), torch.from_numpy(known)


def target_expression(item: TrackedSpeech, guard: LipGuard) -> Tensor:
    """(VIEWS, frames, n): the clip's expression for each view of its speech, with its lips closed where that wants it."""
    expression = torch.from_numpy(item.clip.expression).float()
    articulation = None if item.features is None else item.features[..., -ARTICULATION_DIM:]
    return as_spoken(expression.expand(len(item.silent), -1, -1), item.silent, guard, articulation)


# --- Figures -------------------------------------------------------------------------------------------------------------------


def _lip_agreement(model: ExpressionGenerator, items: Sequence[TrackedSpeech], face_model: FaceModel) -> dict[str, float]:
    """Free-running generation beside validation clips: correlation of the lip opening, and its spread over the real one's."""
    correlations, spreads = [], []
    device = model.no_speech.device
    for item in items[:FOLLOWED_CLIPS]:
        speech = item.features[0].float().to(device)
        weights = torch.eye(len(EMOTIONS), device=device)[0] if item.emotion is None else item.emotion.to(device)
        generated = model.generate(speech, model.latent(weights.expand(len(speech), -1), seed=0))
        real, made = (face_model.lip_opening(x) for x in (item.clip.expression, generated.cpu().numpy()))
        correlations.append(np.corrcoef(real, made)[0, 1])
        spreads.append(made.std() / max(real.std(), 1e-6))
    if not correlations:
        return {}
    return {"lip_correlation": round(float(np.mean(correlations)), 3), "lip_spread": round(float(np.mean(spreads)), 3)}


def _emotion_agreement(
    model: ExpressionGenerator, items: Sequence[TrackedSpeech], spoken: Sequence[TrackedSpeech]
) -> dict[str, float]:
    """How an emotion moves the mean face away from neutral: generated for validation speech, beside real clips.

    items: the real clips.
    spoken: the validation clips whose speech is used.
    Returns: emotion_likeness, the mean cosine of the two displacements; emotion_strength, the mean length of the generated one
        over that of the real one; nothing where there is nothing to compare.
    """
    real = _real_displacements(items)
    if not real or not spoken:
        return {}
    device, mean_face = model.no_speech.device, {}
    for emotion in (0, *real):
        weights = torch.eye(len(EMOTIONS), device=device)[emotion]
        faces = []
        for seed, item in enumerate(spoken[:EMOTION_CLIPS]):
            speech = item.features[0, :WINDOW_FRAMES].float().to(device)
            faces.append(model.generate(speech, model.latent(weights.expand(len(speech), -1), seed=seed)).mean(0))
        mean_face[emotion] = torch.stack(faces).mean(0).cpu().numpy()
    likeness, strength = [], []
    for emotion, wanted in real.items():
        made = mean_face[emotion] - mean_face[0]
        likeness.append(wanted @ made / max(np.linalg.norm(wanted) * np.linalg.norm(made), 1e-9))
        strength.append(np.linalg.norm(made) / max(np.linalg.norm(wanted), 1e-9))
    return {"emotion_likeness": round(float(np.mean(likeness)), 3), "emotion_strength": round(float(np.mean(strength)), 3)}


def _real_displacements(items: Sequence[TrackedSpeech]) -> Mapping[int, np.ndarray]:
    """By emotion, the mean displacement (n,) of the mean face from neutral, over people with labelled clips of both."""
    faces: dict[str, dict[int, list[np.ndarray]]] = {}
    for item in items:
        if item.emotion is not None:
            emotion = int(item.emotion.argmax())
            faces.setdefault(item.person, {}).setdefault(emotion, []).append(item.clip.expression.mean(0))
    displacements: dict[int, list[np.ndarray]] = {}
    for own in faces.values():
        for emotion in set(own) - {0} if 0 in own else ():
            displacements.setdefault(emotion, []).append(np.mean(own[emotion], axis=0) - np.mean(own[0], axis=0))
    return {emotion: np.mean(values, axis=0) for emotion, values in displacements.items()}


def _emotion_recognition(model: ExpressionGenerator, items: Sequence[TrackedSpeech]) -> dict[str, float]:
    """Share of labelled training clips whose emotion the posterior recognises, every emotion counted alike."""
    right: dict[int, list[bool]] = {}
    device = model.no_speech.device
    for item in items:
        if item.emotion is None or (item.emotion[0] == 1 and len(right.get(0, [])) >= NEUTRAL_CLIPS):
            continue
        expression = torch.from_numpy(item.clip.expression[: 2 * WINDOW_FRAMES])[None].float().to(device)
        audible, frames = item.features is not None, expression.shape[1]
        speech = item.features[:1, :frames].float() if audible else torch.zeros(1, frames, model.config.feature_dim)
        with torch.no_grad():
            posterior = model.posterior(expression, speech.to(device), speech_mask=torch.tensor([audible], device=device))
            named = int(model.emotion_posterior(posterior.z_mean, posterior.w_mean).argmax())
        right.setdefault(int(item.emotion.argmax()), []).append(named == int(item.emotion.argmax()))
    return {"emotions_named": round(float(np.mean([np.mean(values) for values in right.values()])), 3)} if right else {}
