"""Keyframes of the emotion timeline: typed into a table, made from a script, dragged in a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import write_speech

from gmtalker.assets import SPEECH
from gmtalker.tracks import EmotionKey
from studio.components import MIXED
from studio.keyframes import AXES, dragged, draw_curves, filled_rows, keys_of, rows_of, rows_of_script, rows_of_voice
from studio.timeline import UNREADABLE, TimelineHandlers


def row(time: object, **weights: float) -> list:
    return [time, *(weights.get(name, 0.0) for name in MIXED)]


def test_rows_become_keys_and_keys_rows():
    rows = [row(0.0, happy=0.8), row(1.5, sad=0.3, fear=0.2)]
    keys = keys_of(rows)
    assert keys == (EmotionKey(0.0, {"happy": 0.8}), EmotionKey(1.5, {"fear": 0.2, "sad": 0.3}))
    assert rows_of(keys) == rows and keys_of([]) == () == keys_of(None) and rows_of(None) == []


def test_a_voice_makes_rows_that_are_keys():
    rows = rows_of_voice(str(SPEECH))
    assert rows and rows[0][0] == 0 and rows_of(keys_of(rows)) == rows


def test_empty_cells_are_0_and_empty_rows_are_none():
    assert filled_rows([["1.5", "", None, *[0] * 5], [None, "", " ", *[None] * 5]]) == [[1.5, *[0.0] * 7]]


@pytest.mark.parametrize(
    "rows,sentence",
    [
        ([row("soon")], "Every cell takes a number"),
        ([row(0.0, happy=-1.0)], "happy"),
        ([row(-1.0, happy=0.5)], "seconds from 0 on"),
        ([row(1e6, happy=0.5)], "seconds from 0 on"),
    ],
)
def test_what_can_not_be_a_keyframe_is_said_in_a_sentence(rows: list, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        keys_of(rows)


def place(second: float, seconds: float) -> float:
    """Where in the picture a second is, as a share of its width."""
    return AXES[0] + AXES[2] * second / seconds


def test_a_keyframe_is_dragged_and_a_click_beside_them_chooses_a_time(tmp_path: Path):
    speech = str(write_speech(tmp_path / "speech.wav", 4.0))
    rows = [row(0.0, happy=0.8), row(3.0, sad=0.5)]
    moved, moment = dragged([place(3.0, 4), place(2.0, 4)], rows, 0.0, speech)
    assert moved == [row(0.0, happy=0.8), row(2.0, sad=0.5)] and moment == 2.0
    assert dragged([place(1.0, 4), place(1.0, 4)], rows, 0.0, speech) == (rows, 1.0)
    replaced, _ = dragged([place(3.0, 4), place(0.0, 4)], rows, 0.0, speech)
    assert replaced == [row(0.0, sad=0.5)]  # two keyframes at one time are none
    assert dragged([0.1, 0.2], [], 1.0, None) == ([], 1.0)


def test_a_script_is_spread_over_the_speech(tmp_path: Path):
    rows = rows_of_script("[sad] It rains. [happy 0.6] Now it is over!", str(write_speech(tmp_path / "speech.wav", 4.0)))
    assert rows[0] == row(0.0, sad=1.0) and rows[-1][1:] == row(0.0, happy=0.6)[1:] and 0.5 < rows[-1][0] < 3.0


def test_curves_are_drawn_with_and_without_a_speech(tmp_path: Path):
    keys = keys_of([row(0.0, happy=0.8), row(1.0, sad=0.5)])
    alone = draw_curves(keys, None)
    spoken = draw_curves(keys, str(write_speech(tmp_path / "speech.wav", 2.0)))
    assert alone.shape == spoken.shape == (220, 800, 3) and alone.dtype == np.uint8 and not np.array_equal(alone, spoken)
    (tmp_path / "no sound.wav").write_text("nothing")
    assert draw_curves(keys, str(tmp_path / "no sound.wav")).shape == alone.shape  # creating the video will say it


def test_a_new_keyframe_replaces_one_at_its_time():
    handlers = TimelineHandlers(lambda: None)
    weights = dict.fromkeys(MIXED, 0.0) | {"happy": 0.4}
    assert handlers.add([row(1.0, sad=1.0), row(2.0)], 1.0, **weights) == [row(1.0, happy=0.4), row(2.0)]
    assert handlers.add([], None, **weights) == [row(0.0, happy=0.4)]


def test_keys_that_can_not_be_read_make_a_request_fail():
    handlers = TimelineHandlers(lambda: None)
    keys, _, _ = handlers.show([row("soon")], None, 1.0)
    assert keys == UNREADABLE
    with pytest.raises(ValueError):
        EmotionKey.read_all(keys)
