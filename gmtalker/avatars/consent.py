"""Whether an avatar may be used: until when its person agreed, and whether they have withdrawn that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock

from gmtalker.avatars.audit import record
from gmtalker.avatars.workspace import own_file, workspace
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.files import save_json

ID_DIGITS = 10  # hexadecimal, of an avatar's id
WITHDRAWN_FILE = "withdrawn.json"


def avatar_id(card: Mapping[str, Any]) -> str:
    """The id of an avatar, the same when it is renamed, shared or pulled: a digest of its consent and of what it was made with.

    card: its avatar.json.
    Returns: 10 hexadecimal digits.
    """
    lasting = json.dumps([card["consent"], card.get("versions", {})], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(lasting.encode()).hexdigest()[:ID_DIGITS]


@dataclass(frozen=True)
class Withdrawal:
    """An avatar whose person agrees no more.

    name: of the avatar.
    when: ISO 8601.
    """

    name: str
    when: str


def withdrawn_avatars() -> dict[str, Withdrawal]:
    """The withdrawn avatars that this workspace knows of, by their ids.

    Errors: UnusableInput for a file that holds something else, OSError for one that can't be read: then nobody knows which may be
        used.
    """
    path = workspace() / WITHDRAWN_FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): Withdrawal(str(value["name"]), str(value["when"])) for key, value in known.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnusableInput(f"{path} can't be read; it says which avatars may be used no more. Please repair it.") from error


def mark_withdrawn(card: Mapping[str, Any], when: str = "") -> Withdrawal:
    """Note that the person of an avatar agrees no more: from now on nothing is made with it here.

    card: its avatar.json.
    when: ISO 8601; empty is now.
    Errors: OSError when it can't be written.
    """
    gone = Withdrawal(str(card["name"]), when or datetime.now(timezone.utc).isoformat(timespec="seconds"))
    path = own_file(WITHDRAWN_FILE)
    with FileLock(path.with_suffix(".lock")):  # of two at once, both are to be noted
        save_json({key: asdict(value) for key, value in (withdrawn_avatars() | {avatar_id(card): gone}).items()}, path)
    return gone


def end_of(consent: Mapping[str, Any]) -> date | None:
    """The last day for which somebody agreed; None where there is none.

    consent: of an avatar.json.
    Errors: ValueError for what is no date.
    """
    until = consent.get("until")
    if until in (None, ""):
        return None
    if not isinstance(until, str):
        raise ValueError("the last day is no date")
    return date.fromisoformat(until)


def check_usable(card: Mapping[str, Any], today: date | None = None) -> None:
    """Check that something may be made with an avatar.

    card: its avatar.json.
    today: None is by this machine's clock.
    Errors: UnusableAvatar when the consent to it has ended or was withdrawn.
    """
    try:
        end = end_of(card["consent"])
    except ValueError as error:
        raise UnusableAvatar(f"{card['name']} can't be used: until when its person agreed can't be read.") from error
    if end is not None and (today or date.today()) > end:
        _refuse(card, f"its person agreed until {end}; ask them again, and train it anew")
    if gone := withdrawn_avatars().get(avatar_id(card)):
        _refuse(card, f"its person withdrew their consent on {gone.when[:10]}")


def _refuse(card: Mapping[str, Any], why: str) -> NoReturn:
    record("refused", card["name"], why=why)
    raise UnusableAvatar(f"{card['name']} can't be used: {why}.")


def tombstone(card: Mapping[str, Any], when: str) -> dict[str, Any]:
    """What is left of a shared avatar's avatar.json when the consent to it was withdrawn, so that copies learn of it."""
    return {"name": card["name"], "consent": dict(card["consent"]), "versions": card.get("versions", {}), "withdrawn": when}


def withdrawn_file(folder: Path) -> str | None:
    """When the consent to the avatar in a folder was withdrawn, as its avatar.json says; None where it does not."""
    try:
        card = json.loads((folder / "avatar.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    when = card.get("withdrawn") if isinstance(card, dict) else None
    return when if isinstance(when, str) else None
