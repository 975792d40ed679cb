"""Augmented speech: other throats and tempos, rooms and noises; times stay what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
from media import babble, beep, onset, write_wav

from gmtalker.clock import SAMPLE_RATE
from gmtalker.errors import UnusableInput
from gmtalker.media.audio import change_tempo
from gmtalker.pretrain.sound_augmentation import (
    NOISE_SECONDS_MAX,
    in_another_pitch,
    other_place,
    other_voice,
    read_noises,
    sung_sound,
    without_speech,
)

HOP = 160  # samples of an envelope's step: 10 ms


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def spoken(seconds: float = 3.0) -> np.ndarray:
    """Syllables of random length and loudness: no two places sound alike."""
    random = rng(0)
    loudness = np.repeat(random.uniform(0, 1, 100) * (random.random(100) < 0.6), 1600)[: round(seconds * SAMPLE_RATE)]
    return (babble(seconds) * loudness).astype(np.float32)


def envelope(sound: np.ndarray) -> np.ndarray:
    steps = sound[: len(sound) // HOP * HOP].reshape(-1, HOP)
    return np.sqrt(np.square(steps).mean(1))


def lag(made: np.ndarray, real: np.ndarray) -> int:
    """Steps of 10 ms by which the loudness of one sound follows that of another best."""
    made, real = envelope(made), envelope(real)
    count = min(len(made), len(real)) - 40
    agreement = [np.corrcoef(made[20 + step : 20 + step + count], real[20 : 20 + count])[0, 1] for step in range(-20, 21)]
    return int(np.argmax(agreement)) - 20


def pitch(sound: np.ndarray) -> float:
    """Hz of the strongest partial."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.argmax(spectrum) * SAMPLE_RATE / len(sound))


# --- Voices --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tempo", [0.5, 0.8, 1.25, 2.0])
def test_another_tempo_moves_times_and_leaves_the_pitch(tempo):
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    changed = change_tempo(tone, tempo)
    assert len(changed) == pytest.approx(len(tone) / tempo, rel=0.05) and changed.dtype == np.float32
    assert pitch(changed) == pytest.approx(440, rel=0.02)
    # The filter overlaps windows of 64 ms, which smears the beginning of a sound.
    assert onset(change_tempo(beep(3, at=1.5), tempo)) == pytest.approx(1.5 / tempo, abs=0.05 / tempo)


def test_another_pitch_leaves_every_time():
    sound, pitches = spoken(), []
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    for seed in range(6):
        changed = in_another_pitch(sound, rng(seed))
        assert len(changed) == len(sound) and np.isfinite(changed).all()
        assert abs(lag(changed, sound)) <= 2
        assert envelope(changed)[-60:].max() > 0.3 * envelope(sound)[-60:].max()  # nothing is cut from the end
        pitches.append(pitch(in_another_pitch(tone, rng(seed))))
    assert 350 < min(pitches) < 420 and 460 < max(pitches) < 550


def test_another_voice_speaks_as_fast_as_it_is_said_to():
    speeds = []
    for seed in range(12):
        changed, speed = other_voice(beep(3, at=1.5), rng(seed))
        assert len(changed) == pytest.approx(3 * SAMPLE_RATE / speed, rel=0.06) and np.isfinite(changed).all()
        assert onset(changed) == pytest.approx(1.5 / speed, abs=0.05)
        speeds.append(speed)
    assert 0.4 < min(speeds) < 0.85 and 1.2 < max(speeds) < 2.3 and len(set(speeds)) > 8


# --- Places --------------------------------------------------------------------------------------------------------------------


def test_another_place_leaves_every_time_and_is_a_number_at_a_sane_level():
    sound, noises, crowd = spoken(), [np.float16(0.1 * rng(1).standard_normal(8_000))], [babble(1, seed=3)]
    lags, peaks = [], []
    for seed in range(40):
        changed = other_place(sound, rng(seed), noises, crowd)
        assert changed.shape == sound.shape and changed.dtype == np.float32 and np.isfinite(changed).all()
        lags.append(abs(lag(changed, sound)))
        peaks.append(20 * np.log10(np.abs(changed - changed.mean()).max()))
    assert np.mean(np.array(lags) <= 3) >= 0.8  # under the loudest noises the outline can't be found any more
    assert min(peaks) > -50 and max(peaks) < 9 and max(peaks) - min(peaks) > 25
    assert len(set(peaks)) == 40


def test_the_same_seed_gives_the_same_sound_and_another_one_another():
    sound, noises = spoken(1.0), [np.float16(0.1 * rng(1).standard_normal(40_000))]
    makers = {
        "voice": lambda seed: other_voice(sound, rng(seed))[0],
        "pitch": lambda seed: in_another_pitch(sound, rng(seed)),
        "place": lambda seed: other_place(sound, rng(seed), noises, [babble(1)]),
        "nobody": lambda seed: without_speech(16_000, rng(seed), noises),
        "sung": lambda seed: sung_sound(16_000, rng(seed), (700, 1100), False),
    }
    for name, make in makers.items():
        assert np.array_equal(make(3), make(3)), name
        assert not np.array_equal(make(3), make(4)), name


def test_silence_stays_a_number():
    nothing = np.zeros(8_000, np.float32)
    for seed in range(20):
        assert np.isfinite(other_place(nothing, rng(seed), (), ())).all()


def test_places_in_which_nobody_speaks_are_loud_and_soft():
    peaks, exact = [], []
    for seed in range(60):
        sound = without_speech(16_000, rng(seed), ())
        assert sound.shape == (16_000,) and sound.dtype == np.float32 and np.isfinite(sound).all()
        exact.append(sound[0] == 0)
        if sound.any():
            peaks.append(20 * np.log10(np.abs(sound).max()))
    assert -46 < min(peaks) < -35 and -12 < max(peaks) < -1
    assert 5 <= sum(exact) <= 25 and len(peaks) < 60  # digital silence at the beginning, or all the time


def test_a_held_sound_has_its_formants_and_a_hum_is_dull():
    def share_above(sound: np.ndarray, hertz: float) -> float:
        power = np.square(np.abs(np.fft.rfft(sound)))
        return float(power[round(hertz * len(sound) / SAMPLE_RATE) :].sum() / power.sum())

    for seed in range(4):
        hum = sung_sound(16_000, rng(seed), (270, 1050, 2250), True)
        vowel = sung_sound(16_000, rng(seed), (730, 1100, 2450), False)
        assert np.sqrt(np.square(hum).mean()) == pytest.approx(0.1, rel=0.01) and abs(hum[0]) < 0.01
        assert share_above(hum, 550) < 0.5 * share_above(vowel, 550)


# --- Noises --------------------------------------------------------------------------------------------------------------------


def test_noises_are_read_from_a_folder_and_what_is_no_sound_is_left_out(tmp_path):
    (tmp_path / "rooms").mkdir()
    write_wav(tmp_path / "rooms" / "a.wav", 0.2 * rng(0).standard_normal(16_000))
    write_wav(tmp_path / "long.wav", 0.2 * rng(1).standard_normal(NOISE_SECONDS_MAX * SAMPLE_RATE + 8_000))
    (tmp_path / "LICENCE.txt").write_text("free")
    noises = read_noises(tmp_path)
    assert sorted(len(noise) for noise in noises) == [16_000, NOISE_SECONDS_MAX * SAMPLE_RATE]
    assert read_noises(None) == []


def test_a_folder_without_a_sound_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UnusableInput, match="no sound that can be read"):
        read_noises(tmp_path)
