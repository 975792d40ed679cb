"""The autoregressive decoder of the expression and the motion generator (docs/method.md sections 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gmtalker.models.attention import Cache, DecoderLayer, DecoderSpan, SpeechWindows

STREAM_CHUNK = 128  # frames whose speech is projected at a time while streaming: memory stays flat, the call overhead small


class AutoregressiveDecoder(nn.Module):
    """Predicts frame t from the frames before it, a condition of every frame, and the speech around frame t.

    output_dim: numbers per frame.
    feature_dim: speech features per frame.
    layers: how many DecoderLayers.
    span: how far the past and the speech are read.
    Source: docs/method.md section 1, equation (4).
    """

    def __init__(
        self, output_dim: int, feature_dim: int, width: int, heads: int, layers: int, span: DecoderSpan, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(output_dim, width)
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feature_dim, span, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, output_dim)

    def forward(
        self, frames: Tensor, condition: Tensor, speech: Tensor, valid: Tensor | None = None, forgotten: Tensor | None = None
    ) -> Tensor:
        """Predict every frame at once, each from the given frames before it.

        frames: (B, T, output_dim), the past that is read.
        condition: (B, T or 1, width), added to every step's input.
        speech: (B, T, feature_dim).
        valid: (B, T), False on padding; None where there is none.
        forgotten: (B,), True for clips whose past is replaced by the start token.
        Returns: (B, T, output_dim); row t never depends on frames[t:].
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
        """Predict frames to train on from a past like the one that generation will feed.

        A decoder that only ever sees the true past learns to copy the previous frame, and freezes or lags once it reads its own
        output. So a first pass, without gradient, predicts from a noised or a forgotten past; the second pass reads, clip by
        clip, those predictions (1/2), the noised truth (1/4) or nothing (1/4).

        truth: (B, T, output_dim).
        condition, speech, valid: as in forward.
        noise: largest standard deviation of the noise on the truth; each clip's is uniform between 0 and it.
        Returns: (B, T, output_dim).
        Source: parallel scheduled sampling, arXiv 1906.04331; docs/method.md section 1, below equation (4).
        """
        first, second = torch.rand(2, len(truth), device=truth.device)
        noised = truth + noise * torch.rand(len(truth), 1, 1, device=truth.device) * torch.randn_like(truth)
        with torch.no_grad():
            predicted = self(noised, condition, speech, valid, forgotten=first < 0.5)
        past = torch.where(second[:, None, None] < 0.5, predicted, noised)
        return self(past, condition, speech, valid, forgotten=second > 0.75)

    @torch.no_grad()
    def stream(self, condition: Tensor, speech: Tensor) -> Iterator[Tensor]:
        """Generate frame by frame, feeding each frame back.

        condition: (B, T, width).
        speech: (B, T, feature_dim).
        Yields: (B, output_dim), T times; memory does not grow with T.
        """
        caches: list[Cache | None] = [None] * len(self.layers)
        biases = [layer.bias.by_offset().flip(1)[:, None] for layer in self.layers]  # oldest first, as the caches are
        past = self.start.expand(len(speech), -1)
        for begin in range(0, speech.shape[1], STREAM_CHUNK):
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


def _windows(layer: DecoderLayer, speech: Tensor, begin: int) -> list[SpeechWindows]:
    """The speech windows of each of the next STREAM_CHUNK frames, one frame an item."""
    end, reach = min(begin + STREAM_CHUNK, speech.shape[1]), layer.speech.reach
    left = max(0, begin - reach)
    read = speech[:, left : end + reach]
    valid = torch.ones(read.shape[:2], dtype=torch.bool, device=speech.device)
    keys, values, bias = layer.speech.windows(read, valid)
    return [(keys[:, t : t + 1], values[:, t : t + 1], bias[:, t : t + 1]) for t in range(begin - left, end - left)]
