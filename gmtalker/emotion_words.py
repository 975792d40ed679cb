"""Emotions as people write them: "happy=0.7,sad=0.1"."""

from __future__ import annotations

import re

from gmtalker.clock import EMOTIONS

EXAMPLE = "happy=0.7,sad=0.1"


TAG = re.compile(r"\[([^\[\]]*)\]")  # in a text: an emotion from the next word on


def parse_emotion(text: str) -> dict[str, float]:
    """Weights by name from "happy=0.7,sad=0.1"; a name alone is 1. Errors: ValueError naming what can't be read."""
    emotion: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, weight = part.partition("=")
        name = name.strip()
        if name not in EMOTIONS:
            raise ValueError(f"There is no emotion {name!r}; choose from {', '.join(EMOTIONS)}")
        if name in emotion:
            raise ValueError(f"{name} is given twice")
        try:
            emotion[name] = float(weight) if equals else 1.0
        except ValueError as error:
            raise ValueError(f"The weight of {name} must be a number, as in {name}=0.7, not {weight.strip()!r}") from error
    if not emotion:
        raise ValueError(f"An emotion needs weights, as in {EXAMPLE}")
    return emotion
