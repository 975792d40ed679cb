"""How this person's face shows an emotion, where their clips were labelled: what the generic face of it lacks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gmtalker.device import one_core
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.tracks import EMOTIONS, FPS

LEAST_SHOWN = 1.0  # seconds of an emotion from which on it is known
OWN_SHARE = 0.8  # of the person's own look; the rest stays generic, as a few seconds show one way of many
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


def learn_moods(generator: ExpressionGenerator, coefficients: Tensor, labels: np.ndarray) -> Tensor | None:
    """(8, n) Avatar.moods from coefficients (frames, n) and labels (frames,), the number of each frame's emotion or -1.

    A person's emotion is told from their neutral clips where there are any, else from the neutral face that they were measured
    against. None without a second of any other emotion.
    """
    shown = [np.flatnonzero(labels == index) for index in range(len(EMOTIONS))]
    known = [index for index in range(1, len(EMOTIONS)) if len(shown[index]) >= LEAST_SHOWN * FPS]
    if not known:
        return None
    neutral = coefficients[shown[0]].mean(0) if len(shown[0]) >= LEAST_SHOWN * FPS else torch.zeros(coefficients.shape[1])
    generic = emotion_shifts(generator, generator.no_speech.detach().expand(SHIFT_FRAMES, -1))
    moods = torch.zeros(len(EMOTIONS), coefficients.shape[1])
    for index in known:
        moods[index] = OWN_SHARE * (coefficients[shown[index]].mean(0) - neutral - generic[index])
    return moods
