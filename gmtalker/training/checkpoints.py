"""Where a training stands, as one safetensors file: weights, their moving average, the optimizer's state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, as_tensor, nn
from torch.optim import Optimizer

from gmtalker.files import whole_file


@dataclass
class TrainState:
    """Where a training stands.

    step: optimizer steps taken.
    seconds: spent on them, over all runs.
    """

    step: int = 0
    seconds: float = 0.0


def save_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, ema: EMAModel, state: TrainState) -> None:
    """Write everything that resuming needs. Errors: OSError when it can't be written."""
    tensors = {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= ema_tensors(ema) | optimizer_tensors("optimizer", optimizer)
    metadata = {"step": str(state.step), "seconds": repr(state.seconds), "average_step": str(ema.optimization_step)}
    write_tensors(path, tensors, metadata)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, ema: EMAModel) -> TrainState:
    """Read what save_checkpoint wrote into model, optimizer and ema. Errors: ValueError when it belongs to another model."""
    tensors, metadata = read_tensors(path)
    with refusing_another_model(path):
        model.load_state_dict(tensors_below("weights", tensors))
        load_ema_tensors(ema, tensors)
        load_optimizer_tensors("optimizer", optimizer, tensors)
        ema.optimization_step = int(metadata["average_step"])
        return TrainState(int(metadata["step"]), float(metadata["seconds"]))


def optimizer_tensors(prefix: str, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as tensors named prefix.index.part."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{index}.{name}": as_tensor(value) for index, part in state.items() for name, value in part.items()}


def load_optimizer_tensors(prefix: str, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of optimizer_tensors. Errors: ValueError when they belong to other parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors_below(prefix, tensors).items():
        index, part = name.split(".")
        state.setdefault(int(index), {})[part] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def ema_tensors(ema: EMAModel) -> dict[str, Tensor]:
    """The averaged weights, named average.index."""
    return {f"average.{index}": tensor for index, tensor in enumerate(ema.shadow_params)}


def load_ema_tensors(ema: EMAModel, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of ema_tensors. Errors: KeyError or RuntimeError when they belong to another model."""
    for index, shadow in enumerate(ema.shadow_params):
        shadow.copy_(tensors[f"average.{index}"])


def tensors_below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those named prefix.name, by name."""
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors from any device as a safetensors file, whole or not at all; folders are made when missing.

    Errors: OSError when it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with whole_file(path) as unfinished:
        save_file(copies, str(unfinished), metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Errors: OSError or SafetensorError when it can't be read."""
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    return load_file(str(path)), metadata or {}


@contextlib.contextmanager
def refusing_another_model(path: Path) -> Iterator[None]:
    """Turn the errors of loading tensors that don't fit into one ValueError that names the checkpoint."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is the checkpoint of another model; move it away to start afresh") from error
