"""Learn from labelled clips how a person's face in an emotion differs from the generic one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gmtalker.avatars.emotion_offsets import MOTION_COLUMNS, EmotionOffsets, generic_offsets
from gmtalker.clock import EMOTIONS, FPS
from gmtalker.device import one_core
from gmtalker.face.lip_guard import LipGuard
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.tracks import FaceTrack

LABELLED_SECONDS_MIN = 1.0  # of an emotion, below which nothing is learned of it
OWN_SHARE = 0.8  # of the difference that is used: a few seconds show one way of many
OFFSET_FRAMES = 100  # over which the generic face of an emotion is averaged


@torch.no_grad()
@one_core()
def learn_emotion_offsets(
    generator: ExpressionGenerator,
    track: FaceTrack,
    labels: np.ndarray,
    features: Tensor,
    guard: LipGuard,
    usual: EmotionOffsets | None = None,
) -> EmotionOffsets | None:
    """Learn the offsets of each emotion that was labelled for long enough.

    An emotion is measured against the person's clips labelled neutral, or where there are none, against their neutral shape.

    labels: (frames,) of the track, the number of a frame's emotion or -1.
    features: (frames, d) of any speech. What the clips labelled neutral have beside the generator's neutral face of it goes with
        every emotion, but for the lips, which the speech moves.
    usual: of actors, for the emotions that the clips do not show.
    Returns: usual when no emotion but neutral was labelled for long enough.
    Source: docs/method.md section 11, equation (33).
    """
    coefficients, motion = track.expression.coefficients, track.motion.stacked()
    frames = [np.flatnonzero(labels == index) for index in range(len(EMOTIONS))]
    known = [index for index in range(len(EMOTIONS)) if len(frames[index]) >= LABELLED_SECONDS_MIN * FPS]
    if not set(known) - {0}:
        return usual
    neutral = coefficients[frames[0]].mean(0) if 0 in known else torch.zeros(coefficients.shape[1])
    generic = generic_offsets(generator, generator.no_speech.detach().expand(OFFSET_FRAMES, -1))
    offsets = EmotionOffsets(torch.zeros(len(EMOTIONS), coefficients.shape[1]), torch.zeros(len(EMOTIONS), motion.shape[1]))
    if 0 in known:
        latent = generator.latent(torch.eye(len(EMOTIONS), device=generator.device)[:1].expand(len(features), -1), 0, 0.0)
        spoken = generator.generate(features.to(generator.device), latent).mean(0).cpu()
        offsets.expression[:] = OWN_SHARE * guard.closed(neutral - spoken, torch.tensor(1.0))
    resting = motion.median(0).values  # what PersonFace.motion_mean holds: lids rest there when nothing is said of the emotion
    for index in set(range(1, len(EMOTIONS))) - set(known) if usual is not None else ():
        offsets.motion[index] = usual.motion[index]
        offsets.expression[index] += usual.expression[index]
    for index in known:
        offsets.motion[index, MOTION_COLUMNS] = (motion[frames[index]].median(0).values - resting)[MOTION_COLUMNS]
        if index:
            offsets.expression[index] += OWN_SHARE * (coefficients[frames[index]].mean(0) - neutral - generic[index])
    return offsets
