"""Lips as the speech requires them: closed at m, b and p, at rest where nobody speaks, whatever the emotion."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from torch import Tensor

from gmtalker.face.landmarks import AROUND_CORNERS, FACE_POINTS, LIPS, MOUTH_CORNERS
from gmtalker.face.model import FaceModel
from gmtalker.models.articulation import CLOSED as CLOSED_COLUMN
from gmtalker.models.articulation import SPEAKING

GAPS = ((13, 14), (82, 87), (312, 317))  # upper and lower inner lip in the middle and to both sides
CLOSED, OPEN = 0.012, 0.035  # lip opening in face heights up to which lips must close fully, and from which on they need not
ROUND = 0.03  # face heights by which a rounded mouth is narrower than at rest
CLOSING = 7  # frames in which lips come to rest in training targets
WIDTH_SHARE = 0.5  # of an emotion's pull on the corners that rounding takes back: a smile stays a smile
REST_OF_FACE = 0.03  # weight of the other points where the lips alone are to move
# Probabilities at which lips begin to obey, and obey fully. Where the probability of a closure peaks and the lips are low anyway,
# little is enough: a closure lasts two or three frames, one of which must be seen. Elsewhere a wrong one would be seen as well.
FAINT_CLOSED, PEAK_CLOSED, SURE_CLOSED, SURE_SPEAKING = (0.25, 0.35), (0.4, 0.55), (0.7, 0.95), (0.6, 0.85)
TAUGHT_CLOSED = (0.25, 0.55)  # probabilities at which lips of training targets begin to be closed, and are
LOW = (0.05, 0.03)  # lip openings, in face heights, at which lips begin to be low, and are
HANGOVER_FRAMES, REST_FRAMES = 4, 5  # that lips go on moving after speech, and in which they then come to rest
EMOTION_FADE = 0.92  # a frame, of the average that is the emotion's own opening at rest: a second


def resting(silent: np.ndarray, closing: int = CLOSING) -> Tensor:
    """Share by which lips rest: 1 where nothing is said, ramping up before and down after.

    silent: (..., frames) bool.
    closing: frames of a ramp.
    Returns: (..., frames) from 0 to 1.
    """
    wider = maximum_filter1d(silent.astype(np.float32), closing, axis=-1)
    return torch.from_numpy(uniform_filter1d(wider, closing, axis=-1, mode="nearest"))


def closed_share(articulation: Tensor) -> Tensor:
    """(...,) share by which the lips of training targets are closed, of articulation (..., 3)."""
    return _share(articulation[..., CLOSED_COLUMN], TAUGHT_CLOSED)


def _share(probability: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = limits
    return ((probability.float() - low) / (high - low)).clamp(0, 1)


def _ramp(probability: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return min(max((probability - low) / (high - low), 0.0), 1.0)


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
        of_lips = torch.zeros(FACE_POINTS, dtype=torch.bool)
        of_lips[[point for point in LIPS if point not in AROUND_CORNERS]] = True
        lips, rest = (part @ part.T for part in (basis[:, of_lips].flatten(1), basis[:, ~of_lips].flatten(1)))
        # (n, n): of a change of the face, the part that moves the lips, in least squares, while the rest keeps its place.
        self._lips_of = (lips @ torch.linalg.inv(lips + REST_OF_FACE * rest)).float()

    def closed(self, expression: Tensor, share: Tensor) -> Tensor:
        """An expression with its lips closed in part, all else unchanged.

        expression: (..., n).
        share: (...,) from 0, as they are, to 1, as in the person's neutral face.
        """
        return expression - share[..., None] * (self.openings(expression) @ self._close.T)

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

    def open(self) -> LipStream:
        """The lips of a speech that comes in pieces."""
        return LipStream(self)

    def shut(self, expression: Tensor, share: Tensor) -> Tensor:
        """An expression (m, n) with its lips at the person's neutral face by a share (m, 1); corners follow little.

        Openings of 0 are not enough in an emotion: it also curls and puffs the lips, which are then drawn, and seen, apart.
        """
        return expression - share * (expression @ self._lips_of)

    def openings(self, expression: Tensor) -> Tensor:
        """Three openings (..., 3) of the inner lips of an expression (..., n), in face heights."""
        return expression @ self.measures[:3].T

    def with_openings(self, expression: Tensor, openings: Tensor) -> Tensor:
        """The expression (..., n) nearest to the given one with these openings (..., 3); the width is free."""
        return expression - (self.openings(expression) - openings) @ self._close.T


class LipStream:
    """Brings the lips of consecutive frames to where their sounds need them.

    Where the encoder hears m, b or p, lips are closed whatever the emotion; where nobody speaks, they hold the opening that the
    emotion alone has, and noise can't move them. A frame reads the articulation of its neighbours on either side.
    Source: docs/method.md section 9, equation (32).
    """

    def __init__(self, guard: LipGuard) -> None:
        self.guard = guard
        self.reset()

    def reset(self) -> None:
        """Forget the speech so far: lips start at rest."""
        # Probability closed and share speaking, from the frame before the next one on.
        self._heard: list[tuple[float, float]] = []
        self._since_speech, self._rest = HANGOVER_FRAMES + 1, 1.0
        self._emotion: Tensor | None = None  # (3,) average opening that the emotion adds

    def hear(self, articulation: Tensor) -> None:
        """Take the articulation (m, 3) of the next frames; a frame is shaped by its own and that of the frame after it."""
        speaking = _share(articulation[..., SPEAKING], SURE_SPEAKING)
        if not self._heard:
            self._heard.append((0.0, 0.0))
        self._heard += zip(articulation[..., CLOSED_COLUMN].tolist(), speaking.tolist())

    def push(self, emotional: Tensor, neutral: Tensor) -> Tensor:
        """The next frames.

        emotional: (m, n) expressions in an emotion.
        neutral: (m, n) of the same speech without it.
        Returns: (m, n).
        """
        if not len(emotional):
            return emotional
        closed, rest = self._shares(self.guard.openings(neutral)[:, 0].tolist())
        guarded = self.guard(emotional, neutral)
        opening = self.guard.openings(guarded)
        at_rest = self._emotion_openings(self.guard.openings(emotional) - self.guard.openings(neutral))
        guarded = self.guard.with_openings(guarded, opening + rest * (at_rest - opening))
        return self.guard.shut(guarded, closed)

    def _shares(self, openings: list[float]) -> tuple[Tensor, Tensor]:
        """Shares (frames, 1) by which the next frames, whose lips open that far without emotion, are closed, and at rest."""
        rows = []
        for frame, opening in enumerate(openings, start=1):
            before, here = self._heard[frame - 1], self._heard[frame]
            after = self._heard[min(frame + 1, len(self._heard) - 1)]
            self._since_speech = 0 if max(here[1], after[1]) > 0.5 else self._since_speech + 1
            wanted = 0.0 if self._since_speech <= HANGOVER_FRAMES else 1.0 - max(here[1], after[1])
            self._rest = min(wanted, self._rest + 1 / REST_FRAMES)
            closed = _ramp(here[0], SURE_CLOSED)
            if before[0] < here[0] >= after[0]:
                closed = max(_ramp(here[0], PEAK_CLOSED), _ramp(here[0], FAINT_CLOSED) * _ramp(opening, LOW))
            rows.append((closed, self._rest))
        self._heard = self._heard[len(openings) :]
        return torch.tensor(rows)[:, :1], torch.tensor(rows)[:, 1:]

    def _emotion_openings(self, excess: Tensor) -> Tensor:
        """(m, 3) what the emotion alone opens the lips by: a moving average of its excess (m, 3) over the speech."""
        rows = []
        for row in excess:
            self._emotion = row if self._emotion is None else EMOTION_FADE * self._emotion + (1 - EMOTION_FADE) * row
            rows.append(self._emotion)
        return torch.stack(rows)


def as_spoken(expression: Tensor, silent: np.ndarray, guard: LipGuard, articulation: Tensor | None = None) -> Tensor:
    """An expression whose lips are closed where it is silent and at m, b and p, as training targets need it.

    What lips do in silence can't be heard: learned, it comes back as idle lip motion at any moment. Closures are often missed by
    a tracker, and a closure that is learned too weakly is an open mouth.

    expression: (..., frames, n).
    silent: (..., frames) bool.
    articulation: (..., frames, 3) of the encoder; None leaves closures as they are.
    """
    share = resting(silent)
    if articulation is not None:
        share = torch.maximum(share, closed_share(articulation))
    return guard.closed(expression, share)
