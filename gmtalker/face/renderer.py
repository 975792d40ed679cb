"""Draws the posed face as the rendering that the head generator reads: CPU only, one thread, no OpenGL, a few milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit

from gmtalker.face.landmarks import EYES, INNER_LIP_RING, LEFT_EYE_RING, POINTS, RIGHT_EYE_RING, Eye
from gmtalker.face.model import FaceModel
from gmtalker.face.person import PersonFace
from gmtalker.face.rigid_head import RigidHead
from gmtalker.tracks import BLINK, GAZE

# Channels of a rendering, uint8.
APPEARANCE = slice(0, 3)  # the reference picture: on the face by its triangles, around it moved with the head
CANONICAL = slice(3, 6)  # x, y and z of the mean face as 40 to 255; 0 where there is no face
CANONICAL_X, CANONICAL_Y, CANONICAL_Z = 3, 4, 5
EYE_MAP = 6  # 255 iris, 128 the rest of the eye
MOUTH_MAP = 7  # 255 inside of the mouth
CHANNELS = 8
CANONICAL_LOW, CANONICAL_SPAN = 40, 215  # what the canonical channels hold at one end of the mean face, and across it

_SKIN, _EYE, _MOUTH = 0, 1, 2  # kinds of triangles
_IRIS, _EYE_WHITE, _INSIDE_MOUTH = 255, 128, 255
_MOUTH_COLOUR = (40, 18, 18)


@njit(cache=True, nogil=True)
def rasterise(triangles, kinds, points, sources, colours, source_map, rendering, depth):
    """Fill every triangle: z-buffered, barycentric.

    points: (n, 3) in pixels; sources: (n, 2) in pixels of the reference; colours: (n, 3); source_map: (h, w, 2) and
    rendering: (h, w, CHANNELS), both written to; depth: (h, w), infinite at first.
    """
    height, width = depth.shape
    for index in range(len(triangles)):
        a, b, c = triangles[index]
        ax, ay, bx, by, cx, cy = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-6:
            continue
        left = max(int(np.ceil(min(ax, bx, cx))), 0)
        right = min(int(np.floor(max(ax, bx, cx))), width - 1)
        top = max(int(np.ceil(min(ay, by, cy))), 0)
        bottom = min(int(np.floor(max(ay, by, cy))), height - 1)
        kind = kinds[index]
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                wa = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                wb = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                wc = 1.0 - wa - wb
                if wa < -1e-4 or wb < -1e-4 or wc < -1e-4:
                    continue
                z = wa * points[a, 2] + wb * points[b, 2] + wc * points[c, 2]
                if z >= depth[y, x]:
                    continue
                depth[y, x] = z
                source_map[y, x, 0] = wa * sources[a, 0] + wb * sources[b, 0] + wc * sources[c, 0]
                source_map[y, x, 1] = wa * sources[a, 1] + wb * sources[b, 1] + wc * sources[c, 1]
                for axis in range(3):
                    rendering[y, x, CANONICAL_X + axis] = wa * colours[a, axis] + wb * colours[b, axis] + wc * colours[c, axis]
                rendering[y, x, EYE_MAP] = _EYE_WHITE if kind == _EYE else 0
                rendering[y, x, MOUTH_MAP] = _INSIDE_MOUTH if kind == _MOUTH else 0


@njit(cache=True, nogil=True)
def _irises(rendering, discs):
    """Paint the iris where an eye is open: discs (eyes, 3) middle x, y and radius in pixels."""
    height, width = rendering.shape[:2]
    for x0, y0, radius in discs:
        for y in range(max(int(y0 - radius), 0), min(int(y0 + radius) + 2, height)):
            for x in range(max(int(x0 - radius), 0), min(int(x0 + radius) + 2, width)):
                if rendering[y, x, EYE_MAP] == _EYE_WHITE and (x - x0) ** 2 + (y - y0) ** 2 <= radius**2:
                    rendering[y, x, EYE_MAP] = _IRIS


def canonical_colours(model: FaceModel, points: np.ndarray) -> np.ndarray:
    """Canonical points (..., 3) as the values that the CANONICAL channels hold: 40 to 255 across the mean face."""
    low, high = model.mean_shape.min(0), model.mean_shape.max(0)
    return (points - low) / (high - low) * CANONICAL_SPAN + CANONICAL_LOW


@dataclass(frozen=True)
class CanonicalBox:
    """A part of the face, as a box in canonical space: found in any rendering, whatever the pose.

    low, high: (2,) x and y as the CANONICAL channels hold them.
    """

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def around(cls, model: FaceModel, points: Iterable[int], above: Sequence[float], below: Sequence[float]) -> CanonicalBox:
        """The box of some points of the mean face, with margins: (2,) x and y before the lowest, and after the highest."""
        place = canonical_colours(model, model.mean_shape)[list(points), :2]
        return cls(place.min(0) - above, place.max(0) + below)

    def holds(self, rendering):
        """(..., H, W) bool, which pixels of a rendering (..., H, W, channels) show the part: of an array or a tensor."""
        across, down = rendering[..., CANONICAL_X], rendering[..., CANONICAL_Y]
        return (across >= self.low[0]) & (across <= self.high[0]) & (down >= self.low[1]) & (down <= self.high[1])


class Renderer:
    """Draws one person's face at `size` pixels. `render` changes no state, so several threads may share one renderer.

    Source: docs/method.md section 7.
    """

    def __init__(self, face_model: FaceModel, face: PersonFace, size: int = 256):
        self.model, self.face, self.size = face_model, face, size
        reference = face.reference
        if len(reference) != size:
            reference = cv2.resize(
                reference, (size, size), interpolation=cv2.INTER_AREA if len(reference) > size else cv2.INTER_CUBIC
            )
        self.reference = np.ascontiguousarray(reference)
        # A lid or lip ring has no triangles inside: fans around a middle point close it.
        fans, kinds, self.rings = [], [], (LEFT_EYE_RING, RIGHT_EYE_RING, INNER_LIP_RING)
        for number, ring in enumerate(self.rings):
            middle = POINTS + number
            fans += [(ring[i], ring[(i + 1) % len(ring)], middle) for i in range(len(ring))]
            kinds += [_MOUTH if ring is INNER_LIP_RING else _EYE] * len(ring)
        self.triangles = np.concatenate([face_model.triangles, np.array(fans, np.int32)])
        self.kinds = np.array([_SKIN] * len(face_model.triangles) + kinds, np.uint8)
        self.sources = self._closed(face.reference_points.astype(np.float64) * size)[:, :2].copy() - 0.5
        self.colours = canonical_colours(face_model, self._closed(face_model.mean_shape))
        self.head = RigidHead(face_model, face)
        self.still = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).astype(np.float32)

    def _closed(self, points: np.ndarray) -> np.ndarray:
        """Points (478, 3) with the middle of each ring appended: (481, 3)."""
        return np.concatenate([points, [points[list(ring)].mean(0) for ring in self.rings]])

    def points(self, coefficients: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """(478, 3) the face's points in pixels of the picture; coefficients (n,), motion (10,)."""
        return self.model.project(self.model.shape(self.face, coefficients, motion[BLINK], motion[GAZE]), motion, self.size)

    def render(self, coefficients: np.ndarray, motion: np.ndarray, shoulders: np.ndarray | None = None) -> np.ndarray:
        """The rendering of one frame.

        coefficients: (n,).
        motion: (10,) one row of MotionTrack.stacked().
        shoulders: (4,) as in FaceTrack; without them, they follow the head.
        Returns: (size, size, CHANNELS) uint8.
        """
        source_map, rendering, points = self.source_map(coefficients, motion, shoulders)
        discs = np.array([[*points[eye.iris, :2], self._iris_radius(points, eye)] for eye in EYES])
        _irises(rendering, discs)
        appearance = cv2.remap(self.reference, source_map, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        appearance[rendering[..., MOUTH_MAP] > 0] = _MOUTH_COLOUR  # the reference keeps its lips closed: nothing to show inside
        rendering[..., APPEARANCE] = appearance
        return rendering

    def source_map(
        self, coefficients: np.ndarray, motion: np.ndarray, shoulders: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where in the reference picture each pixel of a rendering comes from.

        coefficients, motion, shoulders: as in render.
        Returns: (size, size, 2) float32 x and y; the maps of the face (size, size, CHANNELS) uint8 without appearance and irises;
            and its points (481, 3), in pixels from the middle of the first one.
        """
        motion = np.asarray(motion, np.float64)
        points = self._closed(self.points(np.asarray(coefficients, np.float64), motion)) - 0.5
        places = self.around_the_face(motion, shoulders)
        return places, self._rasterised(points, self.sources, places), points

    def flow(self, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel of a face comes from in a picture of the same face, before it moved.

        before, after: (478, 3) points in pixels, of `points`.
        Returns: (size, size, 2) float32 x and y, which outside of the face is the pixel itself; and the maps of the face that
            moved, (size, size, CHANNELS) uint8 without appearance and irises.
        """
        sources = (self._closed(before)[:, :2] - 0.5).copy()
        places = self.still.copy()
        return places, self._rasterised(self._closed(after) - 0.5, sources, places)

    def _rasterised(self, points: np.ndarray, sources: np.ndarray, source_map: np.ndarray) -> np.ndarray:
        """The maps of the face with points (481, 3): a rendering without appearance and irises.

        sources: (481, 2) the same points in another picture; where each pixel lies there is written into source_map.
        """
        rendering = np.zeros((self.size, self.size, CHANNELS), np.uint8)
        depth = np.full((self.size, self.size), np.inf, np.float32)
        rasterise(self.triangles, self.kinds, points, sources, self.colours, source_map, rendering, depth)
        return rendering

    @staticmethod
    def _iris_radius(points: np.ndarray, eye: Eye) -> float:
        return float(np.linalg.norm(points[list(eye.iris_ring), :2] - points[eye.iris, :2], axis=-1).mean())

    def around_the_face(self, motion: np.ndarray, shoulders: np.ndarray | None) -> np.ndarray:
        """(size, size, 2) where in the reference each pixel around the face comes from: hair, shoulders, background."""
        near = self.face.within_reach(motion[None])[0]
        features = self.face.context_features(near[None], None if shoulders is None else np.asarray(shoulders)[None])
        moved = np.tensordot(features[0].astype(np.float32), self.face.context_motion, 1) * self.size
        sources = self.still + cv2.resize(moved, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return sources if np.array_equal(near, motion) else self.head.carried(sources, motion, near)
