"""An avatar: a folder of data that is checked before it is loaded, written whole or not at all, and packed into one file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from gmtalker.errors import UnusableAvatar, first_line
from gmtalker.face_model import PersonFace
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import HeadGenerator
from gmtalker.models.loading import load_strict
from gmtalker.tracks import EMOTIONS

BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "avatars"

MOODS_FILE = "moods.safetensors"
MEGABYTE = 2**20
LARGEST_FILE = {".json": MEGABYTE, ".md": MEGABYTE, ".safetensors": 400 * MEGABYTE, ".mp4": 100 * MEGABYTE, ".jpg": 20 * MEGABYTE}
LARGEST_AVATAR = 1000 * MEGABYTE
MOST_FILES = 64
LONGEST_NAME = 80
HALF_DONE = (".writing-", ".deleting-", ".importing-", ".pulling-")
ABANDONED = 7 * 24 * 3600  # seconds: longer than any training
# Formats whose readers run code from the file: an avatar that holds one was not made by this project.
CODE_SUFFIXES = frozenset(".bin .pt .pth .pkl .pickle .ckpt .joblib .npy .npz .h5 .py .pyc .so .dll .exe .sh .bat".split())
REQUIRED = ("avatar.json", "face.safetensors", "head_generator/config.json", "emotion_mapping/config.json")
ON_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name


@dataclass(frozen=True, eq=False)
class Moods:
    """What a person's face in each emotion has beside the generic one.

    expression: (8, n) coefficients; motion: (8, 10) by how much the head is held, and the eyelids and the eyes rest, otherwise
    than usual, as MotionTrack.stacked(). An emotion that was never shown has what neutral has, or zeros.
    Errors: ValueError for other shapes.
    """

    expression: Tensor
    motion: Tensor

    def __post_init__(self) -> None:
        shapes = self.expression.ndim == 2 and len(self.expression) == len(EMOTIONS) and self.motion.shape == (len(EMOTIONS), 10)
        if not shapes or not (self.expression.isfinite().all() and self.motion.isfinite().all()):
            raise ValueError("moods hold one row of finite numbers for each emotion")

    def save(self, folder: Path) -> None:
        """Into an avatar's folder."""
        tensors = {name: getattr(self, name).float().contiguous() for name in ("expression", "motion")}
        save_file(tensors, str(folder / MOODS_FILE))

    @classmethod
    def load(cls, folder: Path) -> Moods:
        """Of an avatar's folder. Errors: ValueError, KeyError, SafetensorError for a broken file."""
        tensors = load_file(str(folder / MOODS_FILE))
        if "lids" in tensors:  # an avatar of an older version: only how low both eyelids rest
            tensors["motion"] = F.pad(tensors.pop("lids")[:, None].expand(-1, 2), (6, 2))
        return cls(tensors["expression"].float(), tensors["motion"].float())


@dataclass(frozen=True, eq=False)
class Avatar:
    """A person, ready to be drawn.

    card: avatar.json; face: what the person looks like; head_generator, emotion_mapping: the person's networks in eval mode;
    speaking_style: folder of the LoRA and the accent of the expression generator, None when the person's clips held no sound;
    moods: their own look of the emotions, None when no clip had a label.
    """

    name: str
    folder: Path
    card: dict
    face: PersonFace
    head_generator: HeadGenerator
    emotion_mapping: EmotionMapping
    speaking_style: Path | None
    moods: Moods | None = None


@dataclass(frozen=True)
class AvatarEntry:
    """An avatar in a list: what its card says, with nothing loaded."""

    name: str
    folder: Path
    bundled: bool
    card: dict


# --- Where avatars are ---------------------------------------------------------------------------------------------------------


def home() -> Path:
    """The folder of everything that is made on this machine: $GMTALKER_HOME, or ~/.gmtalker."""
    return Path(os.environ.get("GMTALKER_HOME") or Path.home() / ".gmtalker")


_OWNER: ContextVar[str | None] = ContextVar("owner", default=None)


def owner() -> str:
    """Whose workspace this is: the one set by owned_by, or $GMTALKER_OWNER; empty where one person has it all."""
    return _OWNER.get() if _OWNER.get() is not None else os.environ.get("GMTALKER_OWNER", "")


@contextmanager
def owned_by(name: str) -> Iterator[None]:
    """Inside, the workspace is that of one of several people; nothing of the others is found in it."""
    token = _OWNER.set(name)
    try:
        yield
    finally:
        _OWNER.reset(token)


def workspace(name: str | None = None) -> Path:
    """The folder of everything a person makes: home() itself, or where several use it, that of owner() or of `name`."""
    name = owner() if name is None else name
    return home() / "people" / slug(name) if name else home()


def avatars_folder() -> Path:
    """Where the workspace keeps avatars; made when it is missing."""
    folder = workspace() / "avatars"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def clean_name(name: str) -> str:
    """A name as it is kept: composed letters, single spaces. Errors: ValueError when empty, too long or not printable."""
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"An avatar's name has 1 to {LONGEST_NAME} printable characters")
    return name


def slug(name: str) -> str:
    """The folder of a name: safe on every file system, readable, and never the same for two different names.

    A short name of small latin letters, digits and single hyphens is its own folder; any other gets a digest of itself added.
    """
    name = clean_name(name)
    letters = unicodedata.normalize("NFKD", name).lower().encode("ascii", "ignore").decode()
    readable = re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:40].strip("-")
    ends_like_a_digest = re.search(r"-[0-9a-f]{10}$", readable)
    device_name = re.fullmatch(r"con|prn|aux|nul|com\d|lpt\d", readable)  # folders that Windows can't make
    if readable == name and not ends_like_a_digest and not device_name:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return f"{readable or 'avatar'}-{digest}"


def list_avatars() -> list[AvatarEntry]:
    """Bundled avatars first, then the workspace's, each by name. A folder whose card can't be read is left out."""
    entries = []
    for root, bundled in ((BUNDLED, True), (workspace() / "avatars", False)):
        found = []
        for folder in root.iterdir() if root.is_dir() else ():
            if folder.name.startswith(".") or not folder.is_dir():
                continue  # hidden: an avatar that is just being written or deleted
            try:
                card = read_card(folder)
            except UnusableAvatar:
                continue
            found.append(AvatarEntry(card["name"], folder, bundled, card))
        entries += sorted(found, key=lambda entry: entry.name)
    return entries


def find_avatar(name_or_folder: str | Path | None, fetch: bool = True) -> Path:
    """The folder of an avatar: a name in the workspace, a bundled name, a folder, or a repo on the Hub ("owner/name"), which is
    looked for among what was pulled from there and, if fetch, pulled into the workspace; None is the bundled avatar.

    Errors: UnusableAvatar when there is none, UnusableInput when the Hub does not give it.
    """
    entries = list_avatars()
    if name_or_folder is None:
        if not entries or not entries[0].bundled:
            raise UnusableAvatar("No avatar is bundled here; name one with --avatar.")
        return entries[0].folder
    wanted = str(name_or_folder)
    if isinstance(name_or_folder, str):
        own_first = sorted(entries, key=lambda entry: entry.bundled)
        known = {entry.folder.name: entry.folder for entry in reversed(own_first)}
        known |= {entry.name: entry.folder for entry in reversed(own_first)}  # a name counts before another avatar's folder
        if same := known.get(" ".join(unicodedata.normalize("NFC", wanted).split())):
            return same
        if pulled := pulled_from(wanted):
            return pulled.folder
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if fetch and isinstance(name_or_folder, str) and ON_THE_HUB.fullmatch(wanted):
        from gmtalker.hub import pull_avatar  # late: it is built on this file, and nothing else here needs the network

        return pull_avatar(wanted)
    names = ", ".join(entry.name for entry in entries) or "none"
    raise UnusableAvatar(f"There is no avatar {wanted!r}; there are: {names}.")


def pulled_from(repo: str) -> AvatarEntry | None:
    """The workspace's avatar that came from a repo on the Hub, or went there; found without asking the Hub."""
    return next((entry for entry in list_avatars() if not entry.bundled and entry.card.get("hub", {}).get("repo") == repo), None)


# --- Loading: data from a stranger ---------------------------------------------------------------------------------------------


def load_avatar(name_or_folder: str | Path | None = None) -> Avatar:
    """Check an avatar and load it (find_avatar says what may be given).

    Errors: UnusableAvatar when it is missing, holds code, is too large, or misses a weight.
    """
    folder = find_avatar(name_or_folder)
    card = read_card(folder)
    check_files(folder)
    name = card["name"]
    try:
        face = PersonFace.load(folder / "face.safetensors")
        head_generator = load_strict(HeadGenerator, folder / "head_generator")
        emotion_mapping = load_strict(EmotionMapping, folder / "emotion_mapping")
        moods = Moods.load(folder) if (folder / MOODS_FILE).exists() else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UnusableAvatar(f"The avatar {name!r} is broken ({first_line(error)}); make or import it again.") from error
    style = folder / "speaking_style"
    return Avatar(name, folder, card, face, head_generator, emotion_mapping, style if style.is_dir() else None, moods)


def read_card(folder: Path) -> dict:
    """avatar.json of a folder, checked: name, and objects for consent (who, when, words), source, training, measures, versions
    and hub (repo and revision, of an avatar that was pulled from there or pushed to it).

    Errors: UnusableAvatar.
    """
    path = folder / "avatar.json"
    try:
        if path.stat().st_size > LARGEST_FILE[".json"]:
            raise ValueError("avatar.json is too large")
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict) or not isinstance(card.get("name"), str):
            raise ValueError("avatar.json has no name")
        card["name"] = clean_name(card["name"])
        consent = card.get("consent")
        if not isinstance(consent, dict) or not all(isinstance(consent.get(key), str) for key in ("who", "when", "words")):
            raise ValueError("avatar.json does not say who agreed, when, and in which words")
        for key in ("source", "training", "measures", "versions", "hub"):
            if not isinstance(card.get(key, {}), dict):
                raise ValueError(f"{key} in avatar.json is not an object")
    except FileNotFoundError as error:
        raise UnusableAvatar(f"{folder.name} is not an avatar: it has no avatar.json.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableAvatar(f"{folder.name} is not a usable avatar ({first_line(error)}).") from error
    return card


def save_card(folder: Path, card: dict) -> None:
    """Write avatar.json of a folder, whole or not at all."""
    writing = folder / ".writing-avatar.json"
    try:
        writing.write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        writing.replace(folder / "avatar.json")
    finally:
        writing.unlink(missing_ok=True)


def data_files(folder: Path) -> dict[str, Path]:
    """The files an avatar is handed on with, by their place in it: all but hidden ones (.DS_Store, .gitattributes)."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path for path in found}


def check_place(name: str) -> None:
    """Whether a file of a stranger may lie at a place in an avatar. Errors: ValueError for one that leaves it or can run code."""
    place = PurePosixPath(name)
    safe = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*", name) and ".." not in place.parts and len(place.parts) <= 3
    if not safe or place.suffix.lower() in CODE_SUFFIXES:
        raise ValueError(f"it holds {name!r}")


def check_files(folder: Path) -> None:
    """Errors: UnusableAvatar for a missing file, a file that may hold code, a link, or too much of anything."""
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


# --- Writing, packing, deleting ------------------------------------------------------------------------------------------------


@contextmanager
def write_avatar(name: str, replace: bool = False) -> Iterator[Path]:
    """A new folder to fill; it becomes the avatar `name` of the workspace when the block ends without an error.

    Errors: ValueError for a bad name; UnusableAvatar when the name is taken (unless replace) or a file is missing at the end.
    """
    name = clean_name(name)
    destination = avatars_folder() / slug(name)
    if destination.exists() and not replace:
        raise UnusableAvatar(f"There is an avatar {name!r} already; choose another name or delete it first.")
    _sweep(destination.parent)
    writing = Path(tempfile.mkdtemp(prefix=".writing-", dir=destination.parent))
    try:
        yield writing
        if read_card(writing)["name"] != name:
            raise ValueError(f"avatar.json was written with a name that is not {name!r}")
        check_files(writing)
        writing.chmod(0o755)
        if replace and destination.exists():
            _discard(destination)
        writing.rename(destination)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _sweep(avatars: Path) -> None:
    """Away with what processes that were killed left half-written, long ago."""
    for folder in avatars.iterdir():
        if folder.name.startswith(HALF_DONE) and folder.stat().st_mtime < time.time() - ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)


def delete_avatar(name: str) -> None:
    """Delete an avatar of the workspace. Errors: UnusableAvatar when there is none, or when it is a bundled one."""
    folder = find_avatar(name, fetch=False)
    if folder.parent.resolve() != avatars_folder().resolve():
        raise UnusableAvatar(f"{name!r} is not in the workspace; only avatars made or imported here can be deleted.")
    _discard(folder)


def rename_avatar(name: str, new_name: str) -> Path:
    """Give an avatar of the workspace another name. Returns its folder.

    Errors: ValueError for a name that is none; UnusableAvatar when there is no such avatar, it is bundled, or the name is taken.
    """
    folder, new_name = find_avatar(name, fetch=False), clean_name(new_name)
    if folder.parent.resolve() != avatars_folder().resolve():
        raise UnusableAvatar(f"{name!r} is not in the workspace; only avatars made or imported here can be renamed.")
    goal = avatars_folder() / slug(new_name)
    if (goal.exists() and goal != folder) or new_name in _bundled_names():
        raise UnusableAvatar(f"There is already an avatar called {new_name}; choose another name.")
    save_card(folder, read_card(folder) | {"name": new_name})
    folder.rename(goal)
    return goal


def _bundled_names() -> set[str]:
    return {entry.name for entry in list_avatars() if entry.bundled}


def _discard(folder: Path) -> None:
    hidden = Path(tempfile.mkdtemp(prefix=".deleting-", dir=folder.parent))
    folder.rename(hidden / folder.name)  # gone from every list at once, even when deleting takes long or fails
    shutil.rmtree(hidden, ignore_errors=True)


def export_avatar(name_or_folder: str | Path | None, output: Path) -> Path:
    """Pack an avatar into one zip file. Errors: UnusableAvatar."""
    folder = find_avatar(name_or_folder)
    read_card(folder)
    check_files(folder)
    output = Path(output)
    if not output.parent.is_dir():
        raise UnusableAvatar(f"The folder {output.parent} does not exist.")
    writing = output.with_name(f".writing-{output.name}")
    try:
        with zipfile.ZipFile(writing, "w", zipfile.ZIP_STORED) as archive:  # weights and videos don't shrink
            for name, path in data_files(folder).items():
                archive.write(path, name)
        writing.replace(output)
    finally:
        writing.unlink(missing_ok=True)
    return output


def import_avatar(archive_path: Path, name: str | None = None) -> Path:
    """Unpack a file made by export_avatar into the workspace, as `name` or as the name it brings. Returns its folder.

    Errors: UnusableAvatar when the file is no avatar, tries to leave its folder, is too large, or the name is taken.
    """
    archive_path = Path(archive_path)
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=avatars_folder()) as unpacked:
        unpacked = Path(unpacked)
        try:
            with zipfile.ZipFile(archive_path) as archive:
                _unpack(archive, unpacked)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
            raise UnusableAvatar(f"{archive_path.name} is not an exported avatar ({first_line(error)}).") from error
        card = load_avatar(unpacked).card
        card.pop("hub", None)  # whoever packed it may claim any repo
        card["name"] = clean_name(name or card["name"])
        if name is None and card["name"] in _bundled_names():  # both are to be found, under different names
            card["name"] = clean_name(f"{card['name']} 2")
        with write_avatar(card["name"]) as folder:
            shutil.copytree(unpacked, folder, dirs_exist_ok=True)
            save_card(folder, card)
        return avatars_folder() / slug(card["name"])


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > LARGEST_AVATAR:
        raise ValueError("it is too large")
    for entry in entries:
        check_place(entry.filename)
        path = folder / entry.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, open(path, "xb") as target:
            left = entry.file_size  # what it declared; a bomb declares less than it holds
            while chunk := source.read(MEGABYTE):
                left -= len(chunk)
                if left < 0:
                    raise ValueError("it is larger than it says")
                target.write(chunk)
