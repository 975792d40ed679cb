"""What is said in training recordings, on the 25 fps clock, from files that list phones with their end times."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gmtalker.clock import FPS
from gmtalker.models.articulation import ARTICULATION_DIM, CLOSED, ROUNDED, SPEAKING
from gmtalker.models.speech_encoder import IGNORED

# One class for what sounds and looks alike in German and English. Class 0 is silence.
PHONES = (
    "sil", "p", "b", "m", "f", "v", "t", "d", "n", "s", "z", "l", "S", "C", "x", "k", "g", "N", "R", "h", "j",
    "i", "I", "y", "e", "E", "2", "a", "o", "O", "u", "U", "@", "6", "aI", "aU", "OY",
)  # fmt: skip

# Other spellings of these phones: EmoDB's, and those of flite's and Festival's English (ARPAbet).
SPELLINGS = {
    ".": "sil", "_": "sil", "pau": "sil", "#": "sil", "SIL": "sil", "h#": "sil",
    "X": "R", "r": "R", "B": "v", "V": "v", "H": "h", "L": "l", "Y": "y", "9": "2", "G": "g", "D": "d",
    "A": "a", "i6": "i", "a6": "a", "E6": "E", "@6": "6",
    "iy": "i", "ih": "I", "ey": "e", "eh": "E", "ae": "E", "aa": "a", "ah": "a", "ao": "O", "ow": "o", "uh": "U", "uw": "u",
    "ax": "@", "er": "6", "ay": "aI", "aw": "aU", "oy": "OY", "sh": "S", "ng": "N", "hh": "h", "y_": "j", "dh": "d", "th": "s",
}  # fmt: skip
LABIALS = {"p", "b", "m", "ph", "bh", "pp", "bb", "mm", "pj", "bj", "mj", "p1", "b1", "m1", "P", "M"}
STOPS = {"p", "b", "ph", "bh", "pp", "bb", "pj", "bj", "p1", "b1", "P"}
ROUND = {
    "u",
    "U",
    "o",
    "O",
    "y",
    "2",
    "9",
    "Y",
    "w",
    "uw",
    "uh",
    "ow",
    "oh",
    "ao",
    "oy",
    "OY",
    "u1",
    "o1",
    "uo",
    "oo",
    "uu",
    "ou",
    "aU",
    "aw",
}
SILENCES = {name for name, phone in SPELLINGS.items() if phone == "sil"} | {"sil"}
STOP_SHUT = 0.65  # of a stop's length, after which its lips may be open again
FRAME_SHARE = 0.5  # of a frame that a phone must fill to be that frame's

Segment = tuple[float, float, str]  # start and end in seconds, and the phone's name


def read_segments(path: Path) -> list[Segment]:
    """The phones of a label file: `end [number] name` a line, after a line `#` where there is one (EmoDB has one)."""
    lines = path.read_text(encoding="latin-1").splitlines()
    lines = lines[lines.index("#") + 1 :] if "#" in lines else lines
    segments, start = [], 0.0
    for line in lines:
        end, *rest = line.split("\t")[0].split()  # what follows the tab is how the phone is spoken
        name = rest[-1] if rest and not rest[-1].lstrip("-").isdigit() else None
        # A line without a phone continues the one before: only the way it is spoken changed.
        segments.append((start, float(end), name or (segments[-1][2] if segments else "?")))
        start = float(end)
    return segments


def phone_classes(segments: list[Segment], frames: int) -> np.ndarray:
    """(frames,) class of PHONES in the middle of each frame, IGNORED where unknown or after the last segment."""
    middle = (np.arange(frames) + 0.5) / FPS
    classes = [_phone(name) for _, _, name in segments]
    return np.append(classes, IGNORED)[np.searchsorted([end for _, end, _ in segments], middle)].astype(np.int64)


def articulation_of(segments: list[Segment], frames: int) -> np.ndarray:
    """(frames, 3) 0 or 1 in the columns of articulation.py, NaN where unknown.

    A phone is that of every frame it fills half of, and of the frame around its middle: at double speed some are shorter than a
    frame. Of a stop the first part is shut; what follows may be either.
    """
    target = np.full((frames, ARTICULATION_DIM), np.nan, np.float32)
    for start, end, name in segments:
        spoken = name not in SILENCES
        for frame in _frames_of(start, end, frames):
            target[frame] = np.nan_to_num(target[frame], nan=0.0)
            target[frame, SPEAKING] = float(spoken)
    for start, end, name in segments:
        bare = name.lstrip("_") if name not in SILENCES else name
        if bare.startswith("!") or (bare.endswith("asp") and len(bare) > 3):  # EmoDB's release of a stop, and its breath
            target[_frames_of(start, end, frames), CLOSED] = np.nan
        elif bare in LABIALS:
            shut = start + (STOP_SHUT if bare in STOPS else 1.0) * (end - start)
            target[_frames_of(shut, end, frames), CLOSED] = np.nan
            target[_frames_of(start, shut, frames), CLOSED] = 1.0
        elif bare in ROUND:
            target[_frames_of(start, end, frames), ROUNDED] = 1.0
    return target


def _frames_of(start: float, end: float, frames: int) -> list[int]:
    """The frames that are a segment's."""
    if end <= start:
        return []
    first, last = int(start * FPS), min(int(np.ceil(end * FPS)), frames)
    filled = [frame for frame in range(first, last) if min(end * FPS, frame + 1) - max(start * FPS, frame) >= FRAME_SHARE]
    middle = int((start + end) / 2 * FPS)
    return filled or ([middle] if middle < frames else [])


def _phone(name: str) -> int:
    """The class of a phone: closure (_), release (!) and aspiration (asp) belong to it."""
    name = name.removesuffix("asp") if len(name) > 3 else name
    name = name.lstrip("_!") or "_"
    name = SPELLINGS.get(name, name)
    return PHONES.index(name) if name in PHONES else IGNORED
