"""Videos that can be watched while they are made: a growing file, sent as far as it is written."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import HTTPException
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute

ROUTE = "/live"
PIECE_BYTES = 1 << 16
POLL_SECONDS = 0.1


@dataclass
class Growing:
    """A file that somebody is writing.

    finished: whether no more will come.
    """

    path: Path
    finished: bool = False


class LiveVideos:
    """The growing videos by their secret names: only who is given the name can watch."""

    def __init__(self) -> None:
        self._growing: dict[str, Growing] = {}

    def open(self, path: Path) -> tuple[str, Growing]:
        """A secret name for the video that will grow at path, and its state."""
        name = secrets.token_urlsafe(16)
        self._growing[name] = Growing(path)
        return name, self._growing[name]

    def close(self, name: str) -> None:
        """End a video: who is watching still gets the rest of it, nobody else can begin to."""
        growing = self._growing.pop(name, None)
        if growing is not None:
            growing.finished = True

    def route(self) -> APIRoute:
        """The route of the page's server that serves them."""

        async def live(name: str) -> StreamingResponse:
            growing = self._growing.get(name)
            if growing is None:
                raise HTTPException(404)
            return StreamingResponse(_pieces(growing), media_type="video/mp4", headers={"Cache-Control": "no-store"})

        return APIRoute(f"{ROUTE}/{{name}}", live, include_in_schema=False)


async def _pieces(growing: Growing) -> AsyncIterator[bytes]:
    while not growing.path.exists():
        if growing.finished:
            return
        await asyncio.sleep(POLL_SECONDS)
    with growing.path.open("rb") as file:
        while True:
            finished = growing.finished  # before reading: what was written until then is in the file
            if piece := file.read(PIECE_BYTES):
                yield piece
            elif finished:
                return
            else:
                await asyncio.sleep(POLL_SECONDS)


def player(name: str) -> str:
    """The HTML that plays a growing video; the page may stand below a path, as GRADIO_ROOT_PATH tells it."""
    below = urlsplit(os.environ.get("GRADIO_ROOT_PATH", "")).path.rstrip("/")
    return f'<video src="{below}{ROUTE}/{name}" autoplay controls playsinline></video>'
