"""HuBERT behind the same call as the project's own encoder: a real one, tiny, made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_speech
from safetensors.torch import load_file, save_file
from transformers import HubertConfig, HubertModel

from gmtalker.__main__ import main
from gmtalker.assets import GENERIC
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.models import hubert_encoder
from gmtalker.models.hubert_encoder import HubertEncoder
from gmtalker.models.speech_encoder import SpeechEncoder
from gmtalker.models.weights import load_speech_encoder, save_speech_encoder
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.pretrain.samples import augment_waveform

WIDTH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("hubert")
    HubertModel(config).save_pretrained(path, safe_serialization=True)
    return path


def test_one_row_for_every_frame(folder):
    encoder = load_speech_encoder(folder)
    assert isinstance(encoder, HubertEncoder) and encoder.feature_dim == WIDTH
    for samples in (1, 640, 641, 16_000, 33_333):
        assert encoder.encode(torch.randn(samples)).shape == (-(-samples // 640), WIDTH)


def test_a_frame_is_heard_at_its_own_time(folder):
    """A click moves the features of the frame it is in more than those a second away."""
    encoder = load_speech_encoder(folder)
    torch.manual_seed(1)
    quiet = 0.01 * torch.randn(64_000)
    clicked = quiet.clone()
    clicked[640 * 60 + 300] += 0.2
    moved = (encoder.encode(clicked) - encoder.encode(quiet)).norm(dim=1)
    assert moved.argmax() == 60


def test_long_speech_is_heard_in_pieces_without_seams(folder, monkeypatch):
    encoder = load_speech_encoder(folder)
    waveform = torch.randn(6 * 16_000, generator=torch.Generator().manual_seed(2))
    whole = encoder.encode(waveform)
    monkeypatch.setattr(hubert_encoder, "ENCODE_SECONDS", 2)
    pieces = encoder.encode(waveform)
    assert pieces.shape == whole.shape
    # Attention reaches further than the context: near, not equal.
    assert (pieces - whole).norm() / whole.norm() < 0.1


def test_a_missing_weight_is_an_error(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(str(broken / "model.safetensors"))
    weights.pop(next(name for name in sorted(weights) if "attention" in name))
    save_file(weights, str(broken / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(UnusableAvatar, match="it lacks"):
        load_speech_encoder(broken)


def test_saved_again_it_is_the_same(folder, tmp_path):
    encoder = load_speech_encoder(folder)
    save_speech_encoder(encoder, tmp_path / "again")
    waveform = torch.randn(8_000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(load_speech_encoder(tmp_path / "again").encode(waveform), encoder.encode(waveform))


def test_other_stages_refuse_an_encoder_they_were_not_trained_with(folder, tiny_generic, tmp_path):
    generic = shutil.copytree(tiny_generic, tmp_path / "generic")
    shutil.rmtree(generic / "speech_encoder")
    shutil.copytree(folder, generic / "speech_encoder")
    pipeline = GMTalkerPipeline.from_pretrained(generic, device="cpu")  # as wide as the tiny stages expect, so it is taken
    assert pipeline.encode(np.zeros(6400, np.float32)).shape == (10, WIDTH)
    config = json.loads((generic / "expression_generator" / "config.json").read_text())
    assert config["feature_dim"] == WIDTH
    shutil.rmtree(generic / "speech_encoder")
    shutil.copytree(GENERIC / "speech_encoder", generic / "speech_encoder")
    with pytest.raises(UnusableInput, match="speech encoder"):
        GMTalkerPipeline.from_pretrained(generic, device="cpu")


def test_the_projects_own_encoder_answers_the_same_call():
    encoder = load_speech_encoder(GENERIC / "speech_encoder")
    assert isinstance(encoder, SpeechEncoder)
    assert encoder.encode(torch.randn(16_001)).shape == (26, encoder.feature_dim)


def test_the_command_takes_a_hubert_as_it_is(folder, tmp_path, capsys):
    assert main(["pretrain", "speech", "--speech-encoder", str(folder), "--output", str(tmp_path / "out")]) == 0
    taken, given = (load_speech_encoder(path).hubert.state_dict() for path in (tmp_path / "out" / "speech_encoder", folder))
    assert all(torch.equal(taken[name], given[name]) for name in given)
    speech = write_speech(tmp_path / "not a model.wav")
    capsys.readouterr()
    assert main(["pretrain", "speech", "--speech-encoder", str(speech.parent), "--output", str(tmp_path / "out")]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["pretrain", "speech", "--output", str(tmp_path / "out")]) == 2


def test_an_augmented_voice_keeps_its_times():
    torch.manual_seed(0)
    waveform = torch.zeros(16_000)
    waveform[8_000:8_400] = torch.randn(400)
    changed = augment_waveform(waveform)
    assert changed.shape == waveform.shape
    loud = changed.square().unfold(0, 400, 400).mean(1)
    assert loud.argmax() == 20
