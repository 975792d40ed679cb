"""Writing files whole or not at all, and the JSON files of requests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from gmtalker.errors import UnusableInput, first_line

Request = TypeVar("Request")

MEGABYTE = 2**20  # bytes
NAME_BYTES_MAX = 255  # of a file
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
HIDDEN, PLAIN = ".writing", "gmtalker"  # how names begin of what is written beside what people see, and elsewhere
_UNFINISHED = re.compile(rf"(?:{re.escape(HIDDEN)}|{PLAIN})-{_HOST}-(\d+)-")


def unfinished_prefix(kind: str = HIDDEN) -> str:
    """What the names begin with under which this process writes; by it `sweep` knows whose they were."""
    return f"{kind}-{_HOST}-{os.getpid()}-"


def sweep(folder: Path) -> None:
    """Delete what processes of this machine left half-written in a folder when they were killed."""
    for left in Path(folder).glob(f"*-{_HOST}-*"):
        match = _UNFINISHED.match(left.name)
        if match is None or _lives(int(match[1])):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):  # somebody else's
                left.unlink()


@contextmanager
def temporary_folder(place: Path | None = None) -> Iterator[Path]:
    """A folder for the block; those that killed processes left there are deleted.

    place: where it is, hidden; None is the system's own place for such.
    Errors: OSError when it can't be made.
    """
    kind = PLAIN if place is None else HIDDEN
    place = Path(tempfile.gettempdir() if place is None else place)
    sweep(place)
    with tempfile.TemporaryDirectory(prefix=unfinished_prefix(kind), dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _lives(process: int) -> bool:
    """Whether a process of this number runs, or nobody can tell."""
    if os.name == "nt":  # there a signal of 0 would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # another person's
    return True


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: aside, and renamed when the block ends without an error.

    path: the file to write; an existing one is replaced, or stays as it is after an error.
    Yields: the path to write to, hidden, in the same folder and with the same suffix.
    Errors: OSError when the file can't be written.
    """
    path = Path(path)
    # Not the name itself: it may be as long as names can be.
    unfinished = path.with_name(f"{unfinished_prefix()}{secrets.token_hex(4)}{path.suffix[:16]}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_json(values: Mapping[str, object], path: Path) -> None:
    """Write JSON, whole or not at all. Errors: OSError when it can't be written."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def load_request(path: Path, from_json: Callable[[object], Request]) -> Request:
    """Read a request that save_json wrote.

    from_json: makes it of the JSON; raises ValueError for anything else.
    Errors: UnusableInput when the file is missing or holds no request.
    """
    try:
        return from_json(json.loads(Path(path).read_text(encoding="utf-8-sig")))
    except FileNotFoundError as error:
        raise UnusableInput(f"There is no file {path}; please check the name.") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = "it can't be read" if isinstance(error, OSError) else first_line(error)
        raise UnusableInput(f"{Path(path).name} is not a saved request ({reason}).") from error
