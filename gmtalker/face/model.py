"""The 3D face: a linear model on the MediaPipe FaceMesh with closed-form rigid pose (docs/method.md section 6).

Canonical space: x right (of the picture), y down, z away from the camera; the mean face is 1 high (forehead 10 to chin 152) and
its middle is the origin. A face in a picture is `scale * R @ (neutral + expression + eyelids) + offset`, weak perspective.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from gmtalker.face.geometry import EYE_RADIUS, align, eyelids, gaze_angles, rotation_angles, rotation_matrix, steadied
from gmtalker.face.landmarks import EYES, FACE_POINTS, INNER_LIPS, LIPS, POINTS
from gmtalker.face.person import FaceShape
from gmtalker.tracks import POSE, ROTATION, TRANSLATION, ExpressionTrack, FaceTrack, MotionTrack

# Scale (frames,), R (frames, 3, 3) and offset (frames, 3) of weak perspective.
Pose = tuple[np.ndarray, np.ndarray, np.ndarray]

# Deviation of the tracker's jitter, with which a still head seems to tremble: rotation in radians, translation in crop widths.
POSE_JITTER, POSE_WINDOW = (0.007, 0.007, 0.0044, 0.0012, 0.0012, 0.0012), 5


class FaceModel:
    """The face model shared by all people.

    mean_shape: (478, 3).
    expression_basis: (n, 478, 3), one standard deviation each.
    eyelid_basis: (2, 478, 3), how the face moves as an eye closes.
    projection: (n, 468 * 3), the weighted least-squares inverse of the basis.
    triangles: (852, 3).
    rigid: (m,) points that speech does not move.
    """

    TENSORS = ("mean_shape", "expression_basis", "eyelid_basis", "projection", "triangles", "rigid")

    def __init__(self, **tensors: np.ndarray):
        if set(tensors) != set(self.TENSORS):
            raise ValueError(f"a face model holds {', '.join(self.TENSORS)}, not {', '.join(sorted(tensors))}")
        self.mean_shape = tensors["mean_shape"].astype(np.float64)
        self.expression_basis = tensors["expression_basis"].astype(np.float64)
        self.eyelid_basis = tensors["eyelid_basis"].astype(np.float64)
        self.projection = tensors["projection"].astype(np.float64)
        self.triangles = tensors["triangles"].astype(np.int32)
        self.rigid = tensors["rigid"].astype(np.int64)

    @property
    def coefficient_dim(self) -> int:
        """Number of expression coefficients."""
        return len(self.expression_basis)

    @classmethod
    def load(cls, folder: Path) -> FaceModel:
        """Read a saved face model. Errors: OSError when there is none, ValueError when it holds other tensors."""
        return cls(**load_file(str(Path(folder) / "model.safetensors")))

    def save(self, folder: Path) -> None:
        """Write model.safetensors and, for readers, config.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in self.TENSORS}
        small = {name: value.astype(np.float32 if value.dtype == np.float64 else np.int32) for name, value in tensors.items()}
        save_file(small, str(Path(folder) / "model.safetensors"))
        config = {
            "points": POINTS,
            "coefficients": self.coefficient_dim,
            "unit": "face heights",
            "axes": "x right, y down, z away",
        }
        (Path(folder) / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def lip_basis(self) -> Tensor:
        """(n, lips * 3): how each coefficient moves the lips, for the lip term of the expression generator's loss."""
        return torch.tensor(self.expression_basis[:, list(LIPS)].reshape(self.coefficient_dim, -1), dtype=torch.float32)

    def lip_opening(self, coefficients: np.ndarray, neutral_shape: np.ndarray | None = None) -> np.ndarray:
        """Distance between the inner lips in face heights.

        coefficients: (frames, n).
        neutral_shape: (478, 3), the mean shape when None.
        Returns: (frames,).
        """
        shape = self.mean_shape if neutral_shape is None else neutral_shape
        upper, lower = INNER_LIPS
        gap = (shape[lower] - shape[upper]) + np.asarray(coefficients) @ (
            self.expression_basis[:, lower] - self.expression_basis[:, upper]
        )
        return np.linalg.norm(gap, axis=-1)

    def shape(self, face: FaceShape, coefficients: np.ndarray, blink: np.ndarray, gaze: np.ndarray) -> np.ndarray:
        """A person's face in canonical space for one frame.

        coefficients: (n,).
        blink: (2,) 0 open to 1 closed.
        gaze: (2,) yaw and pitch in radians.
        Returns: (478, 3).
        Source: docs/method.md equations (27) and (28).
        """
        shape = face.neutral_shape + np.tensordot(coefficients, self.expression_basis, 1)
        shape = shape + np.tensordot(np.asarray(blink), self.eyelid_basis, 1)  # the neutral shape has open eyes
        for eye in EYES:
            left, right = shape[list(eye.corners)]
            width = np.linalg.norm(left - right)
            offset = EYE_RADIUS * width * np.sin(np.asarray(gaze))
            iris = np.array([eye.iris, *eye.iris_ring])
            middle = (left + right) / 2 + np.array([offset[0], offset[1], 0.0])
            shape[iris] = shape[iris] - shape[eye.iris] + middle
        return shape

    def project(self, shape: np.ndarray, motion: np.ndarray, size: float) -> np.ndarray:
        """Place a face in a picture.

        shape: (..., 3) canonical points.
        motion: (10,) one row of MotionTrack.stacked().
        size: side of the square picture, in pixels.
        Returns: (..., 3) in pixels, x right, y down, z away from the camera.
        Source: docs/method.md equation (27).
        """
        rotation = rotation_matrix(motion[ROTATION])
        x, y, log_scale = motion[TRANSLATION]
        scale = np.exp(log_scale) * size
        offset = np.array([x * scale + size / 2, y * scale + size / 2, 0.0])
        return scale * shape @ rotation.T + offset

    # ------------------------------------------------------------------ from points to tracks

    def pose(self, points: np.ndarray, shape: np.ndarray) -> Pose:
        """Rigid pose of points (frames, 478, 3) against a shape (478, 3), by the points that speech does not move."""
        return align(shape[self.rigid], points[:, self.rigid])

    def unpose(self, points: np.ndarray, pose: Pose) -> np.ndarray:
        """Points (frames, 478, 3) in canonical space: R^T (p - offset) / scale."""
        scale, rotation, offset = pose
        return np.einsum("tji,tnj->tni", rotation, points - offset[:, None]) / scale[:, None, None]

    def motion_rows(self, pose: Pose, blink: np.ndarray, gaze: np.ndarray, size: float) -> np.ndarray:
        """Rows of MotionTrack.stacked().

        pose: in pixels of a square picture of `size`.
        blink, gaze: (frames, 2) each.
        Returns: (frames, 10).
        """
        scale, rotation, offset = pose
        place = (offset[:, :2] - size / 2) / scale[:, None]
        return np.concatenate([rotation_angles(rotation), place, np.log(scale / size)[:, None], blink, gaze], axis=1)

    def track(self, points: np.ndarray, face: FaceShape, size: float, found: np.ndarray, consecutive: bool = True) -> FaceTrack:
        """A person's FaceTrack from FaceMesh points.

        points: (frames, 478, 3) in pixels of a square crop of `size`.
        found: (frames,) bool, where a face was found.
        consecutive: whether the frames follow each other, so that jitter of the pose can be told from movement and is removed.
        """
        pose = self.pose(points, face.neutral_shape)
        canonical = self.unpose(points, pose)
        blink = eyelids(canonical, face.eye_open, face.eye_closed)
        motion = self.motion_rows(pose, blink, gaze_angles(canonical), size)
        if consecutive:
            motion[:, POSE] = steadied(motion[:, POSE], POSE_JITTER, POSE_WINDOW)
        coefficients = self.expression(canonical, face.neutral_shape, blink)
        track = MotionTrack.unstacked(torch.tensor(motion, dtype=torch.float32))
        return FaceTrack(ExpressionTrack(torch.tensor(coefficients, dtype=torch.float32)), track, torch.tensor(found))

    def expression(self, canonical: np.ndarray, neutral_shape: np.ndarray, blink: np.ndarray) -> np.ndarray:
        """Coefficients of what remains of a face without its neutral shape and its eyelids.

        canonical: (frames, 478, 3).
        blink: (frames, 2).
        Returns: (frames, n).
        Source: docs/method.md equation (29).
        """
        rest = canonical - neutral_shape - np.tensordot(blink, self.eyelid_basis, 1)
        return rest[:, :FACE_POINTS].reshape(len(rest), -1) @ self.projection.T
