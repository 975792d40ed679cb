"""Head pose and shoulders of filmed frames, corrected until the rendering lies on the picture (docs/method.md section 8)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import torch

from gmtalker.device import usable_cores
from gmtalker.face.context_motion import FLOW_SIZE, ContextFlow, edge_strength, flow_method, grey, in_context_cells
from gmtalker.face.landmarks import EYE_REGION, LIPS
from gmtalker.face.model import FaceModel
from gmtalker.face.person import SHOULDER_FEATURES, PersonFace
from gmtalker.face.renderer import APPEARANCE, CANONICAL_X, CanonicalBox, Renderer
from gmtalker.tracks import POSE, FaceTrack, MotionTrack

GRID = 64  # cells to a side in which pictures are compared
# What a tracker is wrong by, and shoulders that were found by the median of a flow: rotation in radians, the rest in crop widths.
DOUBT = np.array([0.01, 0.01, 0.006, 0.003, 0.003, 0.003, *[0.01] * SHOULDER_FEATURES])
DOUBT_WEIGHT, CORRECTION_MAX = 0.02, 3.0  # of a correction by one DOUBT; DOUBTs that are corrected at most
STEP = 0.4 * DOUBT  # of the numerical derivatives
ROUNDS, OUTLIER = 4, 0.12  # of reweighting; cells beyond which a difference counts less
FACE_WEIGHT = 4.0  # of the face beside hair and shoulders, which do not all hang on its pose
EDGE_MAX = 2.0  # mean strengths of edges, from which on they say no more about where something is
LEAST_GAIN = 1.0  # grey levels by which a flow brings a cell of the rendering nearer to the frame, to be believed wholly
ON_FACE = 1e-3  # weight of the face in a cell of what is around it
FOLDED = 3.0  # grid widths by which a cell moves with a whole radian or crop width: more is the edge of the face


class _Alignment:
    """Compares frames with renderings. `corrected` may be called by several threads."""

    def __init__(self, model: FaceModel, face: PersonFace):
        self.renderer, self.coarse = Renderer(model, face, FLOW_SIZE), Renderer(model, face, GRID)
        # Lips and lids are where they are for other reasons than the pose.
        self.moving = [CanonicalBox.around(model, part, (4, 4), (4, 4)) for part in (LIPS, EYE_REGION)]
        self._local = threading.local()

    def corrected(self, frame: np.ndarray, coefficients: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Motion and shoulders of one frame, (14,), from what they were taken for.

        A least-squares step on the optical flow between frame and rendering, by the strength of edges, outliers weighed down.

        frame: (size, size, 3) uint8.
        coefficients: (n,).
        place: (14,) motion and shoulders.
        """
        motion, shoulders = np.split(place, [len(place) - SHOULDER_FEATURES])
        drawn = np.ascontiguousarray(self.renderer.render(coefficients, motion, shoulders)[..., APPEARANCE])
        apart, weight = self._apart(grey(frame), grey(drawn))
        moves, usable, on_face = self._derivatives(coefficients, place)
        if not weight[usable].any():  # a picture without an edge, or no face in it
            return place
        weight = np.minimum(weight / weight[usable].mean(), EDGE_MAX) * np.where(on_face, FACE_WEIGHT, 1.0)
        moves, apart = moves[usable].reshape(-1, len(DOUBT)), apart[usable].ravel()
        weight = np.repeat(weight[usable], 2)
        trusted, correction = weight, np.zeros(len(DOUBT))
        for _ in range(ROUNDS):
            normal = moves.T @ (moves * trusted[:, None]) + np.diag(DOUBT_WEIGHT / DOUBT**2)
            correction = np.linalg.solve(normal, moves.T @ (trusted * apart))
            trusted = weight / np.maximum(1, np.abs(apart - moves @ correction) / OUTLIER)
        result = place.copy()
        result[_corrected_columns(len(place))] += np.clip(correction, -CORRECTION_MAX * DOUBT, CORRECTION_MAX * DOUBT)
        return result

    def _apart(self, frame: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far the rendering is from the frame, (GRID, GRID, 2) in cells, and how well that is known, (GRID, GRID)."""
        edges = edge_strength(frame)
        flow = self._flow(frame, drawn) * edges[..., None]
        strength = _in_cells(edges)
        return _in_cells(flow) / (strength[..., None] + 1e-3) * (GRID / FLOW_SIZE), np.sqrt(strength)

    def _flow(self, frame: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """(FLOW_SIZE, FLOW_SIZE, 2) pixels from a grey frame to a grey rendering."""
        if not hasattr(self._local, "flow"):
            self._local.flow = flow_method()  # it has buffers of its own
        flow: np.ndarray = self._local.flow.calc(frame, drawn, None)
        return flow

    def context(self, frame: np.ndarray, coefficients: np.ndarray, place: np.ndarray) -> np.ndarray:
        """How far what is around the face lies from here in the reference picture: (CONTEXT_CELLS, CONTEXT_CELLS, 2) crop widths.

        A flow is believed as far as it brings the rendering nearer to the frame: at an outline it may be that of the other side.

        frame, coefficients, place: as in `corrected`.
        """
        motion, shoulders = np.split(place, [len(place) - SHOULDER_FEATURES])
        rendering, picture, still = self.renderer.render(coefficients, motion, shoulders), grey(frame), self.renderer.still
        drawn, around = grey(np.ascontiguousarray(rendering[..., APPEARANCE])), rendering[..., CANONICAL_X] == 0
        flow = self._flow(picture, drawn)
        moved = cv2.remap(drawn, still + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        before, after = (np.abs(picture.astype(np.float32) - other) for other in (drawn, moved))
        trust = np.clip(in_context_cells((before - after) * around) / LEAST_GAIN, 0, 1)
        weight = (edge_strength(picture) + 1) * np.where(around, 1, ON_FACE)
        beside = in_context_cells(flow * weight[..., None]) / in_context_cells(weight)[..., None] * trust[..., None]
        known = cv2.resize(self.renderer.around_the_face(motion, shoulders) - still, trust.shape, interpolation=cv2.INTER_AREA)
        return (known + beside) / FLOW_SIZE

    def _derivatives(self, coefficients: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How the source of each cell moves with what is corrected.

        Returns: (GRID, GRID, 2, 10), which cells count (GRID, GRID) bool, and which are on the face.
        """

        def source(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            motion, shoulders = np.split(values, [len(values) - SHOULDER_FEATURES])
            return self.coarse.source_map(coefficients, motion, shoulders)[:2]

        here, maps = source(place)
        moves = np.empty((*here.shape, len(DOUBT)))
        for number, column in enumerate(_corrected_columns(len(place))):
            there = place.copy()
            there[column] += STEP[number]
            moves[..., number] = (source(there)[0] - here) / STEP[number]
        folded = (np.abs(moves) > FOLDED * GRID).any((2, 3))
        moving = np.any([part.holds(maps) for part in self.moving], axis=0)
        return moves, ~(folded | moving), maps[..., CANONICAL_X] > 0


def aligned(
    model: FaceModel,
    face: PersonFace,
    frames: Sequence[np.ndarray],
    track: FaceTrack,
    on_frame: Callable[[int], None] | None = None,
) -> FaceTrack:
    """A track whose head pose and shoulders are corrected by the pictures, to a fraction of a pixel.

    A tracker of points is wrong by nearly a pixel: hair and collars that are drawn so far away from themselves become a blur.

    frames: each (size, size, 3) uint8 RGB, in the crop of the face's reference picture.
    track: of those frames, with shoulders.
    on_frame: is called with the number of each frame.
    Source: docs/method.md section 8, equation (30b).
    """
    assert track.shoulders is not None
    alignment = _Alignment(model, face)
    coefficients = track.expression.coefficients.double().numpy()
    places = np.concatenate([track.motion.stacked().double().numpy(), track.shoulders.double().numpy()], axis=1)
    found, corrected = track.found.numpy(), places.copy()
    with ThreadPoolExecutor(usable_cores()) as threads:
        results = threads.map(alignment.corrected, frames, coefficients, places)
        for number, row in enumerate(results):
            if on_frame:
                on_frame(number)
            if found[number] and np.isfinite(row).all():
                corrected[number] = row
    rows = torch.from_numpy(corrected).float()
    motion, shoulders = rows[:, :-SHOULDER_FEATURES], rows[:, -SHOULDER_FEATURES:]
    return replace(track, motion=MotionTrack.unstacked(motion), shoulders=shoulders)


def context_flow_of_renderings(
    model: FaceModel, face: PersonFace, frames: Sequence[np.ndarray], track: FaceTrack, flow: ContextFlow
) -> ContextFlow:
    """The context's flow measured once more: through renderings, which are nearer to their frames than the reference picture is.

    face: with the context motion that was fitted to `flow`.
    frames, track: as in aligned.
    flow: of these frames.
    Source: docs/method.md section 8.
    """
    assert track.shoulders is not None
    alignment = _Alignment(model, face)
    coefficients = track.expression.coefficients.double().numpy()[flow.rows]
    places = np.concatenate([track.motion.stacked().double().numpy(), track.shoulders.double().numpy()], axis=1)[flow.rows]
    with ThreadPoolExecutor(usable_cores()) as threads:
        cells = list(threads.map(alignment.context, [frames[row] for row in flow.rows], coefficients, places))
    return replace(flow, cells=np.stack(cells).astype(np.float32))


def _corrected_columns(count: int) -> np.ndarray:
    """Which of motion and shoulders are corrected: the pose and the shoulders."""
    return np.r_[np.arange(POSE.stop), np.arange(count - SHOULDER_FEATURES, count)]


def _in_cells(picture: np.ndarray) -> np.ndarray:
    cells: np.ndarray = cv2.resize(picture, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return cells
