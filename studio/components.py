"""Pieces of HTML that the tabs share, and errors as sentences on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr

from gmtalker.errors import UnusableInput


def progress_bar(text: str, percent: float | None = None, failed: bool = False) -> str:
    """A line of text over a bar; no bar with no percent. failed: in red."""
    bar = "" if percent is None else f'<div class="progress"><div style="width:{min(max(percent, 0), 100):.1f}%"></div></div>'
    return f'<p class="progress-text{" failed" if failed else ""}">{escape(text)}</p>{bar}'


def refusal(sentence: str) -> gr.Error:
    """What a handler raises to tell the person why not; no traceback of it in the server's log."""
    return gr.Error(sentence, print_exception=False)


def or_sentence(call, *arguments, **options):
    """What the call returns; what it can't use becomes a sentence on the page."""
    try:
        return call(*arguments, **options)
    except (UnusableInput, ValueError) as error:
        raise refusal(str(error)) from error


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


@dataclass(frozen=True)
class Status:
    """A cell that says how a line of the report stands. status: pass, warn or fail; said: the same in words."""

    status: str
    said: str


def folded(title: str, inside: str) -> str:
    """HTML that is opened by its title."""
    return f'<details class="fine"><summary>{escape(title)}</summary>{inside}</details>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a cell that is a Status is coloured."""
    cells = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f'<table class="report"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'


def _cell(value: str | Status) -> str:
    if isinstance(value, Status):
        return f'<td class="{value.status}">{escape(value.said)}</td>'
    return f"<td>{escape(value)}</td>"
