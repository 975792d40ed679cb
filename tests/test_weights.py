"""Loading forgives nothing: every way a model folder can be wrong is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gmtalker.errors import UnusableAvatar
from gmtalker.models.speech_encoder import SpeechEncoder
from gmtalker.models.weights import CONFIG_FILE, WEIGHTS_FILE, load_strict, save_half


def made():
    torch.manual_seed(0)
    return SpeechEncoder(mels=8, width=16, features=8, fine_dilations=(1,), coarse_dilations=(1,)).eval()


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
    mel = torch.randn(1, 16, 8)
    torch.testing.assert_close(loaded(mel), made()(mel), atol=5e-3, rtol=0)


def test_diffusers_reads_the_folder_too(folder):
    loaded = SpeechEncoder.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    mel = torch.randn(1, 16, 8)
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
    with pytest.raises(UnusableAvatar, match=words):
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
    with pytest.raises(UnusableAvatar, match=words):
        load_strict(SpeechEncoder, folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_missing_or_broken_files_are_refused(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UnusableAvatar, match=name):
        load_strict(SpeechEncoder, folder)
    (folder / name).unlink()
    with pytest.raises(UnusableAvatar, match=name):
        load_strict(SpeechEncoder, folder)


def test_what_does_not_fit_half_is_not_saved(folder):
    model = load_strict(SpeechEncoder, folder)
    with torch.no_grad():
        model.norm.weight.fill_(1e6)
    with pytest.raises(ValueError, match="norm.weight"):
        save_half(model, folder)
