"""Measure the watermark: what it survives, what it costs, and whether it is found where it is not: `bench --marks`."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from skimage.metrics import peak_signal_noise_ratio

from gmtalker.assets import SPEECHES
from gmtalker.avatars.storage import list_avatars
from gmtalker.clock import EMOTIONS, SAMPLE_RATE
from gmtalker.errors import UnusableInput
from gmtalker.media.audio import read_speech
from gmtalker.media.video import read_frames
from gmtalker.media.video_writer import VideoWriter
from gmtalker.performance import Performance
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.provenance.credentials import avatar_id
from gmtalker.provenance.watermark import Watermark, coded_payload, find_mark
from gmtalker.request import SpeakRequest

VIDEOS, SECONDS = 20, 4  # that are marked, and of each
EVEN = "scale=trunc(iw/2)*2:trunc(ih/2)*2"
# What is done to each video, as options of ffmpeg.
ATTACKS = {
    "as it is written": None,
    "encoded again at crf 28": ["-crf", "28"],
    "half the size": ["-vf", f"scale=iw/2:ih/2,{EVEN}"],
    "a tenth cut off, left and top": ["-vf", f"crop=iw*0.9:ih*0.9:iw*0.1:ih*0.1,{EVEN}"],
    "a tenth cut off, right and bottom": ["-vf", f"crop=iw*0.9:ih*0.9:0:0,{EVEN}"],
    "a tenth cut off, around": ["-vf", f"crop=iw*0.9:ih*0.9,{EVEN}"],
}


def measure_mark(pipeline: GMTalkerPipeline, clips: Sequence[Path], on_progress: OnProgress = ignore_progress) -> dict:
    """Measure the watermark on videos of all avatars at hand, each with its own speech, emotion and seed.

    clips: real videos without a mark.
    Returns: "wrong_bits_of_64", of payload and check after correction, by attack; "real_clips_said_to_be_marked", false
        positives; "psnr_beside_the_unmarked", of marked against unmarked frames in dB; "cpu_ms_a_frame", CPU milliseconds per
        frame that marking takes.
    Errors: UnusableVideo for a clip that can't be read.
    Source: docs/method.md section 13.
    """
    entries = list_avatars()
    wrong: dict[str, list[int]] = {attack: [] for attack in ATTACKS}
    quality, seconds, frames = [], 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(VIDEOS):
            entry, emotion = entries[number % len(entries)], EMOTIONS[number % len(EMOTIONS)]
            on_progress(Progress(f"marking {entry.name}, {emotion}", number, VIDEOS))
            performance = _perform(pipeline, entry.folder, emotion, number)
            payload, plain = bytes.fromhex(avatar_id(performance.avatar.card)), list(performance)
            mark, began = Watermark(payload), time.process_time()
            marked = [mark(frame) for frame in plain]
            seconds, frames = seconds + time.process_time() - began, frames + len(plain)
            quality.append(float(peak_signal_noise_ratio(np.stack(plain), np.stack(marked), data_range=255)))
            written = _write(marked, Path(folder) / "written.mp4")
            for attack, options in ATTACKS.items():
                wrong[attack].append(_wrong_bits(payload, _attacked(written, options)))
    alarms = []
    for number, clip in enumerate(clips):
        on_progress(Progress(f"reading {clip.name}", number, len(clips)))
        alarms.append(find_mark(read_frames(clip)) is not None)
    return {
        "outputs": VIDEOS,
        "avatars": [entry.name for entry in entries],
        "wrong_bits_of_64": {name: {"most": max(bits), "videos_with_any": sum(map(bool, bits))} for name, bits in wrong.items()},
        "real_clips": len(alarms),
        "real_clips_said_to_be_marked": sum(alarms),
        "psnr_beside_the_unmarked": {"least": round(min(quality), 2), "mean": round(float(np.mean(quality)), 2)},
        "cpu_ms_a_frame": round(1000 * seconds / frames, 3),
    }


def _perform(pipeline: GMTalkerPipeline, avatar: Path, emotion: str, number: int) -> Performance:
    """Some seconds of a speech by an avatar; number picks the speech, where it starts, and the seed."""
    speeches = sorted(SPEECHES.glob("*.flac"))
    request = SpeakRequest(speeches[number % len(speeches)], avatar, {emotion: 0.8}, seed=number)
    return pipeline.perform(request, read_speech(request.speech)[number * 1000 :][: SECONDS * SAMPLE_RATE])


def _write(frames: Sequence[np.ndarray], path: Path) -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def _attacked(video: Path, options: Sequence[str] | None) -> Path:
    """A copy of a video after ffmpeg with these options; the video itself without any."""
    if options is None:
        return video
    attacked = video.with_name("attacked.mp4")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", "-i", str(video), *options]
    done = subprocess.run([*command, "-pix_fmt", "yuv420p", str(attacked)], capture_output=True)
    if done.returncode:
        raise UnusableInput(f"ffmpeg can't change the video ({done.stderr.decode(errors='replace').strip()[:200]}).")
    return attacked


def _wrong_bits(payload: bytes, video: Path) -> int:
    """Of the 64 of payload and check, as they are read from a video; all of them where no mark is found."""
    found = find_mark(read_frames(video))
    if found is None:
        return 64
    differ = np.frombuffer(coded_payload(payload), np.uint8) ^ np.frombuffer(coded_payload(found), np.uint8)
    return int(np.unpackbits(differ).sum())
