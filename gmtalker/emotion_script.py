"""A script with emotion tags, "[happy 0.8] What a day! [sad] But it rains.", or emoji, to the keys of a timeline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmtalker.clock import EMOTIONS, FPS
from gmtalker.emotion_words import TAG
from gmtalker.tracks import EmotionKey

BLEND_SECONDS = 0.4  # from one emotion to the next
PAUSE_FRAMES = 3  # so many silent frames are a pause
ENDS = (".", "!", "?", "…", "。", "！", "？")  # of a sentence
EMOJI = "[\U0001f300-\U0001faff\u2600-\u27bf\ufe0f\u200d]"  # none of them is said
EMOJI_EMOTIONS = {
    emoji: emotion
    for emotion, some in {
        "neutral": "😐😑😶",
        "angry": "😠😡🤬😤👿",
        "contempt": "🙄😒😏",
        "disgusted": "🤢🤮😖",
        "fear": "😨😰😱😧",
        "happy": "😀😃😄😁😆😂🤣😊🙂😍🥰🥳😎☺❤🎉",
        "sad": "😢😭😞😔🙁😟😿💔",
        "surprised": "😮😯😲🤯😳",
    }.items()
    for emoji in some
}


def timeline_of_script(script: str, silent: np.ndarray) -> list[EmotionKey]:
    """The keys of a script and of the speech in which it is said.

    When each word is said is not known: the letters are spread evenly over the frames in which somebody speaks, and a tag takes
    effect at the end of a pause nearby. What is said before the first tag is neutral.

    script: words, and tags of emotions with weights from 0 to 1.
    silent: (frames,) bool, where nothing is said.
    Returns: keys in their order.
    Errors: ValueError naming the tag that can't be read, or when there is none.
    """
    read = read_script(script)
    if not read.tags:
        raise ValueError("The script has no tag; write one like [happy 0.8] where the emotion begins")
    if not (letters := _letters(read.words)):
        raise ValueError("The script has no words; write what is said behind the tags")
    spoken = np.flatnonzero(~np.asarray(silent))
    if not len(spoken):
        spoken = np.arange(len(silent))
    moments = []
    for place, emotion in read.tags:
        before = _letters(read.words[:place])
        frame = min(int(before / letters * len(spoken)), len(spoken) - 1)
        moments.append((_after_pause(spoken, frame) / FPS if before else 0.0, emotion))
    return blended_keys(moments)


def blended_keys(moments: Sequence[tuple[float, dict[str, float]]]) -> list[EmotionKey]:
    """The keys of emotions that begin at their moments, in seconds: neutral before the first, blended around the others."""
    keys = [EmotionKey(0.0, {})] if moments and moments[0][0] > 0 else []
    for moment, emotion in moments:
        if keys:
            turn = max(moment - BLEND_SECONDS / 2, keys[-1].time)
            keys.append(EmotionKey(round(turn, 2), keys[-1].emotion))
            moment = max(turn, moment + BLEND_SECONDS / 2)
        keys.append(EmotionKey(round(moment, 2), emotion))
    return keys


@dataclass(frozen=True)
class Script:
    """What is said, and its emotions.

    words: without tags and emoji.
    tags: place in words from which an emotion holds, and the emotion; places rise.
    """

    words: str
    tags: tuple[tuple[int, dict[str, float]], ...]


def read_script(script: str) -> Script:
    """Take the tags and emoji out of a script.

    A tag holds from the next word on, as an emoji in the middle does; one at the end of a sentence is that sentence's.

    Errors: ValueError naming a tag that can't be read.
    """
    words, tags, end = "", [], 0
    for found in re.finditer(f"{TAG.pattern}|({EMOJI})+", script):
        words += script[end : found.start()]
        end = found.end()
        if found[1] is not None:
            tags.append((len(words), _emotion(found[1])))
        elif emotion := next((EMOJI_EMOTIONS[each] for each in found[0] if each in EMOJI_EMOTIONS), None):
            follows = script[end:].lstrip(" \t")
            ends = words.rstrip().endswith(ENDS) or not follows.strip() or follows.startswith((*ENDS, "\n"))
            tags.append((_sentence_start(words) if ends else len(words), {emotion: 1.0}))
        if script[end:].lstrip(" \t").startswith(ENDS):
            words = words.rstrip()
    last: dict[int, dict[str, float]] = {}
    for place, emotion in sorted(tags, key=lambda tag: tag[0]):
        last[place] = emotion  # of two at one place the one that is written last
    return Script(words + script[end:], tuple(last.items()))


def _sentence_start(words: str) -> int:
    """Where the last sentence of some words begins."""
    body = words.rstrip().rstrip("".join(ENDS))
    return max(body.rfind(end) for end in (*ENDS, "\n")) + 1


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
