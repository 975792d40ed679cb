"""From video frames to a FaceTrack: MediaPipe FaceMesh points, smoothed without lag, cropped, measured against the person."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gmtalker.errors import UnusableVideo
from gmtalker.face.geometry import lid_distance
from gmtalker.face.landmarks import CHIN, FOREHEAD, INNER_LIPS, POINTS
from gmtalker.face.model import FaceModel
from gmtalker.face.person import FaceShape, PersonFace
from gmtalker.face.view import EVERYWHERE, FaceView
from gmtalker.tracks import BLINK, GAZE, POSE, FaceTrack

CROP_FACES = 2.1  # side of the head-and-shoulders crop in face heights
HEAD_FACES = 1.3  # side of the smallest square that still holds the whole head
FACE_PLACE = 0.47  # how far down the crop the middle of the face sits
NEVER_BLINKED = 0.35  # lid distance of the closed eyes of someone who never blinked, as a share of that of the open ones
EXPRESSION_COST, NOT_NEUTRAL_COST = 2.0, 20.0  # of a reference picture: per deviation of expression; no neutral label
CUT_JUMP = 0.12  # a face that jumps by more than this (face heights) between two frames was cut there...
CUT_STEP = 0.015  # ...or by this much, when it hardly moves around that moment


def detect_landmarks(frames: Iterable[np.ndarray], view: FaceView = EVERYWHERE) -> tuple[np.ndarray, np.ndarray]:
    """FaceMesh points of the one face in each frame.

    frames: (height, width, 3) uint8 RGB each, upright.
    view: where in them it is looked for.
    Returns: points (frames, 478, 3) float32 in pixels (x right, y down, z away from the camera, on the scale of x; NaN in frames
        without a face), and found (frames,) bool.
    """
    points, found = [], []
    with face_mesh(max_num_faces=1, min_tracking_confidence=0.5) as find:
        for frame in frames:
            faces = find(view.part(frame))
            found.append(bool(faces))
            points.append(view.points(faces[0], frame) if faces else np.full((POINTS, 3), np.nan))
    return np.asarray(points, dtype=np.float32).reshape(-1, POINTS, 3), np.asarray(found, dtype=bool)


@contextmanager
def face_mesh(**options) -> Iterator[Callable[[np.ndarray], list]]:
    """MediaPipe FaceMesh with iris points, its native log kept off stderr.

    options: of mediapipe's FaceMesh.
    Yields: a function from a frame (height, width, 3) uint8 RGB to its faces, each with .landmark.
    """
    with silent_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mediapipe's protobuf messages warn of their own age
        import mediapipe  # late: it takes a second to import

        mesh = mediapipe.solutions.face_mesh.FaceMesh(refine_landmarks=True, **options)
        mesh.process(np.zeros((128, 128, 3), np.uint8))  # its models load, and log, in threads: wait for them
    found_one = False

    def find(frame: np.ndarray) -> list:
        nonlocal found_one
        with warnings.catch_warnings(), nullcontext() if found_one else silent_stderr():  # it logs once more with the first face
            warnings.simplefilter("ignore")
            faces = mesh.process(frame).multi_face_landmarks or []
        found_one = found_one or bool(faces)
        return list(faces)

    with mesh:
        yield find


@contextmanager
def upright_scores() -> Iterator[Callable[[np.ndarray], float]]:
    """MediaPipe's face detector, its native log kept off stderr.

    Yields: a function from a frame (height, width, 3) uint8 RGB to how surely it shows an upright face, 0 to 1: more than any
        other way up of the same frame. FaceMesh can't tell: it finds a face in every way up, and takes it for upright.
    """
    with silent_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mediapipe

        detector = mediapipe.solutions.face_detection.FaceDetection(min_detection_confidence=0.1, model_selection=0)
        detector.process(np.zeros((128, 128, 3), np.uint8))

    def score(frame: np.ndarray) -> float:
        with warnings.catch_warnings(), silent_stderr():
            warnings.simplefilter("ignore")
            found = detector.process(frame).detections
        return float(found[0].score[0]) if found else 0.0

    with detector:
        yield score


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Discards what is written to the process's stderr inside the block, by native code too."""
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def fill_and_smooth(points: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Interpolate frames without a face, and smooth jitter by a zero-phase filter that does not reach across cuts.

    points: (frames, 478, 3).
    found: (frames,) bool.
    Returns: (frames, 478, 3) float64.
    Errors: UnusableVideo when no frame shows a face.
    """
    from scipy.signal import savgol_filter  # late: half a second that opening the page need not wait for

    if not found.any():
        raise UnusableVideo("No face was found in the video. Please film one person from the front, in good light.")
    clock, detected = np.arange(len(points)), np.flatnonzero(found)
    filled = np.empty(points.shape)
    for axis in range(points.shape[2]):
        for point in range(points.shape[1]):
            filled[:, point, axis] = np.interp(clock, detected, points[detected, point, axis])
    bounds = [0, *find_cuts(filled), len(points)]
    for start, stop in zip(bounds[:-1], bounds[1:]):
        if stop - start >= 5:
            filled[start:stop] = savgol_filter(filled[start:stop], 5, 3, axis=0)  # cubic: keeps the peaks of quick lips
    return filled


def find_cuts(points: np.ndarray) -> np.ndarray:
    """Frame numbers of the first frames after a cut: the face jumps, far beyond how it moved just before and after.

    points: (frames, 478, 3).
    """
    if len(points) < 3:
        return np.zeros(0, int)
    height = np.median(np.linalg.norm(points[:, CHIN] - points[:, FOREHEAD], axis=-1))
    steps = np.linalg.norm(np.diff(points[..., :2].mean(1), axis=0), axis=-1) / height
    # Around each step, without the step itself and the one beside it, which a missed frame would stretch too.
    padded = np.pad(steps, 4, mode="reflect") if len(steps) > 4 else np.pad(steps, 4, mode="edge")
    around = np.stack([padded[4 + shift : 4 + shift + len(steps)] for shift in (-4, -3, -2, 2, 3, 4)])
    jumped = (steps > CUT_JUMP) | ((steps > CUT_STEP) & (steps > 5 * np.median(around, axis=0)))
    return np.flatnonzero(jumped) + 1


def face_heights(points: np.ndarray) -> np.ndarray:
    """(frames,) how high the face is from the forehead to the chin, of points (frames, 478, 2 or 3), in their unit."""
    height: np.ndarray = np.ptp(points[..., 1], axis=-1)
    return height


def choose_crop(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """The square that holds head and shoulders through a whole video; in a close-up its side is the picture's short one.

    points: (frames, 478, 3) in pixels.
    width, height: of the picture.
    Returns: (3,) left, top and side in pixels; what falls outside the picture is padded when it is cut.
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
    """The square `crop` of a frame, as (size, size, 3) uint8; what lies outside the frame repeats its border."""
    left, top, side = crop
    inside = side <= min(frame.shape[:2]) and left >= 0 and top >= 0
    inside = inside and left + side <= frame.shape[1] and top + side <= frame.shape[0]
    if inside:
        part = frame[int(top) : int(top + side), int(left) : int(left + side)]
        if len(part) == size:
            return part.copy()
        return cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
    zoom = size / side
    matrix = np.array([[zoom, 0, -left * zoom + (zoom - 1) / 2], [0, zoom, -top * zoom + (zoom - 1) / 2]])
    return cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def in_crop(points: np.ndarray, crop: np.ndarray, size: float = 1.0) -> np.ndarray:
    """Points (..., 3) in pixels of a picture to pixels of its square crop resized to `size`; crop widths with size 1."""
    left, top, side = crop
    return (points - np.array([left, top, 0.0])) * (size / side)


def measure_neutral(model: FaceModel, points: np.ndarray, neutral_frames: np.ndarray | None = None) -> np.ndarray:
    """A person's neutral shape: the median of their frames with closed lips and open eyes.

    points: (frames, 478, 3) at any scale.
    neutral_frames: (frames,) bool, those of clips labelled neutral; only they are used, where there are any.
    Returns: (478, 3) canonical.
    """
    shape, (upper, lower) = model.mean_shape, INNER_LIPS
    for _ in range(3):  # the pose depends a little on the shape, and the shape on the pose
        canonical = model.unpose(points, model.pose(points, shape))
        gap = np.linalg.norm(canonical[:, lower] - canonical[:, upper], axis=-1)
        lids = lid_distance(canonical).mean(1)
        use = np.ones(len(points), bool) if neutral_frames is None or not neutral_frames.any() else neutral_frames
        still = use & (gap <= np.quantile(gap[use], 0.35)) & (lids >= np.quantile(lids[use], 0.4))
        shape = np.median(canonical[still if still.any() else use], axis=0)
    return shape


def measure_eyes(canonical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lid distances (2,) of a person's open and of their closed eyes, in eye widths, from canonical points (frames, 478, 3)."""
    lids = lid_distance(canonical)
    eye_open = np.quantile(lids, 0.75, axis=0)
    eye_closed = np.quantile(lids, 0.005, axis=0)
    blinked = eye_closed < 0.55 * eye_open
    return eye_open, np.where(blinked, eye_closed, NEVER_BLINKED * eye_open)


def measure_shape(model: FaceModel, points: np.ndarray, neutral_frames: np.ndarray | None = None) -> FaceShape:
    """A person's neutral shape and range of the eyelids.

    points: (frames, 478, 3) at any scale, of frames in which a face was found.
    neutral_frames: (frames,) bool, those of clips labelled neutral, if any.
    """
    neutral = measure_neutral(model, points, neutral_frames)
    eye_open, eye_closed = measure_eyes(model.unpose(points, model.pose(points, neutral)))
    return FaceShape(neutral.astype(np.float32), eye_open.astype(np.float32), eye_closed.astype(np.float32))


def measure_person(
    model: FaceModel,
    points: np.ndarray,
    crop: np.ndarray,
    source_size: tuple[int, int],
    pick_frame: Callable[[int], np.ndarray],
    found: np.ndarray,
    neutral_frames: np.ndarray | None = None,
    size: int = 256,
) -> PersonFace:
    """A person's shape, way of holding the head, and reference picture.

    points: (frames, 478, 3) smoothed, in pixels of the picture.
    crop: (3,) left, top and side, in pixels of the picture.
    source_size: width and height of the picture.
    pick_frame: gives the picture (height, width, 3) uint8 of a frame by its number.
    found: (frames,) bool, the frames that may be used.
    neutral_frames: (frames,) bool, those of clips labelled neutral, if any.
    size: of the reference picture, in pixels.
    """
    crop_points, usable = in_crop(points, crop, 1.0), np.flatnonzero(found)
    neutral = None if neutral_frames is None else neutral_frames[usable]
    shape = measure_shape(model, crop_points[usable], neutral)
    track = model.track(crop_points[usable], shape, 1.0, found[usable], consecutive=False)
    motion = track.motion.stacked().numpy()
    cost = _reference_cost(model, shape, track)
    if neutral is not None and neutral.any():
        cost += NOT_NEUTRAL_COST * ~neutral
    # Right after a cut or a gap the tracker still settles: a picture whose points are off would shift all that is drawn from it.
    cost += 10 * _near_a_break(points, found)[usable]
    best = int(usable[np.argmin(cost)])
    return PersonFace(
        **vars(shape),
        reference=cut(pick_frame(best), crop, size),
        reference_points=crop_points[best].astype(np.float32),
        motion_mean=np.median(motion, axis=0).astype(np.float32),
        motion_scale=(motion.std(axis=0) + 1e-4).astype(np.float32),
        crop=crop.astype(np.float32),
        source_size=np.array(source_size, np.float32),
    )


def _near_a_break(points: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(frames,) bool: less than 6 frames from a cut, from a frame without a face, or from an end of the video."""
    breaks = np.concatenate([[0], find_cuts(points), np.flatnonzero(~found), [len(points)]])
    return np.abs(np.arange(len(points))[:, None] - breaks[None]).min(1) < 6


def _reference_cost(model: FaceModel, shape: FaceShape, track: FaceTrack) -> np.ndarray:
    """(frames,) lowest near the mean pose with lips closed, eyes open and looking ahead, and little expression."""
    motion, coefficients = track.motion.stacked().numpy(), track.expression.coefficients.numpy()
    mean, scale = np.median(motion, axis=0), motion.std(axis=0) + 1e-4
    cost = (np.abs(motion - mean)[:, POSE] / (scale[POSE] + 0.01)).sum(1)
    lips, lids, gaze = model.lip_opening(coefficients, shape.neutral_shape), motion[:, BLINK], motion[:, GAZE] - mean[GAZE]
    cost += 20 * lips + 3 * np.abs(lids).sum(1) + 4 * np.abs(gaze).sum(1)
    # Its texture is under every expression: brows that are raised in it are raised in all of them.
    cost += EXPRESSION_COST * np.sqrt(np.square(coefficients).mean(1))
    return cost


@dataclass(frozen=True)
class TrackedVideo:
    """The face in each frame of a video.

    points: (frames, 478, 3) FaceMesh points in pixels of the picture, smoothed.
    found: (frames,) bool.
    source_size: width and height of the picture, upright.
    turns: quarter turns to the left that make it upright (FaceView).
    """

    points: np.ndarray
    found: np.ndarray
    source_size: tuple[int, int]
    turns: int = 0


def track_points(path: Path, on_frame: Callable[[int], None] | None = None) -> TrackedVideo:
    """Find the face in every frame of a video.

    on_frame: is called with the number of each frame before it is searched.
    Errors: UnusableVideo when the video can't be read or shows no face.
    """
    size = [0, 0]
    with face_mesh(static_image_mode=True, max_num_faces=1) as find, upright_scores() as scores:
        view = FaceView.of(path, find, scores)

    def frames() -> Iterator[np.ndarray]:
        for index, frame in enumerate(view.frames(path)):
            size[:] = frame.shape[1], frame.shape[0]
            if on_frame:
                on_frame(index)
            yield frame

    points, found = detect_landmarks(frames(), view)
    if not found.any():
        raise UnusableVideo(f"No face was found in {Path(path).name}. Please film one person from the front, in good light.")
    return TrackedVideo(fill_and_smooth(points, found), found, (size[0], size[1]), view.turns)


def track_video(path: Path, model: FaceModel) -> FaceTrack:
    """The FaceTrack of a video of anyone, measured against that person's own neutral face, in a crop of its own."""
    video = track_points(path)
    points = in_crop(video.points, choose_crop(video.points, *video.source_size))
    return model.track(points, measure_shape(model, points[video.found]), 1.0, video.found)


def track_of_person(video: TrackedVideo, model: FaceModel, face: PersonFace) -> tuple[FaceTrack, np.ndarray]:
    """The FaceTrack of another video of the avatar's own person.

    The same picture size means the same camera: the avatar's crop is used as it is. Otherwise the crop is chosen anew.

    Returns: the track, and the crop (3,) it was measured in.
    """
    same = tuple(video.source_size) == tuple(int(side) for side in face.source_size)
    crop = face.crop if same else choose_crop(video.points, *video.source_size)
    return model.track(in_crop(video.points, crop), face, 1.0, video.found), crop
