"""What is said in training recordings, on the 25 fps clock: phones of EmoDB, words of GRID, sentences of RAVDESS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gmtalker.clock import FPS
from gmtalker.models.speech_encoder import IGNORED

# One class for what sounds and looks alike in German and English. Class 0 is silence.
PHONES = (
    "sil", "p", "b", "m", "f", "v", "t", "d", "n", "s", "z", "l", "S", "C", "x", "k", "g", "N", "R", "h", "j",
    "i", "I", "y", "e", "E", "2", "a", "o", "O", "u", "U", "@", "6", "aI", "aU", "OY",
)  # fmt: skip

# Other spellings of these phones.
SPELLINGS = {
    ".": "sil", "_": "sil", "X": "R", "r": "R", "B": "v", "V": "v", "H": "h", "L": "l", "Y": "y", "9": "2", "G": "g", "D": "d",
    "A": "a", "i6": "i", "a6": "a", "E6": "E", "@6": "6",
}  # fmt: skip
GRID_WORDS = (
    "sil", "a", "again", "at", "b", "bin", "blue", "by", "c", "d", "e", "eight", "f", "five", "four", "g", "green", "h", "i",
    "in", "j", "k", "l", "lay", "m", "n", "nine", "now", "o", "one", "p", "place", "please", "q", "r", "red", "s", "set", "seven",
    "six", "soon", "t", "three", "two", "u", "v", "white", "with", "x", "y", "z", "zero",
)  # fmt: skip
GRID_TICKS = 25_000  # per second, of GRID's alignments
RAVDESS_SENTENCES = {
    "01": "k I d z a R t O k I N b aI d @ d O R",  # Kids are talking by the door
    "02": "d O g z a R s I t I N b aI d @ d O R",  # Dogs are sitting by the door
}


def phone_classes(path: Path, frames: int) -> np.ndarray:
    """Phones from an EmoDB label file, which lists phones with their end times.

    frames: how many of the recording to label.
    Returns: (frames,) class of PHONES in the middle of each frame, IGNORED where unknown.
    """
    ends, classes = [], []
    lines = path.read_text(encoding="latin-1").splitlines()
    for line in lines[lines.index("#") + 1 :]:
        end, _, *phone = line.split("\t")[0].split()  # what follows the tab is how the phone is spoken
        # A line without a phone continues the one before: only the way it is spoken changed.
        classes.append(_phone(phone[0]) if phone else (classes[-1] if classes else IGNORED))
        ends.append(float(end))
    return _at_frames(ends, classes, frames)


def word_classes(path: Path, frames: int) -> np.ndarray:
    """Words from a GRID alignment, which lists start, end and word.

    frames: how many of the recording to label.
    Returns: (frames,) class of GRID_WORDS in the middle of each frame, IGNORED where unknown.
    """
    ends, classes = [], []
    for line in path.read_text(encoding="ascii").splitlines():
        _, end, word = line.split()
        ends.append(int(end) / GRID_TICKS)
        word = "sil" if word == "sp" else word
        classes.append(GRID_WORDS.index(word) if word in GRID_WORDS else IGNORED)
    return _at_frames(ends, classes, frames)


def sentence_phones(file: str) -> np.ndarray | None:
    """The sentence of a RAVDESS recording, by the fifth field of its name.

    Returns: (phones,) classes of PHONES in order, None for another file.
    """
    fields = Path(file).stem.split("-")
    sentence = RAVDESS_SENTENCES.get(fields[4]) if len(fields) == 7 else None
    return None if sentence is None else np.array([PHONES.index(phone) for phone in sentence.split()])


def _phone(name: str) -> int:
    """The class of a phone as EmoDB spells it: closure (_), release (!) and aspiration (asp) belong to the phone."""
    name = name.removesuffix("asp") if len(name) > 3 else name
    name = name.lstrip("_!") or "_"
    name = SPELLINGS.get(name, name)
    return PHONES.index(name) if name in PHONES else IGNORED


def _at_frames(ends: list[float], classes: list[int], frames: int) -> np.ndarray:
    """(frames,) class of the segment that holds the middle of each frame; IGNORED after the last end."""
    middle = (np.arange(frames) + 0.5) / FPS
    return np.append(classes, IGNORED)[np.searchsorted(ends, middle)].astype(np.int64)
