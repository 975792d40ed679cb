"""The layers of attention.py frame by frame, for B clips side by side: with the past kept, and little work around the work.

A single frame is so small that calling a layer costs more than computing it. So a stream reads its layer's weights once, when it
is made: projections that read the same become one, and the scale and shift of a norm, the scale of the scores and a LoRA are
folded into the projection behind or around them. Streams compute no gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.models.attention import MASKED, AlignedAttention, DecoderLayer, EncoderLayer, FeedForward, SelfAttention

Affine = tuple[Tensor, Tensor]  # bias (outputs,) and weight (inputs, outputs), as torch.addmm takes them around x


@torch.no_grad()
def affine(function: Callable[[Tensor], Tensor], inputs: int, like: Tensor) -> Affine:
    """Bias and weight of a function that is linear but for a constant, such as a linear layer with a LoRA.

    function: (n, inputs) to (n, outputs).
    like: a tensor of the right type and device.
    """
    with torch.autocast(like.device.type, enabled=False):  # a weight is a difference, which half the digits would spoil
        bias = function(like.new_zeros(1, inputs))
        return bias[0], function(torch.eye(inputs, dtype=like.dtype, device=like.device)) - bias


def behind(norm: nn.LayerNorm, function: Callable[[Tensor], Tensor]) -> Affine:
    """The function together with the scale and shift of the norm before it: applies to what normalised gives."""
    return affine(lambda x: function(x * norm.weight + norm.bias), len(norm.weight), norm.weight)


def normalised(x: Tensor) -> Tensor:
    """x (B, width) with mean 0 and deviation 1 in each row: an nn.LayerNorm without its scale and shift."""
    return F.layer_norm(x, x.shape[-1:])


class SelfAttentionStream:
    """Causal SelfAttention behind its norm, from each frame to itself and the last frames before it.

    Keys and values stand in a ring: a new frame takes the place of the oldest, so memory stays, and nothing is moved.
    """

    def __init__(self, norm: nn.LayerNorm, attention: SelfAttention, bias: Tensor, clips: int) -> None:
        """bias: (heads, window), of the frame o = 0 .. window - 1 steps back."""
        (heads, self.window), width = bias.shape, len(norm.weight)
        self.split = (clips, 3, heads, width // heads)
        scale = (width / heads) ** -0.5
        self.project = behind(
            norm, lambda x: torch.cat([attention.query(x) * scale, attention.key(x), attention.value(x)], dim=-1)
        )
        self.out = affine(attention.out, width, bias)
        self.ring = bias.new_zeros(2, clips, heads, self.window, width // heads)
        self.keys, self.values = self.ring[0].flatten(0, 1).transpose(1, 2), self.ring[1].flatten(0, 1)
        row, place = torch.arange(2 * self.window, device=bias.device)[:, None], torch.arange(self.window, device=bias.device)
        # A row for every place that a frame may be written to; those before it are for a ring that is not full yet.
        in_ring = bias[:, (row - place) % self.window].masked_fill(place > row, MASKED)  # (heads, 2 window, window)
        self.biases = in_ring.transpose(0, 1).repeat(1, clips, 1)[:, :, None]
        self.reset()

    def step(self, x: Tensor) -> Tensor:
        """What attention adds to the next frame, (B, width), for x (B, width)."""
        projected = torch.addmm(self.project[0], normalised(x), self.project[1]).view(self.split)
        place = self.frames % self.window
        self.ring.select(3, place).copy_(projected[:, 1:].transpose(0, 1))
        query = projected[:, 0].reshape(len(self.values), 1, -1)
        bias = self.biases[self.frames if self.frames < self.window else self.window + place]
        self.frames += 1
        # Not scaled_dot_product_attention: for a single query its overhead is three times the work.
        weights = torch.baddbmm(bias, query, self.keys).softmax(-1)
        return torch.addmm(self.out[0], torch.bmm(weights, self.values).view_as(x), self.out[1])

    def reset(self) -> None:
        """Forget every frame."""
        self.frames = 0


class AlignedAttentionStream:
    """AlignedAttention behind its norm, from each frame to its own window of the speech that was heard."""

    heard: Tensor  # keys and values (2, B * heads, n, D) of the speech that is kept

    def __init__(self, norm: nn.LayerNorm, attention: AlignedAttention, clips: int) -> None:
        self.back, self.ahead, self.heads, self.clips = attention.back, attention.ahead, attention.heads, clips
        width = len(norm.weight)
        scale = (width / self.heads) ** -0.5
        self.query = behind(norm, lambda x: attention.query(x) * scale)
        self.out = affine(attention.out, width, norm.weight)
        self.listen = affine(
            lambda x: torch.cat([attention.key(x), attention.value(x)], dim=-1), attention.key.in_features, norm.weight
        )
        offset = attention.offset.detach()
        self.offset = self._by_head(torch.cat([offset, torch.zeros_like(offset)], dim=-1)[None])[0]
        self.reset()

    def hear(self, speech: Tensor) -> None:
        """Keep n more frames of speech, (B or 1, n, feature_dim), and drop those that no frame will read any more."""
        read = max(self.frame - self.back, 0) - self.first
        heard = self._by_head(speech @ self.listen[1] + self.listen[0])
        self.heard = torch.cat([self.heard[:, :, read:], heard], dim=2)
        self.first += read

    def step(self, x: Tensor) -> Tensor:
        """What attention adds to the next frame, (B, width), for x (B, width); what was not heard is not read."""
        begin = self.frame - self.back
        outside = max(-begin, 0)
        keys, values = self.heard[:, :, begin + outside - self.first : self.frame + self.ahead + 1 - self.first].unbind()
        keys = keys + self.offset[:, outside : outside + keys.shape[1]]
        self.frame += 1
        query = torch.addmm(self.query[0], normalised(x), self.query[1]).view(len(keys), 1, -1)
        weights = torch.bmm(query, keys.transpose(1, 2)).softmax(-1)
        return torch.addmm(self.out[0], torch.bmm(weights, values).view_as(x), self.out[1])

    def reset(self) -> None:
        """Forget the speech."""
        self.frame = self.first = 0  # the next that reads, and the oldest that is kept
        self.heard = self.offset.new_empty(2, len(self.offset), 0, self.offset.shape[2])

    def _by_head(self, x: Tensor) -> Tensor:
        """Keys and values side by side, (B or 1, n, 2 * width), as (2, B * heads, n, D)."""
        split = x.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return split.expand(-1, self.clips, -1, -1, -1).flatten(1, 2)


class FeedForwardStream:
    """FeedForward behind its norm, without its dropout."""

    def __init__(self, norm: nn.LayerNorm, feed_forward: FeedForward) -> None:
        first, _, _, last = feed_forward
        self.widen = behind(norm, first)
        self.narrow = affine(last, len(self.widen[0]), norm.weight)

    def step(self, x: Tensor) -> Tensor:
        """What the layer adds to a frame, (B, width), for x (B, width)."""
        wide = torch.addmm(self.widen[0], normalised(x), self.widen[1])
        return torch.addmm(self.narrow[0], F.gelu(wide), self.narrow[1])


class EncoderLayerStream:
    """A causal EncoderLayer."""

    def __init__(self, layer: EncoderLayer, clips: int) -> None:
        self.past = SelfAttentionStream(layer.attention_norm, layer.attention, layer.bias.by_offset().detach(), clips)
        self.feed_forward = FeedForwardStream(layer.forward_norm, layer.feed_forward)

    def step(self, x: Tensor) -> Tensor:
        """The next frame, (B, width), from x (B, width)."""
        x = x + self.past.step(x)
        return x + self.feed_forward.step(x)

    def reset(self) -> None:
        """Forget every frame."""
        self.past.reset()


class DecoderLayerStream:
    """A DecoderLayer; hear the speech of a frame before its step."""

    def __init__(self, layer: DecoderLayer, clips: int) -> None:
        self.past = SelfAttentionStream(layer.past_norm, layer.past, layer.bias.by_offset().detach(), clips)
        self.speech = AlignedAttentionStream(layer.speech_norm, layer.speech, clips)
        self.feed_forward = FeedForwardStream(layer.forward_norm, layer.feed_forward)

    def step(self, x: Tensor) -> Tensor:
        """The next frame, (B, width), from x (B, width)."""
        x = x + self.past.step(x)
        x = x + self.speech.step(x)
        return x + self.feed_forward.step(x)

    def reset(self) -> None:
        """Forget every frame and the speech."""
        self.past.reset()
        self.speech.reset()
