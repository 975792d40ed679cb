"""Lip opening of face points, and how well two openings agree over time."""

from __future__ import annotations

import numpy as np

from gmtalker.face.landmarks import INNER_LIPS, OUTER_EYE_CORNERS

OFFSET_MAX = 5  # frames to each side within which the best offset of lips and sound is searched


def lip_opening(points: np.ndarray) -> np.ndarray:
    """Distance of the inner lips in units of the distance between the eyes' outer corners.

    points: (frames, 478, 3) at any scale.
    Returns: (frames,).
    """
    (upper, lower), (left, right) = INNER_LIPS, OUTER_EYE_CORNERS
    eyes = np.linalg.norm(points[:, right] - points[:, left], axis=-1)
    return np.linalg.norm(points[:, lower] - points[:, upper], axis=-1) / eyes


def shifted_correlation(made: np.ndarray, real: np.ndarray, offset: int) -> float:
    """Pearson correlation of made with real, both (frames,), when made is read `offset` frames later.

    offset: a peak at a positive one means that made is late.
    Returns: 0 where fewer than 5 frames overlap or one of them is constant.
    """
    if offset >= 0:
        a, b = made[offset:], real[: len(real) - offset]
    else:
        a, b = made[:offset], real[-offset:]
    if len(a) < 5 or a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
