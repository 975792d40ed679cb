"""A person's speaking style, kept apart from the generic weights (docs/method.md section 10).

It is a style embedding; from longer footage also a LoRA of the expression generator, and an accent, which is what their face does
beyond both, linear in the speech.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from gmtalker.errors import UnusableAvatar
from gmtalker.models.expression_generator import ACCENT_FRAMES, ExpressionGenerator

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"  # the name diffusers' load_lora_adapter looks for
ACCENT_FILE, STYLE_FILE = "accent.safetensors", "style.safetensors"
LARGEST_RANK = 128


def fingerprint(generator: ExpressionGenerator) -> str:
    """Which generic generator this is: a style fits the one that it was learned with, and no other of the same shape."""
    digest = hashlib.sha256()
    for name in ("embed_z.weight", "decoder.norm.weight", "decoder.project.bias"):
        digest.update(generator.get_parameter(name).detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_speaking_style(generator: ExpressionGenerator, folder: Path, strength: float = 1.0) -> None:
    """Save a generator's style, and the LoRA and the accent where it has them, but nothing of the generator itself.

    generator: changed: its LoRA is scaled by strength.
    folder: made when it is missing.
    strength: 0 to 1 of the LoRA as it was trained; of 0 nothing is saved.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_FILE, ACCENT_FILE, STYLE_FILE):
        (folder / name).unlink(missing_ok=True)
    if strength > 0 and any(isinstance(layer, LoraLayer) for layer in generator.modules()):
        _save_lora(generator, folder, strength)
    if generator.accent is not None:
        weights = {name: weight.detach().cpu().float().contiguous() for name, weight in generator.accent.state_dict().items()}
        save_file(weights, str(folder / ACCENT_FILE))
    style = torch.zeros(generator.config.style_dim) if generator.style is None else generator.style.detach().cpu().float()
    save_file({"style": style.contiguous()}, str(folder / STYLE_FILE), {"generator": fingerprint(generator)})


def _save_lora(generator: ExpressionGenerator, folder: Path, strength: float) -> None:
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


def with_speaking_style(generator: ExpressionGenerator, folder: Path) -> ExpressionGenerator:
    """A copy of the generator that speaks in a person's style, its LoRA merged into the weights, in eval mode.

    A copy, so that avatars used at the same time don't change each other; merged, so that it is as fast as without. A style that
    was learned with other generic stages is left out, with a warning: the avatar then speaks as everybody does.

    generator: the generic one; it stays as it is.
    folder: as save_speaking_style wrote it.
    Errors: UnusableAvatar when style, LoRA or accent are broken, or do not fit this generator to the last weight.
    Source: LoRA, arXiv 2106.09685; docs/method.md section 10.
    """
    folder, generic = Path(folder), generator
    generator = copy.deepcopy(generator)
    try:
        if not _learned_with(folder, generic):
            warnings.warn(
                f"The speaking style of {folder.parent.name} was learned with other generic stages and is left out; "
                "train the avatar again to learn it anew.",
                stacklevel=2,
            )
            return generator.eval().requires_grad_(False)
        style = load_file(str(folder / STYLE_FILE))["style"]
        if style.shape != (generator.config.style_dim,):
            raise ValueError(f"its style has {tuple(style.shape)} numbers")
        generator.style = style
        if (folder / WEIGHTS_FILE).exists():
            _merge_lora(generator, folder)
        if (folder / ACCENT_FILE).exists():
            accent = nn.Linear(ACCENT_FRAMES * generator.config.feature_dim, generator.config.coefficient_dim)
            accent.load_state_dict(load_file(str(folder / ACCENT_FILE)))  # strict, in names and in shapes
            generator.accent = accent.to(generator.device)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UnusableAvatar(f"The speaking style of {folder.parent.name} does not fit these generic stages.") from error
    return generator.eval().requires_grad_(False)


def _learned_with(folder: Path, generator: ExpressionGenerator) -> bool:
    """Whether the style in a folder was learned with this generic generator. Avatars of earlier versions do not say."""
    if not (folder / STYLE_FILE).exists():
        return False
    with safe_open(str(folder / STYLE_FILE), framework="pt") as file:
        return (file.metadata() or {}).get("generator") == fingerprint(generator)


def _merge_lora(generator: ExpressionGenerator, folder: Path) -> None:
    """Merge a folder's LoRA into the weights. Errors: ValueError when it does not fit."""
    with safe_open(str(folder / WEIGHTS_FILE), framework="pt") as file:
        _check_fit({name: file.get_slice(name).get_shape() for name in file.keys()}, generator)
    generator.load_lora_adapter(str(folder), prefix=None, weight_name=WEIGHTS_FILE, use_safetensors=True, adapter_name="style")
    generator.fuse_lora(adapter_names=["style"])
    generator.unload_lora()


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
