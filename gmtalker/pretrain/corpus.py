"""The tracked clips that the generic stages learn from: whose face, what it does, which sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Sequence

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from gmtalker.clock import FPS
from gmtalker.face.landmarks import LIPS
from gmtalker.face.model import FaceModel
from gmtalker.face.person import PersonFace
from gmtalker.face.tracking import choose_crop, detect_landmarks, fill_and_smooth, in_crop, measure_eyes, measure_neutral
from gmtalker.media.audio import read_sound_or_none, silent_frames
from gmtalker.media.video import read_frames
from gmtalker.models.mel import MEL_PER_FRAME, speech_to_mel
from gmtalker.pretrain.datasets import Row


@dataclass(frozen=True)
class Clip:
    """One tracked training clip of `frames` frames on the 25 fps clock.

    expression (frames, n), motion (frames, 10), motion_mean (10,) of the person, lips (frames, lips * 3) displacement from
    neutral in face heights, mel (4 * frames, 80) or None, silent (frames,) where nothing is said around, points
    (frames, 478, 3) in crop widths, crop (3,) in pixels.
    """

    row: Row
    person: str
    sync_ok: bool
    has_speech: bool
    expression: np.ndarray
    motion: np.ndarray
    motion_mean: np.ndarray
    mel: np.ndarray | None
    silent: np.ndarray
    lips: np.ndarray
    points: np.ndarray
    found: np.ndarray
    crop: np.ndarray
    face: PersonFace

    @property
    def file(self) -> str:
        return self.row.file

    @property
    def frames(self) -> int:
        return len(self.expression)


def load_points(row: Row, cache: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smoothed points (frames, 478, 3) in pixels, found (frames,), picture size (2,) of the row's training seconds, cached."""
    path = Path(cache) / "points" / (row.file.replace("/", "_") + ".safetensors")
    if not path.exists():
        size = np.zeros(2)

        def frames():
            for index, frame in enumerate(read_frames(row.path)):
                if index >= int(row.train_seconds * FPS):
                    return
                size[:] = frame.shape[1], frame.shape[0]
                yield frame

        points, found = detect_landmarks(frames())
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"points": points, "found": found.astype(np.uint8), "size": size}, str(path))
    stored = load_file(str(path))
    found = stored["found"].astype(bool)
    if not found.any():
        return stored["points"], found, stored["size"]
    return fill_and_smooth(stored["points"], found), found, stored["size"]


def tracked_rows(rows: Sequence[Row], cache: Path) -> Iterable[tuple[Row, np.ndarray, np.ndarray, np.ndarray]]:
    """Every video with a face in at least nine tenths of its frames: row, points, found, picture size."""
    for row in tqdm([row for row in rows if row.is_video], desc="tracking", unit="clip"):
        points, found, size = load_points(row, cache)
        if found.mean() >= 0.9 and len(points) >= FPS:
            yield row, points, found, size


def load_corpus(rows: Sequence[Row], cache: Path, model: FaceModel) -> list[Clip]:
    """The videos among training rows as clips.

    A person's neutral face and eyes are measured over all their clips of one picture size.
    """
    tracked = list(tracked_rows(rows, cache))
    people: dict[tuple, list] = {}
    for row, points, found, size in tracked:
        people.setdefault((row.person, tuple(size)), []).append((row, points, found, size))
    clips = []
    for (person, size), videos in tqdm(people.items(), desc="people", unit="person"):
        size = (int(size[0]), int(size[1]))
        every = np.concatenate([points for _, points, _, _ in videos])
        crop = choose_crop(every, *size)
        calm = np.concatenate([np.full(len(points), row.emotion == "neutral") for row, points, _, _ in videos])
        crop_points = in_crop(every, crop)
        neutral = measure_neutral(model, crop_points, calm)
        canonical = model.unpose(crop_points, model.pose(crop_points, neutral))
        eye_open, eye_closed = measure_eyes(canonical)
        face = PersonFace(
            neutral.astype(np.float32),
            np.zeros((64, 64, 3), np.uint8),
            crop_points[0].astype(np.float32),
            eye_open.astype(np.float32),
            eye_closed.astype(np.float32),
            np.zeros(10, np.float32),
            np.ones(10, np.float32),
            crop,
            np.array(size, np.float32),
        )
        tracks = [model.track(in_crop(points, crop), face, 1.0, found) for _, points, found, _ in videos]
        motions = [track.motion.stacked().numpy() for track in tracks]
        mean = np.median(np.concatenate(motions), axis=0)
        for (row, points, found, _), track, motion in zip(videos, tracks, motions):
            expression = track.expression.coefficients.numpy()
            lips = np.tensordot(expression, model.expression_basis[:, list(LIPS)], 1).reshape(len(expression), -1)
            mel, silent = _sound(row, len(points), cache)
            clips.append(
                Clip(
                    row,
                    person,
                    row.sync == "ok",
                    row.speech,
                    expression,
                    motion,
                    mean,
                    mel,
                    silent,
                    lips.astype(np.float32),
                    in_crop(points, crop).astype(np.float32),
                    found,
                    crop,
                    face,
                )
            )
    return clips


def _sound(row: Row, frames: int, cache: Path) -> tuple[np.ndarray | None, np.ndarray]:
    """(4 * frames, 80) log-mel of the clip's sound, padded with its quietest row where the sound is shorter, or None; and
    (frames,) bool, where it is silent; cached."""
    if not row.speech:
        return None, np.zeros(frames, bool)
    path = Path(cache) / "sound" / (row.file.replace("/", "_") + ".safetensors")
    if not path.exists():
        sound = read_sound_or_none(row.heard_in)
        mel, silent = np.zeros((0, 80), np.float32), np.zeros(frames, bool)
        if sound is not None:
            silent = silent_frames(sound, frames)
            mel = speech_to_mel(torch.from_numpy(sound)).numpy()[: MEL_PER_FRAME * frames]
            short = MEL_PER_FRAME * frames - len(mel)
            if short > 0:
                mel = np.concatenate([mel, np.repeat(mel.min(0, keepdims=True), short, axis=0)])
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"mel": np.ascontiguousarray(mel), "silent": silent.astype(np.uint8)}, str(path))
    stored = load_file(str(path))
    return stored["mel"] if len(stored["mel"]) else None, stored["silent"].astype(bool)
