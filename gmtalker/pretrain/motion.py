"""Pretraining of the motion generator: `pretrain motion`."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable, Sequence

import numpy as np
import torch
from scipy.ndimage import grey_opening
from torch import Tensor

from gmtalker.clock import FPS
from gmtalker.models.motion_generator import BLINK, MotionBatch, MotionGenerator
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.samples import (
    BATCH,
    VIEWS,
    PretrainOptions,
    Sampler,
    TrackedSpeech,
    encode_speech_views,
    finish,
    random_times,
    read_corpus,
    read_speech_encoder,
)
from gmtalker.progress import OnProgress, nobody_listens
from gmtalker.tracks import count_blinks
from gmtalker.training.loop import TrainOptions, fit

FRAMES = 96  # of a training crop
CALIBRATED_OVER = 40  # clips for which motion is generated, to compare how widely heads move and how often eyes blink
LONGEST_BLINK = 13  # frames; lids that stay down for longer rest there
FAINTEST_BLINK, FIRM_BLINK = 0.25, 0.6  # a lid that falls by less trembles, by more shuts


# People blink 17 times a minute at rest and 26 in conversation (Bentivoglio et al. 1997). Those filmed here, newsreaders and
# actors, blink from 0 to 60 times; the generic eyes blink as people do.
BLINKS_A_MINUTE = 20.0


def pretrain_motion(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = nobody_listens,
) -> Path:
    """Trains the motion generator on the head motion, blinks and gaze of the tracked clips."""
    minutes, seed = options.minutes or 25.0, options.seed
    output = Path(output)
    speech_encoder = read_speech_encoder(output)
    tracked = encode_speech_views(read_corpus(rows, output), speech_encoder, output / "corpus", seed)
    torch.manual_seed(seed)
    model = MotionGenerator(features=speech_encoder.features)
    motions = [torch.from_numpy(_smoothed(item.clip.motion)).float() for item in tracked]
    model.fit_scale(motions)
    scales = _person_scales(tracked, motions, model.scale)
    normalised = {id(item): _normalised(motion, scales[item.person]) for item, motion in zip(tracked, motions)}
    sampler = Sampler(tracked)

    def batch(number: int) -> MotionBatch:
        draw = np.random.default_rng([seed, number])
        return _motion_batch([sampler.draw(draw) for _ in range(BATCH)], normalised, draw, model.config.features)

    def evaluate(network: MotionGenerator) -> dict[str, float]:
        return _moves_like(network, tracked, normalised)

    loop_options = TrainOptions("motion", minutes=minutes, learning_rate=7e-4, seed=seed, device=options.device)
    state = fit(model, batch, output / "checkpoints" / "motion", loop_options, on_progress, evaluate)
    heard = [item for item in tracked if item.features is not None]
    heard = heard[:: max(1, len(heard) // CALIBRATED_OVER)]
    speeches = [item.features[0].float().to(model.no_speech.device) for item in heard]
    model.eval().fit_gain(speeches, [normalised[id(item)] for item in heard])
    model.fit_blinks(speeches, BLINKS_A_MINUTE)
    return finish(model, "motion", output, rows, state, minutes, evaluate(model))


def _smoothed(motion: np.ndarray) -> np.ndarray:
    """motion (T,10) with the tracker's tremble taken out of pose and gaze; eyelids move too fast to be smoothed."""
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    padded = np.pad(motion, ((2, 2), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)
    smooth[:, BLINK] = blinks_of(motion[:, BLINK])[:, None]
    return smooth.astype(np.float32)


def blinks_of(lids: np.ndarray) -> np.ndarray:
    """(frames,) the blinks alone in lids (frames, 2): quick and whole, without what droops, squints and trembles."""
    mean = lids.mean(1)
    resting = grey_opening(mean, size=LONGEST_BLINK, mode="nearest")
    fall = (mean - resting) / np.maximum(1 - resting, 0.2)
    share = np.clip((fall - FAINTEST_BLINK) / (FIRM_BLINK - FAINTEST_BLINK), 0, 1)
    return share * share * (3 - 2 * share)


def _person_scales(tracked: Sequence[TrackedSpeech], motions: Sequence[Tensor], typical: Tensor) -> dict[str, Tensor]:
    """Each person's own spread, at least half the typical one: below that it is mostly the tracker's tremble."""
    scales = {}
    for person in {item.person for item in tracked}:
        own = torch.cat([motion - motion.mean(0) for item, motion in zip(tracked, motions) if item.person == person])
        scales[person] = torch.maximum(own.std(0), 0.5 * typical)
        scales[person][BLINK] = 1
    return scales


def _normalised(motion: Tensor, scale: Tensor) -> Tensor:
    """Around the clip's own mean: where somebody happened to sit that day is not motion."""
    mean = motion.mean(0)
    mean[BLINK] = 0
    return ((motion - mean) / scale).clamp(-6, 6)


def _motion_batch(
    items: Sequence[TrackedSpeech], normalised: dict[int, Tensor], draw: np.random.Generator, features: int
) -> MotionBatch:
    rows: dict[str, list] = {name: [] for name in ("motion", "speech", "speech_mask", "mask")}
    for item in items:
        times = random_times(len(item), FRAMES, 1.0, draw).round().astype(int)
        known, times = times < len(item), np.minimum(times, len(item) - 1)
        motion = normalised[id(item)][times]
        rows["motion"].append(_mirrored(motion) if draw.random() < 0.5 else motion)
        heard = item.features is not None
        way = draw.integers(VIEWS)
        rows["speech"].append(item.features[way][times].float() if heard else torch.zeros(FRAMES, features))
        rows["speech_mask"].append(torch.tensor(heard))
        rows["mask"].append(torch.from_numpy(known))
    return MotionBatch(**{name: torch.stack(values) for name, values in rows.items()})


def _mirrored(motion: Tensor) -> Tensor:
    """The same motion seen in a mirror: yaw, roll, x and gaze's yaw change sign, the eyes change places."""
    sign = torch.tensor([-1.0, 1, -1, -1, 1, 1, 1, 1, -1, 1])
    return (motion * sign)[:, [0, 1, 2, 3, 4, 5, 7, 6, 8, 9]]


def _moves_like(model: MotionGenerator, tracked: Sequence[TrackedSpeech], normalised: dict[int, Tensor]) -> dict[str, float]:
    """Spread, speed and blinks a minute of generated motion, each beside the data's."""
    heard = [item for item in tracked if item.features is not None][:: max(1, len(tracked) // 12)][:12]
    if not heard:
        return {}
    real = [normalised[id(item)] for item in heard]
    device = model.no_speech.device
    made = [model.generate(item.features[0].float().to(device), seed=seed).cpu() for seed, item in enumerate(heard)]
    measures = {}
    for name, motions in (("real", real), ("made", made)):
        measures[f"{name}_spread"] = _mean(motion[:, :6].std(0).mean() for motion in motions)
        measures[f"{name}_speed"] = _mean(motion.diff(dim=0)[:, :6].abs().mean() for motion in motions)
        shut = sum(count_blinks(motion[:, BLINK].mean(1).numpy()) for motion in motions)
        measures[f"{name}_blinks"] = round(60 * FPS * shut / sum(map(len, motions)), 1)
    return measures


def _mean(values: Iterable[Tensor]) -> float:
    return round(float(torch.stack(list(values)).mean()), 3)
