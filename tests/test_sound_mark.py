"""The inaudible mark: far below the voice, read again after what is done to sound on its way, and in nothing else."""

from itertools import combinations

import numpy as np
import pytest
from media import babble, ffmpeg, write_wav

import gmtalker.measure.watermark as measure
from gmtalker.assets import SPEECHES
from gmtalker.errors import UnusableInput, UnusableSpeech
from gmtalker.media.audio import stream_sound
from gmtalker.provenance.sound_mark import PAYLOAD, SoundMark, _levels, _noise, find_sound_mark, marked_sound
from gmtalker.provenance.watermark import CODED

SAID = bytes.fromhex("76ce1db82e")
SECONDS = 8
ATTACKS = {
    "AAC at 64 kbit/s": ("m4a", ["-c:a", "aac", "-b:a", "64k"]),
    "MP3 at 64 kbit/s": ("mp3", ["-c:a", "libmp3lame", "-b:a", "64k"]),
    "MP3 at 128 kbit/s": ("mp3", ["-c:a", "libmp3lame", "-b:a", "128k"]),
    "16 kHz and back": ("wav", ["-af", "aresample=16000,aresample=48000"]),
    "44.1 kHz and back": ("wav", ["-af", "aresample=44100,aresample=48000"]),
    "half as loud": ("wav", ["-af", "volume=0.5"]),
    "cut at both ends": ("wav", ["-af", "atrim=start=1.2345:end=6.5"]),
}


def read(path, rate: int = 48_000) -> np.ndarray:
    return np.concatenate(list(stream_sound(path, UnusableSpeech, rate)))


@pytest.fixture(scope="module")
def speech():
    """All bundled speech, at 48 kHz."""
    return np.concatenate([read(path) for path in sorted(SPEECHES.glob("*.flac"))])


@pytest.fixture(scope="module")
def marked(speech, tmp_path_factory):
    sound = marked_sound(speech[: SECONDS * 48_000], 48_000, SAID)
    return write_wav(tmp_path_factory.mktemp("marked") / "marked.wav", sound, 48_000)


@pytest.mark.parametrize("attacks", [*combinations(ATTACKS, 1), *list(combinations(ATTACKS, 2))[::4]], ids=" + ".join)
def test_the_mark_survives(attacks, marked, tmp_path):
    path = marked
    for number, attack in enumerate(attacks):
        ending, options = ATTACKS[attack]
        changed = tmp_path / f"{number}.{ending}"
        ffmpeg("-i", path, *options, changed)
        path = changed
    assert find_sound_mark(read(path), 48_000) == SAID


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_it_is_read_at_any_rate_and_upside_down(rate, marked):
    sound = read(marked, rate)
    assert find_sound_mark(sound, rate) == find_sound_mark(-sound, rate) == SAID


def test_it_is_read_from_4_seconds_wherever_they_begin(marked):
    sound = read(marked)
    for first in (0, 12_345, 100_001, 190_000):
        assert find_sound_mark(sound[first : first + 4 * 48_000], 48_000) == SAID


def test_a_sound_at_16_khz_is_marked_as_well(speech):
    sound = speech[: SECONDS * 48_000 : 3]
    assert find_sound_mark(marked_sound(sound, 16_000, SAID), 16_000) == SAID


def test_it_lies_40_db_below_the_voice_and_below_75_db_in_every_pause(speech):
    added = marked_sound(speech, 48_000, SAID) - speech
    assert np.square(added).sum() < 1e-4 * np.square(speech).sum()
    frames = len(speech) // 4800
    voice, mark = (np.square(sound[: frames * 4800].reshape(frames, 4800)).mean(1) for sound in (speech, added))
    pauses = voice < 1e-3 * np.median(voice)
    assert pauses.sum() > 3 and (mark[pauses] < 10**-7.5).all()


def test_silence_stays_silence():
    added = marked_sound(np.zeros(100_000, np.float32), 48_000, SAID)
    assert added.shape == (100_000,) and not added.any()


def test_pieces_of_any_size_give_the_same_sound_of_the_same_length(speech):
    sound, mark = speech[:200_003], SoundMark(SAID, 48_000)
    pieces, first = [], 0
    for size in (1, 700, 0, 48_000, 13, 100_000, 51_289):
        pieces.append(mark(sound[first : first + size]))
        first += size
    assert first == len(sound)
    whole = marked_sound(sound, 48_000, SAID)
    assert whole.dtype == np.float32
    assert np.array_equal(np.concatenate([*pieces, mark.flush()]), whole)
    for length in (0, 1, 767, 768, 13_055, 13_056):
        assert marked_sound(sound[:length], 48_000, SAID).shape == (length,)


def test_there_is_no_mark_where_none_was_put(speech):
    random, time = np.random.default_rng(0), np.arange(10 * 16_000) / 16_000
    chords = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 277.2, 329.6, 440, 1760)) * (0.1 + 0.1 * (time % 0.5))
    others = [speech[::3], np.zeros(10 * 16_000), random.normal(0, 0.1, len(time)), chords, babble(10), np.zeros(0), np.ones(1)]
    assert [find_sound_mark(sound, 16_000) for sound in others] == [None] * len(others)


def test_only_what_can_be_marked_is_marked():
    with pytest.raises(ValueError, match="5 bytes, not 4"):
        SoundMark(bytes(4), 48_000)
    with pytest.raises(ValueError, match="multiple of it, not at 44100"):
        SoundMark(SAID, 44_100)


def test_patterns_do_not_disturb_each_other():
    amounts = np.random.default_rng(0).normal(size=1 + 4 * CODED)
    each = _levels(_noise(np.ones(1 + 4 * CODED)))
    assert PAYLOAD == len(SAID) and np.allclose(_levels(_noise(amounts)), amounts * each) and each.min() > 0


def test_it_is_measured_as_it_is(marked, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "SOUNDS", 1)
    monkeypatch.setattr(measure, "SOUND_SECONDS", SECONDS + 1)  # more than the clips have: the bundled speeches are measured
    monkeypatch.setattr(measure, "LENGTHS", (6,))
    names = (measure.LENGTHS_ATTACK, "half as loud")
    monkeypatch.setattr(measure, "SOUND_ATTACKS", {name: measure.SOUND_ATTACKS[name] for name in names})
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration=1", "-pix_fmt", "yuv420p", tmp_path / "silent.mp4")
    plain, steps = write_wav(tmp_path / "plain.wav", babble(1)), []
    figures = measure.measure_sound_mark([plain, marked, tmp_path / "silent.mp4"], steps.append)
    assert (figures["sounds"], figures["real_sounds"], figures["real_sounds_said_to_be_marked"]) == (1, 2, 1)
    assert figures["wrong_of_sounds"] == dict.fromkeys(["as it is written", *names, " and ".join(names)], 0)
    assert figures["wrong_by_seconds"] == {6: [0, 1]} and figures["decibels_below_the_sound"]["least"] > 40
    assert all(cost > 0 for cost in figures["cpu_ms_a_second_of_sound"].values())
    assert [step.stage for step in steps][2:] == ["reading the sound of silent.mp4", "marking a sound"]


def test_clips_are_marked_before_the_bundled_speeches(marked, monkeypatch):
    monkeypatch.setattr(measure, "SOUNDS", 2)
    sounds, alarms, _ = measure._unmarked([marked], lambda progress: None)
    assert [len(sound) // 48_000 for sound in sounds] == [SECONDS, 20] and alarms == [True]


def test_an_attack_on_sound_that_ffmpeg_refuses_is_one_sentence(monkeypatch):
    monkeypatch.setattr(measure, "SOUND_ATTACKS", {"broken": (".wav", ["-af", "no such filter"])})
    with pytest.raises(UnusableInput, match="ffmpeg can't change the sound"):
        measure._read_after(["broken"], np.zeros(48_000))
