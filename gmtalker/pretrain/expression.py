"""Pretraining of the expression generator: `pretrain expression`."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gmtalker.clock import EMOTIONS
from gmtalker.face.lip_guard import LipGuard, at_rest_in_silence
from gmtalker.face.model import FaceModel
from gmtalker.models.expression_generator import ExpressionBatch, ExpressionGenerator
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.samples import (
    BATCH,
    VIEWS,
    PretrainOptions,
    Sampler,
    TrackedSpeech,
    encode_speech_views,
    finish,
    hold_out,
    random_times,
    read_corpus,
    read_face_model,
    read_speech_encoder,
    shares_of,
)
from gmtalker.progress import OnProgress, nobody_listens
from gmtalker.training.loop import TrainOptions, fit

FRAMES = 75  # of a training crop: what a GRID clip has
OTHER_HEARINGS = 0.75  # of the time
SPEECH_SHARE = 9 / 16  # of a batch; the rest is drawn by emotion


def pretrain_expression(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = nobody_listens,
) -> Path:
    """Trains the expression generator on the tracked clips; clips without usable speech teach emotion alone.

    options: with by_label it trains the baseline that `emotions` compares with, on the same batches, into expression_baseline/.
    Returns: the folder of the weights.
    Errors: UnusableInput when an earlier stage is missing, or no clip can be used.
    """
    steps, seed, by_label = options.steps, options.seed, options.by_label
    minutes = None if steps else options.minutes or 40.0
    output = Path(output)
    face_model = read_face_model(output)
    speech_encoder = read_speech_encoder(output)
    features = speech_encoder.features
    tracked = encode_speech_views(read_corpus(rows, output), speech_encoder, output / "corpus", seed)
    kept, held_out = hold_out(tracked, lambda item: item.features is not None, lambda item: item.person)
    torch.manual_seed(seed)
    people = len({item.person for item in tracked})
    model = ExpressionGenerator(coefficients=face_model.coefficients, features=features, speakers=people, by_label=by_label)
    # Speech teaches the lips, labels teach the mixture; by emotion, or the neutral corpora would drown the others.
    groups = {"speech": Sampler([item for item in kept if item.features is not None])}
    for index, emotion in enumerate(EMOTIONS):
        groups[emotion] = Sampler([item for item in kept if item.emotion is not None and int(item.emotion.argmax()) == index])
    groups = {name: sampler for name, sampler in groups.items() if sampler.items}
    guard = LipGuard(face_model)
    taught = {id(item): _taught(item, guard) for item in kept}
    shares = shares_of([SPEECH_SHARE if name == "speech" else (1 - SPEECH_SHARE) / len(EMOTIONS) for name in groups])
    lip_basis = face_model.lip_basis()

    def batch(number: int) -> ExpressionBatch:
        draw = np.random.default_rng([seed, number])
        names = draw.choice(list(groups), BATCH, p=shares)
        return _expression_batch([groups[name].draw(draw) for name in names], draw, taught, lip_basis, features)

    def evaluate(network: ExpressionGenerator) -> dict[str, float]:
        named = _emotions_named(network, tracked) if not by_label else {}
        return _follows_speech(network, held_out, face_model) | named | _emotions_shown(network, tracked, held_out)

    stage = "expression_baseline" if by_label else "expression"
    loop_options = TrainOptions(stage, minutes=minutes, steps=steps, learning_rate=7e-4, seed=seed, device=options.device)
    state = fit(model, batch, output / "checkpoints" / stage, loop_options, on_progress, evaluate)
    return finish(model, stage, output, rows, state, minutes, evaluate(model), steps)


def _taught(item: TrackedSpeech, guard: LipGuard) -> Tensor:
    """(VIEWS, frames, n): the clip's expression, its lips at rest where each hearing is silent."""
    expression = torch.from_numpy(item.clip.expression).float()
    return at_rest_in_silence(expression.expand(len(item.silent), -1, -1), item.silent, guard)


def _expression_batch(
    items: Sequence[TrackedSpeech],
    draw: np.random.Generator,
    taught: Mapping[int, Tensor],
    lip_basis: Tensor,
    features: int,
) -> ExpressionBatch:
    frames = FRAMES
    names = ("expression", "speech", "speech_mask", "mask", "emotion", "labelled", "speaker")
    rows: dict[str, list] = {name: [] for name in names}
    for item in items:
        times = random_times(len(item), frames, 1.0, draw).round().astype(int)
        known, times = times < len(item), np.minimum(times, len(item) - 1)
        heard = item.features is not None
        # A quarter of the time as recorded, else as another voice or with silences.
        way = draw.integers(1, VIEWS) if draw.random() < OTHER_HEARINGS else 0
        rows["expression"].append(taught[id(item)][way][times])
        rows["speech"].append(item.features[way][times].float() if heard else torch.zeros(frames, features))
        rows["speech_mask"].append(torch.tensor(heard))
        rows["mask"].append(torch.from_numpy(known))
        rows["emotion"].append(torch.zeros(len(EMOTIONS)) if item.emotion is None else item.emotion)
        rows["labelled"].append(torch.tensor(item.emotion is not None))
        rows["speaker"].append(torch.tensor(item.speaker))
    return ExpressionBatch(**{name: torch.stack(values) for name, values in rows.items()}, lip_basis=lip_basis, walks=True)


def _follows_speech(model: ExpressionGenerator, items: Sequence[TrackedSpeech], face_model: FaceModel) -> dict[str, float]:
    """Free-running generation on held-out clips: correlation of lip opening, and its spread beside the real one."""
    correlations, spreads = [], []
    device = model.no_speech.device
    for item in items[:16]:
        speech = item.features[0].float().to(device)
        weights = torch.eye(len(EMOTIONS), device=device)[0] if item.emotion is None else item.emotion.to(device)
        made = model.generate(speech, model.latent(weights.expand(len(speech), -1), seed=0), speaker=item.speaker)
        real, made = (face_model.lip_opening(x) for x in (item.clip.expression, made.cpu().numpy()))
        correlations.append(np.corrcoef(real, made)[0, 1])
        spreads.append(made.std() / max(real.std(), 1e-6))
    if not correlations:
        return {}
    return {"lip_correlation": round(float(np.mean(correlations)), 3), "lip_spread": round(float(np.mean(spreads)), 3)}


def _emotions_shown(
    model: ExpressionGenerator, items: Sequence[TrackedSpeech], spoken: Sequence[TrackedSpeech]
) -> dict[str, float]:
    """How an emotion moves the mean face away from neutral: made for held-out speech beside the real clips.

    emotion_likeness: mean cosine of the two movements; emotion_strength: mean length of the made one in lengths of the real one.
    """
    real: dict[str, dict[int, list[np.ndarray]]] = {}
    for item in items:
        if item.emotion is not None:
            emotion = int(item.emotion.argmax())
            real.setdefault(item.person, {}).setdefault(emotion, []).append(item.clip.expression.mean(0))
    moves: dict[int, list[np.ndarray]] = {}
    for faces in real.values():
        for emotion in set(faces) - {0} if 0 in faces else ():
            moves.setdefault(emotion, []).append(np.mean(faces[emotion], axis=0) - np.mean(faces[0], axis=0))
    if not moves or not spoken:
        return {}

    device, mean_face = model.no_speech.device, {}
    for emotion in (0, *moves):
        weights = torch.eye(len(EMOTIONS), device=device)[emotion]
        faces = []
        for seed, item in enumerate(spoken[:3]):
            speech = item.features[0, :FRAMES].float().to(device)
            faces.append(model.generate(speech, model.latent(weights.expand(len(speech), -1), seed=seed)).mean(0))
        mean_face[emotion] = torch.stack(faces).mean(0).cpu().numpy()
    likeness, strength = [], []
    for emotion, differences in moves.items():
        wanted, made = np.mean(differences, axis=0), mean_face[emotion] - mean_face[0]
        likeness.append(wanted @ made / max(np.linalg.norm(wanted) * np.linalg.norm(made), 1e-9))
        strength.append(np.linalg.norm(made) / max(np.linalg.norm(wanted), 1e-9))
    return {"emotion_likeness": round(float(np.mean(likeness)), 3), "emotion_strength": round(float(np.mean(strength)), 3)}


def _emotions_named(model: ExpressionGenerator, items: Sequence[TrackedSpeech]) -> dict[str, float]:
    """Share of labelled training clips whose own emotion the posterior names, every emotion counted alike."""
    right: dict[int, list[bool]] = {}
    device = model.no_speech.device
    for item in items:
        if item.emotion is None or (item.emotion[0] == 1 and len(right.get(0, [])) >= 20):
            continue
        expression = torch.from_numpy(item.clip.expression[: 2 * FRAMES])[None].float().to(device)
        heard, frames = item.features is not None, expression.shape[1]
        speech = item.features[:1, :frames].float() if heard else torch.zeros(1, frames, model.config.features)
        with torch.no_grad():
            posterior = model.posterior(expression, speech.to(device), speech_mask=torch.tensor([heard], device=device))
            named = int(model.emotion_posterior(posterior.z_mean, posterior.w_mean).argmax())
        right.setdefault(int(item.emotion.argmax()), []).append(named == int(item.emotion.argmax()))
    return {"emotions_named": round(float(np.mean([np.mean(values) for values in right.values()])), 3)} if right else {}
