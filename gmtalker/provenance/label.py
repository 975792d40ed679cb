"""A visible label in the picture: "AI" in a box, and GENERATED or MODIFIED, in the language of whoever made the video.

After the EU's code of practice on marking (2026): at the first sight and again, legible on every picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from gmtalker.assets import ASSETS
from gmtalker.clock import FPS, LABEL_LANGUAGES, LABELS

SHOWN_SECONDS, EVERY_SECONDS = 5, 30  # of "intervals": how long it stands, and how often it begins
HEIGHT, HEIGHT_MIN = 1 / 18, 14  # of the word, in the picture's short side; pixels
PADDING, MARGIN = 0.45, 0.6  # of the plate around the word, and between plate and border, in the word's heights
PLATE = 0.85  # how much of the picture under it the plate covers


@dataclass(frozen=True)
class Label:
    """A label, and when it is seen.

    shown: "whole", all the time, or "intervals", in the first seconds and again every half minute.
    language: of the word: "en" or "zh".
    Errors: ValueError naming the valid choices.
    """

    shown: str = "whole"
    language: str = "en"

    def __post_init__(self) -> None:
        if self.shown not in LABELS[1:]:
            raise ValueError(f"A label is shown {' or '.join(LABELS[1:])}, not {self.shown!r}")
        if self.language not in LABEL_LANGUAGES:
            raise ValueError(f"A label's language is {' or '.join(LABEL_LANGUAGES)}, not {self.language!r}")

    def __call__(self, frame: np.ndarray, number: int, composite: bool) -> np.ndarray:
        """A labelled copy of a frame, or the frame itself while the label is not seen.

        frame: (height, width, 3) uint8 RGB.
        number: of the frame in the video.
        composite: whether real pictures are part of it: it is modified, not generated.
        """
        if self.shown == "intervals" and number // FPS % EVERY_SECONDS >= SHOWN_SECONDS:
            return frame
        height = max(HEIGHT_MIN, round(min(frame.shape[:2]) * HEIGHT))
        word = _word(self.language, "modified" if composite else "generated", height, frame.shape[1])
        padding, margin = round(PADDING * word.shape[0]), round(MARGIN * word.shape[0])
        plate = np.pad(word, padding)
        top = left = margin  # below stand players' controls, and subtitles
        under = frame[top : top + plate.shape[0], left : left + plate.shape[1]]
        plate = plate[: under.shape[0], : under.shape[1], None]
        # Black on white or white on black: on every picture one of them has a contrast of 4.5 to 1 and more.
        back = 0.0 if _luminance(under) > 0.18 else 255.0
        covered = under * (1 - PLATE) + back * PLATE
        labelled = frame.copy()
        drawn = np.rint(covered + (255 - back - covered) * plate).astype(np.uint8)
        labelled[top : top + under.shape[0], left : left + under.shape[1]] = drawn
        return labelled


def _luminance(picture: np.ndarray) -> float:
    """The mean relative luminance (WCAG 2.2) of sRGB pixels, 0 to 1."""
    share = picture.reshape(-1, 3).astype(np.float32) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float((linear @ np.array([0.2126, 0.7152, 0.0722], np.float32)).mean())


@cache
def _word(language: str, kind: str, height: int, width_max: int) -> np.ndarray:
    """(height, width) float32 from 0 to 1: how much of each pixel is letter; smaller where a picture is too narrow."""
    mask = cv2.imdecode(
        np.frombuffer((ASSETS / "labels" / f"{language}-{kind}.png").read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE
    )
    scale = min(height / mask.shape[0], width_max / (mask.shape[1] + 2 * (PADDING + MARGIN) * mask.shape[0]))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    return cv2.resize(mask, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
