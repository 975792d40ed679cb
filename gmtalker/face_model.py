"""The 3D face: a linear model on the MediaPipe FaceMesh, closed-form rigid pose, and what one person adds to it.

Canonical space: x right (of the picture), y down, z away from the camera; the mean face is 1 high (forehead 10 to chin 152) and
its middle is the origin. A face in a picture is `scale * R @ (neutral + expression + eyelids) + offset`, weak perspective.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from gmtalker.errors import UnusableAvatar
from gmtalker.tracks import ExpressionTrack, FaceTrack, MotionTrack

POINTS = 478
FOREHEAD, CHIN = 10, 152
INNER_LIPS = (13, 14)  # middle of the upper and lower inner lip
MOUTH_CORNERS = (78, 308)
# Per eye (left of the picture first): outer corner, inner corner, upper lid, lower lid, iris centre, iris ring.
EYES = (
    {"corners": (33, 133), "upper": (158, 159, 160), "lower": (153, 145, 144), "iris": 468, "ring": (469, 470, 471, 472)},
    {"corners": (362, 263), "upper": (385, 386, 387), "lower": (380, 374, 373), "iris": 473, "ring": (474, 475, 476, 477)},
)
LEFT_EYE_RING = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
RIGHT_EYE_RING = (362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398)
INNER_LIP_RING = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
LIPS = tuple(
    sorted(
        {
            0,
            13,
            14,
            17,
            37,
            39,
            40,
            61,
            78,
            80,
            81,
            82,
            84,
            87,
            88,
            91,
            95,
            146,
            178,
            181,
            185,
            191,
            267,
            269,
            270,
            291,
            308,
            310,
            311,
            312,
            314,
            317,
            318,
            321,
            324,
            375,
            402,
            405,
            409,
            415,
        }
    )
)
EYE_REGION = tuple(
    sorted(
        {
            *LEFT_EYE_RING,
            *RIGHT_EYE_RING,
            247,
            30,
            29,
            27,
            28,
            56,
            190,
            243,
            112,
            26,
            22,
            23,
            24,
            110,
            25,
            130,
            467,
            260,
            259,
            257,
            258,
            286,
            414,
            463,
            341,
            256,
            252,
            253,
            254,
            339,
            255,
            359,
        }
    )
)
POSE_FEATURES, SHOULDER_FEATURES = 15, 4  # numbers that tell where the picture around the face has moved to
SHOULDER_STEP = 0.02  # crop widths that count as one step of the shoulders, about as far as they move while somebody talks
SURROUNDINGS = 48  # cells to a side of the grid on which that is known
# Deviation of the tracker's jitter, with which a still head seems to tremble: rotation in radians, translation in crop widths.
POSE_JITTER, POSE_WINDOW = (0.007, 0.007, 0.0044, 0.0012, 0.0012, 0.0012), 5
EYE_RADIUS = 0.55  # eyeball radius in eye widths (about 12.5 mm to 24 mm of lid opening): turns iris offsets into angles


def rotation_matrix(rotation: np.ndarray) -> np.ndarray:
    """(frames, 3) yaw, pitch, roll in radians to (frames, 3, 3): R = Rz(roll) Rx(pitch) Ry(yaw)."""
    yaw, pitch, roll = np.moveaxis(np.asarray(rotation, np.float64), -1, 0)
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    rows = [
        [cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy],
        [sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy],
        [-cp * sy, sp, cp * cy],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_angles(matrix: np.ndarray) -> np.ndarray:
    """(frames, 3, 3) to (frames, 3) yaw, pitch, roll: the inverse of rotation_matrix for pitch within a quarter turn."""
    yaw = np.arctan2(-matrix[..., 2, 0], matrix[..., 2, 2])
    pitch = np.arcsin(np.clip(matrix[..., 2, 1], -1, 1))
    roll = np.arctan2(-matrix[..., 0, 1], matrix[..., 1, 1])
    return np.stack([yaw, pitch, roll], axis=-1)


def align(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarity that best carries `source` (n, 3) onto each `target` (frames, n, 3), in closed form (Umeyama 1991, eq. 40-42).

    Returns scale (frames,), R (frames, 3, 3), offset (frames, 3) with target = scale * R @ source + offset.
    """
    source_mean, target_mean = source.mean(0), target.mean(1)
    centred, spread = source - source_mean, target - target_mean[:, None]
    covariance = np.einsum("tni,nj->tij", spread, centred) / len(source)
    u, singular, vt = np.linalg.svd(covariance)
    sign = np.ones((len(target), 3))
    sign[:, 2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))  # a mirror image is no rotation
    rotation = np.einsum("tij,tj,tjk->tik", u, sign, vt)
    scale = (singular * sign).sum(-1) / centred.var(0).sum()
    offset = target_mean - scale[:, None] * np.einsum("tij,j->ti", rotation, source_mean)
    return scale, rotation, offset


@dataclass(frozen=True)
class PersonFace:
    """What is one person's own: shape, looks, how they hold their head. Saved as face.safetensors.

    neutral_shape: (478, 3) canonical; reference: (size, size, 3) uint8 RGB, the crop that texture and background are taken from;
    reference_points: (478, 3) the face in it, in crop widths; eye_open, eye_closed: (2,) lid distance in eye widths;
    motion_mean, motion_scale: (10,) mean and standard deviation of MotionTrack.stacked();
    crop: (3,) left, top and side of the square crop in pixels of the source; source_size: (2,) its width and height.
    surroundings: (features, grid, grid, 2) how far, for each of surrounding_features, a place of the picture around the face lies
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
        default_factory=lambda: np.zeros((POSE_FEATURES + SHOULDER_FEATURES, SURROUNDINGS, SURROUNDINGS, 2), np.float32)
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
        "surroundings": (POSE_FEATURES + SHOULDER_FEATURES, SURROUNDINGS, SURROUNDINGS, 2),
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

    def surrounding_features(self, motion: np.ndarray, shoulders: np.ndarray | None = None) -> np.ndarray:
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


class FaceModel:
    """The face shared by all people: mean shape, expression basis, eyelids, triangles, the points that speech does not move.

    mean_shape (478, 3); expression_basis (n, 478, 3), one standard deviation each; eyelid_basis (2, 478, 3), how the face moves
    as an eye closes; projection (n, 468*3), the weighted least squares inverse of the basis; triangles (852, 3); rigid (m,).
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
        self.coefficients = len(self.expression_basis)

    @classmethod
    def load(cls, folder: Path) -> "FaceModel":
        """Errors: OSError when there is none, ValueError when it holds other tensors."""
        return cls(**load_file(str(Path(folder) / "model.safetensors")))

    def save(self, folder: Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in self.TENSORS}
        small = {name: value.astype(np.float32 if value.dtype == np.float64 else np.int32) for name, value in tensors.items()}
        save_file(small, str(Path(folder) / "model.safetensors"))
        config = {"points": POINTS, "coefficients": self.coefficients, "unit": "face heights", "axes": "x right, y down, z away"}
        (Path(folder) / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def lip_basis(self) -> Tensor:
        """(n, lips * 3): how each coefficient moves the lips, for the lip term of the expression generator's loss."""
        return torch.tensor(self.expression_basis[:, list(LIPS)].reshape(self.coefficients, -1), dtype=torch.float32)

    def lip_opening(self, coefficients: np.ndarray, neutral_shape: np.ndarray | None = None) -> np.ndarray:
        """(frames, n) to (frames,): distance between the inner lips in face heights."""
        shape = self.mean_shape if neutral_shape is None else neutral_shape
        upper, lower = INNER_LIPS
        gap = (shape[lower] - shape[upper]) + np.asarray(coefficients) @ (
            self.expression_basis[:, lower] - self.expression_basis[:, upper]
        )
        return np.linalg.norm(gap, axis=-1)

    def shape(self, face: PersonFace, coefficients: np.ndarray, blink: np.ndarray, gaze: np.ndarray) -> np.ndarray:
        """The person's face in canonical space (478, 3) for one frame: coefficients (n,), blink (2,), gaze (2,) radians."""
        shape = face.neutral_shape + np.tensordot(coefficients, self.expression_basis, 1)
        shape = shape + np.tensordot(np.asarray(blink), self.eyelid_basis, 1)  # the neutral shape has open eyes
        for eye in EYES:
            outer, inner = shape[list(eye["corners"])]
            width = np.linalg.norm(outer - inner)
            offset = EYE_RADIUS * width * np.sin(np.asarray(gaze))
            iris = np.array([eye["iris"], *eye["ring"]])
            middle = (outer + inner) / 2 + np.array([offset[0], offset[1], 0.0])
            shape[iris] = shape[iris] - shape[eye["iris"]] + middle
        return shape

    def project(self, shape: np.ndarray, motion: np.ndarray, size: float) -> np.ndarray:
        """Canonical points (..., 3) to picture coordinates (..., 3) in pixels of a square picture of `size`."""
        rotation = rotation_matrix(motion[:3])
        scale = np.exp(motion[5]) * size
        offset = np.array([motion[3] * scale + size / 2, motion[4] * scale + size / 2, 0.0])
        return scale * shape @ rotation.T + offset

    # ------------------------------------------------------------------ from points to tracks

    def pose(self, points: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rigid pose of each frame's points (frames, 478, 3), on the points that speech does not move: scale, R, offset."""
        return align(shape[self.rigid], points[:, self.rigid])

    def unpose(self, points: np.ndarray, pose: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Points (frames, 478, 3) back in canonical space: R^T (p - offset) / scale."""
        scale, rotation, offset = pose
        return np.einsum("tji,tnj->tni", rotation, points - offset[:, None]) / scale[:, None, None]

    def motion_rows(self, pose, blink: np.ndarray, gaze: np.ndarray, size: float) -> np.ndarray:
        """(frames, 10) MotionTrack columns from a pose in pixels of a square picture of `size`."""
        scale, rotation, offset = pose
        place = (offset[:, :2] - size / 2) / scale[:, None]
        return np.concatenate([rotation_angles(rotation), place, np.log(scale / size)[:, None], blink, gaze], axis=1)

    def track(
        self, points: np.ndarray, face: PersonFace, size: float, found: np.ndarray, film: bool = True
    ) -> FaceTrack:
        """FaceMesh points (frames, 478, 3) in pixels of the square crop of `size` to this person's FaceTrack.

        film: whether the frames follow each other, so that the pose's jitter can be told from its movement and is taken away.
        """
        pose = self.pose(points, face.neutral_shape)
        canonical = self.unpose(points, pose)
        blink = eyelids(canonical, face.eye_open, face.eye_closed)
        motion = self.motion_rows(pose, blink, gaze_angles(canonical), size)
        if film:
            motion[:, :6] = steadied(motion[:, :6], POSE_JITTER, POSE_WINDOW)
        coefficients = self.expression(canonical, face.neutral_shape, blink)
        track = MotionTrack.unstacked(torch.tensor(motion, dtype=torch.float32))
        return FaceTrack(ExpressionTrack(torch.tensor(coefficients, dtype=torch.float32)), track, torch.tensor(found))

    def expression(self, canonical: np.ndarray, neutral_shape: np.ndarray, blink: np.ndarray) -> np.ndarray:
        """(frames, n) coefficients of what is left when neutral shape and eyelids are taken away."""
        left = canonical - neutral_shape - np.tensordot(blink, self.eyelid_basis, 1)
        return left[:, :468].reshape(len(left), -1) @ self.projection.T


def steadied(rows: np.ndarray, jitter: Sequence[float], window: int) -> np.ndarray:
    """rows (frames, d) without jitter, whose deviation in each column is known; real movement stays as quick as it is.

    Wiener's filter over a few frames: where they differ by no more than jitter does, their mean; where by far more, as they are.
    """
    from scipy.signal import wiener  # late: half a second that opening the page need not wait for

    around = np.pad(rows, ((window, window), (0, 0)), mode="edge")
    with np.errstate(divide="ignore", invalid="ignore"):  # where nothing differs at all; the filter takes the mean there
        steady = [wiener(column, window, noise=deviation**2) for column, deviation in zip(around.T, jitter)]
    return np.stack(steady, axis=1)[window:-window].astype(rows.dtype)


def lid_distance(canonical: np.ndarray) -> np.ndarray:
    """(frames, 2) distance of upper and lower lid in eye widths, left eye of the picture first."""
    eyes = []
    for eye in EYES:
        upper, lower = canonical[:, list(eye["upper"])], canonical[:, list(eye["lower"])]
        width = np.linalg.norm(canonical[:, eye["corners"][0]] - canonical[:, eye["corners"][1]], axis=-1)
        eyes.append(np.linalg.norm(upper - lower, axis=-1).mean(-1) / width)
    return np.stack(eyes, axis=1)


def eyelids(canonical: np.ndarray, eye_open: np.ndarray, eye_closed: np.ndarray) -> np.ndarray:
    """(frames, 2) blink, 0 open to 1 closed, relative to the person's own range."""
    return np.clip((eye_open - lid_distance(canonical)) / (eye_open - eye_closed), 0, 1)


def gaze_angles(canonical: np.ndarray) -> np.ndarray:
    """(frames, 2) yaw and pitch in radians, mean of both irises' offsets from the middle of the eye's corners."""
    angles = []
    for eye in EYES:
        outer, inner = canonical[:, eye["corners"][0]], canonical[:, eye["corners"][1]]
        width = np.linalg.norm(outer - inner, axis=-1, keepdims=True)
        offset = (canonical[:, eye["iris"]] - (outer + inner) / 2)[:, :2] / width
        angles.append(np.arcsin(np.clip(offset / EYE_RADIUS, -0.95, 0.95)))
    return np.mean(angles, axis=0)
