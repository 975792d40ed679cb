"""The report card of a clip: can it be read, is one face well in view, what to film better."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Iterable, Iterator, Literal

import cv2
import numpy as np

from gmtalker.audio import read_sound_or_none
from gmtalker.video import VideoInfo, read_frames, read_info
from personalize.tracking import face_mesh

SAMPLES_A_SECOND, MOST_SAMPLES = 2.0, 60
SHORTEST, SHORT = 3.0, 20.0  # seconds
SMALLEST, SMALL = 128, 256  # pixels of the shorter side
RAREST, RARE = 0.5, 0.9  # share of the pictures that show a face
SMALLEST_FACE, SMALL_FACE = 60, 100  # pixels from the forehead to the chin
CROWDED = 0.1  # share of the pictures that may show a second face
SECOND_FACE = 0.4  # of the first one's height; smaller ones are posters, or ghosts the detector sees
# Real clips of faces measured 0.03 to 0.5, the same clips blurred by a fiftieth of the face's height 0.003 to 0.013.
BLURRED = 0.02

Status = Literal["pass", "warn", "fail"]
Detector = Callable[[np.ndarray], list[np.ndarray]]  # a frame to the points (n, 2 or 3) of each face in it, in pixels


@dataclass(frozen=True)
class ReportLine:
    """One thing looked at: its name, "pass", "warn" or "fail", what was found, and what to do about it (empty on a pass)."""

    name: str
    status: Status
    value: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """Every line of one clip's report card."""

    clip: str
    lines: list[ReportLine]

    @property
    def failed(self) -> bool:
        """Whether the clip can't be trained on."""
        return any(line.status == "fail" for line in self.lines)

    def to_json(self) -> dict:
        """{"clip", "failed", "lines": [{"name", "status", "value", "advice"}]}, ready for json.dumps."""
        return {"clip": self.clip, "failed": self.failed, "lines": [asdict(line) for line in self.lines]}


@dataclass(frozen=True)
class _Sample:
    """One looked-at picture: its time in seconds, the face heights in pixels (largest first), the first face's sharpness."""

    second: float
    heights: list[float]
    sharpness: float


def check_clips(paths: Iterable[Path]) -> list[Report]:
    """check_clip of each, with one detector."""
    with _face_detector() as detect:
        return [check_clip(path, detect) for path in paths]


def check_clip(path: Path, detect: Detector | None = None) -> Report:
    """Look at about two pictures a second, 60 at most, and at the sound.

    detect: finds the faces in a frame; MediaPipe's when None.
    Errors: UnusableVideo when the clip can't be read to its end.
    """
    if detect is None:
        with _face_detector() as detect:
            return check_clip(path, detect)
    path = Path(path)
    info = read_info(path)
    samples = _look(path, info, detect)
    heard = read_sound_or_none(path) is not None
    lines = [ReportLine("readable", "pass", f"{info.fps:.4g} pictures a second"), _length(info), _size(info), _found(samples)]
    if any(sample.heights for sample in samples):
        lines += [_one_person(samples), _face_size(samples), _sharpness(samples)]
    return Report(path.name, [*lines, _sound(heard)])


def _look(path: Path, info: VideoInfo, detect: Detector) -> list[_Sample]:
    rate = min(SAMPLES_A_SECOND, MOST_SAMPLES / max(info.seconds, 1.0))
    samples = []
    for index, frame in enumerate(read_frames(path, rate)):
        faces = sorted(detect(frame), key=lambda points: -np.ptp(points[:, 1]))
        heights = [float(np.ptp(points[:, 1])) for points in faces]
        samples.append(_Sample(index / rate, heights, _face_sharpness(frame, faces[0]) if faces else 0.0))
    return samples


def _length(info: VideoInfo) -> ReportLine:
    value = f"{info.seconds:.1f} seconds"
    if info.seconds < SHORTEST:
        return ReportLine("length", "fail", value, f"Film at least {SHORTEST:.0f} seconds; 1 to 3 minutes of talking are best.")
    if info.seconds < SHORT:
        return ReportLine("length", "warn", value, "Few mouth shapes fit into a short clip; 1 to 3 minutes of talking are best.")
    return ReportLine("length", "pass", value)


def _size(info: VideoInfo) -> ReportLine:
    value, side = f"{info.width} x {info.height} pixels", min(info.width, info.height)
    if side < SMALLEST:
        return ReportLine("size", "fail", value, f"Film with at least {SMALL} pixels on the shorter side.")
    if side < SMALL:
        return ReportLine("size", "warn", value, f"The avatar will look soft; film with {SMALL} pixels on the shorter side.")
    return ReportLine("size", "pass", value)


def _found(samples: list[_Sample]) -> ReportLine:
    share = sum(bool(sample.heights) for sample in samples) / len(samples)
    missing = next((sample.second for sample in samples if not sample.heights), 0.0)
    value = f"in {share:.0%} of the pictures"
    if share < RAREST:
        return ReportLine("face found", "fail", value, "Film the face close and from the front, in good light.")
    if share < RARE:
        advice = f"Second {missing:.0f} shows no face; such pictures are left out of the training."
        return ReportLine("face found", "warn", value, advice)
    return ReportLine("face found", "pass", value)


def _one_person(samples: list[_Sample]) -> ReportLine:
    crowded = [sample for sample in samples if len(sample.heights) > 1 and sample.heights[1] >= SECOND_FACE * sample.heights[0]]
    share = len(crowded) / len(samples)
    if share > CROWDED:
        advice = f"Second {crowded[0].second:.0f} shows 2 faces. Please film exactly one person."
        return ReportLine("one person", "fail", f"2 faces in {share:.0%} of the pictures", advice)
    return ReportLine("one person", "pass", "1 face")


def _face_size(samples: list[_Sample]) -> ReportLine:
    height = float(np.median([sample.heights[0] for sample in samples if sample.heights]))
    value = f"{height:.0f} pixels high"
    if height < SMALLEST_FACE:
        return ReportLine("face size", "fail", value, f"Come closer: the face should be at least {SMALL_FACE} pixels high.")
    if height < SMALL_FACE:
        return ReportLine("face size", "warn", value, f"The avatar will look soft; come closer, to {SMALL_FACE} pixels or more.")
    return ReportLine("face size", "pass", value)


def _sharpness(samples: list[_Sample]) -> ReportLine:
    sharpness = float(np.median([sample.sharpness for sample in samples if sample.heights]))
    if sharpness < BLURRED:
        advice = "The face is blurred; wipe the lens, add light, keep the camera still."
        return ReportLine("sharpness", "warn", f"{sharpness:.3f}", advice)
    return ReportLine("sharpness", "pass", f"{sharpness:.3f}")


def _sound(heard: bool) -> ReportLine:
    if heard:
        return ReportLine("sound", "pass", "speech can be heard")
    return ReportLine("sound", "warn", "none", "Silent clip: the picture will be trained, not the speaking style.")


def _face_sharpness(frame: np.ndarray, points: np.ndarray) -> float:
    """Variance of the Laplacian over variance of the face crop at 128 x 128: neither light nor size of the picture counts."""
    height, width = frame.shape[:2]
    left, top = np.clip(points[:, :2].min(axis=0), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(points[:, :2].max(axis=0)), (left + 1, top + 1), (width, height)).astype(int)
    grey = cv2.cvtColor(np.ascontiguousarray(frame[top:bottom, left:right]), cv2.COLOR_RGB2GRAY)
    face = cv2.resize(grey, (128, 128), interpolation=cv2.INTER_AREA).astype(np.float32)
    return float(cv2.Laplacian(face, cv2.CV_32F).var() / max(face.var(), 1.0))


@contextmanager
def _face_detector() -> Iterator[Detector]:
    def detect(frame: np.ndarray) -> list[np.ndarray]:
        height, width = frame.shape[:2]
        return [np.array([(point.x * width, point.y * height) for point in face.landmark]) for face in find(frame)]

    # Each picture by itself: seconds lie between them, and tracking would carry a face on to where it no longer is.
    with face_mesh(static_image_mode=True, max_num_faces=2) as find:
        yield detect
