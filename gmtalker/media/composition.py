"""Where a person stands in a finished picture, as it is asked for: composer.py does it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from gmtalker.media.formats import CANVASES

SIDE_MIN, SIDE_MAX = 64, 3840  # pixels of a canvas of one's own size
PLACES = ("center", "left", "right", "bottom-left", "bottom-right", "top-left", "top-right")
SHAPES = ("person", "square", "circle")
SIZE_MIN, SIZE_MAX = 0.1, 2.0
NAMED_COLOURS = {
    "black": "#000000",
    "white": "#ffffff",
    "grey": "#808080",
    "gray": "#808080",
    "green": "#00b140",
    "blue": "#0047bb",
}
BLUR = "blur"  # for a background: the picture itself, large and out of focus


@dataclass(frozen=True)
class Composition:
    """What is behind a person, and where they stand.

    background: a colour ("#00b140", "green"), a picture's or a video's file, or "blur"; None for the person's own.
    canvas: "16:9", "9:16", "1:1", "4:5", or "1080x1920" in pixels; None for the avatar's own square.
    place: one of PLACES; not in a corner, who is cut out stands on the lower edge, and a whole picture in the middle.
    size: the avatar's square, in the canvas's shorter side.
    shape: what is cut out of it: the person, the whole square, or a circle.
    Errors: ValueError naming the valid choices.
    """

    background: str | None = None
    canvas: str | None = None
    place: str = PLACES[0]
    size: float = 1.0
    shape: str = SHAPES[0]

    def __post_init__(self) -> None:
        for name, choices in (("place", PLACES), ("shape", SHAPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        if not isinstance(self.size, (int, float)) or not SIZE_MIN <= self.size <= SIZE_MAX:
            raise ValueError(f"size must be between {SIZE_MIN:g} and {SIZE_MAX:g}, not {self.size!r}")
        if self.canvas is not None:
            self.pixels(SIDE_MIN)
        elif (self.place, self.size) != (PLACES[0], 1.0):
            raise ValueError("place and size need a canvas to stand in")

    @property
    def is_plain(self) -> bool:
        """Whether nothing is composed: the avatar's square, or its full frame, as it is drawn."""
        return self == Composition()

    @property
    def cuts_out(self) -> bool:
        """Whether the person's outline is needed."""
        return self.shape == SHAPES[0] and self.background is not None

    def pixels(self, side: int) -> tuple[int, int]:
        """Width and height of the canvas, of an avatar with so many pixels. Errors: ValueError when it can't be read."""
        if self.canvas is None:
            return side, side
        if self.canvas in CANVASES:
            return CANVASES[self.canvas]
        found = re.fullmatch(r"(\d{2,4})[x×](\d{2,4})", self.canvas)
        size = (int(found[1]), int(found[2])) if found else (0, 0)
        if not all(SIDE_MIN <= each <= SIDE_MAX for each in size):
            sizes = f"like 1080x1920, {SIDE_MIN} to {SIDE_MAX} pixels each"
            raise ValueError(f"canvas must be one of {', '.join(CANVASES)}, or {sizes}, not {self.canvas!r}")
        return size


def colour_of(text: str) -> np.ndarray | None:
    """(3,) uint8 RGB of "#rrggbb" or a name; None for anything else."""
    found = re.fullmatch(r"#([0-9a-fA-F]{6})", NAMED_COLOURS.get(text.lower(), text))
    return np.frombuffer(bytes.fromhex(found[1]), np.uint8) if found else None
