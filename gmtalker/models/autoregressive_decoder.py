"""The autoregressive decoder of the expression and the motion generator (docs/method.md sections 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gmtalker.models.attention import DecoderLayer, DecoderSpan
from gmtalker.models.attention_stream import DecoderLayerStream, behind, normalised

STREAM_CHUNK = 128  # frames of a whole speech that are pushed at a time: memory stays flat, the call overhead small


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
        self.ahead = span.ahead
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

    def open(self, clips: int) -> DecoderStream:
        """Begin to generate clips of which speech and conditions come in pieces."""
        return DecoderStream(self, clips)

    def stream(self, condition: Tensor, speech: Tensor) -> Iterator[Tensor]:
        """Generate frame by frame, feeding each frame back.

        condition: (B, T, width).
        speech: (B, T, feature_dim).
        Yields: (B, output_dim), T times; memory does not grow with T.
        """
        stream = self.open(len(condition))
        for piece in zip(condition.split(STREAM_CHUNK, dim=1), speech.split(STREAM_CHUNK, dim=1)):
            yield from stream.push(*piece).unbind(1)
        yield from stream.finish().unbind(1)


class DecoderStream:
    """One generation of B clips side by side, whose conditions and speech come in pieces; each frame is fed back to the next.

    However they are cut into pieces, the frames are those of the whole. Memory does not grow with the frames.
    """

    _past: Tensor  # (B, width), the last frame as the next one reads it
    _waiting: Tensor  # (B, n, width), conditions of the frames to come

    @torch.no_grad()
    def __init__(self, decoder: AutoregressiveDecoder, clips: int) -> None:
        self.decoder, self.clips = decoder, clips
        self._layers = [DecoderLayerStream(layer, clips) for layer in decoder.layers]
        self._feed_back = behind(decoder.norm, lambda x: decoder.embed(decoder.project(x)))
        self.reset()

    @torch.no_grad()
    def push(self, condition: Tensor, speech: Tensor) -> Tensor:
        """Generate every frame whose condition is known and whose speech is heard, `ahead` frames after it included.

        condition: (B, m, width) of the next frames; m may be another number than n.
        speech: (B or 1, n, feature_dim), the next frames, of each clip or of all.
        Returns: (B, frames, output_dim).
        """
        if speech.shape[1]:
            for layer in self._layers:
                layer.speech.hear(speech)
        self._heard += speech.shape[1]
        self._waiting = torch.cat([self._waiting, condition], dim=1)
        return self._generate(self._heard - self.decoder.ahead)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Generate what is left where no more speech comes, (B, frames, output_dim); then the stream is as new."""
        frames = self._generate(self._heard)
        self.reset()
        return frames

    def reset(self) -> None:
        """Forget everything: the next push is the first."""
        for layer in self._layers:
            layer.reset()
        self._heard = self._generated = 0  # frames
        self._past = self.decoder.start.detach().expand(self.clips, -1)
        self._waiting = self._past[:, None][:, :0]

    def _generate(self, end: int) -> Tensor:
        """The frames before number end, of those whose condition is known."""
        count = max(0, min(end - self._generated, self._waiting.shape[1]))
        hidden = self._waiting.new_empty(self.clips, count, self._waiting.shape[2])
        for index, condition in enumerate(self._waiting[:, :count].unbind(1)):
            x = self._past + condition
            for layer in self._layers:
                x = layer.step(x)
            hidden[:, index] = x
            self._past = torch.addmm(self._feed_back[0], normalised(x), self._feed_back[1])
        self._waiting = self._waiting[:, count:]
        self._generated += count
        return self.decoder.project(self.decoder.norm(hidden))
