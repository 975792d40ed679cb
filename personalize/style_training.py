"""How a person speaks: a LoRA of the generic expression generator, adapted to their own speech and face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

from gmtalker.errors import UnusableInput
from gmtalker.models.expression_generator import ExpressionBatch, ExpressionGenerator
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.speaking_style import save_speaking_style
from gmtalker.tracks import EMOTIONS
from personalize.fitting import FitOptions, fit

STYLE_RANK, STYLE_FRAMES, STYLE_BATCH = 16, 50, 12
SHIFT_FRAMES = 100  # of speech over which an emotion's mean face is taken


@dataclass(frozen=True)
class SpokenFootage:
    """All clips of a person on one clock: coefficients (frames, n), speech features (frames, d), emotion (frames, 8).

    usable: (frames,) bool, where the face is found, speech is heard, and the frame may be learned from; begins: first frame of
    each clip.
    """

    coefficients: Tensor
    features: Tensor
    usable: np.ndarray
    emotion: Tensor
    begins: Sequence[int]


def adapt_style(
    footage: SpokenFootage,
    pipeline: GMTalkerPipeline,
    work: Path,
    minutes: float,
    folder: Path,
    report: Callable[[dict], None],
) -> None:
    """LoRA of the generic expression generator on the person's own speech and face, into folder/speaking_style.

    work: keeps the checkpoint; the same call goes on from it. Errors: UnusableInput when nobody speaks for two seconds in a row.
    """
    generic = pipeline.expression_generator
    config = {name: value for name, value in generic.config.items() if not name.startswith("_")}
    generator = ExpressionGenerator(**config)
    generator.load_state_dict({name: tensor.detach().cpu().clone() for name, tensor in generic.state_dict().items()})
    generator.requires_grad_(False)
    torch.manual_seed(0)
    style = LoraConfig(
        r=STYLE_RANK,
        lora_alpha=STYLE_RANK,
        lora_dropout=0.05,
        target_modules=[
            name for name, layer in generator.named_modules() if name.startswith("decoder.") and isinstance(layer, nn.Linear)
        ],
    )
    generator.add_adapter(style)
    lip_basis = pipeline.face_model.lip_basis()
    starts = _windows(footage)
    coefficients = footage.coefficients
    shifts = _emotion_shifts(generic, footage.features[starts[len(starts) // 2] :][:SHIFT_FRAMES])

    def batch(number: int) -> ExpressionBatch:
        draw = np.random.default_rng([7, number])
        rows = [slice(start, start + STYLE_FRAMES) for start in draw.choice(starts, STYLE_BATCH)]
        expression = torch.stack([coefficients[row] for row in rows])
        emotion = torch.stack([footage.emotion[row].mean(0) for row in rows])
        # The person hardly showed most emotions: half of the rows get the generic look of one on top, or the style would forget
        # all but their own mood.
        strength = torch.from_numpy(draw.uniform(0.3, 1.0, STYLE_BATCH) * (draw.random(STYLE_BATCH) < 0.5)).float()[:, None]
        other = torch.from_numpy(draw.integers(1, len(EMOTIONS), STYLE_BATCH))
        expression = expression + (strength * shifts[other])[:, None]
        emotion = (1 - strength) * emotion + strength * torch.eye(len(EMOTIONS))[other]
        return ExpressionBatch(
            expression=expression,
            speech=torch.stack([footage.features[row] for row in rows]),
            speech_mask=torch.ones(STYLE_BATCH, dtype=torch.bool),
            mask=torch.ones(STYLE_BATCH, STYLE_FRAMES, dtype=torch.bool),
            emotion=emotion,
            labelled=torch.ones(STYLE_BATCH, dtype=torch.bool),
            speaker=torch.full((STYLE_BATCH,), -1),
            lip_basis=lip_basis,
        )

    options = FitOptions("style", minutes=minutes, learning_rate=5e-4, warm_up=30, average=0.99, weight_decay=0.0)
    fit(generator, batch, work / "style", options, report)
    save_speaking_style(generator, folder / "speaking_style")


def _emotion_shifts(generic: ExpressionGenerator, features: Tensor) -> Tensor:
    """(8, n): how the generic generator's mean face in each emotion differs from its neutral one, over features (frames, d)."""
    means = []
    for weights in torch.eye(len(EMOTIONS), device=generic.device):
        latent = generic.latent(weights.expand(len(features), -1), seed=0, temperature=0.0)
        means.append(generic.generate(features.to(generic.device), latent).mean(0).cpu())
    return torch.stack(means) - means[0]


def _windows(footage: SpokenFootage) -> np.ndarray:
    """First frames of the stretches of speech that lie within one clip."""
    usable = footage.usable
    inside = np.ones(len(usable), bool)
    ends = [*footage.begins[1:], len(usable)]
    for end in ends:
        inside[max(0, end - STYLE_FRAMES + 1) : end] = False
    whole = np.convolve(usable, np.ones(STYLE_FRAMES, int), "full")[STYLE_FRAMES - 1 :][: len(usable)] == STYLE_FRAMES
    starts = np.flatnonzero(whole & inside)
    if not len(starts):
        raise UnusableInput("No two seconds of speech with the face in view were found; please film a longer stretch of talking.")
    return starts
