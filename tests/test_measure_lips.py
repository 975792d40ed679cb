"""The measures of lips tell closed from open, still from moving and alike from unlike; tiny networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_speech
from media import bundled_clip

import gmtalker.measure.lips as measures
from gmtalker.__main__ import main
from gmtalker.avatars.ready import load_avatar
from gmtalker.errors import UnusableInput
from gmtalker.measure.generic import UnseenSpeaker, expression_for
from gmtalker.media.audio import change_tempo
from gmtalker.models.articulation import SPEAKING
from gmtalker.pretrain.datasets import Row


def phones_file(folder: Path, text: str = "pau:0.2 m:0.28 aa:0.6 b:0.68 t:0.8 aa:1.0") -> Path:
    path = folder / "speech.phones.txt"
    path.write_text(text + "\n")
    return path


def opening_with(closed: list[slice], frames: int = 50, size: float = 1.0) -> np.ndarray:
    """Lips that are open but for some frames."""
    opening = np.full(frames, size)
    for reach in closed:
        opening[reach] = 0.1 * size
    return opening


def tone(frequency: float, seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * 16_000)) / 16_000)).astype(np.float32)


def loudest_frequency(sound: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(sound)).argmax() * 16_000 / len(sound))


class LoudnessTalker:
    """In the place of a Talker: lips that open with the loudness, at once."""

    def lips(self, waveform: np.ndarray) -> measures.Lips:
        frames = waveform[: len(waveform) // 640 * 640].reshape(-1, 640)
        return measures.Lips(np.sqrt(np.square(frames).mean(1)))


def test_phones_follow_each_other(tmp_path):
    phones = measures.read_phones(phones_file(tmp_path))
    assert [phone.name for phone in phones] == ["pau", "m", "aa", "b", "t", "aa"]
    assert (phones[1].begin, phones[1].end) == (0.2, 0.28) and phones[0].begin == 0
    assert phones[1].frames(25) == slice(5, 7) and phones[1].frames(25, 1) == slice(4, 8)
    assert phones[-1].frames(20) == slice(19, 20)  # a phone after the last frame is looked for in it


@pytest.mark.parametrize("text", ["m 0.2 aa", "pau:0.5 m:0.4", "m:x", "m:0.1 m:0.1"])
def test_a_file_without_phones_is_one_sentence(text, tmp_path):
    with pytest.raises(UnusableInput, match=r"speech\.phones\.txt holds no phones"):
        measures.read_phones(phones_file(tmp_path, text))


def test_lips_that_close_at_the_labial_are_told_from_those_that_close_elsewhere():
    m, t = measures.Phone("m", 0.8, 0.88), measures.Phone("t", 1.2, 1.28)  # frames 20 and 21, 30 and 31
    right, beside, elsewhere = (measures.closed_shares(opening_with([slice(f, f + 1)]), [m, t])[0] for f in (20, 22, 23))
    assert (right, beside, elsewhere) == (1.0, 1.0, 0.0)
    assert measures.closed_shares(opening_with([]), [m, t]) == (0.0, 1.0)


def test_sounds_of_the_tongue_may_pass_a_closure_but_not_be_held_closed():
    t = measures.Phone("t", 0.8, 0.88)
    passed, held = (measures.closed_shares(opening_with([slice(20, end)]), [t])[1] for end in (21, 22))
    assert (passed, held) == (1.0, 0.0)


def test_closed_is_a_share_of_how_wide_the_clip_opens():
    m = measures.Phone("m", 0.8, 0.88)
    opening = opening_with([slice(20, 22)], size=0.05)
    opening[20:22] = 0.16 * 0.05
    assert measures.closed_shares(opening, [m])[0] == 0.0
    opening[20:22] = 0.14 * 0.05
    assert measures.closed_shares(opening, [m])[0] == 1.0


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_another_speed_keeps_the_pitch(speed):
    sound = tone(220, 2.0)
    other = change_tempo(sound, speed)
    assert len(other) == round(len(sound) / speed) and other.dtype == np.float32
    assert loudest_frequency(other) == pytest.approx(220, abs=3)
    assert np.square(other).mean() == pytest.approx(np.square(sound).mean(), rel=0.1)


def test_a_stretched_speech_keeps_its_place_in_time():
    sound = np.concatenate([tone(220, 1.0), np.zeros(16_000, np.float32)])
    for speed in (0.5, 2.0):
        other = np.abs(change_tempo(sound, speed))
        assert np.flatnonzero(other > 0.1).max() / 16_000 == pytest.approx(1.0 / speed, abs=0.04)


def test_a_closed_hum_and_a_still_mouth_are_told_from_speech():
    random = np.random.default_rng(0)
    spoken = measures.Lips(random.random(200))
    assert measures.closed_in_hum(measures.Lips(np.full(50, 0.05)), spoken) == {"track": 1.0}
    assert measures.closed_in_hum(measures.Lips(np.full(50, 0.5)), spoken) == {"track": 0.0}
    assert measures.lip_speed(measures.Lips(np.full(50, 0.5)), spoken) == {"track": 0.0}
    assert measures.lip_speed(measures.Lips(random.random(200)), spoken)["track"] == pytest.approx(1, abs=0.2)


def test_lips_in_more_noise_agree_less(tmp_path):
    sound = measures.read_speech(measures.SPEECH)
    spoken = LoudnessTalker().lips(sound)
    found = measures.noise_measures(LoudnessTalker(), spoken, write_speech(tmp_path / "music.wav", 2.0))
    assert list(found) == ["voices 20 dB", "voices 10 dB", "voices 0 dB", "music 0 dB"]
    twenty, ten, none, music = (where["track"] for where in found.values())
    assert 1 >= twenty > ten > none and music < 0.95


def test_lips_of_a_track_and_of_other_frames_are_refused():
    with pytest.raises(ValueError, match="as many"):
        measures.Lips(np.zeros(5), np.zeros(4), np.zeros(5))


def test_lips_of_the_generator_itself_agree_wholly(tiny_pipeline, monkeypatch):
    sound = np.random.default_rng(0).normal(size=96_000).astype(np.float32) * 0.1
    sound[16_000:] = 0
    features = tiny_pipeline.encode(sound)
    features[25:, SPEAKING] = 0  # the tiny encoder hears speech everywhere
    monkeypatch.setattr(tiny_pipeline, "encode", lambda waveform: features)
    made = expression_for(tiny_pipeline, tiny_pipeline.expression_generator, features, torch.eye(8)[:1])[0]
    lips = tiny_pipeline.face_model.lip_opening(made.numpy())
    row = Row(Path("a.mp4"), "a.mp4", "speech", "p", 0.0, True, None, "ok", test=True)
    late = np.roll(lips, -1)  # the real lips move one frame sooner: what is made is late
    rest = made.numpy(), np.zeros((150, 10)), sound
    same, delayed = (measures.lip_measures(tiny_pipeline, [UnseenSpeaker(row, real, *rest)]) for real in (lips, late))
    assert same["lip_correlation"] == pytest.approx(1.0) and same["lip_best_offset_frames"] == 0
    assert delayed["lip_best_offset_frames"] == 1 and delayed["lip_best_offset_ms"] == 40
    assert same["lip_motion_in_silence"] < 0.1


def test_lips_are_found_again_in_drawn_frames(tiny_pipeline, tmp_path, monkeypatch):
    """The bundled face, moved by the tiny stages: figures of track and drawing, and a picture of the mouth at each labial."""
    monkeypatch.setattr(measures, "EMOTIONS", ("neutral", "happy"))
    avatar = tiny_pipeline.avatars.get(replace(load_avatar(None), speaking_style=None))
    talker = measures.Talker(tiny_pipeline, avatar)
    lips = talker.lips(tone(180, 0.6))
    assert len(lips.track) == len(lips.drawn) == len(lips.steady) == 15 and np.isfinite(lips.drawn).all()
    phones = [measures.Phone("m", 0.1, 0.2), measures.Phone("n", 0.2, 0.3)]
    found = measures.closure_measures(talker, tone(180, 0.6), phones, tmp_path / "pictures", speeds=[1.0])
    assert (found["labials"], found["other_sounds"]) == (1, 1)
    assert list(found["track"]["by_condition"]) == list(found["drawn"]["by_condition"]) == ["neutral", "happy 1", "happy 2"]
    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert pictures == {"neutral.jpg", "happy 1.jpg", "happy 2.jpg"}


def test_the_command_takes_every_measure(tmp_path, tiny_generic, tiny_avatar, monkeypatch):
    """On the tiny avatar's tracks, in two emotions; of the manifest's people one is left out."""
    monkeypatch.setattr(measures, "EMOTIONS", ("neutral", "happy", "sad"))
    head = "file,kind,split,person,seconds,train_seconds,speech,emotion,sync\n"
    (tmp_path / "MANIFEST.csv").write_text(head + "a.mp4,speech,test,p,5,0,yes,,ok\nb.mp4,speech,test,q,5,0,yes,,ok\n")
    (tmp_path / "a.mp4").write_bytes(bundled_clip("preview.mp4").read_bytes())
    sound, output = write_speech(tmp_path / "sound.wav"), tmp_path / "lips.json"
    options = ["--avatar", tiny_avatar, "--generic", tiny_generic, "--device", "cpu", "--tracks-only"]
    options += ["--speech", sound, "--phones", phones_file(tmp_path), "--hum", sound, "--no-speech", sound, "--music", sound]
    options += ["--speeches", sound, "--data", tmp_path, "--leave-out", "q"]
    assert main(["lips", "--json", str(output), *map(str, options)]) == 0
    found = json.loads(output.read_text())
    assert found["closures"]["labials"] == 2 and len(found["closures"]["track"]["by_condition"]) == 15
    assert {"happy 2", "sad 1, speed 0.5", "neutral, speed 2"} < set(found["closures"]["track"]["by_condition"])
    assert set(found["motion_without_speaker"]) == {"silence", "sound.wav"} and 0 <= found["closed_in_hum"]["track"] <= 1
    assert set(found["lips_in_noise"]) == {"voices 20 dB", "voices 10 dB", "voices 0 dB", "music 0 dB"}
    assert found["lips_of_any_speech"]["sound.wav"]["seconds"] == 1.0
    assert list(found["lips_of_strangers"]["by_clip"]) == ["a.mp4"]
    assert "## closures" in output.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--speech", "a.wav"], "--phones"),
        (["--phones", "a.txt"], "--phones"),
        (["--pictures", "p"], "--pictures"),
        (["--pictures", "p", "--tracks-only", "--speech", "a.wav", "--phones", "a.txt"], "--pictures"),
    ],
)
def test_wrong_usage_is_one_sentence(options, sentence, tmp_path, capsys):
    assert main(["lips", "--json", str(tmp_path / "out.json"), *options]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and "\n" not in said
