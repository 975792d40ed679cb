"""The pad of emotions: two axes, pleasant and aroused, with the eight emotions on them and one point to drag.

Source of the axes: Russell, A circumplex model of affect, 1980; where the faces stand is our choice.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import gradio as gr
from PIL import Image

from gmtalker.clock import EMOTIONS
from studio.components import MIXED, scripted, words_of

NEUTRAL = EMOTIONS[0]
# Unpleasant to pleasant and calm to aroused, each -1 to 1.
PLACES = {
    "neutral": (0.0, 0.0),
    "happy": (0.86, 0.22),
    "surprised": (0.5, 0.86),
    "fear": (-0.2, 0.92),
    "angry": (-0.82, 0.72),
    "disgusted": (-0.9, 0.0),
    "contempt": (-0.76, -0.7),
    "sad": (-0.1, -0.88),
}
STEP = 0.05  # of a weight, as the sliders have it
STRIP_SIZE = (1120, 140)  # pixels of the picture of the eight faces, at most


def emotion_pad() -> gr.HTML:
    """Lay the pad out. Its value: {"x", "y"} of the point; its property faces: a picture of the eight as a data URL, or None."""
    return scripted(
        "emotion_pad",
        {"x": 0.0, "y": 0.0},
        faces=None,
        places=[[name, *PLACES[name]] for name in EMOTIONS],
        words=words_of(*EMOTIONS, "pad", "pad_pleasant", "pad_unpleasant", "pad_calm", "pad_excited"),
        elem_id="pad",
    )


def weights_at(x: float, y: float) -> dict[str, float]:
    """The mixture at a point: of the two emotions between which it lies, and neutral towards the middle.

    x, y: the point, -1 to 1.
    Returns: weights of MIXED by name, without those that are 0.
    """
    best: tuple[float, dict[str, float]] | None = None
    for number, first in enumerate(MIXED):
        for second in MIXED[number + 1 :]:
            (a, b), (c, d) = PLACES[first], PLACES[second]
            area = a * d - b * c
            if abs(area) < 1e-9:
                continue
            share, other = (x * d - y * c) / area, (a * y - b * x) / area
            if share < -1e-9 or other < -1e-9:
                continue
            # Of all pairs that hold the point between them, the two that are nearest to each other.
            closeness = (a * c + b * d) / ((a * a + b * b) * (c * c + d * d)) ** 0.5
            if best is None or closeness > best[0]:
                best = closeness, {first: max(share, 0.0), second: max(other, 0.0)}
    mixture = best[1] if best else {}
    full = max(1.0, sum(mixture.values()))
    rounded = {name: round(round(weight / full / STEP) * STEP, 2) for name, weight in mixture.items()}
    return {name: weight for name, weight in rounded.items() if weight}


def place_of(emotion: Mapping[str, float]) -> tuple[float, float]:
    """Where a mixture stands on the pad. Returns: x and y."""
    full = max(1.0, sum(emotion.values()))
    x, y = (sum(weight / full * PLACES[name][axis] for name, weight in emotion.items()) for axis in (0, 1))
    return round(x, 3), round(y, 3)


def data_url(picture: Image.Image) -> str:
    """A picture as an address that holds it."""
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
