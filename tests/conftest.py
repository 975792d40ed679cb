"""Tiny generic stages and a tiny avatar: the real classes with few, random weights, saved as the real ones are."""

from __future__ import annotations

import json
import os
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from gmtalker.clock import SAMPLE_RATE

# Tiny networks are converted more slowly than they are drawn; tests/test_drawing_engine.py compares the engines.
os.environ.setdefault("GMTALKER_ENGINE", "torch")
ROOT = Path(__file__).resolve().parent.parent
FEATURES = 16  # speech features a frame of the tiny stages
SIZE = 64  # pixels of the tiny avatar's picture
CONSENT = {"who": "Nobody", "when": "2026-01-01T00:00:00+00:00", "words": "A drawing has nothing to agree to."}


LONGEST = ("test_page.py", "test_train.py")  # files that take minutes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that no process waits for another at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def perturbed(model: torch.nn.Module, seed: int = 0, size: float = 0.05) -> torch.nn.Module:
    """Every weight moved a little: zero-initialised layers would hide what stands behind them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(size * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="session")
def tiny_generic(tmp_path_factory) -> Path:
    """A folder of generic stages, as GMTalkerPipeline.from_pretrained takes it."""
    from gmtalker.models.articulation import ARTICULATION_DIM
    from gmtalker.models.expression_generator import ExpressionGenerator
    from gmtalker.models.motion_generator import MotionGenerator
    from gmtalker.models.speech_encoder import SpeechEncoder
    from gmtalker.models.weights import save_half

    folder = tmp_path_factory.mktemp("generic")
    shutil.copytree(ROOT / "assets" / "generic" / "face_model", folder / "face_model")
    coefficients = json.loads((folder / "face_model" / "config.json").read_text())["coefficients"]
    torch.manual_seed(0)
    small = {"feature_dim": FEATURES, "width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    models = {
        "speech_encoder": SpeechEncoder(
            width=16,
            content_dim=FEATURES - ARTICULATION_DIM,
            articulation_width=8,
            fine_dilations=(1,),
            coarse_dilations=(1,),
        ),
        "expression_generator": ExpressionGenerator(coefficient_dim=coefficients, style_dim=4, z_dim=8, w_dim=4, **small),
        "motion_generator": MotionGenerator(latent_dim=4, flow_steps=2, flow_width=8, flow_reach=2, **small),
    }
    for name, model in models.items():
        perturbed(model)
        if name == "speech_encoder":
            # It hears somebody speak with open lips all the time: the lips are the expression generator's own.
            model.articulate.bias.data = torch.tensor([-4.0, -4.0, 4.0])
        save_half(model, folder / name)
    shutil.copy(ROOT / "assets" / "generic" / "model_index.json", folder)
    return folder


@pytest.fixture(scope="session")
def avatar_folder(tmp_path_factory) -> Path:
    """A complete avatar folder, to be copied by tests that change it."""
    from gmtalker.models.emotion_mapping import EmotionMapping
    from gmtalker.models.head_generator import HeadGenerator
    from gmtalker.models.weights import save_half

    folder = tmp_path_factory.mktemp("avatar") / "tiny"
    folder.mkdir()
    torch.manual_seed(1)
    emotion_mapping = EmotionMapping(latent_dim=8, hidden_dim=16, style_dim=8)
    save_half(perturbed(emotion_mapping, size=0.3), folder / "emotion_mapping")
    save_half(perturbed(HeadGenerator(size=SIZE, style_dim=8, widths=(8, 8, 8))), folder / "head_generator")
    tiny_face().save(folder / "face.safetensors")
    card = {"name": "tiny", "consent": CONSENT, "source": {}, "measures": {}, "versions": {}}
    (folder / "avatar.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def tiny_face():
    """The mean face over a picture of noise."""
    from gmtalker.face.model import FaceModel
    from gmtalker.face.person import PersonFace

    shape = FaceModel.load(ROOT / "assets" / "generic" / "face_model").mean_shape.astype(np.float32)
    mean = np.array([0, 0, 0, 0, 0, np.log(0.6), 0, 0, 0, 0], np.float32)
    return PersonFace(
        neutral_shape=shape,
        reference=np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        reference_points=(0.6 * shape + [0.5, 0.5, 0]).astype(np.float32),
        eye_open=np.full(2, 0.3, np.float32),
        eye_closed=np.full(2, 0.1, np.float32),
        motion_mean=mean,
        motion_scale=np.full(10, 0.05, np.float32),
        crop=np.array([0, 0, SIZE], np.float32),
        source_size=np.array([SIZE, SIZE], np.float32),
    )


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty workspace of the test's own."""
    folder = tmp_path / "work space"
    monkeypatch.setenv("GMTALKER_HOME", str(folder))
    return folder


@pytest.fixture
def tiny_avatar(home, avatar_folder) -> str:
    """The name of the tiny avatar in a workspace of the test's own."""
    shutil.copytree(avatar_folder, home / "avatars" / "tiny")
    return "tiny"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub on localhost, in the place of the real one, and a machine that nobody is logged in on."""
    from hub_server import running_hub

    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # The client has read these from the environment by now.
        folders = {"HF_TOKEN_PATH": str(tmp_path / "token"), "HF_HUB_CACHE": str(tmp_path / "hub cache")}
        for name, value in {"HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False, **folders}.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield hub


@pytest.fixture
def tiny_pipeline(tiny_generic, tiny_avatar):
    from gmtalker.pipeline import GMTalkerPipeline

    return GMTalkerPipeline.from_pretrained(tiny_generic, device="cpu")


def write_speech(path: Path, seconds: float = 1.0, loudness: float = 0.3) -> Path:
    """Speech-like sound: a tone that comes and goes like syllables; loudness 0 is silence."""
    clock = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = loudness * np.sin(2 * np.pi * 180 * clock) * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * clock))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return path
