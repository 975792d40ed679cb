"""Clips to train on and to measure on: a folder with a MANIFEST.csv, or a public set as it lies on disk."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.media.video import read_info

MANIFEST = "manifest"  # name of the set that a folder's own MANIFEST.csv describes
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".flv", ".avi")
LEVELS = {"1": 0.6, "2": 0.8, "3": 1.0}  # MEAD's level of an emotion as its weight; the rest is neutral
WHOLE = 24 * 3600.0  # training seconds of a clip that is trained on to its end

# MEAD: the four people that EAMM, EAT and others after them keep for testing.
MEAD_TEST = frozenset({"M003", "M030", "W009", "W015"})

# CREMA-D has no official split. These are the test speakers of Vougioukas, Petridis, Pantic, "Realistic speech-driven facial
# animation with GANs" (2019), as far as we remember them: compare with their list before citing a figure.
CREMAD_TEST = frozenset(f"10{number}" for number in (15, 20, 21, 30, 33, 52, 62, 81, 82, 89))
CREMAD_EMOTIONS = {"ANG": "angry", "DIS": "disgusted", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
CREMAD_LEVELS = {"LO": 0.6, "MD": 0.8, "HI": 1.0, "XX": 0.8}
LSP_TRAIN_SHARE = 0.8  # Live Speech Portraits trains on the first part of each person's one video and tests on the rest
HDTF_TEST_EVERY = 20  # HDTF has no official split: every twentieth person, by name, is tested on (our choice)


@dataclass(frozen=True)
class Row:
    """One clip of a set.

    path: where the file is.
    file: its name within the set.
    kind: what it is used for, such as "speech" or "emotion".
    person: whom it shows.
    train_seconds: how much of it, from its start, may be trained on; 0 for a test clip.
    speech: whether somebody speaks in it.
    emotion: its label, None without one.
    sync: "ok" where sound and picture belong together.
    level: weight of the labelled emotion; the rest is neutral.
    sound: the file with its sound, where that is not the clip itself.
    test: whether it is kept for testing.
    dataset: name of the set.
    graded: whether the set says how strongly the emotion is shown; otherwise `level` is a guess.
    """

    path: Path
    file: str
    kind: str
    person: str
    train_seconds: float
    speech: bool
    emotion: str | None
    sync: str
    level: float = 1.0
    sound: Path | None = None
    test: bool = False
    dataset: str = MANIFEST
    graded: bool = False

    @property
    def is_video(self) -> bool:
        """Whether it has a picture; the others are sound files."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def heard_in(self) -> Path:
        """The file with its sound."""
        return self.sound or self.path

    @property
    def set_folder(self) -> Path:
        """The first folder of `file`, in which a set within a manifest has its labels."""
        return self.path.parents[max(len(Path(self.file).parts) - 2, 0)]


def read_rows(root: Path, dataset: str = MANIFEST) -> list[Row]:
    """Every clip of a set, training and test.

    root: the folder of the set.
    dataset: one of READERS.
    Errors: UnusableInput when root does not hold that set.
    """
    rows = [replace(row, dataset=dataset) for row in READERS[dataset](Path(root))]
    if not rows:
        raise UnusableInput(f"{root} holds no clip named as those of {dataset} are: {LAYOUTS[dataset]}.")
    return rows


def training_rows(root: Path, dataset: str = MANIFEST) -> list[Row]:
    """The clips of a set that may be trained on, never a test clip. Parameters and errors: as for read_rows."""
    return [row for row in read_rows(root, dataset) if not row.test and row.train_seconds > 0]


def clips_to_measure(root: Path, dataset: str, person: str) -> tuple[list[Row], float]:
    """A person's test clips.

    Returns: the clips, and the second from which on they were not trained on.
    Errors: UnusableInput when there are none; it names the people who have some.
    """
    rows = [row for row in read_rows(root, dataset) if row.test or row.train_seconds < WHOLE]
    own = [row for row in rows if row.person == person]
    if not own:
        people = ", ".join(sorted({row.person for row in rows})) or "nobody"
        raise UnusableInput(f"{dataset} has no test clip of {person}; it has some of {people}.")
    return own, 0.0 if own[0].test else own[0].train_seconds


def source_of(rows: Sequence[Row]) -> str:
    """The options of a command line that name the set of these rows."""
    dataset = rows[0].dataset if rows else MANIFEST
    return "--data DIR" if dataset == MANIFEST else f"--dataset {dataset} --root DIR"


def read_manifest(root: Path) -> Iterable[Row]:
    """The rows of a folder's MANIFEST.csv. Errors: UnusableInput when there is none."""
    manifest = Path(root) / "MANIFEST.csv"
    if not manifest.is_file():
        raise UnusableInput(f"{root} holds no MANIFEST.csv; it needs at least the columns file, split, person, seconds.")
    with manifest.open(newline="", encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            test = line["split"] != "train"
            yield Row(
                Path(root) / line["file"],
                line["file"],
                line.get("kind", ""),
                line["person"],
                0.0 if test else float(line.get("train_seconds") or line.get("seconds") or 0),
                line.get("speech", "yes") == "yes",
                line.get("emotion") or None,
                line.get("sync", "ok"),
                LEVELS.get(line.get("level") or "", 1.0),
                test=test,
                graded=bool(line.get("level")),
            )


def _mead(root: Path) -> Iterable[Row]:
    """MEAD (Wang et al. 2020): person/video/front/emotion/level_n/nnn.mp4, sound in person/audio/emotion/level_n/nnn.m4a."""
    for path in sorted(root.glob("*/video/front/*/level_*/*.mp4")):
        person, _, _, emotion, level = path.relative_to(root).parts[:5]
        if emotion not in EMOTIONS:
            continue
        sound = root / person / "audio" / emotion / level / f"{path.stem}.m4a"
        weight = 1.0 if emotion == "neutral" else LEVELS.get(level.removeprefix("level_"), 1.0)
        sound = sound if sound.is_file() else None
        yield _row(root, path, person, person in MEAD_TEST, emotion, weight, sound)


def _cremad(root: Path) -> Iterable[Row]:
    """CREMA-D (Cao et al. 2014): VideoFlash/1001_DFA_ANG_XX.flv, sound in AudioWAV/1001_DFA_ANG_XX.wav."""
    for path in sorted(root.glob("VideoFlash/*.flv")):
        match = re.fullmatch(r"(\d{4})_[A-Z]{3}_([A-Z]{3})_([A-Z]{1,2})", path.stem)
        if match is None or match[2] not in CREMAD_EMOTIONS:
            continue
        emotion = CREMAD_EMOTIONS[match[2]]
        sound = root / "AudioWAV" / f"{path.stem}.wav"
        weight = 1.0 if emotion == "neutral" else CREMAD_LEVELS.get(match[3], 0.8)
        yield _row(root, path, match[1], match[1] in CREMAD_TEST, emotion, weight, sound if sound.is_file() else None)


def _lsp(root: Path) -> Iterable[Row]:
    """Live Speech Portraits (Lu et al. 2021): one long video a person, May.mp4 or May/May.mp4; its first part is for training."""
    for path in sorted({*root.glob("*.mp4"), *root.glob("*/*.mp4")}):
        yield _row(root, path, path.stem, False, None, 1.0, None, LSP_TRAIN_SHARE * read_info(path).seconds)


def _hdtf(root: Path) -> Iterable[Row]:
    """HDTF (Zhang et al. 2021): clips named RD_Radio1_000.mp4, WDA_..., WRA_..., in one folder or in several."""
    paths = sorted(path for path in {*root.glob("*.mp4"), *root.glob("*/*.mp4")} if re.match(r"(RD|WDA|WRA)_.+_\d+$", path.stem))
    names = [path.stem.rpartition("_")[0] for path in paths]
    # A politician's several videos are numbered behind the name; RD_Radio1 and RD_Radio2 are two people.
    names = [name if name.startswith("RD_") else name.rstrip("0123456789") for name in names]
    tested = set(sorted(set(names))[HDTF_TEST_EVERY - 1 :: HDTF_TEST_EVERY])
    for path, person in zip(paths, names):
        yield _row(root, path, person, person in tested, None, 1.0, None)


def _voxceleb2(root: Path) -> Iterable[Row]:
    """VoxCeleb2 (Chung et al. 2018): dev/mp4/id00012/VIDEO/00001.mp4 is for training, test/mp4/... for testing."""
    for split in ("dev", "test"):
        for path in sorted(root.glob(f"{split}/mp4/id*/*/*.mp4")):
            yield _row(root, path, path.parts[-3], split == "test", None, 1.0, None)


def _row(
    root: Path,
    path: Path,
    person: str,
    test: bool,
    emotion: str | None,
    level: float,
    sound: Path | None,
    train_seconds: float = WHOLE,
) -> Row:
    file, kind = path.relative_to(root).as_posix(), "speech" if emotion is None else "emotion"
    return Row(
        path,
        file,
        kind,
        person,
        0.0 if test else train_seconds,
        True,
        emotion,
        "ok",
        level,
        sound,
        test,
        graded=emotion is not None,
    )


READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    MANIFEST: read_manifest,
    "mead": _mead,
    "cremad": _cremad,
    "lsp": _lsp,
    "hdtf": _hdtf,
    "voxceleb2": _voxceleb2,
}
LAYOUTS = {
    MANIFEST: "files that MANIFEST.csv names",
    "mead": "M003/video/front/angry/level_1/001.mp4",
    "cremad": "VideoFlash/1001_DFA_ANG_XX.flv",
    "lsp": "May/May.mp4",
    "hdtf": "RD_Radio1_000.mp4",
    "voxceleb2": "dev/mp4/id00012/VIDEO/00001.mp4",
}
