"""Atomic writing of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEGABYTE = 2**20  # bytes


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: aside, and renamed when the block ends without an error.

    path: the file to write; an existing one is replaced, or stays as it is after an error.
    Yields: the path to write to, hidden, in the same folder and with the same suffix.
    Errors: OSError when the file can't be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".writing-{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
