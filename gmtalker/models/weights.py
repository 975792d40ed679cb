"""Networks on disk: config.json beside a safetensors file, loaded strictly."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from gmtalker.errors import UnusableWeights, first_line
from gmtalker.files import whole_file
from gmtalker.models.articulation import ArticulationHead
from gmtalker.models.config import NetworkConfig
from gmtalker.models.speech_encoder import SpeechEncoder

if TYPE_CHECKING:
    from gmtalker.models.pretrained_encoder import PretrainedSpeechEncoder

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"  # the name diffusers' from_pretrained looks for
HEAD_FOLDER, POSITIONS_FOLDER = "articulation_head", "position_means"  # inside the folder of a pretrained speech encoder
CONFIG_BYTES_MAX = 1 << 20
DIMENSION_MAX = 1 << 16  # no dimension of ours comes near it, and a config from anywhere must not fill the memory
COUNT_MAX = 256  # of what a network has several of; a thousand times as many take minutes to make, even without weights
COUNTS = ("layers", "steps", "blocks", "emotions", "heads", "components", "reach")  # how options that are such counts end
Network = TypeVar("Network", bound=NetworkConfig)


def load_strict(cls: type[Network], folder: Path) -> Network:
    """Load a network, in float32 and in evaluation mode.

    Options of its config may have their former names.

    Errors: UnusableWeights when the folder is incomplete, the config names another class or an unknown option, lacks an option or
        gives it twice, or any weight is missing, unexpected, of another shape or not finite.
    """
    folder = Path(folder)
    config = _read_config(cls, folder)
    expected = _expected_shapes(cls, config, folder)
    weights = _read_weights(folder, expected)
    model = cls(**config)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def load_speech_encoder(folder: Path) -> SpeechEncoder | PretrainedSpeechEncoder:
    """Load the speech encoder that the folder's config names: the project's own, or a pretrained one with its articulation head.

    Errors: UnusableWeights when it is neither, a weight is missing, or the head was never trained.
    """
    folder = Path(folder)
    try:
        kind = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None  # load_strict says what is wrong
    if kind is None:
        return load_strict(SpeechEncoder, folder)
    if not (folder / HEAD_FOLDER).is_dir():
        raise UnusableWeights(
            f"The {kind} in {folder.name} has no trained articulation head; make it one with `pretrain speech --speech-encoder`."
        )
    # Late: transformers takes seconds to import.
    from gmtalker.models.pretrained_encoder import PositionMeans, PretrainedSpeechEncoder

    head = load_strict(ArticulationHead, folder / HEAD_FOLDER)
    positions = load_strict(PositionMeans, folder / POSITIONS_FOLDER) if kind == "whisper" else None
    try:
        bare = PretrainedSpeechEncoder.from_hub(str(folder), local_files_only=True)
        return PretrainedSpeechEncoder(bare.encoder, head, positions)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnusableWeights(f"The {kind} in {folder.name} can't be loaded: {first_line(error)}.") from error


def save_speech_encoder(encoder: SpeechEncoder | PretrainedSpeechEncoder, folder: Path) -> None:
    """Write a speech encoder as load_speech_encoder reads it; the folder is made when missing."""
    if isinstance(encoder, SpeechEncoder):
        save_half(encoder, folder)
        return
    # In the names of the network at hand: of a Whisper that came whole, transformers could not undo the renaming.
    encoder.encoder.save_pretrained(folder, save_original_format=False)
    if encoder.head is not None:
        save_half(encoder.head, Path(folder) / HEAD_FOLDER)
    if encoder.positions is not None:
        save_half(encoder.positions, Path(folder) / POSITIONS_FOLDER)


def save_half(model: torch.nn.Module, folder: Path) -> None:
    """Write a network's config and its weights in float16; the network itself is left as it is.

    folder: made when missing.
    Errors: ValueError when a weight does not fit float16 or an adapter is still attached (saved base weights would be renamed);
        OSError when it can't be written.
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
    with whole_file(folder / WEIGHTS_FILE) as unfinished:
        save_file(weights, str(unfinished), metadata={"format": "pt"})


def _read_config(cls: type[NetworkConfig], folder: Path) -> dict:
    """The arguments for cls, under their present names."""
    path = folder / CONFIG_FILE
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise UnusableWeights(f"{folder.name} has a config that is too large.")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableWeights(f"{folder.name} has no readable {CONFIG_FILE}; make or download it again.") from error
    if not isinstance(config, dict) or config.get("_class_name") != cls.__name__:
        raise UnusableWeights(f"{folder.name} does not hold a {cls.__name__}.")
    try:
        config = cls.with_present_names({key: value for key, value in config.items() if not key.startswith("_")})
    except ValueError as error:
        raise UnusableWeights(f"{folder.name} has a config that names one option twice: {error}.") from error
    known = set(inspect.signature(cls.__init__).parameters) - {"self"}
    if set(config) != known:
        raise UnusableWeights(f"{folder.name} was made by another version: {_few(set(config) ^ known)} in its config.")
    if not all(_is_possible(name, value) for name, value in config.items()):
        raise UnusableWeights(f"{folder.name} has a config with an impossible size.")
    return config


def _is_possible(name: str, value: object) -> bool:
    """Whether an option of a config can be one of a network of ours."""
    sizes = value if isinstance(value, list) else [value]
    most = COUNT_MAX if name.endswith(COUNTS) else DIMENSION_MAX
    return len(sizes) <= COUNT_MAX and all(-1 <= size <= most for size in sizes if isinstance(size, int))


def _expected_shapes(cls: type[NetworkConfig], config: dict, folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that the config makes, found without allocating them."""
    try:
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in cls(**config).state_dict().items()}
    except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError, MemoryError) as error:
        raise UnusableWeights(f"{folder.name} has a config that does not make a {cls.__name__}.") from error


def _read_weights(folder: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The weights in float32, checked before the file's tensors are read."""
    path = folder / WEIGHTS_FILE
    try:
        with safe_open(str(path), framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        if missing := expected.keys() - found.keys():
            raise UnusableWeights(f"{folder.name} lacks the weights {_few(missing)}.")
        if unexpected := found.keys() - expected.keys():
            raise UnusableWeights(f"{folder.name} has weights nobody knows: {_few(unexpected)}.")
        if misshapen := {name for name in expected if found[name] != expected[name]}:
            raise UnusableWeights(f"{folder.name} has weights of another shape: {_few(misshapen)}.")
        weights = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise UnusableWeights(f"{folder.name} has no readable {WEIGHTS_FILE}; make or download it again.") from error
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    if broken := {name for name, tensor in weights.items() if not torch.isfinite(tensor).all()}:
        raise UnusableWeights(f"{folder.name} has weights that are not numbers: {_few(broken)}.")
    return weights


def _few(names: set[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
