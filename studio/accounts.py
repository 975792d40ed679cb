"""Several people on one page: who may come in, and that each finds only what is theirs."""

from __future__ import annotations

import contextvars
import functools
import hashlib
import hmac
import inspect
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import gradio as gr
from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from gradio.utils import get_upload_folder

from gmtalker.avatars.workspace import home, owned_by
from studio.translations import language_of, say

COST = {"n": 2**14, "r": 8, "p": 1}  # of scrypt, some 50 ms: a stolen file of passwords does not tell them
FILES = "/gradio_api/file="
NOT_THEIRS = "This file is somebody else's."
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')  # of JSON
LONGEST_PATH = 4096
SIGN_IN_FIRST = "Sign in with Hugging Face first."


# What is answered before anybody has signed in: gradio's ways in and out, and its own question whether the server is up.
OPEN = ("/login/", "/logout", "/gradio_api/startup-events")


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


def signed_in(request: Request) -> str | None:
    """AvatarLike has signed in, by the session that gradio's LoginButton keeps; None for nobody."""
    told = request.scope.get("session", {}).get("oauth_info")
    return told["userinfo"]["preferred_username"] if told and told.get("expires_at", math.inf) > time.time() else None


class SignIn:
    """AvatarLike has not signed in gets one page, which says how; every other request of theirs is refused.

    An ASGI middleware of the page's server, inside the one of gradio's that reads the session.
    """

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OPEN) or signed_in(Request(scope)):
            await self.app(scope, receive, send)
        elif scope["path"] == "/":
            await HTMLResponse(_door(Request(scope)))(scope, receive, send)
        else:
            await Response(SIGN_IN_FIRST, status_code=401)(scope, receive, send)


def _door(request: Request) -> str:
    # In a window of its own: Hugging Face does not let its form be shown inside its page of the Space.
    way_in = f'<a href="/login/huggingface" target="_blank">{say(request, "sign_in")}</a>'
    return (
        f'<!doctype html><html lang="{language_of(request)}"><meta charset="utf-8"><title>GMTalker Studio</title>'
        '<meta name="viewport" content="width=device-width"><body style="font-family: system-ui; margin: 4rem auto; width: 80%">'
        f"<h1>GMTalker Studio</h1><p>{say(request, 'sign_in_about')}</p><p>{way_in}</p></body></html>"
    )


class FilesApart:
    """A person is served, and may name in a request, only the files that this server has told them of: uploads of theirs and
    results made for them.

    An ASGI middleware of the page's server, where people come in by name. It reads the addresses out of what goes to each person.
    """

    def __init__(self, app: Callable) -> None:
        self.app, self.told = app, {}
        self.cache = os.path.realpath(get_upload_folder())

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        asks = _person_of(Request(scope)) if scope["type"] == "http" else None
        if asks is None:  # nobody has come in: gradio itself answers
            await self.app(scope, receive, send)
            return
        theirs = self.told.setdefault(asks, set())
        place = unquote(scope["path"]).partition(FILES)[2]
        if place and not _is_public(place) and os.path.realpath(place) not in theirs:
            await Response(NOT_THEIRS, status_code=403)(scope, receive, send)
            return
        if scope["method"] == "POST" and not scope["path"].rstrip("/").endswith("/upload"):
            request = Request(scope, receive)
            body = await request.body()
            if not all(path in theirs or _is_public(path) for path in self._files_in(body)):
                await Response(NOT_THEIRS, status_code=403)(scope, receive, send)
                return
            receive = _replayed(body, receive)
        await self.app(scope, receive, send if place else self._listened(send, theirs))

    def _listened(self, send: Callable, theirs: set[str]) -> Callable:
        """send, that notes the files of what is sent; a name may lie across two pieces."""
        rest = b""

        async def noted(message: dict) -> None:
            nonlocal rest
            if message["type"] == "http.response.body":
                piece = rest + message.get("body", b"")
                theirs.update(self._files_in(piece))
                rest = piece[-LONGEST_PATH:]
            await send(message)

        return noted

    def _files_in(self, text: bytes) -> list[str]:
        """Files of gradio's cache that JSON speaks of."""
        found = []
        for match in STRINGS.finditer(text):
            if b"gradio" in match[0] or self.cache.encode() in match[0]:
                try:
                    path = json.loads(match[0])
                except ValueError:
                    continue
                path = os.path.realpath(unquote(path).partition(FILES)[2] or path)
                if path.startswith(self.cache + os.sep):
                    found.append(path)
        return found


def _replayed(body: bytes, receive: Callable) -> Callable:
    """receive, that gives a body which was read already."""
    given = False

    async def again() -> dict:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _person_of(request: Request) -> str | None:
    """AvatarLike asks, by the session or by the cookie that gradio gave them when they came in; None for somebody who has not."""
    if request.app.auth_dependency is not None:
        return request.app.auth_dependency(request)
    for kind in ("access-token", "access-token-unsecure"):
        token = request.cookies.get(f"{kind}-{request.app.cookie_id}")
        if token in request.app.tokens:
            return request.app.tokens[token]
    return None


def _is_public(place: str) -> bool:
    """What comes with the program: examples and the page's own pictures."""
    return Path(place).resolve().is_relative_to(Path(__file__).resolve().parent.parent / "assets")
