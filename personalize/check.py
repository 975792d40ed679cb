"""The report on a clip: whether one face is well in view, talks and moves, and what to film better."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch

from gmtalker.assets import GENERIC
from gmtalker.clock import EMOTIONS, FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from gmtalker.face.lips import lip_opening
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import choose_crop, detect_landmarks, face_heights, face_mesh, fill_and_smooth, in_crop, measure_shape
from gmtalker.media.audio import read_sound_or_none, silent_frames
from gmtalker.media.video import VideoInfo, read_frames, read_info
from gmtalker.tracks import FaceTrack, count_blinks
from personalize.looks import LookPicture
from personalize.request import HELD_OUT_SECONDS_MAX, HELD_OUT_SHARE, PRESETS, size_for
from personalize.sound_sync import SpokenFootage, footage_sync, is_another_voice, sound_lag

if TYPE_CHECKING:  # for types alone: diffusers and its libraries take ten seconds, which a check need not wait for
    from gmtalker.pipeline import GMTalkerPipeline

# Below the first limit of a pair the clip fails, below the second the report warns.
SECONDS_MIN, SECONDS_GOOD = 3.0, 20.0  # seconds
SIDE_MIN, SIDE_GOOD = 128, 256  # pixels of the picture's shorter side
FACE_MIN, FACE_GOOD = 60, 100  # pixels from the forehead to the chin
FOUND_MIN, FOUND_GOOD = 0.5, 0.9  # share of the sampled frames that show a face
SAMPLES_PER_SECOND, SAMPLES_MAX = 2.0, 60
SECOND_FACE_SHARE = 0.1  # of the sampled frames that may show a second face
SECOND_FACE_HEIGHT = 0.4  # of the first one's; smaller ones are posters, or errors of the detector
# Real clips of faces measured 0.03 to 0.5, the same clips blurred by a fiftieth of the face's height 0.003 to 0.013.
SHARPNESS_MIN = 0.02
STRETCH_SECONDS = 12.0  # that are examined frame by frame, for what only consecutive frames show
STRETCH_SIDE_MAX = 720  # pixels of the longer side of those frames
BRIGHTNESS_MIN, BRIGHTNESS_MAX = 60, 215  # of 255, mean of the face
ROTATION_DEVIATION_MIN, ROTATION_MAX = 0.8, 35.0  # degrees of yaw and pitch
LIP_DEVIATION_MIN = 0.012  # of the lip opening in eye distances, below which nobody talks
BLINKS_MIN = 3  # a minute
LOUDNESS_MIN, SIGNAL_TO_NOISE_MIN = -38.0, 12.0  # dB: speech below full scale; speech above the noise of the room
CUT_CHANGE = 12.0  # of 255, by which the mean pixel changes at a cut
LAG_MAX = 1.5  # frames by which sound and picture may be apart

Status = Literal["pass", "warn", "fail"]
Detector = Callable[[np.ndarray], list[np.ndarray]]  # a frame to the points (n, 2 or 3) in pixels of each face in it


@dataclass(frozen=True)
class ReportLine:
    """One line of a report.

    name: what was examined.
    value: what was found.
    advice: how to do better; empty on a pass.
    """

    name: str
    status: Status
    value: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """The report on one clip.

    clip: file name.
    seconds: length of the clip.
    reading_seconds: that finding the face in all of it will take on this machine.
    overlay: (h, w, 3) uint8, a few frames with the points that the tracker found; None where it found no face.
    face_height: from the forehead to the chin, in pixels; 0 where no face was found.
    look: what is around the face, by which clips of other rooms are told; None where no face was found.
    """

    clip: str
    lines: list[ReportLine]
    seconds: float = 0.0
    reading_seconds: float = 0.0
    overlay: np.ndarray | None = None
    face_height: float = 0.0
    look: LookPicture | None = None

    @property
    def failed(self) -> bool:
        """Whether the clip can't be trained on."""
        return any(line.status == "fail" for line in self.lines)

    def to_json(self) -> dict:
        """{"clip", "failed", "lines": [{"name", "status", "value", "advice"}]}, ready for json.dumps."""
        return {"clip": self.clip, "failed": self.failed, "lines": [asdict(line) for line in self.lines]}


@dataclass(frozen=True)
class _Sample:
    """One sampled frame: its time in seconds, the face heights in pixels (largest first), sharpness and brightness."""

    second: float
    heights: list[float]
    sharpness: float
    brightness: float


@dataclass(frozen=True)
class _Stretch:
    """Consecutive frames: their points (frames, 478, 3), found (frames,), the seconds that tracking took, the track if any."""

    frames: list[np.ndarray]
    points: np.ndarray
    found: np.ndarray
    seconds: float
    track: FaceTrack | None = None


def check_clip(path: Path, detect: Detector | None = None, pipeline: GMTalkerPipeline | None = None) -> Report:
    """Examine two frames a second, 60 at most, the first seconds frame by frame, and the sound.

    detect: finds the faces in a frame; None for MediaPipe.
    pipeline: tells whether sound and picture are apart; None leaves that line out.
    Errors: UnusableVideo when the clip can't be read to its end.
    """
    if detect is None:
        with _face_detector() as detect:
            return check_clip(path, detect, pipeline)
    path = Path(path)
    info = read_info(path)
    samples, frames = _sample(path, info, detect)
    sound = read_sound_or_none(path)
    lines = [ReportLine("readable", "pass", f"{info.fps:.4g} frames per second"), _length(info), _size(info), _found(samples)]
    if not any(sample.heights for sample in samples):
        return Report(path.name, [*lines, _sound(sound is not None)], info.seconds)
    lines += [_one_person(samples), _face_size(samples), _sharpness(samples), _light(samples)]
    stretch = _track(frames)
    if stretch.found.any():
        lines += [_pose(stretch), _blinks(stretch), _lips(stretch), _cuts(stretch)]
    lines.append(_sound(sound is not None))
    if sound is not None:
        lines += [*_loudness(sound), *(_synchrony(stretch, sound, pipeline) if pipeline and stretch.found.any() else [])]
    lines.append(_used(info, samples))
    reading = info.seconds * FPS * stretch.seconds / max(len(frames), 1)
    first = int(stretch.found.argmax())
    look = LookPicture.of(stretch.frames[first], stretch.points[first]) if stretch.found.any() else None
    return Report(path.name, lines, info.seconds, reading, _overlay(stretch), _height(samples), look)


def _sample(path: Path, info: VideoInfo, detect: Detector) -> tuple[list[_Sample], list[np.ndarray]]:
    """Samples of the whole clip, and the frames of its first seconds."""
    every = 1 / min(SAMPLES_PER_SECOND, SAMPLES_MAX / max(info.seconds, 1.0))  # seconds
    samples, frames, due = [], [], 0.0
    for index, frame in enumerate(read_frames(path)):
        if index < STRETCH_SECONDS * FPS:
            zoom = min(1.0, STRETCH_SIDE_MAX / max(frame.shape[:2]))  # 12 seconds of a phone's own size would fill the memory
            frames.append(frame if zoom == 1 else cv2.resize(frame, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA))
        if index / FPS < due or len(samples) == SAMPLES_MAX:
            continue
        due += every
        faces = sorted(detect(frame), key=lambda points: -face_heights(points))
        heights = [float(face_heights(points)) for points in faces]
        face = _cut_face(frame, faces[0]) if faces else None
        sharpness, brightness = (0.0, 0.0) if face is None else (_face_sharpness(face), float(face.mean()))
        samples.append(_Sample(index / FPS, heights, sharpness, brightness))
    return samples, frames


def _track(frames: list[np.ndarray]) -> _Stretch:
    started = time.perf_counter()
    points, found = detect_landmarks(frames)
    seconds = time.perf_counter() - started
    if not found.any():
        return _Stretch(frames, points, found, seconds)
    model, points = FaceModel.load(GENERIC / "face_model"), fill_and_smooth(points, found)
    height, width = frames[0].shape[:2]
    crop_points = in_crop(points, choose_crop(points, width, height))
    shape = measure_shape(model, crop_points[found])
    return _Stretch(frames, points, found, seconds, model.track(crop_points, shape, 1.0, found))


def _length(info: VideoInfo) -> ReportLine:
    value = f"{info.seconds:.1f} seconds"
    if info.seconds < SECONDS_MIN:
        advice = f"Film at least {SECONDS_MIN:.0f} seconds; 1 to 3 minutes of talking are best."
        return ReportLine("length", "fail", value, advice)
    if info.seconds < SECONDS_GOOD:
        return ReportLine("length", "warn", value, "A short clip shows few mouth shapes; 1 to 3 minutes of talking are best.")
    return ReportLine("length", "pass", value)


def _size(info: VideoInfo) -> ReportLine:
    value, side = f"{info.width} x {info.height} pixels", min(info.width, info.height)
    if side < SIDE_MIN:
        return ReportLine("size", "fail", value, f"Film with at least {SIDE_GOOD} pixels on the shorter side.")
    if side < SIDE_GOOD:
        return ReportLine("size", "warn", value, f"The avatar will look soft; film with {SIDE_GOOD} pixels on the shorter side.")
    return ReportLine("size", "pass", value)


def _found(samples: list[_Sample]) -> ReportLine:
    share = sum(bool(sample.heights) for sample in samples) / len(samples)
    missing = next((sample.second for sample in samples if not sample.heights), 0.0)
    value = f"in {share:.0%} of the frames"
    if share < FOUND_MIN:
        return ReportLine("face found", "fail", value, "Film the face close and from the front, in good light.")
    if share < FOUND_GOOD:
        advice = f"Second {missing:.0f} shows no face; such frames are left out of the training."
        return ReportLine("face found", "warn", value, advice)
    return ReportLine("face found", "pass", value)


def _one_person(samples: list[_Sample]) -> ReportLine:
    two = [s for s in samples if len(s.heights) > 1 and s.heights[1] >= SECOND_FACE_HEIGHT * s.heights[0]]
    share = len(two) / len(samples)
    if share > SECOND_FACE_SHARE:
        advice = f"Second {two[0].second:.0f} shows 2 faces. Please film exactly one person."
        return ReportLine("one person", "fail", f"2 faces in {share:.0%} of the frames", advice)
    return ReportLine("one person", "pass", "1 face")


def _height(samples: list[_Sample]) -> float:
    """Of the largest face, in pixels."""
    return float(np.median([sample.heights[0] for sample in samples if sample.heights]))


def _face_size(samples: list[_Sample]) -> ReportLine:
    height = _height(samples)
    value = f"{height:.0f} pixels high"
    if height < FACE_MIN:
        return ReportLine("face size", "fail", value, f"Come closer: the face should be at least {FACE_GOOD} pixels high.")
    if height < FACE_GOOD:
        return ReportLine("face size", "warn", value, f"The avatar will look soft; come closer, to {FACE_GOOD} pixels or more.")
    size = size_for(height, PRESETS["standard"])
    return ReportLine("face size", "pass", f"{value}: drawn at {size} pixels" + (", 256 as a draft" if size > 256 else ""))


def _sharpness(samples: list[_Sample]) -> ReportLine:
    sharpness = float(np.median([sample.sharpness for sample in samples if sample.heights]))
    if sharpness < SHARPNESS_MIN:
        advice = "The face is blurred; wipe the lens, add light, keep the camera still."
        return ReportLine("sharpness", "warn", f"{sharpness:.3f}", advice)
    return ReportLine("sharpness", "pass", f"{sharpness:.3f}")


def _sound(audible: bool) -> ReportLine:
    if audible:
        return ReportLine("sound", "pass", "speech can be heard")
    return ReportLine("sound", "warn", "none", "Silent clip: the picture will be trained, not the speaking style.")


def _used(info: VideoInfo, samples: list[_Sample]) -> ReportLine:
    """How much is trained on: the frames with a face, without the last part, on which the avatar is measured."""
    found = info.seconds * sum(bool(sample.heights) for sample in samples) / len(samples)
    held_out = min(HELD_OUT_SHARE * info.seconds, HELD_OUT_SECONDS_MAX)
    value = f"{max(found - held_out, 0):.0f} seconds to learn from, {held_out:.0f} to measure with"
    return ReportLine("used", "pass", value)


def _light(samples: list[_Sample]) -> ReportLine:
    light = float(np.median([sample.brightness for sample in samples if sample.heights]))
    value = f"{light / 255:.0%} bright"
    if light < BRIGHTNESS_MIN:
        return ReportLine("light", "warn", value, "The face is dark; turn to a window or a lamp.")
    if light > BRIGHTNESS_MAX:
        return ReportLine("light", "warn", value, "The face is overexposed; move away from the lamp or lower the exposure.")
    return ReportLine("light", "pass", value)


def _pose(stretch: _Stretch) -> ReportLine:
    rotation = np.degrees(stretch.track.motion.rotation.numpy()[stretch.found, :2])
    spread, farthest = rotation.std(0), float(np.abs(rotation).max())
    value = f"turns by {spread[0]:.1f}° and nods by {spread[1]:.1f}°"
    if farthest > ROTATION_MAX:
        return ReportLine("head", "warn", value, "The head turns far to the side at times; look towards the camera.")
    if max(spread) < ROTATION_DEVIATION_MIN:
        return ReportLine("head", "warn", value, "The head hardly moves; talk as you do with a friend, and the avatar moves too.")
    return ReportLine("head", "pass", value)


def _blinks(stretch: _Stretch) -> ReportLine:
    rate = 60 * FPS * count_blinks(stretch.track.motion.blink.mean(1).numpy()) / len(stretch.points)
    value = f"{rate:.0f} a minute" if rate else "none found"
    if rate < BLINKS_MIN:
        return ReportLine("blinks", "warn", value, "Blink as usual, or the avatar can't learn how closed eyes look.")
    return ReportLine("blinks", "pass", value)


def _lips(stretch: _Stretch) -> ReportLine:
    spread = float(lip_opening(stretch.points[stretch.found]).std())
    value = f"opening varies by {100 * spread:.0f} % of the distance between the eyes"
    if spread < LIP_DEVIATION_MIN:
        return ReportLine("lips", "warn", value, "The lips hardly move; talk clearly, without long pauses.")
    return ReportLine("lips", "pass", value)


def _cuts(stretch: _Stretch) -> ReportLine:
    small = [cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) for frame in stretch.frames]
    changes = np.array([np.abs(b - a).mean() for a, b in pairwise(small)])
    cuts = int(((changes > CUT_CHANGE) & (changes > 8 * np.median(changes))).sum()) if len(changes) else 0
    if cuts:
        return ReportLine("cuts", "warn", f"{cuts} in the first seconds", "Movement is learned best from one take without cuts.")
    return ReportLine("cuts", "pass", "none in the first seconds")


def _loudness(sound: np.ndarray) -> list[ReportLine]:
    """How loud the speech is, and how far above the noise of the room."""
    whole = len(sound) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
    energy = np.square(sound[:whole].reshape(-1, SAMPLES_PER_FRAME)).mean(1)
    if not len(energy):
        return []
    level = 10 * np.log10(np.maximum(np.quantile(energy, (0.1, 0.9)), 1e-10))
    silent, loud = (float(value) for value in level)
    value = f"{loud:.0f} dB"
    if loud < LOUDNESS_MIN:
        lines = [ReportLine("loudness", "warn", value, "The voice is quiet; come closer to the microphone.")]
    else:
        lines = [ReportLine("loudness", "pass", value)]
    above = f"speech {loud - silent:.0f} dB above the room"
    if loud - silent < SIGNAL_TO_NOISE_MIN:
        return [*lines, ReportLine("noise", "warn", above, "The room is noisy; film in a quieter one, or close the window.")]
    return [*lines, ReportLine("noise", "pass", above)]


def _synchrony(stretch: _Stretch, sound: np.ndarray, pipeline: GMTalkerPipeline) -> list[ReportLine]:
    """Whether sound and lips are together, as far as that is known."""
    track = stretch.track
    features = pipeline.encode(sound[: int(STRETCH_SECONDS * SAMPLE_RATE)]).cpu()
    count = min(len(track), len(features))
    usable = stretch.found[:count] & ~silent_frames(sound, count)
    emotion = torch.eye(len(EMOTIONS))[:1].expand(count, -1)
    footage = SpokenFootage(track.expression.coefficients[:count], features[:count], usable, emotion, [0])
    if is_another_voice(footage_sync(footage, pipeline.face_model)):
        advice = "The lips say something else: the voice is dubbed, or somebody out of the picture speaks. Use its own sound."
        return [ReportLine("sound with lips", "warn", "the sound is not this mouth's", advice)]
    lag = sound_lag(pipeline.expression_generator, footage, pipeline.face_model)
    value = f"sound {abs(1000 * lag / FPS):.0f} ms {'late' if lag > 0 else 'early'}" if abs(lag) >= 0.5 else "together"
    if abs(lag) > LAG_MAX:
        return [ReportLine("sound with lips", "warn", value, "The training corrects it.")]
    return [ReportLine("sound with lips", "pass", value)]


def _overlay(stretch: _Stretch, pictures: int = 4, height: int = 180) -> np.ndarray | None:
    """A few frames side by side, with the points that the tracker found in them."""
    detected = np.flatnonzero(stretch.found)
    if not len(detected):
        return None
    drawn = []
    for index in detected[np.linspace(0, len(detected) - 1, min(pictures, len(detected))).astype(int)]:
        frame = stretch.frames[index]
        zoom = height / frame.shape[0]
        small = cv2.resize(frame, (max(1, round(frame.shape[1] * zoom)), height), interpolation=cv2.INTER_AREA)
        for x, y in stretch.points[index, :, :2] * zoom:
            cv2.circle(small, (int(x), int(y)), 1, (45, 212, 191), -1)
        drawn.append(small)
    return np.concatenate(drawn, axis=1)


def _cut_face(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The box around a face as (128, 128) uint8 grey."""
    height, width = frame.shape[:2]
    left, top = np.clip(points[:, :2].min(axis=0), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(points[:, :2].max(axis=0)), (left + 1, top + 1), (width, height)).astype(int)
    grey = cv2.cvtColor(np.ascontiguousarray(frame[top:bottom, left:right]), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (128, 128), interpolation=cv2.INTER_AREA)


def _face_sharpness(face: np.ndarray) -> float:
    """Variance of the Laplacian over variance of a face, independent of the light and of the picture's size."""
    face = face.astype(np.float32)
    return float(cv2.Laplacian(face, cv2.CV_32F).var() / max(face.var(), 1.0))


@contextmanager
def _face_detector() -> Iterator[Detector]:
    def detect(frame: np.ndarray) -> list[np.ndarray]:
        height, width = frame.shape[:2]
        return [np.array([(point.x * width, point.y * height) for point in face.landmark]) for face in find(frame)]

    # Each frame by itself: they are seconds apart, and tracking would find a face where it no longer is.
    with face_mesh(static_image_mode=True, max_num_faces=2) as find:
        yield detect
