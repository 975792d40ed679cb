"""Weights in and out: a model's config beside its safetensors file, loading that forgives nothing."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from gmtalker.errors import UnusableAvatar
from gmtalker.models.speech_encoder import SpeechEncoder

if TYPE_CHECKING:
    from gmtalker.models.hubert_encoder import HubertEncoder


CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"  # the name diffusers' from_pretrained looks for
LARGEST_CONFIG = 1 << 20  # bytes
LARGEST_SIZE = 1 << 16  # no dimension of ours comes near it, and a stranger's config must not fill the memory
Model = TypeVar("Model")


def load_strict(cls: type[Model], folder: Path) -> Model:
    """The model saved in folder, in float32 and in evaluation mode.

    Errors: UnusableAvatar when the folder is incomplete, the config names another class or an unknown option, or any weight is
    missing, unexpected, of another shape or not finite.
    """
    folder = Path(folder)
    config = _read_config(cls, folder)
    expected = _expected_shapes(cls, config, folder)
    weights = _read_weights(folder, expected)
    model = cls(**config)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def load_speech_encoder(folder: Path) -> SpeechEncoder | HubertEncoder:
    """The speech encoder saved in folder, whichever its config names: the project's own, or HuBERT.

    Errors: UnusableAvatar when it is neither, or misses a weight.
    """
    folder = Path(folder)
    try:
        kind = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None  # load_strict says what is wrong
    if kind != "hubert":
        return load_strict(SpeechEncoder, folder)
    from gmtalker.models.hubert_encoder import HubertEncoder  # late: transformers takes seconds to import, and few need it

    try:
        return HubertEncoder.from_hub(str(folder), local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnusableAvatar(f"The HuBERT in {folder.name} can't be loaded: {str(error).splitlines()[0]}") from error


def save_speech_encoder(encoder: SpeechEncoder | HubertEncoder, folder: Path) -> None:
    """Into folder, from which load_speech_encoder reads it again."""
    if isinstance(encoder, SpeechEncoder):
        save_half(encoder, folder)
    else:
        encoder.hubert.save_pretrained(folder)


def save_half(model: torch.nn.Module, folder: Path) -> None:
    """Config and float16 weights into folder (made when missing); the model itself is left as it is.

    Errors: ValueError when a weight does not fit float16 or an adapter is still attached (saved base weights would be renamed).
    """
    if getattr(model, "peft_config", None):
        raise ValueError("Detach the adapter first: a base model saved with it reloads as random weights")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, tensor in model.state_dict().items():
        half = tensor.detach().cpu().to(torch.float16 if tensor.is_floating_point() else tensor.dtype)
        if half.is_floating_point() and not torch.isfinite(half).all():
            raise ValueError(f"{name} does not fit float16")
        weights[name] = half.contiguous().clone()
    model.save_config(folder)
    unfinished = folder / (WEIGHTS_FILE + ".part")
    save_file(weights, str(unfinished), metadata={"format": "pt"})
    os.replace(unfinished, folder / WEIGHTS_FILE)


def _read_config(cls: type, folder: Path) -> dict:
    path = folder / CONFIG_FILE
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise UnusableAvatar(f"{folder.name} has a config that is too large.")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableAvatar(f"{folder.name} has no readable {CONFIG_FILE}; make or download it again.") from error
    if not isinstance(config, dict) or config.get("_class_name") != cls.__name__:
        raise UnusableAvatar(f"{folder.name} does not hold a {cls.__name__}.")
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    known = set(inspect.signature(cls.__init__).parameters) - {"self"}
    if set(config) != known:
        raise UnusableAvatar(f"{folder.name} was made by another version: {_few(set(config) ^ known)} in its config.")
    for value in config.values():
        sizes = value if isinstance(value, list) else [value]
        if any(isinstance(size, int) and not -1 <= size <= LARGEST_SIZE for size in sizes):
            raise UnusableAvatar(f"{folder.name} has a config with an impossible size.")
    return config


def _expected_shapes(cls: type, config: dict, folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes the config asks for, found without allocating them."""
    try:
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in cls(**config).state_dict().items()}
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UnusableAvatar(f"{folder.name} has a config that does not make a {cls.__name__}.") from error


def _read_weights(folder: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS_FILE
    try:
        with safe_open(str(path), framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        if missing := expected.keys() - found.keys():
            raise UnusableAvatar(f"{folder.name} lacks the weights {_few(missing)}.")
        if unexpected := found.keys() - expected.keys():
            raise UnusableAvatar(f"{folder.name} has weights nobody knows: {_few(unexpected)}.")
        if misshapen := {name for name in expected if found[name] != expected[name]}:
            raise UnusableAvatar(f"{folder.name} has weights of another shape: {_few(misshapen)}.")
        weights = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise UnusableAvatar(f"{folder.name} has no readable {WEIGHTS_FILE}; make or download it again.") from error
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    if broken := {name for name, tensor in weights.items() if not torch.isfinite(tensor).all()}:
        raise UnusableAvatar(f"{folder.name} has weights that are not numbers: {_few(broken)}.")
    return weights


def _few(names: set[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
