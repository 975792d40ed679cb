"""Which visible label somebody chose for an avatar: it is kept with what is theirs."""

from __future__ import annotations

import json

from gmtalker.avatars.workspace import private_home, workspace
from gmtalker.clock import LABELS
from gmtalker.files import whole_file

FILE = "labels.json"


def remembered_labels() -> dict[str, str]:
    """The labels by the names of the avatars; none where the file can't be read."""
    try:
        known = json.loads((workspace() / FILE).read_text(encoding="utf-8"))
        return {str(avatar): label for avatar, label in known.items() if label in LABELS}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def remember_label(avatar: str, label: str) -> None:
    """Keep the label of an avatar. Errors: OSError when it can't be written."""
    private_home()
    path = workspace() / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(remembered_labels() | {avatar: label}, ensure_ascii=False), encoding="utf-8")
