"""Every word of the page, in English and Chinese: en.json and zh.json beside this file."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

from personalize.request import PRESETS

LANGUAGES = ("en", "zh")
# Values in words that the browser shows as they are, filled in once; `say` fills in those of all others.
FIXED_VALUES = {f"preset_{preset}": {"minutes": minutes} for preset, minutes in PRESETS.items()}


def _read(language: str) -> dict[str, str]:
    words = json.loads((Path(__file__).parent / f"{language}.json").read_text(encoding="utf-8"))
    return words | {key: words[key].format(**values) for key, values in FIXED_VALUES.items()}


WORDS = {language: _read(language) for language in LANGUAGES}  # of each language, by key
TRANSLATIONS = gr.I18n(**WORDS)


def word(key: str) -> gr.I18n:
    """A word of the page in the visitor's own language, which the browser chooses.

    Errors: KeyError for an unknown key.
    """
    if key not in WORDS[LANGUAGES[0]]:
        raise KeyError(key)
    return TRANSLATIONS(key)


def language_of(visitor: gr.Request | None) -> str:
    """The first language of the visitor's browser that the page knows; English where it knows none."""
    wanted = (visitor.headers.get("accept-language") or "") if visitor else ""
    for part in wanted.split(","):
        language = part.split(";")[0].strip().lower()[:2]
        if language in LANGUAGES:
            return language
    return LANGUAGES[0]


def say(visitor: gr.Request | None, key: str, **values: object) -> str:
    """A sentence that the server writes into the page, in the visitor's language.

    values: what its {fields} are filled with.
    Errors: KeyError for an unknown key.
    """
    return WORDS[language_of(visitor)][key].format(**values)
