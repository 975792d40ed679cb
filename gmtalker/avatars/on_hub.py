"""Avatars from the Hugging Face Hub and to it. A stranger's avatar is data, checked before it is fetched and after."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from gmtalker.avatars.audit import record
from gmtalker.avatars.avatar import (
    CARD,
    LARGEST_AVATAR,
    LARGEST_FILE,
    MOST_FILES,
    card_json,
    check_place,
    data_files,
    read_avatar,
    read_card,
    save_card,
)
from gmtalker.avatars.consent import avatar_id, check_usable, mark_withdrawn, withdrawn_avatars, withdrawn_file
from gmtalker.avatars.storage import find_avatar, list_avatars, lookup_avatar, pulled_from, write_avatar
from gmtalker.avatars.workspace import avatars_folder, clean_name, names_only, slug
from gmtalker.errors import UnusableAvatar
from gmtalker.files import MEGABYTE, temporary_folder
from gmtalker.hub import REPO_ID, Token, address_of, as_sentence, check_repo, client_of, declared_files, fetch, push_files

README = "README.md"


def resolve(name_or_folder: str | Path | None) -> Path:
    """The folder of an avatar, pulled into the workspace first where it is a repo on the Hub that is not here yet.

    Nothing else pulls by itself: what only looks for an avatar calls storage.find_avatar.

    name_or_folder: as for storage.lookup_avatar, or any repo on the Hub ("owner/name").
    Errors: UnusableAvatar when there is none, UnusableInput when the Hub does not give it.
    """
    found = lookup_avatar(name_or_folder)
    if found is None and not names_only() and isinstance(name_or_folder, str) and REPO_ID.fullmatch(name_or_folder):
        return pull_avatar(name_or_folder)
    return found or find_avatar(name_or_folder)


def check_consent(card: Mapping[str, Any]) -> None:
    """Check that an avatar may be shared.

    card: its avatar.json.
    Errors: UnusableAvatar when the consent in it does not say who agreed, when, or in which words, or has ended.
    """
    check_usable(card)
    missing = [key for key in ("who", "when", "words") if not card["consent"][key].strip()]
    if missing:
        lacking = " and ".join(missing)
        raise UnusableAvatar(f"{card['name']} can't be shared: the consent in its {CARD} does not say {lacking}.")


def repo_of(avatar: str | Path | None, token: Token = None) -> str:
    """The repo that an avatar is pushed to by default: where it was before, else one of its name in the account of the token.

    avatar: as for storage.lookup_avatar.
    Returns: "owner/name".
    Errors: UnusableAvatar when there is no such avatar, UnusableInput when nobody is logged in.
    """
    card = read_card(find_avatar(avatar))
    if repo := card.get("hub", {}).get("repo"):
        return str(repo)
    api = client_of(token)
    with as_sentence(api, card["name"]):
        return f"{api.whoami()['name']}/{slug(card['name'])}"


def push_avatar(avatar: str | Path | None, repo: str, readme: str, private: bool = True, token: Token = None) -> str:
    """Push an avatar into a model repo, which is made when it is missing: one commit, or nothing.

    For an avatar of the workspace, avatar.json records the repo, so that later lookups accept the repo id.

    avatar: as for storage.lookup_avatar.
    readme: the model card.
    private: whether only the owner may see it.
    Returns: the repo's address.
    Errors: UnusableAvatar when it is broken or nobody consented; UnusableInput when the Hub does not take it.
    """
    folder = find_avatar(avatar)
    card = read_avatar(folder).card
    check_consent(card)
    card.pop("hub", None)
    files: dict[str, Path | bytes] = {**data_files(folder), CARD: card_json(card).encode(), README: readme.encode()}
    revision = push_files(files, repo, CARD, private, token)
    api = client_of(token)
    if folder.parent.resolve() == avatars_folder().resolve():
        with as_sentence(api, repo):
            save_card(folder, card | {"hub": {"repo": repo, "revision": revision}})
    record("shared", card["name"], repo=repo, private=private)
    return address_of(repo)


def pull_avatar(repo: str, name: str | None = None, revision: str | None = None, token: Token = None) -> Path:
    """Fetch an avatar from a model repo into the workspace, whole or not at all; only what came from the same repo is replaced.

    name: what it is called here; None is as when it was pulled before, else as its card says if that is free, else as its repo.
    revision: a branch, a tag or a commit; None is the newest.
    Returns: its folder.
    Errors: UnusableInput when the Hub does not give it; UnusableAvatar when it is no avatar, holds what no avatar has, is too
        large, or the name is taken; ValueError for a bad name.
    """
    check_repo(repo)
    if name is None and (before := pulled_from(repo)):
        name = before.name
    replace = name is not None and _came_from(repo, clean_name(name))
    if name is not None and not replace and clean_name(name) in _taken():
        raise UnusableAvatar(f"There is already an avatar called {name}; choose another name.")
    api = client_of(token)
    with as_sentence(api, repo):
        commit, declared = declared_files(api, repo, revision)
    files = _checked(repo, declared)
    with as_sentence(api, repo), temporary_folder(avatars_folder()) as place:
        if shutil.disk_usage(place).free < sum(files.values()):
            raise OSError(errno.ENOSPC, "as much as it declares does not fit")
        fetched = place / repo.rpartition("/")[2]  # what is wrong with it is said of this name
        fetch(api, repo, commit, files, local_dir=fetched)
        shutil.rmtree(fetched / ".cache", ignore_errors=True)  # the client's own notes
        _check_sizes(fetched, files)
        _check_withdrawn(fetched, repo)
        card = read_avatar(fetched).card | {"hub": {"repo": repo, "revision": commit}}
        card["name"] = clean_name(name or (repo if card["name"] in _taken() else card["name"]))
        with write_avatar(card["name"], replace) as folder:
            for path in fetched.iterdir():
                path.rename(folder / path.name)
            save_card(folder, card)
    record("pulled", card["name"], repo=repo, revision=commit)
    return avatars_folder() / slug(card["name"])


def update_avatar(name: str, token: Token = None) -> bool:
    """Fetch an avatar of the workspace again if its repo holds another version by now.

    Returns: whether it did.
    Errors: UnusableAvatar when it has no repo; else as pull_avatar, and then the avatar stays as it is.
    """
    card = read_card(find_avatar(name))
    repo = card.get("hub", {}).get("repo")
    if not _came_from(repo, card["name"]):
        raise UnusableAvatar(f"{card['name']} has no repo on the Hub; only avatars pulled from there or shared can be updated.")
    api = client_of(token)
    with as_sentence(api, repo):
        if declared_files(api, repo, None)[0] == card["hub"].get("revision"):
            return False
    pull_avatar(repo, card["name"], token=token)
    return True


def replace_by(repo: str, files: Mapping[str, bytes], token: Token = None) -> None:
    """Let an avatar's repo hold these files and nothing else; its history still holds what was there before.

    Errors: UnusableInput when the Hub does not take them.
    """
    check_repo(repo)
    api = client_of(token)
    with as_sentence(api, repo):
        declared_files(api, repo, None)  # a repo that is gone is not made again
    push_files(files, repo, CARD, private=False, token=token)


def _check_withdrawn(fetched: Path, repo: str) -> None:
    """Errors: UnusableAvatar when the repo says that the consent was withdrawn; then copies here are used no more either."""
    when = withdrawn_file(fetched)
    if when is None:
        return
    for entry in list_avatars():  # only copies from there: anybody may write somebody else's consent into a repo
        if (
            not entry.bundled
            and entry.card.get("hub", {}).get("repo") == repo
            and avatar_id(entry.card) not in withdrawn_avatars()
        ):
            mark_withdrawn(entry.card, when)
    raise UnusableAvatar(f"The person of {repo} withdrew their consent on {when[:10]}; it can't be used any more.")


def _came_from(repo: str | None, name: str) -> bool:
    """Whether an avatar of the workspace belongs to a repo."""
    own = [entry.card.get("hub", {}).get("repo") for entry in list_avatars() if not entry.bundled and entry.name == name]
    return repo is not None and repo in own


def _taken() -> set[str]:
    return {entry.name for entry in list_avatars()}


def _checked(repo: str, declared: Mapping[str, int]) -> dict[str, int]:
    """The files of an avatar's repo to fetch and their sizes, judged by its index. Errors: UnusableAvatar."""
    wanted = {}
    for name, size in declared.items():
        place = PurePosixPath(name)
        if place.name.startswith(".") and ".." not in place.parts:
            continue  # .gitattributes
        try:
            check_place(name)
        except ValueError as error:
            raise UnusableAvatar(f"{repo} is no avatar of ours ({error}); nothing was fetched.") from error
        if size > LARGEST_FILE.get(place.suffix.lower(), LARGEST_AVATAR):
            raise UnusableAvatar(f"{repo} is too large ({name} has {size / MEGABYTE:.0f} MB); nothing was fetched.")
        if place.suffix.lower() in LARGEST_FILE:
            wanted[name] = size
    if CARD not in wanted:
        raise UnusableAvatar(f"{repo} is not an avatar: it has no {CARD}.")
    if len(wanted) > MOST_FILES or sum(wanted.values()) > LARGEST_AVATAR:
        raise UnusableAvatar(f"{repo} is too large for an avatar; nothing was fetched.")
    return wanted


def _check_sizes(folder: Path, declared: Mapping[str, int]) -> None:
    """Errors: UnusableAvatar when a fetched file is missing or has another size than the index says."""
    for name, size in declared.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise UnusableAvatar(f"{folder.name} is not what its index says ({name} is missing or of another size).")
