"""What the stages hand each other: frozen dataclasses on one 25 fps clock, checked on construction."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gmtalker.clock import EMOTIONS, FPS
from gmtalker.errors import UnusableInput

# Columns of MotionTrack.stacked(), the motion of a frame as one row.
ROTATION, TRANSLATION, BLINK, GAZE = slice(0, 3), slice(3, 6), slice(6, 8), slice(8, 10)
POSE = slice(0, 6)  # rotation and translation
MOTION_DIM = 10
WIDEST_LID = -0.5  # of blink: half as far above the usual opening as the closed lid is below it


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
    Errors: ValueError for a time that is no finite number, or an emotion that is no mapping.
    """

    time: float
    emotion: Mapping[str, float]

    def __post_init__(self) -> None:
        # Compared, not asked for isfinite: JSON has whole numbers that no float can hold.
        if not isinstance(self.time, (int, float)) or not abs(self.time) <= sys.float_info.max:
            raise ValueError('Every key of a timeline needs "time", a number of seconds')
        if not isinstance(self.emotion, Mapping):
            raise ValueError('Every key of a timeline needs "emotion", weights by name')

    @classmethod
    def read_all(cls, keys: object) -> tuple[EmotionKey, ...]:
        """The keys of a timeline.

        keys: [{"time": seconds, "emotion": {name: weight}}, ...] as people write it, or EmotionKeys already.
        Errors: ValueError for a key without time or emotion, or for an empty timeline.
        """
        if not isinstance(keys, (list, tuple)) or not keys:
            raise ValueError('A timeline is a list like [{"time": 0.0, "emotion": {"happy": 0.8}}]')
        return tuple(key if isinstance(key, cls) else cls._read(key) for key in keys)

    @classmethod
    def _read(cls, key: object) -> EmotionKey:
        if not isinstance(key, Mapping):
            raise ValueError('Every key of a timeline is an object like {"time": 0.0, "emotion": {"happy": 0.8}}')
        values: Mapping[str, Any] = key
        return cls(values.get("time"), values.get("emotion"))  # type: ignore[arg-type]  # checked above

    def to_json(self) -> dict[str, object]:
        """{"time": seconds, "emotion": {name: weight}}."""
        return {"time": self.time, "emotion": dict(self.emotion)}


@dataclass(frozen=True)
class EmotionWeights:
    """Emotion weights, in the order of EMOTIONS.

    weights: (1, 8) constant, or (frames, 8) over time; each row >= 0 with sum 1.
    Source: omega in docs/method.md section 0.
    """

    weights: Tensor

    def __post_init__(self) -> None:
        _check("weights", self.weights, None, len(EMOTIONS))
        if (self.weights < -1e-6).any() or ((self.weights.sum(-1) - 1).abs() > 1e-4).any():
            raise ValueError("emotion weights must be >= 0 and sum to 1")

    @classmethod
    def from_mapping(cls, emotion: Mapping[str, float] | None, intensity: float = 1.0) -> EmotionWeights:
        """Constant weights.

        emotion: weights by name; what they leave of 1 is neutral, and more than 1 in all is scaled down to 1.
        intensity: 0 neutral to 1 as given.
        Errors: ValueError for an unknown emotion or a weight that is negative or not a number.
        """
        return cls(torch.tensor([_mixture(emotion or {}, intensity)]))

    @classmethod
    def from_timeline(cls, keys: Sequence[EmotionKey], frames: int, intensity: float = 1.0) -> EmotionWeights:
        """Weights for each frame, blended linearly between the keys of a timeline.

        keys: in any order, at least one.
        intensity: 0 neutral to 1 as given.
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

    def at(self, frames: int, first: int = 0) -> Tensor:
        """(frames, 8) from frame `first` on: constant weights are repeated, and so is the last row of weights over time."""
        rows = torch.arange(first, first + frames).clamp(max=len(self.weights) - 1)
        return self.weights[rows]


def over_full(emotion: Mapping[str, float]) -> bool:
    """Whether named weights sum to more than 1, so that they are scaled down: the caller warns of it."""
    return sum(float(value) for name, value in emotion.items() if name != "neutral") > 1 + 1e-6


def _mixture(emotion: Mapping[str, float], intensity: float) -> list[float]:
    if not 0 <= intensity <= 1:
        raise ValueError(f"intensity must be between 0 and 1, not {intensity}")
    weights = [0.0] * len(EMOTIONS)
    for name, value in emotion.items():
        if name not in EMOTIONS:
            raise ValueError(f"There is no emotion {name!r}; choose from {', '.join(EMOTIONS)}")
        try:
            weight = float(value)
        except (TypeError, ValueError, OverflowError):
            weight = -1.0
        if not 0 <= weight < float("inf"):
            raise ValueError(f"The weight of {name} must be a number >= 0, not {value!r}"[:200])
        weights[EMOTIONS.index(name)] = weight
    weights[0] = 0.0  # neutral is what the others leave
    total = sum(weights)
    weights = [intensity * value / max(total, 1.0) for value in weights]
    weights[0] = max(0.0, 1.0 - sum(weights))
    return weights


@dataclass(frozen=True)
class ExpressionTrack:
    """The expression in each frame, apart from pose, eyelids and gaze.

    coefficients: (frames, n) in standard deviations of the face model's expression basis; 0 is the person's neutral face.
    Source: beta in docs/method.md section 0.
    """

    coefficients: Tensor

    def __post_init__(self) -> None:
        _check("coefficients", self.coefficients, None, None)


@dataclass(frozen=True)
class MotionTrack:
    """Head pose, eyelids and gaze in each frame.

    rotation: (frames, 3) yaw, pitch and roll in radians.
    translation: (frames, 3) x right and y down in face heights from the middle of the picture, and the logarithm of scale.
    blink: (frames, 2) 0 open to 1 closed, left eye of the picture first; below 0 wider than usual, WIDEST_LID at most.
    gaze: (frames, 2) yaw and pitch in radians.
    Source: rho in docs/method.md section 0.
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
        """(frames, MOTION_DIM): all of it side by side in the columns ROTATION, TRANSLATION, BLINK and GAZE."""
        return torch.cat([self.rotation, self.translation, self.blink, self.gaze], dim=-1)

    @classmethod
    def unstacked(cls, values: Tensor) -> MotionTrack:
        """The inverse of stacked, for values (frames, MOTION_DIM); eyelids are clipped to what they can do."""
        _check("motion", values, None, MOTION_DIM)
        rotation, translation, blink, gaze = (values[:, columns] for columns in (ROTATION, TRANSLATION, BLINK, GAZE))
        return cls(rotation, translation, blink.clamp(WIDEST_LID, 1), gaze)  # the flow is unbounded, eyelids are not


@dataclass(frozen=True)
class FaceTrack:
    """A person's face through a video.

    expression, motion: of each frame; a frame without a face holds values interpolated from its neighbours.
    found: (frames,) bool, where a face was found.
    shoulders: (frames, 4) displacement of the left and the right shoulder of the picture from where the reference picture has
        them, x right and y down of each, in crop widths; None where not measured: then they follow the head.
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

    def __getitem__(self, rows: slice | Tensor) -> FaceTrack:
        """The track of the frames that a slice or an index selects."""
        motion = MotionTrack(*(getattr(self.motion, field.name)[rows] for field in fields(MotionTrack)))
        shoulders = None if self.shoulders is None else self.shoulders[rows]
        return FaceTrack(ExpressionTrack(self.expression.coefficients[rows]), motion, self.found[rows], shoulders)

    def at_rate(self, rate: Fraction) -> FaceTrack:
        """The same movement in so many frames a second instead of 25, interpolated linearly."""
        times = np.arange(max(round(len(self) * rate / FPS), 1)) * float(FPS / rate)

        def sampled(rows: Tensor) -> Tensor:
            return torch.from_numpy(sample_rows(rows.numpy(), times))

        found = self.found[torch.from_numpy(np.clip(times.round().astype(int), 0, len(self) - 1))]
        motion = MotionTrack.unstacked(sampled(self.motion.stacked()))
        shoulders = None if self.shoulders is None else sampled(self.shoulders)
        return FaceTrack(ExpressionTrack(sampled(self.expression.coefficients)), motion, found, shoulders)

    def save(self, path: Path) -> None:
        """Write the track as one safetensors file, as `speak --tracks` does."""
        tensors = {"expression.coefficients": self.expression.coefficients, "found": self.found}
        tensors |= {f"motion.{field.name}": getattr(self.motion, field.name) for field in fields(self.motion)}
        if self.shoulders is not None:
            tensors["shoulders"] = self.shoulders
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path))

    @classmethod
    def load(cls, path: Path) -> FaceTrack:
        """Read a saved track. Errors: UnusableInput when the file is missing or is not a track."""
        try:
            tensors = load_file(str(path))
            motion = MotionTrack(**{field.name: tensors[f"motion.{field.name}"] for field in fields(MotionTrack)})
            return cls(ExpressionTrack(tensors["expression.coefficients"]), motion, tensors["found"], tensors.get("shoulders"))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UnusableInput(f"{Path(path).name} is not a track file; make one with speak --tracks.") from error


def count_blinks(closed: np.ndarray) -> int:
    """Number of blinks in closed (frames,), 0 open to 1 closed: the lids close by more than half."""
    shut, count = False, 0
    for value in closed:
        count += not shut and value > 0.5
        shut = value > 0.5 or (shut and value > 0.3)  # hysteresis: a trembling lid is one blink
    return int(count)


def sample_rows(track: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Rows of a track between its frames, by linear interpolation.

    track: (frames, d).
    times: (n,) fractional frame numbers; beyond either end they read the first or the last row.
    Returns: (n, d) float32.
    """
    times = np.clip(times, 0, len(track) - 1)
    left = np.minimum(times.astype(int), max(len(track) - 2, 0))
    right = np.minimum(left + 1, len(track) - 1)
    share = (times - left)[:, None]
    rows: np.ndarray = (track[left] * (1 - share) + track[right] * share).astype(np.float32)
    return rows
