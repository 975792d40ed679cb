"""From log-mel frames to speech features: the project's own small speech encoder (docs/method.md section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from gmtalker.clock import SAMPLES_PER_FRAME, frames_for
from gmtalker.models.articulation import ARTICULATION_DIM, articulation_losses
from gmtalker.models.config import NetworkConfig
from gmtalker.models.mel import MEL_HOP, MEL_PER_FRAME, MEL_WINDOW, MELS, speech_to_mel

IGNORED = -1  # a target that is not known
ENCODE_FRAMES = 750  # encoded at a time
LOOK_AHEAD_MEL = 15  # mel frames after a video frame that it reads: 150 ms, and half a window
LOOK_AHEAD_SAMPLES = (LOOK_AHEAD_MEL - 1) * MEL_HOP + MEL_WINDOW // 2  # of sound after the end of a video frame
KERNEL = 7
ARTICULATION_DILATIONS = (1, 2, 1)
# The level that loudness is measured from: the loudest bin so far, which fades by 5 dB a second. In natural log of power.
LEVEL_FADE, LEVEL_FLOOR, LEVEL_RANGE = 0.0115, -5.0, 16.0
LABEL_SMOOTHING = 0.05
UNSETTLED_FRAMES = 8  # at the start of a training window, whose past is cut off: their features are not held to the teacher's
LOSS_WEIGHTS = {"teacher": 1.0, "phones": 0.2, "articulation": 1.0, "lips": 0.3, "lip_velocity": 0.3}


@dataclass(frozen=True)
class SpeechBatch:
    """Clips of one length, with whichever targets are known; None where no clip has that target.

    mel: (B, 4T + LOOK_AHEAD_MEL, 80), natural log.
    mask: (B, T), False on padding.
    teacher: (B, T, teacher_dim), the teacher's states of each frame, each column with mean 0 and deviation 1.
    phones: (B, T) class numbers, IGNORED where unknown.
    articulation: (B, T, 3) probabilities in the order of the columns of articulation.py, NaN where unknown.
    lips: (B, T, lip_dim), each column with mean 0 and deviation 1 over its clip.
    lips_mask: (B, T), True where the lips are known.
    """

    mel: Tensor
    mask: Tensor
    teacher: Tensor | None = None
    phones: Tensor | None = None
    articulation: Tensor | None = None
    lips: Tensor | None = None
    lips_mask: Tensor | None = None

    def __post_init__(self) -> None:
        clips, frames = self.mask.shape
        assert self.mel.shape[:2] == (clips, MEL_PER_FRAME * frames + LOOK_AHEAD_MEL)
        assert self.articulation is None or self.articulation.shape == (clips, frames, ARTICULATION_DIM)
        assert (self.lips is None) == (self.lips_mask is None)


class CausalConv(nn.Conv1d):
    """A convolution whose output reads no input after its own place; the past that it still needs is handed on."""

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve a piece.

        x: (B, channels, T), T a multiple of the stride.
        past: the last reach inputs before x; None is the beginning, before which there is nothing.
        Returns: (B, out channels, T / stride), and the past of the next piece.
        """
        reach = (self.kernel_size[0] - 1) * self.dilation[0] + 1 - self.stride[0]
        x = F.pad(x, (reach, 0)) if past is None else torch.cat([past, x], dim=2)
        return super().forward(x), x[:, :, x.shape[2] - reach :]


class ResidualBlock(nn.Module):
    """Dilated depthwise convolution over the past, norm, and a feed-forward network over the channels (ConvNeXt, 2201.03545)."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.past = CausalConv(width, width, KERNEL, dilation=dilation, groups=width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, width, T) from x (B, width, T), and the past as CausalConv hands it on."""
        mixed, past = self.past(x, past)
        return x + self.layers(self.norm(mixed.transpose(1, 2))).transpose(1, 2), past


@dataclass(frozen=True)
class EncoderState:
    """What the encoder keeps between two pieces of a speech.

    level: (B,), of the loudness so far.
    pasts: of each convolution, in order; empty before the first piece.
    """

    level: Tensor
    pasts: tuple[Tensor, ...] = ()


class SpeechEncoder(ModelMixin, NetworkConfig):
    """Causal convolutions over log-mel, distilled from a large speech encoder: 25 feature vectors a second.

    A frame reads the sound up to 152.5 ms after its own end, and three seconds of the past. Its last three features are the
    probabilities of articulation.py.

    num_mels: mel bins.
    content_dim: features per video frame beside the articulation.
    articulation_width: of the branch that hears the articulation.
    fine_dilations, coarse_dilations: of one residual block each, at 50 and at 25 frames per second.
    teacher_dim, num_phones, lip_dim: sizes of the training branches (0: none), which forward does not use.
    Source: docs/method.md section 5.
    """

    @register_to_config
    def __init__(
        self,
        num_mels: int = MELS,
        width: int = 320,
        content_dim: int = 256,
        articulation_width: int = 160,
        fine_dilations: tuple[int, ...] = (1, 2, 4, 1, 2, 4),
        coarse_dilations: tuple[int, ...] = (1, 2, 1, 2),
        teacher_dim: int = 0,
        num_phones: int = 0,
        lip_dim: int = 0,
    ) -> None:
        super().__init__()
        self.to_fine = CausalConv(num_mels, width, 6, stride=2)
        self.fine = nn.ModuleList(ResidualBlock(width, dilation) for dilation in fine_dilations)
        self.to_coarse = CausalConv(width, width, 4, stride=2)
        self.coarse = nn.ModuleList(ResidualBlock(width, dilation) for dilation in coarse_dilations)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, content_dim)
        # It hears the mel itself too: closures are short and quiet, and would be the last thing that the content learns.
        self.articulation_in = nn.Linear(width + MEL_PER_FRAME * num_mels, articulation_width)
        self.articulation = nn.ModuleList(ResidualBlock(articulation_width, dilation) for dilation in ARTICULATION_DILATIONS)
        self.articulate = nn.Linear(articulation_width, ARTICULATION_DIM)
        self.content_norm = nn.LayerNorm(content_dim)
        self.teacher_head = nn.Linear(content_dim, teacher_dim) if teacher_dim else None
        self.phone_head = nn.Linear(content_dim, num_phones) if num_phones else None
        self.lip_head = nn.Linear(content_dim, lip_dim) if lip_dim else None

    @property
    def feature_dim(self) -> int:
        """Features per video frame, with the articulation."""
        return self.project.out_features + ARTICULATION_DIM

    def freeze_content(self) -> None:
        """Leave only the articulation to be trained: stages and avatars that know the other features stay valid."""
        self.requires_grad_(False)
        for part in (self.articulation_in, self.articulation, self.articulate):
            part.requires_grad_(True)

    def forward(self, mel: Tensor) -> Tensor:
        """Speech features of clips.

        mel: (B, 4T + LOOK_AHEAD_MEL, num_mels), natural log.
        Returns: (B, T, feature_dim).
        """
        content, scores, _ = self.advance(mel[:, LOOK_AHEAD_MEL:], self.begin(mel[:, :LOOK_AHEAD_MEL]))
        return torch.cat([content, scores.sigmoid()], dim=-1)

    def begin(self, mel: Tensor) -> EncoderState:
        """The state before the first frame.

        mel: (B, LOOK_AHEAD_MEL, num_mels), which precedes the mel of the first piece: it only sets the level.
        """
        floor = torch.full((len(mel),), LEVEL_FLOOR, device=mel.device)
        return EncoderState(_levels(mel, floor)[:, -1])

    def advance(self, mel: Tensor, state: EncoderState) -> tuple[Tensor, Tensor, EncoderState]:
        """Encode the next piece.

        mel: (B, 4T, num_mels), LOOK_AHEAD_MEL ahead of the frames.
        Returns: content (B, T, content_dim), logits of the articulation (B, T, 3), and the state after the piece.
        """
        level = _levels(mel, state.level)
        heard = (mel - level[..., None]).clamp(-LEVEL_RANGE, 0) / 4 + 2
        pasts = iter(state.pasts or [None] * (2 + len(self.fine) + len(self.coarse) + len(self.articulation)))
        after = []

        def through(x: Tensor, layers: Iterable[nn.Module]) -> Tensor:
            for layer in layers:
                x, past = layer(x, next(pasts))
                after.append(past)
            return x

        x = through(heard.transpose(1, 2), (self.to_fine, *self.fine, self.to_coarse, *self.coarse))
        hidden = self.norm(x.transpose(1, 2))
        frames = heard.unflatten(1, (-1, MEL_PER_FRAME)).flatten(2)
        x = self.articulation_in(torch.cat([hidden, frames], dim=-1))
        scores = self.articulate(through(x.transpose(1, 2), self.articulation).transpose(1, 2))
        return self.content_norm(self.project(hidden)), scores, EncoderState(level[:, -1], tuple(after))

    @torch.no_grad()  # not inference_mode: training reads these features too
    def encode(self, waveform: Tensor) -> Tensor:
        """Speech features of a waveform: the interface of every speech encoder here. Memory hardly grows with its length.

        waveform: (samples,) at 16 kHz.
        Returns: (frames, feature_dim), one row per video frame.
        """
        stream = self.open()
        step = ENCODE_FRAMES * SAMPLES_PER_FRAME
        pieces = [stream.push(waveform[begin : begin + step]) for begin in range(0, len(waveform), step)]
        return torch.cat([*pieces, stream.finish()])

    def open(self) -> EncoderStream:
        """A speech that comes in pieces."""
        return EncoderStream(self)

    def loss(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """L_speech: every target of the batch that is known, predicted from the features.

        Returns: "total", and its parts before weighting, by the names of LOSS_WEIGHTS.
        Source: docs/method.md section 5, equation (26); distillation after Hinton et al., arXiv 1503.02531.
        """
        content, scores, _ = self.advance(batch.mel[:, LOOK_AHEAD_MEL:], self.begin(batch.mel[:, :LOOK_AHEAD_MEL]))
        parts = {}
        if batch.teacher is not None:
            settled = batch.mask.clone()
            settled[:, :UNSETTLED_FRAMES] = False
            apart = (self.teacher_head(content) - batch.teacher).square().mean(-1)
            parts["teacher"] = (apart * settled).sum() / settled.sum().clamp(min=1)
        if batch.phones is not None:
            parts["phones"] = _classify(self.phone_head(content), batch.phones)
        if batch.articulation is not None:
            known = batch.articulation.masked_fill(~batch.mask[..., None], torch.nan)
            parts["articulation"] = sum(articulation_losses(scores, known).values()) / ARTICULATION_DIM
        if batch.lips is not None:
            parts |= _lip_losses(self.lip_head(content) - batch.lips, batch.lips_mask)
        parts["total"] = sum(LOSS_WEIGHTS[name] * value for name, value in parts.items())
        return parts


class EncoderStream:
    """A speech of which pieces come one after another; its features are those of the whole speech.

    A frame is given as soon as LOOK_AHEAD_SAMPLES after its end are there. Memory does not grow.
    """

    def __init__(self, encoder: SpeechEncoder) -> None:
        self.encoder = encoder
        self.reset()

    def reset(self) -> None:
        """Forget the speech so far: the next piece is the beginning of another."""
        self._sound, self._dropped = torch.zeros(0), 0  # samples from frame `dropped` on, which precedes the next one
        self._samples = self._frames = 0  # samples that came, and frames that were given
        self._state: EncoderState | None = None

    @torch.no_grad()
    def push(self, samples: Tensor) -> Tensor:
        """Hear the next samples.

        samples: (n,) at 16 kHz.
        Returns: (m, feature_dim), every frame that is ready, often none.
        """
        self._sound = torch.cat([self._sound.to(samples), samples])
        self._samples += len(samples)
        return self._advance(max(0, (self._samples - LOOK_AHEAD_SAMPLES) // SAMPLES_PER_FRAME))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The frames (m, feature_dim) that were waiting for what comes after the end: silence. The stream starts anew."""
        frames = frames_for(self._samples)
        missing = frames * SAMPLES_PER_FRAME + LOOK_AHEAD_SAMPLES - self._samples
        self._sound = F.pad(self._sound, (0, missing))
        features = self._advance(frames)
        self.reset()
        return features

    def _advance(self, until: int) -> Tensor:
        """Features (m, feature_dim) of the frames up to `until`, exclusive."""
        encoder, count = self.encoder, until - self._frames
        if count <= 0:
            return self._sound.new_zeros(0, encoder.feature_dim)
        first, ahead = MEL_PER_FRAME * (self._frames - self._dropped), LOOK_AHEAD_MEL
        if self._state is None:
            self._state = encoder.begin(speech_to_mel(self._sound, 0, ahead)[None])
        mel = speech_to_mel(self._sound, first + ahead, first + ahead + MEL_PER_FRAME * count)[None]
        content, scores, self._state = encoder.advance(mel, self._state)
        self._frames = until
        drop = max(0, until - 1 - self._dropped)  # a mel frame reads half a window to its left
        self._sound, self._dropped = self._sound[drop * SAMPLES_PER_FRAME :], self._dropped + drop
        return torch.cat([content[0], scores[0].sigmoid()], dim=-1)


def _levels(mel: Tensor, before: Tensor) -> Tensor:
    """(B, n) the level at each mel frame (B, n, bins): of the loudest bin so far, fading, and never below the floor.

    before: (B,), of the frame before the first.
    """
    fade = LEVEL_FADE * torch.arange(1, mel.shape[1] + 1, device=mel.device)
    peaks = torch.maximum(mel.amax(-1), mel.new_tensor(LEVEL_FLOOR)) + fade
    return (torch.maximum(peaks.cummax(1).values, before[:, None]) - fade).clamp(min=LEVEL_FLOOR)


def _classify(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the known frames; 0 when there is none."""
    known = (target != IGNORED).sum().clamp(min=1)
    scores, target = scores.flatten(0, 1).float(), target.flatten()
    return F.cross_entropy(scores, target, ignore_index=IGNORED, reduction="sum", label_smoothing=LABEL_SMOOTHING) / known


def _lip_losses(error: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Mean squares of error (B, T, lip_dim) and of its velocity, where mask (B, T)."""
    pairs = mask[:, 1:] & mask[:, :-1]
    steps = error.diff(dim=1).square().mean(-1)
    return {
        "lips": (error.square().mean(-1) * mask).sum() / mask.sum().clamp(min=1),
        "lip_velocity": (steps * pairs).sum() / pairs.sum().clamp(min=1),
    }
