"""How one person holds and moves the head and eyes and how often they blink, and movement drawn by such habits."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gmtalker.clock import FPS
from gmtalker.files import whole_file
from gmtalker.tracks import BLINK, GAZE, MOTION_DIM, POSE

HABITS_FILE = "motion_habits.safetensors"
MOVING = [*range(MOTION_DIM)[POSE], *range(MOTION_DIM)[GAZE]]  # columns of MotionTrack.stacked() that habits are about
EYES = slice(6, 8)  # the gaze among them
MANNERS = {"own": 1.0, "still": 0.2, "lively": 1.6}  # how far head and eyes go, as a factor on the person's own

# The posture is a sum of so many sinusoids in each direction, between these multiples of the person's pace: their root mean
# square is the pace.
WAVES, SLOWEST, FASTEST = 6, 0.6, 1.45
SETTLE_FRAMES = 25  # in which the head leaves its usual pose for a posture
BLINK_SHARPNESS = 4.0  # shape of the gamma distribution between blinks: their count varies half as much as at random
BLINK_PAUSE = 4  # frames for which lids stay open between two blinks
CLOSING = 0.35  # share of a blink in which the lids fall; they rise more slowly
WANTED_AT_ALL, WANTED_MOST = 0.3, 8.0  # readiness to blink when the generator does not want to; most of what it wants counts
EARLY_FRAMES, REMEMBERED_FRAMES = 10, 750  # over which the generator's wish to blink is averaged: at first, and later on
FIXATION_SHARPNESS, FIXATION_FRAMES_MIN = 2.0, 5  # of the time that eyes rest somewhere
SACCADE_SHARE = 0.6  # of the way that eyes jump in one frame

# Of filmed people: how much of the deviation is slower than 0.4 Hz, the largest step in deviations, and what moves together.
SLOW_SHARE = (0.81, 0.69, 0.91, 0.81, 0.68, 0.78, 0.74, 0.46)
LARGEST_STEP = (0.8, 0.87, 0.64, 0.7, 0.99, 1.23, 1.66, 2.42)
TOGETHER = {(0, 2): -0.4, (0, 3): -0.7, (0, 6): 0.75, (1, 4): 0.85, (1, 7): -0.45, (2, 3): 0.5, (3, 6): -0.35}
DRAWN_SHARE = 0.85  # of the posture's deviation that the generator's own slow movement leaves to be drawn
TYPICAL = {"pace": 0.19, "blinks": 20.0, "blink_frames": 3.5, "saccades": 30.0}


@dataclass(frozen=True, eq=False)
class MotionHabits:
    """How one person moves, measured in their footage. Columns are MOVING: pose and gaze, in the units of MotionTrack.

    posture: (8, 8) covariance of what is slower than 0.4 Hz.
    quick: (8,) deviation of the rest.
    largest_step: (8,) between two frames.
    pace: Hz, root mean square frequency of the slow part.
    blinks: a minute.
    blink_frames: for which lids are more than half closed in a blink.
    saccades: jumps of the eyes a minute.
    gain: (8,) from the motion generator's normalised output to this person's movement.
    drawn: (8,) share of the posture's deviation that is drawn beside what the generator moves slowly itself. These two are fitted
        to the generator (personalize/habits.py), everything else is of the person alone.
    Errors: ValueError for other shapes, or for numbers that nobody's head can have.
    Source: our own; docs/method.md section 2, "Habits".
    """

    posture: Tensor
    quick: Tensor
    largest_step: Tensor
    pace: float
    blinks: float
    blink_frames: float
    saccades: float
    gain: Tensor
    drawn: Tensor

    def __post_init__(self) -> None:
        count = len(MOVING)
        columns = (self.quick, self.largest_step, self.gain, self.drawn)
        if self.posture.shape != (count, count) or any(value.shape != (count,) for value in columns):
            raise ValueError("motion habits hold a covariance and columns of pose and gaze")
        numbers = torch.tensor([self.pace, self.blinks, self.blink_frames, self.saccades])
        if not all(value.isfinite().all() for value in (self.posture, *columns, numbers)):
            raise ValueError("motion habits hold a number that is not finite")
        if any((value < 0).any() for value in (*columns, numbers)) or not (self.pace > 0 and self.blink_frames >= 1):
            raise ValueError("motion habits hold a number that is too small")
        if not torch.allclose(self.posture, self.posture.T, atol=1e-6) or (self.posture.diagonal() < 0).any():
            raise ValueError("the posture of motion habits is no covariance")

    @property
    def deviation(self) -> Tensor:
        """(8,) of all movement, slow and quick."""
        return (self.posture.diagonal() + self.quick.square()).sqrt()

    def save(self, folder: Path) -> None:
        """Write them into an avatar's folder, whole or not at all."""
        tensors = {field.name: torch.as_tensor(getattr(self, field.name)).float().contiguous() for field in fields(self)}
        with whole_file(folder / HABITS_FILE) as unfinished:
            save_file(tensors, str(unfinished))

    @classmethod
    def load(cls, folder: Path) -> MotionHabits | None:
        """Read those of an avatar's folder.

        Returns: None when the avatar has none.
        Errors: OSError, ValueError, KeyError, TypeError, SafetensorError for a broken file.
        """
        path = folder / HABITS_FILE
        if not path.exists():
            return None
        tensors = load_file(str(path))
        if set(tensors) != {field.name for field in fields(cls)}:
            raise ValueError(f"{HABITS_FILE} was written by another version of this program")
        return cls(**{name: value.float() if value.ndim else float(value) for name, value in tensors.items()})


def usual_habits(scale: np.ndarray) -> MotionHabits:
    """The habits of an avatar that was made before habits were measured: those of filmed people, as wide as its person moves.

    scale: (10,) PersonFace.motion_scale.
    """
    deviation = torch.as_tensor(scale).float()[MOVING]
    correlation = torch.eye(len(MOVING))
    for pair, value in TOGETHER.items():
        correlation[pair] = correlation[pair[::-1]] = value
    slow = deviation * torch.tensor(SLOW_SHARE)
    return MotionHabits(
        posture=slow[:, None] * correlation * slow,
        quick=deviation * (1 - torch.tensor(SLOW_SHARE).square()).sqrt(),
        largest_step=deviation * torch.tensor(LARGEST_STEP),
        gain=deviation,
        drawn=torch.full((len(MOVING),), DRAWN_SHARE),
        **TYPICAL,
    )


class HabitualMotion:
    """A person's movement, frame by frame: the generator's where it is quick, drawn by their habits where it is slow.

    The same seed gives the same movement, in whatever pieces it is asked for; what is kept does not grow.
    """

    def __init__(self, habits: MotionHabits, seed: int, manner: str = "own", blink: float = 1.0) -> None:
        """manner: one of MANNERS. blink: factor on how often eyes blink."""
        factor = MANNERS[manner]
        self._gain = factor * habits.gain.double().numpy()
        self._posture = _Posture(habits, factor, np.random.default_rng([seed, 1]))
        self._gaze = _Fixations(habits, np.random.default_rng([seed, 2]))
        self._lids = _Lids(habits, blink, np.random.default_rng([seed, 3]))
        self._limit = np.maximum(max(1.0, factor) * habits.largest_step.double().numpy(), 1e-9)
        self._place: np.ndarray | None = None

    def push(self, normalised: Tensor) -> tuple[Tensor, Tensor]:
        """The next frames.

        normalised: (n, 10) of the motion generator; of its eyelids only counts when they would rather close.
        Returns: (n, 8) from the usual pose and gaze, and (n,) how far lids are closed, 0 to 1.
        """
        rows = normalised.double().numpy()
        wanted = self._gain * rows[:, MOVING]
        moved, closed = np.empty_like(wanted), np.empty(len(rows))
        for index, waves in enumerate(self._posture.waves(len(rows))):
            waves[EYES] = self._gaze.push(waves[EYES])
            target = wanted[index] + self._posture.place(waves)
            if self._place is None:
                self._place = target
            # As far as this person moves in a frame, and hardly slower than that: a jump becomes a turn.
            self._place = self._place + self._limit * np.tanh((target - self._place) / self._limit)
            moved[index] = self._place
            closed[index] = self._lids.push(float(rows[index, BLINK].mean()))
        return torch.from_numpy(moved).float(), torch.from_numpy(closed).float()


class _Posture:
    """The slow part: a Gaussian process of the person's covariance and pace, by the spectral representation (Shinozuka and
    Deodatis 1991), which never strays far and can be asked for at any time."""

    def __init__(self, habits: MotionHabits, factor: float, rng: np.random.Generator) -> None:
        drawn = factor * habits.drawn.double()
        covariance = drawn[:, None] * habits.posture.double() * drawn
        values, vectors = torch.linalg.eigh(covariance)
        # Lower triangular, so that head and place come first: what is left of the gaze's own is the last two waves.
        root = (vectors * values.clamp(min=0).sqrt()).T
        self._factor = torch.linalg.qr(root).R.T.numpy()
        octave = math.log(FASTEST / SLOWEST)
        strata = (np.arange(WAVES)[:, None] + rng.random((WAVES, len(MOVING)))) / WAVES
        self._frequency = habits.pace * SLOWEST * np.exp(octave * strata) / FPS
        self._phase = rng.random((WAVES, len(MOVING)))
        self._frame = 0

    def waves(self, frames: int) -> np.ndarray:
        """(frames, 8) of the next frames, independent and of deviation 1."""
        clock = self._frame + np.arange(frames)[:, None, None]
        self._frame += frames
        turns = clock * self._frequency + self._phase
        share = np.clip(clock[:, 0] / SETTLE_FRAMES, 0, 1)
        return share**2 * (3 - 2 * share) * math.sqrt(2 / WAVES) * np.cos(2 * np.pi * turns).sum(1)

    def place(self, waves: np.ndarray) -> np.ndarray:
        """(8,) pose and gaze of waves (8,)."""
        return self._factor @ waves


class _Fixations:
    """Eyes rest on a point, and jump to the next; what compensates the head's turn is no matter of theirs."""

    def __init__(self, habits: MotionHabits, rng: np.random.Generator) -> None:
        self._rng = rng
        self._mean = max(60 * FPS / max(habits.saccades, 1.0) - FIXATION_FRAMES_MIN, 1.0)
        self._left, self._aim, self._eyes = 0.0, np.zeros(2), np.zeros(2)

    def push(self, waves: np.ndarray) -> np.ndarray:
        """(2,) where the eyes are; waves: (2,) where they would go."""
        if self._left <= 0:
            self._left = FIXATION_FRAMES_MIN + self._mean * self._rng.gamma(FIXATION_SHARPNESS) / FIXATION_SHARPNESS
            self._aim = waves.copy()
        self._left -= 1
        self._eyes = self._eyes + SACCADE_SHARE * (self._aim - self._eyes)
        return self._eyes


class _Lids:
    """Whole blinks, as often as the person's, at moments where the generator's lids would close.

    A renewal process in the time that the generator's wish makes run faster or slower (time rescaling, Brown et al. 2002).
    """

    def __init__(self, habits: MotionHabits, amount: float, rng: np.random.Generator) -> None:
        self._rng, self._frames = rng, habits.blink_frames
        a_frame = amount * habits.blinks / (60 * FPS)
        # Lids that are closed can't begin to close: the open time must hold as many.
        self._hazard = a_frame / max(1 - a_frame * (2 * habits.blink_frames + BLINK_PAUSE), 0.2)
        self._until = self._interval() * rng.random()
        self._seen, self._usual_wish, self._usual_readiness = 0, 0.0, WANTED_AT_ALL + 0.5
        self._shape: list[float] = []

    def push(self, wish: float) -> float:
        """How far lids are closed, 0 to 1; wish: the generator's eyelids, any number >= 0."""
        wish = max(wish, 0.0)
        self._seen += 1
        share = 1 / min(self._seen + EARLY_FRAMES, REMEMBERED_FRAMES)
        self._usual_wish += share * (wish - self._usual_wish)
        if self._shape:
            return self._shape.pop(0)
        wanted = min(wish / self._usual_wish, WANTED_MOST) if self._usual_wish > 0 else 1.0
        # Averaged where lids are open alone, so that readiness is 1 there, whatever share of the wish falls into blinks.
        self._usual_readiness += share * (WANTED_AT_ALL + wanted - self._usual_readiness)
        self._until -= self._hazard * (WANTED_AT_ALL + wanted) / self._usual_readiness
        if self._until > 0:
            return 0.0
        self._until += self._interval()  # what the last frame ran beyond its end counts into the next
        self._shape = blink_shape(self._frames * math.exp(0.15 * self._rng.standard_normal())) + [0.0] * BLINK_PAUSE
        return self._shape.pop(0)

    def _interval(self) -> float:
        return float(self._rng.gamma(BLINK_SHARPNESS) / BLINK_SHARPNESS)


def blink_shape(half_closed: float) -> list[float]:
    """How far lids are closed in each frame of a blink.

    half_closed: frames for which they are more than half closed.
    """
    falling, rising = 2 * CLOSING * half_closed, 2 * (1 - CLOSING) * half_closed
    frames = range(-math.ceil(falling) + 1, math.ceil(rising))
    return [0.5 + 0.5 * math.cos(math.pi * frame / (falling if frame < 0 else rising)) for frame in frames]
