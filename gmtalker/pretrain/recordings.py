"""The speech that the speech encoder learns from: sound, other voices made of it, and the teacher's states of each."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from gmtalker.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from gmtalker.errors import UnusableInput
from gmtalker.files import whole_file
from gmtalker.media.audio import read_sound_or_none
from gmtalker.models.speech_encoder import IGNORED
from gmtalker.pretrain.corpus import fit_to_frames, to_float, to_int16
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.sound_augmentation import other_voice
from gmtalker.pretrain.speech_labels import articulation_of, phone_classes, read_segments
from gmtalker.progress import OnProgress, Progress, ignore_progress

if TYPE_CHECKING:  # for types alone: transformers takes seconds to import
    from gmtalker.models.pretrained_encoder import PretrainedSpeechEncoder

VOICES = 3  # of each recording: as recorded, and two others
FRAMES_MIN, SECONDS_MAX = 8, 60  # of a recording
STATES_PER_FRAME = 2  # the teacher's clock: 50 a second


@dataclass(frozen=True)
class Recording:
    """A recording in one voice, and what is known of its frames.

    row: the clip in its set.
    voice: 0 as recorded.
    speed: at which this voice speaks, 1 as recorded.
    sound: (640 * frames,) int16.
    states: (2 * frames, width) float16, the teacher's last layer; None without a teacher.
    phones: (frames,) classes of PHONES, IGNORED where unknown.
    articulation: (frames, 3), NaN where unknown.
    labelled: whether a label file says what is spoken when.
    """

    row: Row
    voice: int
    speed: float
    sound: np.ndarray
    states: np.ndarray | None
    phones: np.ndarray
    articulation: np.ndarray
    labelled: bool = False

    @property
    def person(self) -> str:
        """Who speaks."""
        return self.row.person

    @property
    def file(self) -> str:
        """Its name within the set."""
        return self.row.file

    @property
    def waveform(self) -> np.ndarray:
        """(640 * frames,) float32."""
        return to_float(self.sound)

    def __len__(self) -> int:
        return len(self.sound) // SAMPLES_PER_FRAME


def read_recordings(
    rows: Sequence[Row],
    cache: Path,
    teacher: PretrainedSpeechEncoder | None,
    voices: int = VOICES,
    on_progress: OnProgress = ignore_progress,
) -> list[Recording]:
    """The training seconds of every clip in which somebody speaks, in several voices; files that can't be read are left out.

    cache: folder that keeps sounds and states.
    teacher: None leaves states out.
    """
    spoken, recordings = [row for row in rows if row.speech], []
    for number, row in enumerate(spoken):
        on_progress(Progress("listening to recordings", number, len(spoken)))
        for voice in range(voices):
            recording = _read(row, voice, Path(cache) / "recordings", teacher)
            if recording is not None:
                recordings.append(recording)
    return recordings


def _read(row: Row, voice: int, cache: Path, teacher: PretrainedSpeechEncoder | None) -> Recording | None:
    """One voice of a recording; None for one that can't be read or is too short."""
    folder = zlib.crc32(str(row.path.resolve().parent).encode())  # two sets may each have a 00001.wav
    path = cache / f"{row.dataset}_{row.file.replace('/', '_')}_{folder:08x}.{voice}.safetensors"
    if not path.exists():
        try:
            sound = read_sound_or_none(row.heard_in)
        except UnusableInput:
            return None
        sound = np.zeros(0, np.float32) if sound is None else sound[: int(min(row.train_seconds, SECONDS_MAX) * SAMPLE_RATE)]
        sound, speed = (sound / max(1.0, float(np.abs(sound).max(initial=0)))), 1.0
        if voice and len(sound):
            seed = int.from_bytes(hashlib.sha256(f"{row.file} {voice}".encode()).digest()[:4], "big")
            sound, speed = other_voice(sound, np.random.default_rng(seed))
        frames = len(sound) // SAMPLES_PER_FRAME
        stored = {"sound": to_int16(fit_to_frames(sound, frames)), "speed": np.array([speed], np.float32)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            save_file(stored, str(unfinished))
    stored = load_file(str(path))
    if len(stored["sound"]) < FRAMES_MIN * SAMPLES_PER_FRAME:
        return None
    states = None if teacher is None else _states(stored["sound"], path.with_suffix(".states"), teacher)
    speed, frames = float(stored["speed"][0]), len(stored["sound"]) // SAMPLES_PER_FRAME
    phones, articulation = _labels(row, speed, frames)
    labelled = not np.isnan(articulation).all()
    return Recording(row, voice, speed, stored["sound"], states, phones, articulation, labelled)


def _states(sound: np.ndarray, path: Path, teacher: PretrainedSpeechEncoder) -> np.ndarray:
    """(2 * frames, width) float16 states of the teacher; cached."""
    if not path.exists():
        states = teacher.layer_states(torch.from_numpy(to_float(sound)))[-1].half().numpy()
        with whole_file(path) as unfinished:
            save_file({"states": np.ascontiguousarray(states)}, str(unfinished))
    return load_file(str(path))["states"]


def _labels(row: Row, speed: float, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Phones (frames,) and articulation (frames, 3) from a recording's label file, where it has one."""
    for path in (row.set_folder / "phones" / f"{row.path.stem}xx.lablaut", row.path.parent / "phones" / f"{row.path.stem}.lab"):
        if path.is_file():
            segments = [(start / speed, end / speed, name) for start, end, name in read_segments(path)]
            return phone_classes(segments, frames), articulation_of(segments, frames)
    return np.full(frames, IGNORED, np.int64), np.full((frames, 3), np.nan, np.float32)
