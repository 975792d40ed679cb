"""Pieces of HTML that the tabs share, and errors as sentences on the page."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

import gradio as gr
from gradio.utils import get_upload_folder

from gmtalker.assets import ASSETS
from gmtalker.avatars.workspace import home
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.files import HIDDEN as HIDDEN_FILES
from gmtalker.files import PLAIN

MIXED = EMOTIONS[1:]  # the emotions that have a slider; neutral is the rest
PRIVATE = {"api_visibility": "private"}  # of every handler but the public one: each would be an endpoint and an MCP tool
HIDDEN = {"show_progress": "hidden", **PRIVATE}
Updates = dict[gr.blocks.Block, object]  # what a handler changes: values or properties by component; the others stay as they are
Result = TypeVar("Result")


def progress_bar(text: str, percent: float | None = None, failed: bool = False) -> str:
    """A line of text over a bar, as HTML.

    percent: None draws no bar.
    failed: whether the text is red.
    """
    bar = "" if percent is None else f'<div class="progress"><div style="width:{min(max(percent, 0), 100):.1f}%"></div></div>'
    return f'<p class="progress-text{" failed" if failed else ""}">{escape(text)}</p>{bar}'


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
