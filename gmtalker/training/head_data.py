"""The frames of one or more people as batches for the head generator, drawn by step number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gmtalker.face.renderer import APPEARANCE, CANONICAL_LOW, CANONICAL_SPAN, CANONICAL_X, Renderer
from gmtalker.tracks import FaceTrack

CANONICAL_SUM = 2 * CANONICAL_LOW + CANONICAL_SPAN  # what both ends of a canonical coordinate add up to
REHEARSED_SHARE = 0.4  # of the frames, where emotions are rehearsed
RANDOM_EMOTION_SHARE = 0.2  # of the frames get random emotion weights where none are rehearsed: it is always this person


@dataclass
class PersonFrames:
    """Training frames of one person.

    renderer: of their face.
    frames: (n, size, size, 3) uint8 RGB.
    track: what the face does in those n frames.
    emotion: (n, 8) weights.
    mattes: by number of the frame, (size, size) uint8, 255 for the person; of some frames, or of none.
    """

    renderer: Renderer
    frames: np.ndarray
    track: FaceTrack
    emotion: np.ndarray
    mattes: Mapping[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.coefficients, self.motion = self.track.expression.coefficients.numpy(), self.track.motion.stacked().numpy()
        self.shoulders = None if self.track.shoulders is None else self.track.shoulders.numpy()

    def rendering(self, index: int) -> np.ndarray:
        """(size, size, channels) uint8: what the head generator gets to generate frame `index`."""
        shoulders = None if self.shoulders is None else self.shoulders[index]
        return self.renderer.render(self.coefficients[index], self.motion[index], shoulders)


class DrawnFrame(NamedTuple):
    """A frame to learn from.

    rendering: (size, size, channels) uint8, what the head generator gets.
    frame: (size, size, 3) uint8 RGB.
    emotion: (8,) weights.
    matte: (size, size) uint8, 255 for the person; None where it is not known.
    """

    rendering: np.ndarray
    frame: np.ndarray
    emotion: np.ndarray
    matte: np.ndarray | None = None

    def mirrored(self) -> DrawnFrame:
        """As in a mirror."""
        matte = None if self.matte is None else self.matte[:, ::-1]
        return DrawnFrame(mirrored(self.rendering), self.frame[:, ::-1], self.emotion, matte)


class RehearsesEmotions(Protocol):
    """Draws frames of a person in emotions that they did not show."""

    def draw(self, person: PersonFrames, rng: np.random.Generator) -> DrawnFrame:
        """One of them."""


@dataclass
class HeadBatch:
    """What one training step learns from.

    rendering: (B, H, W, channels) uint8.
    frame: (B, H, W, 3) uint8.
    emotion: (B, 8) weights.
    gain, lift: (B, 3) change of colour of the frame and of the rendering's appearance, per RGB channel in [-1, 1].
    matte: (m, H, W) uint8, 255 for the person, of those frames that have one.
    has_matte: (B,) bool, which do.
    """

    rendering: Tensor
    frame: Tensor
    emotion: Tensor
    gain: Tensor
    lift: Tensor
    matte: Tensor
    has_matte: Tensor

    def to(self, device: torch.device) -> HeadBatch:
        """A copy on the device."""
        return HeadBatch(*(getattr(self, part.name).to(device, non_blocking=True) for part in fields(self)))

    def pictures(self) -> tuple[Tensor, Tensor]:
        """rendering (B, channels, H, W) and frame (B, 3, H, W) in [-1, 1], their colours changed."""
        rendering, frame = (x.permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (self.rendering, self.frame))
        gain, lift = self.gain[:, :, None, None], self.lift[:, :, None, None]
        appearance, rest = rendering[:, APPEARANCE], rendering[:, APPEARANCE.stop :]
        return torch.cat([(appearance * gain + lift).clamp(-1, 1), rest], dim=1), (frame * gain + lift).clamp(-1, 1)


class HeadBatches(Dataset):
    """The batch of every step; people are drawn evenly, whatever the length of their clips.

    batch_size: frames per step.
    augment: vary colours and mirror pictures, for the generic networks; one person stays as filmed.
    seed: each step's draw is its own, so that a resumed training goes on as if it had never stopped.
    rehearsal: draws frames of emotions that were not shown; None leaves them out.
    """

    def __init__(
        self, people: list[PersonFrames], batch_size: int, augment: bool, seed: int, rehearsal: RehearsesEmotions | None = None
    ):
        self.people, self.batch_size, self.augment, self.seed = people, batch_size, augment, seed
        self.rehearsal = rehearsal

    def __getitem__(self, step: int) -> HeadBatch:
        random, size = np.random.default_rng([self.seed, step]), self.batch_size
        drawn = []
        for _ in range(size):
            each = self._draw(self.people[random.integers(len(self.people))], random)
            drawn.append(each.mirrored() if self.augment and random.random() < 0.5 else each)
        gain, lift = np.ones((size, 3)), np.zeros((size, 3))
        if self.augment:
            gain, lift = random.uniform(0.8, 1.2, (size, 3)), random.uniform(-0.15, 0.15, (size, 3))
        renderings, frames, emotions, mattes = zip(*drawn)
        pictures = (torch.from_numpy(np.stack(x)) for x in (renderings, frames))
        numbers = (torch.from_numpy(np.stack(x)).float() for x in (emotions, gain, lift))
        known = [matte for matte in mattes if matte is not None]
        matte = np.stack(known) if known else np.zeros((0, *frames[0].shape[:2]), np.uint8)
        has_matte = torch.tensor([matte is not None for matte in mattes])
        return HeadBatch(*pictures, *numbers, torch.from_numpy(matte), has_matte)

    def _draw(self, person: PersonFrames, random: np.random.Generator) -> DrawnFrame:
        """A frame as it was filmed, or one of an emotion."""
        if self.rehearsal is not None and random.random() < REHEARSED_SHARE:
            return self.rehearsal.draw(person, random)
        index = random.integers(len(person.frames))
        emotion = person.emotion[index]
        if self.rehearsal is None and random.random() < RANDOM_EMOTION_SHARE:
            emotion = random.dirichlet(np.full(len(emotion), 0.4))
        return DrawnFrame(person.rendering(index), person.frames[index], emotion, person.mattes.get(int(index)))


def mirrored(rendering: np.ndarray) -> np.ndarray:
    """A rendering (H, W, channels) as in a mirror: the canonical coordinate that runs across the face is reversed too."""
    flipped = rendering[:, ::-1].copy()
    across = flipped[..., CANONICAL_X]
    across[across > 0] = np.minimum(CANONICAL_SUM - across[across > 0].astype(int), 255)
    return flipped
