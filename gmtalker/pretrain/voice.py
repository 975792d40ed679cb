"""Pretraining of what hears emotions in a voice: `pretrain voice` (docs/method.md section 16)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.media.audio import read_sound_or_none
from gmtalker.models.mel import MELS, log_mel
from gmtalker.models.voice_emotion import VoiceBatch, VoiceEmotion, voice_input
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.samples import PretrainOptions, Sampler, samplers_of, save_stage
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.training.loop import TrainOptions, fit

MINUTES = 8.0
BATCH, WINDOW = 32, 240  # pieces of a step, and their mel frames
SHORTEST = 50  # mel frames
VALIDATED_ONE_IN = 6  # people
TILT, TILT_BANDS = 0.25, 4  # how far microphones and rooms bend the spectrum, and at how many places
NOISE_SHARE, NOISE_FLOOR = 0.4, (-1.2, 0.3)  # pieces with a noise floor, and its range on the scale of voice_input
MASKED_BANDS, MASKED_FRAMES = 10, 30


@dataclass(frozen=True)
class SpokenEmotion:
    """A recording: whose, its mel (T, 80) as the network takes it, and the number of its emotion."""

    person: str
    mel: Tensor
    emotion: int

    def __len__(self) -> int:
        return len(self.mel)


def pretrain_voice(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Train the network that hears emotions, on every labelled recording of speech.

    output: folder of stages.
    Returns: the folder of the weights.
    Errors: UnusableInput when fewer than two emotions are spoken.
    """
    options, output = options.with_minutes(MINUTES), Path(output)
    items = read_spoken_emotions(rows, on_progress)
    if len({item.emotion for item in items}) < 2:
        raise UnusableInput("The recordings are labelled with fewer than two emotions.")
    train, unseen = _hold_out(items)
    torch.manual_seed(options.seed)
    model = VoiceEmotion()
    train_options = TrainOptions("voice", options.minutes, learning_rate=2e-3, seed=options.seed, device=options.device)
    checkpoint = output / "checkpoints" / "voice"

    def evaluate(network: VoiceEmotion) -> dict[str, float]:
        return {"unweighted_accuracy": unweighted_accuracy(network, unseen)} if unseen else {}

    state = fit(model, _Batches(train, options.seed), checkpoint, train_options, on_progress, evaluate)
    return save_stage(model, "voice", output, rows, state, options, evaluate(model))


def read_spoken_emotions(rows: Sequence[Row], on_progress: OnProgress = ignore_progress) -> list[SpokenEmotion]:
    """The labelled recordings among rows, of clips the sound; those that can't be heard, or are too short, are left out."""
    rows, items = [row for row in rows if row.emotion in EMOTIONS and row.speech], []
    for number, row in enumerate(rows):
        on_progress(Progress("reading recordings", number, len(rows)))
        sound = read_sound_or_none(row.heard_in)
        mel = None if sound is None else voice_input(log_mel(torch.from_numpy(sound)))
        if mel is not None and len(mel) >= SHORTEST:
            items.append(SpokenEmotion(row.person, mel, EMOTIONS.index(row.emotion)))
    return items


def _hold_out(items: Sequence[SpokenEmotion]) -> tuple[list[SpokenEmotion], list[SpokenEmotion]]:
    """Items to train on, and those of some people for validation, whom training never hears."""
    people = sorted({item.person for item in items})
    unseen = {person for person in people if zlib.crc32(person.encode()) % VALIDATED_ONE_IN == 0}
    return [item for item in items if item.person not in unseen], [item for item in items if item.person in unseen]


class _Batches:
    """The batch of every training step: emotions alike, people by the root of what they say."""

    def __init__(self, items: Sequence[SpokenEmotion], seed: int) -> None:
        groups = {name: [item for item in items if item.emotion == index] for index, name in enumerate(EMOTIONS)}
        self.samplers: dict[str, Sampler] = samplers_of(groups)
        self.seed = seed

    def __call__(self, step: int) -> VoiceBatch:
        rng = np.random.default_rng([self.seed, step])
        groups = list(self.samplers)
        items = [self.samplers[groups[rng.integers(len(groups))]].draw(rng) for _ in range(BATCH)]
        mel = torch.stack([_augmented(_window(item.mel, rng), rng) for item in items])
        return VoiceBatch(mel, torch.tensor([item.emotion for item in items]))


def _window(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """(WINDOW, 80) at a random place; a shorter recording is followed by silence."""
    begin = int(rng.integers(0, max(1, len(mel) - WINDOW + 1)))
    piece = mel[begin : begin + WINDOW]
    return torch.cat([piece, piece.new_full((WINDOW - len(piece), MELS), -2.0)])


def _augmented(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """As through another microphone, in another room, with parts that can't be heard."""
    bent = np.interp(np.arange(MELS), np.linspace(0, MELS - 1, TILT_BANDS), rng.normal(0, TILT, TILT_BANDS))
    mel = mel + torch.from_numpy(bent).float()
    if rng.random() < NOISE_SHARE:
        mel = torch.logaddexp(4 * mel, torch.full_like(mel, 4 * rng.uniform(*NOISE_FLOOR) - 4)) / 4
    mel = mel.clone()
    band, frame = rng.integers(0, MELS - MASKED_BANDS), rng.integers(0, WINDOW - MASKED_FRAMES)
    mel[:, band : band + rng.integers(0, MASKED_BANDS)] = mel.mean()
    mel[frame : frame + rng.integers(0, MASKED_FRAMES)] = mel.mean()
    return mel


@torch.no_grad()
def unweighted_accuracy(network: VoiceEmotion, items: Sequence[SpokenEmotion]) -> float:
    """Mean over emotions of the share of recordings that are named right."""
    right: dict[int, list[bool]] = {}
    device = next(network.parameters()).device
    for item in items:
        named = int(network.pooled(item.mel[None].to(device)).argmax())
        right.setdefault(item.emotion, []).append(named == item.emotion)
    return round(float(np.mean([np.mean(values) for values in right.values()])), 3)
