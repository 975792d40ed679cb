"""Video in and out: PyAV reads whatever people upload, ffmpeg writes H.264 + AAC while the frames are still being made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import av
import cv2
import imageio_ffmpeg
import numpy as np
from av.container import InputContainer

from gmtalker.audio import FORMATS_WITH_GUESSED_LENGTH, open_media, picture_stream, stream_sound
from gmtalker.errors import UnusableInput, UnusableSpeech, UnusableVideo
from gmtalker.models.mel import SAMPLE_RATE
from gmtalker.tracks import FPS

LARGEST_SIDE = 8192  # pixels; past 8K a file is a mistake or an attack on the memory
LARGEST_HOLE = 60.0  # seconds; a longer jump in a file's clock is a broken clock, not a held picture
WRITTEN_SAMPLE_RATE = 48_000  # players and editors expect it; 16 kHz would also cut the voice's upper half

LIVE_FRAGMENT = 400_000  # microseconds of a growing file that become playable at a time


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself, seen upright and with square pixels."""

    width: int
    height: int
    seconds: float
    fps: float
    has_sound: bool


def read_info(path: Path) -> VideoInfo:
    """Size in pixels, length in seconds and pictures a second of a video; decodes one picture.

    Errors: UnusableVideo when the file is not a video.
    """
    with open_media(path, UnusableVideo) as container:
        stream = _moving_pictures(container, path)
        first = next(_decoded(container, stream), None)
        if first is None:
            raise UnusableVideo(f"{Path(path).name} holds no picture that can be read. Please save or upload it again.")
        width, height = _upright(np.empty(_square_size(first, stream)[::-1]), _matrix(first)).shape[1::-1]
        has_sound = any(sound.codec_context is not None for sound in container.streams.audio)
        return VideoInfo(width, height, _declared_seconds(container, stream) or _scanned_seconds(path), _rate(stream), has_sound)


def read_frames(path: Path, fps: float = FPS) -> Iterator[np.ndarray]:
    """Frames (height, width, 3) uint8 RGB, upright, square pixels, resampled to `fps` by their timestamps.

    Frame k is what a player shows at k / fps seconds after the first picture. Only frames that are given out are converted.
    Errors: UnusableVideo when the file is not a video, is damaged, or ends before its container says it does; a file that is
    cut short gives its frames first and raises at its end.
    """
    name = Path(path).name
    with open_media(path, UnusableVideo) as container:
        stream = _moving_pictures(container, path)
        usual = 1 / _rate(stream)  # seconds from picture to picture
        slack = 0.25 * min(usual, 1 / fps)  # clocks written in milliseconds jitter: a tick may come a little early
        clock, last_time, index, previous, converted = 0.0, None, 0, None, None
        size = matrix = None
        for frame in _decoded(container, stream):
            if previous is None:
                size, matrix = _square_size(frame, stream), _matrix(frame)  # later pictures may differ: all get the first's size
            else:
                step = frame.time - last_time if frame.time is not None and last_time is not None else usual
                clock += max(step, 0.0) if -1 < step < LARGEST_HOLE else usual
                while index / fps < clock - slack:
                    converted = _picture(previous, size, matrix) if converted is None else converted
                    yield converted
                    index += 1
            previous, converted, last_time = frame, None, frame.time
        if previous is None:
            raise UnusableVideo(f"{name} holds no picture that can be read. Please save or upload it again.")
        shown = float(previous.duration * previous.time_base) if previous.duration else usual
        end = clock + (shown if 0 < shown < LARGEST_HOLE else usual)
        while index == 0 or index / fps < end - slack:
            converted = _picture(previous, size, matrix) if converted is None else converted
            yield converted
            index += 1
        declared = _declared_seconds(container, stream)
    if end < 0.95 * declared - 0.5 and _scanned_seconds(path) < 0.95 * declared - 0.5:
        raise UnusableVideo(f"{name} breaks off after {end:.1f} of {declared:.1f} seconds. Please save or upload it again.")


def _moving_pictures(container: InputContainer, path: Path) -> av.VideoStream:
    stream, name = picture_stream(container), Path(path).name
    if stream is None:
        raise UnusableVideo(f"{name} holds no pictures. Please give a video, not a sound file.")
    if max(stream.width, stream.height) > LARGEST_SIDE:
        raise UnusableVideo(
            f"{name} is {stream.width} x {stream.height} pixels. Please scale it down to {LARGEST_SIDE} on a side or less."
        )
    stream.codec_context.options = {"max_pixels": str(LARGEST_SIDE**2)}  # a stream may change its size on the way
    stream.thread_type = "AUTO"
    return stream


def _decoded(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Pictures in order of time. A few that can't be decoded are left out, as players do; more than a tenth is an error."""
    good, bad, name = 0, 0, Path(container.name.removeprefix("file:")).name
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                bad += 1
                continue
            for frame in frames:
                good, bad = good + (not frame.is_corrupt), bad + bool(frame.is_corrupt)
                yield frame
    except av.FFmpegError as error:
        raise UnusableVideo(f"{name} is damaged. Please save or upload it again.") from error
    if bad > 0.1 * (good + bad):
        raise UnusableVideo(f"{name} is damaged: {bad} of {good + bad} pictures are broken. Please save or upload it again.")


def _rate(stream: av.VideoStream) -> float:
    """Pictures a second, as far as the file says: the average, or FPS when it says nothing possible."""
    rate = float(stream.average_rate or stream.guessed_rate or FPS)
    return rate if 0.1 <= rate <= 1000 else float(FPS)


def _declared_seconds(container: InputContainer, stream: av.VideoStream) -> float:
    """Seconds of picture the container promises; 0 when it does not say (a browser's recording) or only guesses."""
    if container.format.name in FORMATS_WITH_GUESSED_LENGTH:
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # how Matroska tells a single stream's length
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    except ValueError:
        return (container.duration or 0) / av.time_base


def _scanned_seconds(path: Path) -> float:
    """Seconds from the first to the end of the last packet of any stream, without decoding."""
    first, last = float("inf"), 0.0
    with open_media(path, UnusableVideo) as container:
        for packet in container.demux():
            moment = packet.pts if packet.pts is not None else packet.dts
            if moment is not None and packet.size:
                first = min(first, float(moment * packet.time_base))
                last = max(last, float((moment + (packet.duration or 0)) * packet.time_base))
    return max(last - first, 0.0)


def _square_size(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, int]:
    """(width, height) before turning upright, the width stretched so that pixels are square."""
    aspect = float(stream.sample_aspect_ratio or 1)
    aspect = aspect if 0.25 <= aspect <= 4 else 1.0  # no camera's pixels: a wrong header
    return max(1, round(frame.width * aspect)), frame.height


def _matrix(frame: av.VideoFrame) -> np.ndarray:
    """(2, 2) display matrix: how a phone says which way up, and whether mirrored, it was held."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return np.eye(2) if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2]


def _upright(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    # The matrix sends (x, y) to (a x + c y, b x + d y); cameras write quarter turns and mirrorings, nothing between.
    (a, b), (c, d) = matrix
    if abs(b) > abs(a):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _picture(frame: av.VideoFrame, size: tuple[int, int], matrix: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(_upright(frame.to_ndarray(format="rgb24", width=size[0], height=size[1]), matrix))


def write_picture(path: Path, picture: np.ndarray) -> None:
    """A picture (height, width, 3) uint8 RGB to a jpeg file of any name."""
    written, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert written
    path.write_bytes(data.tobytes())  # imwrite can't write every name


class VideoWriter:
    """Writes frames of 25 fps, and the speech beside them, to an mp4 while they are being made; memory stays flat.

    `with VideoWriter(path, width, height, speech) as writer: writer.write(frame)`. The file appears under its name when the block
    ends without an error; otherwise nothing is left. The sound is as long as the pictures: cut, or filled with silence.

    speech: (samples,) float 16 kHz, a sound or video file (its own quality is kept), or None for a silent video. live: a second
    file, that can be watched while it grows (fragmented mp4, with the sound); it is left as far as it came. seal: the last thing
    that is done to the finished file, before it appears.
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
        seal: Callable[[Path], None] | None = None,
    ) -> None:
        if width < 1 or height < 1:
            raise ValueError(f"A video needs at least one pixel, not {width} x {height}")
        self.path, self.width, self.height, self.speech, self.fps = Path(path).absolute(), width, height, speech, fps
        self.live, self.seal = live, seal
        self.frames = 0

    def __enter__(self) -> VideoWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Beside the output, so that the finished file is renamed, not copied.
            self._folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.path.parent))
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
                self.seal(finished)
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
            for piece in pieces:
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


def _first_line(said: bytes) -> str:
    """What ffmpeg complained of first, without the "[part @ address]" before it; the rest follows from it."""
    lines = said.decode(errors="replace").strip().splitlines() or [""]
    return re.sub(r"^(\[[^]]*\]\s*)+", "", lines[0]).rstrip(".")
