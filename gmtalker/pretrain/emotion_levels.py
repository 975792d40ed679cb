"""How strongly labelled clips show their emotion, against faces that are calm (docs/method.md section 1, "Labels").

Two things are wrong with labelled clips as they come. People without a clip labelled neutral are measured against the mean of
their emotional faces. And a label alone says nothing of the strength: of some sets most "angry" faces are nearly calm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from gmtalker.clock import EMOTIONS
from gmtalker.face.lip_guard import LipGuard
from gmtalker.pretrain.corpus import Clip

RIDGE = 0.3  # clips' worth of belief that a face is measured right, and that an emotion changes nothing
LEVEL_MIN, LEVEL_MAX = 0.05, 1.0


@dataclass(frozen=True)
class Displacements:
    """What emotions change, apart from whose face it is.

    emotions: (8, d) change from neutral at the full level.
    causes: (c, d) change with each further cause.
    people: by person and set, (d,) how far their neutral is from where it was measured.
    """

    emotions: np.ndarray
    causes: np.ndarray
    people: dict[str, np.ndarray]


def emotional_displacements(
    clips: Sequence[Clip],
    rows: Sequence[np.ndarray],
    causes: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Displacements:
    """An additive model of people, emotions and further causes, by ridge regression.

    clips: labelled ones; those of a known level teach, and all where none is known.
    rows: (d,) of each clip, the mean of whatever is measured.
    causes: (clips, c) numbers that change the rows too, such as how far the lips open; None for none.
    weights: (clips,) how much each counts: then all of them teach, as if of the full level.
    """
    taught = [clip.row.emotion in EMOTIONS and clip.row.graded for clip in clips]
    taught = taught if any(taught) and weights is None else [clip.row.emotion in EMOTIONS for clip in clips]
    people = sorted({clip.filmed for clip, used in zip(clips, taught) if used})
    known = {clip.filmed for clip in clips if clip.row.emotion == "neutral"}
    causes = np.zeros((len(clips), 0)) if causes is None else causes
    levels = [clip.row.level for clip in clips] if weights is None else [1.0] * len(clips)
    counts = np.ones(len(clips)) if weights is None else np.sqrt(weights)
    design, values = [], []
    for clip, row, cause, used, level, count in zip(clips, rows, causes, taught, levels, counts):
        if used:
            who, what = np.zeros(len(people)), np.zeros(len(EMOTIONS))
            who[people.index(clip.filmed)] = clip.filmed not in known  # the others are measured against their neutral clips
            what[EMOTIONS.index(clip.row.emotion)] = level if clip.row.emotion != "neutral" else 0.0
            design.append(np.concatenate([who, what, cause]) * count)
            values.append(row * count)
    split = [len(people), len(people) + len(EMOTIONS)]
    a, b = np.array(design).reshape(len(design), split[1] + causes.shape[1]), np.array(values)
    solved = np.linalg.solve(a.T @ a + RIDGE * np.eye(a.shape[1]), a.T @ b)
    own, emotions, further = np.split(solved, split)
    return Displacements(emotions, further, {name: row for name, row in zip(people, own) if name not in known})


def with_levels(clips: Sequence[Clip], guard: LipGuard) -> list[Clip]:
    """The clips, with faces measured against a calm one, and levels estimated where the set does not say them.

    The level of a clip is how far its mean face lies along its emotion's displacement, both with closed lips: how far they open
    depends on what is said. Of people who show one emotion only, and none neutral, nothing can be said: their clips keep the
    level they came with.
    """
    labelled = [clip for clip in clips if clip.row.emotion in EMOTIONS]
    if not labelled:
        return list(clips)
    found = emotional_displacements(labelled, [clip.expression.mean(0) for clip in labelled])
    displacements, offsets = found.emotions, found.people
    shown: dict[str, set[str]] = {}
    for clip in labelled:
        shown.setdefault(clip.filmed, set()).add(str(clip.row.emotion))
    result = []
    for clip in clips:
        if clip.filmed in offsets:
            clip = replace(clip, expression=(clip.expression - offsets[clip.filmed]).astype(np.float32))
        emotion = clip.row.emotion
        if emotion in EMOTIONS and emotion != "neutral" and not clip.row.graded and len(shown[clip.filmed]) > 1:
            wanted, mean = (
                _with_closed_lips(x, guard) for x in (displacements[EMOTIONS.index(emotion)], clip.expression.mean(0))
            )
            level = float(mean @ wanted / max(wanted @ wanted, 1e-9))
            clip = replace(clip, row=replace(clip.row, level=float(np.clip(level, LEVEL_MIN, LEVEL_MAX))))
        result.append(clip)
    return result


def _with_closed_lips(coefficients: np.ndarray, guard: LipGuard) -> np.ndarray:
    return guard.closed(torch.from_numpy(coefficients).float(), torch.tensor(1.0)).numpy()
