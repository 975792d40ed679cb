"""The tracked clips that the generic stages are trained on: faces as coefficients, and their sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from gmtalker.clock import FPS, SAMPLES_PER_FRAME
from gmtalker.face.landmarks import LIPS
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import TrackedVideo, choose_crop, detect_landmarks, fill_and_smooth, in_crop, measure_shape
from gmtalker.files import whole_file
from gmtalker.media.audio import read_sound_or_none, silent_frames
from gmtalker.media.video import read_frames
from gmtalker.pretrain.datasets import Row
from gmtalker.progress import OnProgress, Progress, ignore_progress

FOUND_SHARE_MIN = 0.9  # of a clip's frames must show a face


@dataclass(frozen=True)
class TrackedClip:
    """The training part of a video, and the face found in its frames."""

    row: Row
    video: TrackedVideo

    def __len__(self) -> int:
        return len(self.video.points)

    @property
    def neutral_frames(self) -> np.ndarray:
        """(frames,) bool: all of them where the clip is labelled neutral, else none."""
        return np.full(len(self), self.row.emotion == "neutral")


@dataclass(frozen=True)
class Clip:
    """A training clip measured against its person's own neutral face; frames are on the 25 fps clock.

    row: the clip in its set.
    expression: (frames, n) coefficients.
    motion: (frames, 10) MotionTrack.stacked().
    sound: (640 * frames,) int16 at 16 kHz, None without any.
    silent: (frames,) bool, where nothing is said.
    lips: (frames, lip points * 3) displacement from the neutral face, in face heights.
    """

    row: Row
    expression: np.ndarray
    motion: np.ndarray
    sound: np.ndarray | None
    silent: np.ndarray
    lips: np.ndarray

    @property
    def file(self) -> str:
        """Its name within the set."""
        return self.row.file

    @property
    def person(self) -> str:
        """Whom it shows."""
        return self.row.person

    @property
    def filmed(self) -> str:
        """Whose face, in which set: those of one are measured together."""
        return f"{self.person} in {self.row.set_folder.name}"

    @property
    def frames(self) -> int:
        """How many it has."""
        return len(self.expression)

    @property
    def has_usable_speech(self) -> bool:
        """Whether there is speech that belongs to the picture."""
        return self.sound is not None and self.row.sync == "ok" and self.row.speech


def load_points(row: Row, cache: Path) -> TrackedVideo:
    """Find the face in the training seconds of a video.

    cache: folder that keeps the points, so that they are searched for once.
    Returns: points smoothed; NaN where no frame shows a face.
    """
    path = Path(cache) / "points" / (row.file.replace("/", "_") + ".safetensors")
    if not path.exists():
        size = np.zeros(2)

        def frames() -> Iterator[np.ndarray]:
            for index, frame in enumerate(read_frames(row.path)):
                if index >= int(row.train_seconds * FPS):
                    return
                size[:] = frame.shape[1], frame.shape[0]
                yield frame

        points, found = detect_landmarks(frames())
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            save_file({"points": points, "found": found.astype(np.uint8), "size": size}, str(unfinished))
    stored = load_file(str(path))
    points, found = stored["points"], stored["found"].astype(bool)
    width, height = stored["size"]
    return TrackedVideo(fill_and_smooth(points, found) if found.any() else points, found, (int(width), int(height)))


def tracked_clips(rows: Sequence[Row], cache: Path, on_progress: OnProgress = ignore_progress) -> Iterator[TrackedClip]:
    """Track every video; those without a face in nine tenths of their frames, or shorter than a second, are left out.

    rows: sound files among them are skipped.
    cache: as for load_points.
    """
    videos = [row for row in rows if row.is_video]
    for number, row in enumerate(videos):
        on_progress(Progress("tracking", number, len(videos)))
        video = load_points(row, cache)
        if video.found.mean() >= FOUND_SHARE_MIN and len(video.points) >= FPS:
            yield TrackedClip(row, video)


def load_corpus(rows: Sequence[Row], cache: Path, model: FaceModel, on_progress: OnProgress = ignore_progress) -> list[Clip]:
    """Measure the videos among training rows.

    A person's neutral face and eyes are measured over all their clips of one picture size.

    cache: folder that keeps points and sound.
    model: the face model whose coefficients the clips get.
    """
    cameras: dict[tuple, list[TrackedClip]] = {}
    for clip in tracked_clips(rows, cache, on_progress):
        cameras.setdefault((clip.row.person, clip.video.source_size), []).append(clip)
    clips = []
    for number, videos in enumerate(cameras.values()):
        on_progress(Progress("measuring faces", number, len(cameras)))
        clips += _measure(videos, cache, model)
    return clips


def _measure(videos: Sequence[TrackedClip], cache: Path, model: FaceModel) -> list[Clip]:
    """The clips of one person and one camera."""
    points = np.concatenate([clip.video.points for clip in videos])
    crop = choose_crop(points, *videos[0].video.source_size)
    shape = measure_shape(model, in_crop(points, crop), np.concatenate([clip.neutral_frames for clip in videos]))
    lip_basis = model.expression_basis[:, list(LIPS)]
    clips = []
    for clip in videos:
        track = model.track(in_crop(clip.video.points, crop), shape, 1.0, clip.video.found)
        expression, motion = track.expression.coefficients.numpy(), track.motion.stacked().numpy()
        lips = np.tensordot(expression, lip_basis, 1).reshape(len(expression), -1).astype(np.float32)
        clips.append(Clip(clip.row, expression, motion, *_load_sound(clip.row, len(clip), cache), lips))
    return clips


def _load_sound(row: Row, frames: int, cache: Path) -> tuple[np.ndarray | None, np.ndarray]:
    """Sound (640 * frames,) int16 of a clip or None, and (frames,) bool, where it is silent; cached.

    A sound shorter than its picture ends in silence.
    """
    if not row.speech:
        return None, np.zeros(frames, bool)
    path = Path(cache) / "waveforms" / (row.file.replace("/", "_") + ".safetensors")
    if not path.exists():
        sound = read_sound_or_none(row.heard_in)
        waveform, silent = np.zeros(0, np.int16), np.zeros(frames, bool)
        if sound is not None:
            silent, waveform = silent_frames(sound, frames), to_int16(fit_to_frames(sound, frames))
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            save_file({"waveform": waveform, "silent": silent.astype(np.uint8)}, str(unfinished))
    stored = load_file(str(path))
    return stored["waveform"] if len(stored["waveform"]) else None, stored["silent"].astype(bool)


def fit_to_frames(sound: np.ndarray, frames: int) -> np.ndarray:
    """A sound (samples,) of exactly so many video frames: cut, or with silence appended."""
    samples = frames * SAMPLES_PER_FRAME
    return np.pad(sound[:samples], (0, max(0, samples - len(sound))))


def to_int16(sound: np.ndarray) -> np.ndarray:
    """A sound of full scale 1 as 16 bits a sample; louder peaks are clipped."""
    return np.clip(np.round(32767 * sound), -32767, 32767).astype(np.int16)


def to_float(sound: np.ndarray) -> np.ndarray:
    """The inverse of to_int16."""
    return sound.astype(np.float32) / 32767
