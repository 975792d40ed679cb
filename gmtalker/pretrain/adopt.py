"""A pretrained speech encoder in the place of ours: `pretrain speech --speech-encoder NAME` (docs/method.md section 5)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from gmtalker.clock import frames_for
from gmtalker.device import choose_device
from gmtalker.errors import UnusableInput, first_line
from gmtalker.models.articulation import ARTICULATION_NAMES, ArticulationBatch, ArticulationHead
from gmtalker.models.weights import HEAD_FOLDER, load_strict, save_speech_encoder
from gmtalker.pretrain.card import StageSection, write_section
from gmtalker.pretrain.datasets import Row, source_of
from gmtalker.pretrain.samples import BATCH_CLIPS, FOLDERS, PretrainOptions, Sampler, hold_out
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.training.checkpoints import TrainState
from gmtalker.training.loop import TrainOptions, fit

if TYPE_CHECKING:
    from gmtalker.models.pretrained_encoder import PretrainedSpeechEncoder

HEAD_MINUTES = 5.0
WINDOW_FRAMES = 75  # of a training sample


@dataclass(frozen=True, eq=False)
class LabelledRecording:
    """Speech with what is known of the mouth.

    waveform: (samples,) at 16 kHz.
    closed: (frames,) 1 where the lips are closed for m, b or p, 0 where not, NaN where unknown; likewise
    rounded: where they are rounded, and
    speaking: where somebody speaks.
    person: who speaks; empty when not known.
    """

    waveform: Tensor
    closed: Tensor
    rounded: Tensor
    speaking: Tensor
    person: str = ""

    def __post_init__(self) -> None:
        assert self.waveform.dim() == 1
        assert self.closed.shape == self.rounded.shape == self.speaking.shape == (frames_for(len(self.waveform)),)

    def targets(self) -> Tensor:
        """(frames, 3) in the order of ARTICULATION_NAMES."""
        return torch.stack([self.closed, self.rounded, self.speaking], dim=1).float()


@dataclass(frozen=True, eq=False)
class LabelledStates:
    """A recording as the head reads it.

    features: (frames, d) of the encoder, float16.
    targets: (frames, 3).
    """

    features: Tensor
    targets: Tensor
    person: str

    def __len__(self) -> int:
        return len(self.features)


def adopt_encoder(
    name: str,
    rows: Sequence[Row],
    recordings: Callable[[], Sequence[LabelledRecording]] | None,
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Make a Whisper, HuBERT, WavLM or wav2vec 2.0 the speech encoder of a folder of stages: frozen, with a head trained here.

    name: of a model on the Hub, or its folder.
    rows: the clips that the recordings come from, for the card.
    recordings: gives them, called when the encoder is there, each loaded when it is asked for if the sequence likes; None keeps
        the head that the folder has.
    output: folder of stages.
    Returns: the folder of the weights.
    Errors: UnusableInput when the encoder can't be fetched or is none of these, and when there is nothing to train the head on.
    """
    from gmtalker.models.pretrained_encoder import PretrainedSpeechEncoder  # late: transformers takes seconds to import

    output, bare = Path(output), fetch_encoder(name, "a speech encoder")
    bare.to(choose_device(options.device)).learn_positions()
    if recordings is None:
        head, state, figures = _own_head(name), TrainState(), {}
    else:
        head, state, figures = _train_head(bare, _checkpoints(output, name), recordings(), options, on_progress)
    encoder = PretrainedSpeechEncoder(bare.encoder, head, bare.positions).to("cpu")
    folder = output / FOLDERS["speech"]
    shutil.rmtree(folder, ignore_errors=True)
    save_speech_encoder(encoder, folder)
    length = f"--minutes {options.minutes or HEAD_MINUTES:g}" if options.steps is None else f"--steps {options.steps}"
    trained = "" if recordings is None else f"{source_of(rows)} {length} "
    command = f"python -m gmtalker pretrain speech {trained}--speech-encoder {name} --output DIR"
    parameters = sum(weight.numel() for weight in encoder.parameters())
    write_section(output, StageSection(FOLDERS["speech"], command, state, rows, figures, parameters))
    return folder


def fetch_encoder(name: str, purpose: str) -> PretrainedSpeechEncoder:
    """Load a pretrained encoder, bare.

    name: on the Hub, or a folder.
    purpose: "a teacher", for the error.
    Errors: UnusableInput when it can't be fetched, or is none that is known.
    """
    from gmtalker.models.pretrained_encoder import PretrainedSpeechEncoder  # late, as above

    try:
        return PretrainedSpeechEncoder.from_hub(name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnusableInput(f"{name} can't be used as {purpose}: {first_line(error)}.") from error


def _own_head(name: str) -> ArticulationHead:
    """The trained head in an encoder's folder. Errors: UnusableInput when it has none."""
    if not (Path(name) / HEAD_FOLDER).is_dir():
        raise UnusableInput(f"{name} has no trained articulation head yet; say where labelled speech is, with --data DIR.")
    return load_strict(ArticulationHead, Path(name) / HEAD_FOLDER)


def _checkpoints(output: Path, name: str) -> Path:
    """Where the head of an encoder keeps its checkpoint: a head of another one must not be resumed."""
    return output / "checkpoints" / f"articulation_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}"


def _train_head(
    encoder: PretrainedSpeechEncoder,
    checkpoints: Path,
    recordings: Sequence[LabelledRecording],
    options: PretrainOptions,
    on_progress: OnProgress,
) -> tuple[ArticulationHead, TrainState, dict[str, float | None]]:
    """Train a head on what a frozen encoder says of recordings.

    Returns: the head, how long it took, and its figures for the card.
    Errors: UnusableInput without a recording.
    """
    items = _encode(encoder, recordings, options, on_progress)
    if not items:
        raise UnusableInput("There is no labelled speech to train the articulation head on.")
    train, validation = hold_out(items, lambda item: True, lambda item: item.person)
    torch.manual_seed(options.seed)
    head = ArticulationHead(encoder.feature_dim)
    sampler = Sampler(train)

    def batch(step: int) -> ArticulationBatch:
        rng = np.random.default_rng([options.seed, step])
        return _batch([sampler.draw(rng) for _ in range(BATCH_CLIPS)], rng)

    minutes = None if options.steps else options.minutes or HEAD_MINUTES
    train_options = TrainOptions(
        "articulation", minutes, options.steps, learning_rate=2e-3, warm_up=50, seed=options.seed, device=options.device
    )
    state = fit(head, batch, checkpoints, train_options, on_progress, lambda network: _figures(network, validation))
    figures = {f"balanced accuracy of {name}, held-out recordings": rate for name, rate in _figures(head, validation).items()}
    return head, state, figures


def _encode(
    encoder: PretrainedSpeechEncoder, recordings: Sequence[LabelledRecording], options: PretrainOptions, on_progress: OnProgress
) -> list[LabelledStates]:
    """What a head reads of the recordings."""
    device = choose_device(options.device)
    items = []
    for number in range(len(recordings)):  # one at a time: a sequence that loads lazily need not hold them all
        on_progress(Progress("encoding speech", number, len(recordings)))
        recording = recordings[number]
        features = encoder.encode(recording.waveform.to(device)).half().cpu()
        items.append(LabelledStates(features, recording.targets(), recording.person))
    return items


def _batch(items: Sequence[LabelledStates], rng: np.random.Generator) -> ArticulationBatch:
    """A stretch of each recording, at a random place; behind the end of a short one nothing is known."""
    features = torch.zeros(len(items), WINDOW_FRAMES, items[0].features.shape[1])
    targets = torch.full((len(items), WINDOW_FRAMES, len(ARTICULATION_NAMES)), torch.nan)
    for row, item in enumerate(items):
        begin = int(rng.integers(max(0, len(item) - WINDOW_FRAMES) + 1))
        frames = min(len(item), WINDOW_FRAMES)
        features[row, :frames] = item.features[begin : begin + frames].float()
        targets[row, :frames] = item.targets[begin : begin + frames]
    return ArticulationBatch(features, targets)


@torch.no_grad()
def _figures(head: ArticulationHead, items: Sequence[LabelledStates]) -> dict[str, float | None]:
    """Mean share of frames told right, of those with and of those without each articulation; None where one is missing."""
    if not items:
        return dict.fromkeys(ARTICULATION_NAMES)
    device = head.out.weight.device
    said = torch.cat([head(item.features[None].float().to(device))[0].cpu() > 0 for item in items])
    known = torch.cat([item.targets for item in items])
    rates = {}
    for column, name in enumerate(ARTICULATION_NAMES):
        with_it, without = said[known[:, column] > 0.5, column], said[known[:, column] <= 0.5, column]
        both = len(with_it) and len(without)
        rates[name] = round((with_it.float().mean() + 1 - without.float().mean()).item() / 2, 3) if both else None
    return rates
