"""Several people on one page: who may come in, and that each finds only what is theirs."""

from __future__ import annotations

import contextvars
import functools
import hashlib
import hmac
import inspect
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import gradio as gr
from fastapi import Request, Response

from gmtalker.avatar import home, owned_by

COST = {"n": 2**14, "r": 8, "p": 1}  # of scrypt, some 50 ms: a stolen file of passwords does not tell them
FILES = "/gradio_api/file="


def of_reader(handler: Callable) -> Callable:
    """A handler of the page that works in the workspace of whoever calls it. It takes a gr.Request, as gradio gives it."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*values: object) -> Iterator[object]:
            # Each step may run in another thread: all of them in one context, in which the workspace is set.
            context = contextvars.copy_context()
            made = handler(*values)
            nothing = object()
            try:
                while (value := context.run(_in_workspace, values, next, made, nothing)) is not nothing:
                    yield value
            finally:
                context.run(_in_workspace, values, made.close)

        return steps

    @functools.wraps(handler)
    def call(*values: object) -> object:
        return _in_workspace(values, handler, *values)

    return call


def _in_workspace(values: tuple, work: Callable, *arguments: object) -> object:
    request = next(value for value in values if isinstance(value, gr.Request))
    with owned_by(getattr(request, "username", None) or ""):
        return work(*arguments)


# --- Names and passwords -------------------------------------------------------------------------------------------------------


def _people_file() -> Path:
    return home() / "people.json"


def add_person(name: str, password: str) -> None:
    """Let somebody in, or give them another password. Errors: ValueError for an empty name or a password under 8 letters."""
    if not name.strip() or not name.isprintable() or len(password) < 8:
        raise ValueError("A person has a name, and a password of at least 8 letters")
    people = _read_people()
    salt = secrets.token_bytes(16)
    people[name] = {"salt": salt.hex(), "key": hashlib.scrypt(password.encode(), salt=salt, **COST).hex()}
    path = _people_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".writing-{path.name}")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(people, file, ensure_ascii=False, indent=1)
    unfinished.replace(path)


def _read_people() -> dict[str, dict[str, str]]:
    path = _people_file()
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def anybody_known() -> bool:
    return bool(_read_people())


def may_enter(name: str, password: str) -> bool:
    """Whether this is the password of that person; as slow for a name that nobody has."""
    known = _read_people().get(name, {"salt": "00" * 16, "key": ""})
    key = hashlib.scrypt(password.encode(), salt=bytes.fromhex(known["salt"]), **COST).hex()
    return hmac.compare_digest(key, known["key"])


# --- Files ---------------------------------------------------------------------------------------------------------------------


class FilesApart:
    """Uploads and results are fetched by those alone who fetched them first: an address can't be guessed, but it can be told on.

    An ASGI middleware of the page's server, where people come in by name.
    """

    def __init__(self, app: Callable) -> None:
        self.app, self.owners = app, {}

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        place = unquote(scope.get("path", "")).partition(FILES)[2]
        if scope["type"] == "http" and place and not _is_public(place):
            asks = _person_of(Request(scope))
            if asks is not None and self.owners.setdefault(place, asks) != asks:
                await Response("This file is somebody else's.", status_code=403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _person_of(request: Request) -> str | None:
    """Who asks, by the cookie that gradio gave them when they came in; None for somebody who has not."""
    for kind in ("access-token", "access-token-unsecure"):
        token = request.cookies.get(f"{kind}-{request.app.cookie_id}")
        if token in request.app.tokens:
            return request.app.tokens[token]
    return None


def _is_public(place: str) -> bool:
    """What comes with the program: examples and the page's own pictures."""
    return Path(place).resolve().is_relative_to(Path(__file__).resolve().parent.parent / "assets")
