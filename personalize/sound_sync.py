"""The lag between the sound and the picture of clips: estimated from the lips, and corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gmtalker.clock import EMOTIONS
from gmtalker.device import one_core
from gmtalker.face.lips import shifted_correlation
from gmtalker.face.model import FaceModel
from gmtalker.tracks import sample_rows

if TYPE_CHECKING:  # for types alone: diffusers and its libraries take ten seconds, which checking a clip need not wait for
    from gmtalker.models.expression_generator import ExpressionGenerator

SPEECH_FRAMES_MIN, SPEECH_FRAMES_MAX = 50, 1500  # of a clip that is used for the estimate; of all clips together
LAG_MAX = 5  # frames to either side
CORRELATION_MIN = 0.3  # at the peak, below which the lag is not known


@dataclass(frozen=True)
class SpokenFootage:
    """All clips of a person one after another, as far as their speech goes.

    coefficients: (frames, n) of the expression.
    features: (frames, d) of the speech.
    usable: (frames,) bool, where the face is found, there is speech, and the frame may be learned from.
    emotion: (frames, 8) weights.
    clip_starts: first frame of each clip.
    """

    coefficients: Tensor
    features: Tensor
    usable: np.ndarray
    emotion: Tensor
    clip_starts: Sequence[int]

    def clips(self) -> list[slice]:
        """The frames of each clip."""
        return [slice(first, end) for first, end in pairwise([*self.clip_starts, len(self.usable)])]


@torch.no_grad()
@one_core()
def sound_lag(generator: ExpressionGenerator, footage: SpokenFootage, face_model: FaceModel) -> float:
    """Estimate by how many frames the sound is later than the picture, from the lips that the generator makes of the sound.

    Returns: the lag with the highest correlation of lip opening, between frames by the parabola through the peak and its
        neighbours; 0 when that peak is too low or at the edge.
    Source: docs/method.md section 10.
    """
    neutral = torch.eye(len(EMOTIONS), device=generator.device)[:1]
    correlations, frames = [], []
    for clip in footage.clips():
        rows = clip.start + np.flatnonzero(footage.usable[clip])[:SPEECH_FRAMES_MAX]
        if len(rows) < SPEECH_FRAMES_MIN:
            continue
        speech = footage.features[rows].to(generator.device)
        generated = generator.generate(speech, generator.latent(neutral.expand(len(rows), -1), seed=0)).cpu()
        made, real = (face_model.lip_opening(x.numpy()) for x in (generated, footage.coefficients[rows]))
        correlations.append([shifted_correlation(made, real, lag) for lag in range(-LAG_MAX, LAG_MAX + 1)])
        frames.append(len(rows))
        if sum(frames) > SPEECH_FRAMES_MAX:
            break
    if not correlations:
        return 0.0
    correlation = np.average(correlations, axis=0, weights=frames)
    peak = int(correlation.argmax())
    if peak in (0, len(correlation) - 1) or correlation[peak] < CORRELATION_MIN:
        return 0.0
    before, here, after = correlation[peak - 1 : peak + 2]
    return float(peak - LAG_MAX + 0.5 * (after - before) / max(2 * here - before - after, 1e-6))


def shift_sound(footage: SpokenFootage, lag: float) -> SpokenFootage:
    """Move the speech features of each clip `lag` frames forward; the first or last feature fills the gap at its end."""
    features = footage.features.clone()
    for clip in footage.clips():
        times = np.arange(clip.stop - clip.start) + lag
        features[clip] = torch.from_numpy(sample_rows(footage.features[clip].numpy(), np.maximum(times, 0)))
    return replace(footage, features=features)
