"""An avatar and its card onto the Hub: what the command line and the page call to share one."""

from __future__ import annotations

from gmtalker.avatars.avatar import data_files, read_card
from gmtalker.avatars.on_hub import check_consent, push_avatar, repo_of
from gmtalker.avatars.storage import find_avatar
from gmtalker.hub import Token
from personalize.card import card_text


def share_avatar(
    name: str, repo: str | None = None, private: bool = True, token: Token = None, licence: str | None = None
) -> tuple[str, str]:
    """Push an avatar with a card made for it. Returns the repo it is in and its address.

    repo: "owner/name"; None is where it was before, or one of its name that belongs to whose token it is.
    Errors: UnusableAvatar when it is broken or nobody consented; UnusableInput when the Hub does not take it; ValueError for a
    licence that can't be one.
    """
    folder = find_avatar(name)
    card = read_card(folder)
    check_consent(card)  # before anybody is asked for a token
    repo = repo or repo_of(name, token)
    return repo, push_avatar(name, repo, card_text(card, data_files(folder), repo, licence), private, token)
