"""What is behind a person whose camera stands still: as still in a generated video as it was (docs/method.md section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from gmtalker.errors import UnusableAvatar

FILE = "background.png"
SIZE_IN_PNG = slice(16, 24)  # bytes of width and height
ANY = 12  # of 255: a matte from which on a pixel may hold some of the person
REACH, SOFT = 0.035, 0.012  # of the side: around the person, where the generated picture stays; and over which it goes over
COARSE = 4  # pixels to a side of the cells in which that is worked out


@dataclass(frozen=True, eq=False)
class Background:
    """The picture behind the person.

    picture: (size, size, 4) uint8 RGBA; alpha is 255 where it is known.
    """

    picture: np.ndarray

    def save(self, folder: Path) -> None:
        """Write it into an avatar's folder. Errors: OSError when it can't be written."""
        if not cv2.imwrite(str(folder / FILE), cv2.cvtColor(self.picture, cv2.COLOR_RGBA2BGRA)):
            raise OSError(f"{FILE} can't be written")

    @classmethod
    def load(cls, folder: Path, size: int) -> Background | None:
        """That of an avatar's folder, None where it has none. Errors: UnusableAvatar for a picture of another kind or size."""
        path = folder / FILE
        if not path.is_file():
            return None
        # Its size before its pixels: a small file may unfold to gigabytes.
        told = path.read_bytes()[SIZE_IN_PNG]
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if told == size.to_bytes(4, "big") * 2 else None
        if picture is None or picture.shape != (size, size, 4) or picture.dtype != np.uint8:
            raise UnusableAvatar(f"The background of this avatar ({folder.name}) is broken; train or import it again.")
        return cls(cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA))

    @cached_property
    def _colours(self) -> np.ndarray:
        return np.ascontiguousarray(self.picture[..., :3])

    @cached_property
    def _known(self) -> np.ndarray:
        """(size, size) float32, fading out towards what is not known."""
        side = len(self.picture)
        known = cv2.erode((self.picture[..., 3] > 0).astype(np.float32), np.ones((3, 3)))
        blurred: np.ndarray = cv2.GaussianBlur(known, (0, 0), max(SOFT * side, 0.5)) * known
        return blurred

    def behind(self, frames: np.ndarray) -> np.ndarray:
        """Frames (n, size, size, 4) uint8 with a matte, with this picture where nobody is near."""
        laid = np.empty_like(frames)
        for frame, out in zip(frames, laid):
            side = len(frame)
            small = cv2.resize(frame[..., 3], (side // COARSE, side // COARSE), interpolation=cv2.INTER_AREA)
            soft = max(SOFT * side / COARSE, 0.5)
            reach = max(1, round(REACH * side / COARSE)) + math.ceil(2 * soft)  # the transition begins at REACH
            near = cv2.dilate((small > ANY).astype(np.float32), np.ones((2 * reach + 1, 2 * reach + 1)))
            near = cv2.GaussianBlur(near, (0, 0), soft)
            away = (1 - cv2.resize(near, (side, side), interpolation=cv2.INTER_LINEAR)) * self._known
            out[..., :3] = cv2.blendLinear(np.ascontiguousarray(frame[..., :3]), self._colours, 1 - away, away)
            out[..., 3] = frame[..., 3]
        return laid
