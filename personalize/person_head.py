"""The head generator and the EMN of one person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

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
from personalize.footage import Footage
from personalize.progress import FINISH_REQUESTED, SAMPLE_REQUESTED, write_progress

CHECKPOINT, BEST = "head.safetensors", "best.safetensors"
BATCH = 4
ANCHOR = 0.5  # how firmly the head of an emotion that was never shown is held to the generic EMN


def train_person_head(
    footage: Footage,
    model: FaceModel,
    work: Path,
    minutes: float,
    on_progress: OnProgress,
    networks: tuple[HeadGenerator, EmotionMapping, Discriminator] | None = None,
) -> HeadTraining:
    """Train the head generator and the EMN of one person.

    work: folder that keeps the checkpoint, and the pictures for whoever watches.
    networks: generator, EMN and discriminator to start from; None is the generic ones.
    """
    torch.manual_seed(0)
    size = footage.frames.shape[1]
    networks = networks or _generic_start(size)
    for network in networks:
        network.train().requires_grad_(True)
    shown = footage.emotion[~footage.held_out].mean(0)
    anchor = ANCHOR * (1 - (shown / 0.05).clamp(max=1))  # an emotion in a twentieth of the frames counts as shown
    training = HeadTraining(*networks, PixelWeights(model), learning_rate=7e-4, average=0.99, anchor=anchor)
    renderer = Renderer(model, footage.face, size)

    def person(places: np.ndarray) -> PersonFrames:
        index = torch.from_numpy(footage.kept[places])
        return PersonFrames(renderer, footage.frames[places], footage.track[index], footage.emotion[index].double().numpy())

    held = footage.held_out[footage.kept]
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    quick = test[np.linspace(0, len(test) - 1, min(len(test), 24)).astype(int)] if len(test) else test
    options = HeadOptions(minutes, BATCH, work / CHECKPOINT, work / BEST, checkpoint_seconds=max(15.0, min(60.0, minutes * 6)))
    hooks = HeadHooks(
        on_progress,
        on_sample=lambda real, drawn, curve: write_progress(work, real, drawn, curve),
        sample_requested=lambda: _taken(work / SAMPLE_REQUESTED),
        stop=(work / FINISH_REQUESTED).exists,
    )
    train_head(training, [person(train)], [person(quick)] if len(quick) else [], options, hooks)
    return training


def _taken(sign: Path) -> bool:
    """Whether somebody left the sign; it is taken away."""
    try:
        sign.unlink()
    except OSError:
        return False
    return True


def _generic_start(size: int) -> tuple[HeadGenerator, EmotionMapping, Discriminator]:
    """The generic networks that draw `size` pixels; where none were trained, those of the next smaller size as far as they go."""
    start = max(known for known in SIZES if known <= size and (GENERIC / sized("head_generator", known)).is_dir())
    generator = load_strict(HeadGenerator, GENERIC / sized("head_generator", start))
    if start != size:
        larger = HeadGenerator(size, widths=WIDTHS[size])
        larger.adopt(generator)
        generator = larger
    mapping = load_strict(EmotionMapping, GENERIC / sized("emotion_mapping", start))
    return generator, mapping, load_strict(Discriminator, GENERIC / sized("discriminator", start))
