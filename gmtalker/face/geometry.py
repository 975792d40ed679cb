"""Rotations, closed-form rigid alignment, eyelids and gaze of face points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmtalker.face.landmarks import EYES

EYE_RADIUS = 0.55  # eyeball radius in eye widths (about 12.5 mm to 24 mm of lid opening): turns iris offsets into angles


def rotation_matrix(rotation: np.ndarray) -> np.ndarray:
    """(frames, 3) yaw, pitch, roll in radians to (frames, 3, 3): R = Rz(roll) Rx(pitch) Ry(yaw)."""
    yaw, pitch, roll = np.moveaxis(np.asarray(rotation, np.float64), -1, 0)
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    rows = [
        [cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy],
        [sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy],
        [-cp * sy, sp, cp * cy],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_angles(matrix: np.ndarray) -> np.ndarray:
    """(frames, 3, 3) to (frames, 3) yaw, pitch, roll: the inverse of rotation_matrix for pitch within a quarter turn."""
    yaw = np.arctan2(-matrix[..., 2, 0], matrix[..., 2, 2])
    pitch = np.arcsin(np.clip(matrix[..., 2, 1], -1, 1))
    roll = np.arctan2(-matrix[..., 0, 1], matrix[..., 1, 1])
    return np.stack([yaw, pitch, roll], axis=-1)


def align(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarity that best carries `source` (n, 3) onto each `target` (frames, n, 3), in closed form (Umeyama 1991, eq. 40-42).

    Returns scale (frames,), R (frames, 3, 3), offset (frames, 3) with target = scale * R @ source + offset.
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
    """rows (frames, d) without jitter, whose deviation in each column is known; real movement stays as quick as it is.

    Wiener's filter over a few frames: where they differ by no more than jitter does, their mean; where by far more, as they are.
    """
    from scipy.signal import wiener  # late: half a second that opening the page need not wait for

    around = np.pad(rows, ((window, window), (0, 0)), mode="edge")
    with np.errstate(divide="ignore", invalid="ignore"):  # where nothing differs at all; the filter takes the mean there
        steady = [wiener(column, window, noise=deviation**2) for column, deviation in zip(around.T, jitter)]
    return np.stack(steady, axis=1)[window:-window].astype(rows.dtype)


def lid_distance(canonical: np.ndarray) -> np.ndarray:
    """(frames, 2) distance of upper and lower lid in eye widths, left eye of the picture first."""
    eyes = []
    for eye in EYES:
        upper, lower = canonical[:, list(eye["upper"])], canonical[:, list(eye["lower"])]
        width = np.linalg.norm(canonical[:, eye["corners"][0]] - canonical[:, eye["corners"][1]], axis=-1)
        eyes.append(np.linalg.norm(upper - lower, axis=-1).mean(-1) / width)
    return np.stack(eyes, axis=1)


def eyelids(canonical: np.ndarray, eye_open: np.ndarray, eye_closed: np.ndarray) -> np.ndarray:
    """(frames, 2) blink, 0 open to 1 closed, relative to the person's own range."""
    return np.clip((eye_open - lid_distance(canonical)) / (eye_open - eye_closed), 0, 1)


def gaze_angles(canonical: np.ndarray) -> np.ndarray:
    """(frames, 2) yaw and pitch in radians, mean of both irises' offsets from the middle of the eye's corners."""
    angles = []
    for eye in EYES:
        outer, inner = canonical[:, eye["corners"][0]], canonical[:, eye["corners"][1]]
        width = np.linalg.norm(outer - inner, axis=-1, keepdims=True)
        offset = (canonical[:, eye["iris"]] - (outer + inner) / 2)[:, :2] / width
        angles.append(np.arcsin(np.clip(offset / EYE_RADIUS, -0.95, 0.95)))
    return np.mean(angles, axis=0)
