"""The pretraining stages on a made-up corpus of a few invented people: each runs, saves loadable weights and its card."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gmtalker.errors import UnusableInput
from gmtalker.face.lip_guard import CLOSING
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.models.motion_generator import MotionGenerator
from gmtalker.models.speech_encoder import IGNORED, SpeechEncoder
from gmtalker.models.weights import load_strict
from gmtalker.pretrain import expression as expression_pretraining
from gmtalker.pretrain import samples as material
from gmtalker.pretrain.datasets import Row, training_rows
from gmtalker.pretrain.expression import _taught
from gmtalker.pretrain.motion import blinks_of
from gmtalker.pretrain.samples import (
    VIEWS,
    Sampler,
    encode_speech_views,
    hold_out,
    hold_out_people,
    random_times,
    unknown,
    write_offsets,
)
from gmtalker.pretrain.speech import Recording, _in_time, shared_offsets, sound_offset
from gmtalker.pretrain.speech_labels import GRID_WORDS, PHONES, phone_classes, sentence_phones, word_classes
from gmtalker.tracks import count_blinks, sample_rows
from personalize import pretraining


@dataclass(frozen=True)
class MadeUpClip:
    file: str
    person: str
    emotion: str | None
    sync_ok: bool
    has_speech: bool
    expression: np.ndarray
    motion: np.ndarray
    mel: np.ndarray | None
    silent: np.ndarray
    lips: np.ndarray

    @property
    def row(self):
        return Row(Path(self.file), self.file, "speech", self.person, 3.0, True, self.emotion, "ok", 0.8)

    @property
    def frames(self):
        return len(self.expression)

    def __len__(self):
        return self.frames


class MadeUpFaceModel:
    coefficients = 5

    @classmethod
    def load(cls, folder):
        if not folder.is_dir():
            raise FileNotFoundError(folder)
        return cls()

    def lip_basis(self):
        return torch.eye(5)[:, :3]

    def lip_opening(self, coefficients):
        return coefficients[:, 0]


class MadeUpGuard:
    """The first coefficient is the opening of the lips."""

    def __init__(self, model=None):
        pass

    def closed(self, expression, share):
        return torch.cat([expression[..., :1] * (1 - share[..., None]), expression[..., 1:]], dim=-1)


def made_up(index, emotion, speech):
    random = np.random.default_rng(index)
    frames = int(random.integers(20, 110))
    expression = random.standard_normal((frames, 5)).astype(np.float32)
    mel = random.standard_normal((4 * frames, 80)).astype(np.float32) if speech else None
    return MadeUpClip(
        f"set/{index}.mp4", f"person {index % 3}", emotion, True, speech, expression,
        random.random((frames, 10)).astype(np.float32), mel, np.zeros(frames, bool),
        expression @ random.standard_normal((5, 30)).astype(np.float32),
    )  # fmt: skip


@pytest.fixture
def folders(tmp_path, monkeypatch):
    data, output = tmp_path / "data", tmp_path / "output"
    (output / "face_model").mkdir(parents=True)
    data.mkdir()
    clips = [made_up(index, [None, "happy", "sad"][index % 3], index % 4 != 1) for index in range(40)]
    with (data / "MANIFEST.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "kind", "split", "person", "seconds", "train_seconds", "speech", "emotion", "level", "sync"])
        for clip in clips:
            table.writerow([clip.file, "speech", "train", clip.person, 3, 3, "yes", clip.emotion or "", "2", "ok"])
    monkeypatch.setattr(material, "load_corpus", lambda rows, cache, model: clips)
    monkeypatch.setattr(expression_pretraining, "LipGuard", MadeUpGuard)
    for module in (material, expression_pretraining):
        monkeypatch.setattr(module, "FaceModel", MadeUpFaceModel)
    return training_rows(data), output


def test_stages_in_their_order(folders):
    rows, output = folders
    with pytest.raises(UnusableInput, match="pretrain speech"):
        pretraining.pretrain_motion(rows, output, minutes=0.001)
    reports = []
    for stage, kind in (("speech", SpeechEncoder), ("expression", ExpressionGenerator), ("motion", MotionGenerator)):
        train = getattr(pretraining, f"pretrain_{stage}")
        folder = train(rows, output, minutes=0.005, device="cpu", report=reports.append)
        load_strict(kind, folder)
        assert reports[-1]["stage"] == stage and np.isfinite(reports[-1]["total"])
    card = (output / "README.md").read_text()
    assert [line for line in card.splitlines() if line.startswith("## ")] == [
        "## speech_encoder", "## expression_generator", "## motion_generator",
    ]  # fmt: skip
    assert (output / "model_index.json").is_file()
    assert "not for commercial use" in card and str(rows[0].path.parents[1]) not in card
    pretraining.pretrain_speech(rows, output, minutes=0.005, device="cpu")
    assert (output / "README.md").read_text().count("## speech_encoder") == 1


def test_face_model_comes_first(tmp_path):
    with pytest.raises(UnusableInput, match="pretrain face"):
        pretraining.pretrain_speech([], tmp_path / "output", minutes=0.001)


def test_phones_words_and_sentences_on_the_clock(tmp_path):
    labels = tmp_path / "a.lablaut"
    lines = ("_d\t-sth", "\t-sth", "dasp", "aI\t\t2", "Q")
    ends = (0.08, 0.12, 0.16, 0.24, 0.28)
    labels.write_text("signal a\n#\n" + "".join(f"    {end}   -1 {line}\n" for end, line in zip(ends, lines)))
    names = [PHONES[index] if index >= 0 else "?" for index in phone_classes(labels, 8)]
    assert names == ["d", "d", "d", "d", "aI", "aI", "?", "?"]
    alignment = tmp_path / "a.align"
    alignment.write_text("0 2000 sil\n2000 4000 bin\n4000 5000 sp\n")
    names = [GRID_WORDS[index] if index >= 0 else "?" for index in word_classes(alignment, 6)]
    assert names == ["sil", "sil", "bin", "bin", "sil", "?"]
    assert len(sentence_phones("Actor_01/03-01-05-01-02-01-01.ogg")) == 18
    assert sentence_phones("03a01Fa.ogg") is None and IGNORED not in sentence_phones("03-01-05-01-01-01-01.ogg")


def test_people_with_much_material_do_not_drown_the_others():
    clips = [made_up(index, None, True) for index in range(3)]
    many = [made_up(3 * index, None, True) for index in range(1, 60)]
    sampler, random = Sampler([*clips, *many]), np.random.default_rng(0)
    drawn = [sampler.draw(random).person for _ in range(600)]
    assert 0.05 < drawn.count("person 1") / 600 < 0.3  # one clip in 62


def test_held_out_clips_are_never_trained_on():
    items = [("a", index) for index in range(200)] + [("b", index) for index in range(3)]
    kept, held = hold_out(items, lambda item: True, lambda item: item[0])
    assert not set(kept) & set(held) and len(kept) + len(held) == 203
    assert 3 <= len(held) <= 25 and all(person == "a" for person, _ in held)


def test_times_stay_in_the_clip_where_it_is_long_enough():
    random = np.random.default_rng(0)
    for _ in range(50):
        times = random_times(100, 75, 1.1, random)
        assert 0 <= times[0] and times[-1] <= 99
    assert random_times(20, 75, 1.0, random)[0] == 0
    track = np.arange(10.0)[:, None]
    np.testing.assert_allclose(sample_rows(track, np.array([0.5, 3.25, 20.0]))[:, 0], [0.5, 3.25, 9.0])


def test_sound_beside_its_picture_is_found_and_moved():
    """An encoder whose lips are the loudness itself: the offset of a recording is what it was moved by."""

    class Loudness(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.LayerNorm(1)
            self.lip_head = torch.nn.Identity()

        def forward(self, mel):
            return mel.unflatten(1, (-1, 4)).mean((2, 3))[..., None].expand(-1, -1, 8)

    random = np.random.default_rng(0)
    level = np.convolve(random.standard_normal(120), np.ones(5) / 5, "same").astype(np.float32)
    mel = np.repeat(level, 4)[:, None] + 0.01 * random.standard_normal((480, 80)).astype(np.float32)
    for early in (-2, 0, 3):
        lips = np.repeat(np.roll(level, early)[:, None], 8, axis=1)  # the picture comes `early` frames after the sound
        recording = Recording("lips", "p", "a.mp4", mel, unknown(120), unknown(120), unknown(0), lips, True)
        assert sound_offset(Loudness(), recording) == early
        moved = _in_time(recording, early)
        assert np.abs(moved.lips[5:-5, 0] - level[5:-5]).max() < 1e-6
    short = Recording("lips", "p", "b.mp4", mel[:80], unknown(20), unknown(20), unknown(0), lips[:20], True)
    assert sound_offset(Loudness(), short) == 0


def test_stages_hear_a_moved_sound(tmp_path):
    clip = made_up(0, None, True)
    torch.manual_seed(0)
    encoder = SpeechEncoder(width=16, feature_dim=8, fine_dilations=(1,), coarse_dilations=(1,)).eval()
    (plain,) = encode_speech_views([clip], encoder, tmp_path, 0)
    write_offsets(tmp_path, {clip.file: 2})
    (moved,) = encode_speech_views([clip], encoder, tmp_path, 0)
    assert torch.equal(moved.features[0, 2:], plain.features[0, :-2]) and not torch.equal(moved.features, plain.features)


def test_silence_is_met_and_its_lips_are_closed(tmp_path):
    """In some hearings a stretch is muted: there, and where the clip itself is silent, the taught lips rest."""
    clip = replace(made_up(0, None, True), expression=np.ones((100, 5), np.float32), silent=np.arange(100) < 12)
    clip = replace(clip, mel=np.random.default_rng(0).standard_normal((400, 80)).astype(np.float32), lips=np.zeros((100, 30)))
    before = clip.mel.copy()
    torch.manual_seed(0)
    encoder = SpeechEncoder(width=16, feature_dim=8, fine_dilations=(1,), coarse_dilations=(1,)).eval()
    (item,) = encode_speech_views([clip], encoder, tmp_path, 0)
    assert np.array_equal(clip.mel, before)
    assert np.array_equal(item.silent[0], clip.silent) and item.silent[1].sum() >= 12 + 5
    taught = _taught(item, MadeUpGuard())
    assert taught.shape == (VIEWS, 100, 5) and torch.all(taught[..., 1:] == 1)
    for silent, lips in zip(item.silent, taught[..., 0]):
        assert torch.all(lips[silent] == 0)
        away = np.convolve(silent, np.ones(2 * CLOSING + 1), "same") == 0
        assert torch.all(lips[away] == 1)


def test_clips_of_one_camera_share_their_offset():
    def recording(person, index):
        return Recording("lips", person, f"{person}/{index}", np.zeros((0, 80)), *[unknown(0)] * 3, np.zeros((0, 8)), True)

    recordings = [recording("often", index) for index in range(11)] + [recording("once", 0)]
    shared = shared_offsets(recordings, [0, 1, 1, 1, -3, 1, 1, 0, 1, 1, 2, -2])
    assert {shared[f"often/{index}"] for index in range(11)} == {1} and shared["once/0"] == -2


def test_blinks_are_what_is_quick_and_whole():
    lids = np.zeros((100, 2))
    lids[10:14] = 0.9  # a blink
    lids[30:60] = 0.7  # a squint
    lids[40:44] = 1.0  # a blink out of it
    lids[80:83] = 0.15  # a tremble
    blinks = blinks_of(lids)
    assert blinks[10:14].min() > 0.95 and blinks[40:44].min() > 0.95
    assert blinks[[35, 55, 81]].max() == 0 and count_blinks(blinks) == 2


def test_people_who_are_held_out_are_held_out_whole():
    """Nobody is half an unseen speaker, and somebody with much material is none."""
    items = [(f"person {index % 90}", index) for index in range(270)] + [("known", index) for index in range(50)]
    kept, held = hold_out_people(items, lambda item: item[0])
    unseen_speakers = {name for name, _ in held}
    assert len(kept) + len(held) == 320 and not unseen_speakers & {name for name, _ in kept} and "known" not in unseen_speakers
    assert 1 <= len(unseen_speakers) <= 20
