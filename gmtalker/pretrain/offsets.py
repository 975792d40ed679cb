"""Pretraining of what actors do beside the generator's emotions: `pretrain offsets` (docs/method.md section 11)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmtalker.assets import SPEECH
from gmtalker.avatars.emotion_offsets import MOTION_COLUMNS, EmotionOffsets, generic_offsets
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.face.lip_guard import LipGuard
from gmtalker.face.model import FaceModel
from gmtalker.media.audio import read_speech
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.models.weights import load_strict
from gmtalker.pretrain.card import StageSection, write_section
from gmtalker.pretrain.corpus import Clip
from gmtalker.pretrain.datasets import Row, source_of
from gmtalker.pretrain.emotion_levels import emotional_displacements, with_levels
from gmtalker.pretrain.prototypes import PROTOTYPES, movements, shown
from gmtalker.pretrain.samples import PretrainOptions, read_corpus, read_face_model, read_speech_encoder
from gmtalker.progress import OnProgress, ignore_progress
from gmtalker.tracks import BLINK, MOTION_DIM, ROTATION
from gmtalker.training.checkpoints import TrainState

FOLDER = "emotion_offsets"
SPEECH_FRAMES = 200  # over which the generator's own emotions are averaged
STRONG = 1.8  # of the actors' mean face where there is no prototype: the mean of several ways is flatter than each of them
GROWS_MAX = 3.0  # times the actors' mean
TURN_MAX = 0.05  # radians that an emotion turns the head by: more is one actor's way
OPENING_SHARE = 0.5
OPENING = 0.01  # face heights that count as one step of the lips


def pretrain_offsets(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Measure how labelled actors hold head, lids and gaze, and what their faces have beside the generator's; nothing is trained.

    output: folder of stages, with the expression generator that the offsets are for.
    Returns: the folder of the offsets.
    Errors: UnusableInput when an earlier stage is missing, or no clip has a label.
    """
    output, began = Path(output), time.monotonic()
    model = read_face_model(output)
    guard, encoder = LipGuard(model), read_speech_encoder(output)
    generator = load_strict(ExpressionGenerator, output / "expression_generator")
    rows = [row for row in rows if row.is_video and row.emotion in EMOTIONS]
    clips = [clip for clip in with_levels(read_corpus(rows, output, on_progress), guard) if clip.row.emotion in EMOTIONS]
    if not any(clip.row.emotion != "neutral" for clip in clips):
        raise UnusableInput("None of the training clips is labelled with an emotion.")
    features = encoder.encode(torch.from_numpy(read_speech(SPEECH)))[:SPEECH_FRAMES]
    weights = shown(clips, model)
    motion = _motion(clips, weights)
    growth = _growth(clips, weights, motion, model, guard)
    expression = _expression(clips, weights, generic_offsets(generator, features), guard, growth)
    motion *= growth[:, None]
    motion[:, ROTATION] = motion[:, ROTATION].clamp(-TURN_MAX, TURN_MAX)
    offsets = EmotionOffsets(expression, motion)
    folder = output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    offsets.save(folder)
    command = f"python -m gmtalker pretrain offsets {source_of(rows)} --output DIR"
    state = TrainState(0, time.monotonic() - began)
    write_section(output, StageSection(FOLDER, command, state, rows, {}, offsets.expression.numel() + offsets.motion.numel()))
    return folder


def _displaced(clips: Sequence[Clip], weights: np.ndarray, guard: LipGuard) -> tuple[Tensor, Tensor]:
    """The actors' mean faces (8, n) at equal lips, and the face (1, n) whose lips open by OPENING."""
    means = [clip.expression.mean(0) for clip in clips]
    openings = guard.openings(torch.from_numpy(np.stack(means)).float()).mean(1, keepdim=True).double().numpy() / OPENING
    found = emotional_displacements(clips, means, openings, weights)
    return torch.from_numpy(found.emotions).float(), torch.from_numpy(found.causes).float()


def _growth(clips: Sequence[Clip], weights: np.ndarray, motion: Tensor, model: FaceModel, guard: LipGuard) -> Tensor:
    """(8,) by what the actors' mean faces grow, that each emotion shows its prototype as strongly as it is to at intensity 1."""
    means, _ = _displaced(clips, weights, guard)
    growth = torch.full((len(EMOTIONS),), STRONG)
    for emotion, prototype in PROTOTYPES.items():
        k = EMOTIONS.index(emotion)
        agreement = prototype.agreement(movements(means[k].numpy(), float(motion[k, BLINK].mean()), model))
        growth[k] = min(prototype.strength / agreement, GROWS_MAX) if agreement > 0 else 1.0
    return growth


def _expression(clips: Sequence[Clip], weights: np.ndarray, generic: Tensor, guard: LipGuard, growth: Tensor) -> Tensor:
    """(8, n) what the actors' grown faces have beside generic ones (8, n), at equal lips, and OPENING_SHARE of how they open.

    Actors open their mouths wide in part because they are loud, which the speech that is said here need not be.
    """
    means, opened = _displaced(clips, weights, guard)
    share = guard.openings(generic).mean(1, keepdim=True) / guard.openings(opened).mean()
    lacking = growth[:, None] * means - (generic - share * opened)
    plain = emotional_displacements(clips, [clip.expression.mean(0) for clip in clips], weights=weights).emotions
    wider = guard.openings(torch.from_numpy(plain).float()).mean(1, keepdim=True) / guard.openings(opened).mean()
    lacking += (OPENING_SHARE * wider - share).clamp(min=0) * opened
    lacking[0] = 0
    return lacking


def _motion(clips: Sequence[Clip], weights: np.ndarray) -> Tensor:
    """(8, 10) how head, lids and gaze rest otherwise than when neutral, of people who were filmed in several emotions."""
    people: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        people.setdefault(clip.filmed, []).append(index)
    used: list[int] = []
    rows = []
    for own in people.values():
        medians = [np.median(clips[index].motion, axis=0) for index in own]
        neutral = [row for index, row in zip(own, medians) if clips[index].row.emotion == EMOTIONS[0]]
        if neutral:  # of the others nobody knows how they sit
            used += own
            rows += [row - np.mean(neutral, axis=0) for row in medians]
    offsets = torch.zeros(len(EMOTIONS), MOTION_DIM)
    if used:
        measured = emotional_displacements([clips[index] for index in used], rows, weights=weights[used]).emotions
        offsets[1:, MOTION_COLUMNS] = torch.from_numpy(measured).float()[1:, MOTION_COLUMNS]
    return offsets
