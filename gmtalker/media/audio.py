"""Reading sound: any recording as 16 kHz mono."""

from __future__ import annotations

import math
import wave
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
from gmtalker.media.apart import apart
from gmtalker.media.container import FORMATS_WITH_GUESSED_LENGTH, begins_at_zero, open_media, picture_stream
from gmtalker.media.sound_track import SIDE_BY_SIDE, SILENCE, SoundTrack, channels_of, decoded_frames, sound_track

HOURS_MAX = 2  # of a recording
GAP_SECONDS_MAX = 60.0  # a longer hole in a file's clock is a broken clock, not a pause
HUM_HERTZ, HUM_SHARE = 70.0, 0.02  # no voice is lower; more of the energy than this below it is hum, rumble or an offset
# Level of the voice in dB below full scale: a quieter one is raised for the speech encoder; so much quieter, people are told.
QUIET, VERY_QUIET = -32.0, -50.0


def read_speech(path: Path) -> np.ndarray:
    """The sound of a recording or of a video, as a speech encoder should hear it (heard_clearly).

    That of a video starts with its first picture: earlier sound is cut, a later start is filled with silence.

    Returns: (samples,) float32, 16 kHz, mono, full scale 1.
    Errors: UnusableSpeech when the file can't be read, is cut short, or holds no sound.
    """
    speech = read_sound_or_none(path, UnusableSpeech)
    if speech is None:
        raise UnusableSpeech(f"{Path(path).name} holds no sound. Please record it again with the microphone on.")
    return speech


def write_wave(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write (samples,) float, full scale 1, as 16 bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


@apart(UnusableSpeech)
def sound_seconds(path: Path) -> float:
    """Length of a speech as its file declares it, or else as read. Errors: UnusableSpeech when it can't be read."""
    track = sound_track(Path(path), UnusableSpeech)
    with open_media(Path(path), UnusableSpeech) as container:
        declared = (container.duration or 0) / 1e6
    joined = track is not None and len(track.parts) > 1
    return declared if declared and not joined else sum(len(piece) for piece in stream_sound(Path(path))) / SAMPLE_RATE


def read_sound_or_none(path: Path, unusable: type[UnusableInput] = UnusableVideo) -> np.ndarray | None:
    """As read_speech, but None for a file without an audio stream or with nothing audible in it.

    unusable: the class of the error.
    Errors: `unusable` when the file can't be read, or its sound is cut short.
    """
    pieces = list(stream_sound(path, unusable))
    sound = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return heard_clearly(sound) if _audible(sound) else None


def heard_clearly(sound: np.ndarray) -> np.ndarray:
    """A sound without offset and hum, which fill pauses, and with a quiet voice raised; any other sound as it is.

    sound: (samples,) at 16 kHz.
    """
    if _low_share(sound) > HUM_SHARE:
        from scipy.signal import butter, sosfilt  # late: a second that opening the page, or most sounds, need not wait for

        sound = sosfilt(butter(8, HUM_HERTZ, "highpass", fs=SAMPLE_RATE, output="sos"), sound - sound.mean()).astype(np.float32)
    raised = QUIET - voice_level(sound)
    return sound if raised <= 0 else (sound * 10 ** (raised / 20)).astype(np.float32)


def _low_share(sound: np.ndarray) -> float:
    """How much of the energy of a sound (samples,) at 16 kHz lies below HUM_HERTZ."""
    low = whole = 0.0
    for first in range(0, len(sound), 60 * SAMPLE_RATE):
        energy = np.square(np.abs(np.fft.rfft(sound[first : first + 60 * SAMPLE_RATE])))
        low += float(energy[: math.ceil(HUM_HERTZ * min(60 * SAMPLE_RATE, len(sound) - first) / SAMPLE_RATE)].sum())
        whole += float(energy.sum())
    return low / max(whole, 1e-12)


def voice_level(sound: np.ndarray) -> float:
    """dB below full scale of the louder frames of a sound (samples,) at 16 kHz; -100 for silence."""
    levels = _frame_levels(sound)
    return float(20 * np.log10(max(np.quantile(levels, 0.9), 1e-5))) if len(levels) else -100.0


def what_was_heard(path: Path) -> list[str]:
    """Sentences for the person about a sound that is not plain: which track it is, that it is very quiet.

    Errors: UnusableSpeech as read_speech.
    """
    path, said = Path(path), []
    track = sound_track(path, UnusableSpeech)
    if track is not None and track.tracks > 1:
        said.append(f"{path.name} holds {track.tracks} sound tracks; number {track.index + 1} is heard.")
    if track is not None and len(track.parts) > 1:
        said.append(f"{path.name} holds {len(track.parts)} recordings one after another; all are heard.")
    if track is not None and track.level < VERY_QUIET:
        said.append(
            f"{path.name} is too quiet: {track.peak:.0f} dB at its loudest. "
            "It is heard as if it were louder; the film keeps it as it is."
        )
    return said


@apart()
def stream_sound(path: Path, unusable: type[UnusableInput] = UnusableSpeech, rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """The samples of a recording piece by piece, as they are; none for a file without an audio stream.

    unusable: the class of the error.
    rate: Hz of the samples.
    Yields: (n,) float32.
    Errors: `unusable`, as read_sound_or_none; a file that is cut short yields its samples first.
    """
    path = Path(path)
    track = sound_track(path, unusable)
    if track is None:
        return
    longest = HOURS_MAX * 3600 * rate
    try:
        for part in track.parts:
            with open_media(path, unusable, part if len(track.parts) > 1 else None) as container:
                for piece in _aligned(container, track, path, unusable, rate):
                    yield piece
                    longest -= len(piece)
                    if longest < 0:
                        raise unusable(f"{path.name} is longer than {HOURS_MAX} hours. Please cut it into parts.")
    except (av.FFmpegError, IndexError) as error:
        raise unusable(f"The sound of {path.name} is damaged. Please save or upload it again.") from error


def _aligned(
    container: InputContainer, track: SoundTrack, path: Path, unusable: type[UnusableInput], rate: int
) -> Iterator[np.ndarray]:
    """The samples from the moment of the first picture on, or all of them in a file without pictures."""
    stream = container.streams.audio[track.index]
    frames = decoded_frames(container, track.index)
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
    begin, end, yielded = round(max(-late, 0.0) * rate), round(declared * rate) if exact else HOURS_MAX * 3600 * rate + 1, 0
    for piece in _steady(chain([first], frames), track, start, rate):
        yield piece[max(begin - yielded, 0) : max(end - yielded, 0)]
        yielded += len(piece)
    if container.format.name not in FORMATS_WITH_GUESSED_LENGTH and yielded / rate < 0.95 * declared - 0.5:
        heard = f"{yielded / rate:.1f} of {declared:.1f} seconds"
        raise unusable(f"The sound of {path.name} breaks off after {heard}. Please save or upload it again.")


def _steady(frames: Iterable[av.AudioFrame], track: SoundTrack, clock: float, rate: int) -> Iterator[np.ndarray]:
    """Decoded audio as mono pieces (n,) float32 at one rate, with silence where the file's clock leaves a hole."""
    resampler, kind = None, None
    for frame in frames:
        gap = frame.time - clock if frame.time is not None else 0.0
        gap = gap if 1 / FPS < gap < GAP_SECONDS_MAX else 0.0
        if gap or kind != (frame.format.name, frame.layout.name, frame.sample_rate):
            yield from _resampled(resampler, track, None)
            yield np.zeros(round(gap * rate), np.float32)
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            resampler = av.AudioResampler(format=SIDE_BY_SIDE, rate=rate)
        clock += gap + frame.samples / frame.sample_rate
        frame.pts = None  # the resampler would otherwise mend the clock its own way
        yield from _resampled(resampler, track, frame)
    yield from _resampled(resampler, track, None)


def _resampled(resampler: av.AudioResampler | None, track: SoundTrack, frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
    # The resampler's own way down to mono raises two equal channels by 3 dB and clips.
    for out in resampler.resample(frame) if resampler else ():
        yield track.mixed(channels_of(out), out.layout.name)


def _first_picture_time(path: Path) -> float | None:
    """Seconds of the file's clock at its first picture, as decoded: what the header says can lie before a cut."""
    with open_media(path, UnusableVideo) as container:
        if begins_at_zero(container):
            return 0.0
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
    return bool(windows.std(axis=1).max() >= SILENCE)  # the deviation, not the level: a constant offset is not heard


def _frame_levels(sound: np.ndarray) -> np.ndarray:
    """(frames,) RMS of the whole video frames of a sound (samples,) at 16 kHz."""
    whole = len(sound) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
    levels: np.ndarray = np.sqrt(np.square(sound[:whole].reshape(-1, SAMPLES_PER_FRAME)).mean(1))
    return levels


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
    level = _frame_levels(padded)
    loud = (level > 0.05 * np.quantile(level, 0.95)).astype(int)
    return np.convolve(loud, np.ones(2 * around + 1, int))[around : around + frames] == 0
