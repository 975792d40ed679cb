"""Folders of files from the Hugging Face Hub and to it; whatever goes wrong becomes one sentence."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from fnmatch import fnmatch
from pathlib import Path

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

from gmtalker.errors import UnusableInput, first_line
from gmtalker.files import MEGABYTE

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name
ANSWER_SECONDS = 5.0  # for the first answer: without a network, the sentence should not take longer
SILENCE_SECONDS = 60.0  # after which a line that was open is taken for dead
LARGEST_FETCH = 4000 * MEGABYTE  # a large HuBERT among them
LOG_IN = "`hf auth login`, HF_TOKEN, or --token-file where a command has it"
NO_REPO = "{!r} can't be a repo on the Hub; those are called owner/name."
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

Token = str | bool | None  # None: the one this machine is logged in with; False: none at all


def push_files(files: Mapping[str, Path | bytes], repo: str, marker: str, private: bool = True, token: Token = None) -> str:
    """Make a model repo hold exactly these files, in one commit; it is made when it is missing.

    files: path in the repo -> a file here, or its content.
    marker: the file by which a repo of this sort is known; a repo without it that holds other things is left alone.
    private: whether only the owner may see it.
    Returns: the id of the commit.
    Errors: UnusableInput when the Hub does not take them; then a repo that was made for them is deleted again.
    """
    check_repo(repo)
    api = client_of(token)
    with as_sentence(api, repo):
        try:
            known = api.model_info(repo, timeout=ANSWER_SECONDS)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            known = None
        there = [] if known is None else [file.rfilename for file in known.siblings or () if file.rfilename != ".gitattributes"]
        if there and marker not in there:
            raise UnusableInput(f"{repo} holds something else already (it has no {marker}); choose another repo.")
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


def fetch_files(
    repo: str,
    patterns: Sequence[str],
    revision: str | None = None,
    token: Token = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Fetch the files of a model repo that match patterns; without a network, what was fetched before is used.

    patterns: as for fnmatch, such as "face_model/*.json".
    revision: a branch, a tag or a commit; None is the newest.
    cache_dir: where downloads are kept; None is the client's own place.
    local_files_only: take only what was fetched before.
    Returns: the folder with the files, in the cache.
    Errors: UnusableInput when the Hub does not give them, or when they are too large.
    """
    api, unreachable, declared = client_of(token), None, {}
    with as_sentence(api, repo):
        if not local_files_only:
            try:
                _, declared = declared_files(api, repo, revision)
            except (httpx2.TransportError, OfflineModeIsEnabled) as error:
                unreachable = error
        wanted = {name: size for name, size in declared.items() if any(fnmatch(name, pattern) for pattern in patterns)}
        if sum(wanted.values()) > LARGEST_FETCH:
            raise UnusableInput(f"{repo} is too large; nothing was fetched.")
        where = {"cache_dir": cache_dir, "local_files_only": local_files_only or unreachable is not None}
        try:
            return fetch(api, repo, revision, wanted, patterns, **where)
        except LocalEntryNotFoundError:
            if unreachable is None:
                raise
            raise unreachable from None


def fetch(
    api: HfApi, repo: str, revision: str | None, sizes: Mapping[str, int], patterns: Sequence[str] | None = None, **where
) -> Path:
    """Download files of a model repo, and not a byte more than was declared.

    sizes: bytes of each file, by its path in the repo (declared_files).
    patterns: which files, as for fnmatch; None is those of sizes.
    where: local_dir, cache_dir, local_files_only, as snapshot_download takes them.
    Returns: the folder with the files.
    Errors: UnusableInput when more comes than sizes add up to; what the client raises (as_sentence).
    """
    most = sum(sizes.values())

    class Bar(tqdm):
        """The client's progress bar; ends a download that is larger than declared before it fills the disk."""

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


def declared_files(api: HfApi, repo: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """Ask the index of a model repo.

    revision: a branch, a tag or a commit; None is the newest.
    Returns: the commit, and the bytes of each file by its path in the repo.
    Errors: what the client raises (as_sentence).
    """
    info = api.model_info(repo, revision=revision, timeout=ANSWER_SECONDS, files_metadata=True)
    sizes = {file.rfilename: max(file.size or 0, file.lfs.size if file.lfs else 0, 0) for file in info.siblings or ()}
    return str(info.sha), sizes


def check_repo(repo: str) -> None:
    """Check that a repo is called owner/name. Errors: UnusableInput."""
    if not REPO_ID.fullmatch(repo):  # the client would take a name without an owner
        raise UnusableInput(NO_REPO.format(repo))


def address_of(repo: str) -> str:
    """Where a browser finds a model repo."""
    return f"{client_of(None).endpoint}/{repo}"


def client_of(token: Token) -> HfApi:
    """The client. HF_ENDPOINT is read at each call, so that it may change after the library was imported."""
    get_session().timeout = httpx2.Timeout(SILENCE_SECONDS, connect=ANSWER_SECONDS)  # most of its calls would wait for ever
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None, token=token, library_name="gmtalker-studio")


@contextmanager
def as_sentence(api: HfApi, subject: str) -> Iterator[None]:
    """Inside, whatever the client raises becomes one sentence.

    subject: what the sentence is about, usually a repo.
    Errors: UnusableInput.
    """
    try:
        with nullcontext() if sys.stderr.isatty() else disable_progress_bars():
            yield
    except (httpx2.HTTPError, httpx2.InvalidURL, XetDownloadError, OSError, ValueError, RuntimeError) as error:
        # The client says only where an upload broke; what broke it is the cause.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
        raise UnusableInput(_sentence(api, subject, cause)) from error


def _sentence(api: HfApi, subject: str, error: BaseException) -> str:
    if isinstance(error, GatedRepoError):
        return f"{subject} is gated: ask its owner for access at {api.endpoint}/{subject}, then log in ({LOG_IN})."
    if isinstance(error, RepositoryNotFoundError):
        return f"There is no {subject} on the Hub, or it is private; check the name, or log in ({LOG_IN})."
    if isinstance(error, RevisionNotFoundError):
        return f"{subject} has no such revision on the Hub; leave it out for the newest."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return f"The Hub wants a valid token for this: {LOG_IN}."
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
