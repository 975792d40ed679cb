"""Looks: which clips show a person in the same room, clothes and light; a picture is learned from one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse.csgraph import connected_components

from gmtalker.face.tracking import choose_crop, cut, in_crop

SIDE, BLUR = 64, 2.0  # pixels of the pictures that are compared, and of their blur
BESIDE, ABOVE = 0.09, 0.12  # of the side, that are left out with the face: it moves
# Of 255. Clips of one take, or of takes of one sitting, differ by up to 24; of other rooms or clothes by 36 and more.
LOOK_CHANGE = 30.0


@dataclass(frozen=True)
class LookPicture:
    """What is around the face in one frame of a clip.

    picture: (SIDE, SIDE, 3) float32, head and shoulders.
    around: (SIDE, SIDE) bool, what is not the face.
    """

    picture: np.ndarray
    around: np.ndarray

    @classmethod
    def of(cls, frame: np.ndarray, points: np.ndarray) -> LookPicture:
        """That of a frame (height, width, 3) uint8 with the face's points (478, 2 or 3) in pixels."""
        points = np.pad(points, ((0, 0), (0, 3 - points.shape[1])))
        crop = choose_crop(points[None], frame.shape[1], frame.shape[0])
        low, high = (edge[:2] / SIDE for edge in (in_crop(points, crop, SIDE).min(0), in_crop(points, crop, SIDE).max(0)))
        across = (np.arange(SIDE) + 0.5) / SIDE
        columns = (across >= low[0] - BESIDE) & (across <= high[0] + BESIDE)
        rows = (across >= low[1] - ABOVE) & (across <= high[1])
        small = cv2.GaussianBlur(cut(frame, crop, SIDE), (0, 0), BLUR)
        return cls(small.astype(np.float32), ~(rows[:, None] & columns[None]))

    def change(self, other: LookPicture) -> float:
        """By how much another clip's picture differs, of 255."""
        both = self.around & other.around
        return float(np.abs(self.picture - other.picture)[both].mean()) if both.any() else 0.0


def looks_of(pictures: Sequence[LookPicture]) -> np.ndarray:
    """(clips,) the number of each clip's look, in the order of the clips; each is like at least one other of its look."""
    alike = np.array([[one.change(other) < LOOK_CHANGE for other in pictures] for one in pictures])
    labels: np.ndarray = connected_components(alike.reshape(len(pictures), -1), directed=False)[1]
    return labels


def first_clips(looks: np.ndarray) -> list[int]:
    """The first clip of each look, of what looks_of returns."""
    return [int((looks == look).argmax()) for look in range(looks.max() + 1)]


def longest_look(looks: np.ndarray, lengths: Sequence[float]) -> int:
    """The look of which there is most, by the length of each clip in any unit."""
    return int(np.bincount(looks, lengths).argmax())
