"""Pieces of HTML that the tabs share, and errors as sentences on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

import gradio as gr

from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput

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
    """The error with which a handler tells the visitor why not; it leaves no traceback in the server's log."""
    return gr.Error(sentence, print_exception=False)


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
