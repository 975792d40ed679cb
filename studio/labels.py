"""Which visible label somebody chose for an avatar: it is kept with what is theirs."""

from __future__ import annotations

import json

from gmtalker.avatars.workspace import own_file, workspace
from gmtalker.clock import LABELS
from gmtalker.files import save_json

FILE = "labels.json"


def remembered_labels() -> dict[str, str]:
    """The labels by the names of the avatars; none where the file can't be read."""
    try:
        known = json.loads((workspace() / FILE).read_text(encoding="utf-8"))
        return {str(avatar): label for avatar, label in known.items() if label in LABELS}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def remember_label(avatar: str, label: str) -> None:
    """Keep the label of an avatar. Errors: OSError when it can't be written."""
    save_json(remembered_labels() | {avatar: label}, own_file(FILE))
