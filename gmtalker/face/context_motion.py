"""What moves around the face, measured by optical flow in the person's own frames: hair, ears, neck, shoulders, background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from scipy.ndimage import median_filter

from gmtalker.face.geometry import steadied
from gmtalker.face.landmarks import CHIN, FOREHEAD
from gmtalker.face.person import CONTEXT_CELLS, SHOULDER_FEATURES, PersonFace

FLOW_SIZE = 256  # pixels on a side at which pictures are compared
MOST_FITTED = 1500  # frames that the surroundings are learned from, evenly over the footage
RIDGE_ALPHA = 8.0  # of the ridge regression, in frames: so many say that nothing moves
BELOW_CHIN, NECK_WIDTH, NECK_LENGTH = 0.18, 0.66, 0.5  # where shoulders are, in face heights from the chin
FLOW_SLIPS = 5  # frames among which one or two may be wrong
SHOULDER_JITTER, SHOULDER_WINDOW = 0.0016, 9  # deviation in crop widths; frames
TEXTURED = 0.4  # part of the shoulders' pixels whose edges are trusted to show where they moved


class _Flow:
    """Optical flow from a frame to the person's reference picture (DIS, arXiv 1603.03590)."""

    def __init__(self, face: PersonFace):
        self.reference = _grey(face.reference)
        self.method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.shoulders = _shoulder_masks(face)

    def __call__(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a frame (h, w, 3): flow (size, size, 2) and the strength of edges (size, size), in which the flow can be trusted."""
        grey = _grey(frame)
        smooth = cv2.GaussianBlur(grey, (0, 0), 1).astype(np.float32)
        edges = cv2.Sobel(smooth, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(smooth, cv2.CV_32F, 0, 1) ** 2
        return self.method.calc(grey, self.reference, None), edges

    def shoulders_of(self, flow: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """(4,) how far either shoulder is from where the reference has it, in crop widths: FaceTrack.shoulders of one frame."""
        return np.concatenate([self._moved(shoulder, flow, edges) for shoulder in self.shoulders])

    @staticmethod
    def _moved(shoulder: np.ndarray, flow: np.ndarray, edges: np.ndarray) -> np.ndarray:
        if not shoulder.any():
            return np.zeros(2)
        textured = shoulder & (edges >= np.quantile(edges[shoulder], 1 - TEXTURED))
        return -np.median(flow[textured], axis=0) / FLOW_SIZE


def measure_shoulders(face: PersonFace, frames: Sequence[np.ndarray]) -> np.ndarray:
    """(frames, 4) float32: FaceTrack.shoulders of a film's frames, cut by the same crop as the face's reference picture."""
    flow = _Flow(face)
    raw = np.array([flow.shoulders_of(*flow(frame)) for frame in frames], np.float32).reshape(-1, SHOULDER_FEATURES)
    return steady_shoulders(raw)


def learn_context_motion(
    face: PersonFace,
    frames: Sequence[np.ndarray],
    motion: np.ndarray,
    usable: np.ndarray,
    progress: Callable[[int], None] | None = None,
) -> tuple[PersonFace, np.ndarray]:
    """The face with its surroundings learned from the usable frames (bool), and the shoulders (frames, 4) of all frames as
    flow sees them, not steadied.

    Ridge regression of the flow, in the cells of a grid, on PersonFace.context_features of motion (frames, 10): where a cell
    shows no edge, those of its neighbours speak for it.
    """
    choice = np.flatnonzero(usable)
    rows = choice[np.linspace(0, len(choice) - 1, min(len(choice), MOST_FITTED)).astype(int)]
    fitted, flow = set(rows.tolist()), _Flow(face)
    shoulders, cells = np.zeros((len(frames), SHOULDER_FEATURES), np.float32), []
    for index, frame in enumerate(frames):
        if progress:
            progress(index)
        moved, edges = flow(frame)
        shoulders[index] = flow.shoulders_of(moved, edges)
        if index in fitted:
            weight = edges + 1.0
            cells.append(_in_cells(moved * weight[..., None]) / _in_cells(weight)[..., None])
    face = replace(face, shoulder_follow=_ridge(face.pose_features(motion[rows]), shoulders[rows]).astype(np.float32))
    wanted = np.stack(cells).reshape(len(rows), -1) / FLOW_SIZE
    learned = _ridge(face.context_features(motion[rows], shoulders[rows]), wanted)
    return replace(face, surroundings=learned.reshape(-1, CONTEXT_CELLS, CONTEXT_CELLS, 2).astype(np.float32)), shoulders


def steady_shoulders(shoulders: np.ndarray) -> np.ndarray:
    """Shoulders (frames, 4) of a film without what flow got wrong in single frames, and without its jitter."""
    plausible = median_filter(shoulders, (FLOW_SLIPS, 1), mode="nearest")
    return steadied(plausible, [SHOULDER_JITTER] * SHOULDER_FEATURES, SHOULDER_WINDOW)


def _ridge(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Weights (features, d) of wanted (frames, d). The first feature is 1 and is not held back."""
    held = RIDGE_ALPHA * np.eye(features.shape[1])
    held[0, 0] = 1e-3
    return np.linalg.solve(features.T @ features + held, features.T @ wanted)


def _in_cells(picture: np.ndarray) -> np.ndarray:
    cells = cv2.resize(picture, (CONTEXT_CELLS, CONTEXT_CELLS), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(cells, (0, 0), 0.7)


def _grey(picture: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return grey if len(grey) == FLOW_SIZE else cv2.resize(grey, (FLOW_SIZE, FLOW_SIZE), interpolation=cv2.INTER_AREA)


def _shoulder_masks(face: PersonFace) -> list[np.ndarray]:
    """Two (size, size) bool, left and right in the picture: the reference below the chin, without the neck, which moves with the
    head."""
    points = face.reference_points * FLOW_SIZE
    height = np.linalg.norm(points[CHIN, :2] - points[FOREHEAD, :2])
    x, y = points[CHIN, :2]
    down, across = np.mgrid[:FLOW_SIZE, :FLOW_SIZE]
    below = down >= y + BELOW_CHIN * height
    neck = (down < y + NECK_LENGTH * height) & (np.abs(across - x) < NECK_WIDTH / 2 * height)
    return [below & ~neck & (across < x), below & ~neck & (across >= x)]
