"""Pieces of HTML that the tabs share, and errors as sentences on the page."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TypeVar

import gradio as gr
from gradio.utils import get_upload_folder

from gmtalker.assets import ASSETS
from gmtalker.avatars.workspace import home
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.files import HIDDEN as HIDDEN_FILES
from gmtalker.files import PLAIN
from studio.translations import WORDS, word

STATIC = Path(__file__).resolve().parent / "static"
MIXED = EMOTIONS[1:]  # the emotions that have a slider; neutral is the rest
PRIVATE = {"api_visibility": "private"}  # of every handler but the public one: each would be an endpoint and an MCP tool
HIDDEN = {"show_progress": "hidden", **PRIVATE}
NOT_MIRRORED = gr.WebcamOptions(mirror=False)  # an avatar must not part its hair on the other side
Updates = dict[gr.blocks.Block, object]  # what a handler changes: values or properties by component; the others stay as they are
Result = TypeVar("Result")


def progress_bar(text: str, percent: float | None = None, failed: bool = False) -> str:
    """A line of text over a bar, as HTML.

    percent: None draws no bar.
    failed: whether the text is red.
    """
    bar = "" if percent is None else f'<div class="progress"><div style="width:{min(max(percent, 0), 100):.1f}%"></div></div>'
    return f'<p class="progress-text{" failed" if failed else ""}">{escape(text)}</p>{bar}'


def static(name: str) -> str:
    """The text of a file of static/."""
    return (STATIC / name).read_text(encoding="utf-8").strip()


def words_of(*keys: str) -> dict[str, dict[str, str]]:
    """Words of the page in every language, for scripts that choose by the browser's. Errors: KeyError for an unknown key."""
    return {language: {key: words[key] for key in keys} for language, words in WORDS.items()}


def scripted(script: str, value: object, **options: object) -> gr.HTML:
    """A component that a script of static/ draws into an element of its name.

    gradio's templates are run as JavaScript, with whatever a visitor's file is called: here they are constant, and the script
    makes elements and fills in text.
    """
    template = f'<div class="{script}"></div>'
    return gr.HTML(value, html_template=template, js_on_load=static(f"{script}.js"), apply_default_css=False, **options)


def cards(title: str, empty: str, **options: object) -> gr.HTML:
    """Cards with pictures, of which one can be chosen (static/cards.js). Its value: the id of that one, or None.

    title: key of what they are called by screen readers; empty: of what stands there while there is none.
    """
    return scripted("cards", None, items=None, title=title, empty=empty, words=words_of(title, empty), **options)


def webcam_recorder(elem_id: str) -> gr.Video:
    """What records a film with the webcam, with its sound."""
    return gr.Video(
        label=word("webcam"),
        sources=["webcam"],
        include_audio=True,  # a film alone would lose its sound, and need an ffmpeg that may not be there
        webcam_options=NOT_MIRRORED,
        elem_id=elem_id,
    )


def refusal(sentence: str) -> gr.Error:
    """The error with which a handler tells the visitor why not; it leaves no traceback in the server's log.

    What others chose, as the names in their files, stays text, and no place on the server's disks is told.
    """
    return gr.Error(told(sentence), print_exception=False)


def told(sentence: str) -> str:
    """A sentence as gradio's messages show it, which are HTML; without places."""
    return escape(without_places(sentence), quote=False)


def without_places(sentence: str) -> str:
    """A sentence with the names of files in the place of their paths on the server."""
    for place in sorted({tempfile.gettempdir(), get_upload_folder(), str(home()), str(ASSETS.parent)}, key=len, reverse=True):
        for path in {place, os.path.realpath(place)}:
            sentence = re.sub(rf"(?<![\w./-]){re.escape(path)}((?:/[^\s'\"<>,;/]+)*)/?", _last_name, sentence)
    return sentence


def _last_name(path: re.Match[str]) -> str:
    names = [name for name in path[1].split("/") if name and not name.startswith((HIDDEN_FILES, f"{PLAIN}-"))]
    return names[-1] if names else "the server's folder"


def or_sentence(call: Callable[..., Result], *arguments: object, **options: object) -> Result:
    """Call a function; what it can't use becomes a sentence on the page.

    Returns: what the call returns.
    Errors: gr.Error in the place of UnusableInput and ValueError.
    """
    try:
        return call(*arguments, **options)
    except (UnusableInput, ValueError) as error:
        raise refusal(str(error)) from error


def note(text: str) -> str:
    """A paragraph in a subdued colour, as HTML."""
    return f'<p class="note">{escape(text)}</p>'


def folded(title: str, inside: str) -> str:
    """HTML that opens with a click on its title."""
    return f'<details class="fine"><summary>{escape(title)}</summary>{inside}</details>'


@dataclass(frozen=True)
class Status:
    """A coloured cell of a table.

    status: pass, warn or fail.
    text: the same in words.
    """

    status: str
    text: str


def table(head: Sequence[str], rows: Sequence[Sequence[str | Status]]) -> str:
    """A table as HTML; cells that are a Status are coloured."""
    cells = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f'<table class="report"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'


def _cell(value: str | Status) -> str:
    if isinstance(value, Status):
        return f'<td class="{value.status}">{escape(value.text)}</td>'
    return f"<td>{escape(value)}</td>"
