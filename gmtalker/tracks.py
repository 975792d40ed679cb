"""What the stages hand each other: frozen dataclasses on one 25 fps clock, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gmtalker.clock import EMOTIONS, FPS
from gmtalker.errors import UnusableInput


def _check(name: str, value: Tensor, *shape: int | None) -> None:
    if value.dim() != len(shape) or any(want is not None and have != want for have, want in zip(value.shape, shape)):
        raise ValueError(f"{name} must have shape {shape}, not {tuple(value.shape)}")
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise ValueError(f"{name} holds a number that is not finite")


@dataclass(frozen=True)
class EmotionKey:
    """A moment of a timeline at which an emotion is reached.

    time: seconds from the start of the speech.
    emotion: weights by name, as EmotionWeights.from_mapping takes them.
    """

    time: float
    emotion: Mapping[str, float]

    @classmethod
    def read_all(cls, keys: object) -> tuple["EmotionKey", ...]:
        """The keys of a timeline as people write it: [{"time": seconds, "emotion": {name: weight}}, ...], or keys already.

        Errors: ValueError for a key without time or emotion, or for an empty timeline.
        """
        if not isinstance(keys, (list, tuple)) or not keys:
            raise ValueError('A timeline is a list like [{"time": 0.0, "emotion": {"happy": 0.8}}]')
        return tuple(key if isinstance(key, cls) else cls._read(key) for key in keys)

    @classmethod
    def _read(cls, key: object) -> "EmotionKey":
        time, emotion = (key.get("time"), key.get("emotion")) if isinstance(key, Mapping) else (None, None)
        if not isinstance(time, (int, float)) or not isinstance(emotion, Mapping):
            raise ValueError('Every key of a timeline needs "time" (a number of seconds) and "emotion" (weights)')
        return cls(time, dict(emotion))

    def to_json(self) -> dict:
        """{"time": seconds, "emotion": {name: weight}}."""
        return {"time": self.time, "emotion": dict(self.emotion)}


@dataclass(frozen=True)
class EmotionWeights:
    """How much of each emotion, in the order of EMOTIONS.

    weights: (1, 8) constant, or (frames, 8) over time; each row >= 0 with sum 1 (omega in method section 1).
    """

    weights: Tensor

    def __post_init__(self) -> None:
        _check("weights", self.weights, None, len(EMOTIONS))
        if (self.weights < -1e-6).any() or ((self.weights.sum(-1) - 1).abs() > 1e-4).any():
            raise ValueError("emotion weights must be >= 0 and sum to 1")

    @classmethod
    def from_mapping(cls, emotion: Mapping[str, float] | None, intensity: float = 1.0) -> "EmotionWeights":
        """Named weights to omega. What is missing from 1 is neutral; more than 1 in all is scaled to 1.

        Errors: ValueError for an unknown emotion or a weight that is negative or not a number.
        """
        return cls(torch.tensor([_mixture(emotion or {}, intensity)]))

    @classmethod
    def from_timeline(cls, keys: Sequence[EmotionKey], frames: int, intensity: float = 1.0) -> "EmotionWeights":
        """Keys of a timeline to one omega a frame, blended linearly between keys.

        keys: in any order, one at least.
        intensity: 0 neutral to 1 as asked.
        Errors: ValueError for an unknown emotion or a weight that is negative or not a number.
        """
        keys = sorted(keys, key=lambda key: key.time)
        times = torch.tensor([float(key.time) for key in keys], dtype=torch.float64)
        values = torch.tensor([_mixture(key.emotion, intensity) for key in keys])
        clock = torch.arange(frames, dtype=torch.float64) / FPS
        right = torch.searchsorted(times, clock, right=True).clamp(1, max(len(keys) - 1, 1))
        left = right - 1
        right = right.clamp(max=len(keys) - 1)
        span = (times[right] - times[left]).clamp(min=1e-9)
        blend = ((clock - times[left]) / span).clamp(0, 1).float()[:, None]
        return cls(values[left] * (1 - blend) + values[right] * blend)

    def at(self, frames: int) -> Tensor:
        """(frames, 8): a constant is repeated, the last row of a short track is held."""
        rows = torch.arange(frames).clamp(max=len(self.weights) - 1)
        return self.weights[rows]


def over_full(emotion: Mapping[str, float]) -> bool:
    """Whether named weights sum to more than 1, so that they are scaled (the caller says so to the person)."""
    return sum(float(value) for name, value in emotion.items() if name != "neutral") > 1 + 1e-6


def _mixture(emotion: Mapping[str, float], intensity: float) -> list[float]:
    if not 0 <= intensity <= 1:
        raise ValueError(f"intensity must be between 0 and 1, not {intensity}")
    weights = [0.0] * len(EMOTIONS)
    for name, value in emotion.items():
        if name not in EMOTIONS:
            raise ValueError(f"There is no emotion {name!r}; choose from {', '.join(EMOTIONS)}")
        value = float(value)
        if not 0 <= value < float("inf"):
            raise ValueError(f"The weight of {name} must be a number >= 0, not {value}")
        weights[EMOTIONS.index(name)] = value
    weights[0] = 0.0  # neutral is what the others leave over
    total = sum(weights)
    weights = [intensity * value / max(total, 1.0) for value in weights]
    weights[0] = max(0.0, 1.0 - sum(weights))
    return weights


@dataclass(frozen=True)
class ExpressionTrack:
    """What the face does in each frame, apart from pose, eyelids and gaze.

    coefficients: (frames, n) in standard deviations of the shared expression basis; 0 is the person's neutral face.
    """

    coefficients: Tensor

    def __post_init__(self) -> None:
        _check("coefficients", self.coefficients, None, None)


@dataclass(frozen=True)
class MotionTrack:
    """What the head does in each frame, apart from the expression (rho in method).

    rotation: (frames, 3) yaw, pitch, roll in radians; translation: (frames, 3) x right, y down and log scale, the first two
    in face heights from the middle of the picture; blink: (frames, 2) left and right eye, 0 open to 1 closed;
    gaze: (frames, 2) yaw and pitch in radians.
    """

    rotation: Tensor
    translation: Tensor
    blink: Tensor
    gaze: Tensor

    def __post_init__(self) -> None:
        frames = len(self.rotation)
        _check("rotation", self.rotation, frames, 3)
        _check("translation", self.translation, frames, 3)
        _check("blink", self.blink, frames, 2)
        _check("gaze", self.gaze, frames, 2)

    def stacked(self) -> Tensor:
        """(frames, 10): rotation, translation, blink, gaze side by side, as the motion generator's network takes them."""
        return torch.cat([self.rotation, self.translation, self.blink, self.gaze], dim=-1)

    @classmethod
    def unstacked(cls, values: Tensor) -> "MotionTrack":
        rotation, translation, blink, gaze = values.split([3, 3, 2, 2], dim=-1)
        return cls(rotation, translation, blink.clamp(0, 1), gaze)  # the flow is unbounded, eyelids are not


@dataclass(frozen=True)
class FaceTrack:
    """A person's face through a video: expression, motion, and where a face was found.

    found: (frames,) bool; frames without a face hold values interpolated from their neighbours. shoulders: (frames, 4) how far
    the left and the right shoulder in the picture are from where the person's reference picture has them, x right and y down of
    each in crop widths; None where that was not measured: then they follow the head.
    """

    expression: ExpressionTrack
    motion: MotionTrack
    found: Tensor
    shoulders: Tensor | None = None

    def __post_init__(self) -> None:
        frames = len(self.found)
        _check("found", self.found, frames)
        if self.shoulders is not None:
            _check("shoulders", self.shoulders, frames, 4)
        if len(self.expression.coefficients) != frames or len(self.motion.rotation) != frames:
            raise ValueError("expression, motion and found must have the same number of frames")

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, rows: slice | Tensor) -> "FaceTrack":
        """The frames that a slice or an index picks."""
        motion = MotionTrack(*(getattr(self.motion, field.name)[rows] for field in fields(MotionTrack)))
        shoulders = None if self.shoulders is None else self.shoulders[rows]
        return FaceTrack(ExpressionTrack(self.expression.coefficients[rows]), motion, self.found[rows], shoulders)

    def save(self, path: Path) -> None:
        """One safetensors file, as `speak --tracks` writes it."""
        tensors = {"expression.coefficients": self.expression.coefficients, "found": self.found}
        tensors |= {f"motion.{field.name}": getattr(self.motion, field.name) for field in fields(self.motion)}
        if self.shoulders is not None:
            tensors["shoulders"] = self.shoulders
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path))

    @classmethod
    def load(cls, path: Path) -> "FaceTrack":
        """Errors: UnusableInput when the file is missing or is not a track."""
        try:
            tensors = load_file(str(path))
            motion = MotionTrack(**{field.name: tensors[f"motion.{field.name}"] for field in fields(MotionTrack)})
            return cls(ExpressionTrack(tensors["expression.coefficients"]), motion, tensors["found"], tensors.get("shoulders"))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UnusableInput(f"{Path(path).name} is not a track file; make one with speak --tracks.") from error


def count_blinks(closed: np.ndarray) -> int:
    """How often eyes (frames,), 0 open to 1 closed, close by more than half and open again."""
    shut, count = False, 0
    for value in closed:
        count += not shut and value > 0.5
        shut = value > 0.5 or (shut and value > 0.3)  # a trembling lid is one blink
    return int(count)


def interpolated(track: np.ndarray, times: np.ndarray) -> np.ndarray:
    """track (T,c) at fractional times (n,) -> (n,c) float32; behind the end its last row."""
    times = np.clip(times, 0, len(track) - 1)
    left = np.minimum(times.astype(int), max(len(track) - 2, 0))
    right = np.minimum(left + 1, len(track) - 1)
    share = (times - left)[:, None]
    return (track[left] * (1 - share) + track[right] * share).astype(np.float32)
