"""Speech encoders that others trained: Whisper, HuBERT, WavLM and wav2vec 2.0, frozen, with the interface of our own encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, HubertModel, PreTrainedModel, Wav2Vec2Model, WavLMModel, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging

from gmtalker.clock import FPS, SAMPLES_PER_FRAME, frames_for
from gmtalker.models.articulation import ARTICULATION_DIM, ArticulationHead
from gmtalker.models.config import NetworkConfig

WINDOW_FRAMES = 30 * FPS  # encoded at a time: Whisper knows no more positions, and attention is quadratic in time
CONTEXT_FRAMES = 2 * FPS  # read on either side of what is kept of a window, at most a quarter of it
STATES_PER_FRAME = 2  # all of these networks have a state every 20 ms
STRIDE = SAMPLES_PER_FRAME // STATES_PER_FRAME
RECEPTIVE_FIELD = 400  # samples that a state of the networks on the waveform reads
MEL_HOP, MEL_WINDOW, MEL_FLOOR, MEL_RANGE = 160, 400, 1e-10, 8.0  # Whisper's log-mel; its range in powers of ten
MEL_PER_FRAME = SAMPLES_PER_FRAME // MEL_HOP
MEL_BLOCK = 6000  # mel frames made at a time: an hour's spectrum would fill the memory
PROBES, PROBE_SMOOTHING = 8, 5  # sounds by which positions are learned, and states over which what they say is averaged
BURST_SAMPLES = (1280, 4000)  # of noise in them: syllables of 80 to 250 ms
NETWORKS = {"whisper": WhisperEncoder, "hubert": HubertModel, "wavlm": WavLMModel, "wav2vec2": Wav2Vec2Model}


class PositionMeans(ModelMixin, NetworkConfig):
    """What the states of a Whisper say of their place in the window, whatever is heard there.

    num_layers: with what the first one reads.
    num_positions: places, 20 ms apart.
    """

    @register_to_config
    def __init__(self, num_layers: int, num_positions: int, width: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_layers, num_positions, width))


class PretrainedSpeechEncoder(nn.Module):
    """A frozen encoder at 25 frames per second, and a small trained head that adds the articulation.

    encoder: one of NETWORKS. A frame is the mean of the two states of the last layer that make it; of Whisper, both side by side.
    head: of its feature_dim; None for the features alone, which no stage takes.
    positions: taken off the states of a Whisper, as learn_positions finds them; None leaves them as they are.
    Errors: ValueError when the states do not come every 20 ms, or head or positions were made for another encoder.
    Source: Whisper, arXiv 2212.04356; HuBERT, 2106.07447; WavLM, 2110.13900; wav2vec 2.0, 2006.11477; docs/method.md section 5.
    """

    def __init__(
        self, encoder: PreTrainedModel, head: ArticulationHead | None = None, positions: PositionMeans | None = None
    ) -> None:
        super().__init__()
        encoder = encoder.eval().requires_grad_(False)
        self.listener = _Whisper(encoder, positions) if isinstance(encoder, WhisperEncoder) else _OnWaveform(encoder)
        if head is not None and head.feature_dim != self.listener.feature_dim:
            raise ValueError(f"its articulation head reads {head.feature_dim} features, not {self.listener.feature_dim}")
        self.head = head

    @classmethod
    def from_hub(cls, name: str, local_files_only: bool = False) -> PretrainedSpeechEncoder:
        """Load an encoder, without a head.

        name: on the Hub, or a folder; of a Whisper, only the encoder is read, and only it need be there.
        Errors: OSError when it is not there, ValueError when it is none of NETWORKS or a weight is missing.
        """
        kind = AutoConfig.from_pretrained(name, local_files_only=local_files_only).model_type
        if kind not in NETWORKS:
            raise ValueError(f"it is a {kind}, none of {', '.join(NETWORKS)}")
        # Whole models call the encoder's weights model.encoder or encoder, an encoder alone has no such prefix.
        renamed = {r"^(model\.)?encoder\.": ""} if kind == "whisper" else None
        with _without_chatter():
            encoder, report = NETWORKS[kind].from_pretrained(
                name, use_safetensors=True, local_files_only=local_files_only, key_mapping=renamed, output_loading_info=True,
                dtype=torch.float32,
            )  # fmt: skip
        lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
        if lacking:  # transformers would go on with random ones
            raise ValueError(f"it lacks {lacking[0]} and {len(lacking) - 1} more weights")
        return cls(encoder)

    @property
    def encoder(self) -> PreTrainedModel:
        """The network of transformers."""
        return self.listener.network

    @property
    def positions(self) -> PositionMeans | None:
        """What is taken off the states at every place of a window."""
        return self.listener.positions

    @property
    def feature_dim(self) -> int:
        """Features per video frame, the articulation among them where there is a head."""
        return self.listener.feature_dim + (ARTICULATION_DIM if self.head is not None else 0)

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """Speech features of a waveform, piece by piece, so that attention takes no more memory however long it is.

        waveform: (samples,) at 16 kHz.
        Returns: (frames, feature_dim), one row per video frame; the last three columns are the head's probabilities.
        """
        features = self.listener.merge(self._hear(waveform, slice(-1, None))[0])
        if self.head is None:
            return features
        return torch.cat([features, self.head(features[None])[0].sigmoid()], dim=1)

    @torch.no_grad()
    def layer_states(self, waveform: Tensor) -> Tensor:
        """What every layer says of a waveform, for a network that is to learn from it.

        waveform: (samples,) at 16 kHz.
        Returns: (layers + 1, 2 * frames, width), 50 rows a second: what the first layer reads, then what each layer gives, the
            last one after the network's last norm.
        """
        return self._hear(waveform, slice(None))

    @torch.no_grad()
    def learn_positions(self) -> None:
        """Find out what the states of a Whisper say of their place in the window, and take it off from now on.

        Of Whisper tiny.en's last layer that is nearly half of the variance, and the same speech would sound different a second
        later. Heard by noise in bursts as of syllables, always the same; nothing happens where positions are relative.
        """
        if not isinstance(self.listener, _Whisper):
            return
        self.listener.positions = None
        generator = torch.Generator().manual_seed(0)
        samples = self.listener.frames_max * SAMPLES_PER_FRAME
        probes = (_bursts(samples, generator).to(self.listener.filters.device) for _ in range(PROBES))
        means = sum(self.layer_states(probe) for probe in probes) / PROBES
        margin = PROBE_SMOOTHING // 2
        means = F.pad(means.transpose(1, 2), (margin, margin), mode="replicate")
        means = F.avg_pool1d(means, PROBE_SMOOTHING, stride=1).transpose(1, 2)
        self.listener.positions = PositionMeans(*means.shape).to(means.device)
        self.listener.positions.means.copy_(means - means.mean(1, keepdim=True))

    def _hear(self, waveform: Tensor, layers: slice) -> Tensor:
        """(chosen layers, 2 * frames, width) states of a waveform (samples,), window by window."""
        frames = frames_for(len(waveform))
        sound = self.listener.prepare(waveform, frames)
        pieces = []
        for read, kept in _windows(frames, min(WINDOW_FRAMES, self.listener.frames_max)):
            states = torch.stack(self.listener(sound, read)[layers])
            pieces.append(states[:, STATES_PER_FRAME * kept.start : STATES_PER_FRAME * kept.stop])
        return torch.cat(pieces, dim=1)


class _Whisper(nn.Module):
    """Whisper's encoder on sounds shorter than the 30 seconds that it was trained on, which transformers would refuse."""

    def __init__(self, network: WhisperEncoder, positions: PositionMeans | None) -> None:
        super().__init__()
        config = network.config
        expected = (config.encoder_layers + 1, config.max_source_positions, config.d_model)
        if positions is not None and positions.means.shape != expected:
            raise ValueError("what it learned of positions is another encoder's")
        self.network, self.positions = network, positions
        filters = WhisperFeatureExtractor(feature_size=config.num_mel_bins).mel_filters
        self.register_buffer("filters", torch.from_numpy(filters.T.copy()).float(), persistent=False)  # (mels, 201)
        self.feature_dim = STATES_PER_FRAME * config.d_model
        self.frames_max = config.max_source_positions // STATES_PER_FRAME

    def prepare(self, waveform: Tensor, frames: int) -> Tensor:
        """Log-mel (mels, 4 * frames), limited to MEL_RANGE below the loudest of the whole sound and scaled as Whisper's."""
        sound = F.pad(waveform.float(), (0, frames * SAMPLES_PER_FRAME - len(waveform)))
        sound = F.pad(sound[None], (MEL_WINDOW // 2, MEL_WINDOW // 2), mode="reflect")[0]
        window = torch.hann_window(MEL_WINDOW, device=sound.device)
        blocks = []
        for begin in range(0, MEL_PER_FRAME * frames, MEL_BLOCK):
            end = min(begin + MEL_BLOCK, MEL_PER_FRAME * frames)
            piece = sound[begin * MEL_HOP : (end - 1) * MEL_HOP + MEL_WINDOW]
            spectrum = torch.stft(piece, MEL_WINDOW, MEL_HOP, window=window, center=False, return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()
            blocks.append((self.filters @ power).clamp(min=MEL_FLOOR).log10())
        mel = torch.cat(blocks, dim=1)
        return (mel.clamp(min=mel.max() - MEL_RANGE) + 4) / 4

    def forward(self, mel: Tensor, frames: slice) -> list[Tensor]:
        """States (2 * frames, width) of some frames, before and after every layer; the first frame has the first position."""
        network = self.network
        x = F.gelu(network.conv1(mel[None, :, MEL_PER_FRAME * frames.start : MEL_PER_FRAME * frames.stop]))
        x = F.gelu(network.conv2(x)).transpose(1, 2)
        x = x + network.embed_positions.weight[: x.shape[1]]
        states = [x[0]]
        for layer in network.layers:
            x = layer(x, None)
            states.append(x[0])
        states[-1] = network.layer_norm(x)[0]
        if self.positions is None:
            return states
        return [state - mean[: len(state)] for state, mean in zip(states, self.positions.means)]

    def merge(self, states: Tensor) -> Tensor:
        """(frames, 2 * width): the two states of a frame side by side, which say more of the lips than their mean."""
        return states.reshape(-1, self.feature_dim)


class _OnWaveform(nn.Module):
    """HuBERT, WavLM or wav2vec 2.0: convolutions on the waveform below the layers."""

    frames_max, positions = WINDOW_FRAMES, None  # their positions are relative: any number would do

    def __init__(self, network: HubertModel | WavLMModel | Wav2Vec2Model) -> None:
        super().__init__()
        if math.prod(network.config.conv_stride) != STRIDE or getattr(network.config, "add_adapter", False):
            raise ValueError("its states do not come every 20 ms")
        self.network = network
        self.feature_dim = network.config.hidden_size

    def prepare(self, waveform: Tensor, frames: int) -> Tensor:
        """The waveform with mean 0 and deviation 1, in whole frames, and silence at both ends for the first and last state."""
        # Those trained without this, such as WavLM base, have a norm over time above it, for which it changes nothing.
        waveform = (waveform - waveform.mean()) / (waveform.std(correction=0) + 1e-7)
        # Half of what a state reads beyond its stride on either side: two states a frame, each in its middle.
        beyond = (RECEPTIVE_FIELD - STRIDE) // 2
        return F.pad(waveform, (beyond, frames * SAMPLES_PER_FRAME - len(waveform) + beyond))

    def forward(self, waveform: Tensor, frames: slice) -> list[Tensor]:
        """States (2 * frames, width) of some frames, before and after every layer."""
        end = frames.stop * SAMPLES_PER_FRAME + RECEPTIVE_FIELD - STRIDE
        heard = self.network(waveform[None, frames.start * SAMPLES_PER_FRAME : end], output_hidden_states=True)
        # Some have a norm after the last layer, which only the last hidden state went through.
        return [state[0] for state in (*heard.hidden_states[:-1], heard.last_hidden_state)]

    def merge(self, states: Tensor) -> Tensor:
        """(frames, width): the mean of the two states of a frame."""
        return states.unflatten(0, (-1, STATES_PER_FRAME)).mean(1)


def _windows(frames: int, longest: int) -> Iterator[tuple[slice, slice]]:
    """Windows over so many frames: the frames that one reads, and which of these are kept; what is kept joins without a gap."""
    context, end = min(CONTEXT_FRAMES, longest // 4), 0
    while end < frames:
        first = max(0, min(end - context, frames - longest))  # the last window is as long as the others
        last = min(frames, first + longest)
        begin, end = end, frames if last == frames else last - context
        yield slice(first, last), slice(begin - first, end - first)


def _bursts(samples: int, generator: torch.Generator) -> Tensor:
    """(samples,) white noise in bursts of random length and loudness."""
    sound, begin = torch.empty(samples), 0
    while begin < samples:
        length = int(torch.randint(*BURST_SAMPLES, (), generator=generator))
        burst = torch.randn(length, generator=generator) * torch.hann_window(length)
        burst *= 0.3 * torch.rand((), generator=generator) / burst.abs().max()
        sound[begin : begin + length] = burst[: samples - begin]
        begin += length
    return sound


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Inside, transformers shows no bars and no table of the decoder's weights that were left out; errors are raised as ever."""
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
