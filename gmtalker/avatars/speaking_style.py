"""A person's speaking style, kept apart from the generic weights: a LoRA of the expression generator, and an accent, which is
what their face does beyond it, linear in the speech features (docs/method.md section 10)."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from gmtalker.errors import UnusableAvatar
from gmtalker.models.expression_generator import ExpressionGenerator

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"  # the name diffusers' load_lora_adapter looks for
ACCENT_FILE = "accent.safetensors"
LARGEST_RANK = 128


def save_speaking_style(generator: ExpressionGenerator, folder: Path, strength: float = 1.0) -> None:
    """Save the LoRA attached to a generator and its accent, where it has one, but nothing of the generator itself.

    generator: changed: its LoRA is scaled by strength.
    folder: made when it is missing.
    strength: 0 to 1 of the LoRA as it was trained.
    """
    with torch.no_grad():
        for name, weight in generator.named_parameters():
            if ".lora_B." in name:
                weight.mul_(strength)
    talkative = logging.getLogger("diffusers.models.modeling_utils")
    level = talkative.level
    talkative.setLevel(logging.ERROR)  # it would warn of a cast that saving itself asks for
    try:
        generator.save_lora_adapter(str(folder), weight_name=WEIGHTS_FILE)
    finally:
        talkative.setLevel(level)
    if generator.accent is not None:
        weights = {name: weight.detach().cpu().float().contiguous() for name, weight in generator.accent.state_dict().items()}
        save_file(weights, str(Path(folder) / ACCENT_FILE))


def with_speaking_style(generator: ExpressionGenerator, folder: Path) -> ExpressionGenerator:
    """A copy of the generator with a person's LoRA merged into its weights, in eval mode.

    A copy, so that avatars used at the same time don't change each other; merged, so that it is as fast as without.

    generator: the generic one; it stays as it is.
    folder: as save_speaking_style wrote it.
    Errors: UnusableAvatar when LoRA or accent do not fit this generator to the last weight.
    Source: LoRA, arXiv 2106.09685; docs/method.md section 10.
    """
    folder, generator = Path(folder), copy.deepcopy(generator)
    try:
        with safe_open(str(folder / WEIGHTS_FILE), framework="pt") as file:
            _check_fit({name: file.get_slice(name).get_shape() for name in file.keys()}, generator)
        generator.load_lora_adapter(
            str(folder), prefix=None, weight_name=WEIGHTS_FILE, use_safetensors=True, adapter_name="style"
        )
        generator.fuse_lora(adapter_names=["style"])
        generator.unload_lora()
        if (folder / ACCENT_FILE).exists():
            accent = nn.Linear(generator.config.feature_dim, generator.config.coefficient_dim)
            accent.load_state_dict(load_file(str(folder / ACCENT_FILE)))  # strict, in names and in shapes
            generator.accent = accent.to(generator.device)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UnusableAvatar(f"The speaking style of {folder.parent.name} does not fit these generic stages.") from error
    return generator.eval().requires_grad_(False)


def _check_fit(shapes: dict[str, list[int]], generator: ExpressionGenerator) -> None:
    """Errors: ValueError unless every weight is one half of a LoRA of a linear layer of this generator."""
    layers = {name: layer for name, layer in generator.named_modules() if isinstance(layer, nn.Linear)}
    if not shapes:
        raise ValueError("it is empty")
    for name in shapes:
        owner, _, half = name.rpartition(".lora_")
        down, up = (shapes.get(f"{owner}.lora_{side}.weight", [0, 0]) for side in "AB")
        layer = layers.get(owner)
        if layer is None or half not in ("A.weight", "B.weight") or not 1 <= down[0] == up[1] <= LARGEST_RANK:
            raise ValueError(f"{name} fits no layer")
        if (down[1], up[0]) != (layer.in_features, layer.out_features):
            raise ValueError(f"{name} fits no layer")
