"""HuBERT as the speech encoder: frozen, from the Hub or a folder, behind the same call as the project's own (method, S)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import HubertModel
from transformers.utils.logging import disable_progress_bar

from gmtalker.clock import SAMPLE_RATE, SAMPLES_PER_FRAME, frames_for

STRIDE, RECEPTIVE_FIELD = 320, 400  # samples a hidden state, and that its convolutions read
CHUNK, CONTEXT = 20, 2  # seconds heard at a time, and heard around them on either side: attention is quadratic in time


class HubertEncoder(nn.Module):
    """HuBERT (arXiv 2106.07447) at 25 frames a second: the mean of the two states of its last layer that make a frame. Frozen."""

    def __init__(self, hubert: HubertModel) -> None:
        super().__init__()
        self.hubert = hubert.eval().requires_grad_(False)

    @classmethod
    def from_hub(cls, name: str, local_files_only: bool = False) -> HubertEncoder:
        """By its name on the Hub, or a folder. Errors: OSError when it is not there, ValueError when a weight is missing."""
        disable_progress_bar()
        hubert, report = HubertModel.from_pretrained(
            name, use_safetensors=True, local_files_only=local_files_only, output_loading_info=True, dtype=torch.float32
        )
        lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
        if lacking:  # transformers would go on with random ones
            raise ValueError(f"it lacks {lacking[0]} and {len(lacking) - 1} more weights")
        return cls(hubert)

    @property
    def features(self) -> int:
        """Numbers a frame."""
        return self.hubert.config.hidden_size

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """(samples,) at 16 kHz -> (frames, features); a long speech chunk by chunk, so that memory stays flat."""
        frames = frames_for(len(waveform))
        waveform = (waveform - waveform.mean()) / (waveform.std(correction=0) + 1e-7)
        waveform = F.pad(waveform, (0, frames * SAMPLES_PER_FRAME - len(waveform)))
        pieces = []
        for begin in range(0, frames, CHUNK * SAMPLE_RATE // SAMPLES_PER_FRAME):
            end = min(frames, begin + CHUNK * SAMPLE_RATE // SAMPLES_PER_FRAME)
            around = CONTEXT * SAMPLE_RATE // SAMPLES_PER_FRAME
            left, right = max(0, begin - around), min(frames, end + around)
            heard = waveform[left * SAMPLES_PER_FRAME : right * SAMPLES_PER_FRAME]
            # Half of what a state reads beyond its stride on either side: two states a frame, each in its middle.
            beyond = (RECEPTIVE_FIELD - STRIDE) // 2
            states = self.hubert(F.pad(heard, (beyond, beyond))[None]).last_hidden_state[0]
            pieces.append(states.unflatten(0, (right - left, 2)).mean(1)[begin - left : end - left])
        return torch.cat(pieces)
