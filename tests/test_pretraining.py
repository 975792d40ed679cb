"""The pretraining stages on a made-up corpus of a few invented people: each runs, saves loadable weights and its card."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from gmtalker.assets import GENERIC
from gmtalker.errors import UnusableInput
from gmtalker.face.lip_guard import CLOSING
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.models.motion_generator import MotionGenerator
from gmtalker.models.speech_encoder import IGNORED, SpeechEncoder
from gmtalker.models.weights import load_strict
from gmtalker.pretrain import expression, samples
from gmtalker.pretrain.card import StageSection, write_section
from gmtalker.pretrain.corpus import Clip
from gmtalker.pretrain.datasets import Row, training_rows
from gmtalker.pretrain.expression import pretrain_expression, target_expression
from gmtalker.pretrain.motion import blinks_of, pretrain_motion
from gmtalker.pretrain.samples import (
    VIEWS,
    PretrainOptions,
    Sampler,
    encode_speech_views,
    hold_out,
    hold_out_people,
    random_times,
    unknown,
    write_offsets,
)
from gmtalker.pretrain.speech import Recording, in_time, pretrain_speech, shared_offsets, sound_offset
from gmtalker.pretrain.speech_labels import GRID_WORDS, PHONES, phone_classes, sentence_phones, word_classes
from gmtalker.tracks import count_blinks, sample_rows
from gmtalker.training.checkpoints import TrainState

MOMENT = PretrainOptions(minutes=0.005, device="cpu")


class MadeUpFaceModel:
    coefficient_dim = 5

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
    coefficients = random.standard_normal((frames, 5)).astype(np.float32)
    mel = random.standard_normal((4 * frames, 80)).astype(np.float32) if speech else None
    file = f"set/{index}.mp4"
    row = Row(Path(file), file, "speech", f"person {index % 3}", 3.0, speech, emotion, "ok", 0.8)
    motion = random.random((frames, 10)).astype(np.float32)
    lips = coefficients @ random.standard_normal((5, 30)).astype(np.float32)
    return Clip(row, coefficients, motion, mel, np.zeros(frames, bool), lips)


def tiny_encoder():
    torch.manual_seed(0)
    return SpeechEncoder(width=16, feature_dim=8, fine_dilations=(1,), coarse_dilations=(1,)).eval()


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
            table.writerow([clip.file, "speech", "train", clip.person, 3, 3, "yes", clip.row.emotion or "", "2", "ok"])
    monkeypatch.setattr(samples, "load_corpus", lambda rows, cache, model, on_progress: clips)
    monkeypatch.setattr(expression, "LipGuard", MadeUpGuard)
    for module in (samples, expression):
        monkeypatch.setattr(module, "FaceModel", MadeUpFaceModel)
    return training_rows(data), output


def test_stages_in_their_order(folders):
    rows, output = folders
    with pytest.raises(UnusableInput, match="pretrain speech"):
        pretrain_motion(rows, output, MOMENT)
    reports = []
    stages = {
        "speech": (pretrain_speech, SpeechEncoder),
        "expression": (pretrain_expression, ExpressionGenerator),
        "motion": (pretrain_motion, MotionGenerator),
    }
    for stage, (train, network) in stages.items():
        load_strict(network, train(rows, output, MOMENT, reports.append))
        assert reports[-1].stage == stage and np.isfinite(reports[-1].figures["total"])
    assert [report.done for report in reports if report.stage == "encoding speech"] == [*range(40), *range(40)]
    card = (output / "README.md").read_text()
    assert [line for line in card.splitlines() if line.startswith("## ")] == [
        "## speech_encoder", "## expression_generator", "## motion_generator",
    ]  # fmt: skip
    assert (output / "model_index.json").is_file()
    assert "not for commercial use" in card and str(rows[0].path.parents[1]) not in card
    pretrain_speech(rows, output, MOMENT)
    assert (output / "README.md").read_text().count("## speech_encoder") == 1


def test_steps_and_the_baseline(folders):
    """So many steps are taken, and the baseline without a mixture stands beside the generator."""
    rows, output = folders
    pretrain_speech(rows, output, MOMENT)
    folder = pretrain_expression(rows, output, PretrainOptions(steps=2, by_label=True, device="cpu"))
    assert folder == output / "expression_baseline" and load_strict(ExpressionGenerator, folder).config.by_label
    card = (output / "README.md").read_text()
    assert "2 steps of training" in card and "pretrain expression --baseline --data DIR --output DIR --steps 2" in card


def test_face_model_comes_first(tmp_path):
    with pytest.raises(UnusableInput, match="pretrain face"):
        pretrain_speech([], tmp_path / "output", MOMENT)


def test_the_card_is_extended_by_sections(tmp_path):
    """What stands in the bundled card stays, a section is replaced and moves to the end, and the front matter stays readable."""
    before = ModelCard.load(GENERIC / "README.md")
    (tmp_path / "README.md").write_text((GENERIC / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    row = Row(Path("set/a.mp4"), "set/a.mp4", "speech", "p", 90.0, True, None, "ok")
    figures = {"lip_correlation": 0.5, "not taken": None}
    section = StageSection("motion_generator", "the command", TrainState(7, 120.0), [row], figures, 1_260_000)
    write_section(tmp_path, section)
    after = ModelCard.load(tmp_path / "README.md")
    assert after.data.to_dict() == before.data.to_dict() and after.data.license == "other"
    kept = [part for part in before.text.split("\n## ") if not part.startswith("motion_generator\n")]
    assert [part.strip() for part in after.text.split("\n## ")[:-1]] == [part.strip() for part in kept]
    last = after.text.split("\n## ")[-1]
    assert last.startswith("motion_generator\n\n1.26 M parameters, 7 steps of training in 2.0 minutes on ")
    assert last.endswith(
        "    the command\n\n| training rows of | files | minutes |\n|---|---|---|\n| set | 1 | 1.5 |\n\n- lip_correlation: 0.5\n"
    )
    write_section(tmp_path, section)
    assert ModelCard.load(tmp_path / "README.md").content == after.content


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
    tracked = encode_speech_views([*clips, *many], tiny_encoder(), Path("no offsets"), 0)
    sampler, random = Sampler(tracked), np.random.default_rng(0)
    drawn = [sampler.draw(random).person for _ in range(600)]
    assert 0.05 < drawn.count("person 1") / 600 < 0.3  # one clip in 62


def test_validation_clips_are_never_trained_on():
    items = [("a", index) for index in range(200)] + [("b", index) for index in range(3)]
    train, validation = hold_out(items, lambda item: True, lambda item: item[0])
    assert not set(train) & set(validation) and len(train) + len(validation) == 203
    assert 3 <= len(validation) <= 25 and all(person == "a" for person, _ in validation)


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
        moved = in_time(recording, early)
        assert np.abs(moved.lips[5:-5, 0] - level[5:-5]).max() < 1e-6
    short = Recording("lips", "p", "b.mp4", mel[:80], unknown(20), unknown(20), unknown(0), lips[:20], True)
    assert sound_offset(Loudness(), short) == 0


def test_stages_hear_a_moved_sound(tmp_path):
    clip = made_up(0, None, True)
    (plain,) = encode_speech_views([clip], tiny_encoder(), tmp_path, 0)
    write_offsets(tmp_path, {clip.file: 2})
    (moved,) = encode_speech_views([clip], tiny_encoder(), tmp_path, 0)
    assert torch.equal(moved.features[0, 2:], plain.features[0, :-2]) and not torch.equal(moved.features, plain.features)


def test_silence_is_met_and_its_lips_are_closed(tmp_path):
    """In some views a stretch is muted: there, and where the clip itself is silent, the target lips rest."""
    clip = replace(made_up(0, None, True), expression=np.ones((100, 5), np.float32), silent=np.arange(100) < 12)
    clip = replace(clip, mel=np.random.default_rng(0).standard_normal((400, 80)).astype(np.float32), lips=np.zeros((100, 30)))
    before = clip.mel.copy()
    (item,) = encode_speech_views([clip], tiny_encoder(), tmp_path, 0)
    assert np.array_equal(clip.mel, before)
    assert np.array_equal(item.silent[0], clip.silent) and item.silent[1].sum() >= 12 + 5
    target = target_expression(item, MadeUpGuard())
    assert target.shape == (VIEWS, 100, 5) and torch.all(target[..., 1:] == 1)
    for silent, lips in zip(item.silent, target[..., 0]):
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
    train, unseen = hold_out_people(items, lambda item: item[0])
    unseen_speakers = {name for name, _ in unseen}
    assert len(train) + len(unseen) == 320 and not unseen_speakers & {name for name, _ in train}
    assert "known" not in unseen_speakers and 1 <= len(unseen_speakers) <= 20
