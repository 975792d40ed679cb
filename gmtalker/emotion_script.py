"""A script with emotion tags, "[happy 0.8] What a day! [sad] But it rains.", to the keys of a timeline."""

from __future__ import annotations

import re

import numpy as np

from gmtalker.clock import EMOTIONS, FPS
from gmtalker.tracks import EmotionKey

BLEND_SECONDS = 0.4  # from one emotion to the next
PAUSE_FRAMES = 3  # so many silent frames are a pause
TAG = re.compile(r"\[([^\[\]]*)\]")


def timeline_of_script(script: str, silent: np.ndarray) -> list[EmotionKey]:
    """The keys of a script and of the speech in which it is said.

    When each word is said is not known: the letters are spread evenly over the frames in which somebody speaks, and a tag takes
    effect at the end of a pause nearby. What is said before the first tag is neutral.

    script: words, and tags of emotions with weights from 0 to 1.
    silent: (frames,) bool, where nothing is said.
    Returns: keys in their order.
    Errors: ValueError naming the tag that can't be read, or when there is none.
    """
    tags, letters = [], 0
    end = 0
    for tag in TAG.finditer(script):
        letters += _letters(script[end : tag.start()])
        tags.append((letters, _emotion(tag[1])))
        end = tag.end()
    letters += _letters(script[end:])
    if not tags:
        raise ValueError("The script has no tag; write one like [happy 0.8] where the emotion begins")
    if not letters:
        raise ValueError("The script has no words; write what is said behind the tags")
    spoken = np.flatnonzero(~np.asarray(silent))
    if not len(spoken):
        spoken = np.arange(len(silent))
    keys = [EmotionKey(0.0, {})] if tags[0][0] else []
    for before, emotion in tags:
        place = min(int(before / letters * len(spoken)), len(spoken) - 1)
        moment = _after_pause(spoken, place) / FPS if before else 0.0
        if keys:
            turn = max(moment - BLEND_SECONDS / 2, keys[-1].time)
            keys.append(EmotionKey(round(turn, 2), keys[-1].emotion))
            moment = max(turn, moment + BLEND_SECONDS / 2)
        keys.append(EmotionKey(round(moment, 2), emotion))
    return keys


def _after_pause(spoken: np.ndarray, place: int, near: int = FPS) -> int:
    """The frame of spoken[place], or the first one after a pause that is at most `near` spoken frames away."""
    starts = np.flatnonzero(np.diff(spoken) > PAUSE_FRAMES) + 1
    close = starts[np.abs(starts - place) <= near]
    return int(spoken[close[np.abs(close - place).argmin()]] if len(close) else spoken[place])


def _letters(text: str) -> int:
    return sum(letter.isalnum() for letter in text)


def _emotion(tag: str) -> dict[str, float]:
    """ "happy 0.8, sad" -> {"happy": 0.8, "sad": 1.0}."""
    emotion: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in tag.split(","))):
        name, _, weight = part.partition(" ")
        name = name.strip().lower()
        try:
            value = float(weight) if weight.strip() else 1.0
        except ValueError:
            value = -1.0
        if name not in EMOTIONS or not 0 <= value <= 1:
            raise ValueError(
                f"The tag [{tag}] can't be read; write one of {', '.join(EMOTIONS)} and a weight from 0 to 1, as in [happy 0.8]"
            )
        emotion[name] = value
    if not emotion:
        raise ValueError("A tag is empty; write an emotion in it, as in [happy 0.8]")
    return emotion
