"""An avatar: a folder of data that is checked before it is loaded."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from gmtalker.avatars.workspace import clean_name
from gmtalker.errors import UnusableAvatar, first_line
from gmtalker.files import MEGABYTE, whole_file

if TYPE_CHECKING:
    from gmtalker.avatars.background import Background
    from gmtalker.avatars.emotion_offsets import EmotionOffsets
    from gmtalker.avatars.habits import MotionHabits
    from gmtalker.face.person import PersonFace
    from gmtalker.models.emotion_mapping import EmotionMapping
    from gmtalker.models.head_generator import HeadGenerator

CARD = "avatar.json"
LARGEST_FILE = {
    ".json": MEGABYTE,
    ".md": MEGABYTE,
    ".safetensors": 400 * MEGABYTE,
    ".mp4": 100 * MEGABYTE,
    ".jpg": 4 * MEGABYTE,
    ".png": 20 * MEGABYTE,
}
LARGEST_AVATAR = 1000 * MEGABYTE
MOST_FILES = 64
WHO_MAX = 200  # letters of the name of whoever agreed
# Formats whose readers run code from the file: an avatar that holds one was not made by this project.
CODE_SUFFIXES = frozenset(".bin .pt .pth .pkl .pickle .ckpt .joblib .npy .npz .h5 .py .pyc .so .dll .exe .sh .bat".split())
REQUIRED = (CARD, "face.safetensors", "head_generator/config.json", "emotion_mapping/config.json")


@dataclass(frozen=True, eq=False)
class Avatar:
    """A person, ready to be drawn.

    name: as people call it.
    folder: where its files are.
    card: avatar.json.
    face: the person's face: shape, reference picture, usual motion.
    head_generator, emotion_mapping: the person's networks, in eval mode.
    speaking_style: folder of the LoRA and the accent of the expression generator; None when the person's clips held no sound.
    emotion_offsets: how the person shows each emotion; None when no clip had a label.
    motion_habits: how the person moves; None for an avatar that was made before they were measured.
    background: what is behind the person; None where it moves, or for an avatar without a matte.
    """

    name: str
    folder: Path
    card: dict[str, Any]
    face: PersonFace
    head_generator: HeadGenerator
    emotion_mapping: EmotionMapping
    speaking_style: Path | None
    emotion_offsets: EmotionOffsets | None = None
    motion_habits: MotionHabits | None = None
    background: Background | None = None

    @property
    def has_matte(self) -> bool:
        """Whether its head generator also draws the person's outline."""
        return bool(self.head_generator.config.has_matte)


def read_avatar(folder: Path) -> Avatar:
    """Check an avatar's folder and load it.

    Errors: UnusableAvatar when it is missing, holds code, is too large, or lacks a weight.
    """
    # Late: the page lists avatars before the networks' libraries are imported, which takes seconds.
    from gmtalker.avatars.background import Background
    from gmtalker.avatars.emotion_offsets import EmotionOffsets
    from gmtalker.avatars.habits import MotionHabits
    from gmtalker.face.person import PersonFace
    from gmtalker.models.emotion_mapping import EmotionMapping
    from gmtalker.models.head_generator import HeadGenerator
    from gmtalker.models.weights import load_strict

    card = read_card(folder)
    check_files(folder)
    name = card["name"]
    try:
        face = PersonFace.load(folder / "face.safetensors")
        head_generator = load_strict(HeadGenerator, folder / "head_generator")
        emotion_mapping = load_strict(EmotionMapping, folder / "emotion_mapping")
        offsets, habits = EmotionOffsets.load(folder), MotionHabits.load(folder)
        has_matte, size = head_generator.config.has_matte, int(head_generator.config.size)
        background = Background.load(folder, size) if has_matte else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UnusableAvatar(f"The avatar {name!r} is broken ({first_line(error)}); make or import it again.") from error
    style = folder / "speaking_style" if (folder / "speaking_style").is_dir() else None
    return Avatar(name, folder, card, face, head_generator, emotion_mapping, style, offsets, habits, background)


def read_card(folder: Path) -> dict[str, Any]:
    """avatar.json of an avatar's folder, checked.

    Returns: its name, and objects for consent (who, when, words), source, training, measures, versions and hub (repo and
        revision, of an avatar that was pulled from the Hub or pushed to it).
    Errors: UnusableAvatar when it is missing, broken or too large.
    """
    path = folder / CARD
    try:
        if path.stat().st_size > LARGEST_FILE[".json"]:
            raise ValueError(f"{CARD} is too large")
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict) or not isinstance(card.get("name"), str):
            raise ValueError(f"{CARD} has no name")
        card["name"] = clean_name(card["name"])
        consent = card.get("consent")
        if not isinstance(consent, dict) or not all(isinstance(consent.get(key), str) for key in ("who", "when", "words")):
            raise ValueError(f"{CARD} does not say who agreed, when, and in which words")
        if len(consent["who"]) > WHO_MAX or not consent["who"].isprintable() or "withdrawn" in card:
            raise ValueError(f"the consent in {CARD} names nobody, or was withdrawn")
        for key in ("source", "training", "measures", "versions", "hub"):
            if not isinstance(card.get(key, {}), dict):
                raise ValueError(f"{key} in {CARD} is not an object")
    except FileNotFoundError as error:
        raise UnusableAvatar(f"{folder.name} is not an avatar: it has no {CARD}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableAvatar(f"{folder.name} is not a usable avatar ({first_line(error)}).") from error
    return card


def card_json(card: Mapping[str, Any]) -> str:
    """The text of avatar.json."""
    return json.dumps(card, ensure_ascii=False, indent=2) + "\n"


def save_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write avatar.json of a folder, whole or not at all. Errors: OSError when it can't be written."""
    with whole_file(folder / CARD) as unfinished:
        unfinished.write_text(card_json(card), encoding="utf-8")


def data_files(folder: Path) -> dict[str, Path]:
    """The files that an avatar is handed on with: all but hidden ones (.DS_Store, .gitattributes).

    Returns: path within the avatar, with forward slashes -> file here.
    """
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path for path in found}


def check_place(name: str) -> None:
    """Check that a file from a stranger may stand at this path within an avatar.

    Errors: ValueError for a path that leaves the avatar, or for a file that can run code.
    """
    place = PurePosixPath(name)
    safe = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*", name) and ".." not in place.parts and len(place.parts) <= 3
    if not safe or place.suffix.lower() in CODE_SUFFIXES:
        raise ValueError(f"it holds {name!r}")


def check_files(folder: Path) -> None:
    """Check what an avatar's folder holds, without loading anything.

    Errors: UnusableAvatar for a missing file, a file that can run code, a link, or too much of anything.
    """
    total = 0
    for count, path in enumerate(folder.rglob("*"), start=1):
        state = path.lstat()
        shown = path.relative_to(folder).as_posix()
        if count > MOST_FILES:
            raise UnusableAvatar(f"The avatar in {folder.name} holds more than {MOST_FILES} files.")
        if not stat.S_ISDIR(state.st_mode) and not stat.S_ISREG(state.st_mode):
            raise UnusableAvatar(f"The avatar in {folder.name} holds a link ({shown}); avatars hold plain files only.")
        if path.suffix.lower() in CODE_SUFFIXES:
            raise UnusableAvatar(f"The avatar in {folder.name} holds {shown}, a kind of file that can run code.")
        total += state.st_size if stat.S_ISREG(state.st_mode) else 0
        if state.st_size > LARGEST_FILE.get(path.suffix.lower(), LARGEST_AVATAR) or total > LARGEST_AVATAR:
            raise UnusableAvatar(f"The avatar in {folder.name} is too large ({shown}).")
    for name in REQUIRED:
        if not (folder / name).is_file():
            raise UnusableAvatar(f"The avatar in {folder.name} is incomplete: {name} is missing.")
