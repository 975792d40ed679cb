"""An inaudible mark in the sound: the same 64 bits as in the pictures, read from some seconds of speech after AAC or MP3.

Spread spectrum (Cox et al. 1997) with the host's own part cancelled (improved spread spectrum, Malvar and Florencio 2003), as in
the pictures: a noise that repeats every two seconds, each coded bit the sign of its own lines of the noise's spectrum. It is
shaped like the sound's own short-time spectrum, well below it, so the sound masks it and silence stays silent. Reading divides
the sound by that spectrum: what was a voice is white then, and every line counts alike. See docs/method.md section 13.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy.signal import resample_poly

from gmtalker.provenance.watermark import CODED, PAYLOAD, payload_signs, read_payload

RATE = 16_000  # Hz at which the mark is laid out and read; what is marked has this rate or a multiple of it
WINDOW = 512  # samples at RATE of one short-time spectrum, 32 ms; two overlap everywhere
HOP = WINDOW // 2
PERIOD = 32_768  # samples at RATE after which the mark repeats, 2 s
BAND = (400, 7000)  # Hz: below lies most of a voice's energy, above what a resampling to 16 kHz cuts off
BLOCK = 16  # spectra, 256 ms, after which the strength of each bit is set anew
POSITION_SHARE = 0.18  # of the lines: those that show where the mark begins
STRENGTH = 0.14  # of the envelope of the sound's own spectrum: 17 dB below
ENERGY_MAX = 10**-4.05  # of the sound's, that the mark has at most
SPENT = 0.25  # of what is left of that energy, in one spectrum at most: loud vowels would use it up in their few
SPARED = 40  # spectra of the present loudness for which energy is saved at most
MEMORY = 24  # blocks over which the levels of the bits are held alike
CORRECTION, PATTERN_MAX = 0.4, 2.5  # of the mean strength, for each deviation that a bit is behind in level; at most
FLOOR = 10 ** (-65 / 20)  # of the sound's level: what is quieter is not raised when reading; a codec leaves nothing there
HUM_BINS = 3  # bins of the spectrum, up to 80 Hz, which are not counted as the sound's energy
READ_SECONDS_MAX = 60
TRIED = 32  # positions that are tried: one sound in 500,000 has a mark by chance
UPSAMPLED = 4  # positions a sample at RATE: a quarter of one is an eighth of the finest wave


@cache
def _lines() -> tuple[slice, np.ndarray, np.ndarray]:
    """Where the mark is in the spectrum of one period; (lines,) the pattern of each line, 0 the position; (lines,) its phase."""
    first, end = (round(hertz * PERIOD / RATE) for hertz in BAND)
    random = np.random.Generator(np.random.PCG64(2312_07669))
    # Dealt like cards, so that every pattern has its share of every part of the band.
    positional = round(4 * CODED * POSITION_SHARE / (1 - POSITION_SHARE))
    deck = np.concatenate([np.zeros(positional, int), np.arange(1, 1 + 4 * CODED)])
    dealt = np.concatenate([random.permutation(deck) for _ in range(-(-(end - first) // len(deck)))])[: end - first]
    return slice(first, end), dealt, np.exp(2j * np.pi * random.random(end - first))


def _levels(period: np.ndarray) -> np.ndarray:
    """(1 + 4 * CODED,) how much of each pattern is in (PERIOD,)."""
    where, pattern, phases = _lines()
    along = (np.fft.rfft(period)[where] * phases.conj()).real
    return np.bincount(pattern, along, minlength=1 + 4 * CODED)


def _noise(amounts: np.ndarray) -> np.ndarray:
    """(PERIOD,) the sum of so much (1 + 4 * CODED,) of each pattern; of ones, short-time spectra have a mean power of one."""
    where, pattern, phases = _lines()
    spectrum = np.zeros(PERIOD // 2 + 1, complex)
    spectrum[where] = phases * amounts[pattern]
    return np.fft.irfft(spectrum) * math.sqrt(2 * PERIOD / WINDOW)


@cache
def _sine(window: int) -> np.ndarray:
    """(window,) whose squares sum to one where two overlap by half."""
    return np.sin(np.pi * (np.arange(window) + 0.5) / window)


def _spectra(sound: np.ndarray, window: int) -> np.ndarray:
    """(n, WINDOW // 2 + 1) short-time spectra of ((n + 1) * window / 2,) up to RATE / 2."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[:: window // 2]
    return np.fft.rfft(frames * _sine(window))[:, : WINDOW // 2 + 1]


def _sound(spectra: np.ndarray, window: int) -> np.ndarray:
    """((n + 1) * window / 2,) of (n, WINDOW // 2 + 1); the first and the last half window lack the overlap."""
    frames = np.fft.irfft(spectra, window) * _sine(window)
    halves = np.zeros((len(frames) + 1, window // 2))
    halves[:-1] += frames[:, : window // 2]
    halves[1:] += frames[:, window // 2 :]
    return halves.ravel()


def _envelope(spectra: np.ndarray) -> np.ndarray:
    """Magnitudes of (n, bins), smoothed over about 100 Hz: what lies beside a strong wave is masked by it."""
    power = np.square(spectra.real) + np.square(spectra.imag)
    for _ in range(2):
        beside = power.copy()
        beside[:, 1:] += power[:, :-1]
        beside[:, :-1] += power[:, 1:]
        power = beside / 3
    return np.sqrt(power)


class SoundMark:
    """Puts one payload into one sound, given piece by piece in order.

    payload: 5 bytes.
    rate: Hz of the sound: 16,000 or a multiple of it, as 48,000.
    Errors: ValueError for another length or rate.
    Source: Cox et al. 1997; Malvar and Florencio 2003; docs/method.md section 13.
    """

    def __init__(self, payload: bytes, rate: int) -> None:
        if len(payload) != PAYLOAD:
            raise ValueError(f"A mark holds {PAYLOAD} bytes, not {len(payload)}")
        if rate < RATE or rate % RATE:
            raise ValueError(f"A sound is marked at {RATE} Hz or a multiple of it, not at {rate}")
        self._window = WINDOW * rate // RATE
        hop = self._window // 2
        self._signs = payload_signs(payload).astype(float)
        self._strengths, self._present, self._variance = np.ones(len(self._signs)), np.zeros(len(self._signs)), 0.0
        self._saved, self._level = 0.0, 0.0
        # One hop of silence before the sound: its first samples lie in two windows like all others.
        self._waiting, self._overlap, self._early = np.zeros(hop), np.zeros(hop), hop
        self._begin = 0  # of the next block in the period, in samples at RATE

    def __call__(self, piece: np.ndarray) -> np.ndarray:
        """Mark the next piece.

        piece: (n,) float, full scale 1.
        Returns: (m,) float32, what is finished: the marked sound follows the given one by up to 272 ms, and flush gives the rest.
        """
        self._waiting = np.concatenate([self._waiting, piece])
        hop, finished = self._window // 2, [np.zeros(0)]
        while len(self._waiting) >= (BLOCK + 1) * hop:
            added = self._mark(self._waiting[: (BLOCK + 1) * hop])
            added[:hop] += self._overlap
            self._overlap = added[-hop:]
            finished.append(self._waiting[: BLOCK * hop] + added[:-hop])
            self._waiting = self._waiting[BLOCK * hop :]
        marked = np.concatenate(finished)
        early = min(self._early, len(marked))
        self._early -= early
        return marked[early:].astype(np.float32)

    def flush(self) -> np.ndarray:
        """The rest of the marked sound, (n,) float32: all pieces returned are then as long as all given."""
        rest = len(self._waiting) - self._early
        return self(np.zeros((BLOCK + 1) * self._window // 2))[:rest]

    def _mark(self, sound: np.ndarray) -> np.ndarray:
        """What is added to one block, ((BLOCK + 1) * hop,)."""
        noise = np.roll(_noise(self._signs * self._strengths), -self._begin)[: (BLOCK + 1) * HOP]
        spectra, patterns = _spectra(sound, self._window), _spectra(noise, WINDOW)
        envelope = _envelope(spectra)
        power = np.square(np.abs(patterns))
        limits = np.empty((BLOCK, 1))
        for index, loud in enumerate(np.square(np.abs(spectra[:, HUM_BINS:])).sum(1)):
            self._level += (loud - self._level) / 32 if self._level else loud
            self._saved = min(self._saved + ENERGY_MAX * loud, ENERGY_MAX * SPARED * self._level)
            limits[index] = math.sqrt(SPENT * self._saved / power[index].sum())
            self._saved -= float((np.minimum(STRENGTH * envelope[index], limits[index]) ** 2 * power[index]).sum())
        added = np.minimum(STRENGTH * envelope, limits) * patterns
        self._balance((spectra + added) / (envelope + FLOOR * math.sqrt(self._level) + 1e-12))
        return _sound(added, self._window)

    def _balance(self, white: np.ndarray) -> None:
        """Set the strength of each bit for the next block, by how far it is behind in what would be read so far."""
        period = np.zeros(PERIOD)
        period[: (BLOCK + 1) * HOP] = _sound(white, WINDOW)
        levels = self._signs * _levels(np.roll(period, self._begin))
        self._begin = (self._begin + BLOCK * HOP) % PERIOD
        self._variance += (levels[1:].var() - self._variance) / 8 if self._variance else levels[1:].var()
        self._present = (1 - 1 / MEMORY) * self._present + levels
        behind = (self._present[1:].mean() - self._present[1:]) / (math.sqrt(self._variance) + 1e-12)
        strengths = np.clip(1 + CORRECTION * behind, 0, PATTERN_MAX)
        self._strengths[1:] = strengths / math.sqrt(np.square(strengths).mean())


def marked_sound(sound: np.ndarray, rate: int, payload: bytes) -> np.ndarray:
    """A marked copy of a whole sound.

    sound: (samples,) float, full scale 1.
    rate: Hz: 16,000 or a multiple of it.
    payload: 5 bytes.
    Returns: (samples,) float32.
    Errors: ValueError for another length or rate.
    """
    mark = SoundMark(payload, rate)
    return np.concatenate([mark(sound), mark.flush()])


def find_sound_mark(sound: np.ndarray, rate: int) -> bytes | None:
    """Read the mark of a sound.

    sound: (samples,) float, of which the first READ_SECONDS_MAX are used.
    rate: Hz, any.
    Returns: the payload of 5 bytes, None where there is no mark.
    """
    spectrum = np.fft.rfft(_folded(np.asarray(sound[: READ_SECONDS_MAX * rate], float), rate))
    where, pattern, phases = _lines()
    lines = spectrum[where] * phases.conj()
    # By their phases alone: a hum or a long tone has a few lines that are higher than all others.
    agreeing = np.zeros(UPSAMPLED * PERIOD // 2 + 1, complex)
    agreeing[where] = np.where(pattern == 0, lines / (np.abs(lines) + 1e-12), 0)
    agreement = np.fft.irfft(agreeing)
    turns = 2j * np.pi * np.arange(where.start, where.stop) / (UPSAMPLED * PERIOD)
    levels = []
    for _ in range(TRIED):
        position = int(np.abs(agreement).argmax())
        # A sound turned upside down says the opposite of every bit, and of the position.
        along = (lines * np.exp(turns * position)).real * np.sign(agreement[position])
        levels.append(np.bincount(pattern, along, minlength=1 + 4 * CODED)[1:])
        agreement[np.arange(position - UPSAMPLED + 1, position + UPSAMPLED) % len(agreement)] = 0
    return read_payload(np.array(levels))


def _folded(sound: np.ndarray, rate: int) -> np.ndarray:
    """(PERIOD,) the sum of the periods of a sound (samples,), made white."""
    common = math.gcd(rate, RATE)
    if rate != RATE:
        sound = resample_poly(sound, RATE // common, rate // common)
    sound = np.pad(sound, (HOP, HOP + -len(sound) % HOP))
    spectra = _spectra(sound, WINDOW)
    level = math.sqrt(float(np.square(np.abs(spectra[:, HUM_BINS:])).sum(1).mean()))
    white = _sound(spectra / (_envelope(spectra) + FLOOR * level + 1e-12), WINDOW)
    return np.pad(white, (0, -len(white) % PERIOD)).reshape(-1, PERIOD).sum(0)
