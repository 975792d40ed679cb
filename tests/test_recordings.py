"""Recordings in several voices, with the teacher's states and the labels that belong to each, kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from media import babble, write_wav

from gmtalker.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from gmtalker.models.articulation import CLOSED
from gmtalker.models.speech_encoder import IGNORED
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.recordings import read_recordings
from gmtalker.pretrain.speech_labels import PHONES

WIDTH = 4


class MadeUpTeacher:
    """Its states are the number of the layer and the loudness of each 20 ms."""

    def __init__(self) -> None:
        self.heard = 0

    def layer_states(self, waveform: torch.Tensor) -> torch.Tensor:
        self.heard += 1
        loudness = waveform.reshape(-1, SAMPLES_PER_FRAME // 2).square().mean(1).sqrt()
        return torch.stack([torch.stack([loudness, *[torch.full_like(loudness, layer)] * 3], dim=1) for layer in range(5)])


def row(folder: Path, name: str = "a", seconds: float = 2.0, set_name: str = "set", **changes) -> Row:
    """A recording that is there, of a set within a manifest."""
    file = f"{set_name}/{name}.wav"
    path = folder / file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, babble(seconds, seed=len(name)))
    known = {"kind": "speech", "person": "p", "train_seconds": seconds, "speech": True, "emotion": None, "sync": ""}
    return Row(path, file, **known | changes)


def test_each_recording_speaks_in_several_voices(tmp_path):
    as_recorded, *others = read_recordings([row(tmp_path)], tmp_path / "cache", MadeUpTeacher())
    assert [item.voice for item in (as_recorded, *others)] == [0, 1, 2] and as_recorded.speed == 1
    assert len(as_recorded) == 50 and as_recorded.sound.dtype == np.int16
    np.testing.assert_allclose(as_recorded.waveform, babble(2, seed=1), atol=2e-4)
    for item in (as_recorded, *others):
        assert len(item.sound) == SAMPLES_PER_FRAME * len(item) and (item.person, item.file) == ("p", "set/a.wav")
        assert item.states.shape == (2 * len(item), WIDTH) and item.states.dtype == np.float16
        assert (item.states[:, 1] == 4).all()  # the last of five layers
        assert len(item) == pytest.approx(50 / item.speed, abs=4)
    assert len({item.speed for item in others}) == 2 and not np.array_equal(as_recorded.sound[:8000], others[0].sound[:8000])


def test_a_recording_is_heard_once(tmp_path):
    rows, teacher = [row(tmp_path), row(tmp_path, "bb")], MadeUpTeacher()
    first = read_recordings(rows, tmp_path / "cache", teacher)
    assert teacher.heard == len(first) == 6
    for item in rows:
        item.path.unlink()
    again = read_recordings(rows, tmp_path / "cache", teacher)
    assert teacher.heard == 6
    for one, other in zip(first, again):
        assert np.array_equal(one.sound, other.sound) and np.array_equal(one.states, other.states) and one.speed == other.speed
    assert not list((tmp_path / "cache").rglob(".writing-*"))


def test_two_sets_may_have_files_of_one_name(tmp_path):
    rows = [row(tmp_path / folder, seconds=seconds) for folder, seconds in (("one", 1.0), ("other", 2.0))]
    assert rows[0].file == rows[1].file
    assert [len(item) for item in read_recordings(rows, tmp_path / "cache", None, voices=1)] == [FPS, 2 * FPS]


def test_the_same_voices_are_made_anew_without_the_cache(tmp_path):
    first, again = (read_recordings([row(tmp_path)], tmp_path / cache, None) for cache in ("one", "two"))
    assert all(np.array_equal(a.sound, b.sound) for a, b in zip(first, again)) and first[0].states is None


def test_only_training_seconds_are_heard(tmp_path):
    (item,) = read_recordings([row(tmp_path, train_seconds=1.0)], tmp_path / "cache", None, voices=1)
    assert len(item) == FPS


def test_what_can_not_be_used_is_left_out(tmp_path):
    """Nobody speaks, nothing is heard, too short to learn from, no sound file, not there."""
    (tmp_path / "set").mkdir()
    write_wav(tmp_path / "set" / "silent.wav", np.zeros(SAMPLE_RATE))
    (tmp_path / "set" / "text.wav").write_text("no sound")
    missing = row(tmp_path, "gone")
    missing.path.unlink()
    rows = [
        row(tmp_path, "nobody", speech=False), row(tmp_path, "silent"), row(tmp_path, "short", 0.2), row(tmp_path, "text"),
        missing, row(tmp_path, "good"),
    ]  # fmt: skip
    steps = []
    found = read_recordings(rows, tmp_path / "cache", None, voices=1, on_progress=steps.append)
    assert [item.file for item in found] == ["set/good.wav"]
    assert [(step.stage, step.done, step.total) for step in steps] == [("listening to recordings", n, 5) for n in range(5)]


def test_labels_beside_a_recording_are_moved_with_its_speed(tmp_path):
    spoken = row(tmp_path, seconds=4.0)
    (spoken.path.parent / "phones").mkdir()
    (spoken.path.parent / "phones" / "a.lab").write_text("1.0 pau\n1.4 m\n3.0 aa\n4.0 pau\n")
    recordings = read_recordings([spoken], tmp_path / "cache", None)
    for item in recordings:
        closed = np.flatnonzero(item.articulation[:, CLOSED] == 1) / FPS * item.speed
        assert closed[0] == pytest.approx(1.0, abs=0.1) and closed[-1] == pytest.approx(1.36, abs=0.1)
        assert item.phones.shape == (len(item),) and PHONES[item.phones[len(item) // 2]] == "a"


def test_emodbs_labels_are_found_in_their_folder_and_other_recordings_have_none(tmp_path):
    spoken = row(tmp_path, "03a01Fa", set_name="emodb")
    (tmp_path / "emodb" / "phones").mkdir()
    (tmp_path / "emodb" / "phones" / "03a01Faxx.lablaut").write_text("signal\n#\n 1.0 -1 m\n 2.0 -1 a\n")
    labelled, plain = read_recordings([spoken, row(tmp_path)], tmp_path / "cache", None, voices=1)
    assert labelled.articulation[:24, CLOSED].min() == 1 and labelled.articulation[26:, CLOSED].max() == 0
    assert np.isnan(plain.articulation).all() and (plain.phones == IGNORED).all()
    assert labelled.labelled and not plain.labelled
