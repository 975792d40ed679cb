"""How one person's face differs from the generic one in each emotion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gmtalker.clock import EMOTIONS
from gmtalker.device import one_core
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.tracks import BLINK, GAZE, MOTION_DIM, ROTATION

OFFSETS_FILE = "emotion_offsets.safetensors"
MOTION_COLUMNS = np.r_[ROTATION, BLINK, GAZE]  # not the translation: where in the picture somebody sits is no emotion
FORMER_FILE = "moods.safetensors"  # as version 0.1 wrote it


@dataclass(frozen=True, eq=False)
class EmotionOffsets:
    """What a person's face in each emotion has beside the generic one; an emotion that no clip showed has what neutral has.

    expression: (8, n) coefficients, in standard deviations of the shared basis.
    motion: (8, 10) by how much the head, the resting eyelids and the gaze differ from the person's usual ones, in the columns and
        units of MotionTrack.stacked().
    Errors: ValueError for other shapes, or for a number that is not finite.
    Source: our own; docs/method.md section 11, equation (33).
    """

    expression: Tensor
    motion: Tensor

    def __post_init__(self) -> None:
        kinds = len(EMOTIONS)
        fits = self.expression.ndim == 2 and len(self.expression) == kinds and self.motion.shape == (kinds, MOTION_DIM)
        if not fits or not (self.expression.isfinite().all() and self.motion.isfinite().all()):
            raise ValueError("emotion offsets hold one row of finite numbers for each emotion")

    def save(self, folder: Path) -> None:
        """Write them into an avatar's folder."""
        tensors = {name: getattr(self, name).float().contiguous() for name in ("expression", "motion")}
        save_file(tensors, str(folder / OFFSETS_FILE))

    @classmethod
    def load(cls, folder: Path) -> EmotionOffsets | None:
        """Read those of an avatar's folder, as this or an older version wrote them.

        Returns: None when the avatar has none.
        Errors: OSError, ValueError, KeyError, SafetensorError for a broken file.
        """
        path = next((folder / name for name in (OFFSETS_FILE, FORMER_FILE) if (folder / name).exists()), None)
        if path is None:
            return None
        tensors = load_file(str(path))
        if "lids" in tensors:  # the oldest form: only how low both eyelids rest
            tensors["motion"] = torch.zeros(len(tensors["lids"]), MOTION_DIM)
            tensors["motion"][:, BLINK] = tensors["lids"][:, None]
        return cls(tensors["expression"].float(), tensors["motion"].float())


@torch.no_grad()
@one_core()
def generic_offsets(generator: ExpressionGenerator, features: Tensor) -> Tensor:
    """How the generator's mean face in each emotion differs from its neutral one.

    features: (frames, d) of the speech that it is averaged over.
    Returns: (8, n) coefficients.
    """
    means = []
    for weights in torch.eye(len(EMOTIONS), device=generator.device):
        latent = generator.latent(weights.expand(len(features), -1), seed=0, temperature=0.0)
        means.append(generator.generate(features.to(generator.device), latent).mean(0).cpu())
    return torch.stack(means) - means[0]
