"""Every generic stage, with its real network, trained for a moment on real faces: the clips that come with the program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import perturbed
from media import bundled_clip, ffmpeg
from transformers import WhisperConfig, WhisperModel

from gmtalker.__main__ import main
from gmtalker.avatars.emotion_offsets import EmotionOffsets
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.face.geometry import eyelids
from gmtalker.face.landmarks import CHIN, EYE_REGION, FOREHEAD, LIPS
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import measure_shape
from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import HeadGenerator
from gmtalker.models.ratio_image import RatioImages
from gmtalker.models.voice_emotion import VoiceEmotion
from gmtalker.models.weights import load_strict
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.pretrain.corpus import load_corpus, load_points
from gmtalker.pretrain.datasets import training_rows
from gmtalker.pretrain.face import pretrain_face
from gmtalker.pretrain.head import pretrain_head
from gmtalker.pretrain.samples import PretrainOptions

# Name, source, filter, whether somebody speaks in it, and the emotion it is said to show.
PEOPLE = (
    ("anna", "preview.mp4", "null", "yes", "happy"),
    ("bob", "preview.mp4", "hflip", "yes", "neutral"),
    ("carl", "idle.mp4", "null", "no", ""),
    ("dora", "idle.mp4", "hflip", "no", ""),
    ("emil", "idle.mp4", "eq=brightness=0.1", "no", "sad"),
    ("small", "idle.mp4", "scale=iw/2:ih/2", "no", ""),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder of people who are one person in mirrors and other light, with its MANIFEST.csv."""
    folder = tmp_path_factory.mktemp("data")
    lines = ["file,split,person,seconds,speech,emotion,level"]
    for name, source, change, speech, emotion in PEOPLE:
        ffmpeg(
            "-i", bundled_clip(source), "-t", "1.2", "-vf", change, "-crf", "12", "-pix_fmt", "yuv420p", folder / f"{name}.mp4"
        )
        lines.append(f"{name}.mp4,train,{name},1.2,{speech},{emotion},2")
    (folder / "MANIFEST.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def stages(data, tmp_path_factory) -> Path:
    """A folder of stages that holds the face model."""
    folder = tmp_path_factory.mktemp("stages")
    assert main(["pretrain", "face", "--data", str(data), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """The folder of a tiny Whisper."""
    folder = tmp_path_factory.mktemp("whisper")
    small = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    small |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 16, "vocab_size": 8, "max_source_positions": 100}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1)
    torch.manual_seed(0)
    perturbed(WhisperModel(WhisperConfig(**small, **tokens)), size=0.3).save_pretrained(folder)
    return folder


def test_the_face_model_describes_the_faces_it_was_solved_for(data, stages):
    model = FaceModel.load(stages / "face_model")
    assert np.abs(model.mean_shape[CHIN] + model.mean_shape[FOREHEAD]).max() < 1e-6  # its middle is the origin
    assert np.linalg.norm(model.mean_shape[CHIN] - model.mean_shape[FOREHEAD]) == pytest.approx(1, abs=1e-3)
    assert model.triangles.shape == (852, 3) and model.coefficient_dim == 40
    others = np.setdiff1d(np.arange(478), EYE_REGION)
    assert np.abs(model.eyelid_basis[:, others]).max() == 0 < np.abs(model.eyelid_basis[:, list(EYE_REGION)]).max()
    clips = load_corpus(training_rows(data), stages / "corpus", model)
    assert {clip.person for clip in clips} == {name for name, *_ in PEOPLE}
    spread = np.concatenate([clip.expression for clip in clips]).std(0)
    assert 0.3 < spread[0] < 3 and np.isfinite(spread).all()  # in standard deviations
    assert "- people: 6\n" in (stages / "README.md").read_text()


def test_coefficients_and_eyelids_rebuild_the_lips(data, stages):
    model = FaceModel.load(stages / "face_model")
    row = training_rows(data)[0]
    video = load_points(row, stages / "corpus")
    shape = measure_shape(model, video.points)
    canonical = model.unpose(video.points, model.pose(video.points, shape.neutral_shape))
    blink = eyelids(canonical, shape.eye_open, shape.eye_closed)
    coefficients = model.expression(canonical, shape.neutral_shape, blink)
    moved = (canonical - shape.neutral_shape)[:, list(LIPS), :2]
    rebuilt = np.tensordot(coefficients, model.expression_basis, 1) + np.tensordot(blink, model.eyelid_basis, 1)
    assert np.square(rebuilt[:, list(LIPS), :2] - moved).sum() < 0.02 * np.square(moved).sum()


def test_solving_again_gives_the_same_face_model(data, stages, tmp_path):
    (tmp_path / "corpus").symlink_to(stages / "corpus")
    model, first = pretrain_face(training_rows(data), tmp_path), FaceModel.load(stages / "face_model")
    assert np.array_equal(model.expression_basis.astype(np.float32), first.expression_basis)


def test_people_who_are_too_few_or_too_small_train_no_head(data, stages):
    """anna and bob are left out, and small would have to be blown up: three people remain, of whom none could be trained on."""
    with pytest.raises(UnusableInput, match="show 3 people; pretraining a head needs more than 3"):
        pretrain_head(training_rows(data), stages, PretrainOptions(minutes=0.001, leave_out=("anna", "bob"), device="cpu"))


def test_every_stage_trains_after_the_one_it_needs(data, stages, teacher, capsys):
    for stage in ("speech", "expression", "offsets", "motion", "head", "ratio", "voice"):
        options = ["--steps", "1"] if stage == "expression" else ["--minutes", "0.001"]
        options += ["--leave-out", "emil"] if stage == "head" else []
        options += ["--teacher", str(teacher)] if stage == "speech" else []
        command = ["pretrain", stage, "--data", str(data), "--output", str(stages), "--device", "cpu", *options]
        assert main(command) == 0, capsys.readouterr().err
    told = capsys.readouterr().err
    assert all(name in told for name in ("tracking", "measuring faces", "listening to recordings", "probe", "encoding speech"))

    pipeline = GMTalkerPipeline.from_pretrained(stages, device="cpu")
    features = pipeline.encode(np.random.default_rng(0).normal(size=16_000).astype(np.float32) * 0.1)
    latent = pipeline.expression_generator.latent(torch.eye(8)[:1].expand(25, -1), seed=0)
    assert pipeline.expression_generator.generate(features, latent).shape == (25, 40)
    assert pipeline.motion_generator.generate(features, seed=0).shape == (25, 10)

    generator = load_strict(HeadGenerator, stages / "head_generator")
    style = load_strict(EmotionMapping, stages / "emotion_mapping")(torch.eye(8)[:1])
    with torch.no_grad():
        assert torch.isfinite(generator(torch.zeros(1, 8, 256, 256), style)).all()
    load_strict(Discriminator, stages / "discriminator")
    offsets = EmotionOffsets.load(stages / "emotion_offsets")
    assert offsets.expression.shape == (8, 40) and offsets.expression[EMOTIONS.index("happy")].any()
    images = load_strict(RatioImages, stages / "ratio_images").weights
    assert images.isfinite().all() and images.any()
    assert load_strict(VoiceEmotion, stages / "voice_emotion").curve(torch.zeros(80, 80)).shape == (10, 8)
    card = (stages / "README.md").read_text()
    headings = ["face_model", "speech_encoder", "expression_generator", "emotion_offsets", "motion_generator", "head"]
    headings += ["ratio_images", "voice_emotion"]
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == headings
    assert "--output DIR --minutes 0.001 --leave-out emil\n" in card and "- PSNR on frames of people never trained on" in card
