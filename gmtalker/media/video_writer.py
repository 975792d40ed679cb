"""Writing video: ffmpeg encodes H.264 and AAC while the frames are still being made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import cv2
import imageio_ffmpeg
import numpy as np

from gmtalker.clock import FPS, SAMPLE_RATE
from gmtalker.errors import UnusableInput, UnusableSpeech
from gmtalker.files import sweep, unfinished_prefix
from gmtalker.media.audio import stream_sound

WRITTEN_SAMPLE_RATE = 48_000  # players and editors expect it; 16 kHz would also cut the voice's upper half
LIVE_FRAGMENT = 400_000  # microseconds: the growing file becomes playable in pieces of this length


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture (height, width, 3) uint8 RGB as JPEG, regardless of the file's suffix."""
    written, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert written
    path.write_bytes(data.tobytes())  # imwrite can't write every name


class PieceMark(Protocol):
    """Marks a sound that is given piece by piece."""

    def __call__(self, piece: np.ndarray) -> np.ndarray:
        """What is finished, (m,) float, of the pieces (n,) that were given."""

    def flush(self) -> np.ndarray:
        """The rest: all pieces returned are then as long as all given."""


class FileSeal(Protocol):
    """What makes a video known as ours."""

    def sound_mark(self, rate: int) -> PieceMark:
        """What marks the sound, of so many samples a second."""

    def sign(self, video: Path) -> None:
        """Sign the finished file."""


class VideoWriter:
    """Writes frames, and the speech beside them, to an mp4 while they are being made; memory use stays constant.

    `with VideoWriter(path, width, height, speech) as writer: writer.write(frame)`. The file appears under its name when the block
    ends without an error; otherwise nothing is left. The sound is as long as the pictures: cut, or padded with silence.

    speech: (samples,) float at 16 kHz, a sound or video file (its own quality is kept), or None for a silent video.
    fps: frames a second.
    live: a second file that can be played while it grows (fragmented mp4, with the sound); after an error its part remains.
    seal: marks the sound, and signs the finished file before it appears.
    Errors: UnusableInput when the file can't be written (what ffmpeg says is in the message), UnusableSpeech as read_speech.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        speech: np.ndarray | Path | None = None,
        fps: float = FPS,
        live: Path | None = None,
        seal: FileSeal | None = None,
    ) -> None:
        if width < 1 or height < 1:
            raise ValueError(f"A video needs at least one pixel, not {width} x {height}")
        self.path, self.width, self.height, self.speech, self.fps = Path(path).absolute(), width, height, speech, fps
        self.live, self.seal = live, seal
        self.frames = 0

    def __enter__(self) -> VideoWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.path.parent)
            # Beside the output, so that the finished file is renamed, not copied.
            self._folder = Path(tempfile.mkdtemp(prefix=unfinished_prefix(), dir=self.path.parent))
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        try:
            self._sound = self._write_sound()
            if self.live is not None:  # under a name of our own, as the tee of ffmpeg reads its own signs into names
                (self._folder / "live.mp4").symlink_to(Path(self.live).absolute())
            self._log = tempfile.TemporaryFile()  # not beside the output: when that disk is full, this has to say so
            self._process = subprocess.Popen(
                self._picture_command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log, cwd=self._folder
            )
        except BaseException as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise self._unwritable(error.strerror) from error
            raise
        return self

    def write(self, frame: np.ndarray) -> None:
        """Add one frame, (height, width, 3) uint8 RGB."""
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"A frame must be ({self.height}, {self.width}, 3) uint8, not {frame.shape} {frame.dtype}")
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError as error:  # ffmpeg has ended: what it said tells why
            raise self._unwritable(self._said()) from error
        self.frames += 1

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._stop()

    def _finish(self) -> None:
        if not self.frames:
            raise ValueError("A video needs at least one frame")
        try:
            self._process.stdin.close()
            if self._process.wait() != 0:
                raise self._unwritable(self._said())
            if self._sound:
                joined = subprocess.run(self._sound_command(), stdin=subprocess.DEVNULL, capture_output=True, cwd=self._folder)
                if joined.returncode != 0:
                    raise self._unwritable(_first_line(joined.stderr))
            finished = self._folder / ("video.mp4" if self._sound else "pictures.mp4")
            if self.seal is not None:
                self.seal.sign(finished)
            os.replace(finished, self.path)
        except OSError as error:
            raise self._unwritable(error.strerror) from error

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        try:
            self._process.stdin.close()
        except OSError:
            pass  # its last bytes had nowhere to go, which is why we are here
        self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _said(self) -> str:
        self._process.wait()
        self._log.seek(0)
        return _first_line(self._log.read())

    def _unwritable(self, reason: str | None) -> UnusableInput:
        return UnusableInput(f"{self.path.name} can't be written to {self.path.parent}: {reason or 'no reason given'}.")

    def _write_sound(self) -> bool:
        """speech.wav, 16 bit, in pieces; False for a silent video."""
        if self.speech is None:
            return False
        if isinstance(self.speech, np.ndarray):
            rate = SAMPLE_RATE
            pieces = (self.speech[first : first + rate] for first in range(0, len(self.speech), rate))
        else:
            rate = WRITTEN_SAMPLE_RATE
            pieces = stream_sound(Path(self.speech), UnusableSpeech, rate)
        with wave.open(str(self._folder / "speech.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            for piece in pieces if self.seal is None else _marked(pieces, self.seal.sound_mark(rate)):
                file.writeframes((np.clip(piece, -1, 1) * 32767).astype("<i2").tobytes())
        return True

    # The files of the commands are our own and stand in the folder ffmpeg runs in: no name of the person's reaches them.

    def _picture_command(self) -> list[str]:
        right, bottom = self.width % 2, self.height % 2  # yuv420p has one colour for 2 x 2 pixels: odd sizes grow by one
        even = f"pad={self.width + right}:{self.height + bottom},fillborders=right={right}:bottom={bottom}:mode=smear"
        colours = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{self.width}x{self.height}"]
        command += ["-framerate", f"{self.fps:g}", "-i", "pipe:0"]
        if self.live is not None and self._sound:
            command += ["-i", "speech.wav", "-map", "0:v", "-map", "1:a", "-c:a", "aac", "-ar", str(WRITTEN_SAMPLE_RATE)]
        command += ["-vf", f"{even},{colours}" if right or bottom else colours]
        command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-threads", "1"]
        command += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
        if self.live is None:
            return [*command, "-movflags", "+faststart", "-f", "mp4", "pictures.mp4"]
        growing = f"[f=mp4:movflags=+empty_moov+default_base_moof:frag_duration={LIVE_FRAGMENT}:flush_packets=1]live.mp4"
        maps = [] if self._sound else ["-map", "0:v"]
        whole = "[f=mp4:movflags=+faststart:select=v]pictures.mp4"
        return [*command, *maps, "-flags", "+global_header", "-f", "tee", f"{whole}|{growing}"]

    def _sound_command(self) -> list[str]:
        # Joined when the number of frames is known: -shortest while piping leaves up to half a second too much, by chance.
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
        command += ["-i", "pictures.mp4", "-i", "speech.wav", "-map", "0:v", "-map", "1:a", "-c:v", "copy"]
        command += ["-af", f"apad,atrim=end={self.frames / self.fps:.6f}"]
        command += ["-c:a", "aac", "-b:a", "128k", "-ar", str(WRITTEN_SAMPLE_RATE)]
        return [*command, "-movflags", "+faststart", "-f", "mp4", "video.mp4"]


def _marked(pieces: Iterable[np.ndarray], mark: PieceMark) -> Iterator[np.ndarray]:
    for piece in pieces:
        yield mark(piece)
    yield mark.flush()


def _first_line(said: bytes) -> str:
    """The first thing ffmpeg complained of, without the "[part @ address]" before it; the rest follows from it."""
    lines = said.decode(errors="replace").strip().splitlines() or [""]
    return re.sub(r"^(\[[^]]*\]\s*)+", "", lines[0]).rstrip(".")
