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
from gmtalker.media.audio import read_speech
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.models.weights import load_strict
from gmtalker.pretrain.card import StageSection, write_section
from gmtalker.pretrain.corpus import Clip
from gmtalker.pretrain.datasets import Row, source_of
from gmtalker.pretrain.emotion_levels import emotional_displacements, with_levels
from gmtalker.pretrain.samples import PretrainOptions, read_corpus, read_face_model, read_speech_encoder
from gmtalker.progress import OnProgress, ignore_progress
from gmtalker.tracks import MOTION_DIM, ROTATION
from gmtalker.training.checkpoints import TrainState

FOLDER = "emotion_offsets"
SPEECH_FRAMES = 200  # over which the generator's own emotions are averaged
STRONG = 1.8  # of the actors' mean face: the mean of several ways is flatter than each of them, and 1 is to be a strong one
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
    offsets = EmotionOffsets(_expression(clips, generic_offsets(generator, features), guard), _motion(clips))
    folder = output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    offsets.save(folder)
    command = f"python -m gmtalker pretrain offsets {source_of(rows)} --output DIR"
    state = TrainState(0, time.monotonic() - began)
    write_section(output, StageSection(FOLDER, command, state, rows, {}, offsets.expression.numel() + offsets.motion.numel()))
    return folder


def _expression(clips: Sequence[Clip], generic: Tensor, guard: LipGuard) -> Tensor:
    """(8, n) what the actors' mean faces have beside generic ones (8, n), at equal lips, and OPENING_SHARE of how they open.

    Actors open their mouths wide in part because they are loud, which the speech that is said here need not be.
    """
    means = [clip.expression.mean(0) for clip in clips]
    openings = guard.openings(torch.from_numpy(np.stack(means)).float()).mean(1, keepdim=True).double().numpy() / OPENING
    found = emotional_displacements(clips, means, openings)
    opened = torch.from_numpy(found.causes).float()  # (1, n) of the face whose lips open by OPENING
    share = guard.openings(generic).mean(1, keepdim=True) / guard.openings(opened).mean()
    lacking = STRONG * torch.from_numpy(found.emotions).float() - (generic - share * opened)
    plain = torch.from_numpy(emotional_displacements(clips, means).emotions).float()
    wider = guard.openings(plain).mean(1, keepdim=True) / guard.openings(opened).mean()
    lacking += (OPENING_SHARE * wider - share).clamp(min=0) * opened
    lacking[0] = 0
    return lacking


def _motion(clips: Sequence[Clip]) -> Tensor:
    """(8, 10) how head, lids and gaze rest otherwise than when neutral, of people who were filmed in several emotions."""
    people: dict[tuple, list[Clip]] = {}
    for clip in clips:
        people.setdefault((clip.person, clip.row.set_folder.name), []).append(clip)
    used, rows = [], []
    for own in people.values():
        medians = [np.median(clip.motion, axis=0) for clip in own]
        neutral = [row for clip, row in zip(own, medians) if clip.row.emotion == "neutral"]
        if neutral:  # of the others nobody knows how they sit
            used += own
            rows += [row - np.mean(neutral, axis=0) for row in medians]
    offsets = torch.zeros(len(EMOTIONS), MOTION_DIM)
    if used:
        measured = torch.from_numpy(emotional_displacements(used, rows).emotions).float()
        offsets[1:, MOTION_COLUMNS] = measured[1:, MOTION_COLUMNS]
        offsets[:, ROTATION] = offsets[:, ROTATION].clamp(-TURN_MAX, TURN_MAX)
    return offsets
