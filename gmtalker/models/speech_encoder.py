"""From log-mel frames to speech features: the project's own small speech encoder (docs/method.md section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.clock import frames_for
from gmtalker.models.config import NetworkConfig
from gmtalker.models.mel import MEL_PER_FRAME, MELS, speech_to_mel

IGNORED = -1  # a target that is not known
ENCODE_FRAMES, CONTEXT_FRAMES = 1500, 16  # encoded at a time, and read around them: more than the convolutions reach
FORMANT_STRETCH = 0.12  # how far augmentation stretches a voice over frequency, either way
LABEL_SMOOTHING = 0.05
LOSS_WEIGHTS = {"phones": 0.5, "words": 0.5, "transcript": 0.2, "lips": 1.0, "lip_velocity": 1.0, "agreement": 0.3}


@dataclass(frozen=True)
class SpeechBatch:
    """Clips of one length, with whichever targets are known; None where no clip has that target.

    mel: (B, 4T, 80), natural log.
    mask: (B, T), False on padding.
    phones, words: (B, T) class numbers, IGNORED where unknown.
    transcript: (B, S) the phones said, in order and without times, padded with IGNORED; a row of IGNORED is unknown.
    lips: (B, T, lip_dim), each column with mean 0 and deviation 1 over its clip.
    lips_mask: (B, T), True where the lips are known.
    """

    mel: Tensor
    mask: Tensor
    phones: Tensor | None = None
    words: Tensor | None = None
    transcript: Tensor | None = None
    lips: Tensor | None = None
    lips_mask: Tensor | None = None

    def __post_init__(self) -> None:
        clips, frames = self.mask.shape
        assert self.mel.shape[:2] == (clips, 4 * frames)
        assert (self.lips is None) == (self.lips_mask is None)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, channels, T): no statistic reaches over time, so the receptive field stays the same."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T), normalised in every frame."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ResidualBlock(nn.Module):
    """Norm, dilated convolution to twice the width, GELU, back to the width."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.layers = nn.Sequential(
            nn.Conv1d(width, 2 * width, 3, padding=dilation, dilation=dilation),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv1d(2 * width, width, 1),
        )

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, width, T) from x (B, width, T) and valid (B, 1, T): padding reads as the zeros behind a clip's end."""
        return x + self.layers(self.norm(x) * valid)


class SpeechEncoder(ModelMixin, NetworkConfig):
    """Convolutions over log-mel: 100 frames per second in, 25 feature vectors per second out, each reading 0.43 s to either side.

    num_mels: mel bins.
    feature_dim: features per video frame.
    fine_dilations, coarse_dilations: of one residual block each, at 50 and at 25 frames per second.
    num_phones, num_words, lip_dim: sizes of the training branches (0: none), which forward does not use; phone 0 is silence.
    Source: docs/method.md section 5.
    """

    FORMER_NAMES = {
        "mels": "num_mels",
        "features": "feature_dim",
        "phones": "num_phones",
        "words": "num_words",
        "lips": "lip_dim",
    }

    @register_to_config
    def __init__(
        self,
        num_mels: int = 80,
        width: int = 192,
        feature_dim: int = 128,
        fine_dilations: tuple[int, ...] = (1, 2, 1, 2),
        coarse_dilations: tuple[int, ...] = (1, 2, 2, 2),
        num_phones: int = 0,
        num_words: int = 0,
        lip_dim: int = 0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.to_fine = nn.Conv1d(num_mels, width, 4, stride=2, padding=1)
        self.fine = nn.ModuleList(ResidualBlock(width, dilation, dropout) for dilation in fine_dilations)
        self.to_coarse = nn.Conv1d(width, width, 4, stride=2, padding=1)
        self.coarse = nn.ModuleList(ResidualBlock(width, dilation, dropout) for dilation in coarse_dilations)
        self.channel_norm = ChannelNorm(width)
        self.project = nn.Linear(width, feature_dim)
        self.norm = nn.LayerNorm(feature_dim)
        self.phone_head = nn.Linear(feature_dim, num_phones) if num_phones else None
        # Separate from the phone head: CTC wants short spikes between blanks, the frame targets whole phones.
        self.transcript_head = nn.Linear(feature_dim, num_phones) if num_phones else None
        self.word_head = nn.Linear(feature_dim, num_words) if num_words else None
        self.lip_head = nn.Linear(feature_dim, lip_dim) if lip_dim else None

    def forward(self, mel: Tensor, mask: Tensor | None = None) -> Tensor:
        """Speech features of clips. The mel is normalised here, per clip, over time and bins: recordings differ in level.

        mel: (B, 4T, num_mels), natural log.
        mask: (B, T), False on padding; None where there is none.
        Returns: (B, T, feature_dim).
        Errors: ValueError when the number of mel frames is not a multiple of 4.
        """
        if mel.shape[1] % 4:
            raise ValueError(f"the mel must have a multiple of 4 frames, not {mel.shape[1]}")
        if mask is None:
            mask = torch.ones(len(mel), mel.shape[1] // 4, dtype=torch.bool, device=mel.device)
        return self.norm(self.project(self.convolve(normalise(mel, mask), mask)))

    @property
    def feature_dim(self) -> int:
        """Features per video frame."""
        return self.norm.normalized_shape[0]

    @torch.no_grad()  # not inference_mode: training reads these features too
    def encode(self, waveform: Tensor) -> Tensor:
        """Speech features of a waveform: the interface of every speech encoder here.

        The same as forward, a minute at a time with what its convolutions read around it, so that memory hardly grows.

        waveform: (samples,) at 16 kHz.
        Returns: (frames, feature_dim), one row per video frame.
        """
        frames = frames_for(len(waveform))
        mean, deviation = _level(waveform)
        pieces = []
        for begin in range(0, frames, ENCODE_FRAMES):
            left, right = max(0, begin - CONTEXT_FRAMES), min(frames, begin + ENCODE_FRAMES + CONTEXT_FRAMES)
            mel = (speech_to_mel(waveform, left, right) - mean) / (deviation + 1e-3)
            encoded = self.convolve(mel[None], torch.ones(1, right - left, dtype=torch.bool, device=mel.device))
            pieces.append(self.norm(self.project(encoded[0, begin - left : begin - left + ENCODE_FRAMES])))
        return torch.cat(pieces)

    def convolve(self, mel: Tensor, mask: Tensor) -> Tensor:
        """The layers before the projection: (B, T, width), each frame from its neighbourhood alone.

        mel: (B, 4T, num_mels), normalised.
        mask: (B, T), False on padding.
        """
        valid = mask[:, None].to(mel)
        x = self.to_fine(mel.transpose(1, 2))
        for block in self.fine:
            x = block(x, valid.repeat_interleave(2, 2))
        x = self.to_coarse(x * valid.repeat_interleave(2, 2))
        for block in self.coarse:
            x = block(x, valid)
        return self.channel_norm(x).transpose(1, 2)

    def loss(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """L_speech: every target of the batch that is known, predicted from the features.

        In training mode the mel is augmented, and the features of two augmentations of a clip are to agree.

        Returns: "total", and its parts before weighting, by the names of LOSS_WEIGHTS.
        Source: docs/method.md section 5, equation (26).
        """
        mel = augment(batch.mel) if self.training else batch.mel
        features = self(mel, batch.mask)
        parts = {}
        if self.training:  # the same speech from another voice and room should sound the same
            again = self(augment(batch.mel), batch.mask)
            apart = (features - again).square().mean(-1)
            parts["agreement"] = (apart * batch.mask).sum() / batch.mask.sum().clamp(min=1)
        if batch.phones is not None:
            parts["phones"] = _classify(self.phone_head(features), batch.phones)
        if batch.words is not None:
            parts["words"] = _classify(self.word_head(features), batch.words)
        if batch.transcript is not None:
            parts["transcript"] = _transcribe(self.transcript_head(features), batch.transcript, batch.mask)
        if batch.lips is not None:
            parts |= _lip_losses(self.lip_head(features) - batch.lips, batch.lips_mask)
        parts["total"] = sum(LOSS_WEIGHTS[name] * value for name, value in parts.items())
        return parts


def _level(waveform: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the log-mel of a whole waveform, as normalise finds them, in constant memory."""
    frames = frames_for(len(waveform))
    total = square = 0.0
    for begin in range(0, frames, ENCODE_FRAMES):
        mel = speech_to_mel(waveform, begin, min(frames, begin + ENCODE_FRAMES)).double()
        total, square = total + mel.sum(), square + mel.square().sum()
    mean = total / (frames * MEL_PER_FRAME * MELS)
    # Clamped: of a wholly even spectrum, silence, rounding may leave a little less than nothing.
    deviation = (square / (frames * MEL_PER_FRAME * MELS) - mean.square()).clamp(min=0).sqrt()
    return mean.float(), deviation.float()


def normalise(mel: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over each clip's frames and bins.

    mel: (B, 4T, num_mels).
    mask: (B, T), False on padding, which becomes 0.
    """
    weight = mask.repeat_interleave(4, 1)[..., None].to(mel)
    count = (weight.sum((1, 2), keepdim=True) * mel.shape[2]).clamp(min=1)
    mean = (mel * weight).sum((1, 2), keepdim=True) / count
    deviation = (((mel - mean) * weight).square().sum((1, 2), keepdim=True) / count).sqrt()
    return (mel - mean) * weight / (deviation + 1e-3)


def augment(mel: Tensor) -> Tensor:
    """Give each clip another voice, room and microphone.

    Shifts, stretches and tilts it over frequency, adds noise, and masks a span of time and two bands of frequencies.

    mel: (B, mel frames, num_mels), natural log.
    """
    clips, frames, mels = mel.shape
    device = mel.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(clips, 1, 1, device=device)

    bins = torch.arange(mels, device=device)[None, None]
    source = (bins * uniform(1 - FORMANT_STRETCH, 1 + FORMANT_STRETCH) + uniform(-3, 3)).clamp(0, mels - 1)
    left = source.floor().long().clamp(max=mels - 2)
    share = source - left
    mel = mel.gather(2, left.expand_as(mel)) * (1 - share) + mel.gather(2, (left + 1).expand_as(mel)) * share
    place = bins / mels
    mel = mel + uniform(-1.5, 1.5) * (place - 0.5) + uniform(-0.7, 0.7) * torch.cos(torch.pi * (2 * place + uniform(0, 2)))
    loud = mel.amax((1, 2), keepdim=True)
    noise = loud - uniform(3, 14) + uniform(-2, 2) * (place - 0.5) + 0.5 * torch.randn_like(mel)
    mel = torch.where(uniform(0, 1) < 0.6, torch.logaddexp(mel, noise), mel)
    quiet = mel.mean((1, 2), keepdim=True)
    for axis, size, longest in ((1, frames, 16), (2, mels, 12), (2, mels, 8)):
        length, clock = uniform(0, longest), torch.arange(size, device=device).reshape((1, -1, 1) if axis == 1 else (1, 1, -1))
        start = uniform(0, 1) * (size - length)
        mel = torch.where((clock >= start) & (clock < start + length), quiet, mel)
    return mel


def _classify(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the known frames; 0 when there is none."""
    known = (target != IGNORED).sum().clamp(min=1)
    scores, target = scores.flatten(0, 1).float(), target.flatten()
    return F.cross_entropy(scores, target, ignore_index=IGNORED, reduction="sum", label_smoothing=LABEL_SMOOTHING) / known


def _transcribe(scores: Tensor, transcript: Tensor, mask: Tensor) -> Tensor:
    """CTC per phone over the clips with a transcript; silence, class 0, is the blank."""
    lengths = (transcript != IGNORED).sum(1)
    frames = mask.sum(1)
    known = (lengths > 0) & (frames >= lengths)
    if not known.any():
        return scores.sum() * 0
    costs = F.ctc_loss(
        scores[known].float().log_softmax(-1).transpose(0, 1),
        transcript[known].clamp(min=0),
        frames[known],
        lengths[known],
        reduction="none",
        zero_infinity=True,
    )
    return (costs / lengths[known]).mean()


def _lip_losses(error: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Mean squares of error (B, T, lip_dim) and of its velocity, where mask (B, T)."""
    pairs = mask[:, 1:] & mask[:, :-1]
    steps = error.diff(dim=1).square().mean(-1)
    return {
        "lips": (error.square().mean(-1) * mask).sum() / mask.sum().clamp(min=1),
        "lip_velocity": (steps * pairs).sum() / pairs.sum().clamp(min=1),
    }
