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
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import gradio as gr
from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from gradio.utils import get_upload_folder
from werkzeug.security import check_password_hash, generate_password_hash

from gmtalker.assets import ASSETS
from gmtalker.avatars.workspace import home, owned_by
from gmtalker.files import whole_file
from studio.translations import language_of, say

METHOD = "scrypt"  # some 50 ms: a stolen file of passwords does not tell them
FIRST_METHOD = {"n": 2**14, "r": 8, "p": 1}  # scrypt's parameters in the accounts that hold a salt and a key
PASSWORD_LENGTH_MIN = 8
FILES = "/gradio_api/file="
NOT_THEIRS = "This file is somebody else's."
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')  # of JSON
SIGN_IN_FIRST = "Sign in with Hugging Face first."
# What is answered before anybody has signed in: gradio's ways in and out, and its own question whether the server is up.
OPEN = ("/login/", "/logout", "/gradio_api/startup-events")


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
    with owned_by(getattr(visitor, "username", None) or ""):
        return work(*arguments, **named)


# --- Names and passwords -------------------------------------------------------------------------------------------------------


def add_account(name: str, password: str) -> None:
    """Let somebody in, or give them another password.

    Errors: ValueError for an empty name or a password under 8 letters.
    """
    if not name.strip() or not name.isprintable() or len(password) < PASSWORD_LENGTH_MIN:
        raise ValueError(f"An account needs a name, and a password of at least {PASSWORD_LENGTH_MIN} letters")
    accounts = _read_accounts() | {name: {"password": generate_password_hash(password, METHOD)}}
    path = _accounts_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(accounts, file, ensure_ascii=False, indent=1)


def has_accounts() -> bool:
    """Whether anybody can come in."""
    return bool(_read_accounts())


def may_enter(name: str, password: str) -> bool:
    """Whether this is the password of that account; as slow for a name that nobody has."""
    account = _read_accounts().get(name)
    if account is None:
        check_password_hash(_hash_of_nobody(), password)
        return False
    if "password" in account:
        return check_password_hash(account["password"], password)
    return _fits_first_form(account, password)


def _fits_first_form(account: Mapping[str, str], password: str) -> bool:
    """Whether the password is that of an account as the first versions wrote it: a salt and a key, both hexadecimal."""
    key = hashlib.scrypt(password.encode(), salt=bytes.fromhex(account["salt"]), **FIRST_METHOD).hex()
    return hmac.compare_digest(key, account["key"])


@cache
def _hash_of_nobody() -> str:
    return generate_password_hash(os.urandom(16).hex(), METHOD)


def _accounts_file() -> Path:
    return home() / "people.json"


def _read_accounts() -> dict[str, dict[str, str]]:
    path = _accounts_file()
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# --- Signing in with Hugging Face ----------------------------------------------------------------------------------------------


def signed_in(request: Request) -> str | None:
    """The name of who has signed in, by the session that gradio's LoginButton keeps; None for nobody."""
    login = request.scope.get("session", {}).get("oauth_info")
    return login["userinfo"]["preferred_username"] if login and login.get("expires_at", math.inf) > time.time() else None


class SignIn:
    """Shows one page, with the way in, to whoever has not signed in, and refuses every other request of theirs.

    An ASGI middleware of the page's server, inside the one of gradio's that reads the session.
    """

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http" or scope["path"].startswith(OPEN) or signed_in(Request(scope)):
            await self.app(scope, receive, send)
        elif scope["path"] == "/":
            await HTMLResponse(_sign_in_page(Request(scope)))(scope, receive, send)
        else:
            await Response(SIGN_IN_FIRST, status_code=401)(scope, receive, send)


def _sign_in_page(request: Request) -> str:
    # In a window of its own: Hugging Face does not let its form be shown inside its page of the Space.
    link = f'<a href="/login/huggingface" target="_blank">{say(request, "sign_in")}</a>'
    return (
        f'<!doctype html><html lang="{language_of(request)}"><meta charset="utf-8"><title>GMTalker Studio</title>'
        '<meta name="viewport" content="width=device-width"><body style="font-family: system-ui; margin: 4rem auto; width: 80%">'
        f"<h1>GMTalker Studio</h1><p>{say(request, 'sign_in_about')}</p><p>{link}</p></body></html>"
    )


# --- Files ---------------------------------------------------------------------------------------------------------------------


class OwnFilesOnly:
    """Serves each visitor, and accepts in their requests, only the files that this server has sent them the paths of: their
    own uploads, and results made for them.

    An ASGI middleware of the page's server, for pages where people come in by name. It reads the paths out of the responses.
    """

    def __init__(self, app: Callable) -> None:
        self.app, self.paths_sent = app, {}
        self.cache = os.path.realpath(get_upload_folder())

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer a request, or hand it on."""
        name = _visitor_name(Request(scope)) if scope["type"] == "http" else None
        if name is None:  # nobody has come in: gradio itself answers
            await self.app(scope, receive, send)
            return
        theirs = self.paths_sent.setdefault(name, set())
        path = unquote(scope["path"]).partition(FILES)[2]
        if path and not _is_public(path) and os.path.realpath(path) not in theirs:
            await Response(NOT_THEIRS, status_code=403)(scope, receive, send)
            return
        if scope["method"] == "POST" and not scope["path"].rstrip("/").endswith("/upload"):
            request = Request(scope, receive)
            body = await request.body()
            if not all(file in theirs or _is_public(file) for file in self._files_in(body)):
                await Response(NOT_THEIRS, status_code=403)(scope, receive, send)
                return
            receive = _replayed(body, receive)
        await self.app(scope, receive, send if path else self._noting_files(send, theirs))

    def _noting_files(self, send: Callable, theirs: set[str]) -> Callable:
        """send, which also notes the files in what is sent; a path may lie across two pieces."""
        line = b""  # from its start: read from amid a string, what is quoted and what is not would change places

        async def noting(message: dict) -> None:
            nonlocal line
            if message["type"] == "http.response.body":
                line += message.get("body", b"")
                theirs.update(self._files_in(line))
                line = line.rpartition(b"\n")[2]  # no string of JSON holds a line break
            await send(message)

        return noting

    def _files_in(self, text: bytes) -> list[str]:
        """Files of gradio's cache that JSON names."""
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
    """receive, which first gives a body that was read already."""
    given = False

    async def again() -> dict:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _visitor_name(request: Request) -> str | None:
    """Who sends a request, by the session or by the cookie that gradio gave them when they came in; None for nobody known."""
    if request.app.auth_dependency is not None:
        return request.app.auth_dependency(request)
    for kind in ("access-token", "access-token-unsecure"):
        token = request.cookies.get(f"{kind}-{request.app.cookie_id}")
        if token in request.app.tokens:
            return request.app.tokens[token]
    return None


def _is_public(path: str) -> bool:
    """Whether a file comes with the program: examples and the page's own pictures."""
    return Path(path).resolve().is_relative_to(ASSETS)
