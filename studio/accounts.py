"""Several people on one page: who may come in, and that each finds only what is theirs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import hashlib
import hmac
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import gradio as gr
from werkzeug.security import check_password_hash, generate_password_hash

from gmtalker.avatars.workspace import clean_name, home, owned_by, private_home, workspace
from gmtalker.errors import UnusableInput
from gmtalker.files import whole_file

METHOD = "scrypt"  # some 50 ms: a stolen file of passwords does not tell them
FIRST_METHOD = {"n": 2**14, "r": 8, "p": 1}  # scrypt's parameters in the accounts that hold a salt and a key
PASSWORD_LENGTH_MIN = 8
NAMES = "An account's name has 1 to 80 printable characters"
# Guesses: what a name or an address may get wrong before it has to wait, and the longest wait, in seconds.
NAME_FREE, NAME_WAIT_MAX = 3, 8.0
ADDRESS_FREE, ADDRESS_WAIT_MAX = 10, 300.0
REMEMBERED_SECONDS, REMEMBERED_MAX = 900.0, 10_000


# --- Workspaces ----------------------------------------------------------------------------------------------------------------


def in_own_workspace(handler: Callable) -> Callable:
    """Run a handler of the page in the workspace of the visitor who calls it.

    handler: a function or a generator function with a gr.Request among its parameters, as gradio fills it in.
    """
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*values: object, **named: object) -> Iterator[object]:
            # Each step may run in another thread: all of them in one context, in which the workspace is set.
            context = contextvars.copy_context()
            generator = handler(*values, **named)
            end = object()
            try:
                while (value := context.run(_as_visitor, values, next, generator, end)) is not end:
                    yield value
            finally:
                context.run(_as_visitor, values, generator.close)

        return steps

    @functools.wraps(handler)
    def call(*values: object, **named: object) -> object:
        return _as_visitor(values, handler, *values, **named)

    return call


def _as_visitor(values: tuple, work: Callable, *arguments: object, **named: object) -> object:
    visitor = next(value for value in values if isinstance(value, gr.Request))
    with owned_by(name_of(visitor), by_name_alone=True):
        return work(*arguments, **named)


def name_of(visitor: gr.Request) -> str:
    """Who calls a handler; empty where nobody gives a name."""
    name = getattr(visitor, "username", None)
    return account_name(name) if name else ""


# --- Names and passwords -------------------------------------------------------------------------------------------------------


def account_name(name: str) -> str:
    """A name as accounts have it: whoever types it with other spaces or letters in another form is the same person.

    Errors: ValueError when no account can have it.
    """
    try:
        return clean_name(name)
    except ValueError as error:
        raise ValueError(NAMES) from error


def add_account(name: str, password: str) -> None:
    """Let somebody in, or give them another password; whoever is in with the old one is out.

    Errors: ValueError for a name that is empty, too long or not printable, or a password under 8 letters; UnusableInput when
        the accounts can't be read.
    """
    name = account_name(name)
    if len(password) < PASSWORD_LENGTH_MIN:
        raise ValueError(f"A password has at least {PASSWORD_LENGTH_MIN} letters")
    _write_accounts(_read_accounts() | {name: {"password": generate_password_hash(password, METHOD)}})


def remove_account(name: str, with_files: bool = False) -> Path:
    """Let somebody in no more; whoever is in under that name is out.

    with_files: also delete what they made.
    Returns: the folder of what they made, which may exist.
    Errors: UnusableInput when there is no such account.
    """
    accounts = _read_accounts()
    try:
        name = account_name(name)
        del accounts[name]
    except (ValueError, KeyError) as error:
        raise UnusableInput(f"There is no account {name}; there are {', '.join(accounts) or 'none'}.") from error
    _write_accounts(accounts)
    folder = workspace(name)
    if with_files:
        shutil.rmtree(folder, ignore_errors=True)
    return folder


def has_accounts() -> bool:
    """Whether anybody can come in. Errors: UnusableInput when the accounts can't be read."""
    return bool(_read_accounts())


def may_enter(name: str, password: str) -> bool:
    """Whether this is the password of that account; as slow for a name that nobody has."""
    account = _account(name)
    if account is None:
        check_password_hash(_hash_of_nobody(), password)
        return False
    if "password" in account:
        return check_password_hash(account["password"], password)
    return _fits_first_form(account, password)


def state_of(name: str) -> str | None:
    """What stands for an account as it is now, None when there is none: another password makes it another."""
    account = _account(name)
    return None if account is None else hashlib.sha256(json.dumps(account, sort_keys=True).encode()).hexdigest()


def _account(name: str) -> Mapping[str, str] | None:
    try:
        return _read_accounts().get(account_name(name))
    except ValueError:
        return None


def _fits_first_form(account: Mapping[str, str], password: str) -> bool:
    """Whether the password is that of an account as the first versions wrote it: a salt and a key, both hexadecimal."""
    key = hashlib.scrypt(password.encode(), salt=bytes.fromhex(account["salt"]), **FIRST_METHOD).hex()
    return hmac.compare_digest(key, account["key"])


@cache
def _hash_of_nobody() -> str:
    return generate_password_hash(os.urandom(16).hex(), METHOD)


def _accounts_file() -> Path:
    return home() / "people.json"


def _write_accounts(accounts: Mapping[str, Mapping[str, str]]) -> None:
    private_home()
    with whole_file(_accounts_file()) as unfinished:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(accounts, file, ensure_ascii=False, indent=1)


def _read_accounts() -> dict[str, dict[str, str]]:
    """The accounts by name. Errors: UnusableInput when the file holds none."""
    path = _accounts_file()
    try:
        state = path.stat()
    except FileNotFoundError:
        return {}
    return dict(_parsed_accounts(path, state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(4)  # it is asked with every request
def _parsed_accounts(path: Path, *state: int) -> Mapping[str, dict[str, str]]:
    try:
        accounts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(accounts, dict) or not all(_is_account(account) for account in accounts.values()):
            raise ValueError
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableInput(f"{path} holds no accounts; please repair it, or put it aside and add everybody again.") from error
    found: dict[str, dict[str, str]] = {}
    for name, account in accounts.items():  # of two that are one person's, as first versions let in, the first
        with suppress(ValueError):
            found.setdefault(account_name(name), account)
    return found


def _is_account(account: object) -> bool:
    """Whether it holds what a password is compared with."""
    if not isinstance(account, dict) or not all(isinstance(value, str) for value in account.values()):
        return False
    try:
        return "password" in account or bool(bytes.fromhex(account["salt"]) and bytes.fromhex(account["key"]))
    except (KeyError, ValueError):
        return False


# --- Guesses -------------------------------------------------------------------------------------------------------------------

ADDRESS: ContextVar[str] = ContextVar("address", default="")  # from which the request comes that is being answered


def _same_name(name: str) -> str:
    try:
        return account_name(name)
    except ValueError:
        return ""


@dataclass
class _Wrong:
    """Guesses that were wrong: how many, and when the last."""

    count: int = 0
    last: float = 0.0


class Door:
    """Checks passwords in a thread, and makes whoever guesses wait: a name a little, an address longer and longer.

    A name is never shut: else anybody could keep its owner out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._wrong = clock, {}
        self._few = asyncio.Semaphore(2)  # a check takes a core for 50 ms, and the others' requests wait for it

    def seconds_shut(self, address: str) -> float:
        """How long nothing is checked for an address; 0 when it may try."""
        wrong = self._wrong.get(("address", address), _Wrong())
        if wrong.count < ADDRESS_FREE:
            return 0.0
        wait = min(2.0 ** (wrong.count - ADDRESS_FREE), ADDRESS_WAIT_MAX)
        return max(0.0, wrong.last + wait - self._clock())

    async def may_enter(self, name: str, password: str) -> bool:
        """As `may_enter`, of a request from ADDRESS."""
        address, name = ADDRESS.get(), _same_name(name)
        if self.seconds_shut(address):
            return False
        wrong = self._wrong.get(("name", name), _Wrong()).count
        for key in (("name", name), ("address", address)):  # before they are checked: many at once are many, too
            self._remember(key)
        if wrong >= NAME_FREE:
            await asyncio.sleep(min(2.0 ** (wrong - NAME_FREE) / 2, NAME_WAIT_MAX))
        async with self._few:
            right = await asyncio.to_thread(may_enter, name, password)
        if right:  # who knows one password has not earned guesses at another
            self._wrong.pop(("name", name), None)
            if own := self._wrong.get(("address", address)):
                own.count -= 1
        return right

    def _remember(self, key: tuple[str, str]) -> None:
        now = self._clock()
        self._wrong = {old: wrong for old, wrong in self._wrong.items() if now - wrong.last < REMEMBERED_SECONDS}
        if key in self._wrong or len(self._wrong) < REMEMBERED_MAX:
            wrong = self._wrong.setdefault(key, _Wrong())
            wrong.count, wrong.last = wrong.count + 1, now
