"""Emotions that a person never showed, rehearsed with their own frames (docs/method.md section 3, "Rehearsal")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gmtalker.clock import EMOTIONS
from gmtalker.face.bending import FilmedFace, bend
from gmtalker.models.ratio_image import RatioImages
from gmtalker.tracks import BLINK, ROTATION
from gmtalker.training.head_data import DrawnFrame, PersonFrames

STRENGTH_MIN, STRENGTH_MAX = 0.2, 1.2  # of an emotion; beyond, bent faces fold
BLENDED_SHARE = 0.25  # of the rehearsed frames show two emotions at once
LOOK_SHARE, SHAPE_SHARE = 0.15, 0.15  # ... have the emotion's look on their own shape, and its shape without its weights
# A tracker sees less of a movement than there is: of faces bent by what it measured on actors it finds a third to three quarters.
# So what moves a track by 1 moves a real picture by more, and so it does a bent one.
PICTURE_GAIN = 1.35
CANDIDATES = 24  # frames among which the one is chosen whose lips and lids need the least bending
LIDS_WEIGHT = 0.1  # face heights of lip opening that a whole blink counts as
# Lip openings, in distances between the eyes' outer corners: under the first there is nothing to be seen; lips that were open by
# this share of what is wanted show enough; those of the frame that is looked for are a little wider, and show all of it.
MOUTH_SHOWN, MOUTH_ENOUGH, MOUTH_WIDER = 0.04, 0.8, 1.2
TURN_WEIGHT = 2.0  # an eighth of a radian that the head is turned otherwise counts as lips a quarter wider
SHUT = 0.5  # of a lid, from which on a frame is amid a blink and is not bent


@dataclass
class Rehearsal:
    """Draws frames of a person in emotions that they did not show, with what the head generator reads for them.

    neutral: (frames, n) coefficients of a speech without emotion.
    emotional: (8, frames, n) the same speech in each emotion.
    lids: (8, 2) by how much lids rest lower in each emotion.
    ratio_images: how the skin's brightness changes with them.
    """

    neutral: np.ndarray
    emotional: np.ndarray
    lids: np.ndarray
    ratio_images: RatioImages

    def draw(self, person: PersonFrames, rng: np.random.Generator) -> DrawnFrame:
        """One frame, without a matte."""
        weights = self._weights(rng)
        time = rng.integers(len(self.neutral))
        change = np.tensordot(weights, self.emotional[:, time] - self.neutral[time], 1)
        target, seen = self.neutral[time] + change, PICTURE_GAIN * change
        kind = rng.random()
        own_shape, unweighted = kind < LOOK_SHARE, LOOK_SHARE <= kind < LOOK_SHARE + SHAPE_SHARE
        lowered = weights @ self.lids
        base = self._base(person, target, lowered, rng)
        motion = person.motion[base].copy()
        before, lids = person.coefficients[base], motion[BLINK].copy()
        emotion = np.zeros_like(weights) if unweighted else weights / max(1.0, float(weights.sum()))
        emotion[0] = 1 - emotion.sum()
        if own_shape:
            shaped, bent, lit = before, before, before + seen
        else:
            shaped, bent = target, self.neutral[time] + seen
            lit = bent
            motion[BLINK] = lids + (1 - lids) * lowered
        ratio = self._ratio(lit, lids + lowered, emotion) - self._ratio(before, lids, np.eye(len(EMOTIONS))[0])
        shoulders = None if person.shoulders is None else person.shoulders[base]
        face = FilmedFace(person.frames[base], before, person.motion[base], shoulders)
        rendering = person.renderer.render(shaped, motion, shoulders)
        mouth = self._mouth(person, base, bent, rng)
        return DrawnFrame(rendering, bend(person.renderer, face, bent, motion, ratio, mouth), emotion)

    def _weights(self, rng: np.random.Generator) -> np.ndarray:
        """(8,) of one emotion or of two, without neutral; more than 1 in all is an exaggeration."""
        weights = np.zeros(len(EMOTIONS))
        share = rng.random() if rng.random() < BLENDED_SHARE else 1.0
        first, second = 1 + rng.choice(len(EMOTIONS) - 1, 2, replace=False)
        weights[first], weights[second] = share, 1 - share
        return weights * rng.uniform(STRENGTH_MIN, STRENGTH_MAX)

    def _base(self, person: PersonFrames, target: np.ndarray, lowered: np.ndarray, rng: np.random.Generator) -> int:
        """The frame that is bent: of some, the one whose lips and lids are nearest to the target."""
        some = rng.integers(len(person.frames), size=CANDIDATES)
        model, shape = person.renderer.model, person.renderer.face.neutral_shape
        wanted = model.lip_opening(target[None], shape)[0]
        lids = person.motion[some][:, BLINK].mean(1)
        cost = np.abs(model.lip_opening(person.coefficients[some], shape) - wanted)
        cost += LIDS_WEIGHT * np.abs(lids - np.clip(lowered.mean(), -0.3, 0.4)) + (lids > SHUT)
        return int(some[cost.argmin()])

    def _mouth(self, person: PersonFrames, base: int, bent: np.ndarray, rng: np.random.Generator) -> FilmedFace | None:
        """A frame that shows what is between lips that open further than the bent frame's did; None where they do not.

        Of some, the one whose lips are open about as far, or a little more, and whose head is turned alike.
        """
        model, shape = person.renderer.model, person.renderer.face.neutral_shape
        wanted, had = model.lip_opening(np.stack([bent, person.coefficients[base]]), shape)
        if wanted < MOUTH_SHOWN or had > MOUTH_ENOUGH * wanted:
            return None
        some = rng.integers(len(person.frames), size=4 * CANDIDATES)
        openings = model.lip_opening(person.coefficients[some], shape)
        turned = np.abs(person.motion[some][:, ROTATION] - person.motion[base, ROTATION]).sum(1)
        cost = np.abs(np.log(np.maximum(openings, 1e-3) / (MOUTH_WIDER * wanted))) + TURN_WEIGHT * turned
        index = int(some[cost.argmin()])
        return FilmedFace(person.frames[index], person.coefficients[index], person.motion[index])

    @torch.no_grad()
    def _ratio(self, coefficients: np.ndarray, lids: np.ndarray, emotion: np.ndarray) -> np.ndarray:
        rows = (torch.from_numpy(np.asarray(row)[None]).float() for row in (coefficients, lids, emotion))
        image: np.ndarray = self.ratio_images(*rows)[0].numpy()
        return image
