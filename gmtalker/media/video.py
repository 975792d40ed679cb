"""Reading video: whatever people upload, as upright frames with square pixels at 25 fps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from gmtalker.clock import FPS
from gmtalker.errors import UnusableVideo
from gmtalker.media.apart import apart
from gmtalker.media.colour import ToRgb, whole_pictures
from gmtalker.media.container import FORMATS_WITH_GUESSED_LENGTH, begins_at_zero, open_media, picture_stream, recordings_in

SIDE_MAX = 8192  # pixels; past 8K a file is a mistake or an attack on the memory
REORDERED_MAX = 8  # pictures between the place of one in a file and its place on the screen
LATE_BY_ORDER = 2.5  # pictures by which the first one of an AVI may be told late, as decoders give them in another order
HOLE_SECONDS_MAX = 60.0  # a longer jump in a file's clock is a broken clock, not a held picture


@dataclass(frozen=True)
class VideoInfo:
    """What a video file declares of itself.

    width, height: in pixels, upright and with square pixels.
    seconds: its length.
    fps: pictures a second.
    has_sound: whether it holds an audio stream.
    """

    width: int
    height: int
    seconds: float
    fps: float
    has_sound: bool


@apart(decoded=lambda values: VideoInfo(**values))
def read_info(path: Path) -> VideoInfo:
    """The VideoInfo of a file; decodes one picture.

    Errors: UnusableVideo when the file is not a video.
    """
    with open_media(path, UnusableVideo) as container:
        stream = _moving_pictures(container, path)
        first = next(_decoded(container, stream), None)
        if first is None:
            raise UnusableVideo(f"{Path(path).name} holds no picture that can be read. Please save or upload it again.")
        upright = _Upright(first, stream)
        width, height = upright.turned(np.empty(upright.size[::-1])).shape[1::-1]
        has_sound = any(sound.codec_context is not None for sound in container.streams.audio)
        return VideoInfo(width, height, _declared_seconds(container, stream) or _scanned_seconds(path), _rate(stream), has_sound)


@apart()
def read_frames(path: Path, fps: float = FPS, turns: int = 0) -> Iterator[np.ndarray]:
    """Frames of a video, upright, with square pixels, resampled by their timestamps.

    Frame k is what a player shows k / fps seconds after the first picture. Only frames that are yielded are converted.

    fps: frames a second to resample to.
    turns: quarter turns to the left, beyond what the file tells of how the camera was held.
    Yields: (height, width, 3) uint8 RGB.
    Errors: UnusableVideo when the file is not a video, is damaged, or ends before its container declares; a file that is cut
        short yields its frames first and raises at its end.
    """
    name = Path(path).name
    with open_media(path, UnusableVideo) as container:
        stream = _moving_pictures(container, path)
        usual = 1 / _rate(stream)  # seconds from picture to picture
        slack = 0.25 * min(usual, 1 / fps)  # clocks written in milliseconds jitter: a tick may come a little early
        clock, index, previous, converted, convert = 0.0, 0, None, None, None
        for frame, step in _timed(whole_pictures(_decoded(container, stream)), usual):
            if previous is None:
                convert = _Upright(frame, stream, turns)  # later pictures may differ: all get the first's size
                clock = _held_at_first(frame, usual) if begins_at_zero(container) else 0.0
            else:
                clock += step
                while index / fps < clock - slack:
                    converted = convert(previous) if converted is None else converted
                    yield converted
                    index += 1
            previous, converted = frame, None
        if previous is None:
            raise UnusableVideo(f"{name} holds no picture that can be read. Please save or upload it again.")
        lasts = float(previous.duration * previous.time_base) if previous.duration else usual
        end = clock + (lasts if 0 < lasts < HOLE_SECONDS_MAX else usual)
        declared = _declared_seconds(container, stream)
        shown = min(end, declared) if begins_at_zero(container) and declared else end
        while index == 0 or index / fps < shown - slack:
            converted = convert(previous) if converted is None else converted
            yield converted
            index += 1
    if end < 0.95 * declared - 0.5 and _scanned_seconds(path) < 0.95 * declared - 0.5:
        raise UnusableVideo(f"{name} breaks off after {end:.1f} of {declared:.1f} seconds. Please save or upload it again.")


def _held_at_first(first: av.VideoFrame, usual: float) -> float:
    """Seconds that the first picture of an AVI is held before the next one counts: more than what its codec's order explains."""
    late = first.time or 0.0
    return min(late - usual, HOLE_SECONDS_MAX) if late > LATE_BY_ORDER * usual else 0.0


def _timed(frames: Iterator[av.VideoFrame], usual: float) -> Iterator[tuple[av.VideoFrame, float]]:
    """Pictures in the order in which they are shown, and the seconds from the one before to each.

    A file such as AVI numbers pictures in the order in which they are decoded: the pictures come as they are shown, their times
    do not, and are put in order.
    """
    waiting: deque[av.VideoFrame] = deque()
    times: list[float] = []
    newest, last = 0.0, None

    def next_one() -> tuple[av.VideoFrame, float]:
        nonlocal last
        time = heappop(times)
        step = usual if last is None else time - last
        last = time
        return waiting.popleft(), max(step, 0.0) if -1 < step < HOLE_SECONDS_MAX else usual

    for frame in frames:
        time = newest + usual if frame.time is None else frame.time
        if time < newest - 1:  # a clock that was set back, not pictures out of order
            while waiting:
                yield next_one()
        newest = time
        waiting.append(frame)
        heappush(times, time)
        if len(waiting) > REORDERED_MAX:
            yield next_one()
    while waiting:
        yield next_one()


def _moving_pictures(container: InputContainer, path: Path) -> av.VideoStream:
    stream, name = picture_stream(container), Path(path).name
    if stream is None:
        raise UnusableVideo(f"{name} holds no pictures. Please give a video, not a sound file.")
    recordings = len(recordings_in(path, UnusableVideo))
    if recordings > 1:
        seconds = _declared_seconds(container, stream)
        raise UnusableVideo(
            f"{name} holds {recordings} recordings one after another, and only the first {seconds:.1f} seconds would be seen. "
            "Please give them as separate files."
        )
    if max(stream.width, stream.height) > SIDE_MAX:
        raise UnusableVideo(
            f"{name} is {stream.width} x {stream.height} pixels. Please scale it down to {SIDE_MAX} on a side or less."
        )
    stream.codec_context.options = {"max_pixels": str(SIDE_MAX**2)}  # a stream may change its size on the way
    stream.thread_type = "AUTO"
    return stream


def _decoded(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Pictures in order of time. A few that can't be decoded are skipped, as players do; more than a tenth is an error."""
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
    """Pictures a second: the average that the file declares, or FPS when that is missing or impossible."""
    rate = float(stream.average_rate or stream.guessed_rate or FPS)
    return rate if 0.1 <= rate <= 1000 else float(FPS)


def _declared_seconds(container: InputContainer, stream: av.VideoStream) -> float:
    """Seconds of picture that the container declares; 0 when it does not (a browser's recording) or only guesses."""
    if container.format.name in FORMATS_WITH_GUESSED_LENGTH:
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # where Matroska keeps a single stream's length
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


class _Upright:
    """Converts pictures to upright RGB with square pixels, as the first one of their video is told to be.

    size: width and height before turning upright, the width stretched so that pixels are square.
    matrix: (2, 2) display matrix: how a phone says which way up, and whether mirrored, it was held.
    """

    def __init__(self, first: av.VideoFrame, stream: av.VideoStream, turns: int = 0):
        aspect = float(stream.sample_aspect_ratio or 1)
        aspect = aspect if 0.25 <= aspect <= 4 else 1.0  # no camera's pixels: a wrong header
        self.size = max(1, round(first.width * aspect)), first.height
        data = first.side_data.get("DISPLAYMATRIX")
        self.matrix = np.eye(2) if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2]
        self.to_rgb, self.turns = ToRgb(first), turns

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(height, width, 3) uint8."""
        return np.ascontiguousarray(self.turned(self.to_rgb(frame, *self.size)))

    def turned(self, picture: np.ndarray) -> np.ndarray:
        """A picture (h, w, ...) the right way up."""
        # The matrix sends (x, y) to (a x + c y, b x + d y); cameras write quarter turns and mirrorings, nothing between.
        (a, b), (c, d) = self.matrix
        if abs(b) > abs(a):
            picture, a, d = picture.swapaxes(0, 1), c, b
        return np.rot90(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1], self.turns)
