"""One person's face: shape, appearance, and how the picture around it moves with the head."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gmtalker.errors import UnusableAvatar
from gmtalker.face.landmarks import POINTS
from gmtalker.tracks import MOTION_DIM, POSE

POSE_FEATURES, SHOULDER_FEATURES = 15, 4  # numbers that tell where the picture around the face has moved to
SHOULDER_STEP = 0.02  # crop widths that count as one step of the shoulders, about as far as they move while somebody talks
CONTEXT_CELLS = 48  # cells to a side of the grid on which that is known
POSE_DIM = POSE.stop - POSE.start
POSE_REACH = 4.0  # usual deviations of the pose from its median, further than which context motion knows nothing
FACE_MAX = 1e3  # of places and movements, whose units are about a face or a radian
PIXELS_MAX = 2**15  # of a place in a picture: further out is no picture's
FORMER_NAMES = {"surroundings": "context_motion"}  # tensors of face.safetensors: former name to present name
LATER_TENSORS = {"pose_whitening"}  # that files of earlier versions lack


def _context_at_rest() -> np.ndarray:
    return np.zeros((POSE_FEATURES + SHOULDER_FEATURES, CONTEXT_CELLS, CONTEXT_CELLS, 2), np.float32)


@dataclass(frozen=True)
class FaceShape:
    """The shape of one person's face: all that tracking needs to know of them.

    neutral_shape: (478, 3) canonical.
    eye_open, eye_closed: (2,) lid distance in eye widths.
    """

    neutral_shape: np.ndarray
    eye_open: np.ndarray
    eye_closed: np.ndarray

    SHAPES = {"neutral_shape": (POINTS, 3), "eye_open": (2,), "eye_closed": (2,)}

    def __post_init__(self) -> None:
        for name, shape in self.SHAPES.items():
            value = getattr(self, name)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{name} must be {shape} finite numbers, not {value.shape}")


@dataclass(frozen=True)
class PersonFace(FaceShape):
    """One person's shape, appearance, way of holding the head, and context motion. Saved as face.safetensors.

    reference: (size, size, 3) uint8 RGB, the crop that texture and background are taken from.
    reference_points: (478, 3) the face in it, in crop widths.
    motion_mean, motion_scale: (10,) median and standard deviation of MotionTrack.stacked().
    crop: (3,) left, top and side of the square crop in pixels of the source.
    source_size: (2,) width and height of the source.
    context_motion: (features, grid, grid, 2) displacement from the reference picture of each place around the face, in crop
        widths, for one unit of each of context_features; zeros, with which nothing moves, where there was no footage to learn
        it from.
    shoulder_follow: (POSE_FEATURES, SHOULDER_FEATURES) how shoulders follow the head; zeros likewise.
    pose_whitening: (6, 6) what makes the pose, less its median, a vector of deviations as usual in the footage; zeros where that
        is not known, and no pose is far out.
    Source: docs/method.md section 8.
    """

    reference: np.ndarray
    reference_points: np.ndarray
    motion_mean: np.ndarray
    motion_scale: np.ndarray
    crop: np.ndarray
    source_size: np.ndarray
    context_motion: np.ndarray = field(default_factory=_context_at_rest)
    shoulder_follow: np.ndarray = field(default_factory=lambda: np.zeros((POSE_FEATURES, SHOULDER_FEATURES), np.float32))
    pose_whitening: np.ndarray = field(default_factory=lambda: np.zeros((POSE_DIM, POSE_DIM), np.float32))

    SHAPES = FaceShape.SHAPES | {
        "reference_points": (POINTS, 3),
        "motion_mean": (MOTION_DIM,),
        "motion_scale": (MOTION_DIM,),
        "crop": (3,),
        "source_size": (2,),
        "context_motion": (POSE_FEATURES + SHOULDER_FEATURES, CONTEXT_CELLS, CONTEXT_CELLS, 2),
        "shoulder_follow": (POSE_FEATURES, SHOULDER_FEATURES),
        "pose_whitening": (POSE_DIM, POSE_DIM),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference.dtype != np.uint8 or self.reference.ndim != 3 or self.reference.shape[2] != 3:
            raise ValueError("reference must be a picture (size, size, 3) of uint8")
        if self.reference.shape[0] != self.reference.shape[1] or not 64 <= len(self.reference) <= 2048:
            raise ValueError("reference must be square, 64 to 2048 pixels")
        if not (np.abs(self.crop) <= PIXELS_MAX).all() or not 1 <= self.crop[2] or not (self.source_size <= PIXELS_MAX).all():
            raise ValueError("crop and source_size must be those of a picture")
        for name in ("neutral_shape", "reference_points", "motion_mean", "motion_scale"):
            if not (np.abs(getattr(self, name)) <= FACE_MAX).all():
                raise ValueError(f"{name} holds a number that no face has")

    def within_reach(self, motion: np.ndarray) -> np.ndarray:
        """Motion (frames, 10) with poses that are further out than the footage brought back to its edge, docs/method.md (30c)."""
        pose = motion[:, POSE] - self.motion_mean[POSE]
        far = np.linalg.norm(pose @ self.pose_whitening.T, axis=1) / POSE_REACH
        near = motion.copy()
        near[:, POSE] = self.motion_mean[POSE] + pose / np.maximum(far, 1)[:, None]
        return np.where(far[:, None] > 1, near, motion)

    def pose_features(self, motion: np.ndarray) -> np.ndarray:
        """(frames, POSE_FEATURES) of motion (frames, 10): 1, the pose around the person's mean, its squares and two products.

        What is around the face lies behind it and moves by other amounts; the squares tell how that changes with the turn.
        """
        pose = (self.within_reach(motion)[:, POSE] - self.motion_mean[POSE]) / (self.motion_scale[POSE] + 0.01)
        bent = np.clip(pose, -3, 3)  # nothing is known of squares further out
        products = bent[:, :1] * bent[:, 3:4], bent[:, 1:2] * bent[:, 4:5]
        return np.concatenate([np.ones((len(pose), 1)), pose, bent**2, *products], axis=1)

    def context_features(self, motion: np.ndarray, shoulders: np.ndarray | None = None) -> np.ndarray:
        """What context_motion is linear in, docs/method.md equation (30).

        motion: (frames, 10).
        shoulders: (frames, 4) as in FaceTrack; without them, they follow the head as they do in the person's own footage.
        Returns: (frames, POSE_FEATURES + SHOULDER_FEATURES).
        """
        pose = self.pose_features(motion)
        shoulders = pose @ self.shoulder_follow if shoulders is None else shoulders
        return np.concatenate([pose, shoulders / SHOULDER_STEP], axis=1)

    def save(self, path: Path) -> None:
        """Write the face as one safetensors file."""
        save_file({field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)}, str(path))

    @classmethod
    def load(cls, path: Path) -> PersonFace:
        """Read a saved face. Errors: UnusableAvatar when the file is missing, broken or of another shape."""
        try:
            stored = [(FORMER_NAMES.get(name, name), tensor) for name, tensor in load_file(str(path)).items()]
            names = [name for name, _ in stored]
            expected = {field.name for field in fields(cls)}
            if len(set(names)) < len(names) or (expected ^ set(names)) - LATER_TENSORS:
                raise ValueError("it was made by another version of this program; please train it again")
            return cls(**dict(stored))
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise UnusableAvatar(f"The face of this avatar ({Path(path).parent.name}) is missing or broken: {error}.") from error
