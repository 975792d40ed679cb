"""The emotion that a voice expresses, over time (docs/method.md section 16)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from gmtalker.clock import EMOTIONS
from gmtalker.models.config import NetworkConfig
from gmtalker.models.mel import MELS

STRIDE = 8  # mel frames of one answer: 12.5 a second
LOUD = 0.9  # quantile of a speech's mel values that its loudness is measured by: how far the microphone was says nothing
SCALE = 4.0  # natural logarithms of power that count as one
SMOOTHING = 0.1  # of the labels: actors' emotions are not always what others hear


@dataclass(frozen=True)
class VoiceBatch:
    """Pieces of speech of one length.

    mel: (B, T, 80) of voice_input.
    emotion: (B,) numbers of emotions.
    """

    mel: Tensor
    emotion: Tensor


class VoiceEmotion(ModelMixin, NetworkConfig):
    """Two-dimensional convolutions over the mel spectrogram, so that a pitch is heard wherever it lies, then over time.

    channels: of the convolutions.
    width: of the layers over time.
    Source: our own; docs/method.md section 16.
    """

    @register_to_config
    def __init__(self, channels: int = 24, width: int = 96, num_emotions: int = len(EMOTIONS), dropout: float = 0.3) -> None:
        super().__init__()
        sizes = (1, channels, 2 * channels, 3 * channels)
        self.spectral = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 5 if before == 1 else 3, 2, 2 if before == 1 else 1),
                    nn.GroupNorm(4, after),
                    nn.GELU(),
                    nn.Dropout2d(dropout / 2),
                )
                for before, after in zip(sizes, sizes[1:])
            )
        )
        bands = -(-MELS // STRIDE)
        self.enter = nn.Conv1d(sizes[-1] * bands, width, 1)
        self.temporal = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2 * step, dilation=step) for step in (1, 2, 4))
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in self.temporal)
        self.drop = nn.Dropout(dropout)
        self.leave = nn.Conv1d(width, num_emotions + 1, 1)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T', emotions) of each moment, and the logarithm of how much it counts (B, T'); T' is T / 8, rounded up.

        mel: (B, T, 80) of voice_input.
        """
        x = self.spectral(mel[:, None])
        x = self.enter(x.permute(0, 1, 3, 2).flatten(1, 2))
        for convolution, norm in zip(self.temporal, self.norms):
            x = x + self.drop(functional.gelu(convolution(norm(x))))
        scores = self.leave(functional.gelu(x)).transpose(1, 2)
        return scores[..., :-1], scores[..., -1]

    def pooled(self, mel: Tensor) -> Tensor:
        """Logits (B, emotions) of whole pieces (B, T, 80)."""
        logits, weight = self(mel)
        return (logits * weight.softmax(1)[..., None]).sum(1)

    @torch.no_grad()
    def curve(self, mel: Tensor, window: int = 37) -> Tensor:
        """Probabilities (T', emotions) over a speech (T, 80), each of the answers around it and, as much, of the whole speech.

        What a second sounds like alone jumps from one emotion to the next; nobody's mood does.

        window: answers, 12.5 a second, that are taken together.
        """
        logits, weight = self(mel[None])
        weight = weight[0].clamp(-8, 8).exp()
        kernel = torch.hann_window(window + 2, periodic=False)[1:-1]

        def around(values: Tensor) -> Tensor:
            padded = functional.pad(values.T[:, None], (window // 2, window - 1 - window // 2))
            return functional.conv1d(padded, kernel[None, None])[:, 0].T

        total = weight.sum().clamp(min=1e-9)
        whole = (logits[0] * weight[:, None]).sum(0) / total
        local = around(logits[0] * weight[:, None]) / around(weight[:, None]).clamp(min=1e-9)
        return ((whole + local) / 2).softmax(-1)

    def loss(self, batch: VoiceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the pieces' labels, smoothed."""
        loss = functional.cross_entropy(self.pooled(batch.mel), batch.emotion, label_smoothing=SMOOTHING)
        return {"total": loss}


def voice_input(mel: Tensor) -> Tensor:
    """What the network takes: a speech's log mel (T, 80) relative to its own loudness."""
    loud = mel.amax(1).quantile(LOUD) if len(mel) else mel.new_zeros(())
    return ((mel - loud) / SCALE + 1).clamp(min=-2)
