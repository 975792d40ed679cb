"""Writing video: ffmpeg encodes pictures and sound while the frames are still being made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import wave
import zipfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import imageio_ffmpeg
import numpy as np

from gmtalker.clock import FPS, SAMPLE_RATE
from gmtalker.errors import UnusableInput, UnusableSpeech
from gmtalker.files import sweep, unfinished_prefix
from gmtalker.media.audio import stream_sound
from gmtalker.media.formats import MP4, VideoFormat

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

    def sign(self, video: Path, media_type: str) -> None:
        """Sign the finished file, of a media type."""


class VideoWriter:
    """Writes frames, and the speech beside them, to a file while they are being made; memory use stays constant.

    `with VideoWriter(path, width, height, speech) as writer: writer.write(frame)`. The file appears under its name when the block
    ends without an error; otherwise nothing is left. The sound is as long as the pictures: cut, or padded with silence.

    speech: (samples,) float at 16 kHz, a sound or video file (its own quality is kept), or None for a silent video.
    fps: frames a second.
    live: a second file that can be played while it grows (fragmented mp4, with the sound); after an error its part remains.
    seal: marks the sound, and signs the finished file before it appears.
    kind: the format; of another than MP4 nothing is written to a live file.
    Errors: UnusableInput when the file can't be written (what ffmpeg says is in the message), UnusableSpeech as read_speech.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        speech: np.ndarray | Path | None = None,
        fps: float | Fraction = FPS,
        live: Path | None = None,
        seal: FileSeal | None = None,
        kind: VideoFormat = MP4,
    ) -> None:
        if width < 1 or height < 1:
            raise ValueError(f"A video needs at least one pixel, not {width} x {height}")
        self.path, self.width, self.height, self.speech, self.fps = Path(path).absolute(), width, height, speech, fps
        self.live, self.seal, self.kind = live if kind is MP4 else None, seal, kind
        self.frames = 0
        self._pictures = f"pictures{kind.suffix}" if kind.container else "%06d.png"

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
        """Add one frame, (height, width, 3) uint8 RGB; of a format with an outline (height, width, 4)."""
        expected = (self.height, self.width, 4 if self.kind.has_alpha else 3)
        if frame.shape != expected or frame.dtype != np.uint8:
            raise ValueError(f"A frame must be {expected} uint8, not {frame.shape} {frame.dtype}")
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
            if self._joins:
                joined = subprocess.run(self._sound_command(), stdin=subprocess.DEVNULL, capture_output=True, cwd=self._folder)
                if joined.returncode != 0:
                    raise self._unwritable(_first_line(joined.stderr))
            finished = self._finished()
            if self.seal is not None and self.kind.media_type is not None:
                self.seal.sign(finished, self.kind.media_type)
            os.replace(finished, self.path)
        except OSError as error:
            raise self._unwritable(error.strerror) from error

    @property
    def _joins(self) -> bool:
        """Whether a second command brings pictures and sound together."""
        return self._sound and bool(self.kind.sound)

    def _finished(self) -> Path:
        """The whole file, under a name of its own."""
        joined = self._folder / f"video{self.kind.suffix if self.kind.container else '.wav'}"
        if self.kind.container:
            return joined if self._joins else self._folder / self._pictures
        packed = self._folder / f"frames{self.kind.suffix}"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
            for path in sorted(self._folder.glob("*.png")):
                file.write(path, path.name)
            if self._joins:
                file.write(joined, "speech.wav")
        return packed

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
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgba" if self.kind.has_alpha else "rgb24"]
        command += ["-video_size", f"{self.width}x{self.height}", "-framerate", str(Fraction(self.fps)), "-i", "pipe:0"]
        if not self.kind.video:  # the sound alone: its length is that of the pictures
            return [*command, "-f", "null", "-"]
        if self.live is not None and self._sound:
            command += ["-i", "speech.wav", "-map", "0:v", "-map", "1:a", "-c:a", "aac", "-ar", str(WRITTEN_SAMPLE_RATE)]
        filters = f"{even},{self.kind.filters}" if (right or bottom) and self.kind.container else self.kind.filters
        command += ["-filter_complex" if "[" in filters else "-vf", filters, *self.kind.video]
        if not self.kind.container:
            return [*command, "-f", "image2", self._pictures]
        if self.live is None:
            flags = ["-movflags", "+faststart"] if self.kind.is_mp4 else []
            return [*command, *flags, "-f", self.kind.container, self._pictures]
        growing = f"[f=mp4:movflags=+empty_moov+default_base_moof:frag_duration={LIVE_FRAGMENT}:flush_packets=1]live.mp4"
        maps = [] if self._sound else ["-map", "0:v"]
        whole = f"[f=mp4:movflags=+faststart:select=v]{self._pictures}"
        return [*command, *maps, "-flags", "+global_header", "-f", "tee", f"{whole}|{growing}"]

    def _sound_command(self) -> list[str]:
        # Joined when the number of frames is known: -shortest while piping leaves up to half a second too much, by chance.
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
        length = f"apad,atrim=end={float(self.frames / Fraction(self.fps)):.6f}"
        if not self.kind.container or not self.kind.video:
            return [
                *command,
                "-i",
                "speech.wav",
                "-af",
                length,
                *self.kind.sound[:2],
                "-ar",
                str(WRITTEN_SAMPLE_RATE),
                "video.wav",
            ]
        command += ["-i", self._pictures, "-i", "speech.wav", "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-af", length]
        flags = ["-movflags", "+faststart"] if self.kind.is_mp4 else []
        return [*command, *self.kind.sound, *flags, "-f", self.kind.container, f"video{self.kind.suffix}"]


def _marked(pieces: Iterable[np.ndarray], mark: PieceMark) -> Iterator[np.ndarray]:
    for piece in pieces:
        yield mark(piece)
    yield mark.flush()


def _first_line(said: bytes) -> str:
    """The first thing ffmpeg complained of, without the "[part @ address]" before it; the rest follows from it."""
    lines = said.decode(errors="replace").strip().splitlines() or [""]
    return re.sub(r"^(\[[^]]*\]\s*)+", "", lines[0]).rstrip(".")
