"""Share an avatar on the Hub, with its model card."""

from __future__ import annotations

from gmtalker.avatars.avatar import data_files, read_card
from gmtalker.avatars.on_hub import check_consent, push_avatar, repo_of
from gmtalker.avatars.storage import find_avatar
from gmtalker.hub import Token
from personalize.card import card_text


def share_avatar(
    name: str, repo: str | None = None, private: bool = True, token: Token = None, licence: str | None = None
) -> tuple[str, str]:
    """Push an avatar to the Hub with a card made for it.

    repo: "owner/name"; None for the one it was in before, or else one of its name that belongs to the owner of the token.
    private: whether only its owner sees it.
    token: of the Hub; None for the one that this machine is logged in with.
    licence: by the Hub's name, such as cc-by-4.0; None for the person's consent alone.
    Returns: the repo, and its address.
    Errors: UnusableAvatar when it is broken or holds no consent, UnusableInput when the Hub refuses it, ValueError for a licence
        that can't be one.
    """
    folder = find_avatar(name)
    card = read_card(folder)
    check_consent(card)  # before anybody is asked for a token
    repo = repo or repo_of(name, token)
    return repo, push_avatar(name, repo, card_text(card, data_files(folder), repo, licence), private, token)
