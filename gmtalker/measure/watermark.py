"""Whether the invisible mark survives what people do to videos, what it costs, and whether it is ever seen where it is not."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from gmtalker.assets import SPEECHES
from gmtalker.avatars.storage import list_avatars
from gmtalker.clock import EMOTIONS, SAMPLE_RATE
from gmtalker.errors import UnusableInput
from gmtalker.media.audio import read_speech
from gmtalker.media.video import read_frames
from gmtalker.media.video_writer import VideoWriter
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress, nobody_listens
from gmtalker.provenance.credentials import avatar_id
from gmtalker.provenance.watermark import Watermark, coded_payload, find_mark
from gmtalker.request import SpeakRequest

OUTPUTS, SECONDS = 20, 4
EVEN = "scale=trunc(iw/2)*2:trunc(ih/2)*2"
ATTACKS = {
    "as it is written": None,
    "encoded again at crf 28": ["-crf", "28"],
    "half the size": ["-vf", f"scale=iw/2:ih/2,{EVEN}"],
    "a tenth cut off, left and top": ["-vf", f"crop=iw*0.9:ih*0.9:iw*0.1:ih*0.1,{EVEN}"],
    "a tenth cut off, right and bottom": ["-vf", f"crop=iw*0.9:ih*0.9:0:0,{EVEN}"],
    "a tenth cut off, around": ["-vf", f"crop=iw*0.9:ih*0.9,{EVEN}"],
}


def measure_mark(pipeline: GMTalkerPipeline, clips: Sequence[Path], on_progress: OnProgress = nobody_listens) -> dict:
    """20 videos of all avatars at hand, in speeches, emotions and seeds of their own, each after every attack: how many of the 64
    bits (payload and check) are wrong after correction. And real clips without a mark: how many are said to hold one.

    Errors: UnusableVideo for a clip that can't be read.
    """
    speeches = sorted(SPEECHES.glob("*.flac"))
    entries = list_avatars()
    wrong: dict[str, list[int]] = {name: [] for name in ATTACKS}
    quality, mark_seconds, frames = [], 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(OUTPUTS):
            entry, emotion = entries[number % len(entries)], EMOTIONS[number % len(EMOTIONS)]
            on_progress(Progress(f"marking {entry.name}, {emotion}", number, OUTPUTS))
            request = SpeakRequest(speeches[number % len(speeches)], entry.folder, {emotion: 0.8}, seed=number)
            performance = pipeline.perform(request, read_speech(request.speech)[number * 1000 :][: SECONDS * SAMPLE_RATE])
            plain = list(performance)
            payload = bytes.fromhex(avatar_id(performance.avatar.card))
            mark, began = Watermark(payload), time.process_time()
            marked = [mark(frame) for frame in plain]
            mark_seconds, frames = mark_seconds + time.process_time() - began, frames + len(plain)
            error = np.mean([np.square(a.astype(np.float32) - b).mean() for a, b in zip(plain, marked)])
            quality.append(float(10 * np.log10(255**2 / error)))
            written = Path(folder) / "written.mp4"
            with VideoWriter(written, plain[0].shape[1], plain[0].shape[0]) as writer:
                for frame in marked:
                    writer.write(frame)
            for name, arguments in ATTACKS.items():
                wrong[name].append(_wrong_bits(payload, _attacked(written, arguments)))
    alarms = []
    for clip in clips:
        on_progress(Progress(f"reading {clip.name}"))
        alarms.append(find_mark(read_frames(clip)) is not None)
    return {
        "outputs": OUTPUTS,
        "avatars": [entry.name for entry in entries],
        "wrong_bits_of_64": {name: {"most": max(bits), "videos_with_any": sum(map(bool, bits))} for name, bits in wrong.items()},
        "real_clips": len(alarms),
        "real_clips_said_to_be_marked": sum(alarms),
        "psnr_beside_the_unmarked": {"least": round(min(quality), 2), "mean": round(float(np.mean(quality)), 2)},
        "cpu_ms_a_frame": round(1000 * mark_seconds / frames, 3),
    }


def _attacked(video: Path, arguments: Sequence[str] | None) -> Path:
    if arguments is None:
        return video
    attacked = video.with_name("attacked.mp4")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", "-i", str(video), *arguments]
    done = subprocess.run([*command, "-pix_fmt", "yuv420p", str(attacked)], capture_output=True)
    if done.returncode:
        raise UnusableInput(f"ffmpeg can't change the video ({done.stderr.decode(errors='replace').strip()[:200]}).")
    return attacked


def _wrong_bits(payload: bytes, video: Path) -> int:
    """Of the 64; all of them where no mark is found."""
    found = find_mark(read_frames(video))
    if found is None:
        return 64
    differ = np.frombuffer(coded_payload(payload), np.uint8) ^ np.frombuffer(coded_payload(found), np.uint8)
    return int(np.unpackbits(differ).sum())
