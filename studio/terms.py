"""The terms of use: shown once to everybody who comes in by name, and kept with what is theirs."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from functools import cache

import gradio as gr

from gmtalker.assets import ASSETS
from gmtalker.avatars.workspace import own_file, workspace
from gmtalker.files import save_json
from studio.accounts import in_own_workspace, name_of
from studio.components import HIDDEN, Updates, refusal
from studio.translations import say, word

FILE = "terms.json"


@cache
def text() -> str:
    """The terms, as Markdown. They stand beside the program, or, where it is installed, in its assets."""
    beside = ASSETS.parent / "TERMS.md"
    return (beside if beside.is_file() else ASSETS / "TERMS.md").read_text(encoding="utf-8")


def version() -> str:
    """The line that names their version: whoever accepted another is asked again."""
    return next(line for line in text().splitlines() if line.startswith("Version"))


def has_accepted() -> bool:
    """Whether the owner of this workspace has accepted the terms of this version."""
    try:
        return json.loads((workspace() / FILE).read_text(encoding="utf-8"))["version"] == version()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def accept() -> None:
    """Note that the owner of this workspace accepts the terms. Errors: OSError when it can't be written."""
    save_json({"version": version(), "when": datetime.now(timezone.utc).isoformat(timespec="seconds")}, own_file(FILE))


def check_terms(visitor: gr.Request) -> None:
    """Errors: gr.Error when somebody who came in by name has not accepted the terms."""
    if name_of(visitor) and not has_accepted():
        raise refusal(say(visitor, "terms_first"))


def terms_card(page: gr.Blocks) -> None:
    """Lay out the terms, seen by whoever has yet to accept them, and connect them."""
    with gr.Column(visible=False, elem_id="terms", elem_classes="card") as card:
        gr.Markdown(text())
        agree = gr.Button(word("terms_accept"), variant="primary", elem_id="terms-accept")

    @in_own_workspace
    def show(visitor: gr.Request) -> Updates:
        return {card: gr.Column(visible=bool(name_of(visitor)) and not has_accepted())}

    @in_own_workspace
    def accepted(visitor: gr.Request) -> Updates:
        accept()
        return {card: gr.Column(visible=False)}

    page.load(show, None, card, **HIDDEN)
    agree.click(accepted, None, card, **HIDDEN)
