"""LPIPS: how different two pictures look, by a network that was trained on what people say (docs/method.md section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gmtalker.errors import UnusableInput

BATCH = 8  # pictures


class PerceptualDistance:
    """LPIPS by a network in a file.

    path: a TorchScript file that maps two batches of pictures (n, 3, h, w) in [-1, 1] to distances (n,), or (n, 1, 1, 1) as the
        lpips package's networks give them.
    Errors: UnusableInput when it is no such network.
    Source: R. Zhang and others, arXiv 1801.03924.
    """

    def __init__(self, path: Path):
        try:
            self.network = torch.jit.load(str(path), map_location="cpu").eval()
            same = self.network(torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 64, 64))
            assert same.numel() == 2 and same.abs().max() < 1e-3
        except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
            raise UnusableInput(f"{Path(path).name} is not a perceptual distance that this program can use.") from error

    @torch.no_grad()
    def __call__(self, generated: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> float:
        """Mean distance of pictures (height, width, 3) uint8 to their counterparts; 0 is the same picture."""
        distances = []
        for first in range(0, len(real), BATCH):
            a, b = (
                torch.from_numpy(np.stack(rows[first : first + BATCH])).permute(0, 3, 1, 2).float() / 127.5 - 1
                for rows in (generated, real)
            )
            distances.append(self.network(a, b).reshape(-1))
        return float(torch.cat(distances).mean())
