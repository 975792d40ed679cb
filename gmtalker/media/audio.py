"""Reading sound: any recording as 16 kHz mono."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.filter import Graph

from gmtalker.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from gmtalker.errors import UnusableInput, UnusableSpeech, UnusableVideo

HOURS_MAX = 2  # of a recording
GAP_SECONDS_MAX = 60.0  # a longer hole in a file's clock is a broken clock, not a pause
SILENCE = 5e-4  # RMS of the loudest tenth of a second, -66 dB of full scale: below it nothing can be heard

# ffmpeg's names of the formats that hold their media themselves: a playlist, or a list of files to join, in an upload would make
# the server read other files or call other hosts.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2 matroska,webm avi mpegts mpeg mpegvideo flv asf ogg wav w64 mp3 flac aac aiff caf amr amrnb amrwb "
    "ac3 eac3 au h264 hevc mxf rm ivf dv"
).split()
# Their files do not say how long they are: ffmpeg guesses from the bit rate.
FORMATS_WITH_GUESSED_LENGTH = ("mp3", "aac", "amr", "amrnb", "amrwb", "ac3", "eac3")
_ADVICE = {
    UnusableVideo: "Please give a video such as mp4, mov or webm.",
    UnusableSpeech: "Please give speech as wav, mp3, m4a or flac.",
}


def open_media(path: Path, unusable: type[UnusableInput]) -> InputContainer:
    """Open a media file for reading, whatever its name looks like; the container is a context manager.

    unusable: the class of the error.
    Errors: `unusable`, with one sentence when the path is missing, a folder, empty or not media.
    """
    path = Path(path)
    advice = _ADVICE[unusable]
    if path.is_dir():
        raise unusable(f"{path.name or path} is a folder. {advice}")
    if not path.exists():
        raise unusable(f"There is no file {path}. {advice}")
    if not path.is_file():
        raise unusable(f"{path.name} is not a file. {advice}")
    if path.stat().st_size == 0:
        raise unusable(f"{path.name} is empty. Please save or upload it again.")
    # "file:" keeps a colon in a name from being read as a protocol, and a leading dash from being anything but a name.
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS)}
    try:
        return av.open(f"file:{path.absolute()}", container_options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise unusable(f"{path.name} is damaged or of a kind that can't be read. {advice}") from error


def picture_stream(container: InputContainer) -> av.VideoStream | None:
    """The first video stream, or None; the cover picture of a song is no video."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            return stream
    return None


def read_speech(path: Path) -> np.ndarray:
    """The sound of a recording or of a video.

    That of a video starts with its first picture: earlier sound is cut, a later start is filled with silence.

    Returns: (samples,) float32, 16 kHz, mono, full scale 1.
    Errors: UnusableSpeech when the file can't be read, is cut short, or holds no sound.
    """
    speech = read_sound_or_none(path, UnusableSpeech)
    if speech is None:
        raise UnusableSpeech(f"{Path(path).name} holds no sound. Please record it again with the microphone on.")
    return speech


def sound_seconds(path: Path) -> float:
    """Length of a speech as its file declares it, or else as read. Errors: UnusableSpeech when it can't be read."""
    with open_media(Path(path), UnusableSpeech) as container:
        declared = (container.duration or 0) / 1e6
    return declared or sum(len(piece) for piece in stream_sound(Path(path))) / SAMPLE_RATE


def read_sound_or_none(path: Path, unusable: type[UnusableInput] = UnusableVideo) -> np.ndarray | None:
    """As read_speech, but None for a file without an audio stream or with nothing audible in it.

    unusable: the class of the error.
    Errors: `unusable` when the file can't be read, or its sound is cut short.
    """
    pieces = list(stream_sound(path, unusable))
    sound = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return sound if _audible(sound) else None


def stream_sound(path: Path, unusable: type[UnusableInput] = UnusableSpeech, rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """The samples of read_speech piece by piece; none for a file without an audio stream.

    unusable: the class of the error.
    rate: Hz of the samples.
    Yields: (n,) float32.
    Errors: `unusable`, as read_sound_or_none; a file that is cut short yields its samples first.
    """
    path = Path(path)
    try:
        with open_media(path, unusable) as container:
            if container.streams.audio and container.streams.audio[0].codec_context is not None:
                yield from _aligned(container, path, unusable, rate)
    except av.FFmpegError as error:
        raise unusable(f"The sound of {path.name} is damaged. Please save or upload it again.") from error


def _aligned(container: InputContainer, path: Path, unusable: type[UnusableInput], rate: int) -> Iterator[np.ndarray]:
    """The samples from the moment of the first picture on, or all of them in a file without pictures."""
    stream = container.streams.audio[0]
    frames = _frames(container, stream)
    first = next(frames, None)
    if first is None:
        return
    start = first.time or 0.0
    origin = _first_picture_time(path) if picture_stream(container) else None
    late = 0.0 if origin is None else min(start - origin, GAP_SECONDS_MAX)
    yield np.zeros(round(max(late, 0.0) * rate), np.float32)
    declared = float(stream.duration * stream.time_base) if stream.duration else 0.0
    # The last AAC packet is filled up to its full length; mp4 says where the sound in it ends.
    exact = declared and container.format.name.startswith("mov")
    begin, end, yielded = round(max(-late, 0.0) * rate), round(declared * rate) if exact else HOURS_MAX * 3600 * rate, 0
    for piece in _steady(chain([first], frames), start, rate):
        yield piece[max(begin - yielded, 0) : max(end - yielded, 0)]
        yielded += len(piece)
        if yielded > HOURS_MAX * 3600 * rate:
            raise unusable(f"{path.name} is longer than {HOURS_MAX} hours. Please cut it into parts.")
    if container.format.name not in FORMATS_WITH_GUESSED_LENGTH and yielded / rate < 0.95 * declared - 0.5:
        heard = f"{yielded / rate:.1f} of {declared:.1f} seconds"
        raise unusable(f"The sound of {path.name} breaks off after {heard}. Please save or upload it again.")


def _steady(frames: Iterable[av.AudioFrame], clock: float, rate: int) -> Iterator[np.ndarray]:
    """Decoded audio as mono pieces (n,) float32 at one rate, with silence where the file's clock leaves a hole."""
    resampler, kind = None, None
    for frame in frames:
        gap = frame.time - clock if frame.time is not None else 0.0
        gap = gap if 1 / FPS < gap < GAP_SECONDS_MAX else 0.0
        if gap or kind != (frame.format.name, frame.layout.name, frame.sample_rate):
            yield from _resampled(resampler, None)
            yield np.zeros(round(gap * rate), np.float32)
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            resampler = av.AudioResampler(format="fltp", rate=rate)
        clock += gap + frame.samples / frame.sample_rate
        frame.pts = None  # the resampler would otherwise mend the clock its own way
        yield from _resampled(resampler, frame)
    yield from _resampled(resampler, None)


def _frames(container: InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Decoded audio; a packet that can't be decoded is left out, as players do, and its time becomes silence."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def _resampled(resampler: av.AudioResampler | None, frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
    # The mean of the channels: the resampler's own way down to mono raises two equal channels by 3 dB and clips.
    for out in resampler.resample(frame) if resampler else ():
        yield np.nan_to_num(out.to_ndarray().mean(axis=0), posinf=0.0, neginf=0.0)


def _first_picture_time(path: Path) -> float | None:
    """Seconds of the file's clock at its first picture, as decoded: what the header says can lie before a cut."""
    with open_media(path, UnusableVideo) as container:
        try:
            for frame in container.decode(picture_stream(container)):
                if frame.time is not None:
                    return float(frame.time)
        except av.FFmpegError:
            return None  # whether the picture can be used is not for the sound to judge
    return None


def _audible(sound: np.ndarray) -> bool:
    if not len(sound):
        return False
    window = min(SAMPLE_RATE // 10, len(sound))
    windows = sound[: len(sound) // window * window].reshape(-1, window)
    return bool(np.sqrt(np.square(windows).mean(axis=1)).max() >= SILENCE)


def change_tempo(waveform: np.ndarray, tempo: float) -> np.ndarray:
    """The same sound `tempo` times as fast at the same pitch: ffmpeg's atempo.

    waveform: (samples,) at 16 kHz.
    tempo: 0.5 to 100.
    Returns: (samples / tempo,) float32; what the filter holds back at the end is silence.
    """
    if tempo == 1:
        return waveform
    graph, clock = Graph(), Fraction(1, SAMPLE_RATE)
    source = graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono", time_base=clock)
    graph.link_nodes(source, graph.add("atempo", f"{tempo:.6f}"), graph.add("abuffersink")).configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform[None], np.float32), format="flt", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, clock, 0
    graph.push(frame)
    graph.push(None)
    pieces, samples = [np.zeros(0, np.float32)], round(len(waveform) / tempo)
    while True:
        try:
            pieces.append(graph.pull().to_ndarray()[0])
        except (av.error.BlockingIOError, av.error.EOFError):
            break
    changed = np.concatenate(pieces)[:samples]
    return np.pad(changed, (0, samples - len(changed)))


def silent_frames(waveform: np.ndarray, frames: int, around: int = 5) -> np.ndarray:
    """Video frames in which nothing is said, nor in `around` frames to either side.

    waveform: (samples,) at 16 kHz.
    frames: how many; a shorter waveform is silent at its end.
    Returns: (frames,) bool.
    """
    samples = frames * SAMPLES_PER_FRAME
    padded = np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))
    level = np.sqrt(np.square(padded.reshape(frames, SAMPLES_PER_FRAME)).mean(1))
    loud = (level > 0.05 * np.quantile(level, 0.95)).astype(int)
    return np.convolve(loud, np.ones(2 * around + 1, int))[around : around + frames] == 0
