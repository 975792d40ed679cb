"""The face seen from the front, whoever shows it and however the head is turned: a small grid over the canonical mean face."""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit

from gmtalker.face.landmarks import FACE_POINTS
from gmtalker.face.model import FaceModel

GRID = 80  # cells to a side
CANONICAL_LOW, CANONICAL_SPAN = 40, 215  # how a rendering's canonical channels hold 0 to 1 across the mean face


@njit(cache=True)
def _cover(triangles, points, depths, vertices, weights, nearest):
    """For each cell of a grid, the triangle (three vertices and their weights) that is nearest to the camera there."""
    height, width = nearest.shape
    for index in range(len(triangles)):
        a, b, c = triangles[index]
        ax, ay, bx, by, cx, cy = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        for y in range(max(int(np.ceil(min(ay, by, cy))), 0), min(int(np.floor(max(ay, by, cy))), height - 1) + 1):
            for x in range(max(int(np.ceil(min(ax, bx, cx))), 0), min(int(np.floor(max(ax, bx, cx))), width - 1) + 1):
                wa = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                wb = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                wc = 1.0 - wa - wb
                depth = wa * depths[a] + wb * depths[b] + wc * depths[c]
                if min(wa, wb, wc) < -1e-4 or depth >= nearest[y, x]:
                    continue
                nearest[y, x] = depth
                vertices[y, x, 0], vertices[y, x, 1], vertices[y, x, 2] = a, b, c
                weights[y, x, 0], weights[y, x, 1], weights[y, x, 2] = wa, wb, wc


class CanonicalGrid:
    """GRID x GRID cells over the mean face, each a place on one triangle of the mesh.

    covered: (GRID, GRID) bool, the cells that lie on the face; eyes and the inside of the mouth do not.
    """

    def __init__(self, model: FaceModel) -> None:
        shape = model.mean_shape[:FACE_POINTS]
        low, high = model.mean_shape.min(0), model.mean_shape.max(0)
        points = (shape - low) / (high - low) * (GRID - 1)
        vertices, weights = np.zeros((GRID, GRID, 3), np.int64), np.zeros((GRID, GRID, 3))
        nearest = np.full((GRID, GRID), np.inf)
        _cover(model.triangles, points[:, :2].copy(), points[:, 2].copy(), vertices, weights, nearest)
        self.covered = np.isfinite(nearest)
        self._vertices, self._weights = vertices, weights

    def take(self, picture: np.ndarray, points: np.ndarray) -> np.ndarray:
        """What a picture shows at each cell.

        picture: (height, width) float32, or with channels.
        points: (478, 3) of the face in it, in pixels.
        Returns: (GRID, GRID) or with channels; what the border of the picture shows for cells outside of it.
        """
        places = (points[self._vertices, :2] * self._weights[..., None]).sum(2).astype(np.float32)
        return cv2.remap(picture, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    @staticmethod
    def spread(cells: np.ndarray, canonical: np.ndarray) -> np.ndarray:
        """The value of each pixel whose canonical place is known.

        cells: (GRID, GRID) float32.
        canonical: (height, width, 2) uint8, the x and y channels of a rendering.
        Returns: (height, width) float32; what it says outside of the face means nothing.
        """
        places = (canonical.astype(np.float32) - CANONICAL_LOW) * ((GRID - 1) / CANONICAL_SPAN)
        return cv2.remap(cells, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
