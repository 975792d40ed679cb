"""How this person's face shows an emotion, where their clips were labelled: what the generic face of it lacks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gmtalker.avatars.emotion_offsets import EmotionOffsets
from gmtalker.clock import EMOTIONS, FPS
from gmtalker.device import one_core
from gmtalker.face.lip_guard import LipGuard
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.tracks import FaceTrack

LEAST_SHOWN = 1.0  # seconds of an emotion from which on it is known
OWN_SHARE = 0.8  # of the person's own look; the rest stays generic, as a few seconds show one way of many
HELD = [0, 1, 2, 6, 7, 8, 9]  # of the motion: turns, eyelids and gaze; where in the picture somebody sits is no emotion
SHIFT_FRAMES = 100  # over which a generic emotion's mean face is taken


@torch.no_grad()
@one_core()
def emotion_shifts(generator: ExpressionGenerator, features: Tensor) -> Tensor:
    """(8, n): how the generator's mean face in each emotion differs from its neutral one, over features (frames, d)."""
    means = []
    for weights in torch.eye(len(EMOTIONS), device=generator.device):
        latent = generator.latent(weights.expand(len(features), -1), seed=0, temperature=0.0)
        means.append(generator.generate(features.to(generator.device), latent).mean(0).cpu())
    return torch.stack(means) - means[0]


@torch.no_grad()
@one_core()
def learn_emotion_offsets(
    generator: ExpressionGenerator, track: FaceTrack, labels: np.ndarray, features: Tensor, guard: LipGuard
) -> EmotionOffsets | None:
    """The person's own look of the emotions from their track and labels (frames,), the number of each frame's emotion or -1.

    An emotion is told from their neutral clips where there are any, else from the neutral face that they were measured against.
    features: (frames, d) of any speech: what the generator makes of it, without emotion, is told from their neutral clips, and
    what those have beside it goes with every emotion; without the lips, which the speech moves.
    None without a second of any other emotion.
    """
    coefficients, motion = track.expression.coefficients, track.motion.stacked()
    shown = [np.flatnonzero(labels == index) for index in range(len(EMOTIONS))]
    known = [index for index in range(len(EMOTIONS)) if len(shown[index]) >= LEAST_SHOWN * FPS]
    if not set(known) - {0}:
        return None
    neutral = coefficients[shown[0]].mean(0) if 0 in known else torch.zeros(coefficients.shape[1])
    generic = emotion_shifts(generator, generator.no_speech.detach().expand(SHIFT_FRAMES, -1))
    moods = EmotionOffsets(torch.zeros(len(EMOTIONS), coefficients.shape[1]), torch.zeros(len(EMOTIONS), motion.shape[1]))
    if 0 in known:
        latent = generator.latent(torch.eye(len(EMOTIONS), device=generator.device)[:1].expand(len(features), -1), 0, 0.0)
        spoken = generator.generate(features.to(generator.device), latent).mean(0).cpu()
        moods.expression[:] = OWN_SHARE * guard.closed(neutral - spoken, torch.tensor(1.0))
    usual = motion.median(0).values  # what PersonFace.motion_mean holds: lids rest there when nothing is said of the emotion
    for index in known:
        moods.motion[index, HELD] = (motion[shown[index]].median(0).values - usual)[HELD]
        if index:
            moods.expression[index] += OWN_SHARE * (coefficients[shown[index]].mean(0) - neutral - generic[index])
    return moods
