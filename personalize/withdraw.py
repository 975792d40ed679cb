"""A person agrees no more: their avatar is deleted, known as withdrawn, and copies elsewhere learn of it."""

from __future__ import annotations

from gmtalker.assets import BUNDLED
from gmtalker.avatars.audit import record
from gmtalker.avatars.avatar import card_json, read_card
from gmtalker.avatars.consent import avatar_id, mark_withdrawn, tombstone
from gmtalker.avatars.on_hub import replace_by
from gmtalker.avatars.storage import find_avatar, list_avatars
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.hub import Token
from personalize import jobs


def withdraw_avatar(name: str, token: Token = None) -> str | None:
    """Delete an avatar and note that the consent to it was withdrawn.

    Videos are not found again by the program; `verify` says of each that the consent was withdrawn.

    name: of an avatar of this workspace.
    token: of the Hub, where a shared one is replaced by the note, so that copies refuse at their next update.
    Returns: what could not be done on the Hub, in a sentence; None when all was done.
    Errors: UnusableAvatar when there is no such avatar, or it is a bundled one.
    """
    folder = find_avatar(name)
    if folder.resolve().is_relative_to(BUNDLED.resolve()):
        raise UnusableAvatar(f"{name} comes with the program; it is not yours to withdraw.")
    card = read_card(folder)
    if avatar_id(card) in {avatar_id(entry.card) for entry in list_avatars() if entry.bundled}:
        raise UnusableAvatar(f"{name} is a copy of one that comes with the program; delete it instead.")
    gone = mark_withdrawn(card)
    left, repo = None, card.get("hub", {}).get("repo")
    if repo:
        try:
            replace_by(repo, {"avatar.json": card_json(tombstone(card, gone.when)).encode()}, token)
        except UnusableInput as error:
            left = f"It is still on the Hub as {repo} ({error}) Delete it there, too."
    for job in jobs.jobs():
        if jobs.same_name(job.name, card["name"]) and job.status in jobs.OPEN:
            jobs.stop(job)
    jobs.delete(card["name"])
    record("withdrawn", card["name"], id=avatar_id(card), consent_of=card["consent"]["who"], hub=repo)
    return left
