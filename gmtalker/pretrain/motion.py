"""Pretraining of the motion generator: `pretrain motion` (docs/method.md section 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import grey_opening
from torch import Tensor

from gmtalker.models.motion_generator import MotionBatch, MotionGenerator
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.samples import (
    BATCH_CLIPS,
    VIEWS,
    PretrainOptions,
    Sampler,
    TrackedSpeech,
    encode_speech_views,
    random_times,
    read_corpus,
    read_speech_encoder,
    save_stage,
)
from gmtalker.pretrain.sound_augmentation import read_noises
from gmtalker.progress import OnProgress, ignore_progress
from gmtalker.tracks import BLINK, POSE
from gmtalker.training.loop import TrainOptions, fit

MINUTES = 25.0
WINDOW_FRAMES = 96  # of a training sample
CALIBRATION_CLIPS = 40  # for which motion is generated, to compare how widely heads move
COMPARED_CLIPS = 12  # that the figures look at
BLINK_FRAMES_MAX = 13  # lids that stay down for longer rest there
FAINT_BLINK, FIRM_BLINK = 0.25, 0.6  # a lid that falls by less trembles, by more shuts


def pretrain_motion(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Train the motion generator on head motion, blinks and gaze of the tracked clips.

    output: folder of stages.
    Returns: the folder of the weights.
    Errors: UnusableInput when an earlier stage is missing, or no clip can be used.
    """
    options, output = options.with_minutes(MINUTES), Path(output)
    speech_encoder = read_speech_encoder(output)
    clips = read_corpus(rows, output, on_progress)
    noises = read_noises(options.noises)
    tracked = encode_speech_views(clips, speech_encoder, output / "corpus", options.seed, noises, on_progress)
    torch.manual_seed(options.seed)
    model = MotionGenerator(feature_dim=speech_encoder.feature_dim)
    motions = [torch.from_numpy(_smoothed(item.clip.motion)).float() for item in tracked]
    model.fit_scale(motions)
    scales = _person_scales(tracked, motions, model.scale)
    normalised = {id(item): _normalised(motion, scales[item.person]) for item, motion in zip(tracked, motions)}
    sampler = Sampler(tracked)

    def batch(step: int) -> MotionBatch:
        rng = np.random.default_rng([options.seed, step])
        return _motion_batch([sampler.draw(rng) for _ in range(BATCH_CLIPS)], normalised, rng, model.config.feature_dim)

    def evaluate(network: MotionGenerator) -> dict[str, float]:
        return _compare_motion(network, tracked, normalised)

    train_options = TrainOptions("motion", options.minutes, learning_rate=7e-4, seed=options.seed, device=options.device)
    state = fit(model, batch, output / "checkpoints" / "motion", train_options, on_progress, evaluate)
    audible = [item for item in tracked if item.features is not None]
    audible = audible[:: max(1, len(audible) // CALIBRATION_CLIPS)]
    speeches = [item.features[0].float().to(model.no_speech.device) for item in audible]
    model.eval().fit_gain(speeches, [normalised[id(item)] for item in audible])
    return save_stage(model, "motion", output, rows, state, options, evaluate(model))


def _smoothed(motion: np.ndarray) -> np.ndarray:
    """Motion (frames, 10) without the jitter of pose and gaze; of the eyelids, too fast to smooth, it keeps the blinks alone."""
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    padded = np.pad(motion, ((2, 2), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)
    smooth[:, BLINK] = blinks_of(motion[:, BLINK])[:, None]
    return smooth.astype(np.float32)


def blinks_of(lids: np.ndarray) -> np.ndarray:
    """The blinks alone, quick and whole, without drooping, squinting and trembling lids.

    lids: (frames, 2) 0 open to 1 closed.
    Returns: (frames,), for both eyes.
    Source: docs/method.md section 2, "Blinks".
    """
    mean = lids.mean(1)
    resting = grey_opening(mean, size=BLINK_FRAMES_MAX, mode="nearest")
    fall = (mean - resting) / np.maximum(1 - resting, 0.2)
    share = np.clip((fall - FAINT_BLINK) / (FIRM_BLINK - FAINT_BLINK), 0, 1)
    return share * share * (3 - 2 * share)


def _person_scales(tracked: Sequence[TrackedSpeech], motions: Sequence[Tensor], typical: Tensor) -> dict[str, Tensor]:
    """Each person's own deviation (10,), at least half the typical one: below that it is mostly the tracker's jitter."""
    scales = {}
    for person in {item.person for item in tracked}:
        own = torch.cat([motion - motion.mean(0) for item, motion in zip(tracked, motions) if item.person == person])
        scales[person] = torch.maximum(own.std(0), 0.5 * typical)
        scales[person][BLINK] = 1
    return scales


def _normalised(motion: Tensor, scale: Tensor) -> Tensor:
    """Motion (frames, 10) around the clip's own mean, in deviations: where somebody happened to sit that day is not motion."""
    mean = motion.mean(0)
    mean[BLINK] = 0
    return ((motion - mean) / scale).clamp(-6, 6)


def _motion_batch(
    items: Sequence[TrackedSpeech], normalised: Mapping[int, Tensor], rng: np.random.Generator, feature_dim: int
) -> MotionBatch:
    """A window of each clip, at a random place, with a random view of its speech; half of them mirrored."""
    rows: dict[str, list] = {name: [] for name in ("motion", "speech", "speech_mask", "mask")}
    for item in items:
        times = random_times(len(item), WINDOW_FRAMES, 1.0, rng).round().astype(int)
        known, times = times < len(item), np.minimum(times, len(item) - 1)
        motion = normalised[id(item)][times]
        rows["motion"].append(_mirrored(motion) if rng.random() < 0.5 else motion)
        audible = item.features is not None
        view = rng.integers(VIEWS)
        rows["speech"].append(item.features[view][times].float() if audible else torch.zeros(WINDOW_FRAMES, feature_dim))
        rows["speech_mask"].append(torch.tensor(audible))
        rows["mask"].append(torch.from_numpy(known))
    return MotionBatch(**{name: torch.stack(values) for name, values in rows.items()})


def _mirrored(motion: Tensor) -> Tensor:
    """Motion (frames, 10) as in a mirror: yaw, roll, x and the gaze's yaw change sign, the eyes change places."""
    sign = torch.tensor([-1.0, 1, -1, -1, 1, 1, 1, 1, -1, 1])
    return (motion * sign)[:, [0, 1, 2, 3, 4, 5, 7, 6, 8, 9]]


def _compare_motion(
    model: MotionGenerator, tracked: Sequence[TrackedSpeech], normalised: Mapping[int, Tensor]
) -> dict[str, float]:
    """Spread and speed of generated motion and of the real motion of the same clips."""
    audible = [item for item in tracked if item.features is not None]
    audible = audible[:: max(1, len(tracked) // COMPARED_CLIPS)][:COMPARED_CLIPS]
    if not audible:
        return {}
    real = [normalised[id(item)] for item in audible]
    device = model.no_speech.device
    made = [model.generate(item.features[0].float().to(device), seed=seed).cpu() for seed, item in enumerate(audible)]
    figures = {}
    for name, motions in (("real", real), ("made", made)):
        figures[f"{name}_spread"] = _mean(motion[:, POSE].std(0).mean() for motion in motions)
        figures[f"{name}_speed"] = _mean(motion.diff(dim=0)[:, POSE].abs().mean() for motion in motions)
    return figures


def _mean(values: Iterable[Tensor]) -> float:
    return round(float(torch.stack(list(values)).mean()), 3)
