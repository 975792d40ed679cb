"""Avatars and generic stages, from the Hub and to it. A stranger's is data, looked at before it is fetched and after."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)
from huggingface_hub.utils import disable_progress_bars, get_session, tqdm

from gmtalker.avatar import (
    LARGEST_AVATAR,
    LARGEST_FILE,
    MEGABYTE,
    MOST_FILES,
    ON_THE_HUB,
    avatars_folder,
    check_place,
    clean_name,
    data_files,
    find_avatar,
    list_avatars,
    load_avatar,
    pulled_from,
    read_card,
    save_card,
    slug,
    write_avatar,
)
from gmtalker.errors import UnusableAvatar, UnusableInput, first_line

ANSWER_SECONDS = 5.0  # for the first answer: without a network, the sentence should not take longer
SILENCE_SECONDS = 60.0  # after which a line that was open is taken for dead
LARGEST_STAGES = 4000 * MEGABYTE  # a large HuBERT among them
CARD, README = "avatar.json", "README.md"
NO_REPO = "{!r} can't be a repo on the Hub; those are called owner/name."
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

# A token as the client takes it: itself, None for the one this machine is logged in with, False for none at all.
Token = str | bool | None


# --- Avatars -------------------------------------------------------------------------------------------------------------------


def check_consent(card: Mapping) -> None:
    """Nobody's avatar is shared without their consent. Errors: UnusableAvatar when who, when or words of it are empty."""
    missing = [key for key in ("who", "when", "words") if not card["consent"][key].strip()]
    if missing:
        lacking = " and ".join(missing)
        raise UnusableAvatar(f"{card['name']} can't be shared: the consent in its {CARD} does not say {lacking}.")


def repo_of(avatar: str | Path | None, token: Token = None) -> str:
    """Where an avatar goes if nothing else is said: where it was before, or a repo of its name of the person whose token it is.

    Errors: UnusableInput when nobody is logged in.
    """
    card = read_card(find_avatar(avatar, fetch=False))
    if repo := card.get("hub", {}).get("repo"):
        return str(repo)
    api = client_of(token)
    with as_sentence(api, card["name"]):
        return f"{api.whoami()['name']}/{slug(card['name'])}"


def push_avatar(avatar: str | Path | None, repo: str, readme: str, private: bool = True, token: Token = None) -> str:
    """Push an avatar into a model repo, which is made when it is missing: one commit, or nothing. Returns its address.

    readme: the model card. An avatar of the workspace keeps the repo in mind, so that `repo` names it from then on.
    Errors: UnusableAvatar when it is broken or nobody consented; UnusableInput when the Hub does not take it.
    """
    folder = find_avatar(avatar, fetch=False)
    card = load_avatar(folder).card
    check_consent(card)
    card.pop("hub", None)
    files: dict[str, Path | bytes] = {**data_files(folder), CARD: _as_json(card), README: readme.encode()}
    revision = push_files(files, repo, CARD, private, token)
    api = client_of(token)
    if folder.parent.resolve() == avatars_folder().resolve():
        with as_sentence(api, repo):
            save_card(folder, card | {"hub": {"repo": repo, "revision": revision}})
    return address_of(repo)


def pull_avatar(repo: str, name: str | None = None, revision: str | None = None, token: Token = None) -> Path:
    """Fetch an avatar from a model repo into the workspace, whole or not at all. Returns its folder.

    name: what it is called here; else as when it was pulled before, else as its card says if that is free, else as its repo.
    revision: a branch, a tag or a commit. Only what came from the same repo is ever replaced.
    Errors: UnusableInput when the Hub does not give it; UnusableAvatar when it is no avatar, holds what no avatar has, is too
    large, or the name is taken; ValueError for a name that is none.
    """
    _check_repo(repo)
    if name is None and (before := pulled_from(repo)):
        name = before.name
    replace = name is not None and _came_from(repo, clean_name(name))
    if name is not None and not replace and clean_name(name) in _taken():
        raise UnusableAvatar(f"There is already an avatar called {name}; choose another name.")
    api = client_of(token)
    with as_sentence(api, repo):
        commit, declared = _declared(api, repo, revision)
    files = _checked(repo, declared)
    with as_sentence(api, repo), tempfile.TemporaryDirectory(prefix=".pulling-", dir=avatars_folder()) as place:
        if shutil.disk_usage(place).free < sum(files.values()):
            raise OSError(errno.ENOSPC, "as much as it declares does not fit")
        fetched = Path(place) / repo.rpartition("/")[2]  # what is wrong with it is said of this name
        _fetch(api, repo, commit, files, local_dir=fetched)
        shutil.rmtree(fetched / ".cache", ignore_errors=True)  # the client's own notes
        _check_sizes(fetched, files)
        card = load_avatar(fetched).card | {"hub": {"repo": repo, "revision": commit}}
        card["name"] = clean_name(name or (repo if card["name"] in _taken() else card["name"]))
        with write_avatar(card["name"], replace) as folder:
            for path in fetched.iterdir():
                path.rename(folder / path.name)
            save_card(folder, card)
    return avatars_folder() / slug(card["name"])


def update_avatar(name: str, token: Token = None) -> bool:
    """Fetch an avatar of the workspace again if its repo holds another version by now. Returns whether it did.

    Errors: UnusableAvatar when it has no repo; else as pull_avatar, and then the avatar stays as it is.
    """
    card = read_card(find_avatar(name, fetch=False))
    repo = card.get("hub", {}).get("repo")
    if not _came_from(repo, card["name"]):
        raise UnusableAvatar(f"{card['name']} has no repo on the Hub; only avatars pulled from there or shared can be updated.")
    api = client_of(token)
    with as_sentence(api, repo):
        if _declared(api, repo, None)[0] == card["hub"].get("revision"):
            return False
    pull_avatar(repo, card["name"], token=token)
    return True


def _came_from(repo: str | None, name: str) -> bool:
    """Whether the workspace's avatar `name` belongs to a repo."""
    own = [entry.card.get("hub", {}).get("repo") for entry in list_avatars() if not entry.bundled and entry.name == name]
    return repo is not None and repo in own


def _taken() -> set[str]:
    return {entry.name for entry in list_avatars()}


def _as_json(card: Mapping) -> bytes:
    return (json.dumps(card, ensure_ascii=False, indent=2) + "\n").encode()


def _checked(repo: str, declared: Mapping[str, int]) -> dict[str, int]:
    """The files of an avatar's repo that are worth fetching, by what the index says of them. Errors: UnusableAvatar."""
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
    """Errors: UnusableAvatar when a fetched file is missing or another one than the index spoke of."""
    for name, size in declared.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise UnusableAvatar(f"{folder.name} is not what its index says ({name} is missing or of another size).")


# --- Folders of files ----------------------------------------------------------------------------------------------------------


def push_files(files: Mapping[str, Path | bytes], repo: str, mark: str, private: bool = True, token: Token = None) -> str:
    """Make a model repo hold exactly these files, in one commit; it is made when it is missing. Returns the commit.

    mark: the file by which a repo of this sort is known; one that holds other things is left alone.
    Errors: UnusableInput when the Hub does not take them; a repo that was made for them is gone again then.
    """
    _check_repo(repo)
    api = client_of(token)
    with as_sentence(api, repo):
        try:
            known = api.model_info(repo, timeout=ANSWER_SECONDS)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            known = None
        there = [] if known is None else [file.rfilename for file in known.siblings or () if file.rfilename != ".gitattributes"]
        if there and mark not in there:
            raise UnusableInput(f"{repo} holds something else already (it has no {mark}); choose another repo.")
        if known is not None and private and not known.private:
            raise UnusableInput(f"{repo} can be seen by everybody; add --public if that is meant, or choose another repo.")
        if known is None:
            api.create_repo(repo, private=private)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        gone = [CommitOperationDelete(name, is_folder=False) for name in there if name not in files]
        try:
            commit = api.create_commit(repo, [*additions, *gone], commit_message="GMTalker Studio").oid
        except BaseException:
            if known is None:
                with suppress(httpx2.HTTPError):
                    api.delete_repo(repo)
            raise
        if known is not None and known.private and not private:
            api.update_repo_settings(repo, private=False)
        return commit


def fetch_stages(
    repo: str,
    patterns: Sequence[str],
    revision: str | None = None,
    token: Token = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder, in the client's cache, of the files of a model repo that match the patterns.

    Without a network, what was fetched before will do. Errors: UnusableInput when the Hub does not give them.
    """
    api, unreachable, declared = client_of(token), None, {}
    with as_sentence(api, repo):
        if not local_files_only:
            try:
                _, declared = _declared(api, repo, revision)
            except (httpx2.TransportError, OfflineModeIsEnabled) as error:
                unreachable = error
        wanted = {name: size for name, size in declared.items() if any(fnmatch(name, pattern) for pattern in patterns)}
        if sum(wanted.values()) > LARGEST_STAGES:
            raise UnusableInput(f"{repo} is too large for generic stages; nothing was fetched.")
        where = {"cache_dir": cache_dir, "local_files_only": local_files_only or unreachable is not None}
        try:
            return _fetch(api, repo, revision, wanted, patterns, **where)
        except LocalEntryNotFoundError:
            if unreachable is None:
                raise
            raise unreachable from None


def _fetch(
    api: HfApi, repo: str, revision: str | None, sizes: Mapping[str, int], patterns: Sequence[str] | None = None, **where
) -> Path:
    """Download the files with these sizes, or of these patterns, and not a byte more than their sizes add up to."""
    most = sum(sizes.values())

    class Bar(tqdm):
        """The client's progress bar, that ends what is larger than was declared before the disk is full of it."""

        def __init__(self, *arguments, **options) -> None:
            # Bytes on the way may be more than those of the file; the bar of the files counts others.
            self.bounded = options.get("unit") == "B" and not options.get("name", "").endswith("transfer")
            self.received = 0
            super().__init__(*arguments, **{"disable": None} | options)

        def update(self, n: float | None = 1) -> bool | None:
            self.received += n or 0
            if self.bounded and self.received > most:
                raise UnusableInput(f"{repo} sends more than its index says; nothing of it was kept.")
            return super().update(n)

    chosen = list(sizes) if patterns is None else list(patterns)
    fetched = api.snapshot_download(
        repo, revision=revision, allow_patterns=chosen, etag_timeout=ANSWER_SECONDS, tqdm_class=Bar, max_workers=2, **where
    )
    return Path(fetched)


def _declared(api: HfApi, repo: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit that a revision of a model repo is, and the sizes of its files, as the index has them."""
    info = api.model_info(repo, revision=revision, timeout=ANSWER_SECONDS, files_metadata=True)
    sizes = {file.rfilename: max(file.size or 0, file.lfs.size if file.lfs else 0, 0) for file in info.siblings or ()}
    return str(info.sha), sizes


def _check_repo(repo: str) -> None:
    if not ON_THE_HUB.fullmatch(repo):  # the client would take a name without an owner
        raise UnusableInput(NO_REPO.format(repo))


def address_of(repo: str) -> str:
    """Where a browser finds a model repo."""
    return f"{client_of(None).endpoint}/{repo}"


def client_of(token: Token) -> HfApi:
    """The client. HF_ENDPOINT is read here, so that it may change after the library was imported."""
    get_session().timeout = httpx2.Timeout(SILENCE_SECONDS, connect=ANSWER_SECONDS)  # most of its calls would wait for ever
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None, token=token, library_name="gmtalker-studio")


# --- What went wrong, in a sentence --------------------------------------------------------------------------------------------


@contextmanager
def as_sentence(api: HfApi, subject: str) -> Iterator[None]:
    """Inside, whatever the client raises becomes one sentence about the subject, usually a repo. Errors: UnusableInput."""
    try:
        with nullcontext() if sys.stderr.isatty() else disable_progress_bars():
            yield
    except (httpx2.HTTPError, httpx2.InvalidURL, XetDownloadError, OSError, ValueError, RuntimeError) as error:
        # The client says only where an upload broke; what broke it is the cause.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
        raise UnusableInput(_sentence(api, subject, cause)) from error


def _sentence(api: HfApi, subject: str, error: BaseException) -> str:
    if isinstance(error, GatedRepoError):
        return f"{subject} is gated: ask its owner for access at {api.endpoint}/{subject}, then give your token with --token."
    if isinstance(error, RepositoryNotFoundError):
        return f"There is no {subject} on the Hub, or it is private; check the name, or give a token that may read it (--token)."
    if isinstance(error, RevisionNotFoundError):
        return f"{subject} has no such revision on the Hub; leave it out for the newest."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return "The Hub wants a valid token for this; give one with --token, set HF_TOKEN, or run `hf auth login`."
    if status == 403:
        return f"The token may not do this with {subject}: {first_line(getattr(error, 'server_message', None) or 'forbidden')}."
    if status is not None and (status == 429 or status >= 500):
        return f"The Hub is in trouble or too busy (it answers {status}); try again later."
    if status is not None:
        said = getattr(error, "server_message", None) or "no reason given"
        return f"The Hub at {api.endpoint} does not take this for {subject} (it answers {status}: {first_line(said)})."
    if isinstance(error, HFValidationError):
        return NO_REPO.format(subject)
    if isinstance(error, OfflineModeIsEnabled):
        return f"{subject} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it."
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is None:
        return f"{subject} was not fetched to this machine before, and it was asked for without the network."
    if isinstance(error, (httpx2.TransportError, LocalEntryNotFoundError)):
        return f"The Hub at {api.endpoint} can't be reached for {subject}, or the line broke; check the network and try again."
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return "There is not enough room on the disk; nothing was kept, make room and try again."
    return f"The Hub and this machine did not agree about {subject} ({first_line(error)})."
