"""A person's own look of each emotion, beside the generic one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from gmtalker.clock import EMOTIONS

OFFSETS_FILE = "moods.safetensors"


@dataclass(frozen=True, eq=False)
class EmotionOffsets:
    """What a person's face in each emotion has beside the generic one.

    expression: (8, n) coefficients; motion: (8, 10) by how much the head is held, and the eyelids and the eyes rest, otherwise
    than usual, as MotionTrack.stacked(). An emotion that was never shown has what neutral has, or zeros.
    Errors: ValueError for other shapes.
    """

    expression: Tensor
    motion: Tensor

    def __post_init__(self) -> None:
        shapes = self.expression.ndim == 2 and len(self.expression) == len(EMOTIONS) and self.motion.shape == (len(EMOTIONS), 10)
        if not shapes or not (self.expression.isfinite().all() and self.motion.isfinite().all()):
            raise ValueError("moods hold one row of finite numbers for each emotion")

    def save(self, folder: Path) -> None:
        """Into an avatar's folder."""
        tensors = {name: getattr(self, name).float().contiguous() for name in ("expression", "motion")}
        save_file(tensors, str(folder / OFFSETS_FILE))

    @classmethod
    def load(cls, folder: Path) -> EmotionOffsets:
        """Of an avatar's folder. Errors: ValueError, KeyError, SafetensorError for a broken file."""
        tensors = load_file(str(folder / OFFSETS_FILE))
        if "lids" in tensors:  # an avatar of an older version: only how low both eyelids rest
            tensors["motion"] = F.pad(tensors.pop("lids")[:, None].expand(-1, 2), (6, 2))
        return cls(tensors["expression"].float(), tensors["motion"].float())
