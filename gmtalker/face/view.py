"""How the face of a video is looked at: which way up, and through which part of the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import numpy as np

from gmtalker.face.landmarks import CHIN, FOREHEAD
from gmtalker.media.video import read_frames

LOOKED_AT = 3  # frames, one a second
SURELY = 0.03  # by which another way up must look better: of 70 clips none looked so well, two that lay on their heads by 0.3
TILES = (0.5, 0.28)  # sides of tiles in short sides of the picture, in which a small face is looked for
TILES_FRAMES = 2  # frames that are searched in tiles
WINDOW_FACES = 4.0  # side, in face heights, of the part of the picture around a small face

Finder = Callable[[np.ndarray], list]  # a frame (h, w, 3) uint8 to the faces in it, each with .landmark, as face_mesh gives


@dataclass(frozen=True)
class FaceView:
    """How a video's face is looked at.

    turns: quarter turns to the left that make the face upright, beyond what the file tells of itself.
    window: (3,) left, top and side in pixels of the turned picture, outside of which no face is looked for; None is everywhere.
    """

    turns: int = 0
    window: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, path: Path, find: Finder, score: Callable[[np.ndarray], float]) -> FaceView:
        """Of a video: by a few frames of its first seconds.

        score: how surely a frame shows an upright face (upright_scores).
        Errors: UnusableVideo when it can't be read.
        """
        frames = list(islice(read_frames(path, fps=1), LOOKED_AT))
        scores = np.mean([[score(_turned(frame, turns)) for turns in range(4)] for frame in frames], axis=0)
        turns = int(scores.argmax()) if scores.max() > scores[0] + SURELY else 0
        upright = [_turned(frame, turns) for frame in frames]
        if any(_height(find(frame), frame.shape) > 0 for frame in upright):
            return cls(turns)
        for frame in upright[:TILES_FRAMES]:
            window = _window(frame, find)
            if window is not None:
                return cls(turns, window)
        return cls(turns)

    def frames(self, path: Path) -> Iterator[np.ndarray]:
        """The frames of the video, upright: (height, width, 3) uint8, 25 a second."""
        return read_frames(path, turns=self.turns)

    def part(self, frame: np.ndarray) -> np.ndarray:
        """What of an upright frame is searched."""
        if self.window is None:
            return frame
        left, top, side = self.window
        return np.ascontiguousarray(frame[top : top + side, left : left + side])

    def points(self, face, frame: np.ndarray) -> np.ndarray:
        """(478, 3) in pixels of an upright frame, of a face that was found in part(frame)."""
        height, width = self.part(frame).shape[:2]
        left, top = (0, 0) if self.window is None else self.window[:2]
        return np.array([(point.x * width + left, point.y * height + top, point.z * width) for point in face.landmark])


EVERYWHERE = FaceView()


def _turned(frame: np.ndarray, turns: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(frame, turns))


def _height(faces: list, shape: tuple[int, ...]) -> float:
    """From the forehead to the chin in pixels, of the first face; not positive where there is none."""
    if not faces:
        return 0.0
    forehead, chin = (faces[0].landmark[place] for place in (FOREHEAD, CHIN))
    return float((chin.y - forehead.y) * shape[0])


def _window(frame: np.ndarray, find: Finder) -> tuple[int, int, int] | None:
    """The part around the largest face that is found in tiles."""
    height, width = frame.shape[:2]
    for share in TILES:
        side = int(share * min(height, width))
        rows, columns = (range(0, max(length - side, 0) + 1, max(side // 2, 1)) for length in (height, width))
        found = []
        for top, left in product(rows, columns):
            tile = np.ascontiguousarray(frame[top : top + side, left : left + side])
            faces = find(tile)
            face_height = _height(faces, tile.shape)
            if face_height > 0:
                middle = np.mean([(point.x * side + left, point.y * side + top) for point in faces[0].landmark], axis=0)
                found.append((face_height, middle))
        if found:
            face_height, (x, y) = max(found, key=lambda pair: pair[0])
            side = int(min(WINDOW_FACES * face_height, height, width))
            return int(np.clip(x - side / 2, 0, width - side)), int(np.clip(y - side / 2, 0, height - side)), side
    return None
