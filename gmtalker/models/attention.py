"""Attention over time, shared by the expression and the motion generator.

Every projection is a plain nn.Linear called query, key, value or out, so that a LoRA finds it by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SpeechWindows = tuple[Tensor, Tensor, Tensor]  # keys, values and bias of the speech that each frame may read
MASKED = -1e9  # finite: a row of padding alone stays a number instead of becoming NaN


@dataclass(frozen=True)
class DecoderSpan:
    """What a frame may read in a decoder layer, in frames.

    window: of the past, the frame itself included.
    period: of the bias on that past.
    back, ahead: speech frames before and after its own.
    """

    window: int
    period: int
    back: int
    ahead: int


class SelfAttention(nn.Module):
    """Multi-head self-attention with an additive bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attend over the whole sequence.

        x: (B, T, width).
        bias: added to the scores, broadcastable to (B, heads, T, T).
        Returns: (B, T, width).
        """
        query, key, value = (split_heads(project(x), self.heads) for project in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))


class AlignedAttention(nn.Module):
    """Cross-attention with an alignment mask: frame t reads speech frames t - back to t + ahead and no others.

    The window is cut out instead of masked, so the cost grows with T and not with its square.
    Source: FaceFormer, arXiv 2112.05329.
    """

    def __init__(self, width: int, heads: int, feature_dim: int, back: int, ahead: int) -> None:
        super().__init__()
        self.heads, self.back, self.ahead = heads, back, ahead
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(feature_dim, width)
        self.value = nn.Linear(feature_dim, width)
        self.out = nn.Linear(width, width)
        self.offset = nn.Parameter(torch.randn(back + ahead + 1, width) * 0.5)  # tells early speech frames from late ones

    def windows(self, speech: Tensor, valid: Tensor) -> SpeechWindows:
        """Cut out the speech that each frame reads, R = back + ahead + 1 frames.

        speech: (B, T, feature_dim).
        valid: (B, T), False on padding.
        Returns: keys and values (B, T, heads, R, D), bias (B, T, 1, R).
        """
        ends, size = (self.back, self.ahead), self.back + self.ahead + 1
        key, value = (F.pad(project(speech), (0, 0, *ends)).unfold(1, size, 1) for project in (self.key, self.value))
        key, value = (x.unflatten(2, (self.heads, -1)).transpose(3, 4) for x in (key, value))
        offset = self.offset.unflatten(1, (self.heads, -1)).transpose(0, 1)  # (heads, R, D)
        outside = ~F.pad(valid, ends).unfold(1, size, 1)
        return key + offset, value, outside[:, :, None] * MASKED

    def forward(self, x: Tensor, speech: SpeechWindows) -> Tensor:
        """Attend from every frame to its own window of speech.

        x: (B, T, width).
        speech: the windows of the same T frames.
        Returns: (B, T, width).
        """
        key, value, bias = speech
        clips, frames, width = x.shape
        query = self.query(x).view(clips, frames, self.heads, 1, -1)
        scores = (query * key).sum(-1) * (width / self.heads) ** -0.5 + bias  # (B, T, heads, R)
        mixed = (scores.softmax(-1)[..., None] * value).sum(3)
        return self.out(mixed.view(clips, frames, width))


class PeriodicBias(nn.Module):
    """Causal mask with a periodic bias over a window of the past.

    The score of the frame o steps back gets table[o mod period] - decay * floor(o / period). Frames before the window and
    future frames are masked. decay starts at FaceFormer's slopes and table at 0; both are learned.
    Source: FaceFormer, arXiv 2112.05329; docs/method.md section 1, below equation (4).
    """

    def __init__(self, heads: int, window: int, period: int) -> None:
        super().__init__()
        self.window, self.period = window, period
        self.table = nn.Parameter(torch.zeros(heads, period))
        self.decay = nn.Parameter(2.0 ** -torch.linspace(0, 8, heads + 1)[1:])

    def by_offset(self) -> Tensor:
        """(heads, window): bias of the frame o = 0 .. window - 1 steps back."""
        offset = torch.arange(self.window, device=self.table.device)
        return self.table[:, offset % self.period] - self.decay[:, None] * (offset // self.period)

    def forward(self, frames: int) -> Tensor:
        """(heads, frames, frames): a row for each frame that reads."""
        clock = torch.arange(frames, device=self.table.device)
        offset = clock[:, None] - clock[None]
        masked = (offset < 0) | (offset >= self.window)
        return self.by_offset()[:, offset.clamp(0, self.window - 1)].masked_fill(masked, MASKED)


class BandBias(nn.Module):
    """Mask that lets each frame read from back frames before to ahead frames after it, with a learned bias for every offset."""

    def __init__(self, heads: int, back: int, ahead: int) -> None:
        super().__init__()
        self.back, self.ahead = back, ahead
        self.table = nn.Parameter(torch.zeros(heads, back + ahead + 1))

    def by_offset(self) -> Tensor:
        """(heads, back + 1): bias of the frame o = 0 .. back steps back, where none is read ahead."""
        assert not self.ahead
        return self.table.flip(1)

    def forward(self, valid: Tensor) -> Tensor:
        """(B, heads, T, T) for valid (B, T), which is False on padding."""
        clock = torch.arange(valid.shape[1], device=valid.device)
        offset = clock[None] - clock[:, None]
        inside = offset.clamp(-self.back, self.ahead)
        bias = self.table[:, inside + self.back].masked_fill(offset != inside, MASKED)
        return bias + (~valid)[:, None, None] * MASKED


class FeedForward(nn.Sequential):
    """width -> 4 width -> width."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width))


class EncoderLayer(nn.Module):
    """Banded self-attention and a feed-forward network, pre-norm and residual; causal where ahead is 0."""

    def __init__(self, width: int, heads: int, back: int, ahead: int, dropout: float) -> None:
        super().__init__()
        self.bias = BandBias(heads, back, ahead)
        self.attention_norm, self.attention = nn.LayerNorm(width), SelfAttention(width, heads)
        self.forward_norm, self.feed_forward = nn.LayerNorm(width), FeedForward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, width) from x (B, T, width) and valid (B, T)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), self.bias(valid)))
        return x + self.dropout(self.feed_forward(self.forward_norm(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention over the past, aligned cross-attention to the speech, feed-forward network."""

    def __init__(self, width: int, heads: int, feature_dim: int, span: DecoderSpan, dropout: float) -> None:
        super().__init__()
        self.bias = PeriodicBias(heads, span.window, span.period)
        self.past_norm, self.past = nn.LayerNorm(width), SelfAttention(width, heads)
        self.speech_norm, self.speech = nn.LayerNorm(width), AlignedAttention(width, heads, feature_dim, span.back, span.ahead)
        self.forward_norm, self.feed_forward = nn.LayerNorm(width), FeedForward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, speech: Tensor, valid: Tensor) -> Tensor:
        """All frames at once.

        x: (B, T, width).
        speech: (B, T, feature_dim).
        valid: (B, T), False on padding.
        Returns: (B, T, width).
        """
        x = x + self.dropout(self.past(self.past_norm(x), self.bias(x.shape[1])))
        x = x + self.dropout(self.speech(self.speech_norm(x), self.speech.windows(speech, valid)))
        return x + self.dropout(self.feed_forward(self.forward_norm(x)))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, width) -> (B, heads, T, width / heads)."""
    clips, frames, width = x.shape
    return x.view(clips, frames, heads, width // heads).transpose(1, 2)
