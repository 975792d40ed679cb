"""The avatars of the workspace: listed, found, written whole or not at all, renamed, deleted, packed into one file."""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import tempfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmtalker.assets import BUNDLED
from gmtalker.avatars.audit import record
from gmtalker.avatars.avatar import (
    CARD,
    LARGEST_AVATAR,
    LARGEST_FILE,
    MOST_FILES,
    check_files,
    check_place,
    data_files,
    read_avatar,
    read_card,
    save_card,
)
from gmtalker.avatars.workspace import LONGEST_NAME, avatars_folder, clean_name, names_only, slug, workspace
from gmtalker.errors import UnusableAvatar, first_line
from gmtalker.files import MEGABYTE, sweep, temporary_folder, unfinished_prefix, whole_file

HALF_DONE = (".writing-", ".deleting-", ".importing-", ".pulling-")
END_OF_ZIP_MAX = 22 + 2**16  # bytes: the end of a zip file, which says how many entries it has, and a comment
UNPACKED_MAX = 20  # times the archive's size: weights, videos and pictures hardly shrink, only a bomb does
ABANDONED = 7 * 24 * 3600  # seconds: longer than any training


@dataclass(frozen=True)
class AvatarEntry:
    """An avatar in a list, with nothing loaded.

    name: as people call it.
    folder: where its files are.
    bundled: whether it came with the program.
    card: avatar.json.
    """

    name: str
    folder: Path
    bundled: bool
    card: dict[str, Any]


def list_avatars() -> list[AvatarEntry]:
    """The bundled avatars, then those of the workspace, each sorted by name; folders whose card can't be read are left out."""
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


def find_avatar(name_or_folder: str | Path | None) -> Path:
    """The folder of an avatar on this machine, found without the network.

    name_or_folder: as for lookup_avatar.
    Errors: UnusableAvatar, naming those there are, when there is none.
    """
    if found := lookup_avatar(name_or_folder):
        return found
    if name_or_folder is None:
        raise UnusableAvatar("No avatar is bundled here; name one with --avatar.")
    names = ", ".join(entry.name for entry in list_avatars()) or "none"
    raise UnusableAvatar(f"There is no avatar {str(name_or_folder)!r}; there are: {names}.")


def lookup_avatar(name_or_folder: str | Path | None) -> Path | None:
    """The folder of an avatar on this machine, found without the network.

    name_or_folder: a name in the workspace, a bundled name, a folder, or the repo on the Hub ("owner/name") that an avatar of the
        workspace came from; None is the bundled avatar.
    Returns: None when it is not on this machine.
    """
    entries = list_avatars()
    if name_or_folder is None:
        return entries[0].folder if entries and entries[0].bundled else None
    wanted = str(name_or_folder)
    if isinstance(name_or_folder, str):
        own_first = sorted(entries, key=lambda entry: entry.bundled)
        known = {entry.folder.name: entry.folder for entry in reversed(own_first)}
        known |= {entry.name: entry.folder for entry in reversed(own_first)}  # a name counts before another avatar's folder
        if same := known.get(" ".join(unicodedata.normalize("NFC", wanted).split())):
            return same
        if pulled := pulled_from(wanted):
            return pulled.folder
    if names_only() and isinstance(name_or_folder, str):
        return None
    folder = Path(name_or_folder).expanduser()
    return folder if folder.is_dir() else None


def pulled_from(repo: str) -> AvatarEntry | None:
    """The avatar of the workspace that came from a repo on the Hub, or went there; found without the network.

    repo: "owner/name".
    Returns: None when there is none.
    """
    return next((entry for entry in list_avatars() if not entry.bundled and entry.card.get("hub", {}).get("repo") == repo), None)


@contextmanager
def write_avatar(name: str, replace: bool = False) -> Iterator[Path]:
    """A new folder to fill; it becomes an avatar of the workspace when the block ends without an error, and is gone otherwise.

    name: that of its avatar.json.
    replace: whether an avatar of that name may be replaced.
    Errors: ValueError for a bad name; UnusableAvatar when the name is taken, or a file is missing at the end.
    """
    name = clean_name(name)
    destination = avatars_folder() / slug(name)
    if destination.exists() and not replace:
        raise UnusableAvatar(f"There is an avatar {name!r} already; choose another name or delete it first.")
    _sweep(destination.parent)
    writing = Path(tempfile.mkdtemp(prefix=unfinished_prefix(), dir=destination.parent))
    try:
        yield writing
        if read_card(writing)["name"] != name:
            raise ValueError(f"{CARD} was written with a name that is not {name!r}")
        check_files(writing)
        writing.chmod(0o755)
        if replace and destination.exists():
            _discard(destination)
        writing.rename(destination)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _sweep(avatars: Path) -> None:
    """Delete what processes that were killed left half-written: those of this machine at once, any other's after long."""
    sweep(avatars)
    for folder in avatars.iterdir():
        if folder.name.startswith(HALF_DONE) and folder.stat().st_mtime < time.time() - ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)


def delete_avatar(name: str) -> None:
    """Delete an avatar of the workspace. Errors: UnusableAvatar when there is none, or when it is a bundled one."""
    folder = find_avatar(name)
    if folder.parent.resolve() != avatars_folder().resolve():
        raise UnusableAvatar(f"{name!r} is not in the workspace; only avatars made or imported here can be deleted.")
    _discard(folder)
    record("deleted", name)


def rename_avatar(name: str, new_name: str) -> Path:
    """Give an avatar of the workspace another name.

    Returns: its folder.
    Errors: ValueError for a bad name; UnusableAvatar when there is no such avatar, it is bundled, or the name is taken.
    """
    folder, new_name = find_avatar(name), clean_name(new_name)
    if folder.parent.resolve() != avatars_folder().resolve():
        raise UnusableAvatar(f"{name!r} is not in the workspace; only avatars made or imported here can be renamed.")
    goal = avatars_folder() / slug(new_name)
    if (goal.exists() and goal != folder) or new_name in _bundled_names():
        raise UnusableAvatar(f"There is already an avatar called {new_name}; choose another name.")
    save_card(folder, read_card(folder) | {"name": new_name})
    folder.rename(goal)
    record("renamed", new_name, before=name)
    return goal


def _bundled_names() -> set[str]:
    return {entry.name for entry in list_avatars() if entry.bundled}


def _discard(folder: Path) -> None:
    with temporary_folder(folder.parent) as hidden:
        folder.rename(hidden / folder.name)  # gone from every list at once, even when deleting takes long or fails


def export_avatar(name_or_folder: str | Path | None, output: Path) -> Path:
    """Pack an avatar into one zip file, whole or not at all.

    name_or_folder: as for lookup_avatar.
    Returns: output.
    Errors: UnusableAvatar when there is no such avatar, it is incomplete, or there is no such folder to write into.
    """
    folder = find_avatar(name_or_folder)
    card = read_card(folder)
    check_files(folder)
    output = Path(output)
    if not output.parent.is_dir():
        raise UnusableAvatar(f"The folder {output.parent} does not exist.")
    with whole_file(output) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
        for name, path in data_files(folder).items():
            archive.write(path, name)  # stored: weights and videos don't shrink
    record("exported", card["name"], file=output.name)
    return output


def import_avatar(archive_path: Path, name: str | None = None) -> Path:
    """Unpack a file made by export_avatar into the workspace.

    name: what it is called here; None is the name it brings.
    Returns: its folder.
    Errors: UnusableAvatar when the file is no avatar, tries to leave its folder, is too large, or the name is taken; ValueError
        for a bad name.
    """
    archive_path = Path(archive_path)
    with temporary_folder(avatars_folder()) as temporary:
        unpacked = temporary / (slug(archive_path.stem[:LONGEST_NAME]) if archive_path.stem.isprintable() else "avatar")
        unpacked.mkdir()
        try:
            _check_archive(archive_path)
            with zipfile.ZipFile(archive_path) as archive:
                _unpack(archive, unpacked, archive_path.stat().st_size)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, ValueError) as error:
            raise UnusableAvatar(f"{archive_path.name} is not an exported avatar ({first_line(error)}).") from error
        card = read_avatar(unpacked).card
        card.pop("hub", None)  # whoever packed it may claim any repo
        card["name"] = clean_name(name or card["name"])
        if name is None and card["name"] in _bundled_names():  # both are to be found, under different names
            card["name"] = clean_name(f"{card['name']} 2")
        with write_avatar(card["name"]) as folder:
            shutil.copytree(unpacked, folder, dirs_exist_ok=True)
            save_card(folder, card)
        record("imported", card["name"], file=archive_path.name)
        return avatars_folder() / slug(card["name"])


def _check_archive(path: Path) -> None:
    """Check how many entries a zip file has before its list of them is read, which may be as large as the file.

    Errors: ValueError for more than an avatar has, or for a file without such a list.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - END_OF_ZIP_MAX, 0))
        end = file.read()
    found = end.rfind(b"PK\x05\x06")
    if b"PK\x06\x07" in end:  # then the counts that are looked at are not those that are read
        raise ValueError("it is no zip file of an avatar")
    if found < 0 or len(end) < found + 22:
        raise ValueError("it is no zip file")
    entries, listed = struct.unpack("<H", end[found + 10 : found + 12])[0], struct.unpack("<I", end[found + 12 : found + 16])[0]
    if entries > 2 * MOST_FILES or listed > MEGABYTE:  # folders are entries, too
        raise ValueError("it holds too many files")


def _unpack(archive: zipfile.ZipFile, folder: Path, packed_bytes: int) -> None:
    """Write the files of an archive of so many bytes. Errors: ValueError for one that is no avatar's."""
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    unpacked_bytes = sum(entry.file_size for entry in entries)
    if len(entries) > MOST_FILES or unpacked_bytes > LARGEST_AVATAR or unpacked_bytes > UNPACKED_MAX * packed_bytes + MEGABYTE:
        raise ValueError("it is too large")
    for entry in entries:
        check_place(entry.filename)
        if entry.file_size > LARGEST_FILE.get(Path(entry.filename).suffix.lower(), LARGEST_AVATAR):
            raise ValueError(f"{entry.filename} is too large")
        path = folder / entry.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, open(path, "xb") as target:
            left = entry.file_size  # what it declared; a bomb declares less than it holds
            while chunk := source.read(MEGABYTE):
                left -= len(chunk)
                if left < 0:
                    raise ValueError("it is larger than it says")
                target.write(chunk)
