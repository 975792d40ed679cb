"""Loading forgives nothing: every way a model folder can be wrong is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gmtalker.assets import BUNDLED, GENERIC
from gmtalker.errors import UnusableWeights
from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.models.head_generator import HeadGenerator
from gmtalker.models.lip_sync import LipSync
from gmtalker.models.motion_generator import MotionGenerator
from gmtalker.models.ratio_image import RatioImages
from gmtalker.models.speech_encoder import LOOK_AHEAD_MEL, SpeechEncoder
from gmtalker.models.voice_emotion import VoiceEmotion
from gmtalker.models.weights import CONFIG_FILE, WEIGHTS_FILE, load_strict, save_half

NETWORKS = (SpeechEncoder, ExpressionGenerator, MotionGenerator, LipSync, EmotionMapping, HeadGenerator, Discriminator)
NETWORKS += (RatioImages, VoiceEmotion)
SMALL = {
    ExpressionGenerator: {"coefficient_dim": 5, "feature_dim": 6, "width": 8, "z_dim": 4, "w_dim": 3},
    MotionGenerator: {"feature_dim": 6, "latent_dim": 4, "width": 8, "flow_width": 8},
    EmotionMapping: {"num_emotions": 8, "latent_dim": 4, "hidden_dim": 6, "style_dim": 5},
    HeadGenerator: {"size": 32, "rendering_channels": 8, "style_dim": 5, "widths": (4, 4)},
}
FORMER = {  # what files written before the rename call those options
    ExpressionGenerator: {"coefficients": 5, "features": 6, "z_size": 4, "w_size": 3},
    MotionGenerator: {"features": 6, "latent": 4},
    EmotionMapping: {"emotions": 8, "latent": 4, "hidden": 6, "style": 5},
    HeadGenerator: {"channels": 8, "style": 5},
}


def made():
    torch.manual_seed(0)
    small = {"width": 16, "content_dim": 8, "articulation_width": 8, "fine_dilations": (1,), "coarse_dilations": (1,)}
    return SpeechEncoder(num_mels=8, **small).eval()


@pytest.fixture
def folder(tmp_path):
    save_half(made(), tmp_path / "a model's folder")
    return tmp_path / "a model's folder"


def change_weights(folder, change):
    weights = load_file(str(folder / WEIGHTS_FILE))
    change(weights)
    save_file(weights, str(folder / WEIGHTS_FILE))


def change_config(folder, **values):
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | values))


def test_half_on_disk_and_float_in_memory(folder):
    assert {tensor.dtype for tensor in load_file(str(folder / WEIGHTS_FILE)).values()} == {torch.float16}
    loaded = load_strict(SpeechEncoder, folder)
    assert not loaded.training and {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    mel = torch.randn(1, 4 * 16 + LOOK_AHEAD_MEL, 8)
    torch.testing.assert_close(loaded(mel), made()(mel), atol=5e-3, rtol=0)


def test_diffusers_reads_the_folder_too(folder):
    loaded = SpeechEncoder.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    mel = torch.randn(1, 4 * 16 + LOOK_AHEAD_MEL, 8)
    torch.testing.assert_close(loaded.eval()(mel), load_strict(SpeechEncoder, folder)(mel))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda weights: weights.pop("norm.weight"), "lacks the weights norm.weight"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "nobody knows: extra"),
        (lambda weights: weights.update(renamed=weights.pop("project.bias")), "lacks the weights project.bias"),
        (lambda weights: weights.update({"norm.weight": torch.ones(9)}), "another shape: norm.weight"),
        (lambda weights: weights["norm.weight"].fill_(float("nan")), "not numbers: norm.weight"),
    ],
)
def test_wrong_weights_are_refused(folder, change, words):
    change_weights(folder, change)
    with pytest.raises(UnusableWeights, match=words):
        load_strict(SpeechEncoder, folder)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"_class_name": "Other"}, "does not hold a SpeechEncoder"),
        ({"depth": 3}, "depth"),
        ({"width": 10**9}, "impossible size"),
        ({"width": "wide"}, "does not make a SpeechEncoder"),
        ({"width": 32}, "another shape"),
    ],
)
def test_wrong_config_is_refused(folder, values, words):
    change_config(folder, **values)
    with pytest.raises(UnusableWeights, match=words):
        load_strict(SpeechEncoder, folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_missing_or_broken_files_are_refused(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UnusableWeights, match=name):
        load_strict(SpeechEncoder, folder)
    (folder / name).unlink()
    with pytest.raises(UnusableWeights, match=name):
        load_strict(SpeechEncoder, folder)


@pytest.mark.parametrize("path", sorted([*GENERIC.rglob(CONFIG_FILE), *BUNDLED.rglob(CONFIG_FILE)]), ids=lambda x: x.parent.name)
def test_every_bundled_network_loads(path):
    named = {network.__name__: network for network in NETWORKS}
    config = json.loads(path.read_text())
    if "_class_name" in config:  # the face model is no network
        network = load_strict(named[config["_class_name"]], path.parent)
        for name, value in config.items():
            if not name.startswith("_"):
                assert network.config[network.FORMER_NAMES.get(name, name)] == value


@pytest.mark.parametrize("network", FORMER)
def test_a_config_with_former_names_loads(network, tmp_path):
    torch.manual_seed(0)
    model = network(**SMALL[network])
    save_half(model, tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert SMALL[network].keys() <= config.keys()  # files are written with the present names
    former = {name: value for name, value in config.items() if name not in network.FORMER_NAMES.values()} | FORMER[network]
    assert len(former) == len(config)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(former))
    for loaded in (
        load_strict(network, tmp_path),
        network.from_pretrained(tmp_path, use_safetensors=True, low_cpu_mem_usage=False).float(),
    ):
        assert {name: loaded.config[name] for name in SMALL[network]} == {name: config[name] for name in SMALL[network]}
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=2e-3, rtol=1e-3)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | FORMER[network]))
    with pytest.raises(UnusableWeights, match="twice"):
        load_strict(network, tmp_path)


def test_what_does_not_fit_half_is_not_saved(folder):
    model = load_strict(SpeechEncoder, folder)
    with torch.no_grad():
        model.norm.weight.fill_(1e6)
    with pytest.raises(ValueError, match="norm.weight"):
        save_half(model, folder)
