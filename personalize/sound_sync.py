"""Whether the sound of clips is in time with their picture, and moving it so that it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gmtalker.clock import EMOTIONS
from gmtalker.device import one_core
from gmtalker.face.lips import shifted_correlation
from gmtalker.face.model import FaceModel
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.tracks import interpolated

STRETCH_FRAMES = 50  # of speech that a clip must hold to be listened to
LARGEST_LAG, MOST_LISTENED, SURE_AGREEMENT = 5, 1500, 0.3  # frames that sound may lag, that are heard; agreement that tells


@dataclass(frozen=True)
class SpokenFootage:
    """All clips of a person on one clock: coefficients (frames, n), speech features (frames, d), emotion (frames, 8).

    usable: (frames,) bool, where the face is found, speech is heard, and the frame may be learned from; begins: first frame of
    each clip.
    """

    coefficients: Tensor
    features: Tensor
    usable: np.ndarray
    emotion: Tensor
    clip_starts: Sequence[int]


@torch.no_grad()
@one_core()
def sound_lag(generator: ExpressionGenerator, footage: SpokenFootage, face_model: FaceModel) -> float:
    """By how many frames the generator's lips come after the person's: so far does the footage's sound lag behind its picture.

    Between frames by the parabola through the best one and its neighbours; 0 when that can't be told.
    """
    neutral = torch.eye(len(EMOTIONS), device=generator.device)[:1]
    tables, weights = [], []
    edges = [*footage.clip_starts, len(footage.usable)]
    for begin, end in zip(edges[:-1], edges[1:]):
        rows = begin + np.flatnonzero(footage.usable[begin:end])[:MOST_LISTENED]
        if len(rows) < STRETCH_FRAMES:
            continue
        speech = footage.features[rows].to(generator.device)
        said = generator.generate(speech, generator.latent(neutral.expand(len(rows), -1), seed=0)).cpu()
        made, real = (face_model.lip_opening(x.numpy()) for x in (said, footage.coefficients[rows]))
        tables.append([shifted_correlation(made, real, lag) for lag in range(-LARGEST_LAG, LARGEST_LAG + 1)])
        weights.append(len(rows))
        if sum(weights) > MOST_LISTENED:
            break
    if not tables:
        return 0.0
    agreement = np.average(tables, axis=0, weights=weights)
    best = int(agreement.argmax())
    if best in (0, len(agreement) - 1) or agreement[best] < SURE_AGREEMENT:
        return 0.0
    before, here, after = agreement[best - 1 : best + 2]
    return float(best - LARGEST_LAG + 0.5 * (after - before) / max(2 * here - before - after, 1e-6))


def in_time(footage: SpokenFootage, lag: float) -> SpokenFootage:
    """The footage with its sound moved `lag` frames forward, each clip for itself, its ends held."""
    features = footage.features.clone()
    edges = [*footage.clip_starts, len(footage.usable)]
    for begin, end in zip(edges[:-1], edges[1:]):
        times = np.arange(end - begin) + lag
        features[begin:end] = torch.from_numpy(interpolated(footage.features[begin:end].numpy(), np.maximum(times, 0)))
    return replace(footage, features=features)
