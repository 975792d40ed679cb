"""One person's face: shape, appearance, and how the picture around it moves with the head."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gmtalker.errors import UnusableAvatar
from gmtalker.face.landmarks import POINTS

POSE_FEATURES, SHOULDER_FEATURES = 15, 4  # numbers that tell where the picture around the face has moved to
SHOULDER_STEP = 0.02  # crop widths that count as one step of the shoulders, about as far as they move while somebody talks
CONTEXT_CELLS = 48  # cells to a side of the grid on which that is known


@dataclass(frozen=True)
class PersonFace:
    """What is one person's own: shape, looks, how they hold their head. Saved as face.safetensors.

    neutral_shape: (478, 3) canonical; reference: (size, size, 3) uint8 RGB, the crop that texture and background are taken from;
    reference_points: (478, 3) the face in it, in crop widths; eye_open, eye_closed: (2,) lid distance in eye widths;
    motion_mean, motion_scale: (10,) mean and standard deviation of MotionTrack.stacked();
    crop: (3,) left, top and side of the square crop in pixels of the source; source_size: (2,) its width and height.
    surroundings: (features, grid, grid, 2) how far, for each of context_features, a place of the picture around the face lies
    from where it is in the reference, in crop widths; shoulder_follow: (POSE_FEATURES, SHOULDER_FEATURES) how shoulders follow
    the head. Without footage to learn the last two from, nothing around the face moves.
    """

    neutral_shape: np.ndarray
    reference: np.ndarray
    reference_points: np.ndarray
    eye_open: np.ndarray
    eye_closed: np.ndarray
    motion_mean: np.ndarray
    motion_scale: np.ndarray
    crop: np.ndarray
    source_size: np.ndarray
    surroundings: np.ndarray = field(
        default_factory=lambda: np.zeros((POSE_FEATURES + SHOULDER_FEATURES, CONTEXT_CELLS, CONTEXT_CELLS, 2), np.float32)
    )
    shoulder_follow: np.ndarray = field(default_factory=lambda: np.zeros((POSE_FEATURES, SHOULDER_FEATURES), np.float32))

    SHAPES = {
        "neutral_shape": (POINTS, 3),
        "reference_points": (POINTS, 3),
        "eye_open": (2,),
        "eye_closed": (2,),
        "motion_mean": (10,),
        "motion_scale": (10,),
        "crop": (3,),
        "source_size": (2,),
        "surroundings": (POSE_FEATURES + SHOULDER_FEATURES, CONTEXT_CELLS, CONTEXT_CELLS, 2),
        "shoulder_follow": (POSE_FEATURES, SHOULDER_FEATURES),
    }

    def __post_init__(self) -> None:
        for name, shape in self.SHAPES.items():
            value = getattr(self, name)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{name} must be {shape} finite numbers, not {value.shape}")
        if self.reference.dtype != np.uint8 or self.reference.ndim != 3 or self.reference.shape[2] != 3:
            raise ValueError("reference must be a picture (size, size, 3) of uint8")
        if self.reference.shape[0] != self.reference.shape[1] or not 64 <= len(self.reference) <= 2048:
            raise ValueError("reference must be square, 64 to 2048 pixels")

    def pose_features(self, motion: np.ndarray) -> np.ndarray:
        """(frames, 10) motion to (frames, POSE_FEATURES): 1, the pose around the person's own, and its squares and two products.

        The surroundings lie behind the face, so they move by other amounts; the squares tell how that changes with the turn.
        """
        pose = (motion[:, :6] - self.motion_mean[:6]) / (self.motion_scale[:6] + 0.01)
        bent = np.clip(pose, -3, 3)  # nothing is known of squares further out
        products = bent[:, :1] * bent[:, 3:4], bent[:, 1:2] * bent[:, 4:5]
        return np.concatenate([np.ones((len(pose), 1)), pose, bent**2, *products], axis=1)

    def context_features(self, motion: np.ndarray, shoulders: np.ndarray | None = None) -> np.ndarray:
        """(frames, POSE_FEATURES + SHOULDER_FEATURES) of motion (frames, 10) and shoulders (frames, 4), as a FaceTrack has.

        Without shoulders, they follow the head as they do on the person's own footage.
        """
        pose = self.pose_features(motion)
        shoulders = pose @ self.shoulder_follow if shoulders is None else shoulders
        return np.concatenate([pose, shoulders / SHOULDER_STEP], axis=1)

    def save(self, path: Path) -> None:
        save_file({field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)}, str(path))

    @classmethod
    def load(cls, path: Path) -> "PersonFace":
        """Errors: UnusableAvatar when the file is missing, broken or of another shape."""
        try:
            tensors = load_file(str(path))
            if set(tensors) != {field.name for field in fields(cls)}:
                raise ValueError("it was made by another version of this program; please train it again")
            return cls(**tensors)
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise UnusableAvatar(f"The face of this avatar ({Path(path).parent.name}) is missing or broken: {error}.") from error
