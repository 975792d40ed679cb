"""What happened to the avatars of a workspace, one line each: trained, shared, exported, deleted, refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from gmtalker.avatars.workspace import own_file, owner, workspace

FILE = "audit.jsonl"


def record(action: str, avatar: str, **details: object) -> None:
    """Add a line to the audit log; a log that can't be written stops nobody's work.

    action: what was done.
    avatar: its name.
    details: what else is to be known later, ready for JSON.
    """
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    line = json.dumps({"when": when, "who": owner(), "action": action, "avatar": avatar} | details)
    with suppress(OSError, UnicodeError):
        path = own_file(FILE)
        path.touch(mode=0o600)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def recorded() -> Iterator[dict[str, Any]]:
    """The lines of the audit log, oldest first; those that can't be read are left out."""
    path = workspace() / FILE
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError, RecursionError):
                yield json.loads(line)
