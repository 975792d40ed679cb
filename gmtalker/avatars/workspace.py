"""Where everything made on this machine is kept, whose it is, and how names become folders."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

LONGEST_NAME = 80


def home() -> Path:
    """The folder of everything that is made on this machine: $GMTALKER_HOME, or ~/.gmtalker."""
    return Path(os.environ.get("GMTALKER_HOME") or Path.home() / ".gmtalker")


def private_home() -> Path:
    """home(), made when it is missing: a folder that nobody else on this machine can look into, with all that is below it.

    Errors: OSError when it can't be made.
    """
    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(OSError):  # somebody else's, or a file system without rights
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    return folder


_OWNER: ContextVar[str | None] = ContextVar("owner", default=None)
_NAMES_ONLY: ContextVar[bool] = ContextVar("names_only", default=False)


def names_only() -> bool:
    """Whether avatars are found by their names alone, and no folder and no repo on the Hub is: for visitors of a page."""
    return _NAMES_ONLY.get()


def owner() -> str:
    """Whose workspace this is: the name set by owned_by, or $GMTALKER_OWNER; empty where one person has it all."""
    here = _OWNER.get()
    return os.environ.get("GMTALKER_OWNER", "") if here is None else here


@contextmanager
def owned_by(name: str, by_name_alone: bool = False) -> Iterator[None]:
    """Inside, the workspace is that of one of several people; nothing of the others is found in it.

    by_name_alone: whether names_only() is true inside.
    """
    token, kind = _OWNER.set(name), _NAMES_ONLY.set(by_name_alone or _NAMES_ONLY.get())
    try:
        yield
    finally:
        _OWNER.reset(token)
        _NAMES_ONLY.reset(kind)


def workspace(name: str | None = None) -> Path:
    """The folder of everything that a person makes: home() itself or, where several people use it, one within it.

    name: whose; None is owner().
    """
    name = owner() if name is None else name
    return home() / "people" / slug(name) if name else home()


def own_file(name: str) -> Path:
    """A file of the workspace, whose folder is made when it is missing; the file itself may not be there.

    Errors: OSError when the folder can't be made.
    """
    private_home()
    folder = workspace()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def avatars_folder() -> Path:
    """Where the workspace keeps avatars; made when it is missing."""
    private_home()
    folder = workspace() / "avatars"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def clean_name(name: str) -> str:
    """A name as it is kept: composed letters (NFC), single spaces.

    Errors: ValueError when it is empty, too long or not printable.
    """
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"An avatar's name has 1 to {LONGEST_NAME} printable characters")
    return name


def slug(name: str) -> str:
    """The folder's name for a name: safe on every file system, readable, and never the same for two different names.

    A short name of small latin letters, digits and single hyphens is its own folder; any other gets a digest of itself added.

    Errors: ValueError as clean_name.
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
