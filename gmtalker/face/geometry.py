"""Rotations, closed-form rigid alignment, eyelids and gaze of face points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmtalker.face.landmarks import EYES
from gmtalker.tracks import WIDEST_LID

EYE_RADIUS = 0.55  # eyeball radius in eye widths (about 12.5 mm to 24 mm of lid opening): turns iris offsets into angles


def rotation_matrix(rotation: np.ndarray) -> np.ndarray:
    """R = Rz(roll) Rx(pitch) Ry(yaw).

    rotation: (..., 3) yaw, pitch and roll in radians.
    Returns: (..., 3, 3).
    """
    yaw, pitch, roll = np.moveaxis(np.asarray(rotation, np.float64), -1, 0)
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    rows = [
        [cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy],
        [sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy],
        [-cp * sy, sp, cp * cy],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_angles(matrix: np.ndarray) -> np.ndarray:
    """The inverse of rotation_matrix, for pitch within a quarter turn: (..., 3, 3) to (..., 3) yaw, pitch and roll."""
    yaw = np.arctan2(-matrix[..., 2, 0], matrix[..., 2, 2])
    pitch = np.arcsin(np.clip(matrix[..., 2, 1], -1, 1))
    roll = np.arctan2(-matrix[..., 0, 1], matrix[..., 1, 1])
    return np.stack([yaw, pitch, roll], axis=-1)


def align(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The similarity that best maps one set of points to each of others, in closed form.

    source: (n, 3).
    target: (frames, n, 3).
    Returns: scale (frames,), R (frames, 3, 3) and offset (frames, 3), with target = scale * R @ source + offset.
    Source: Umeyama 1991, equations 40 to 42.
    """
    source_mean, target_mean = source.mean(0), target.mean(1)
    centred, spread = source - source_mean, target - target_mean[:, None]
    covariance = np.einsum("tni,nj->tij", spread, centred) / len(source)
    u, singular, vt = np.linalg.svd(covariance)
    sign = np.ones((len(target), 3))
    sign[:, 2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))  # a mirror image is no rotation
    rotation = np.einsum("tij,tj,tjk->tik", u, sign, vt)
    scale = (singular * sign).sum(-1) / centred.var(0).sum()
    offset = target_mean - scale[:, None] * np.einsum("tij,j->ti", rotation, source_mean)
    return scale, rotation, offset


def steadied(rows: np.ndarray, jitter: Sequence[float], window: int) -> np.ndarray:
    """Rows without jitter of known size; real movement stays as quick as it is.

    A Wiener filter over a few frames: where they differ by no more than jitter does, their mean; where by far more, unchanged.

    rows: (frames, d).
    jitter: (d,) standard deviation of each column.
    window: frames, odd.
    Returns: (frames, d).
    """
    from scipy.signal import wiener  # late: half a second that opening the page need not wait for

    around = np.pad(rows, ((window, window), (0, 0)), mode="edge")
    with np.errstate(divide="ignore", invalid="ignore"):  # where nothing differs at all; the filter takes the mean there
        steady = [wiener(column, window, noise=deviation**2) for column, deviation in zip(around.T, jitter)]
    return np.stack(steady, axis=1)[window:-window].astype(rows.dtype)


def lid_distance(canonical: np.ndarray) -> np.ndarray:
    """(frames, 2) distance of upper and lower lid in eye widths, of canonical points (frames, 478, 3)."""
    eyes = []
    for eye in EYES:
        upper, lower = canonical[:, list(eye.upper)], canonical[:, list(eye.lower)]
        left, right = eye.corners
        width = np.linalg.norm(canonical[:, left] - canonical[:, right], axis=-1)
        eyes.append(np.linalg.norm(upper - lower, axis=-1).mean(-1) / width)
    return np.stack(eyes, axis=1)


def eyelids(canonical: np.ndarray, eye_open: np.ndarray, eye_closed: np.ndarray) -> np.ndarray:
    """(frames, 2) blink, 0 open to 1 closed; below 0 where eyes are wider than they usually are.

    canonical: (frames, 478, 3).
    eye_open, eye_closed: (2,) the person's lid distances in eye widths.
    Source: docs/method.md equation (28).
    """
    return np.clip((eye_open - lid_distance(canonical)) / (eye_open - eye_closed), WIDEST_LID, 1)


def gaze_angles(canonical: np.ndarray) -> np.ndarray:
    """(frames, 2) gaze yaw and pitch in radians, of canonical points (frames, 478, 3): the mean of both eyes.

    Source: docs/method.md equation (28).
    """
    angles = []
    for eye in EYES:
        left, right = canonical[:, eye.corners[0]], canonical[:, eye.corners[1]]
        width = np.linalg.norm(left - right, axis=-1, keepdims=True)
        offset = (canonical[:, eye.iris] - (left + right) / 2)[:, :2] / width
        angles.append(np.arcsin(np.clip(offset / EYE_RADIUS, -0.95, 0.95)))
    return np.mean(angles, axis=0)
