"""The report card of a clip: can it be read, is one face well in view, does it talk and move, what to film better."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Callable, Iterator, Literal

import cv2
import numpy as np
import torch

from gmtalker.assets import GENERIC
from gmtalker.clock import EMOTIONS, FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from gmtalker.face.lips import lip_opening
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import choose_crop, detect_landmarks, face_mesh, fill_and_smooth, in_crop, measure_person
from gmtalker.media.audio import read_sound_or_none, silent_frames
from gmtalker.media.video import VideoInfo, read_frames, read_info
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.tracks import FaceTrack, count_blinks
from personalize.request import HELD_OUT_SECONDS_MAX, HELD_OUT_SHARE
from personalize.sound_sync import SpokenFootage, sound_lag

SAMPLES_A_SECOND, MOST_SAMPLES = 2.0, 60
SHORTEST, SHORT = 3.0, 20.0  # seconds
SMALLEST, SMALL = 128, 256  # pixels of the shorter side
RAREST, RARE = 0.5, 0.9  # share of the pictures that show a face
SMALLEST_FACE, SMALL_FACE = 60, 100  # pixels from the forehead to the chin
CROWDED = 0.1  # share of the pictures that may show a second face
SECOND_FACE = 0.4  # of the first one's height; smaller ones are posters, or ghosts the detector sees
# Real clips of faces measured 0.03 to 0.5, the same clips blurred by a fiftieth of the face's height 0.003 to 0.013.
BLURRED = 0.02
STRETCH = 12.0  # seconds that are looked at frame by frame, for what only neighbouring frames tell
LARGEST_FOLLOWED = 720  # pixels of the longer side of those frames
DARK, BRIGHT = 60, 215  # of 255, mean of the face
STILL_HEAD, FAR_TURNED = 0.8, 35.0  # degrees: deviation of yaw and pitch; the largest turn
CLOSED_LIPS = 0.012  # deviation of the lip opening in eye distances, under which nobody talks
FEWEST_BLINKS = 3  # a minute
QUIET, NOISY = -38.0, 12.0  # dB: loudness of speech below full scale; speech above the noise of the room
CUT = 12.0  # of 255: by so much the whole picture changes at a cut
LATE = 1.5  # frames by which sound and picture may be apart before it is said

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
    """Every line of one clip's report card.

    seconds: of the clip; reading_seconds: what finding the face in all of it will take on this machine; overlay: (h, w, 3) uint8,
    a few frames with the points that the tracker found.
    """

    clip: str
    lines: list[ReportLine]
    seconds: float = 0.0
    reading_seconds: float = 0.0
    overlay: np.ndarray | None = None

    @property
    def failed(self) -> bool:
        """Whether the clip can't be trained on."""
        return any(line.status == "fail" for line in self.lines)

    def to_json(self) -> dict:
        """{"clip", "failed", "lines": [{"name", "status", "value", "advice"}]}, ready for json.dumps."""
        return {"clip": self.clip, "failed": self.failed, "lines": [asdict(line) for line in self.lines]}


@dataclass(frozen=True)
class _Sample:
    """One looked-at picture: its time in seconds, the face heights in pixels (largest first), the first face's sharpness and
    mean brightness."""

    second: float
    heights: list[float]
    sharpness: float
    brightness: float


@dataclass(frozen=True)
class _Stretch:
    """Neighbouring frames: points (frames, 478, 3) smoothed, found (frames,), seconds that finding took, their track if any."""

    frames: list[np.ndarray]
    points: np.ndarray
    found: np.ndarray
    seconds: float
    track: FaceTrack | None = None


def check_clip(path: Path, detect: Detector | None = None, pipeline: GMTalkerPipeline | None = None) -> Report:
    """Look at about two pictures a second, 60 at most, at a stretch of neighbouring frames, and at the sound.

    detect: finds the faces in a frame; MediaPipe's when None. pipeline: hears whether sound and picture are apart; without one
    that is not looked at.
    Errors: UnusableVideo when the clip can't be read to its end.
    """
    if detect is None:
        with _face_detector() as detect:
            return check_clip(path, detect, pipeline)
    path = Path(path)
    info = read_info(path)
    samples, frames = _look(path, info, detect)
    sound = read_sound_or_none(path)
    lines = [ReportLine("readable", "pass", f"{info.fps:.4g} pictures a second"), _length(info), _size(info), _found(samples)]
    if not any(sample.heights for sample in samples):
        return Report(path.name, [*lines, _sound(sound is not None)], info.seconds)
    lines += [_one_person(samples), _face_size(samples), _sharpness(samples), _light(samples)]
    stretch = _follow(frames)
    if stretch.found.any():
        lines += [_pose(stretch), _blinks(stretch), _lips(stretch), _cuts(stretch)]
    lines.append(_sound(sound is not None))
    if sound is not None:
        lines += [*_loudness(sound), *(_in_step(stretch, sound, pipeline) if pipeline and stretch.found.any() else [])]
    lines.append(_used(info, samples))
    reading = info.seconds * FPS * stretch.seconds / max(len(frames), 1)
    return Report(path.name, lines, info.seconds, reading, _overlay(stretch))


def _look(path: Path, info: VideoInfo, detect: Detector) -> tuple[list[_Sample], list[np.ndarray]]:
    """Samples over the whole clip, and the frames of its first seconds."""
    every = 1 / min(SAMPLES_A_SECOND, MOST_SAMPLES / max(info.seconds, 1.0))  # seconds
    samples, frames, due = [], [], 0.0
    for index, frame in enumerate(read_frames(path)):
        if index < STRETCH * FPS:
            zoom = min(1.0, LARGEST_FOLLOWED / max(frame.shape[:2]))  # 12 seconds of a phone's own size would fill the memory
            frames.append(frame if zoom == 1 else cv2.resize(frame, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA))
        if index / FPS < due or len(samples) == MOST_SAMPLES:
            continue
        due += every
        faces = sorted(detect(frame), key=lambda points: -np.ptp(points[:, 1]))
        heights = [float(np.ptp(points[:, 1])) for points in faces]
        face = _face(frame, faces[0]) if faces else None
        sharpness, brightness = (0.0, 0.0) if face is None else (_face_sharpness(face), float(face.mean()))
        samples.append(_Sample(index / FPS, heights, sharpness, brightness))
    return samples, frames


def _follow(frames: list[np.ndarray]) -> _Stretch:
    began = time.perf_counter()
    points, found = detect_landmarks(frames)
    seconds = time.perf_counter() - began
    if not found.any():
        return _Stretch(frames, points, found, seconds)
    model, points = FaceModel.load(GENERIC / "face_model"), fill_and_smooth(points, found)
    size = (frames[0].shape[1], frames[0].shape[0])
    crop = choose_crop(points, *size)
    face = measure_person(model, points, crop, size, frames.__getitem__, found, size=64)
    return _Stretch(frames, points, found, seconds, model.track(in_crop(points, crop), face, 1.0, found))


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


def _used(info: VideoInfo, samples: list[_Sample]) -> ReportLine:
    """How much is trained on: where a face is found, without the last part, which tells how good the avatar is."""
    found = info.seconds * sum(bool(sample.heights) for sample in samples) / len(samples)
    held_out = min(HELD_OUT_SHARE * info.seconds, HELD_OUT_SECONDS_MAX)
    value = f"{max(found - held_out, 0):.0f} seconds to learn from, {held_out:.0f} to measure with"
    return ReportLine("used", "pass", value)


def _light(samples: list[_Sample]) -> ReportLine:
    light = float(np.median([sample.brightness for sample in samples if sample.heights]))
    value = f"{light / 255:.0%} bright"
    if light < DARK:
        return ReportLine("light", "warn", value, "The face is dark; turn to a window or a lamp.")
    if light > BRIGHT:
        return ReportLine("light", "warn", value, "The face is overexposed; move away from the lamp or lower the exposure.")
    return ReportLine("light", "pass", value)


def _pose(stretch: _Stretch) -> ReportLine:
    rotation = np.degrees(stretch.track.motion.rotation.numpy()[stretch.found, :2])
    spread, farthest = rotation.std(0), float(np.abs(rotation).max())
    value = f"turns by {spread[0]:.1f}° and nods by {spread[1]:.1f}°"
    if farthest > FAR_TURNED:
        return ReportLine("head", "warn", value, "The head turns far away at times; look towards the camera.")
    if max(spread) < STILL_HEAD:
        return ReportLine("head", "warn", value, "The head hardly moves; talk as you do with a friend, and the avatar moves too.")
    return ReportLine("head", "pass", value)


def _blinks(stretch: _Stretch) -> ReportLine:
    rate = 60 * FPS * count_blinks(stretch.track.motion.blink.mean(1).numpy()) / len(stretch.points)
    value = f"{rate:.0f} a minute" if rate else "none seen"
    if rate < FEWEST_BLINKS:
        return ReportLine("blinks", "warn", value, "Blink as usual; how closed eyes look can't be learned otherwise.")
    return ReportLine("blinks", "pass", value)


def _lips(stretch: _Stretch) -> ReportLine:
    spread = float(lip_opening(stretch.points[stretch.found]).std())
    value = f"open by {100 * spread:.0f} % of the distance of the eyes"
    if spread < CLOSED_LIPS:
        return ReportLine("lips", "warn", value, "The lips hardly move; talk all the time, clearly.")
    return ReportLine("lips", "pass", value)


def _cuts(stretch: _Stretch) -> ReportLine:
    small = [cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) for frame in stretch.frames]
    changes = np.array([np.abs(b - a).mean() for a, b in pairwise(small)])
    cuts = int(((changes > CUT) & (changes > 8 * np.median(changes))).sum()) if len(changes) else 0
    if cuts:
        return ReportLine("cuts", "warn", f"{cuts} in the first seconds", "One take without cuts teaches movement best.")
    return ReportLine("cuts", "pass", "none in the first seconds")


def _loudness(sound: np.ndarray) -> list[ReportLine]:
    """How loud the speech is, and how far above the room."""
    whole = len(sound) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
    energy = np.square(sound[:whole].reshape(-1, SAMPLES_PER_FRAME)).mean(1)
    if not len(energy):
        return []
    level = 10 * np.log10(np.maximum(np.quantile(energy, (0.1, 0.9)), 1e-10))
    silent, loud = (float(value) for value in level)
    value = f"{loud:.0f} dB"
    if loud < QUIET:
        lines = [ReportLine("loudness", "warn", value, "The voice is quiet; come closer to the microphone.")]
    else:
        lines = [ReportLine("loudness", "pass", value)]
    above = f"speech {loud - silent:.0f} dB above the room"
    if loud - silent < NOISY:
        return [*lines, ReportLine("noise", "warn", above, "The room is noisy; film in a quiet one, or close the window.")]
    return [*lines, ReportLine("noise", "pass", above)]


def _in_step(stretch: _Stretch, sound: np.ndarray, pipeline: GMTalkerPipeline) -> list[ReportLine]:
    """Whether the sound comes with the lips, as far as that can be heard."""
    track = stretch.track
    features = pipeline.encode(sound[: int(STRETCH * SAMPLE_RATE)]).cpu()
    count = min(len(track), len(features))
    usable = stretch.found[:count] & ~silent_frames(sound, count)
    emotion = torch.eye(len(EMOTIONS))[:1].expand(count, -1)
    footage = SpokenFootage(track.expression.coefficients[:count], features[:count], usable, emotion, [0])
    lag = sound_lag(pipeline.expression_generator, footage, pipeline.face_model)
    value = f"sound {abs(1000 * lag / FPS):.0f} ms {'late' if lag > 0 else 'early'}" if abs(lag) >= 0.5 else "together"
    if abs(lag) > LATE:
        return [ReportLine("sound with lips", "warn", value, "That is made good in training.")]
    return [ReportLine("sound with lips", "pass", value)]


def _overlay(stretch: _Stretch, pictures: int = 4, height: int = 180) -> np.ndarray | None:
    """A few frames side by side, with the points that the tracker found in them."""
    seen = np.flatnonzero(stretch.found)
    if not len(seen):
        return None
    drawn = []
    for index in seen[np.linspace(0, len(seen) - 1, min(pictures, len(seen))).astype(int)]:
        frame = stretch.frames[index]
        zoom = height / frame.shape[0]
        small = cv2.resize(frame, (max(1, round(frame.shape[1] * zoom)), height), interpolation=cv2.INTER_AREA)
        for x, y in stretch.points[index, :, :2] * zoom:
            cv2.circle(small, (int(x), int(y)), 1, (45, 212, 191), -1)
        drawn.append(small)
    return np.concatenate(drawn, axis=1)


def _face(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The box around a face as (128, 128) uint8 grey."""
    height, width = frame.shape[:2]
    left, top = np.clip(points[:, :2].min(axis=0), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(points[:, :2].max(axis=0)), (left + 1, top + 1), (width, height)).astype(int)
    grey = cv2.cvtColor(np.ascontiguousarray(frame[top:bottom, left:right]), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (128, 128), interpolation=cv2.INTER_AREA)


def _face_sharpness(face: np.ndarray) -> float:
    """Variance of the Laplacian over variance of a face: neither light nor size of the picture counts."""
    face = face.astype(np.float32)
    return float(cv2.Laplacian(face, cv2.CV_32F).var() / max(face.var(), 1.0))


@contextmanager
def _face_detector() -> Iterator[Detector]:
    def detect(frame: np.ndarray) -> list[np.ndarray]:
        height, width = frame.shape[:2]
        return [np.array([(point.x * width, point.y * height) for point in face.landmark]) for face in find(frame)]

    # Each picture by itself: seconds lie between them, and tracking would carry a face on to where it no longer is.
    with face_mesh(static_image_mode=True, max_num_faces=2) as find:
        yield detect
