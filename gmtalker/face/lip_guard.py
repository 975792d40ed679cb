"""Keeps an emotion from overriding lip closure and rounding that the speech requires."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from torch import Tensor

from gmtalker.face.landmarks import FACE_POINTS, MOUTH_CORNERS
from gmtalker.face.model import FaceModel

GAPS = ((13, 14), (82, 87), (312, 317))  # upper and lower inner lip in the middle and to both sides
CLOSED, OPEN = 0.012, 0.035  # lip opening in face heights up to which lips must close fully, and from which on they need not
ROUND = 0.03  # face heights by which a rounded mouth is narrower than at rest
CLOSING, HOLDING = 7, 3  # frames in which lips come to rest in training targets, and in which lips at rest are held still
WIDTH_SHARE = 0.5  # of an emotion's pull on the corners that rounding takes back: a smile stays a smile


def resting(silent: np.ndarray, closing: int = CLOSING) -> Tensor:
    """Share by which lips rest: 1 where nothing is said, ramping up before and down after.

    silent: (..., frames) bool.
    closing: frames of a ramp.
    Returns: (..., frames) from 0 to 1.
    """
    wider = maximum_filter1d(silent.astype(np.float32), closing, axis=-1)
    return torch.from_numpy(uniform_filter1d(wider, closing, axis=-1, mode="nearest"))


class LipGuard:
    """Removes from an expression what its emotion does against the sounds that are spoken.

    The change is the smallest of the whole face, in least squares over all points, that brings the lips' opening (or width) back
    to that of the same speech without emotion; brows, cheeks and the rest of the mouth keep the emotion.

    measures: (4, n) maps coefficients to three openings and the mouth's width, in face heights.
    change: (n, 4) the least change of the coefficients that moves one of these by 1.
    Source: docs/method.md section 9, equations (31) and (32).
    """

    def __init__(self, model: FaceModel):
        basis = torch.tensor(model.expression_basis[:, :FACE_POINTS], dtype=torch.float64)
        vertical = [basis[:, lower, 1] - basis[:, upper, 1] for upper, lower in GAPS]
        left, right = MOUTH_CORNERS
        measures = torch.stack([*vertical, basis[:, right, 0] - basis[:, left, 0]])
        flat = basis.reshape(len(basis), -1)
        push = torch.linalg.solve(flat @ flat.T, measures.T)
        self.measures = measures.float()
        self.change = (push @ torch.linalg.inv(measures @ push)).float()
        self._close = (push[:, :3] @ torch.linalg.inv(measures[:3] @ push[:, :3])).float()  # (n, 3): the same with free width

    def closed(self, expression: Tensor, share: Tensor) -> Tensor:
        """An expression with its lips closed in part, all else unchanged.

        expression: (..., n).
        share: (...,) from 0, as they are, to 1, as in the person's neutral face.
        """
        opening = (expression @ self.measures.T)[..., :3]
        return expression - share[..., None] * (opening @ self._close.T)

    def still(self, expression: Tensor, spoken: Tensor, silent: np.ndarray) -> Tensor:
        """An expression whose lips hold still in each silence, at their mean opening over it.

        expression: (frames, n).
        spoken: (frames, n) the same without emotion; only its movement is removed, so an emotion that comes and goes still shows.
        silent: (frames,) bool.
        """
        share = resting(silent, HOLDING)
        opening = (spoken @ self.measures.T)[:, :3]
        moved = torch.zeros_like(opening)
        edges = np.flatnonzero(np.diff(np.pad(share.numpy() > 0, 1).astype(int)))
        for begin, end in zip(edges[::2], edges[1::2]):
            at_rest = torch.from_numpy(silent[begin:end])
            moved[begin:end] = opening[begin:end] - opening[begin:end][at_rest].mean(0)
        return expression - share[:, None] * (moved @ self._close.T)

    def __call__(self, expression: Tensor, neutral: Tensor) -> Tensor:
        """The guarded expression.

        expression: (..., n) in an emotion.
        neutral: (..., n) of the same speech without it.
        """
        said = neutral @ self.measures.T
        excess = (expression - neutral) @ self.measures.T
        closing = ((OPEN - said[..., :3]) / (OPEN - CLOSED)).clamp(0, 1)  # from the person's neutral face, whose lips are closed
        rounding = (-said[..., 3:] / ROUND).clamp(0, 1) * WIDTH_SHARE
        removed = torch.cat([closing, rounding], dim=-1) * excess.clamp(min=0)  # lips pressed tighter still say their sound
        return expression - removed @ self.change.T


def at_rest_in_silence(expression: Tensor, silent: np.ndarray, guard: LipGuard) -> Tensor:
    """An expression whose lips are closed where it is silent, as training targets need it.

    What lips do in silence can't be heard: learned, it comes back as idle lip motion at any moment.

    expression: (..., frames, n).
    silent: (..., frames) bool.
    """
    return guard.closed(expression, resting(silent))
