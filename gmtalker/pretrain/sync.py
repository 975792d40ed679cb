"""Pretraining of the lip-sync network, which tells how well lips and speech belong together: `pretrain sync`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmtalker.errors import UnusableInput
from gmtalker.models.lip_sync import LipSync, SyncBatch, read_correlation
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.samples import (
    BATCH_CLIPS,
    VIEWS,
    PretrainOptions,
    Sampler,
    encode_speech_views,
    hold_out_people,
    random_times,
    read_corpus,
    read_speech_encoder,
    save_stage,
)
from gmtalker.progress import OnProgress, ignore_progress
from gmtalker.training.checkpoints import TrainState
from gmtalker.training.loop import TrainOptions, fit

STEPS = 1200  # three minutes of one core
HALF_SHARE = 0.25  # of the training, for each of the two networks that correct lags
WINDOW_FRAMES = 64  # of a training sample
PIECE_FRAMES = 125  # of a clip, that agreement is calibrated on
PIECE_FRAMES_MIN = 40  # shorter ones are left out
PEOPLE_MIN = 4  # two in each half: speech of somebody else is a negative
WARM_UP = 100  # steps
SPEECH_NOISE, LIP_NOISE = 0.3, 0.1  # deviations that are added to what the towers read
LIP_GAIN = 0.15  # deviation of the logarithm by which lips move more or less
# A clip's sound is moved to its picture where the lag is as sure as this: agreement in multiples of chance.
CONFIDENCE_MIN = 2.0


@dataclass(frozen=True)
class SyncClip:
    """A clip with speech that belongs to the picture.

    person: whom it shows.
    features: (VIEWS, frames, d) views of its speech.
    silent: (VIEWS, frames) bool, where nothing is said.
    lips: (frames, lip points * 3) displacement from the neutral face, in face heights.
    """

    person: str
    features: Tensor
    silent: np.ndarray
    lips: Tensor

    def __post_init__(self) -> None:
        assert self.features.shape[:2] == self.silent.shape and len(self.lips) == len(self)

    def __len__(self) -> int:
        return self.features.shape[1]


@dataclass(frozen=True)
class Agreements:
    """What a network says of pieces of clips of people it does not know.

    own, lags: (pieces,) agreement with their own speech, and its lag in frames.
    other, frames: (pieces,) agreement with the speech of somebody else, and over how many frames.
    """

    own: np.ndarray
    lags: np.ndarray
    other: np.ndarray
    frames: np.ndarray

    def __post_init__(self) -> None:
        assert self.own.shape == self.lags.shape == self.other.shape == self.frames.shape

    @property
    def chance(self) -> float:
        """Mean agreement with the speech of somebody else, times the root of the frames."""
        return float((self.other * np.sqrt(self.frames)).mean())

    def figures(self) -> dict[str, float]:
        """For progress and the card; empty without pieces."""
        if not len(self.own):
            return {}
        return {
            "agreement": round(float(self.own.mean()), 3),
            "agreement_with_other_speech": round(float(self.other.mean()), 3),
            "own_above_other": round(float((self.own[:, None] > self.other).mean()), 4),
            "lag_within_a_frame": round(float((np.abs(self.lags) <= 1).mean()), 3),
        }


def pretrain_sync(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Train the lip-sync network on the clips whose sound belongs to the picture.

    Two networks, each trained on half of the people, first measure the lags in the clips of the other half, which are corrected.

    output: folder of stages.
    Returns: the folder of the weights.
    Errors: UnusableInput when an earlier stage is missing, or fewer than four people speak in the clips.
    Source: docs/method.md section 4, "Sync".
    """
    options = options if options.steps or options.minutes else replace(options, steps=STEPS)
    output = Path(output)
    encoder = read_speech_encoder(output)
    clips = [clip for clip in read_corpus(rows, output, on_progress) if clip.has_usable_speech]
    tracked = encode_speech_views(clips, encoder, output / "corpus", options.seed, on_progress=on_progress)
    items = [SyncClip(x.person, x.features, x.silent, torch.from_numpy(x.clip.lips)) for x in tracked if x.features is not None]
    items = [item for item in items if len(item) >= PIECE_FRAMES_MIN]
    if len({item.person for item in items}) < PEOPLE_MIN:
        raise UnusableInput(f"The lip-sync network learns from clips of {PEOPLE_MIN} or more people who speak.")
    items, agreements = _corrected(items, output, options, on_progress)
    train, unseen = hold_out_people(items, lambda item: item.person)
    model = _network(train, options)

    def evaluate(network: LipSync) -> dict[str, float]:
        return measure_agreements(network, unseen).figures()

    rest = _part_of(options, 1 - 2 * HALF_SHARE)
    state = _fit(model, train, output / "checkpoints" / "sync", rest, on_progress, evaluate)
    model.chance.fill_(measure_agreements(model, train).chance)  # unlike agreement, about the same as of people it does not know
    halves = {f"other_half_{name}": value for name, value in agreements.figures().items()}
    return save_stage(model, "sync", output, rows, state, options, halves | evaluate(model))


def _corrected(
    items: Sequence[SyncClip], output: Path, options: PretrainOptions, on_progress: OnProgress
) -> tuple[list[SyncClip], Agreements]:
    """The clips with their sound moved to the picture, and their agreements before that, by networks that know neither."""
    people = sorted({item.person for item in items}, key=lambda name: zlib.crc32(name.encode()))
    halves = [[item for item in items if people.index(item.person) % 2 == half] for half in range(2)]
    corrected, measured = [], []
    for number, (half, others) in enumerate(zip(halves, halves[::-1])):
        model = _network(half, options)
        half_options = _part_of(options, HALF_SHARE)
        _fit(model, half, output / "checkpoints" / f"sync_half_{number}", half_options, on_progress)
        measured.append(measure_agreements(model, others))
        model.chance.fill_(measured[-1].chance)
        corrected += [move_sound(item, clip_lag(model, item)) for item in others]
    fields = ("own", "lags", "other", "frames")
    return corrected, Agreements(*(np.concatenate([getattr(part, name) for part in measured]) for name in fields))


def _part_of(options: PretrainOptions, share: float) -> PretrainOptions:
    """The options for a share of the training."""
    if options.steps:
        return replace(options, steps=max(1, round(share * options.steps)))
    return replace(options, minutes=None if options.minutes is None else share * options.minutes)


def clip_lag(model: LipSync, item: SyncClip) -> int:
    """By how many frames the sound of a clip is late; 0 where that is not sure."""
    agreement, lag = _read(model, item.features[0], item.lips)
    return round(lag) if agreement * len(item) ** 0.5 >= CONFIDENCE_MIN * float(model.chance) else 0


def move_sound(item: SyncClip, lag: int) -> SyncClip:
    """A clip whose speech, `lag` frames late, is read that much later; the first or last frame fills the gap."""
    times = np.clip(np.arange(len(item)) + lag, 0, len(item) - 1)
    return replace(item, features=item.features[:, times], silent=item.silent[:, times])


def measure_agreements(model: LipSync, items: Sequence[SyncClip]) -> Agreements:
    """Agreements of all clips, in pieces; each piece is held against a piece of somebody else's speech too."""
    pieces = []
    for item in items:
        for first in range(0, len(item) - PIECE_FRAMES_MIN + 1, PIECE_FRAMES):
            span = slice(first, first + PIECE_FRAMES)
            pieces.append((item.person, item.features[0][span], item.lips[span]))
    rng = np.random.default_rng(0)
    rows = []
    for person, features, lips in pieces:
        strangers = [speech for other, speech, _ in pieces if other != person]
        if not strangers:
            continue
        speech = strangers[rng.integers(len(strangers))]
        frames = min(len(speech), len(lips))
        rows.append((*_read(model, features, lips), _read(model, speech[:frames], lips[:frames])[0], frames))
    return Agreements(*np.array(rows, float).reshape(-1, 4).T)


@torch.no_grad()
def _read(model: LipSync, features: Tensor, lips: Tensor) -> tuple[float, float]:
    """Agreement and lag of speech features (frames, d) and lips (frames, points * 3)."""
    device = model.components.device
    known = torch.ones(len(lips), dtype=torch.bool, device=device)
    return read_correlation(model.correlate(features.to(device).float(), lips.to(device), known))


def _network(items: Sequence[SyncClip], options: PretrainOptions) -> LipSync:
    """An untrained network with the scales of these clips."""
    torch.manual_seed(options.seed)
    model = LipSync(feature_dim=items[0].features.shape[-1], lip_dim=items[0].lips.shape[1])
    model.fit_inputs([item.features[0] for item in items], [item.lips for item in items])
    return model


def _fit(
    model: LipSync,
    items: Sequence[SyncClip],
    folder: Path,
    options: PretrainOptions,
    on_progress: OnProgress,
    evaluate: Callable[[LipSync], dict[str, float]] | None = None,
) -> TrainState:
    """Train a network on clips; it is left on the CPU, ready for use."""
    shapes = {id(item): model.lip_shape(item.lips) for item in items}
    speech_scale, sampler = model.speech_scale.clone(), Sampler(items)

    def batch(step: int) -> SyncBatch:
        rng = np.random.default_rng([options.seed, step])
        return _batch([sampler.draw(rng) for _ in range(BATCH_CLIPS)], shapes, speech_scale, rng)

    minutes = None if options.steps else options.minutes
    train_options = TrainOptions("sync", minutes, options.steps, warm_up=WARM_UP, seed=options.seed, device=options.device)
    state = fit(model, batch, folder, train_options, on_progress, evaluate)
    model.to("cpu").eval()
    return state


def _batch(items: Sequence[SyncClip], shapes: Mapping[int, Tensor], speech_scale: Tensor, rng: np.random.Generator) -> SyncBatch:
    """A window of each clip, at a random place, with a random view of its speech; what was muted there does not count."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ("speech", "lips", "mask")}
    for item in items:
        times = random_times(len(item), WINDOW_FRAMES, 1.0, rng).round().astype(int)
        inside, times = times < len(item), np.minimum(times, len(item) - 1)
        view = rng.integers(VIEWS)
        speech, lips = item.features[view][times].float(), shapes[id(item)][times]
        gain = float(np.exp(LIP_GAIN * rng.normal()))
        muted = item.silent[view][times] & ~item.silent[0][times]
        rows["speech"].append(speech + SPEECH_NOISE * speech_scale * torch.randn_like(speech))
        rows["lips"].append(gain * lips + LIP_NOISE * torch.randn_like(lips))
        rows["mask"].append(torch.from_numpy(inside & ~muted))
    return SyncBatch(**{name: torch.stack(values) for name, values in rows.items()})
