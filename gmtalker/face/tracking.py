"""From video frames to a FaceTrack: MediaPipe FaceMesh points, smoothed without lag, cropped, measured against the person."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Iterable, Iterator

import cv2
import numpy as np

from gmtalker.errors import UnusableVideo
from gmtalker.face.geometry import lid_distance
from gmtalker.face.landmarks import CHIN, FOREHEAD, POINTS
from gmtalker.face.model import FaceModel
from gmtalker.face.person import PersonFace
from gmtalker.media.video import read_frames
from gmtalker.tracks import FaceTrack

CROP_FACES = 2.1  # side of the head-and-shoulders crop in face heights
HEAD_FACES = 1.3  # side of the smallest square that still holds the whole head
FACE_PLACE = 0.47  # how far down the crop the middle of the face sits
NEVER_BLINKED = 0.35  # closed lids of someone who never blinked, as a part of their open ones
MOODY, NOT_CALM = 2.0, 20.0  # what speaks against a reference picture: a deviation of expression; a label that is not neutral
CUT_JUMP = 0.12  # a face that jumps by more than this (face heights) between two frames was cut there...
CUT_STEP = 0.015  # ...or by this much, when it hardly moves around that moment


def detect_landmarks(frames: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """FaceMesh points of the one face in each frame.

    frames: (height, width, 3) uint8 RGB. Returns points (frames, 478, 3) float32 in pixels (x right, y down, z away from the
    camera, on the scale of x) and found (frames,) bool; frames without a face hold NaN.
    """
    points, found = [], []
    with face_mesh(max_num_faces=1, min_tracking_confidence=0.5) as find:
        for frame in frames:
            height, width = frame.shape[:2]
            faces = find(frame)
            found.append(bool(faces))
            if faces:
                points.append([(p.x * width, p.y * height, p.z * width) for p in faces[0].landmark])
            else:
                points.append(np.full((POINTS, 3), np.nan))
    return np.asarray(points, dtype=np.float32).reshape(-1, POINTS, 3), np.asarray(found, dtype=bool)


@contextmanager
def face_mesh(**options) -> Iterator[Callable[[np.ndarray], list]]:
    """MediaPipe FaceMesh with iris points: yields a function from a frame to its faces (each with .landmark).

    Its native log, which no person asked for, is kept off stderr: it comes at the start and with the first face.
    """
    with _silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mediapipe's protobuf messages warn of their own age
        import mediapipe  # late: it takes a second to import

        mesh = mediapipe.solutions.face_mesh.FaceMesh(refine_landmarks=True, **options)
        mesh.process(np.zeros((128, 128, 3), np.uint8))  # its models load, and log, in threads: wait for them
    met = False

    def find(frame: np.ndarray) -> list:
        nonlocal met
        with warnings.catch_warnings(), nullcontext() if met else _silence():
            warnings.simplefilter("ignore")
            faces = mesh.process(frame).multi_face_landmarks or []
        met = met or bool(faces)
        return list(faces)

    with mesh:
        yield find


@contextmanager
def _silence() -> Iterator[None]:
    """The process's stderr, native code's included, goes nowhere inside the block."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def fill_and_smooth(points: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Points with missing frames interpolated and jitter smoothed by a zero-phase filter that does not reach across cuts.

    Errors: UnusableVideo when no frame shows a face.
    """
    from scipy.signal import savgol_filter  # late: half a second that opening the page need not wait for

    if not found.any():
        raise UnusableVideo("No face was found in the video. Please film one person from the front, in good light.")
    clock, seen = np.arange(len(points)), np.flatnonzero(found)
    filled = np.empty(points.shape)
    for axis in range(points.shape[2]):
        for point in range(points.shape[1]):
            filled[:, point, axis] = np.interp(clock, seen, points[seen, point, axis])
    bounds = [0, *find_cuts(filled), len(points)]
    for start, stop in zip(bounds[:-1], bounds[1:]):
        if stop - start >= 5:
            filled[start:stop] = savgol_filter(filled[start:stop], 5, 3, axis=0)  # cubic: keeps the peaks of quick lips
    return filled


def find_cuts(points: np.ndarray) -> np.ndarray:
    """First frames after a cut: the face jumps, far beyond how it moved just before and after. points (frames, 478, 3)."""
    if len(points) < 3:
        return np.zeros(0, int)
    height = np.median(np.linalg.norm(points[:, CHIN] - points[:, FOREHEAD], axis=-1))
    steps = np.linalg.norm(np.diff(points[..., :2].mean(1), axis=0), axis=-1) / height
    # Around each step, without the step itself and the one beside it, which a missed frame would stretch too.
    padded = np.pad(steps, 4, mode="reflect") if len(steps) > 4 else np.pad(steps, 4, mode="edge")
    around = np.stack([padded[4 + shift : 4 + shift + len(steps)] for shift in (-4, -3, -2, 2, 3, 4)])
    jumped = (steps > CUT_JUMP) | ((steps > CUT_STEP) & (steps > 5 * np.median(around, axis=0)))
    return np.flatnonzero(jumped) + 1


def choose_crop(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """(3,) left, top, side in pixels of the square that holds head and shoulders through the whole video.

    In a close-up it is the picture's short side. What falls outside the picture is padded when it is cut.
    """
    face = np.median(np.linalg.norm(points[:, CHIN] - points[:, FOREHEAD], axis=-1))
    middle = np.median((points[:, CHIN] + points[:, FOREHEAD]) / 2, axis=0)[:2]
    # No wider than the picture, as padding is drawn too; but the head is never cut.
    side = max(min(CROP_FACES * face, min(width, height)), HEAD_FACES * face)
    left, top = middle[0] - side / 2, middle[1] - FACE_PLACE * side
    if side <= width:
        left = np.clip(left, 0, width - side)
    if side <= height:
        top = np.clip(top, 0, height - side)
    return np.round([left, top, side]).astype(np.float32)


def cut(frame: np.ndarray, crop: np.ndarray, size: int) -> np.ndarray:
    """The square `crop` of a frame as (size, size, 3) uint8; what lies outside the frame repeats its border."""
    left, top, side = crop
    inside = side <= min(frame.shape[:2]) and left >= 0 and top >= 0
    inside = inside and left + side <= frame.shape[1] and top + side <= frame.shape[0]
    if inside:
        part = frame[int(top) : int(top + side), int(left) : int(left + side)]
        return (
            part.copy()
            if len(part) == size
            else cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
        )
    zoom = size / side
    matrix = np.array([[zoom, 0, -left * zoom + (zoom - 1) / 2], [0, zoom, -top * zoom + (zoom - 1) / 2]])
    return cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def in_crop(points: np.ndarray, crop: np.ndarray, size: float = 1.0) -> np.ndarray:
    """Points in pixels of the picture to pixels of its square crop drawn at `size`."""
    left, top, side = crop
    return (points - np.array([left, top, 0.0])) * (size / side)


def measure_neutral(model: FaceModel, points: np.ndarray, calm: np.ndarray | None = None) -> np.ndarray:
    """(478, 3) the person's neutral shape: the median of their frames with closed lips and open eyes.

    points: (frames, 478, 3) at any scale; calm: (frames,) bool, frames known to be neutral (from labelled clips), if any.
    """
    shape = model.mean_shape
    for _ in range(3):  # the pose depends a little on the shape, and the shape on the pose
        canonical = model.unpose(points, model.pose(points, shape))
        gap = np.linalg.norm(canonical[:, 14] - canonical[:, 13], axis=-1)
        lids = lid_distance(canonical).mean(1)
        use = np.ones(len(points), bool) if calm is None or not calm.any() else calm
        still = use & (gap <= np.quantile(gap[use], 0.35)) & (lids >= np.quantile(lids[use], 0.4))
        shape = np.median(canonical[still if still.any() else use], axis=0)
    return shape


def measure_eyes(canonical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2,) open and (2,) closed lid distance in eye widths, of this person."""
    lids = lid_distance(canonical)
    eye_open = np.quantile(lids, 0.75, axis=0)
    eye_closed = np.quantile(lids, 0.005, axis=0)
    blinked = eye_closed < 0.55 * eye_open
    return eye_open, np.where(blinked, eye_closed, NEVER_BLINKED * eye_open)


def measure_person(
    model: FaceModel,
    points: np.ndarray,
    crop: np.ndarray,
    source_size: tuple[int, int],
    pick_frame: Callable[[int], np.ndarray],
    found: np.ndarray,
    calm: np.ndarray | None = None,
    size: int = 256,
) -> PersonFace:
    """What is the person's own, from smoothed points in picture pixels; pick_frame(i) gives the picture of frame i."""
    crop_points = in_crop(points, crop, 1.0)
    usable = np.flatnonzero(found)
    neutral = measure_neutral(model, crop_points[usable], None if calm is None else calm[usable])
    pose = model.pose(crop_points[usable], neutral)
    canonical = model.unpose(crop_points[usable], pose)
    eye_open, eye_closed = measure_eyes(canonical)
    face = PersonFace(
        neutral.astype(np.float32),
        np.zeros((size, size, 3), np.uint8),
        crop_points[0].astype(np.float32),
        eye_open.astype(np.float32),
        eye_closed.astype(np.float32),
        np.zeros(10, np.float32),
        np.ones(10, np.float32),
        crop.astype(np.float32),
        np.array(source_size, np.float32),
    )
    track = model.track(crop_points[usable], face, 1.0, found[usable], film=False)
    motion = track.motion.stacked().numpy()
    mean, scale = np.median(motion, axis=0), motion.std(axis=0) + 1e-4
    coefficients = track.expression.coefficients.numpy()
    # The reference picture: near the mean pose, lips closed, eyes open and looking ahead.
    far = (np.abs(motion - mean)[:, [0, 1, 2, 3, 4, 5]] / (scale[:6] + 0.01)).sum(1)
    far += 20 * model.lip_opening(coefficients, neutral) + 3 * motion[:, 6:8].sum(1) + 4 * np.abs(motion[:, 8:] - mean[8:]).sum(1)
    # Its texture is under every expression: brows that are raised in it are raised in all of them.
    far += MOODY * np.sqrt(np.square(coefficients).mean(1))
    if calm is not None and calm[usable].any():
        far += NOT_CALM * ~calm[usable]
    # Right after a cut or a gap the tracker still settles: a picture whose points are off would shift all that is drawn from it.
    breaks = np.concatenate([[0], find_cuts(points), np.flatnonzero(~found), [len(points)]])
    far += 10 * (np.abs(usable[:, None] - breaks[None]).min(1) < 6)
    best = int(usable[np.argmin(far)])
    reference = cut(pick_frame(best), crop, size)
    return replace(
        face,
        reference=reference,
        reference_points=crop_points[best].astype(np.float32),
        motion_mean=mean.astype(np.float32),
        motion_scale=scale.astype(np.float32),
    )


@dataclass(frozen=True)
class TrackedVideo:
    """FaceMesh points of a video, in picture pixels, smoothed; found (frames,), and the picture's size (width, height)."""

    points: np.ndarray
    found: np.ndarray
    source_size: tuple[int, int]


def track_points(path: Path, progress: Callable[[int], None] | None = None) -> TrackedVideo:
    """Read a video and find the face in every frame. Errors: UnusableVideo when it can't be read or shows no face."""
    size = [0, 0]

    def watched() -> Iterator[np.ndarray]:
        for index, frame in enumerate(read_frames(path)):
            size[:] = frame.shape[1], frame.shape[0]
            if progress:
                progress(index)
            yield frame

    points, found = detect_landmarks(watched())
    if not found.any():
        raise UnusableVideo(f"No face was found in {Path(path).name}. Please film one person from the front, in good light.")
    return TrackedVideo(fill_and_smooth(points, found), found, (size[0], size[1]))


def track_video(path: Path, model: FaceModel) -> FaceTrack:
    """The FaceTrack of a video of anyone, measured against that person's own neutral face, in a crop of its own."""
    video = track_points(path)
    crop = choose_crop(video.points, *video.source_size)
    face = measure_person(model, video.points, crop, video.source_size, lambda _: np.zeros((8, 8, 3), np.uint8), video.found)
    return model.track(in_crop(video.points, crop), face, 1.0, video.found)


def track_of_person(video: TrackedVideo, model: FaceModel, face: PersonFace) -> tuple[FaceTrack, np.ndarray]:
    """The FaceTrack of another video of the avatar's own person, and the crop (3,) it was measured in.

    The same picture size means the same camera: the avatar's crop is used as it is. Otherwise the crop is chosen anew.
    """
    same = tuple(video.source_size) == tuple(int(side) for side in face.source_size)
    crop = face.crop if same else choose_crop(video.points, *video.source_size)
    return model.track(in_crop(video.points, crop), face, 1.0, video.found), crop
