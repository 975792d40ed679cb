"""What people take for an emotion: prototypes of faces, and how much of them a clip shows (docs/method.md section 11).

A label says what an actor was asked for. Of clips labelled sad or afraid most show a mouth that opens and little else, and their
mean is a face that nobody names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gmtalker.clock import EMOTIONS
from gmtalker.face.landmarks import BROWS, MOUTH_CORNERS, NOSE_WINGS
from gmtalker.face.model import FaceModel
from gmtalker.pretrain.corpus import Clip
from gmtalker.tracks import BLINK

WEIGHT_MIN = 0.02  # of a clip that shows nothing of its emotion, or its opposite
POINT, WING, LID = 0.01, 0.005, 0.2  # what counts as 1: face heights; face heights; of the way from open to closed


class Prototype(NamedTuple):
    """How the parts of a face move in an emotion, relative to each other.

    strength: how far, at intensity 1, in the units of `Movements`; about what the strongest clips of actors show, up to twice.
    corners_up, corners_out: of the mouth.
    inner_brows, outer_brows: upwards.
    wings: of the nose, upwards.
    lids: towards closed.
    Source: P. Ekman and W. Friesen, EMFACS, 1983, as action units: anger 4, disgust 9 + 4, fear 1 + 2 + 5, happiness 12, sadness
        1 + 15, surprise 1 + 2 + 5; the strengths are our own.
    """

    strength: float
    corners_up: float = 0
    corners_out: float = 0
    inner_brows: float = 0
    outer_brows: float = 0
    wings: float = 0
    lids: float = 0

    def agreement(self, movements: np.ndarray) -> float:
        """How far movements (6,), as `movements` gives them, go the prototype's way."""
        way = np.array(self[1:])
        return float(movements @ way / np.linalg.norm(way))


# Contempt has too few clips for a choice among them.
PROTOTYPES = {
    "angry": Prototype(4.5, inner_brows=-1, outer_brows=-0.5),
    "disgusted": Prototype(4.5, inner_brows=-1, wings=1),
    "fear": Prototype(4.5, inner_brows=1, outer_brows=0.5, lids=-1),
    "happy": Prototype(7, corners_up=1, corners_out=0.7),
    "sad": Prototype(4, corners_up=-1, inner_brows=0.7, outer_brows=-0.5),
    "surprised": Prototype(5, inner_brows=1, outer_brows=1, lids=-1),
}


def movements(coefficients: np.ndarray, lids: float, model: FaceModel) -> np.ndarray:
    """(6,) how the parts of a face move, in the order of Prototype, in POINT, WING and LID.

    coefficients: (n,) of the expression.
    lids: how much more closed they are than when neutral, 1 for the whole way.
    """
    moved = np.tensordot(coefficients, model.expression_basis, 1)  # (points, 3)
    left, right = (moved[corner] for corner in MOUTH_CORNERS)
    inner, outer = (-moved[list(pair), 1].mean() for pair in BROWS)
    up, out, wings = -(left[1] + right[1]) / 2, (right[0] - left[0]) / 2, -moved[list(NOSE_WINGS), 1].mean()
    return np.array([up / POINT, out / POINT, inner / POINT, outer / POINT, wings / WING, lids / LID])


def shown(clips: Sequence[Clip], model: FaceModel) -> np.ndarray:
    """(clips,) how much each clip counts: by how much of its emotion's prototype it shows; 1 where there is no prototype.

    The lids of people without a neutral clip are not known, and count as unmoved.
    """
    medians = [float(np.median(clip.motion[:, BLINK])) for clip in clips]
    rest: dict[str, list[float]] = {}
    for clip, lids in zip(clips, medians):
        if clip.row.emotion == EMOTIONS[0]:
            rest.setdefault(clip.filmed, []).append(lids)
    weights = np.ones(len(clips))
    for index, (clip, lids) in enumerate(zip(clips, medians)):
        if prototype := PROTOTYPES.get(str(clip.row.emotion)):
            more = lids - float(np.mean(rest[clip.filmed])) if clip.filmed in rest else 0.0
            agreement = prototype.agreement(movements(clip.expression.mean(0), more, model))
            weights[index] = max(agreement, WEIGHT_MIN)
    return weights
