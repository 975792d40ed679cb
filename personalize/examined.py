"""What a check looks at: some frames of the whole clip, consecutive ones of its begin and end, and a thumbnail of every one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from gmtalker.assets import GENERIC
from gmtalker.clock import FPS
from gmtalker.face.landmarks import POINTS
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import (
    choose_crop,
    detect_landmarks,
    face_heights,
    face_mesh,
    fill_and_smooth,
    in_crop,
    measure_shape,
    upright_scores,
)
from gmtalker.face.view import EVERYWHERE, FaceView
from gmtalker.media.video import VideoInfo, read_info
from gmtalker.tracks import FaceTrack

SAMPLES_PER_SECOND, SAMPLES_MAX = 2.0, 60
STRETCH_SECONDS, END_SECONDS = 12.0, 4.0  # that are examined frame by frame; of these at the end of a longer clip
STRETCH_SIDE_MAX = 720  # pixels of the longer side of those frames
THUMBNAIL = 32  # pixels to a side
CUT_CHANGE = 12.0  # of 255, by which the mean pixel changes at a cut, and stays changed
CUT_TIMES = 8.0  # the usual change
WORDS_EVERY = 4  # samples, of which one is searched for words
NEAR = 0.02  # face heights: how far around a point of the face its colour is taken
# Where the colours of a face are taken.
LIP_POINTS, CHIN_POINTS = (0, 17, 37, 267, 84, 314), (18, 83, 313, 182, 406, 200, 199, 208, 428)
CHEEK_POINTS, FOREHEAD_POINTS = (50, 280, 205, 425), (151, 108, 337, 67, 297)
LEFT_SIDE, RIGHT_SIDE = (50, 205, 117), (280, 425, 346)
PATCH = 48  # pixels to a side of a face that is compared with another
_PATCH_PLACES = np.array([[10, 14], [38, 14], [24, 38]], np.float32)  # of the eyes and the mouth in it
_EYES_AND_MOUTH = ((33, 133), (362, 263), (61, 291))

Detector = Callable[[np.ndarray], list[np.ndarray]]  # a frame to the points (n, 2 or 3) in pixels of each face in it


@dataclass(frozen=True)
class FaceLook:
    """What one frame shows of a face beyond its size; only of a face with all its points.

    points: (478, 3) in pixels.
    patch: (PATCH, PATCH, 3) float32 Lab of eyes, nose and mouth, in the same place whatever the pose, of even light.
    room: above the forehead, in face heights.
    saturation: of 255.
    sides: brightness of the darker half of the face over that of the other.
    lips: colour difference of lips and chin (CIE Lab).
    mask: of the lower face and the forehead, in hue and chroma alone.
    pale: by how much less red lips are than the forehead (CIE a).
    """

    points: np.ndarray
    patch: np.ndarray
    room: float
    saturation: float
    sides: float
    lips: float
    mask: float
    pale: float

    @classmethod
    def of(cls, frame: np.ndarray, points: np.ndarray) -> FaceLook:
        """The face with points (478, 3) in a frame (h, w, 3)."""
        lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB)
        near = max(1, int(NEAR * face_heights(points)))
        lips, chin, cheek, forehead, left, right = (
            _colour(lab, points[list(places), :2], near)
            for places in (LIP_POINTS, CHIN_POINTS, CHEEK_POINTS, FOREHEAD_POINTS, LEFT_SIDE, RIGHT_SIDE)
        )
        box = _box(frame, points)
        from_forehead = (np.linalg.norm((part - forehead)[1:]) for part in (chin, cheek))
        return cls(
            points.astype(np.float32),
            _patch(lab, points),
            float(points[:, 1].min() / face_heights(points)),
            float((box.max(2).astype(int) - box.min(2)).mean()),
            float(min(left[0], right[0]) / max(left[0], right[0], 1)),
            float(np.linalg.norm(lips - chin)),
            float(min(from_forehead)),
            float(forehead[1] - lips[1]),
        )

    @property
    def is_covered(self) -> bool:
        """Whether something lies over the mouth: lips and chin have one colour, or a colour that is no skin's."""
        return self.lips < LIPS_MIN or self.mask > MASK_MIN or self.pale > PALE_MIN


LIPS_MIN, MASK_MIN, PALE_MIN = 1.5, 26.0, 18.0  # 70 real clips: lips 2.5 or more, lower faces 23 or less, pale 12 or less


@dataclass(frozen=True)
class Sample:
    """One sampled frame.

    second: its time.
    heights: face heights in pixels, largest first.
    sharpness, brightness: of the largest face.
    look: what else it shows; None without all points.
    words: letters side by side in the avatar's square; None where nobody looked.
    """

    second: float
    heights: list[float]
    sharpness: float
    brightness: float
    look: FaceLook | None = None
    words: int | None = None


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames, of the begin and the end of a clip one after another.

    frames: each (h, w, 3) uint8, made smaller; of a small face what is around it.
    points: (frames, 478, 3).
    found: (frames,) bool.
    seconds: that tracking took.
    end: place of the first frame of the clip's end; as many as there are where all are from the begin.
    end_frame: number of that frame in the clip.
    track: None where no face was found.
    """

    frames: list[np.ndarray]
    points: np.ndarray
    found: np.ndarray
    seconds: float
    end: int
    end_frame: int
    track: FaceTrack | None = None


@dataclass(frozen=True)
class Examined:
    """All that a check looks at.

    view: how the face is looked at.
    thumbnails: (frames, THUMBNAIL, THUMBNAIL, 3) float32, of every frame.
    steps: (frames - 1,) mean change from one to the next, of 255.
    cuts: seconds of the cuts.
    """

    info: VideoInfo
    view: FaceView
    samples: list[Sample]
    stretch: Stretch
    thumbnails: np.ndarray
    steps: np.ndarray
    cuts: list[float] = field(default_factory=list)

    @property
    def looks(self) -> list[Sample]:
        """The samples with a look."""
        return [sample for sample in self.samples if sample.look is not None]

    def takes(self) -> list[tuple[float, list[Sample]]]:
        """From cut to cut: the second at which each begins, and its samples with a look."""
        bounds = [0.0, *self.cuts, np.inf]
        return [(begin, [sample for sample in self.looks if begin <= sample.second < end]) for begin, end in pairwise(bounds)]


def examine(path: Path, detect: Detector | None) -> Examined:
    """Read a clip once, and look.

    detect: finds the faces in a frame; None for MediaPipe.
    Errors: UnusableVideo when the clip can't be read to its end.
    """
    if detect is not None:
        return _examine(path, read_info(path), EVERYWHERE, detect)
    with face_mesh(static_image_mode=True, max_num_faces=2) as find, upright_scores() as scores:
        info, view = read_info(path), FaceView.of(path, find, scores)

        # Each frame by itself: they are seconds apart, and tracking would find a face where it no longer is.
        def faces(frame: np.ndarray) -> list[np.ndarray]:
            return [view.points(face, frame) for face in find(view.part(frame))]

        return _examine(path, info, view, faces)


def _examine(path: Path, info: VideoInfo, view: FaceView, detect: Detector) -> Examined:
    samples, thumbnails, begin, end = [], [], [], []
    is_long = info.seconds > STRETCH_SECONDS + END_SECONDS
    begins_until = (STRETCH_SECONDS - END_SECONDS if is_long else STRETCH_SECONDS) * FPS
    ends_from = (info.seconds - END_SECONDS) * FPS if is_long else np.inf
    every, due, end_frame = 1 / min(SAMPLES_PER_SECOND, SAMPLES_MAX / max(info.seconds, 1.0)), 0.0, 0
    for index, frame in enumerate(view.frames(path)):
        thumbnails.append(_thumbnail(frame))
        if index < begins_until:
            begin.append(_smaller(view.part(frame)))
        elif index >= ends_from and len(end) < END_SECONDS * FPS:
            end_frame = end_frame or index
            end.append(_smaller(view.part(frame)))
        if index / FPS < due or len(samples) == SAMPLES_MAX:
            continue
        due += every
        samples.append(_sample(index / FPS, frame, detect(frame), len(samples) % WORDS_EVERY == 0))
    small = np.stack(thumbnails)
    steps = np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
    stretch = _track(begin, end, end_frame)
    return Examined(info, view, samples, stretch, small, steps, _cuts(small, steps))


def _sample(second: float, frame: np.ndarray, faces: list[np.ndarray], reads: bool) -> Sample:
    faces = sorted(faces, key=lambda points: -face_heights(points))
    heights = [float(face_heights(points)) for points in faces]
    if not faces:
        return Sample(second, heights, 0.0, 0.0)
    face = cv2.resize(cv2.cvtColor(_box(frame, faces[0]), cv2.COLOR_RGB2GRAY), (128, 128), interpolation=cv2.INTER_AREA)
    look = words = None
    if len(faces[0]) == POINTS:
        look = FaceLook.of(frame, faces[0])
        left, top, side = choose_crop(faces[0][None], frame.shape[1], frame.shape[0]).astype(int)
        words = letters_in_a_row(frame[max(top, 0) : top + side, max(left, 0) : left + side]) if reads else None
    return Sample(second, heights, _sharpness(face), float(face.mean()), look, words)


def _track(begin: list[np.ndarray], end: list[np.ndarray], end_frame: int) -> Stretch:
    frames, started = begin + end, time.perf_counter()
    points, found = detect_landmarks(frames)
    stretch = Stretch(frames, points, found, time.perf_counter() - started, len(begin), end_frame)
    if not found.any():
        return stretch
    model, points = FaceModel.load(GENERIC / "face_model"), fill_and_smooth(points, found)
    height, width = frames[0].shape[:2]
    crop_points = in_crop(points, choose_crop(points, width, height))
    shape = measure_shape(model, crop_points[found])
    track = model.track(crop_points, shape, 1.0, found)
    return Stretch(frames, points, found, stretch.seconds, stretch.end, end_frame, track)


def _smaller(frame: np.ndarray) -> np.ndarray:
    """12 seconds of a phone's own size would fill the memory."""
    zoom = min(1.0, STRETCH_SIDE_MAX / max(frame.shape[:2]))
    return frame if zoom == 1 else cv2.resize(frame, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    skip = max(1, min(frame.shape[:2]) // (4 * THUMBNAIL))
    small = np.ascontiguousarray(frame[::skip, ::skip])
    return cv2.resize(small, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)


def _cuts(thumbnails: np.ndarray, steps: np.ndarray) -> list[float]:
    """Seconds at which the picture changes at once, and for good: a flash is no cut."""
    if len(steps) < 3:
        return []
    jumps = np.flatnonzero((steps > CUT_CHANGE) & (steps > CUT_TIMES * np.median(steps)))
    last = len(thumbnails) - 1
    stays = [np.abs(thumbnails[min(j + 3, last)] - thumbnails[max(j - 2, 0)]).mean() > CUT_CHANGE for j in jumps]
    return [round(float(j + 1) / FPS, 2) for j, stay in zip(jumps, stays) if stay]


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each run of True in (n,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _box(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The part of a frame around a face, as far as it lies inside."""
    height, width = frame.shape[:2]
    left, top = np.clip(points[:, :2].min(axis=0), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(points[:, :2].max(axis=0)), (left + 1, top + 1), (width, height)).astype(int)
    return np.ascontiguousarray(frame[top:bottom, left:right])


def _sharpness(face: np.ndarray) -> float:
    """Variance of the Laplacian over variance of a grey face, independent of the light and of the picture's size."""
    face = face.astype(np.float32)
    return float(cv2.Laplacian(face, cv2.CV_32F).var() / max(face.var(), 1.0))


def _colour(lab: np.ndarray, places: np.ndarray, near: int) -> np.ndarray:
    """(3,) median Lab around some points, as far as they lie in the picture; black where none does."""
    found = []
    for x, y in places.astype(int):
        part = lab[max(y - near, 0) : max(y + near + 1, 0), max(x - near, 0) : max(x + near + 1, 0)]
        if part.size:
            found.append(np.median(part.reshape(-1, 3), axis=0))
    return np.median(found, axis=0) if found else np.zeros(3)


def _patch(lab: np.ndarray, points: np.ndarray) -> np.ndarray:
    places = np.array([points[list(pair), :2].mean(0) for pair in _EYES_AND_MOUTH], np.float32)
    warped = cv2.warpAffine(lab, cv2.getAffineTransform(places, _PATCH_PLACES), (PATCH, PATCH), flags=cv2.INTER_LINEAR)
    patch = warped.astype(np.float32)
    patch -= patch.mean((0, 1))
    even: np.ndarray = patch / (patch[..., 0].std() + 1e-3)
    return even


def letters_in_a_row(picture: np.ndarray) -> int:
    """The most shapes of letters side by side on one line: words that are burnt into a picture.

    picture: (h, w, 3) uint8.
    """
    if min(picture.shape[:2]) < 32:
        return 0
    zoom = 512 / min(picture.shape[:2])
    picture = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC)
    kernel, most = cv2.getStructuringElement(cv2.MORPH_RECT, (15, 15)), 0
    for operation, grey in ((cv2.MORPH_TOPHAT, picture.max(2)), (cv2.MORPH_BLACKHAT, picture.min(2))):
        strokes = (cv2.morphologyEx(grey, operation, kernel) > 70).astype(np.uint8)
        _, _, parts, _ = cv2.connectedComponentsWithStats(strokes, connectivity=8)
        x, y, width, height, area = parts[1:].T
        full = area / (width * height)
        letters = (
            (height >= 8) & (height <= 45) & (width <= 1.6 * height) & (width >= 0.12 * height) & (full > 0.12) & (full < 0.85)
        )
        most = max(most, _longest_line(x[letters] + width[letters] / 2, (y + height)[letters], height[letters]))
    return most


def _longest_line(middles: np.ndarray, bases: np.ndarray, heights: np.ndarray) -> int:
    most = 0
    for base, height in zip(bases, heights):
        alike = (np.abs(bases - base) < 0.2 * height + 1) & (heights > 0.55 * height) & (heights < 1.6 * height)
        line = np.sort(middles[alike])
        gaps = np.flatnonzero(np.diff(line) > 2.5 * height)
        most = max(most, max((after - before for before, after in pairwise([-1, *gaps.tolist(), len(line) - 1])), default=0))
    return int(most)


def face_difference(one: Sequence[FaceLook], other: Sequence[FaceLook], model: FaceModel) -> float:
    """How differently two faces are built and look.

    Of the clips of 47 people two halves of one clip differ by -0.005 at most, two clips of one person in other light by 0.0007,
    and two people by more than -0.004 in 85 of 100 pairs, by more than 0.0025 in half of them.

    Returns: distance of the shapes in face heights, less 0.02 times the correlation of the patches.
    """
    shapes = [_mean_shape([look.points for look in looks], model) for looks in (one, other)]
    apart = float(np.sqrt(np.square((shapes[0] - shapes[1])[model.rigid, :2]).sum(-1).mean()))
    patches = [np.mean([look.patch[..., 0] for look in looks], axis=0).ravel() for looks in (one, other)]
    return apart - 0.02 * float(np.corrcoef(*patches)[0, 1])


def _mean_shape(points: Sequence[np.ndarray], model: FaceModel) -> np.ndarray:
    rows, shape = np.stack(points).astype(np.float64), model.mean_shape
    for _ in range(2):
        shape = np.median(model.unpose(rows, model.pose(rows, shape)), axis=0)
    return shape
