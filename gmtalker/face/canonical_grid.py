"""The face seen from the front, whoever shows it and however the head is turned: a small grid over the canonical mean face."""

from __future__ import annotations

import cv2
import numpy as np

from gmtalker.face.landmarks import FACE_POINTS
from gmtalker.face.model import FaceModel
from gmtalker.face.renderer import CANONICAL_LOW, CANONICAL_SPAN, CHANNELS, rasterise

GRID = 80  # cells to a side


class CanonicalGrid:
    """GRID x GRID cells over the mean face, each a place on one triangle of the mesh.

    covered: (GRID, GRID) bool, the cells that lie on the face; eyes and the inside of the mouth do not.
    """

    def __init__(self, model: FaceModel) -> None:
        low, high = model.mean_shape.min(0), model.mean_shape.max(0)
        self._triangles, self._kinds = model.triangles, np.zeros(len(model.triangles), np.uint8)
        self._points = (model.mean_shape[:FACE_POINTS] - low) / (high - low) * (GRID - 1)
        self.covered = np.isfinite(self._places(self._points)).all(2)

    def take(self, picture: np.ndarray, points: np.ndarray) -> np.ndarray:
        """What a picture shows at each cell.

        picture: (height, width) float32, or with channels.
        points: (478, 3) of the face in it, in pixels.
        Returns: (GRID, GRID) or with channels; what the border of the picture shows for cells outside of it; those that are not
            covered mean nothing.
        """
        places = np.nan_to_num(self._places(points))
        return cv2.remap(picture, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _places(self, points: np.ndarray) -> np.ndarray:
        """(GRID, GRID, 2) float32 where each cell lies in the picture of the face with those points; NaN where none does."""
        places = np.full((GRID, GRID, 2), np.nan, np.float32)
        unused = np.zeros((GRID, GRID, CHANNELS), np.uint8)
        sources = np.ascontiguousarray(points[:FACE_POINTS, :2], np.float64)
        depth = np.full((GRID, GRID), np.inf, np.float32)
        rasterise(self._triangles, self._kinds, self._points, sources, np.zeros_like(self._points), places, unused, depth)
        return places

    @staticmethod
    def spread(cells: np.ndarray, canonical: np.ndarray) -> np.ndarray:
        """The value of each pixel whose canonical place is known.

        cells: (GRID, GRID) float32.
        canonical: (height, width, 2) uint8, the x and y channels of a rendering.
        Returns: (height, width) float32; what it says outside of the face means nothing.
        """
        places = (canonical.astype(np.float32) - CANONICAL_LOW) * ((GRID - 1) / CANONICAL_SPAN)
        return cv2.remap(cells, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
