"""Captions: cues from words and from files, written beside a video, and drawn into its pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from gmtalker.errors import UnusableInput
from gmtalker.files import whole_file

SUFFIXES = (".srt", ".vtt")
STYLES = ("lines", "words")
CAPTION_PLACES = ("bottom", "middle", "top")
CAPTION_SIZES, USUAL_SIZE = {"small": 0.75, "medium": 1.0, "large": 1.4}, "medium"
LETTERS_MAX, SECONDS_MAX, SECONDS_MIN = 64, 6.0, 0.8  # of a cue
PAUSE = 0.6  # seconds of silence after which a new cue begins
HOLD = 0.5  # seconds for which a cue stays after its last word
ENDS = (".", "!", "?", "…")
CUES_MAX, FILE_BYTES_MAX = 10_000, 2_000_000
HEIGHT, WORD_HEIGHT, WIDTH = 0.055, 0.075, 0.86  # of letters, in the picture's shorter side; of a line, in its width
AWAY = {"bottom": 0.03, "middle": 0.0, "top": 0.12}  # of the height: below the chin; a label may stand at the top
PLATE, PADDING = 0.62, 0.35  # opacity of the plate behind; its rim in letter heights
FONT = "DejaVuSans-Bold.ttf"  # comes with matplotlib: Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew, Arabic
# Of the fonts of a machine those first whose names say that they are read easily on a screen.
PREFERRED = ("notosanscjk", "notosans", "pingfang", "hiragino", "msyh", "dejavusans", "liberationsans", "arial")


@dataclass(frozen=True)
class Cue:
    """A caption. begin, end: seconds."""

    text: str
    begin: float
    end: float


def cues_of(words: Sequence[Cue]) -> tuple[Cue, ...]:
    """Captions of words that are said, each a cue of its own: divided at ends of sentences, pauses, and where they get long."""
    groups: list[list[Cue]] = []
    for word in words:
        if groups:
            group = groups[-1]
            text = " ".join(each.text for each in (*group, word))
            is_full = len(text) > LETTERS_MAX or word.end - group[0].begin > SECONDS_MAX
            if not (is_full or group[-1].text.endswith(ENDS) or word.begin - group[-1].end > PAUSE):
                group.append(word)
                continue
        groups.append([word])
    cues = []
    for number, group in enumerate(groups):
        after = groups[number + 1][0].begin if number + 1 < len(groups) else np.inf
        end = min(max(group[-1].end + HOLD, group[0].begin + SECONDS_MIN), after)
        cues.append(Cue(" ".join(word.text for word in group), group[0].begin, max(end, group[-1].end)))
    return tuple(cues)


def read_cues(path: Path) -> tuple[Cue, ...]:
    """The cues of an SRT or WebVTT file, in their order. Errors: UnusableInput when it can't be read, or has none."""
    import webvtt
    from webvtt.errors import MalformedCaptionError, MalformedFileError

    path = Path(path)
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise UnusableInput(f"{path.name} is too large for captions.")
        text = path.read_text(encoding="utf-8-sig").strip() + "\n"
        is_vtt = text.startswith("WEBVTT")
        found = webvtt.from_string(text) if is_vtt else webvtt.from_string(_as_vtt(text))
        cues = [Cue(_plain(each.text).strip(), _seconds(each.start), _seconds(each.end)) for each in found]
        cues = [cue for cue in cues if cue.text and cue.end > cue.begin]
    except OSError as error:
        raise UnusableInput(f"The captions {path.name} can't be read: {error.strerror}.") from error
    except (MalformedCaptionError, MalformedFileError, ValueError) as error:
        raise UnusableInput(f"{path.name} holds no captions that can be read; SRT and WebVTT are.") from error
    if not cues or len(cues) > CUES_MAX:
        raise UnusableInput(f"{path.name} holds {'no' if not cues else 'too many'} captions.")
    return tuple(sorted(cues, key=lambda cue: cue.begin))


def _as_vtt(text: str) -> str:
    """SRT as WebVTT: the times with a point, and hours of two digits."""
    times = re.sub(r"(\d+):(\d\d):(\d\d),(\d{3})", lambda time: f"{int(time[1]):02}:{time[2]}:{time[3]}.{time[4]}", text)
    return "WEBVTT\n\n" + times.replace("\r\n", "\n")


def _seconds(time: str) -> float:
    """Seconds of "01:02:03.456"; webvtt's own are whole."""
    hours, minutes, seconds = time.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _plain(text: str) -> str:
    return re.sub(r"<[^>]*>|\{\\[^}]*\}", "", text)


def write_cues(cues: Sequence[Cue], path: Path) -> None:
    """Write an SRT or WebVTT file, by its suffix. Errors: OSError when it can't be written."""
    import webvtt

    captions = webvtt.WebVTT(captions=[webvtt.Caption(_time(cue.begin), _time(cue.end), cue.text) for cue in cues])
    with whole_file(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        captions.write(file, format=Path(path).suffix[1:])


def _time(seconds: float) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{thousandths:03}"


# --- Into the picture ----------------------------------------------------------------------------------------------------------


class Captioner:
    """Draws the captions of one video into its frames.

    cues: in their order.
    place: one of CAPTION_PLACES.
    style: "lines"; or "words", for cues of one word each, which are drawn larger.
    size: one of CAPTION_SIZES.
    Errors: UnusableInput naming letters for which this machine has no font.
    """

    def __init__(
        self, cues: Sequence[Cue], place: str = CAPTION_PLACES[0], style: str = STYLES[0], size: str = USUAL_SIZE
    ) -> None:
        self.cues, self.place, self.style, self.scale = cues, place, style, CAPTION_SIZES[size]
        self._font = font_for("".join(cue.text for cue in cues))
        self._next, self._drawn = 0, lru_cache(maxsize=1)(self._plate)

    def __call__(self, frame: np.ndarray, second: float) -> np.ndarray:
        """A frame (height, width, 3 or 4) uint8, with what is to be read at this second; seconds rise from call to call."""
        while self._next + 1 < len(self.cues) and self.cues[self._next + 1].begin <= second:
            self._next += 1
        cue = self.cues[self._next]
        if not cue.begin <= second < cue.end:
            return frame
        height, width = frame.shape[:2]
        plate = self._drawn(cue.text, width, height)
        top = {"bottom": height - plate.shape[0], "middle": (height - plate.shape[0]) // 2, "top": 0}[self.place]
        top = min(max(top + round(AWAY[self.place] * height) * (-1 if self.place == "bottom" else 1), 0), height - plate.shape[0])
        left = (width - plate.shape[1]) // 2
        captioned = frame.copy()
        under = captioned[top : top + plate.shape[0], left : left + plate.shape[1]]
        share = plate[..., 3:].astype(np.float32) / 255
        under[..., :3] = np.rint(plate[..., :3] * share + under[..., :3] * (1 - share)).astype(np.uint8)
        if frame.shape[2] == 4:
            under[..., 3] = np.maximum(under[..., 3], plate[..., 3])
        return captioned

    def _plate(self, text: str, width: int, height: int) -> np.ndarray:
        """(h, w, 4) uint8 RGBA: the words of a cue on their plate, no larger than the picture."""
        from PIL import Image, ImageDraw

        size = max(9, round((WORD_HEIGHT if self.style == "words" else HEIGHT) * self.scale * min(width, height)))
        while True:
            font = _font(self._font, size)
            lines = [line for part in text.splitlines() for line in wrapped(part, font.getlength, WIDTH * width)]
            padding = round(PADDING * size)
            box = max(font.getlength(line) for line in lines) + 2 * padding, len(lines) * 1.25 * size + 2 * padding
            if (box[0] <= width and box[1] <= 0.6 * height) or size <= 6:
                break
            size = round(size * 0.85)
        picture = Image.new("RGBA", (min(round(box[0]), width), min(round(box[1]), height)))
        draw = ImageDraw.Draw(picture)
        draw.rounded_rectangle((0, 0, picture.width - 1, picture.height - 1), padding, (0, 0, 0, round(255 * PLATE)))
        for number, line in enumerate(lines):
            draw.text((picture.width / 2, padding + (number + 0.5) * 1.25 * size), line, "white", font, anchor="mm")
        return np.asarray(picture)


def wrapped(text: str, length, width: float) -> Iterator[str]:
    """A text in lines that are at most so wide: divided at spaces, and within what has none and is too long.

    length: of a text, in the unit of width.
    """
    line = ""
    for word in re.findall(r"\S+", text):
        longer = f"{line} {word}".strip()
        if length(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        line = ""
        for letter in word:  # Chinese and Japanese have no spaces
            if line and length(line + letter) > width:
                yield line
                line = ""
            line += letter
    if line:
        yield line


@cache
def _font(path: Path, size: int):
    from PIL import ImageFont

    return ImageFont.truetype(str(path), size)


def font_for(text: str) -> Path:
    """A font that has all letters of a text. Errors: UnusableInput naming a letter that no font of this machine has."""
    needed = frozenset(ord(letter) for letter in text if not letter.isspace() and letter.isprintable())
    missing: frozenset[int] = needed
    for path in _fonts():
        lacks = needed - _letters_of(path)
        if not lacks:
            return path
        missing = min(missing, lacks, key=len)
    raise UnusableInput(
        f"No font of this machine has the letter {chr(min(missing))!r} of the captions; install one, such as Noto Sans CJK."
    )


@cache
def _fonts() -> tuple[Path, ...]:
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    def rank(path: Path) -> tuple[int, bool, str]:
        name = path.name.lower().replace("-", "").replace("_", "")
        place = next((number for number, part in enumerate(PREFERRED) if name.startswith(part)), len(PREFERRED))
        return place, "bold" not in name or "italic" in name or "oblique" in name, name

    return Path(matplotlib.get_data_path(), "fonts", "ttf", FONT), *sorted(map(Path, findSystemFonts()), key=rank)


@cache
def _letters_of(path: Path) -> frozenset[int]:
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, OSError, ValueError, KeyError):
        return frozenset()  # a font that can't be read has no letters
