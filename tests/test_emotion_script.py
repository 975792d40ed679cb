"""Scripts with emotion tags become keys at the moments where their words are said."""

from __future__ import annotations

import numpy as np
import pytest

from gmtalker.emotion_script import BLEND_SECONDS, timeline_of_script
from gmtalker.tracks import EmotionKey, EmotionWeights


def test_tags_lie_where_their_words_are_said():
    silent = np.zeros(250, bool)
    silent[120:140] = True  # a pause in the middle of ten seconds
    keys = timeline_of_script("[happy 0.8] abcde fghij [sad, fear 0.2] klmno pqrst", silent)
    assert keys[0] == EmotionKey(0.0, {"happy": 0.8})
    assert keys[-1].emotion == {"sad": 1.0, "fear": 0.2}
    assert keys[1].emotion == {"happy": 0.8} and keys[-1].time - keys[1].time == pytest.approx(BLEND_SECONDS, abs=0.02)
    assert (keys[1].time + keys[-1].time) / 2 == pytest.approx(140 / 25, abs=0.05)  # at the end of the pause
    weights = EmotionWeights.from_timeline(keys, 250).weights
    assert weights[100, 5] == pytest.approx(0.8) and weights[200, 6] > 0.8


@pytest.mark.parametrize(
    "script,said",
    [
        ("no tag at all", "no tag"),
        ("[joyful] hello", "joyful"),
        ("[happy 3] hello", "0 to 1"),
        ("[] hello", "empty"),
        ("[sad]", "words"),
    ],
)
def test_a_script_that_can_not_be_read_is_said(script, said):
    with pytest.raises(ValueError, match=said):
        timeline_of_script(script, np.zeros(50, bool))


def test_letters_of_any_script_count_and_silence_is_no_hindrance():
    keys = timeline_of_script("你好世界 [surprised] 你好世界", np.ones(100, bool))
    assert keys[-1].emotion == {"surprised": 1.0} and 1.5 < keys[-1].time < 2.8
    assert keys[0] == EmotionKey(0.0, {})  # what is said before the first tag is neutral
