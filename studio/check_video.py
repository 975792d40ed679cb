"""Whether a video was made by this program: a tab of the page, and an address that needs no sign-in. Nothing is kept."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path

import gradio as gr
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from gmtalker.errors import UnusableInput
from gmtalker.files import MEGABYTE, NAME_BYTES_MAX, temporary_folder
from studio.accounts import in_own_workspace
from studio.components import PRIVATE, Status, note, or_sentence, table, without_places
from studio.translations import language_of, say, word
from studio.uploads import is_upload

ROUTE = "/check"
AT_ONCE, WAITING_MAX = 1, 8  # videos that are looked at, and that are sent or wait
UPLOAD_SECONDS = 120
ROWS = ("program", "made", "signer", "time_stamp", "avatar", "avatar_id")


def check_tab() -> None:
    """Lay the tab out, and connect it."""
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("check_video_about"))
        video = gr.File(label=word("check_video"), elem_id="check-video", height=150)
        found = gr.HTML(elem_id="check-found")
    video.upload(_checked, video, found, concurrency_limit=AT_ONCE, show_progress="hidden", **PRIVATE)
    video.clear(lambda: "", None, found, queue=False, **PRIVATE)


@in_own_workspace
def _checked(visitor: gr.Request, path: str) -> Iterator[str]:
    """What is found, as HTML; the upload is deleted."""
    yield note(say(visitor, "checking"))
    try:
        yield _as_html(visitor, or_sentence(find, Path(path)))
    finally:
        if is_upload(path):
            Path(path).unlink(missing_ok=True)


def find(path: Path, names: bool = True) -> dict:
    """What `verify` finds in a file, ready for JSON.

    names: whether avatars of this workspace are called by their names; else only those that come with the program are.
    Errors: UnusableInput when it can't be read.
    """
    from gmtalker.avatars.storage import list_avatars
    from gmtalker.provenance.verification import verify  # late: it needs the networks' libraries

    findings = verify(path)
    if not names and findings.avatar not in [entry.name for entry in list_avatars() if entry.bundled]:
        findings = replace(findings, avatar=None)
    ours = "ours" if findings.is_ours else "unknown"
    state = "changed" if findings.credentials == "broken" or (findings.is_ours and not findings.is_whole) else ours
    return findings.to_json() | {"verdict": state}


def _as_html(visitor: gr.Request | Request, found: dict) -> str:
    colour = {"ours": "pass", "changed": "warn", "unknown": ""}[found["verdict"]]
    rows = [(say(visitor, "found"), Status(colour, found["sentence"]))]
    values = {name: str(found[name]) for name in ROWS if found[name]}
    values |= {"made": values["made"].replace("T", " ").replace("Z", " UTC")} if "made" in values else {}
    rows += [(say(visitor, f"check_{name}"), value) for name, value in values.items()]
    marks = [say(visitor, name) for name in ("marked", "sound_marked") if found[name]]
    rows += [(say(visitor, "check_marks"), ", ".join(marks) or say(visitor, "check_no_marks"))]
    return table((say(visitor, "what"), ""), rows)


# --- Without signing in --------------------------------------------------------------------------------------------------------


def check_route(upload_megabytes: float, look: Callable[[Path], dict] | None = None) -> Route:
    """The address that anybody may send a video to: as a form from a browser, or `curl -F file=@video.mp4`, which gets JSON.

    upload_megabytes: the largest file.
    look: finds what a file says; None for `find`, without names.
    """
    return Route(ROUTE, _Checks(upload_megabytes, look or partial(find, names=False)).answer, methods=["GET", "POST"])


class _Checks:
    """Answers whoever sends a video, a few at a time."""

    def __init__(self, upload_megabytes: float, look: Callable[[Path], dict]) -> None:
        self.upload_megabytes, self.look = upload_megabytes, look
        self.few, self.waiting = asyncio.Semaphore(AT_ONCE), 0

    async def answer(self, request: Request) -> Response:
        """The page, or what is found."""
        if request.method == "GET":
            return HTMLResponse(_page(request, f"<p>{escape(say(request, 'check_video_about_plain'))}</p>"))
        refused = self._refusal(request)
        if refused is not None:
            return refused
        self.waiting += 1
        try:
            status, found = await self._found(request)
        finally:
            self.waiting -= 1
            await request.close()  # what was sent
        if "text/html" in request.headers.get("accept", ""):
            inside = f'<p class="fail">{escape(found["error"])}</p>' if "error" in found else _as_html(request, found)
            return HTMLResponse(_page(request, inside), status)
        return JSONResponse(json.loads(json.dumps(found)), status)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to what is not even read."""
        length = request.headers.get("content-length", "")
        if not length.isdigit() or "transfer-encoding" in request.headers:
            return JSONResponse({"error": "The request has to say how long it is."}, 411)
        if int(length) > self.upload_megabytes * MEGABYTE:
            return JSONResponse({"error": f"A file has up to {self.upload_megabytes:g} MB."}, 413)
        if self.waiting >= WAITING_MAX:
            return JSONResponse({"error": "Too many videos are looked at; please try again in a minute."}, 503)
        return None

    async def _found(self, request: Request) -> tuple[int, dict]:
        """Status, and what is found or an error."""
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                form = await request.form(max_files=1, max_fields=1)
            upload = form.get("file")
            if upload is None or isinstance(upload, str):
                return 400, {"error": "Send the video as the field `file` of a form."}
            async with self.few:
                return 200, await asyncio.to_thread(_look_at, upload.file, upload.filename or "video.mp4", self.look)
        except TimeoutError:
            return 408, {"error": "The upload took too long."}
        except UnusableInput as error:
            return 422, {"error": without_places(str(error))}


def _look_at(file, name: str, look: Callable[[Path], dict]) -> dict:
    name = Path(name).name
    with temporary_folder() as folder:
        path = folder / (name if name.isprintable() and 0 < len(name.encode()) < NAME_BYTES_MAX else "video.mp4")
        with open(path, "wb") as copy:
            shutil.copyfileobj(file, copy)
        return look(path)


def _page(request: Request, inside: str) -> str:
    return (
        f'<!doctype html><html lang="{language_of(request)}"><meta charset="utf-8"><title>GMTalker Studio</title>'
        '<meta name="viewport" content="width=device-width"><body style="font-family: system-ui; margin: 4rem auto; width: 80%">'
        f"<h1>{escape(say(request, 'tab_check'))}</h1>{inside}"
        f'<form method="post" action="check" enctype="multipart/form-data"><input type="file" name="file" required>'
        f"<button>{escape(say(request, 'check_video'))}</button></form></body></html>"
    )
