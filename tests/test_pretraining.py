"""The pretraining stages on a made-up corpus of a few invented people: each runs, saves loadable weights and its card."""

import csv
import itertools
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from media import babble, write_wav

from gmtalker.__main__ import main
from gmtalker.assets import GENERIC
from gmtalker.clock import SAMPLES_PER_FRAME
from gmtalker.errors import UnusableInput, UnusableWeights
from gmtalker.face.landmarks import INNER_LIPS, LIPS
from gmtalker.face.lip_guard import CLOSING
from gmtalker.models.articulation import ARTICULATION_DIM, CLOSED, SPEAKING
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.models.motion_generator import MotionGenerator
from gmtalker.models.speech_encoder import IGNORED, SpeechEncoder
from gmtalker.models.weights import load_strict, save_half
from gmtalker.pretrain import expression, samples, speech
from gmtalker.pretrain.card import StageSection, write_section
from gmtalker.pretrain.corpus import Clip, to_float, to_int16
from gmtalker.pretrain.datasets import Row, training_rows
from gmtalker.pretrain.expression import pretrain_expression, target_expression
from gmtalker.pretrain.motion import blinks_of, pretrain_motion
from gmtalker.pretrain.recordings import Recording
from gmtalker.pretrain.samples import (
    VIEWS,
    PretrainOptions,
    Sampler,
    encode_speech_views,
    hold_out,
    hold_out_people,
    random_times,
    read_offsets,
    write_offsets,
)
from gmtalker.pretrain.speech import LIP_COMPONENTS, WINDOW_FRAMES, FilmedLips, pretrain_speech, sound_offset
from gmtalker.pretrain.speech_labels import PHONES
from gmtalker.pretrain.teacher import StateScale
from gmtalker.progress import ignore_progress
from gmtalker.tracks import count_blinks, sample_rows
from gmtalker.training.checkpoints import TrainState

MOMENT = PretrainOptions(minutes=0.005, device="cpu")
TAUGHT = replace(MOMENT, teacher="made up")
SMALL = {
    "width": 16,
    "content_dim": 8,
    "articulation_width": 8,
    "fine_dilations": (1,),
    "coarse_dilations": (1,),
}  # of a speech encoder


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


class MadeUpTeacher:
    """Its states are the loudness of every 20 ms, and noise."""

    def layer_states(self, waveform):
        loudness = waveform.reshape(-1, SAMPLES_PER_FRAME // 2).square().mean(1).sqrt()
        noise = torch.randn(3, len(loudness), 5, generator=torch.Generator().manual_seed(0))
        return torch.cat([loudness.expand(3, -1)[..., None], noise], dim=-1)


def made_up(index, emotion=None, speech=True, folder=Path()):
    random = np.random.default_rng(index)
    frames = int(random.integers(15, 60))
    coefficients = random.standard_normal((frames, 5)).astype(np.float32)
    sound = to_int16(0.1 * random.standard_normal(SAMPLES_PER_FRAME * frames)) if speech else None
    file = f"set/{index}.mp4"
    row = Row(folder / file, file, "speech", f"person {index % 3}", 3.0, speech, emotion, "ok", 0.8)
    motion = random.random((frames, 10)).astype(np.float32)
    lips = coefficients @ random.standard_normal((5, 30)).astype(np.float32)
    return Clip(row, coefficients, motion, sound, np.zeros(frames, bool), lips)


def tiny_encoder():
    torch.manual_seed(0)
    return SpeechEncoder(**SMALL).eval()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    data, output = tmp_path / "data", tmp_path / "output"
    (output / "face_model").mkdir(parents=True)
    (data / "set").mkdir(parents=True)
    clips = [made_up(index, [None, "happy", "sad"][index % 3], index % 4 != 1, data) for index in range(40)]
    with (data / "MANIFEST.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "kind", "split", "person", "seconds", "train_seconds", "speech", "emotion", "level", "sync"])
        for clip in clips:
            spoken = "yes" if clip.row.speech else "no"
            table.writerow([clip.file, "speech", "train", clip.person, 3, 3, spoken, clip.row.emotion or "", "2", "ok"])
            if clip.sound is not None:
                write_wav(clip.row.path, to_float(clip.sound))
    monkeypatch.setattr(samples, "load_corpus", lambda rows, cache, model, on_progress: clips)
    monkeypatch.setattr(expression, "LipGuard", MadeUpGuard)
    for module in (samples, expression):
        monkeypatch.setattr(module, "FaceModel", MadeUpFaceModel)
    monkeypatch.setattr(speech, "fetch_encoder", lambda name, purpose: MadeUpTeacher())
    monkeypatch.setattr(speech.read_recordings, "__defaults__", (2, ignore_progress))  # two voices
    monkeypatch.setattr(speech, "SpeechEncoder", partial(SpeechEncoder, **SMALL))
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
        load_strict(network, train(rows, output, TAUGHT, reports.append))
        assert reports[-1].stage == stage and np.isfinite(reports[-1].figures["total"])
    assert [report.done for report in reports if report.stage == "encoding speech"] == [*range(40), *range(40)]
    card = (output / "README.md").read_text()
    assert [line for line in card.splitlines() if line.startswith("## ")] == [
        "## speech_encoder", "## expression_generator", "## motion_generator",
    ]  # fmt: skip
    assert (output / "model_index.json").is_file()
    assert "not for commercial use" in card and str(rows[0].path.parents[1]) not in card
    assert {"teacher_explained", "closures_found"} <= set(re.findall(r"^- (\w+): ", card, re.MULTILINE))
    assert read_offsets(output / "corpus").keys() == {row.file for row in rows if row.speech}
    pretrain_speech(rows, output, TAUGHT)
    assert (output / "README.md").read_text().count("## speech_encoder") == 1


def test_steps_and_the_baseline(folders):
    """So many steps are taken, and the baseline without a mixture stands beside the generator."""
    rows, output = folders
    pretrain_speech(rows, output, TAUGHT)
    folder = pretrain_expression(rows, output, PretrainOptions(steps=2, by_label=True, device="cpu"))
    assert folder == output / "expression_baseline" and load_strict(ExpressionGenerator, folder).config.by_label
    card = (output / "README.md").read_text()
    assert "2 steps of training" in card and "pretrain expression --baseline --data DIR --output DIR --steps 2" in card


def test_face_model_comes_first(tmp_path):
    with pytest.raises(UnusableInput, match="pretrain face"):
        pretrain_speech([], tmp_path / "output", TAUGHT)


def test_a_teacher_is_asked_for_and_one_that_is_none_is_named(tmp_path, folders, monkeypatch):
    rows, output = folders
    with pytest.raises(UnusableInput, match="--teacher openai/whisper-tiny.en"):
        pretrain_speech(rows, output, MOMENT)
    monkeypatch.undo()
    with pytest.raises(UnusableInput, match="can't be used as a teacher") as raised:
        speech.fetch_encoder(str(tmp_path), "a teacher")
    assert len(str(raised.value).splitlines()) == 1


def test_an_adopted_encoder_learns_from_what_is_labelled(folders, monkeypatch):
    rows, output = folders
    (rows[0].path.parent / "phones").mkdir()
    (rows[0].path.parent / "phones" / "0.lab").write_text("0.2 pau\n0.4 m\n0.6 aa\n")
    asked = []
    monkeypatch.setattr(speech, "adopt_encoder", lambda *arguments: asked.append(arguments))
    speech.adopt_speech_encoder("some/encoder", rows, output, MOMENT)
    ((name, given, labelled, folder, options, _),) = asked
    (item,) = labelled()
    assert (name, given, folder, options) == ("some/encoder", rows, output, MOMENT) and item.person == "person 0"
    assert item.closed[:12].tolist() == [0] * 5 + [1] * 5 + [0] * 2 and item.speaking[:6].tolist() == [0] * 5 + [1]


@pytest.mark.parametrize("options", [["--teacher", "H"], ["--extra-speech", "D"], ["--start", "D"]])
def test_other_stages_have_no_teacher(options, tmp_path, capsys):
    command = ["pretrain", "motion", "--data", str(tmp_path), "--output", str(tmp_path), *options]
    assert main(command) == 2 and "pretrain speech" in capsys.readouterr().err


def test_the_articulation_alone_is_trained_of_an_encoder_that_is_there(tmp_path, capsys):
    command = ["pretrain", "speech", "--data", str(tmp_path), "--output", str(tmp_path), "--articulation-only"]
    assert main(command) == 2 and "say of which, with --start DIR" in capsys.readouterr().err
    encoder = tiny_encoder()
    encoder.freeze_content()
    frozen = {name for name, weight in encoder.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in encoder.named_parameters() if not name.startswith("articulat")}


def test_more_speech_is_heard_beside_the_clips(folders, tmp_path, monkeypatch):
    """--extra-speech reads the recordings of other folders too, and --noises and --teacher arrive."""
    rows, output = folders
    for name in ("more", "most"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "MANIFEST.csv").write_text("file,split,person,seconds\nx.wav,train,p,1\ny.wav,test,p,1\n")
    heard = []
    monkeypatch.setattr(speech, "pretrain_speech", lambda *arguments: heard.append(arguments))
    extra = ["--extra-speech", str(tmp_path / "more"), "--extra-speech", str(tmp_path / "most"), "--noises", str(tmp_path)]
    command = ["pretrain", "speech", "--data", str(tmp_path / "data"), "--output", str(output), "--teacher", "T", *extra]
    assert main(command) == 0
    ((given, folder, options, _),) = heard
    assert [row.path for row in given[len(rows) :]] == [tmp_path / "more" / "x.wav", tmp_path / "most" / "x.wav"]
    assert len(given) == len(rows) + 2 and folder == output
    assert (options.teacher, options.noises) == ("T", tmp_path)


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


def test_people_with_much_material_do_not_drown_the_others():
    clips = [made_up(index) for index in range(3)]
    many = [made_up(3 * index) for index in range(1, 60)]
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


# --- What the speech encoder learns from ---------------------------------------------------------------------------------------


class LoudnessProbe:
    """It expects of lips what the states of the teacher are."""

    def eval(self):
        return self

    def __call__(self, states):
        return None, None, states.expand(-1, -1, LIP_COMPONENTS)


def outline(frames=120):
    """(frames,) of a sound, or of the lips that make it."""
    noise = np.random.default_rng(0).standard_normal(frames)
    return np.convolve(noise, np.ones(5) / 5, "same").astype(np.float32)


def filmed(early, frames=120):
    """Lips that show the outline `early` frames after the sound has it."""
    return np.repeat(np.roll(outline(frames), early)[:, None], LIP_COMPONENTS, axis=1)


def lips_filmed(early, offset=0, apart=False):
    return FilmedLips(filmed(early), np.full(120, apart), offset)


def recording(file="a.mp4", person="p", states=None, frames=120, **known):
    row = Row(Path(file), file, "speech", person, 9.0, True, None, "ok")
    sound = to_int16(babble(frames / 25))
    states = np.zeros((2 * frames, 2), np.float16) if states is None else states
    nothing = {"phones": np.full(frames, IGNORED), "articulation": np.full((frames, ARTICULATION_DIM), np.nan, np.float32)}
    return Recording(row, 0, 1.0, sound, states, **nothing | known)


@pytest.mark.parametrize("early", [-3, -2, 0, 1, 3])
def test_sound_beside_its_picture_is_found_and_moved(early):
    expected = filmed(0) + 0.01 * np.random.default_rng(1).standard_normal((120, LIP_COMPONENTS))
    assert sound_offset(expected, filmed(early)) == early
    lips = lips_filmed(early, offset=early)
    shapes, known = lips.at(np.arange(120))
    inside = slice(5, -5)
    assert np.abs(shapes[inside, 0] - outline()[inside]).max() < 1e-6 and known[inside].all() and known.sum() == 120 - abs(early)


def test_a_fast_voice_goes_through_its_lips_fast():
    lips = lips_filmed(0)
    fast, known = lips.at(np.arange(80), speed=2.0)
    assert known.tolist() == [True] * 60 + [False] * 20
    np.testing.assert_array_equal(fast[:60, 0], outline()[np.round(np.arange(0.5, 120, 2)).astype(int)[:60]])


class ClosingProbe(LoudnessProbe):
    """It takes every frame for a closed one."""

    def __call__(self, states):
        frames = states.shape[:2]
        return torch.full((*frames, ARTICULATION_DIM), 9.0), torch.zeros(*frames, len(PHONES)), None

    def parameters(self):
        return iter([torch.zeros(1)])


def test_lips_that_are_seen_apart_are_not_closed_whatever_is_heard():
    opening = np.tile(np.float32([0, 0, 0, 0, 0, 1, 1, 1, 1, 1]), 12)
    clip_lips = np.zeros((120, len(LIPS), 3), np.float32)
    clip_lips[:, LIPS.index(INNER_LIPS[1]), 1] = 0.06 * opening
    apart = speech._apart(clip_lips.reshape(120, -1))
    np.testing.assert_array_equal(apart[:-1], np.tile([False] * 6 + [True] * 3 + [False], 12)[:-1])
    lips = {"a.mp4": FilmedLips(filmed(0), apart)}
    for known, closed in (({}, 1.0), ({"articulation": np.zeros((120, ARTICULATION_DIM), np.float32)}, 0.0)):
        labelled = speech._labelled(ClosingProbe(), lambda states: states[::2], recording(**known), lips).articulation[:, CLOSED]
        assert (labelled[apart] == 0).all() and labelled[~apart] == pytest.approx(closed, abs=1e-3)


def test_training_goes_on_from_weights_that_are_there(tmp_path):
    earlier, other = tiny_encoder(), tiny_encoder()
    save_half(earlier, tmp_path / "earlier")
    torch.nn.init.zeros_(other.project.weight)
    samples.start_from(tmp_path / "earlier", other)
    torch.testing.assert_close(other.project.weight, earlier.project.weight.half().float())
    with pytest.raises(UnusableWeights, match="other sizes; leave --start out"):
        samples.start_from(tmp_path / "earlier", SpeechEncoder(width=8, content_dim=4))


def test_a_sound_is_not_moved_where_that_can_not_be_told():
    random = np.random.default_rng(2)
    assert sound_offset(filmed(0)[:40], filmed(2)[:40]) == 0  # too short
    assert sound_offset(random.standard_normal((120, 8)), filmed(2)) == 0  # lips of something else
    assert sound_offset(filmed(0), filmed(6)) == 0  # further than is searched
    assert sound_offset(filmed(0), np.zeros((120, 8))) == 0  # still lips


def test_clips_of_one_camera_share_their_offset():
    early = {f"often/{index}": offset for index, offset in enumerate([0, 1, 1, 1, -3, 1, 1, 0, 1, 1, 2])} | {"once/0": -2}
    recordings = [recording(file, file.split("/")[0], outline()[:, None]) for file in early]
    lips = {file: lips_filmed(offset) for file, offset in early.items()}
    moved = speech._in_time(LoudnessProbe(), lambda states: states, lips, recordings)
    assert {moved[file].offset for file in early if file.startswith("often")} == {1} and moved["once/0"].offset == -2


def test_lips_of_a_still_clip_are_not_blown_up():
    lips = np.random.default_rng(0).standard_normal((60, 30)).astype(np.float32)
    clips = [replace(made_up(index), lips=lips * scale) for index, scale in enumerate([1.0, 1.0, 1e-3])]
    shapes = [item.shapes for item in speech._filmed_lips(clips).values()]
    assert shapes[0].shape == (60, LIP_COMPONENTS) and shapes[0].std(0) == pytest.approx(np.ones(8), abs=0.01)
    assert shapes[2].std(0).max() < 0.01
    assert speech._filmed_lips([]) == {}


def test_lips_of_people_with_few_clips_are_not_learned_by_heart(monkeypatch):
    monkeypatch.setattr(speech, "LIP_CLIPS_MIN", 3)
    often = [recording(f"often/{index}", "often") for index in range(3)]
    seldom = [recording("seldom/0", "seldom"), *(replace(recording("seldom/1", "seldom"), voice=voice) for voice in range(3))]
    lips = {item.file: lips_filmed(0) for item in [*often, *seldom]}
    assert speech._of_the_often_filmed(lips, [*often, *seldom]).keys() == {item.file for item in often}


@pytest.fixture
def batches(monkeypatch):
    """Of one filmed recording and one with labels."""
    monkeypatch.setattr(speech, "LIP_CLIPS_MIN", 1)
    states = np.random.default_rng(0).standard_normal((240, 3)).astype(np.float16)
    silent = np.tile(np.float32([0, 0, 0]), (120, 1))
    silent[:60, SPEAKING] = 1.0
    labelled = recording("b.wav", "q", states, articulation=silent, phones=np.full(120, 3))
    train = [recording("a.mp4", "p", states), replace(labelled, labelled=True)]
    return speech._Batches(train, {"a.mp4": lips_filmed(0)}, StateScale.of(train), [], seed=0)


def test_the_batch_of_a_step_is_always_the_same(batches):
    one, again, other = batches(3), batches(3), batches(4)
    for name in ("mel", "mask", "teacher", "phones", "articulation", "lips", "lips_mask"):
        torch.testing.assert_close(getattr(one, name), getattr(again, name), rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(one.mel, other.mel)
    assert one.mask.shape == (samples.BATCH_CLIPS, WINDOW_FRAMES) and torch.isfinite(one.mel).all()
    assert torch.isfinite(one.teacher).all() and torch.isfinite(one.lips).all()


def test_only_what_is_known_of_a_window_is_taught(batches):
    random = np.random.default_rng(0)
    _, filmed_targets = batches._spoken("lips", random)
    assert np.isnan(filmed_targets["articulation"]).all() and filmed_targets["lips_mask"].all()
    assert (filmed_targets["phones"] == IGNORED).all() and filmed_targets["mask"].all()
    _, labelled_targets = batches._spoken("labelled", random)
    assert not labelled_targets["lips_mask"].any() and (labelled_targets["phones"] == 3).all()
    short = recording("a.mp4", "p", frames=20)
    targets = speech._targets(short, 0, {"a.mp4": lips_filmed(0)})
    assert targets["lips_mask"].tolist() == [True] * 20 + [False] * (WINDOW_FRAMES - 20)
    assert (targets["phones"][20:] == IGNORED).all() and np.isnan(targets["articulation"][20:]).all()


def test_nobody_speaks_where_nobody_speaks_but_for_held_sounds(batches):
    hummed, random = 0, np.random.default_rng(0)
    for _ in range(60):
        sound, targets = batches._without_speech(random)
        assert sound.dtype == np.float32 and np.isfinite(sound).all() and np.abs(sound).max() <= 1.0
        speaking, closed = targets["articulation"][:, SPEAKING], targets["articulation"][:, CLOSED]
        assert not closed[speaking == 0].any() and not targets["lips_mask"].any()
        assert not targets["mask"][speaking == 1].any()  # what the teacher says of a made-up sound was not asked
        hummed += bool(closed.any())
    assert 2 <= hummed <= 20
    assert np.abs(batches.rest - batches.scale(batches.samplers["labelled"].items[0].states)[60:].mean(0)).max() < 1e-5


# --- What the other stages learn from ------------------------------------------------------------------------------------------


def test_stages_hear_a_moved_sound(tmp_path):
    clip = made_up(0)
    (plain,) = encode_speech_views([clip], tiny_encoder(), tmp_path, 0)
    write_offsets(tmp_path, {clip.file: 2})
    (moved,) = encode_speech_views([clip], tiny_encoder(), tmp_path, 0)
    assert torch.equal(moved.features[0, 2:], plain.features[0, :-2]) and not torch.equal(moved.features, plain.features)


def test_views_of_a_speech_differ_and_are_made_by_the_seed(tmp_path):
    clips = [made_up(index) for index in range(2)]
    first, again, other = (encode_speech_views(clips, tiny_encoder(), tmp_path, seed) for seed in (0, 0, 1))
    assert torch.equal(first[0].features, again[0].features) and not torch.equal(first[0].features[1:], other[0].features[1:])
    assert torch.equal(first[0].features[0], other[0].features[0])  # as recorded
    assert first[0].features.shape == (VIEWS, clips[0].frames, 8 + ARTICULATION_DIM)
    assert all(not torch.equal(one, two) for one, two in itertools.combinations(first[0].features, 2))


def test_silence_is_met_and_its_lips_are_closed(tmp_path):
    """In some views a stretch is muted: there, and where the clip itself is silent, the target lips rest."""
    clip = replace(made_up(0), expression=np.ones((100, 5), np.float32), silent=np.arange(100) < 12)
    clip = replace(clip, sound=to_int16(babble(4.0)), lips=np.zeros((100, 30)))
    before = clip.sound.copy()
    (item,) = encode_speech_views([clip], tiny_encoder(), tmp_path, 0)
    assert np.array_equal(clip.sound, before)
    item.features[..., CLOSED] = 0.0
    item.features[:, 90, CLOSED] = 1.0  # an m, which a tracker missed
    assert np.array_equal(item.silent[0], clip.silent) and item.silent[1].sum() >= 12 + 5
    target = target_expression(item, MadeUpGuard())
    assert target.shape == (VIEWS, 100, 5) and torch.all(target[..., 1:] == 1)
    assert torch.all(target[:, 90, 0] == 0)
    for silent, lips in zip(item.silent, target[..., 0]):
        assert torch.all(lips[silent] == 0)
        away = np.convolve(silent, np.ones(2 * CLOSING + 1), "same") == 0
        away[90] = False
        assert torch.all(lips[away] == 1)


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
