"""Context motion: how hair, ears, neck, shoulders and background move with the head, measured by optical flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.ndimage import median_filter

from gmtalker.face.geometry import steadied
from gmtalker.face.landmarks import CHIN, FOREHEAD
from gmtalker.face.person import CONTEXT_CELLS, POSE_FEATURES, SHOULDER_FEATURES, PersonFace
from gmtalker.tracks import POSE

FLOW_SIZE = 256  # pixels on a side at which pictures are compared
FITTED_FRAMES_MAX = 1500  # that context motion is learned from, evenly over the footage
RIDGE_ALPHA = 2.0  # in frames: as if so many had shown that nothing moves
ROUNDS, OUTLIER = 3, 0.003  # of reweighting; crop widths beyond which a flow counts less: now and then it is quite wrong
POSE_DOUBT = 0.1  # usual deviations that are added to all, so that a pose that hardly varied is not far out at once
BELOW_CHIN, NECK_WIDTH, NECK_LENGTH = 0.18, 0.66, 0.5  # where shoulders are, in face heights from the chin
FLOW_MEDIAN = 5  # frames of a median filter: flow may be wrong in one or two of them
SHOULDER_JITTER, SHOULDER_WINDOW = 0.0016, 9  # deviation in crop widths; frames
PERSON_SHARE_MIN = 0.02  # of a cell, under which nobody was ever in it
CAMERA_MOVES = 0.003  # crop widths that what is behind the person moves by when the camera does
TEXTURED = 0.4  # share of the shoulders' pixels, those with the strongest edges, whose flow is trusted


class _Flow:
    """Optical flow from a frame to the person's reference picture (DIS, arXiv 1603.03590)."""

    def __init__(self, face: PersonFace):
        self.reference = grey(face.reference)
        self.method = flow_method()
        self.shoulders = _shoulder_masks(face)

    def __call__(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flow (size, size, 2) of a frame (h, w, 3), and the strength of edges (size, size): how far the flow can be trusted."""
        picture = grey(frame)
        return self.method.calc(picture, self.reference, None), edge_strength(picture)

    def shoulders_of(self, flow: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """FaceTrack.shoulders of one frame, (4,), from what __call__ returns."""
        return np.concatenate([self._moved(shoulder, flow, edges) for shoulder in self.shoulders])

    @staticmethod
    def _moved(shoulder: np.ndarray, flow: np.ndarray, edges: np.ndarray) -> np.ndarray:
        if not shoulder.any():
            return np.zeros(2)
        textured = shoulder & (edges >= np.quantile(edges[shoulder], 1 - TEXTURED))
        return -np.median(flow[textured], axis=0) / FLOW_SIZE


def measure_shoulders(face: PersonFace, frames: Sequence[np.ndarray]) -> np.ndarray:
    """FaceTrack.shoulders, (frames, 4) float32, of consecutive frames in the same crop as the face's reference picture."""
    flow = _Flow(face)
    raw = np.array([flow.shoulders_of(*flow(frame)) for frame in frames], np.float32).reshape(-1, SHOULDER_FEATURES)
    return steady_shoulders(raw)


@dataclass(frozen=True)
class ContextFlow:
    """Where hair, ears, neck, shoulders and background of frames are, seen from the person's reference picture.

    shoulders: (frames, 4) as in FaceTrack, not steadied.
    cells: (m, CONTEXT_CELLS, CONTEXT_CELLS, 2) flow to the reference picture of some frames, in crop widths.
    rows: (m,) which frames those are.
    """

    shoulders: np.ndarray
    cells: np.ndarray
    rows: np.ndarray

    @classmethod
    def measured(
        cls,
        face: PersonFace,
        frames: Sequence[np.ndarray],
        usable: np.ndarray,
        on_frame: Callable[[int], None] | None = None,
    ) -> ContextFlow:
        """The optical flow of frames.

        frames: each (size, size, 3) uint8, in the same crop as the face's reference picture.
        usable: (frames,) bool, those of which the cells may be taken.
        on_frame: is called with the number of each frame before it is read.
        """
        choice = np.flatnonzero(usable)
        rows = choice[np.linspace(0, len(choice) - 1, min(len(choice), FITTED_FRAMES_MAX)).astype(int)]
        fitted, flow = set(rows.tolist()), _Flow(face)
        shoulders, cells = np.zeros((len(frames), SHOULDER_FEATURES), np.float32), []
        for index, frame in enumerate(frames):
            if on_frame:
                on_frame(index)
            moved, edges = flow(frame)
            shoulders[index] = flow.shoulders_of(moved, edges)
            if index in fitted:
                weight = edges + 1.0  # where a cell shows no edge, those of its neighbours count
                cells.append(in_context_cells(moved * weight[..., None]) / in_context_cells(weight)[..., None])
        return cls(shoulders, np.stack(cells) / FLOW_SIZE, rows)

    def fitted(self, face: PersonFace, motion: np.ndarray, shoulders: np.ndarray, person: np.ndarray | None = None) -> PersonFace:
        """The face with its context motion: robust ridge regression of the cells on PersonFace.context_features.

        Shoulders move by their own features alone: what they share with the head's pose is no reason to tremble with it. What
        never holds any of the person stays where it is, where the camera does.

        motion: (frames, 10) MotionTrack.stacked().
        shoulders: (frames, 4).
        person: (size, size) bool, where the person ever is; None where that is not known.
        Source: docs/method.md section 8, equation (30).
        """
        motion, shoulders = motion[self.rows], shoulders[self.rows]
        face = replace(face, pose_whitening=_pose_whitening(face, motion))
        face = replace(face, shoulder_follow=_ridge(face.pose_features(motion), shoulders).astype(np.float32))
        wanted = self.cells.reshape(len(self.cells), -1)
        learned = _regressed(face, face.context_features(motion, shoulders), wanted, person)
        return replace(face, context_motion=learned.astype(np.float32))


def learn_context_motion(
    face: PersonFace,
    frames: Sequence[np.ndarray],
    motion: np.ndarray,
    usable: np.ndarray,
    person: np.ndarray | None = None,
) -> tuple[PersonFace, np.ndarray]:
    """The face with its context motion, from frames and what was tracked in them, and the shoulders (frames, 4), not steadied.

    frames, usable: as in ContextFlow.measured.
    motion, person: as in ContextFlow.fitted.
    """
    flow = ContextFlow.measured(face, frames, usable)
    return flow.fitted(face, motion, flow.shoulders, person), flow.shoulders


def _regressed(face: PersonFace, features: np.ndarray, wanted: np.ndarray, person: np.ndarray | None) -> np.ndarray:
    """PersonFace.context_motion of features (n, d) and the flow in cells (n, cells * 2); person as in ContextFlow.fitted."""
    of_shoulders = features.copy()
    of_shoulders[:, 1:POSE_FEATURES] = 0
    shape = features.shape[1], CONTEXT_CELLS, CONTEXT_CELLS, 2
    torso = _share_of_cells(np.any(_shoulder_masks(face), axis=0))[..., None]
    learned = torso * _robust_ridge(of_shoulders, wanted).reshape(shape)
    learned += (1 - torso) * _robust_ridge(features, wanted).reshape(shape)
    if person is not None:
        still = _share_of_cells(person) < PERSON_SHARE_MIN
        moves = np.linalg.norm(wanted.reshape(len(wanted), CONTEXT_CELLS, CONTEXT_CELLS, 2)[:, still], axis=-1)
        if still.any() and np.median(moves) < CAMERA_MOVES:
            learned[:, still] = 0
    return learned


def steady_shoulders(shoulders: np.ndarray) -> np.ndarray:
    """Shoulders (frames, 4) of consecutive frames without the flow's errors in single frames and without its jitter."""
    plausible = median_filter(shoulders, (FLOW_MEDIAN, 1), mode="nearest")
    return steadied(plausible, [SHOULDER_JITTER] * SHOULDER_FEATURES, SHOULDER_WINDOW)


def _ridge(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(features, d) weights that map features (frames, features) to wanted (frames, d)."""
    return np.linalg.solve(features.T @ features + _penalty(features.shape[1]), features.T @ wanted)


def _robust_ridge(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The same as _ridge, with Huber's loss for each cell and frame: wanted is (frames, cells * 2)."""
    wanted = wanted.reshape(len(wanted), -1, 2)
    weights = _ridge(features, wanted.reshape(len(wanted), -1)).reshape(features.shape[1], -1, 2)
    products = (features[:, :, None] * features[:, None, :]).reshape(len(features), -1)
    for _ in range(ROUNDS):
        beside = np.linalg.norm(wanted - np.tensordot(features, weights, 1), axis=-1)
        trust = 1 / np.maximum(1, beside / OUTLIER)  # (frames, cells)
        normal = (trust.T @ products).reshape(-1, *[features.shape[1]] * 2) + _penalty(features.shape[1])
        weights = np.linalg.solve(normal, np.stack([(trust * wanted[..., axis]).T @ features for axis in (0, 1)], axis=-1))
        weights = weights.transpose(1, 0, 2)
    return weights.reshape(features.shape[1], -1)


def _penalty(count: int) -> np.ndarray:
    """(count, count) of a ridge regression."""
    penalty = RIDGE_ALPHA * np.eye(count)
    penalty[0, 0] = 1e-3  # the intercept is free
    return penalty


def _pose_whitening(face: PersonFace, motion: np.ndarray) -> np.ndarray:
    """PersonFace.pose_whitening of motion (frames, 10): the inverse square root of the covariance of the pose."""
    scale = face.motion_scale[POSE] + 0.01
    pose = (motion[:, POSE] - face.motion_mean[POSE]) / scale
    variances, axes = np.linalg.eigh(pose.T @ pose / len(pose) + POSE_DOUBT**2 * np.eye(pose.shape[1]))
    return ((axes / np.sqrt(variances)) @ axes.T / scale).astype(np.float32)


def in_context_cells(picture: np.ndarray) -> np.ndarray:
    """Means of a picture (h, w, ...) in the cells of the context, (CONTEXT_CELLS, CONTEXT_CELLS, ...)."""
    cells = cv2.resize(picture, (CONTEXT_CELLS, CONTEXT_CELLS), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(cells, (0, 0), 0.7)


def _share_of_cells(mask: np.ndarray) -> np.ndarray:
    """(CONTEXT_CELLS, CONTEXT_CELLS) how much of each cell belongs to a mask."""
    share: np.ndarray = cv2.resize(mask.astype(np.float32), (CONTEXT_CELLS, CONTEXT_CELLS), interpolation=cv2.INTER_AREA)
    return share


def grey(picture: np.ndarray) -> np.ndarray:
    """A picture (size, size, 3) uint8 RGB as flow sees it, (FLOW_SIZE, FLOW_SIZE) uint8."""
    single = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return single if len(single) == FLOW_SIZE else cv2.resize(single, (FLOW_SIZE, FLOW_SIZE), interpolation=cv2.INTER_AREA)


def flow_method() -> cv2.DISOpticalFlow:
    """DIS optical flow; for one thread (arXiv 1603.03590)."""
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def edge_strength(picture: np.ndarray) -> np.ndarray:
    """(h, w) float32 of a grey picture (h, w): how far flow can be trusted."""
    smooth = cv2.GaussianBlur(picture, (0, 0), 1).astype(np.float32)
    strength: np.ndarray = cv2.Sobel(smooth, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(smooth, cv2.CV_32F, 0, 1) ** 2
    return strength


def _shoulder_masks(face: PersonFace) -> list[np.ndarray]:
    """Left and right shoulder in the picture, (size, size) bool: the reference below the chin without the neck, which turns."""
    points = face.reference_points * FLOW_SIZE
    height = np.linalg.norm(points[CHIN, :2] - points[FOREHEAD, :2])
    x, y = points[CHIN, :2]
    down, across = np.mgrid[:FLOW_SIZE, :FLOW_SIZE]
    below = down >= y + BELOW_CHIN * height
    neck = (down < y + NECK_LENGTH * height) & (np.abs(across - x) < NECK_WIDTH / 2 * height)
    return [below & ~neck & (across < x), below & ~neck & (across >= x)]
