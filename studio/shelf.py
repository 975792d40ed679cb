"""The videos that somebody made, with what they were made from: kept in the workspace, so that they are there another day."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from gmtalker.avatars.workspace import own_file, workspace
from gmtalker.errors import UnusableInput
from gmtalker.files import save_json, temporary_folder
from gmtalker.output import SPOKEN
from studio.emotion_pad import data_url
from studio.uploads import second_name

if TYPE_CHECKING:
    from gmtalker.request import SpeakRequest

FOLDER, FILE = "videos", "shelved.json"
VIDEOS_MAX = 50  # the oldest go first
POSTER_SIZE, POSTER_FRAME = (144, 144), 12  # pixels at most; which frame


@dataclass(frozen=True)
class ShelvedVideo:
    """A video that was made.

    id: of it on this shelf.
    title, about: what its card says.
    video: its file, and beside it its subtitles where it has any.
    request: what it was made from.
    command: that makes it again.
    poster: a picture of it as a data URL; empty where it has none.
    """

    id: str
    title: str
    about: str
    video: str
    request: SpeakRequest
    command: str
    poster: str = ""

    @property
    def subtitles(self) -> str | None:
        """The file of its subtitles."""
        kind = self.request.output.subtitles
        path = Path(self.video).with_suffix(f".{kind}") if kind else None
        return str(path) if path is not None and path.is_file() else None

    @property
    def card(self) -> dict[str, str]:
        """As static/cards.js draws it."""
        sign = self.request.output.file.suffix.lstrip(".").upper()
        return {"id": self.id, "title": self.title, "about": self.about, "poster": self.poster, "sign": sign}


def new_id() -> str:
    """An id that no other video has; in the order of time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09}-{secrets.token_hex(3)}"


def put(made: ShelvedVideo) -> ShelvedVideo:
    """Keep a video and all that it was made of. Returns: the same, as it stands on the shelf. Errors: OSError."""
    shelf = own_file(FOLDER)
    shelf.mkdir(exist_ok=True)
    with temporary_folder(shelf) as folder:
        video, names = Path(made.video), {}
        for file in filter(None, (made.video, made.subtitles)):
            second_name(Path(file), folder / Path(file).name)  # uploads are deleted after a day
        for place, source in _inputs(made.request).items():
            with suppress(FileNotFoundError):  # deleted meanwhile: the video stays
                (folder / place).mkdir()
                second_name(source, folder / place / source.name)
                names[place] = source.name
        about = {"title": made.title, "about": made.about, "command": made.command, "poster": made.poster, "inputs": names}
        save_json(about | {"video": video.name, "request": made.request.to_json()}, folder / FILE)
        os.rename(folder, shelf / made.id)
        folder.mkdir()  # for the end of the block
    for old in sorted(_folders())[:-VIDEOS_MAX]:
        shutil.rmtree(old, ignore_errors=True)
    return _read(shelf / made.id)


def videos() -> list[ShelvedVideo]:
    """All of them, the newest first; what can't be read is left out."""
    found = []
    for folder in sorted(_folders(), reverse=True):
        with suppress(UnusableInput, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            found.append(_read(folder))
    return found


def delete(identifier: str) -> None:
    """Delete a video and its copies of what it was made of. An id that is not there is no error."""
    for folder in _folders():
        if folder.name == identifier:
            shutil.rmtree(folder)


def rename_avatar(name: str, new_name: str) -> None:
    """An avatar has another name now: its videos are made with that."""
    for folder in _folders():
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            values = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if values["request"]["avatar"] != name:
                continue
            words = [f"--avatar={new_name}" if word == f"--avatar={name}" else word for word in shlex.split(values["command"])]
            about = new_name + values["about"].removeprefix(name)
            request = values["request"] | {"avatar": new_name}
            save_json(values | {"request": request, "command": shlex.join(words), "about": about}, folder / FILE)


def _folders() -> list[Path]:
    shelf = workspace() / FOLDER
    return [folder for folder in shelf.iterdir() if (folder / FILE).is_file()] if shelf.is_dir() else []


def _read(folder: Path) -> ShelvedVideo:
    from gmtalker.request import SpeakRequest  # late: it needs torch

    values = json.loads((folder / FILE).read_text(encoding="utf-8"))
    video = folder / str(values["video"])
    if not video.is_file():
        raise FileNotFoundError(video)
    request, names = dict(values["request"]), dict(values["inputs"])
    output = dict(request["output"])
    for place, name in names.items():
        (output if place in ("background", "captions") else request)[place] = str(folder / Path(place).name / Path(name).name)
    made = SpeakRequest.from_json(request | {"output": output})
    words = [str(values[name]) for name in ("title", "about")]
    return ShelvedVideo(folder.name, *words, str(video), made, str(values["command"]), str(values["poster"]))


def _inputs(request: SpeakRequest) -> Mapping[str, Path]:
    """The files that a request names, by where it names them."""
    output = request.output
    given = {"speech": request.speech, "video": request.video, "background": output.backdrop}
    given["captions"] = None if output.captions == SPOKEN else output.captions
    return {place: Path(str(path)) for place, path in given.items() if path is not None}


def poster_of(video: Path) -> str:
    """A picture out of the first second of a video, as a data URL; empty where it holds none."""
    from gmtalker.media.video import read_frames  # late, as above

    try:
        picture = next(islice(read_frames(video), POSTER_FRAME, None), None)
    except UnusableInput:  # one without pictures, or shorter
        return ""
    if picture is None:
        return ""
    small = Image.fromarray(picture)
    small.thumbnail(POSTER_SIZE)
    return data_url(small)
