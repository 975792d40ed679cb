"""Whisper, HuBERT, WavLM and wav2vec 2.0 behind the same call as the project's own encoder: real ones, tiny, made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FEATURES, perturbed
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.models import pretrained_encoder
from gmtalker.models.articulation import (
    ARTICULATION_DIM,
    ARTICULATION_NAMES,
    CLOSED,
    ROUNDED,
    SPEAKING,
    ArticulationHead,
    articulation_losses,
)
from gmtalker.models.pretrained_encoder import PretrainedSpeechEncoder
from gmtalker.models.speech_encoder import SpeechEncoder
from gmtalker.models.weights import HEAD_FOLDER, POSITIONS_FOLDER, load_speech_encoder, save_speech_encoder
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.pretrain.adopt import LabelledRecording, adopt_encoder
from gmtalker.pretrain.samples import PretrainOptions

WIDTH = FEATURES - ARTICULATION_DIM  # as the tiny stages expect of HuBERT, WavLM and wav2vec 2.0
KINDS = ("whisper", "hubert", "wavlm", "wav2vec2")
POSITIONS = 200  # of the tiny Whisper: 4 seconds


def tiny(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "whisper":
        small = {f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in (("layers", 2), ("ffn_dim", 32))}
        tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1)
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        config = WhisperConfig(d_model=16, vocab_size=8, max_source_positions=POSITIONS, **small, **heads, **tokens)
        return perturbed(WhisperForConditionalGeneration(config), size=0.3)  # or its positions drown the sound
    config, network = {
        "hubert": (HubertConfig, HubertModel),
        "wavlm": (WavLMConfig, WavLMModel),
        "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    }[kind]
    small = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 32,
        "conv_dim": (8,) * 7,
    }
    return perturbed(network(config(num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=1, **small)))


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> dict[str, Path]:
    """Folders as the Hub has them, by kind: whole models, without a head."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        tiny(kind).save_pretrained(folder)
    return folders


@pytest.fixture(scope="module")
def stage(bare, tmp_path_factory) -> dict[str, Path]:
    """Folders as a stage has them, by kind: with a head."""
    folders = {kind: tmp_path_factory.mktemp("stages") / kind for kind in KINDS}
    for kind, folder in folders.items():
        encoder = PretrainedSpeechEncoder.from_hub(str(bare[kind]))
        encoder.learn_positions()
        head = perturbed(ArticulationHead(encoder.feature_dim, width=8), size=0.3)
        save_speech_encoder(PretrainedSpeechEncoder(encoder.encoder, head, encoder.positions), folder)
    return folders


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


# --- What is heard -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_for_every_frame(stage, kind):
    encoder = load_speech_encoder(stage[kind])
    own = 2 * 16 if kind == "whisper" else WIDTH
    assert isinstance(encoder, PretrainedSpeechEncoder) and encoder.feature_dim == own + ARTICULATION_DIM
    for samples in (1, 640, 641, 16_000, 33_333):
        features = encoder.encode(noise(samples))
        assert features.shape == (-(-samples // 640), encoder.feature_dim)
        assert torch.isfinite(features).all()
        assert ((features[:, own:] > 0) & (features[:, own:] < 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_heard_at_its_own_time(bare, kind):
    """A click moves the features of the frame it is in more than those elsewhere."""
    encoder = PretrainedSpeechEncoder.from_hub(str(bare[kind]))
    quiet = 0.1 * noise(64_000, seed=1)
    clicked = quiet.clone()
    clicked[640 * 60 + 300] += 0.2
    moved = (encoder.encode(clicked) - encoder.encode(quiet)).norm(dim=1)
    assert moved.argmax() == 60


def test_a_whisper_hears_what_transformers_hears(bare):
    sound = noise(4 * 16_000, seed=2)
    mel = WhisperFeatureExtractor(chunk_length=4)(sound.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = tiny("whisper").model.encoder(mel, output_hidden_states=True)
    encoder = PretrainedSpeechEncoder.from_hub(str(bare["whisper"]))
    states = encoder.layer_states(sound)
    assert states.shape == (3, POSITIONS, 16)
    torch.testing.assert_close(states[-1], expected.last_hidden_state[0], atol=1e-4, rtol=0)
    for layer in range(2):
        torch.testing.assert_close(states[layer], expected.hidden_states[layer][0], atol=1e-4, rtol=0)
    assert torch.equal(encoder.encode(sound), torch.cat([states[-1, 0::2], states[-1, 1::2]], dim=1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_gives_every_layer_at_50_hertz(bare, kind):
    encoder = PretrainedSpeechEncoder.from_hub(str(bare[kind]))
    sound = noise(16_001)
    states = encoder.layer_states(sound)
    assert states.shape[:2] == (3, 52)
    features = encoder.encode(sound)
    paired = states[-1].unflatten(0, (-1, 2))
    assert torch.equal(features, paired.flatten(1) if kind == "whisper" else paired.mean(1))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_long_speech_is_heard_in_windows_without_seams(stage, kind, monkeypatch):
    encoder = load_speech_encoder(stage[kind])
    sound = noise(10 * 16_000 + 300, seed=3)
    whole = encoder.encode(sound)
    monkeypatch.setattr(pretrained_encoder, "WINDOW_FRAMES", 100)
    windows = encoder.encode(sound)
    assert windows.shape == whole.shape
    apart = (windows - whole).norm(dim=1) / whole.norm(dim=1).mean()
    assert apart.max() < 0.1  # attention and the first norm reach further than the context: near, not equal


def test_a_whisper_hears_more_than_its_positions(bare, monkeypatch):
    """Nothing is left out or told twice at a border, though positions begin anew in every window."""
    encoder = PretrainedSpeechEncoder.from_hub(str(bare["whisper"]))
    with torch.no_grad():
        encoder.encoder.embed_positions.weight.zero_()
    sound = noise(4 * 16_000, seed=4)
    whole = encoder.encode(sound)
    monkeypatch.setattr(pretrained_encoder, "WINDOW_FRAMES", 40)
    windows = encoder.encode(sound)
    assert ((windows - whole).norm(dim=1) / whole.norm(dim=1).mean()).max() < 0.2
    monkeypatch.undo()
    assert encoder.encode(noise(9 * 16_000)).shape == (225, 32)  # more than twice its 4 seconds


def test_a_whisper_that_learned_its_positions_hears_the_same_at_every_time(bare):
    encoder = PretrainedSpeechEncoder.from_hub(str(bare["whisper"]))
    with torch.no_grad():  # slower and stronger than a random network's sound
        encoder.encoder.embed_positions.weight.mul_(0.1).add_(torch.linspace(-3, 3, POSITIONS).sin()[:, None])
    word, before = noise(16_000, seed=8), noise(2 * 16_000, seed=9)

    def change() -> float:
        """Of what the first layer reads: attention would hear what was said before, as it should."""
        early, late = encoder.layer_states(word)[0], encoder.layer_states(torch.cat([before, word]))[0, 100:]
        return (late - early).norm().item()

    taken_for_another = change()
    encoder.learn_positions()
    assert change() < 0.3 * taken_for_another
    means = encoder.positions.means
    encoder.learn_positions()  # again, not on top
    assert means.shape == (3, POSITIONS, 16) and torch.equal(encoder.positions.means, means)


@pytest.mark.parametrize("frames", (1, 99, 100, 101, 150, 151, 200, 1000))
def test_windows_keep_every_frame_once_with_sound_around_it(frames):
    kept_frames = []
    for read, kept in pretrained_encoder._windows(frames, longest=100):
        assert read.stop - read.start == min(frames, 100)
        heard = list(range(read.start, read.stop))[kept]
        assert heard[0] - read.start >= 25 or read.start == 0
        assert read.stop - heard[-1] > 25 or read.stop == frames
        kept_frames += heard
    assert kept_frames == list(range(frames))


# --- Strictness ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_weight_is_an_error(stage, kind, tmp_path):
    broken = shutil.copytree(stage[kind], tmp_path / "broken")
    weights = load_file(str(broken / "model.safetensors"))
    weights.pop(next(name for name in sorted(weights) if "attn" in name or "attention" in name))
    save_file(weights, str(broken / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(UnusableAvatar, match="it lacks"):
        load_speech_encoder(broken)


def test_a_missing_head_is_named(bare, stage, tmp_path):
    with pytest.raises(UnusableAvatar, match="hubert in .* has no trained articulation head") as raised:
        load_speech_encoder(bare["hubert"])
    assert len(str(raised.value).splitlines()) == 1
    for part in (HEAD_FOLDER, POSITIONS_FOLDER):
        torn = shutil.copytree(stage["whisper"], tmp_path / part)
        (torn / part / "config.json").unlink()
        with pytest.raises(UnusableAvatar, match=part):
            load_speech_encoder(torn)


def test_a_head_of_another_encoder_is_refused(stage, tmp_path):
    mixed = shutil.copytree(stage["hubert"], tmp_path / "mixed")
    shutil.rmtree(mixed / HEAD_FOLDER)
    shutil.copytree(stage["whisper"] / HEAD_FOLDER, mixed / HEAD_FOLDER)
    with pytest.raises(UnusableAvatar, match="reads 32 features"):
        load_speech_encoder(mixed)


def test_another_network_is_refused_with_the_choices(stage, tmp_path):
    other = shutil.copytree(stage["hubert"], tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(UnusableAvatar, match="whisper, hubert, wavlm, wav2vec2"):
        load_speech_encoder(other)
    (other / "config.json").write_text(json.dumps(config | {"conv_stride": [5, 2, 2, 2, 2, 2, 1]}))
    with pytest.raises(UnusableAvatar, match="20 ms"):
        load_speech_encoder(other)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_again_it_is_the_same(stage, kind, tmp_path):
    encoder = load_speech_encoder(stage[kind])
    save_speech_encoder(encoder, tmp_path / "again")
    sound = noise(8_000, seed=5)
    assert torch.equal(load_speech_encoder(tmp_path / "again").encode(sound), encoder.encode(sound))


def test_an_encoder_loads_without_a_word_on_the_terminal(bare, capfd):
    PretrainedSpeechEncoder.from_hub(str(bare["whisper"]))  # whose decoder is left out
    assert capfd.readouterr() == ("", "")


def test_a_stage_of_a_whisper_holds_no_decoder(stage):
    assert not [name for name in load_file(str(stage["whisper"] / "model.safetensors")) if "decoder" in name]


def test_other_stages_refuse_an_encoder_they_were_not_trained_with(stage, tiny_generic, tmp_path):
    generic = shutil.copytree(tiny_generic, tmp_path / "generic")
    shutil.rmtree(generic / "speech_encoder")
    shutil.copytree(stage["hubert"], generic / "speech_encoder")
    pipeline = GMTalkerPipeline.from_pretrained(generic, device="cpu")  # as wide as the tiny stages expect, so it is taken
    assert pipeline.encode(np.zeros(6400, np.float32)).shape == (10, FEATURES)
    shutil.rmtree(generic / "speech_encoder")
    shutil.copytree(stage["whisper"], generic / "speech_encoder")
    with pytest.raises(UnusableInput, match="speech encoder"):
        GMTalkerPipeline.from_pretrained(generic, device="cpu")


def test_the_projects_own_encoder_answers_the_same_call(tiny_generic):
    encoder = load_speech_encoder(tiny_generic / "speech_encoder")
    assert isinstance(encoder, SpeechEncoder)
    assert encoder.encode(noise(16_001)).shape == (26, encoder.feature_dim)


# --- The articulation head -----------------------------------------------------------------------------------------------------


def test_the_head_reads_one_frame_ahead_and_no_more():
    head = perturbed(ArticulationHead(6, width=8), size=0.3)
    features = torch.randn(1, 40, 6, generator=torch.Generator().manual_seed(6))
    later = features.clone()
    later[:, 20:] = later[:, 20:].flip(2)  # a constant would be lost in the norm
    with torch.no_grad():
        apart = (head(later) - head(features)).abs().amax((0, 2))
    assert (apart[:19] == 0).all() and apart[19] > 0.01


def test_unknown_entries_teach_nothing():
    logits = torch.zeros(1, 3, 3, requires_grad=True)
    targets = torch.tensor([[[1.0, torch.nan, torch.nan], [torch.nan, torch.nan, 0.0], [0.0, torch.nan, 0.0]]])
    losses = articulation_losses(logits, targets)
    # A missed closure counts threefold.
    assert [losses[name].item() for name in ARTICULATION_NAMES] == pytest.approx(
        [2 * np.log(2), 0, np.log(2)]
    )  # a missed closure counts threefold
    sum(losses.values()).backward()
    assert torch.equal(logits.grad[0] != 0, targets[0].isfinite())


def hummed(seconds: int, seed: int) -> LabelledRecording:
    """Speech of another world: noise while the mouth is open, a hum while it is closed, and now and then nothing."""
    rng = np.random.default_rng(seed)
    frames = 25 * seconds
    state = np.repeat(rng.integers(0, 3, frames // 5), 5)  # 0 nobody, 1 open, 2 closed
    samples = np.repeat(state, 640)
    hum = 0.3 * np.sin(2 * np.pi * 150 / 16_000 * np.arange(len(samples)))
    sound = np.select([samples == 1, samples == 2], [0.2 * rng.standard_normal(len(samples)), hum], 0.0)
    closed = torch.from_numpy((state == 2).astype(np.float32))
    closed[: frames // 2] = torch.nan  # only half of it is known
    speaking = torch.from_numpy((state > 0).astype(np.float32))
    rounded = torch.full((frames,), torch.nan)
    return LabelledRecording(torch.from_numpy(sound.astype(np.float32)), closed, rounded, speaking, person="one")


@pytest.mark.parametrize("kind", ("whisper", "hubert"))
def test_an_adopted_encoder_learns_to_hear_closures(bare, kind, tmp_path):
    """The encoder stays as it is, the head learns, and the card says so."""
    recordings = [hummed(3, seed) for seed in range(20)]
    options = PretrainOptions(steps=100, device="cpu")
    folder = adopt_encoder(str(bare[kind]), [], lambda: recordings, tmp_path / "out", options)
    encoder, given = load_speech_encoder(folder), PretrainedSpeechEncoder.from_hub(str(bare[kind]))
    taken = encoder.encoder.state_dict()
    assert all(torch.equal(taken[name], weight) for name, weight in given.encoder.state_dict().items())
    unseen = hummed(8, seed=99)
    features = encoder.encode(unseen.waveform)
    for column, told in ((CLOSED, unseen.closed), (SPEAKING, unseen.speaking)):
        assert features[told == 1, column].mean() > 0.8 and features[told == 0, column].mean() < 0.2
    assert features[:, ROUNDED].mean() == pytest.approx(0.5, abs=0.3)  # nobody ever told
    card = (tmp_path / "out" / "README.md").read_text()
    assert "100 steps of training" in card and "balanced accuracy of closed, held-out recordings: " in card
    assert "balanced accuracy of rounded" not in card


def test_a_head_that_was_trained_is_kept_and_one_that_is_missing_is_asked_for(bare, stage, tmp_path):
    folder = adopt_encoder(str(stage["wavlm"]), [], None, tmp_path / "out")
    sound = noise(8_000, seed=7)
    assert torch.equal(load_speech_encoder(folder).encode(sound), load_speech_encoder(stage["wavlm"]).encode(sound))
    with pytest.raises(UnusableInput, match="--data"):
        adopt_encoder(str(bare["wavlm"]), [], None, tmp_path / "other")
    with pytest.raises(UnusableInput, match="no labelled speech"):
        adopt_encoder(str(bare["wavlm"]), [], list, tmp_path / "other")
    with pytest.raises(UnusableInput, match="can't be used as a speech encoder") as raised:
        adopt_encoder(str(tmp_path / "out"), [], None, tmp_path / "other")
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "other" / "speech_encoder").exists()
