"""How an avatar moves: generated motion around its person's usual pose, and a driver's motion in its framing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gmtalker.avatars.avatar import Avatar
from gmtalker.avatars.habits import MOVING, HabitualMotion, usual_habits
from gmtalker.clock import FPS, MOTIONS
from gmtalker.face.person import PersonFace
from gmtalker.tracks import BLINK, GAZE, MOTION_DIM, POSE, WIDEST_LID, EmotionWeights, FaceTrack, MotionTrack

SHOULDER_SECONDS = 0.15  # of each of the two low-pass filters between head and shoulders
LOWEST_LID = 0.8  # a lid that rests lower is shut: a blink could not be seen any more


@dataclass(frozen=True)
class MotionAmounts:
    """How much of a person's movement is wanted.

    head, blink, gaze: factors on how far the head and the eyes go and how often eyes blink; 1 is the person's own.
    manner: "own"; "still", a head that is held nearly still while eyes blink as ever; or "lively".
    Errors: ValueError naming the manners for any other.
    """

    head: float = 1.0
    blink: float = 1.0
    gaze: float = 1.0
    manner: str = "own"

    def __post_init__(self) -> None:
        if self.manner not in MOTIONS:
            raise ValueError(f"motion must be one of {', '.join(MOTIONS)}, not {self.manner!r}")


class PersonMotion:
    """A person's movement, frame by frame, around their usual pose: the state of a stream, which does not grow."""

    def __init__(self, avatar: Avatar, amounts: MotionAmounts = MotionAmounts(), seed: int = 0) -> None:
        """seed: the same gives the same movement, in whatever pieces it is asked for."""
        self.avatar, self.amounts = avatar, amounts
        habits = avatar.motion_habits or usual_habits(avatar.face.motion_scale)
        self._habitual = HabitualMotion(habits, seed, amounts.manner, amounts.blink)
        self._usual = torch.as_tensor(avatar.face.motion_mean).float()

    def push(self, normalised: Tensor, omega: Tensor | None = None) -> MotionTrack:
        """The next frames.

        normalised: (n, 10) of the motion generator, in the columns of MotionTrack.stacked().
        omega: (n, 8) emotion weights, in which head, gaze and lids rest as the avatar's emotion offsets say; None is neutral
            without offsets.
        Source: docs/method.md section 2, equation (17).
        """
        moved, closed = self._habitual.push(normalised)
        values = self._usual.repeat(len(moved), 1)
        if omega is not None and self.avatar.emotion_offsets is not None:
            values = values + omega @ self.avatar.emotion_offsets.motion
        resting = values[:, BLINK].clamp(WIDEST_LID, LOWEST_LID)
        values[:, BLINK] = resting + (1 - resting) * closed[:, None]  # lids blink from where they rest
        amounts = torch.empty(MOTION_DIM)
        amounts[POSE], amounts[GAZE] = self.amounts.head, self.amounts.gaze
        values[:, MOVING] += amounts[MOVING] * moved
        return MotionTrack.unstacked(values)


class FollowingShoulders:
    """Shoulders that follow a head as they do in the person's footage, but like something heavy: the state of a stream."""

    def __init__(self, face: PersonFace) -> None:
        self.face = face
        self._slow: list[np.ndarray] = []  # pose after each of two low-pass filters

    def push(self, motion: MotionTrack) -> Tensor:
        """(n, 4) as in FaceTrack, of the next n frames of motion. Source: docs/method.md section 8."""
        share = 1 - math.exp(-1 / (FPS * SHOULDER_SECONDS))
        values = motion.stacked().double().numpy()
        settled = np.empty_like(values)
        for index, row in enumerate(values):
            if not self._slow:
                self._slow = [row.copy(), row.copy()]
            first, second = self._slow
            first += share * (row - first)
            second += share * (first - second)
            settled[index] = second
        return torch.from_numpy(self.face.pose_features(settled) @ self.face.shoulder_follow).float()


def person_motion(
    avatar: Avatar,
    normalised: Tensor,
    amounts: MotionAmounts = MotionAmounts(),
    seed: int = 0,
    weights: EmotionWeights | None = None,
) -> MotionTrack:
    """Generated motion as this person would move.

    avatar: whose usual pose it is around, and whose habits it has.
    normalised: (frames, 10) of the motion generator, in the columns of MotionTrack.stacked().
    seed: of what is drawn by those habits.
    weights: the emotion; None is neutral without emotion offsets.
    Source: docs/method.md section 2, equation (17).
    """
    omega = None if weights is None else weights.at(len(normalised))
    return PersonMotion(avatar, amounts, seed).push(normalised, omega)


def retarget(driver: FaceTrack, avatar: Avatar) -> FaceTrack:
    """A driver's track in an avatar's framing: pose and gaze move from the avatar's mean as the driver's do from theirs.

    driver: frames without a face do not count into the driver's mean.
    Returns: the driver's expression and eyelids as they are; shoulders follow the head.
    """
    found = driver.found if driver.found.any() else torch.ones_like(driver.found)
    values = driver.motion.stacked()
    moved = values - values[found].mean(0) + torch.as_tensor(avatar.face.motion_mean).float()
    moved[:, BLINK] = values[:, BLINK]  # eyelids: 0 open and 1 closed mean the same for everyone
    motion = MotionTrack.unstacked(moved)
    return FaceTrack(driver.expression, motion, driver.found, FollowingShoulders(avatar.face).push(motion))
