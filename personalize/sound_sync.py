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
    from gmtalker.measure.sync import SyncMeasure
    from gmtalker.models.expression_generator import ExpressionGenerator
    from gmtalker.models.lip_sync import LipSync

SPEECH_FRAMES_MIN, SPEECH_FRAMES_MAX = 50, 1500  # of a clip that is used for the estimate; of all clips together
LAG_MAX = 5  # frames to either side, where the lag is found by the lips of the expression generator
CORRELATION_MIN = 0.3  # at the peak, below which the lag is not known
JUDGED_FRAMES_MIN = 100  # of speech, below which nothing is said of whose mouth it is
# Confidence below which the sound is somebody else's. Over four seconds and more of training clips of people that the network did
# not know, their own sound had 2.7 or more, and 95 % of other people's less than 1.8.
OTHER_VOICE_MAX = 1.8
FAR_SHIFTS = (-22, 22)  # frames around which the lag is looked for as well where it is not near 0: with what is near, 1.4 s
FAR_CONFIDENCE_MIN = 2.7  # by which it must be sure there, as it was looked for in three places


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


def footage_sync(footage: SpokenFootage, face_model: FaceModel, far_min: float = FAR_CONFIDENCE_MIN) -> SyncMeasure | None:
    """Agreement and lag of sound and lips, by the lip-sync network: within 0.6 s, else where it is surely further out.

    far_min: confidence from which a lag further out counts.
    Returns: None where that network is not at hand for these features, or there is too little speech.
    Source: docs/method.md section 10.
    """
    from gmtalker.measure.sync import load_lip_sync  # late, as above

    network = load_lip_sync(footage.features.shape[1])
    if network is None:
        return None
    near = _sync_at(network, footage, face_model, 0)
    if near is None or near.is_sure:
        return near
    far = max((_sync_at(network, footage, face_model, shift) for shift in FAR_SHIFTS), key=lambda found: found.confidence)
    return far if far.confidence >= far_min else near


def _sync_at(network: LipSync, footage: SpokenFootage, face_model: FaceModel, shift: int) -> SyncMeasure | None:
    """Agreement and lag around a lag of `shift` frames; None where there is too little speech."""
    from gmtalker.measure.sync import SpokenLips, sync_of_clips  # late, as above

    footage = shift_sound(footage, shift) if shift else footage
    clips, frames = [], 0
    for clip in footage.clips():
        clips.append(SpokenLips.of_track(footage.features[clip], footage.coefficients[clip], face_model, footage.usable[clip]))
        frames += int(footage.usable[clip].sum())
        if frames > SPEECH_FRAMES_MAX:
            break
    found = sync_of_clips(network, clips)
    return found if found is None else replace(found, lag_frames=found.lag_frames + shift)


def is_another_voice(sync: SyncMeasure | None) -> bool:
    """Whether the sound is surely not this mouth's: enough was heard, and it agrees with the lips no better than chance."""
    return sync is not None and sync.frames >= JUDGED_FRAMES_MIN and sync.confidence < OTHER_VOICE_MAX


def sound_lag(generator: ExpressionGenerator, footage: SpokenFootage, face_model: FaceModel) -> float:
    """Estimate by how many frames the sound is later than the picture: 0 where that is not sure.

    The lip-sync network finds it; without one for these features, the lips that the generator makes of the sound do.

    Source: docs/method.md section 10.
    """
    sync = footage_sync(footage, face_model)
    if sync is not None:
        return sync.lag_frames if sync.is_sure else 0.0
    return _lag_of_generated_lips(generator, footage, face_model)


@torch.no_grad()
@one_core()
def _lag_of_generated_lips(generator: ExpressionGenerator, footage: SpokenFootage, face_model: FaceModel) -> float:
    """The lag with the highest correlation of lip opening with that of generated lips, between frames by the parabola through the
    peak and its neighbours; 0 when that peak is too low or at the edge."""
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
