"""What is answered, and to whom: the page's own host names and pages, who has come in, and the files that are theirs."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from socket import getfqdn, gethostname
from urllib.parse import unquote, unquote_plus, urlsplit

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from gradio.utils import get_upload_folder
from starlette.datastructures import Headers, MutableHeaders

from gmtalker.assets import ASSETS
from gmtalker.files import MEGABYTE
from studio.accounts import ADDRESS, Door, account_name, state_of
from studio.translations import language_of, say

API = "/gradio_api/"
FILE = "file="
NOT_THEIRS = "This file is somebody else's."
COME_IN_FIRST = "Please come in first."
SIGN_IN_FIRST = "Sign in with Hugging Face first."
NOT_HERE = "This page is not known by this name; its owner can add it with --allow-host."
FROM_ELSEWHERE = "Another website asked for this; please open the page itself."
UNREADABLE = "This request can't be read."
# What is answered before anybody has signed in: gradio's ways in and out, and its own question whether the server is up.
OPEN = ("/login/", "/logout", f"{API}startup-events", "/check")
# Ways of gradio's that this page never uses: what they serve is not looked at by OwnFilesOnly.
UNUSED = ("proxy=", "process_recording", "component_server", "custom_component", "stream/", "deep_link", "dev/", "profiling")
UNUSED += ("runs", "run-history", "vibe", "undo-vibe")
NO_JSON = ("/login", "/login/", f"{API}upload", "/check")  # the ways whose requests are none of events
BODY_BYTES_MAX = 4 * MEGABYTE  # of a request that is no upload
PATH_LETTERS_MAX, FILES_MAX = 4096, 1000  # of a string that names a file; of such strings in a request
LARGE = (f"{API}upload", "/check")  # the ways that take files, and limit them themselves
TOO_LONG = f"A request holds up to {BODY_BYTES_MAX // MEGABYTE} MB."
FACES = "'self' data: blob:"
# A name in a stranger's file that becomes HTML after all must not call anybody.
CONTENT = (
    f"default-src {FACES} 'unsafe-inline' 'unsafe-eval'; img-src {FACES}; media-src {FACES}; connect-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self' https://huggingface.co; "
)
FORWARDED = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"}  # no website can send them
HUGGING_FACE = "https://huggingface.co https://*.hf.space"


# --- The page's own ------------------------------------------------------------------------------------------------------------


def own_hosts(listening: str, also: Collection[str] = ()) -> set[str] | None:
    """The names by which the page is asked for, without ports; others may lead here all the same (DNS rebinding).

    listening: the address it listens at; where others come in, this machine's names are its own, too, and every address.
    also: more names, as of a server before it; "*" is any.
    Returns: small letters; None for any.
    """
    if "*" in also or "SPACE_ID" in os.environ:  # a Space is asked for by the server before it alone
        return None
    hosts = {"localhost", "127.0.0.1", "::1", listening, *also, urlsplit(os.environ.get("GRADIO_ROOT_PATH", "")).hostname or ""}
    if not _is_loopback(listening):
        hosts |= {gethostname(), f"{gethostname()}.local", getfqdn()}
    return {host.lower().rstrip(".") for host in hosts if host}


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


class OwnPagesOnly:
    """Answers only under the page's own names and only what its own pages ask; tells browsers to keep it apart from others.

    An ASGI middleware of the page's server. A program that is no browser tells no origin, and is answered.

    hosts: of own_hosts.
    listening: the address it listens at: on this machine's own alone, addresses of the network are no names of it.
    embedded: whether it is shown inside Hugging Face's page: as a Space.
    anybody: whether other websites may show and call it: a demo, which holds nothing of anybody's.
    """

    def __init__(
        self,
        app: Callable,
        hosts: Collection[str] | None,
        listening: str = "127.0.0.1",
        embedded: bool = False,
        anybody: bool = False,
    ) -> None:
        self.app, self.hosts, self.embedded, self.anybody = app, hosts, embedded, anybody
        self.any_address = not _is_loopback(listening)

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, refused = Headers(scope=scope), None
        if not self._is_own_host(headers.get("host", "")):
            refused = Response(NOT_HERE, status_code=421)
        elif not self.anybody and self._is_from_elsewhere(scope, headers):
            refused = Response(FROM_ELSEWHERE, status_code=403)
        elif _route(scope) not in LARGE:
            if int(headers.get("content-length") or 0) > BODY_BYTES_MAX:
                refused = Response(TOO_LONG, status_code=413)
            receive = _limited(receive)
        await (refused or self.app)(scope, receive, self._apart(send))

    def _is_own_host(self, host: str) -> bool:
        if self.hosts is None:
            return True
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self.hosts or (self.any_address and _is_address(name))

    def _is_from_elsewhere(self, scope: dict, headers: Headers) -> bool:
        """Whether a page of another origin asks, but for a link to this page."""
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return not self._is_link(scope, headers)
        origin = headers.get("origin")
        if origin is None:
            return False
        names = {headers.get("host", ""), *re.split(r"\s*,\s*", headers.get("x-forwarded-host", ""))} - {""}
        asked = origin.partition("//")[2].lower()
        if FORWARDED & set(headers.keys()):  # a server before it may drop the port
            names |= {f"{name}:{asked.rpartition(':')[2]}" for name in names if ":" not in name}
        return asked not in {name.lower() for name in names}

    def _is_link(self, scope: dict, headers: Headers) -> bool:
        path = _route(scope).rstrip("/")
        shown = ("document", "iframe") if self.embedded else ("document",)
        opens = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") in shown
        return opens and scope["method"] in ("GET", "HEAD") and (not path or f"{path}/".startswith(OPEN[0]))

    def _apart(self, send: Callable) -> Callable:
        """send, which also tells browsers to keep the page apart."""
        frames = "*" if self.anybody else f"'self' {HUGGING_FACE}" if self.embedded else "'self'"

        async def kept(message: dict) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "same-origin"  # the addresses of films are secrets
                headers["content-security-policy"] = f"{CONTENT}frame-ancestors {frames}"
                if not self.embedded and not self.anybody:
                    headers["x-frame-options"] = "SAMEORIGIN"
                    for number, (name, value) in enumerate(message["headers"]):
                        if name == b"set-cookie":
                            message["headers"][number] = name, _lax(value)
            await send(message)

        return kept


def _lax(cookie: bytes) -> bytes:
    """A cookie that browsers don't send with the requests of other websites."""
    return re.sub(rb";\s*samesite=\w+", b"", cookie, flags=re.IGNORECASE) + b"; SameSite=Lax"


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


# --- Coming in by name ---------------------------------------------------------------------------------------------------------


class Sessions:
    """Ends the sessions of accounts that were removed or have another password, and keeps guessers waiting.

    An ASGI middleware of the page's server, for pages where people come in by name.

    door: what checks the passwords.
    """

    def __init__(self, app: Callable, door: Door) -> None:
        self.app, self.door, self._states = app, door, {}

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, address = Request(scope), (scope.get("client") or ("",))[0]
        self._end_old_ones(request)
        if scope["method"] == "POST" and _route(scope).rstrip("/") == "/login":
            ADDRESS.set(address)
            if wait := math.ceil(self.door.seconds_shut(address)):
                sentence = f"Too many wrong passwords from here; please try again in {wait} seconds."
                refused = JSONResponse({"detail": sentence}, status_code=429, headers={"Retry-After": str(wait)})
                await refused(scope, receive, send)
                return
            send = self._noting_logins(request, send)
        elif scope["method"] not in ("GET", "HEAD", "OPTIONS") and _route(scope) != "/check" and visitor_name(request) is None:
            await Response(COME_IN_FIRST, status_code=401)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _noting_logins(self, request: Request, send: Callable) -> Callable:
        """send, which also notes the state of the account that somebody has come in with."""

        async def noting(message: dict) -> None:
            if message["type"] == "http.response.start":
                for cookie in Headers(raw=message["headers"]).getlist("set-cookie"):
                    token = cookie.partition("=")[2].partition(";")[0].strip('"')
                    if name := request.app.tokens.get(token):
                        self._states[token] = state_of(name)
            await send(message)

        return noting

    def _end_old_ones(self, request: Request) -> None:
        for token in _tokens(request):
            name = request.app.tokens.get(token)
            if name is None:
                continue
            now = state_of(name)
            if self._states.setdefault(token, now) != now or now is None:
                del request.app.tokens[token], self._states[token]


def _tokens(request: Request) -> Iterator[str]:
    """What gradio knows a visitor by, from the cookies it gave them when they came in."""
    for kind in ("access-token", "access-token-unsecure"):
        if token := request.cookies.get(f"{kind}-{request.app.cookie_id}"):
            yield token


def visitor_name(request: Request) -> str | None:
    """Who sends a request, by the session or by the cookie that gradio gave them when they came in; None for nobody known."""
    if request.app.auth_dependency is not None:
        return request.app.auth_dependency(request)
    name = next((request.app.tokens[token] for token in _tokens(request) if token in request.app.tokens), None)
    return None if name is None else account_name(name)


def is_closed(request: Request) -> bool:
    """Whether nobody is answered who has not come in."""
    return request.app.auth is not None or request.app.auth_dependency is not None


# --- Files ---------------------------------------------------------------------------------------------------------------------


class OwnFilesOnly:
    """Serves each visitor, and accepts in their requests, only the files that this server has sent them the paths of: their
    own uploads, and results made for them.

    An ASGI middleware of the page's server, for pages where people come in by name. It reads the paths out of the answers to
    uploads and of the results of events, nowhere else: other answers may repeat what was asked.
    """

    def __init__(self, app: Callable) -> None:
        self.app, self.paths_sent = app, {}
        self.cache = os.path.realpath(get_upload_folder())
        self.name = os.path.basename(self.cache)

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer a request, or hand it on."""
        name = visitor_name(Request(scope)) if scope["type"] == "http" else None
        if name is None:  # nobody has come in: gradio itself answers
            await self.app(scope, receive, send)
            return
        theirs, way = self.paths_sent.setdefault(name, set()), _way(scope)
        refused = self._refusal(way, unquote_plus(scope.get("query_string", b"").decode("latin-1")), theirs)
        if refused is None and scope["method"] == "POST" and _route(scope) not in NO_JSON:
            body = await _body(receive)
            refused = self._refusal_of(body, theirs)
            receive = _replayed(body or b"", receive)
        if refused is not None:
            await refused(scope, receive, send)
            return
        noting = None if way.startswith(FILE) else self._noter(scope["method"], way, theirs)
        await self.app(scope, receive, send if noting is None else _noted(send, noting))

    def _refusal(self, way: str, query: str, theirs: Collection[str]) -> Response | None:
        """The answer to what is not for this visitor, by its address."""
        if way.startswith(UNUSED) or (way.startswith("file") and not way.startswith(FILE)):
            return Response(status_code=404)
        path = way.removeprefix(FILE) if way.startswith(FILE) else None
        foreign = path is not None and not _is_public(path) and os.path.realpath(path) not in theirs
        return Response(NOT_THEIRS, status_code=403) if foreign or not self._may_name(query, theirs) else None

    def _refusal_of(self, body: bytes | None, theirs: Collection[str]) -> Response | None:
        """The answer to a request whose body names others' files, or can't be read as gradio reads it: as JSON."""
        if body is None:
            return Response(TOO_LONG, status_code=413)
        try:
            strings = list(_strings(_all_pairs(body)))
            naming = [text for text in strings if self.name in unquote(text)]
            if len(naming) > FILES_MAX:
                raise ValueError("it names too many files")
        except (ValueError, RecursionError):
            return Response(UNREADABLE, status_code=400)
        return None if all(self._may_name(text, theirs) for text in naming) else Response(NOT_THEIRS, status_code=403)

    def _may_name(self, text: str, theirs: Collection[str]) -> bool:
        """Whether a string of a request names no file of gradio's cache but theirs."""
        quoted = unquote(text)
        if self.name not in text and self.name not in quoted:  # every way into the folder names it
            return True
        if len(text) > PATH_LETTERS_MAX or "\0" in quoted:
            return False
        # gradio may read the whole as a path, or what stands behind "file=": in its quoted form, too.
        parts = [part for form in (text, quoted) for part in (form, *form.split(FILE)[1:])]
        try:
            inside = {real for real in map(os.path.realpath, parts) if real.startswith(self.cache + os.sep)}
        except ValueError:  # letters that no path has
            return False
        return bool(inside) and inside <= theirs

    # --- What was sent ---------------------------------------------------------------------------------------------------------

    def _noter(self, method: str, way: str, theirs: set[str]) -> Callable[[bytes], None] | None:
        """What notes the files in a piece of an answer that is made of whole lines; None where none are told of."""
        if way.rstrip("/") == "upload":
            return lambda text: theirs.update(self._inside(_uploaded(text)))
        if way.startswith("mcp"):
            return lambda text: theirs.update(self._inside(_linked(text)))
        results = ("queue/data", "call/") if method == "GET" else ("run/", "api/", "call/v2/")
        return (lambda text: theirs.update(self._inside(_resulting(text)))) if way.startswith(results) else None

    def _inside(self, paths: Iterator[str]) -> Iterator[str]:
        for path in paths:
            if "\0" not in path and os.path.realpath(path).startswith(self.cache + os.sep):
                yield os.path.realpath(path)


def _route(scope: dict) -> str:
    """The path of a request below the page's own."""
    root = scope.get("root_path", "")
    return scope["path"][len(root) :] if root and scope["path"].startswith(f"{root}/") else scope["path"]


def _way(scope: dict) -> str:
    """What stands behind gradio's prefix in the address of a request; empty elsewhere."""
    return scope["path"].partition(API)[2]


async def _body(receive: Callable) -> bytes | None:
    """The whole body of a request; None when it is too long."""
    pieces, length, more = [], 0, True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        length += len(pieces[-1])
        if length > BODY_BYTES_MAX:
            return None
        more = message["type"] == "http.request" and message.get("more_body", False)
    return b"".join(pieces)


def _limited(receive: Callable) -> Callable:
    """receive, which takes a sender of more than a request may hold for one who has gone."""
    length = 0

    async def limited() -> dict:
        nonlocal length
        message = await receive()
        length += len(message.get("body", b""))
        return {"type": "http.disconnect"} if length > BODY_BYTES_MAX else message

    return limited


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


def _noted(send: Callable, note: Callable[[bytes], None]) -> Callable:
    """send, which also hands on what is sent, in whole lines, unless it is a refusal."""
    rest, good = b"", False

    async def noting(message: dict) -> None:
        nonlocal rest, good
        if message["type"] == "http.response.start":
            good = message["status"] == 200
        elif message["type"] == "http.response.body" and good:
            # A path may lie across two pieces; no string of JSON holds a line break.
            lines, _, rest = (rest + message.get("body", b"")).rpartition(b"\n")
            if lines:
                note(lines)
            if not message.get("more_body"):
                note(rest)
        await send(message)

    return noting


def _all_pairs(body: bytes) -> object:
    """What JSON holds, in every encoding that JSON may have; of an object also the names, and values that others replace."""
    return json.loads(body, object_pairs_hook=_pairs) if body.strip() else None


def _pairs(pairs: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """The pairs of an object. Errors: ValueError for a file at an address elsewhere, which gradio would fetch."""
    if any(name == "path" and isinstance(value, str) and re.match(r"\s*https?:", value, re.IGNORECASE) for name, value in pairs):
        raise ValueError("a file has to be sent, not its address")
    return pairs


def _strings(value: object) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)


def _messages(text: bytes) -> Iterator[object]:
    """What the lines of an answer hold, JSON or a stream of events."""
    for line in text.splitlines():
        try:
            yield json.loads(line.removeprefix(b"data:"))
        except (ValueError, RecursionError):
            continue


def _uploaded(text: bytes) -> Iterator[str]:
    for message in _messages(text):
        if isinstance(message, list):
            yield from (path for path in message if isinstance(path, str))


def _linked(text: bytes) -> Iterator[str]:
    for message in _messages(text):
        yield from (path for string in _strings(_as_lists(message)) for path in re.findall(rf"{API}{FILE}([^\s\"'<>]+)", string))


def _resulting(text: bytes) -> Iterator[str]:
    """Paths of the files in the results of events: of gradio's FileData, or what changes of one."""
    waiting = list(_messages(text))
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("meta"), dict) and value["meta"].get("_type") == "gradio.FileData":
                yield str(value.get("path"))
            waiting.extend(value.values())
        elif isinstance(value, list):
            if len(value) == 3 and isinstance(value[1], list) and value[1][-1:] == ["path"] and isinstance(value[2], str):
                yield value[2]
            waiting.extend(value)


def _as_lists(value: object) -> object:
    """Names and values of objects as lists."""
    if isinstance(value, dict):
        return [_as_lists(item) for item in value.values()]
    return [_as_lists(item) for item in value] if isinstance(value, list) else value


def _is_public(path: str) -> bool:
    """Whether a file comes with the program: examples and the page's own pictures."""
    return "\0" not in path and Path(path).resolve().is_relative_to(_assets())


@cache
def _assets() -> Path:
    return ASSETS.resolve()
