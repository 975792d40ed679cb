"""Train the head generator and the EMN of one person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from gmtalker.assets import GENERIC
from gmtalker.clock import SIZES
from gmtalker.face.model import FaceModel
from gmtalker.face.renderer import Renderer
from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import WIDTHS, HeadGenerator
from gmtalker.models.weights import load_strict
from gmtalker.progress import OnProgress
from gmtalker.training.head import HeadHooks, HeadOptions, HeadTraining, sized, train_head
from gmtalker.training.head_data import PersonFrames
from gmtalker.training.head_losses import PixelWeights
from gmtalker.training.rehearsal import Rehearsal
from personalize.footage import Footage
from personalize.progress import FINISH_REQUESTED, SAMPLE_REQUESTED, write_progress
from personalize.request import SLOWER_MAX, STEPS_A_MINUTE

CHECKPOINT, BEST = "head.safetensors", "best.safetensors"
HEAD_BATCH, HEAD_BATCH_ON_GPU = 2, 4  # on two cores more steps are worth more than steadier ones
ANCHOR = 0.5  # how strongly the EMN's head of an emotion that was never shown is held to the generic one
VALIDATION_FRAMES_MAX = 24  # that the quality curve is measured on, evenly over the held-out ones


def train_person_head(
    footage: Footage,
    model: FaceModel,
    work: Path,
    minutes: float,
    on_progress: OnProgress,
    networks: tuple[HeadGenerator, EmotionMapping, Discriminator] | None = None,
    rehearsal: Rehearsal | None = None,
) -> HeadTraining:
    """Train the head generator and the EMN of one person against a discriminator. The same call resumes.

    work: folder that keeps the checkpoint, the best weights, and the pictures of the progress.
    minutes: of training, over all runs.
    networks: generator, EMN and discriminator to start from; None for the generic ones.
    rehearsal: of emotions that the footage does not show; None leaves them as the generic networks draw them.
    Returns: the training, with its best networks in work / BEST.
    """
    torch.manual_seed(0)
    size = footage.frames.shape[1]
    networks = networks or _generic_start(size)
    if footage.mattes and not _began_without_matte(work / CHECKPOINT):
        networks = networks[0].with_matte(), *networks[1:]
    for network in networks:
        network.train().requires_grad_(True)
    anchor = _anchor(footage) if rehearsal is None else None  # a rehearsed emotion has frames of its own
    training = HeadTraining(*networks, PixelWeights(model), learning_rate=7e-4, ema_decay=0.99, anchor=anchor)
    train, validation = _train_and_validation(footage, Renderer(model, footage.face, size), rehearsal is not None)
    every = max(15.0, min(60.0, minutes * 6))
    batch = HEAD_BATCH if training.accelerator.device.type == "cpu" else HEAD_BATCH_ON_GPU
    steps = round(minutes * STEPS_A_MINUTE * min(1.0, (256 / size) ** 2))
    busy = {"steps_min": steps, "slower_max": SLOWER_MAX}
    options = HeadOptions(minutes, batch, work / CHECKPOINT, work / BEST, False, every, rehearsal=rehearsal, **busy)
    hooks = HeadHooks(
        on_progress,
        on_sample=lambda real, drawn, curve: write_progress(work, real, drawn, curve),
        sample_requested=lambda: _take(work / SAMPLE_REQUESTED),
        stop=(work / FINISH_REQUESTED).exists,
    )
    train_head(training, [train], [validation] if len(validation.frames) else [], options, hooks)
    return training


def _began_without_matte(checkpoint: Path) -> bool:
    """Whether a training was begun by a version whose head generators draw no matte."""
    if not checkpoint.exists():
        return False
    with safe_open(str(checkpoint), "pt") as tensors:
        return not any("to_matte" in name for name in tensors.keys())


def _anchor(footage: Footage) -> torch.Tensor:
    """(8,) how strongly each emotion's EMN head is held to the generic one; an emotion in a twentieth of the frames is free."""
    shown = footage.emotion[~footage.held_out].mean(0)
    return ANCHOR * (1 - (shown / 0.05).clamp(max=1))


def _train_and_validation(footage: Footage, renderer: Renderer, rehearsed: bool) -> tuple[PersonFrames, PersonFrames]:
    """The frames that are trained on, and those that the quality curve is measured on.

    rehearsed: whether emotions are: then what is only recognised in a frame does not count as one, or its look would be taken
        for the emotion's.
    """
    emotion = footage.emotion.double().numpy()
    if rehearsed:
        emotion = np.where(footage.labels[:, None] < 0, np.eye(emotion.shape[1])[0], emotion)

    def person(places: np.ndarray) -> PersonFrames:
        numbers = footage.frame_numbers[places]
        mattes = {new: footage.mattes[old] for new, old in enumerate(places.tolist()) if old in footage.mattes}
        track = footage.frame_track[torch.from_numpy(places)]
        return PersonFrames(renderer, footage.frames[places], track, emotion[numbers], mattes)

    held_out = footage.held_out[footage.frame_numbers]
    places = np.flatnonzero(held_out)
    spread = np.linspace(0, len(places) - 1, min(len(places), VALIDATION_FRAMES_MAX)).astype(int)
    return person(np.flatnonzero(~held_out)), person(places[spread])


def _take(request: Path) -> bool:
    """Whether there is a request file; it is deleted."""
    try:
        request.unlink()
    except OSError:
        return False
    return True


def _generic_start(size: int) -> tuple[HeadGenerator, EmotionMapping, Discriminator]:
    """The generic networks for a size; where none were trained, those of the next smaller one as far as they fit."""
    start = max(known for known in SIZES if known <= size and (GENERIC / sized("head_generator", known)).is_dir())
    generator = load_strict(HeadGenerator, GENERIC / sized("head_generator", start))
    if start != size:
        larger = HeadGenerator(size, widths=WIDTHS[size])
        larger.adopt(generator)
        generator = larger
    mapping = load_strict(EmotionMapping, GENERIC / sized("emotion_mapping", start))
    return generator, mapping, load_strict(Discriminator, GENERIC / sized("discriminator", start))
