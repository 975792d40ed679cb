"""Where a training stands, as safetensors: weights, their average, the optimizer's moments."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass
class TrainState:
    """Where training stands: optimizer steps taken, seconds spent on them."""

    step: int = 0
    seconds: float = 0.0


def _save_checkpoint(path: Path, model: nn.Module, optimizer: Any, average: EMAModel, state: TrainState) -> None:
    """Weights, their average and the optimizer's moments as safetensors; whole or not at all."""
    tensors = {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{index}": tensor for index, tensor in enumerate(average.shadow_params)}
    tensors |= moments_of("optimizer", optimizer)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    metadata = {"step": str(state.step), "seconds": repr(state.seconds), "average_step": str(average.optimization_step)}
    save_file({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}, str(unfinished), metadata=metadata)
    os.replace(unfinished, path)


def _load_checkpoint(path: Path, model: nn.Module, optimizer: Any, average: EMAModel) -> TrainState:
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(str(path))
    with _named(path):
        model.load_state_dict({name.removeprefix("weights."): x for name, x in tensors.items() if name.startswith("weights.")})
        for index, shadow in enumerate(average.shadow_params):
            shadow.copy_(tensors[f"average.{index}"])
        load_moments("optimizer", optimizer, tensors)
        average.optimization_step = int(metadata["average_step"])
        return TrainState(int(metadata["step"]), float(metadata["seconds"]))


def moments_of(prefix: str, optimizer: Any) -> dict[str, Tensor]:
    """The optimizer's state as tensors named prefix.index.part, for a safetensors file."""
    moments = optimizer.state_dict()["state"]
    return {f"{prefix}.{index}.{name}": torch.as_tensor(value) for index, part in moments.items() for name, value in part.items()}


def load_moments(prefix: str, optimizer: Any, tensors: dict[str, Tensor]) -> None:
    """The inverse of moments_of."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}."):
            _, index, part = name.split(".")
            moments.setdefault(int(index), {})[part] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


@contextlib.contextmanager
def _named(path: Path):
    try:
        yield
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is the checkpoint of another model; move it away to start afresh") from error
