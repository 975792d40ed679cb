"""The autoregressive decoder that the expression and the motion generator share (method sections 1 and 2)."""

from __future__ import annotations

from typing import Iterator

import torch
from torch import Tensor, nn

from gmtalker.models.attention import Cache, DecoderLayer

CHUNK = 128  # frames whose speech is projected at a time while streaming: memory stays flat, the call overhead small


class AutoregressiveDecoder(nn.Module):
    """Frame t from the frames before it (at most window), a condition of every frame, and the speech around frame t.

    outputs: numbers a frame. features: speech features a frame. window: frames of the past that are read. period: of the periodic
    bias, in frames. reach: speech frames read on either side.
    """

    def __init__(
        self,
        outputs: int,
        features: int,
        width: int,
        heads: int,
        layers: int,
        window: int,
        period: int,
        reach: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(outputs, width)
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, features, window, period, reach, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, outputs)

    def forward(
        self, frames: Tensor, condition: Tensor, speech: Tensor, valid: Tensor | None = None, forgotten: Tensor | None = None
    ) -> Tensor:
        """Every frame at once, each from the given frames before it.

        frames (B,T,outputs); condition (B,T or 1,width); speech (B,T,features); valid (B,T), False is padding; forgotten (B,):
        clips whose past is replaced by the start token. -> (B,T,outputs); row t never depends on frames[t:].
        """
        start = self.start.expand(len(frames), 1, -1)
        past = torch.cat([start, self.embed(frames[:, :-1])], dim=1)
        if forgotten is not None:
            past = torch.where(forgotten[:, None, None], self.start, past)
        if valid is None:
            valid = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        x = past + condition
        for layer in self.layers:
            x = layer(x, speech, valid)
        return self.project(self.norm(x))

    def scheduled_sampling_pass(
        self, truth: Tensor, condition: Tensor, speech: Tensor, valid: Tensor, noise: float = 0.5
    ) -> Tensor:
        """Predictions to train on, made from a past like the one that generation will feed (parallel scheduled sampling).

        A decoder that only ever sees the true past learns to copy the frame before, and freezes or lags once it reads its own.
        So a first pass, without gradient, makes predictions from a noised or a forgotten past; the second reads, clip by clip,
        those predictions (1/2), the noised truth (1/4) or nothing (1/4).
        """
        first, second = torch.rand(2, len(truth), device=truth.device)
        noised = truth + noise * torch.rand(len(truth), 1, 1, device=truth.device) * torch.randn_like(truth)
        with torch.no_grad():
            predicted = self(noised, condition, speech, valid, forgotten=first < 0.5)
        past = torch.where(second[:, None, None] < 0.5, predicted, noised)
        return self(past, condition, speech, valid, forgotten=second > 0.75)

    @torch.no_grad()
    def stream(self, condition: Tensor, speech: Tensor) -> Iterator[Tensor]:
        """Frame by frame, each fed back: condition (B,T,width), speech (B,T,features) -> T times (B,outputs)."""
        caches: list[Cache | None] = [None] * len(self.layers)
        biases = [layer.bias.by_offset().flip(1)[:, None] for layer in self.layers]  # oldest first, as the caches are
        past = self.start.expand(len(speech), -1)
        for begin in range(0, speech.shape[1], CHUNK):
            windows = [_windows(layer, speech, begin) for layer in self.layers]
            for offset in range(len(windows[0])):
                x = (past + condition[:, begin + offset])[:, None]
                for index, layer in enumerate(self.layers):
                    bias = biases[index]
                    bias = bias[..., max(0, bias.shape[-1] - 1 - (begin + offset)) :]  # the first frames have a short past
                    x, caches[index] = layer.step(x, windows[index][offset], bias, caches[index])
                frame = self.project(self.norm(x[:, 0]))
                yield frame
                past = self.embed(frame)


def _windows(layer: DecoderLayer, speech: Tensor, begin: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Keys, values and bias of each of the next CHUNK frames, from the speech in their reach."""
    end, reach = min(begin + CHUNK, speech.shape[1]), layer.speech.reach
    left = max(0, begin - reach)
    heard = speech[:, left : end + reach]
    valid = torch.ones(heard.shape[:2], dtype=torch.bool, device=speech.device)
    keys, values, bias = layer.speech.windows(heard, valid)
    return [(keys[:, t : t + 1], values[:, t : t + 1], bias[:, t : t + 1]) for t in range(begin - left, end - left)]
