"""Which frames of long footage the head learns from: balanced over mouth shape, head turn and gaze, the blurriest dropped."""

from __future__ import annotations

import cv2
import numpy as np
from sklearn.cluster import KMeans

from gmtalker.face.geometry import rotation_angles
from gmtalker.face.landmarks import EYE_REGION, LIPS
from gmtalker.face.model import FaceModel

CLUSTERS = 48  # of frames in which the face appears alike
CLUSTERED_FRAMES_MAX = 20_000  # that the clusters are found from
SPARE_SHARE = 1.1  # times the frames needed, of which the blurred ones are dropped
ROTATION_WEIGHT = 2.0  # of the head's turn beside the shape of mouth and eyes


def choose_frames(points: np.ndarray, found: np.ndarray, model: FaceModel, count: int) -> np.ndarray:
    """Choose frames with a face: as many of each appearance cluster, spread evenly over time.

    A long talk shows its common appearances thousands of times and its rare ones, which sliders and speech need as well, a few
    times.

    points: (frames, 478, 3) at any one scale.
    found: (frames,) bool.
    Returns: the sorted numbers of at most `count` frames.
    """
    with_face = np.flatnonzero(found)
    if len(with_face) <= count:
        return with_face
    clusters = _appearance_clusters(points[with_face], model)
    members = [with_face[clusters == cluster] for cluster in range(clusters.max() + 1)]
    members.sort(key=len)
    chosen: list[np.ndarray] = []
    left = count
    for number, frames in enumerate(members):  # the smallest first: what they leave of their share goes to the others
        share = min(len(frames), left // (len(members) - number))
        chosen.append(frames[np.linspace(0, len(frames) - 1, share).round().astype(int)] if share else frames[:0])
        left -= share
    return np.unique(np.concatenate(chosen))


def _appearance_clusters(points: np.ndarray, model: FaceModel) -> np.ndarray:
    """(frames,) the cluster of points (frames, 478, 3), by head turn and the shape of mouth and eyes."""
    scale, rotation, offset = model.pose(points, model.mean_shape)
    canonical = model.unpose(points, (scale, rotation, offset))
    turn = rotation_angles(rotation)
    parts = [ROTATION_WEIGHT * (turn - turn.mean(0)) / (turn.std() + 1e-6) / np.sqrt(turn.shape[1])]
    for region in (LIPS, EYE_REGION):
        shape = canonical[:, list(region)].reshape(len(canonical), -1)
        shape = shape - shape.mean(0)
        parts.append(shape / (np.sqrt(np.square(shape).sum(1).mean()) + 1e-9))
    appearance = np.concatenate(parts, axis=1).astype(np.float32)
    every = max(1, len(appearance) // CLUSTERED_FRAMES_MAX)
    return KMeans(min(CLUSTERS, len(appearance)), n_init=1, random_state=0).fit(appearance[::every]).predict(appearance)


def sharpest(frames: list[np.ndarray], count: int) -> np.ndarray:
    """The sharpest frames, by the variance of the Laplacian.

    frames: (size, size, 3) uint8.
    Returns: their sorted places in the list, `count` of them.
    """
    energy = [float(cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var()) for frame in frames]
    return np.sort(np.argsort(energy)[::-1][:count])
