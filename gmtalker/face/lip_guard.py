"""Speech keeps its lips under any mood: where they must close or round, a mood may not hold them open or pull them wide."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from torch import Tensor

from gmtalker.face.landmarks import MOUTH_CORNERS
from gmtalker.face.model import FaceModel

GAPS = ((13, 14), (82, 87), (312, 317))  # upper and lower inner lip in the middle and to both sides
CLOSED, OPEN = 0.012, 0.035  # face heights of lip opening at which lips must close wholly, and from which on they need not
ROUND = 0.03  # face heights by which a rounded mouth is narrower than at rest
CLOSING, HOLDING = 7, 3  # frames in which lips learn to come to rest, and in which resting lips are held still
WIDTH_SHARE = 0.5  # of a mood's pull on the corners that rounding takes back: a smile stays a smile


def resting(silent: np.ndarray, closing: int = CLOSING) -> Tensor:
    """(..., frames) how much lips rest, 0 to 1, where nothing is said, silent (..., frames): wholly there, on their way around.

    closing: frames of that way.
    """
    wider = maximum_filter1d(silent.astype(np.float32), closing, axis=-1)
    return torch.from_numpy(uniform_filter1d(wider, closing, axis=-1, mode="nearest"))


class LipGuard:
    """Takes from an expression what its mood does against the sounds that are said.

    The change is the smallest of the whole face, in the sense of least squares over all points, that brings the lips' opening
    (or width) back to what the same speech has without the mood; brows, cheeks and the rest of the mouth keep the mood.
    """

    def __init__(self, model: FaceModel):
        basis = torch.tensor(model.expression_basis[:, :468], dtype=torch.float64)
        vertical = [basis[:, lower, 1] - basis[:, upper, 1] for upper, lower in GAPS]
        left, right = MOUTH_CORNERS
        measures = torch.stack([*vertical, basis[:, right, 0] - basis[:, left, 0]])
        flat = basis.reshape(len(basis), -1)
        push = torch.linalg.solve(flat @ flat.T, measures.T)
        self.measures = measures.float()  # (4, n): three openings and the width
        self.change = (push @ torch.linalg.inv(measures @ push)).float()  # (n, 4): the least change that moves one of them by one
        self._close = (push[:, :3] @ torch.linalg.inv(measures[:3] @ push[:, :3])).float()  # (n, 3): the same, width let go

    def closed(self, expression: Tensor, share: Tensor) -> Tensor:
        """expression (..., n) with its lips closed by share (...,), 1 as in the person's neutral face; all else as it is."""
        opening = (expression @ self.measures.T)[..., :3]
        return expression - share[..., None] * (opening @ self._close.T)

    def still(self, expression: Tensor, spoken: Tensor, silent: np.ndarray) -> Tensor:
        """expression (frames, n) whose lips stay where they are on average through each silence, silent (frames,).

        spoken: (frames, n) the same without a mood. What it moves is taken away: a mood that comes and goes still shows.
        """
        share = resting(silent, HOLDING)
        opening = (spoken @ self.measures.T)[:, :3]
        moved = torch.zeros_like(opening)
        edges = np.flatnonzero(np.diff(np.pad(share.numpy() > 0, 1).astype(int)))
        for begin, end in zip(edges[::2], edges[1::2]):
            wholly = torch.from_numpy(silent[begin:end])
            moved[begin:end] = opening[begin:end] - opening[begin:end][wholly].mean(0)
        return expression - share[:, None] * (moved @ self._close.T)

    def __call__(self, moody: Tensor, neutral: Tensor) -> Tensor:
        """Coefficients (..., n) of a mood and of the same speech without it -> (..., n)."""
        said = neutral @ self.measures.T
        excess = (moody - neutral) @ self.measures.T
        closing = ((OPEN - said[..., :3]) / (OPEN - CLOSED)).clamp(0, 1)  # from the person's neutral face, whose lips are closed
        rounding = (-said[..., 3:] / ROUND).clamp(0, 1) * WIDTH_SHARE
        taken = torch.cat([closing, rounding], dim=-1) * excess.clamp(min=0)  # lips pressed tighter still say their sound
        return moody - taken @ self.change.T


def at_rest_in_silence(expression: Tensor, silent: np.ndarray, guard: LipGuard) -> Tensor:
    """expression (..., frames, n) with lips that rest where it is silent (..., frames).

    What people's lips do while they say nothing can't be heard: learned, it comes back as idle lip motion at any moment.
    """
    return guard.closed(expression, resting(silent))
