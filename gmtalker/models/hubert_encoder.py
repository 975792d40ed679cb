"""HuBERT as the speech encoder: frozen, from the Hub or a folder, with the interface of the project's own encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import HubertModel
from transformers.utils.logging import disable_progress_bar

from gmtalker.clock import FPS, SAMPLES_PER_FRAME, frames_for

STRIDE, RECEPTIVE_FIELD = 320, 400  # samples from one hidden state to the next, and that the convolutions of one read
ENCODE_SECONDS, CONTEXT_SECONDS = 20, 2  # encoded at a time, and read on either side of it: attention is quadratic in time


class HubertEncoder(nn.Module):
    """HuBERT at 25 frames per second: the mean of the two states of its last layer that make a frame.

    Source: HuBERT, arXiv 2106.07447; docs/method.md section 5.
    """

    def __init__(self, hubert: HubertModel) -> None:
        super().__init__()
        self.hubert = hubert.eval().requires_grad_(False)

    @classmethod
    def from_hub(cls, name: str, local_files_only: bool = False) -> HubertEncoder:
        """Load a HuBERT.

        name: on the Hub, or a folder.
        Errors: OSError when it is not there, ValueError when a weight is missing.
        """
        disable_progress_bar()
        hubert, report = HubertModel.from_pretrained(
            name, use_safetensors=True, local_files_only=local_files_only, output_loading_info=True, dtype=torch.float32
        )
        lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
        if lacking:  # transformers would go on with random ones
            raise ValueError(f"it lacks {lacking[0]} and {len(lacking) - 1} more weights")
        return cls(hubert)

    @property
    def feature_dim(self) -> int:
        """Features per frame."""
        return self.hubert.config.hidden_size

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """Speech features of a waveform, piece by piece, so that memory stays flat however long it is.

        waveform: (samples,) at 16 kHz.
        Returns: (frames, feature_dim), one row per video frame.
        """
        frames = frames_for(len(waveform))
        waveform = (waveform - waveform.mean()) / (waveform.std(correction=0) + 1e-7)
        waveform = F.pad(waveform, (0, frames * SAMPLES_PER_FRAME - len(waveform)))
        pieces = []
        for begin in range(0, frames, ENCODE_SECONDS * FPS):
            end = min(frames, begin + ENCODE_SECONDS * FPS)
            left, right = max(0, begin - CONTEXT_SECONDS * FPS), min(frames, end + CONTEXT_SECONDS * FPS)
            piece = waveform[left * SAMPLES_PER_FRAME : right * SAMPLES_PER_FRAME]
            # Half of what a state reads beyond its stride on either side: two states a frame, each in its middle.
            beyond = (RECEPTIVE_FIELD - STRIDE) // 2
            states = self.hubert(F.pad(piece, (beyond, beyond))[None]).last_hidden_state[0]
            pieces.append(states.unflatten(0, (right - left, 2)).mean(1)[begin - left : end - left])
        return torch.cat(pieces)
