"""Makes the odd videos and the speech the tests read, out of arithmetic alone, and finds the real clips where there are any."""

from __future__ import annotations

import subprocess
import wave
from fractions import Fraction
from pathlib import Path
from typing import Iterable, Sequence

import av
import imageio_ffmpeg
import numpy as np
import pytest

from gmtalker.assets import BUNDLED

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
CELL = 8  # pixels of one bit of a numbered frame
BITS = 16
MILLISECONDS = Fraction(1, 1000)


def bundled_clip(name: str) -> Path:
    """A clip of the bundled avatar, in every clone: "idle.mp4", 5 seconds of the real person, or "preview.mp4", of the avatar."""
    return BUNDLED / "grid-s1" / name


def real_clip(name: str) -> Path:
    """A clip of a real person, or a skipped test: the clips are not part of the project."""
    path = REAL / name
    if not path.exists():
        pytest.skip(f"needs the real clip {name} in ../shared/data, which is not part of the project")
    return path


def ffmpeg(*arguments: str | Path) -> None:
    """Run imageio-ffmpeg's ffmpeg; the working folder stays, so a path may start with a dash only after ./"""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def numbered(number: int) -> np.ndarray:
    """(32, 32, 3) uint8: the number as 16 black or white squares, which survives any codec."""
    bits = (number >> np.arange(BITS)) & 1
    cells = (bits.reshape(4, 4) * 255).astype(np.uint8)
    return np.repeat(np.kron(cells, np.ones((CELL, CELL), np.uint8))[..., None], 3, axis=2)


def number_of(frame: np.ndarray) -> int:
    """The number written in a frame of numbered()."""
    bits = frame[CELL // 2 :: CELL, CELL // 2 :: CELL, 0] > 127
    return int((bits.reshape(-1) << np.arange(BITS)).sum())


def quadrants(width: int = 64, height: int = 48) -> np.ndarray:
    """(height, width, 3): red top left, green top right, blue bottom left, white bottom right."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    picture[height // 2 :, width // 2 :] = 255
    return picture


def corners(picture: np.ndarray) -> str:
    """The colours of the corners, top left, top right, bottom left, bottom right, as letters: "rgbw" for quadrants()."""
    letters = {(True, False, False): "r", (False, True, False): "g", (False, False, True): "b", (True, True, True): "w"}
    spots = picture[4, 4], picture[4, -5], picture[-5, 4], picture[-5, -5]
    return "".join(letters.get(tuple(bool(value > 127) for value in spot), "?") for spot in spots)


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    speech: np.ndarray | None = None,
    keyframes: int = 12,
) -> Path:
    """A video of these frames at a rate, or each at its time in milliseconds; speech (samples,) at 16 kHz goes in as AAC."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "10"})
        stream.pix_fmt, stream.gop_size = "yuv420p", keyframes
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = MILLISECONDS
        sound = container.add_stream("aac", rate=16_000, layout="mono") if speech is not None else None
        for index, frame in enumerate(frames):
            if not index:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = (index, 1 / Fraction(rate)) if times is None else (times[index], MILLISECONDS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if sound is not None:
            for first in range(0, len(speech), 1024):
                block = speech[None, first : first + 1024].astype(np.float32)
                piece = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 16_000, first, Fraction(1, 16_000)
                container.mux(sound.encode(piece))
            container.mux(sound.encode(None))
    return path


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    """samples (n,) or (n, channels), full scale 1, as a 16-bit wav."""
    samples = samples if samples.ndim == 2 else samples[:, None]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def babble(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """(n,) float32 with the outline of speech: a buzzing voice in syllables, four a second, at a tenth of full scale."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * time + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
    return (0.1 * voice * np.clip(np.sin(2 * np.pi * 4 * time) + 0.3, 0, 1)).astype(np.float32)


def beep(seconds: float, at: float, rate: int = 16_000) -> np.ndarray:
    """(n,) float32: silence with a tenth of a second of tone that begins at one moment."""
    samples = np.zeros(round(seconds * rate), np.float32)
    first, last = round(at * rate), round((at + 0.1) * rate)
    samples[first:last] = 0.5 * np.sin(2 * np.pi * 800 * np.arange(last - first) / rate)
    return samples


def onset(samples: np.ndarray, rate: int = 16_000) -> float:
    """Seconds until the sound begins."""
    return float(np.argmax(np.abs(samples) > 0.2) / rate)
