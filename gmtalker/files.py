"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEGABYTE = 2**20  # bytes


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it becomes `path` when the block ends without an error, and is gone otherwise.

    path: the file to write; one that stands there is replaced.
    Yields: the unfinished file's path, hidden, in the same folder and with the same suffix.
    Errors: OSError when it can't be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".writing-{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
