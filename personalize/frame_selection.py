"""Which frames of a long upload the head learns from: every mouth shape, pose and look, and the sharp ones of each."""

from __future__ import annotations

import cv2
import numpy as np
from sklearn.cluster import KMeans

from gmtalker.face.geometry import rotation_angles
from gmtalker.face.landmarks import EYE_REGION, LIPS
from gmtalker.face.model import FaceModel

KINDS = 48  # of looks that are told apart
SPARE = 1.1  # times the frames wanted, of which the blurred ones are dropped
POSE_WEIGHT = 2.0  # of the head's turn beside the shape of mouth and eyes
MOST_CLUSTERED = 20_000  # frames that kinds are found from


def choose_frames(points: np.ndarray, found: np.ndarray, model: FaceModel, count: int) -> np.ndarray:
    """Sorted numbers of at most `count` frames with a face: as many of each kind of look, evenly over time.

    points: (frames, 478, 3) at any one scale. A long talk shows its common looks thousands of times and its rare ones, which
    sliders and speech will ask for as well, a few times.
    """
    there = np.flatnonzero(found)
    if len(there) <= count:
        return there
    kinds = _kinds(points[there], model)
    members = [there[kinds == kind] for kind in range(kinds.max() + 1)]
    members.sort(key=len)
    chosen: list[np.ndarray] = []
    left = count
    for number, frames in enumerate(members):  # the rarest first: what they leave of their share goes to the others
        share = min(len(frames), left // (len(members) - number))
        chosen.append(frames[np.linspace(0, len(frames) - 1, share).round().astype(int)] if share else frames[:0])
        left -= share
    return np.unique(np.concatenate(chosen))


def _kinds(points: np.ndarray, model: FaceModel) -> np.ndarray:
    """(frames,) the kind of look of points (frames, 478, 3): clusters of head turn, mouth and eyes."""
    scale, rotation, offset = model.pose(points, model.mean_shape)
    canonical = model.unpose(points, (scale, rotation, offset))
    turn = rotation_angles(rotation)
    looks = [POSE_WEIGHT * (turn - turn.mean(0)) / (turn.std() + 1e-6) / np.sqrt(turn.shape[1])]
    for region in (LIPS, EYE_REGION):
        shape = canonical[:, list(region)].reshape(len(canonical), -1)
        shape = shape - shape.mean(0)
        looks.append(shape / (np.sqrt(np.square(shape).sum(1).mean()) + 1e-9))
    look = np.concatenate(looks, axis=1).astype(np.float32)
    every = max(1, len(look) // MOST_CLUSTERED)
    return KMeans(min(KINDS, len(look)), n_init=1, random_state=0).fit(look[::every]).predict(look)


def sharpest(frames: list[np.ndarray], count: int) -> np.ndarray:
    """Sorted places of `count` of the frames (size, size, 3), without the most blurred."""
    energy = [float(cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var()) for frame in frames]
    return np.sort(np.argsort(energy)[::-1][:count])
