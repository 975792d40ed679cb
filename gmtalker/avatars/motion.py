"""How an avatar moves: generated motion around its person's usual pose, and a driver's motion in its framing."""

from __future__ import annotations

import torch
from torch import Tensor

from gmtalker.avatars.avatar import Avatar
from gmtalker.tracks import BLINK, GAZE, MOTION_DIM, POSE, EmotionWeights, FaceTrack, MotionTrack

LOWEST_LID = 0.8  # a lid that rests lower is shut: a blink could not be seen any more


def person_motion(
    avatar: Avatar,
    normalised: Tensor,
    head: float = 1.0,
    blink: float = 1.0,
    gaze: float = 1.0,
    weights: EmotionWeights | None = None,
) -> MotionTrack:
    """Generated motion as this person would move.

    avatar: whose usual pose it is around, in units of whose deviation it is.
    normalised: (frames, 10) of the motion generator, in the columns of MotionTrack.stacked().
    head, blink, gaze: how much of that movement; 1 is the person's own.
    weights: the emotion, in which the head is held and eyes and lids rest as the avatar's emotion offsets say; None is neutral
        without offsets.
    Source: docs/method.md section 2, equation (17).
    """
    amounts = torch.empty(MOTION_DIM)
    amounts[POSE], amounts[BLINK], amounts[GAZE] = head, blink, gaze
    usual, deviation = (torch.as_tensor(x).float() for x in (avatar.face.motion_mean, avatar.face.motion_scale))
    values = usual + amounts * deviation * normalised
    resting = usual[BLINK].expand(len(normalised), -1)
    if weights is not None and avatar.emotion_offsets is not None:
        offsets = weights.at(len(normalised)) @ avatar.emotion_offsets.motion
        values = values + offsets
        resting = resting + offsets[:, BLINK]
    resting = resting.clamp(0, LOWEST_LID)
    values[:, BLINK] = resting + (1 - resting) * normalised[:, BLINK].clamp(0, 1) * blink  # lids blink from where they rest
    return MotionTrack.unstacked(values)


def retarget(driver: FaceTrack, avatar: Avatar) -> FaceTrack:
    """A driver's track in an avatar's framing: pose and gaze move from the avatar's mean as the driver's do from theirs.

    driver: frames without a face do not count into the driver's mean.
    Returns: the driver's expression and eyelids as they are; without shoulders, which then follow the head.
    """
    found = driver.found if driver.found.any() else torch.ones_like(driver.found)
    values = driver.motion.stacked()
    moved = values - values[found].mean(0) + torch.as_tensor(avatar.face.motion_mean).float()
    moved[:, BLINK] = values[:, BLINK]  # eyelids: 0 open and 1 closed mean the same for everyone
    return FaceTrack(driver.expression, MotionTrack.unstacked(moved), driver.found)
