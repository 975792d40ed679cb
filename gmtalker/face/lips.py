"""How far lips open, and how well two openings agree over time."""

from __future__ import annotations

import numpy as np

from gmtalker.face.landmarks import INNER_LIPS

LARGEST_OFFSET = 5  # frames to each side in which the best agreement of lips and sound is looked for


def lip_opening(points: np.ndarray) -> np.ndarray:
    """(frames,) distance of the inner lips of points (frames, 478, 3), in units of the distance of the eyes' outer corners."""
    upper, lower = INNER_LIPS
    eyes = np.linalg.norm(points[:, 263] - points[:, 33], axis=-1)
    return np.linalg.norm(points[:, lower] - points[:, upper], axis=-1) / eyes


def shifted_correlation(made: np.ndarray, real: np.ndarray, offset: int) -> float:
    """Correlation of made with real when made is read `offset` frames later (positive: made is late)."""
    if offset >= 0:
        a, b = made[offset:], real[: len(real) - offset]
    else:
        a, b = made[:offset], real[-offset:]
    if len(a) < 5 or a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
