"""Other voices, rooms, microphones and noises for training speech (docs/method.md section 5, "Augmentation")."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, resample_poly

from gmtalker.clock import SAMPLE_RATE
from gmtalker.errors import UnusableInput
from gmtalker.media.audio import change_tempo, read_sound_or_none

NOISE_SECONDS_MAX = 60  # of a noise file that are used
VOICE_PITCH, VOICE_SPEED = (0.82, 1.22), (0.5, 2.0)  # of another voice
CHANCES = {"room": 0.3, "microphone": 0.5, "telephone": 0.1, "noise": 0.35, "music": 0.2, "voices": 0.3, "hum": 0.1}
SNR = {"noise": (0.0, 35.0), "music": (-3.0, 25.0), "voices": (4.0, 22.0), "hum": (0.0, 25.0)}  # dB
GAIN = (-38.0, 6.0)  # dB
NOTHING_CHANCE = 0.25  # that a sound without speech begins with exact zeros, as files do that an editor cut
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 5, 9), (0, 4, 7, 11))  # semitones


def read_noises(folder: Path | None) -> list[np.ndarray]:
    """The sounds (samples,) of a folder without speech: music, rooms, traffic; empty without a folder.

    Errors: UnusableInput when none of its files can be read.
    """
    if folder is None:
        return []
    noises = []
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        try:
            sound = read_sound_or_none(path)
        except UnusableInput:
            continue
        if sound is not None:
            noises.append(sound[: NOISE_SECONDS_MAX * SAMPLE_RATE].astype(np.float16))
    if not noises:
        raise UnusableInput(f"{folder} holds no sound that can be read.")
    return noises


def other_voice(waveform: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """The same speech by another throat, or at another speed.

    waveform: (samples,).
    Returns: (samples * about 1 / speed,), and the speed.
    """
    if rng.random() < 0.5:  # a longer or shorter throat
        pitch, tempo = rng.uniform(*VOICE_PITCH), 1.0
    else:
        pitch, tempo = rng.uniform(0.92, 1.08), float(np.exp(rng.uniform(*np.log(VOICE_SPEED))))
    ratio = Fraction(1 / pitch).limit_denominator(24)
    spoken = resample_poly(waveform, ratio.numerator, ratio.denominator).astype(np.float32)
    return change_tempo(spoken, tempo), float(tempo / ratio)


def in_another_pitch(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech (samples,) by another throat, its times unchanged."""
    ratio = Fraction(1 / rng.uniform(*VOICE_PITCH)).limit_denominator(24)
    if ratio == 1:
        return waveform
    spoken = resample_poly(waveform, ratio.numerator, ratio.denominator).astype(np.float32)
    spoken = change_tempo(np.pad(spoken, (0, SAMPLE_RATE // 4)), float(ratio))  # what a tempo filter holds back at the end
    return np.pad(spoken, (0, max(0, len(waveform) - len(spoken))))[: len(waveform)]


def other_place(waveform: np.ndarray, rng: np.random.Generator, noises: Sequence[np.ndarray], voices: Sequence[np.ndarray]):
    """The same speech in another room, through another microphone, with noise; its times are unchanged.

    waveform: (samples,).
    noises: sounds without speech; none are made up.
    voices: speech of others, for a crowd behind it.
    Returns: (samples,) float32.
    """
    sound = waveform.astype(np.float32)
    length = len(sound)
    if rng.random() < CHANCES["room"]:
        sound = _in_room(sound, rng)
    level = float(np.sqrt(np.square(sound).mean()))
    for kind in ("noise", "music", "voices", "hum"):
        if rng.random() < CHANCES[kind]:
            noise = _noise(kind, length, rng, noises, voices)
            strength = float(np.sqrt(np.square(noise).mean())) + 1e-9
            sound = sound + noise * (level / strength) * 10 ** (-rng.uniform(*SNR[kind]) / 20)
    if rng.random() < CHANCES["microphone"]:
        sound = _through_microphone(sound, rng)
    if rng.random() < CHANCES["telephone"]:
        sound = lfilter(*butter(4, (300, 3400), "bandpass", fs=SAMPLE_RATE), sound)
        peak = np.abs(sound).max() + 1e-9
        sound = np.sign(sound) * peak * np.expm1(np.round(np.log1p(255 * np.abs(sound) / peak) * 23) / 23) / 255
    gain = 10 ** (rng.uniform(*GAIN) / 20) / max(1e-3, float(np.abs(sound).max()))
    offset = rng.uniform(-0.3, 0.3) if rng.random() < 0.05 else 0.0
    return (sound * gain + offset).astype(np.float32)


def without_speech(length: int, rng: np.random.Generator, noises: Sequence[np.ndarray]) -> np.ndarray:
    """Noise, music or near silence (length,) in which nobody speaks."""
    sound = np.zeros(length, np.float32)
    for kind, chance in (("noise", 0.6), ("music", 0.5), ("hum", 0.15)):
        if rng.random() < chance:
            sound += _unit(_noise(kind, length, rng, noises, ())) * 10 ** (rng.uniform(-20, 0) / 20)
    sound += 10 ** (rng.uniform(-70, -30) / 20) * rng.standard_normal(length).astype(np.float32)
    sound = (sound / max(1e-3, float(np.abs(sound).max())) * 10 ** (rng.uniform(-45, -2) / 20)).astype(np.float32)
    if rng.random() < NOTHING_CHANCE:
        sound[: rng.integers(1, 2 * length)] = 0.0
    return sound


def sung_sound(length: int, rng: np.random.Generator, formants: Sequence[float], nasal: bool) -> np.ndarray:
    """A held voice (length,): a buzz through formants, in the manner of Klatt (1980); nasal is a hummed m or n.

    formants: their frequencies, in Hz.
    """
    time = np.arange(length) / SAMPLE_RATE
    pitch = rng.uniform(85, 320) * 2 ** (
        rng.uniform(0, 0.04) * np.sin(2 * np.pi * rng.uniform(3, 6.5) * time + rng.uniform(0, 6))
    )
    pitch *= 2 ** (rng.uniform(-0.3, 0.3) * time)
    buzz = np.diff(np.floor(np.cumsum(pitch) / SAMPLE_RATE), prepend=0.0) + 0.01 * rng.standard_normal(length)
    sound = lfilter([1], [1, -0.9], buzz)
    for place, frequency in enumerate(formants):
        width = rng.uniform(50, 90) * (1 + place) * (2.0 if nasal and place else 1.0)
        radius = np.exp(-np.pi * width / SAMPLE_RATE)
        sound = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * frequency / SAMPLE_RATE), radius**2], sound)
    if nasal:
        sound = lfilter(*butter(1, 500, fs=SAMPLE_RATE), sound)
    ramp = np.minimum(1, np.minimum(time, time[::-1]) / 0.03)
    return (_unit(sound * ramp) * 0.1).astype(np.float32)


def _unit(sound: np.ndarray) -> np.ndarray:
    return sound / (float(np.sqrt(np.square(sound).mean())) + 1e-9)


def _in_room(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With the reverberation of a room: noise that dies away, after the direct sound."""
    decay = rng.uniform(0.08, 0.7)  # seconds to -60 dB
    time = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * np.exp(-6.9 * time / decay)
    tail[: int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)] = 0
    tail *= 10 ** (-rng.uniform(-2, 12) / 20) / (np.sqrt(np.square(tail).sum()) + 1e-9)
    tail[0] = 1.0
    return fftconvolve(sound, tail)[: len(sound)].astype(np.float32)


def _through_microphone(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With a random smooth frequency response."""
    spectrum, frequency = np.fft.rfft(sound), np.linspace(0, 1, len(sound) // 2 + 1)
    tilt = rng.standard_normal(4) * (0.9, 0.6, 0.4, 0.3)
    response = np.exp(sum(tilt[order] * np.cos(np.pi * (order + 1) * frequency) for order in range(4)))
    if rng.random() < 0.3:
        response = response * (1 / (1 + (frequency / rng.uniform(0.4, 0.9)) ** 12))  # a low-pass, as a poor codec has
    return np.fft.irfft(spectrum * response, n=len(sound)).astype(np.float32)


def _noise(kind: str, length: int, rng: np.random.Generator, noises: Sequence[np.ndarray], voices: Sequence[np.ndarray]):
    """(length,) of a kind of noise, at any level."""
    if kind == "hum":
        time, base = np.arange(length) / SAMPLE_RATE, rng.choice((50.0, 60.0))
        return sum(rng.uniform(0, 1) / n * np.sin(2 * np.pi * n * base * time + rng.uniform(0, 6)) for n in range(1, 9))
    if kind == "voices" and len(voices):
        return sum(_piece(voices[rng.integers(len(voices))], length, rng) for _ in range(rng.integers(1, 6)))
    if kind == "music" or (kind == "noise" and rng.random() < 0.4):
        if len(noises) and rng.random() < 0.8:
            return _piece(noises[rng.integers(len(noises))], length, rng)
        if kind == "music":
            return _made_up_music(length, rng)
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum /= np.maximum(np.arange(len(spectrum)), 20.0) ** rng.uniform(0, 1.2)
    noise = np.fft.irfft(spectrum, n=length)
    if rng.random() < 0.4:  # it comes and goes
        noise *= 1 + 0.9 * np.sin(2 * np.pi * rng.uniform(0.3, 4) * np.arange(length) / SAMPLE_RATE + rng.uniform(0, 6))
    return noise


def _piece(sound: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """(length,) of a sound from a random place on, repeated where it is too short."""
    begin = rng.integers(max(1, len(sound) - length + 1))
    return np.resize(sound[begin : begin + length].astype(np.float32), length)


def _made_up_music(length: int, rng: np.random.Generator) -> np.ndarray:
    """(length,) of chords and a drum."""
    time, sound = np.arange(length) / SAMPLE_RATE, np.zeros(length)
    beat = int(SAMPLE_RATE * rng.uniform(0.25, 0.7))
    for begin in range(0, length, beat):
        here = slice(begin, min(length, begin + beat))
        fade = np.exp(-rng.uniform(2, 8) * (time[here] - time[begin]))
        root = 110 * 2 ** (rng.integers(0, 24) / 12)
        for step in CHORDS[rng.integers(len(CHORDS))]:
            pitch = root * 2 ** (step / 12)
            sound[here] += fade * sum(np.sin(2 * np.pi * n * pitch * time[here]) / n**1.5 for n in range(1, 5))
        thump = np.exp(-30 * (time[here] - time[begin]))
        sound[here] += rng.uniform(0, 3) * thump * (np.sin(2 * np.pi * 70 * time[here]) + 0.4 * rng.standard_normal(len(thump)))
    return sound
