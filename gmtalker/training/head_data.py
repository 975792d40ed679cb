"""The frames of one or more people as batches for the head generator, drawn by step number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gmtalker.face.renderer import Renderer
from gmtalker.tracks import FaceTrack

CANONICAL_ENDS = 295  # what both ends of a canonical coordinate, 40 and 255, add up to
RANDOM_EMOTION = 0.2  # part of the frames drawn with any emotion weights: whatever the slider, it is this person


@dataclass
class PersonFrames:
    """Training frames of one person: frames (n, size, size, 3) uint8, the track of those n frames, emotion (n, 8)."""

    renderer: Renderer
    frames: np.ndarray
    track: FaceTrack
    emotion: np.ndarray

    def __post_init__(self) -> None:
        self.coefficients, self.motion = self.track.expression.coefficients.numpy(), self.track.motion.stacked().numpy()
        self.shoulders = None if self.track.shoulders is None else self.track.shoulders.numpy()

    def rendering(self, index: int) -> np.ndarray:
        """(size, size, channels) uint8: frame `index` as the head generator gets it."""
        shoulders = None if self.shoulders is None else self.shoulders[index]
        return self.renderer.render(self.coefficients[index], self.motion[index], shoulders)


@dataclass
class HeadBatch:
    """What one step learns from: rendering (B, H, W, channels) and frame (B, H, W, 3) uint8; emotion (B, 8); gain and lift (B, 3)
    the change of colour of each, in [-1, 1], that is made to the look of both."""

    rendering: Tensor
    frame: Tensor
    emotion: Tensor
    gain: Tensor
    lift: Tensor

    def to(self, device: torch.device) -> HeadBatch:
        return HeadBatch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))

    def pictures(self) -> tuple[Tensor, Tensor]:
        """rendering (B, channels, H, W) and frame (B, 3, H, W) in [-1, 1]."""
        rendering, frame = (x.permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (self.rendering, self.frame))
        gain, lift = self.gain[:, :, None, None], self.lift[:, :, None, None]
        look, rest = rendering[:, :3], rendering[:, 3:]
        return torch.cat([(look * gain + lift).clamp(-1, 1), rest], dim=1), (frame * gain + lift).clamp(-1, 1)


class HeadBatches(Dataset):
    """The batch of every step: people drawn evenly whatever the length of their clips. varied: other colours and mirrored
    pictures too, for the generic start."""

    def __init__(self, people: list[PersonFrames], size: int, varied: bool, seed: int):
        self.people, self.size, self.varied, self.seed = people, size, varied, seed

    def __getitem__(self, step: int) -> HeadBatch:
        # Every step's draw is its own, so that a resumed run goes on as if it had never stopped.
        random, size = np.random.default_rng([self.seed, step]), self.size
        renderings, frames, emotions = [], [], []
        for _ in range(size):
            person = self.people[random.integers(len(self.people))]
            index = random.integers(len(person.frames))
            rendering, frame = person.rendering(index), person.frames[index]
            if self.varied and random.random() < 0.5:
                rendering, frame = mirrored(rendering), frame[:, ::-1]
            renderings.append(rendering)
            frames.append(frame)
            emotion = person.emotion[index]
            if random.random() < RANDOM_EMOTION:
                emotion = random.dirichlet(np.full(len(emotion), 0.4))
            emotions.append(emotion)
        gain, lift = np.ones((size, 3)), np.zeros((size, 3))
        if self.varied:
            gain, lift = random.uniform(0.8, 1.2, (size, 3)), random.uniform(-0.15, 0.15, (size, 3))
        pictures = (torch.from_numpy(np.stack(x)) for x in (renderings, frames))
        return HeadBatch(*pictures, *(torch.from_numpy(np.stack(x)).float() for x in (emotions, gain, lift)))


def mirrored(rendering: np.ndarray) -> np.ndarray:
    """(H, W, channels) as the mirror shows it: the canonical coordinate that runs across the face runs the other way."""
    flipped = rendering[:, ::-1].copy()
    across = flipped[..., 3]
    across[across > 0] = np.minimum(CANONICAL_ENDS - across[across > 0].astype(int), 255)
    return flipped
