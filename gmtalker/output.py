"""How a finished video is written: its format, what is behind the person, and its captions."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path

from gmtalker.media.captions import CAPTION_PLACES, CAPTION_SIZES, STYLES, SUFFIXES, USUAL_SIZE
from gmtalker.media.composition import BLUR, PLACES, SHAPES, Composition, colour_of
from gmtalker.media.formats import DEFAULT_RATE, FORMATS, RATES, VideoFormat

SPOKEN = "spoken"  # for captions: what is said, of a text
BESIDE = ("srt", "vtt")
GREEN = "#00b140"  # of a green screen, where none is given


@dataclass(frozen=True)
class OutputOptions:
    """How a finished video is written.

    format: one of FORMATS.
    fps: frames a second: "24", "25", "29.97", "30", "50" or "60".
    background, canvas, place, size, shape: as in Composition.
    captions: drawn into the picture: "spoken", what is said (of a text), or an .srt or .vtt file.
    caption_style: "lines", or "words", one at a time.
    caption_place: "bottom", "middle" or "top".
    caption_size: "small", "medium" or "large".
    subtitles: a file of what is said beside the video, "srt" or "vtt".
    Errors: ValueError naming the valid choices, or two that contradict each other.
    """

    format: str = "mp4"
    fps: str = DEFAULT_RATE
    background: str | None = None
    canvas: str | None = None
    place: str = PLACES[0]
    size: float = 1.0
    shape: str = SHAPES[0]
    captions: str | None = None
    caption_style: str = STYLES[0]
    caption_place: str = CAPTION_PLACES[0]
    caption_size: str = USUAL_SIZE
    subtitles: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", f"{self.fps:g}" if isinstance(self.fps, (int, float)) else self.fps)
        choices = {
            "format": FORMATS,
            "fps": sorted(RATES),
            "caption_style": STYLES,
            "caption_place": CAPTION_PLACES,
            "caption_size": CAPTION_SIZES,
            "subtitles": (None, *BESIDE),
        }
        for name, valid in choices.items():
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} must be one of {', '.join(filter(None, valid))}, not {getattr(self, name)!r}")
        for name in ("background", "canvas", "captions"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be text, not {getattr(self, name)!r}")
        self.composition  # noqa: B018 - which is checked by itself
        if self.captions not in (None, SPOKEN) and not self.captions.lower().endswith(SUFFIXES):
            raise ValueError(f"captions must be {SPOKEN!r}, or an .srt or .vtt file, not {self.captions!r}")
        if self.file.has_alpha and self.background is not None:
            raise ValueError(f"{self.format} has a transparent background; leave out the background")
        if self.file.has_alpha and self.shape != SHAPES[0]:
            raise ValueError(f"{self.format} holds the person cut out; leave out the shape")
        if self.format == "green" and self.background is not None and colour_of(self.background) is None:
            raise ValueError("the background of a green screen is a colour, such as #00b140")

    @property
    def file(self) -> VideoFormat:
        """How the file is written."""
        return FORMATS[self.format]

    @property
    def rate(self) -> Fraction:
        """Frames a second."""
        return RATES[self.fps]

    @property
    def composition(self) -> Composition:
        """What is behind the person, and where they stand. Errors: ValueError naming the valid choices."""
        behind = (self.background or GREEN) if self.format == "green" else self.background
        return Composition(behind, self.canvas, self.place, self.size, self.shape)

    @property
    def needs_outline(self) -> bool:
        """Whether the person is cut out."""
        return self.file.has_alpha or self.composition.cuts_out

    @property
    def backdrop(self) -> Path | None:
        """The file behind the person, if it is one."""
        is_file = self.background not in (None, BLUR) and colour_of(self.background) is None
        return Path(self.background) if is_file else None

    def words(self) -> list[str]:
        """The options of a command line that say the same; those that are as usual are left out."""
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words.append(
                    f"--{field.name.replace('_', '-')}={value:g}"
                    if field.name == "size"
                    else f"--{field.name.replace('_', '-')}={value}"
                )
        return words

    def to_json(self) -> dict[str, object]:
        """What differs from the usual, ready for json.dumps, such that it means the same from any folder."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) != field.default}
        if self.backdrop is not None:
            values["background"] = os.path.abspath(self.backdrop)
        if self.captions not in (None, SPOKEN):
            values["captions"] = os.path.abspath(self.captions)
        return values

    @classmethod
    def from_json(cls, values: object) -> OutputOptions:
        """What to_json wrote. Errors: ValueError for anything else."""
        if not isinstance(values, dict):
            raise ValueError("its output must be an object")
        if unknown := set(values) - {field.name for field in fields(cls)}:
            raise ValueError(f"its output holds {min(map(str, unknown))!r}, which no request has")
        return cls(**values)
