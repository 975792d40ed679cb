"""Which sound track of a file is spoken, and how its channels become one: looked at once, before anything is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from gmtalker.errors import UnusableInput
from gmtalker.media.apart import apart
from gmtalker.media.container import Part, open_media, recordings_in

# Samples of all channels one after another: of eight planes, one for each channel, PyAV reads a ninth, which is not there.
SIDE_BY_SIDE = "flt"
SILENCE = 2e-4  # deviation of a tenth of a second, -74 dB of full scale: below it nothing can be heard
SILENT_CHANNEL = 1e-5  # of the loudest channel's energy
CANCELS = 0.2  # of the loudest channel's energy in the mix, under which the mix has lost it: another one is its inverse
LEFT, RIGHT, BOTH = (1.0, 0.0), (0.0, 1.0), (0.5**0.5, 0.5**0.5)
SIDE_LEFT, SIDE_RIGHT = (0.5**0.5, 0.0), (0.0, 0.5**0.5)
# How much of a channel is heard left and right (ITU-R BS.775); what is not named here is not heard.
DOWNMIX = {
    "FL": LEFT,
    "FR": RIGHT,
    "FC": BOTH,
    "BL": SIDE_LEFT,
    "BR": SIDE_RIGHT,
    "SL": SIDE_LEFT,
    "SR": SIDE_RIGHT,
    "BC": (0.5, 0.5),
    "FLC": LEFT,
    "FRC": RIGHT,
    "DL": LEFT,
    "DR": RIGHT,
}
LOW_FREQUENCY = ("LFE", "LFE2")


@dataclass(frozen=True)
class SoundTrack:
    """What is heard of a file.

    index: of the track among the file's sound tracks.
    tracks: how many there are that could be read.
    parts: the recordings one after another that are read.
    mixes: by channel layout, the weights (channels,) that make one channel of it.
    gain: what keeps the loudest sample within full scale; 1 but for files in floating point.
    level: dB below full scale of the louder tenths of a second, in the loudest channel.
    peak: dB below full scale of the loudest sample.
    is_audible: whether there is more in it than silence.
    """

    index: int
    tracks: int
    parts: tuple[Part, ...]
    mixes: dict[str, np.ndarray] = field(default_factory=dict)
    gain: float = 1.0
    level: float = -100.0
    peak: float = -100.0
    is_audible: bool = False

    @classmethod
    def from_json(cls, values: dict[str, Any] | None) -> SoundTrack | None:
        """The inverse of asdict, through JSON; None stays None."""
        if values is None:
            return None
        mixes = {layout: np.array(weights) for layout, weights in values["mixes"].items()}
        parts = tuple((int(first), int(end)) for first, end in values["parts"])
        return cls(**values | {"mixes": mixes, "parts": parts})

    def mixed(self, samples: np.ndarray, layout: str) -> np.ndarray:
        """(n,) float32 of one channel, from (channels, n)."""
        weights = self.mixes.get(layout)
        weights = np.full(len(samples), 1 / len(samples)) if weights is None or len(weights) != len(samples) else weights
        return ((self.gain * weights) @ np.nan_to_num(samples, posinf=0.0, neginf=0.0)).astype(np.float32)


def sound_track(path: Path, unusable: type[UnusableInput]) -> SoundTrack | None:
    """The track that is heard: the default one, else the first that can be read; of several one that is not silent.

    unusable: the class of the error.
    Returns: None for a file without a sound track.
    Errors: `unusable` when the file can't be read.
    """
    path = Path(path)
    recordings_in(path, unusable)  # a missing or an empty file is told here
    stat = path.stat()
    return _sound_track(path.absolute(), unusable, stat.st_size, stat.st_mtime_ns)


@lru_cache(16)  # a speech is read for its features, and again in its own quality for the film
@apart(decoded=SoundTrack.from_json)
def _sound_track(path: Path, unusable: type[UnusableInput], size: int, changed: int) -> SoundTrack | None:
    parts = recordings_in(path, unusable)
    with open_media(path, unusable, parts[0] if len(parts) > 1 else None) as container:
        candidates = [stream for stream in container.streams.audio if stream.codec_context is not None]
        candidates.sort(key=lambda stream: not stream.disposition & av.stream.Disposition.default)
        places = [stream.index for stream in candidates]
        streams = [stream.index for stream in container.streams.audio]
        has_pictures = bool(container.streams.video)
    if has_pictures:
        parts = parts[:1]  # pictures of several recordings are no one film; whoever reads the pictures says so
    heard = None
    for place in places:
        track = _surveyed(path, unusable, streams.index(place), len(places), parts)
        heard = heard or track
        if track.is_audible:
            return track
    return heard


def _surveyed(path: Path, unusable: type[UnusableInput], index: int, tracks: int, parts: list[Part]) -> SoundTrack:
    """The mix of a track, from its channels' energies; of a damaged one as far as it can be read."""
    surveys: dict[str, _Survey] = {}
    for part in parts:
        try:
            with open_media(path, unusable, part if len(parts) > 1 else None) as container:
                for samples, frame in decoded_samples(container, index):
                    survey = surveys.setdefault(frame.layout.name, _Survey(frame))
                    survey.hear(samples, frame.sample_rate)
        except (av.FFmpegError, UnusableInput, IndexError):
            continue  # whoever reads it says so
    mixes = {name: survey.weights() for name, survey in surveys.items()}
    peak = max((survey.peak() for survey in surveys.values()), default=0.0)
    heard = np.array([level for survey in surveys.values() for level in survey.levels] or [0.0])
    level = float(20 * np.log10(max(np.quantile(heard, 0.9), 1e-5)))
    gain, loudest = 1 / peak if peak > 1 else 1.0, float(20 * np.log10(max(min(peak, 1.0), 1e-5)))
    return SoundTrack(index, tracks, tuple(parts), mixes, gain, level, loudest, bool(heard.max() >= SILENCE))


def decoded_frames(container: InputContainer, index: int) -> Iterator[av.AudioFrame]:
    """Decoded audio of a track; a packet that can't be decoded is left out, as players do, and its time becomes silence."""
    for packet in container.demux(container.streams.audio[index]):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def decoded_samples(container: InputContainer, index: int) -> Iterator[tuple[np.ndarray, av.AudioFrame]]:
    """Samples (channels, n) float32 of each decoded frame of a track, and the frame."""
    resampler, kind = None, None
    for frame in decoded_frames(container, index):
        if kind != (frame.format.name, frame.layout.name, frame.sample_rate):
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            resampler = av.AudioResampler(format=SIDE_BY_SIDE)
        frame.pts = None
        for out in resampler.resample(frame):
            yield channels_of(out), frame


def channels_of(frame: av.AudioFrame) -> np.ndarray:
    """Samples (channels, n) of a frame in the format SIDE_BY_SIDE."""
    samples: np.ndarray = frame.to_ndarray().reshape(-1, len(frame.layout.channels)).T
    return samples


class _Survey:
    """Energies of the channels of one layout."""

    def __init__(self, frame: av.AudioFrame):
        self.names = [channel.name for channel in frame.layout.channels]
        count = len(self.names)
        self.products, self.sums, self.samples = np.zeros((count, count)), np.zeros(count), 0
        self.peaks, self.levels = np.zeros(count), []

    def hear(self, samples: np.ndarray, rate: int) -> None:
        """Take in samples (channels, n) at a rate in Hz."""
        samples = np.nan_to_num(samples, posinf=0.0, neginf=0.0)
        self.products += samples @ samples.T
        self.sums += samples.sum(1)
        self.samples += samples.shape[1]
        self.peaks = np.maximum(self.peaks, np.abs(samples).max(1, initial=0.0))
        for piece in np.array_split(samples, max(1, samples.shape[1] * 10 // rate), axis=1):
            if piece.shape[1] > 1:  # the deviation, not the level: a constant offset is not heard
                self.levels.append(float(piece.std(1).max()))

    def weights(self) -> np.ndarray:
        """(channels,) how much of each is heard."""
        mean = self.sums / max(self.samples, 1)
        covariance = self.products / max(self.samples, 1) - np.outer(mean, mean)
        energies = np.diag(covariance)
        loudest = int(energies.argmax())
        usual = _usual_weights(self.names, energies > SILENT_CHANNEL * energies.max())
        kept, most = usual @ covariance @ usual, usual[loudest] ** 2 * energies[loudest]
        return np.eye(len(energies))[loudest] if kept < CANCELS * most else usual

    def peak(self) -> float:
        """Of the mix, in full scales, at most."""
        return float(self.weights() @ self.peaks)


def _usual_weights(names: list[str], sounds: np.ndarray) -> np.ndarray:
    """(channels,) of the mean of left and right, as ffmpeg mixes a layout down to them, without its silent channels.

    sounds: (channels,) bool.
    """
    if not sounds.any():
        sounds = np.ones(len(names), bool)
    if len(names) <= 2 or not set(names) <= {*DOWNMIX, *LOW_FREQUENCY}:
        return sounds / sounds.sum()
    sides = np.array([DOWNMIX.get(name, (0.0, 0.0)) for name in names]) * sounds[:, None]
    sides = sides[:, sides.any(0)] if sides.any() else sides  # a side on which nothing sounds would halve the other
    weights: np.ndarray = (sides / max(sides.sum(0).max(), 1e-9)).mean(1)
    return weights
