"""A text becomes speech whose words are where they are said, and whose tags and emoji fall on the very word."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from scipy.signal import resample_poly

from gmtalker.emotion_script import BLEND_SECONDS, read_script
from gmtalker.errors import UnusableInput, UnusableSpeech
from gmtalker.request import SpeakRequest
from gmtalker.source import READ_AS_ENGLISH, heard
from gmtalker.text_to_speech import LETTERS_MAX, say, say_script, seems_english, voices

SENTENCES = (
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "It is easy to tell the depth of a well.",
    "These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls.",
    "The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck.",
    "Four hours of steady work faced us.",
    "The boy was there when the sun rose.",
    "Help the woman get back to her feet.",
)


def aligned(sentence: str, samples: np.ndarray, rate: int) -> list[float]:
    """Seconds at which an aligner that knows nothing of the voice hears each word begin."""
    from pocketsphinx import Decoder

    aligner = Decoder(loglevel="FATAL")
    aligner.set_align_text(re.sub(r"[^a-z ]", "", sentence.lower()))
    aligner.start_utt()
    sound = resample_poly(samples, 16_000, rate)
    aligner.process_raw((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    aligner.end_utt()
    return [part.start_frame / 100 for part in aligner.seg() if part.word[0] not in "<["]


def test_words_are_where_an_aligner_hears_them():
    far = []
    for sentence in SENTENCES:
        spoken = say(sentence)
        assert [word.text for word in spoken.words] == sentence.split()
        begins = aligned(sentence, spoken.samples, spoken.rate)
        far += [abs(word.begin - begin) for word, begin in zip(spoken.words, begins, strict=True)]
    assert len(far) == 80 and max(far) <= 0.08 and np.median(far) < 0.03


def test_the_same_text_is_the_same_sound_and_words_follow_each_other():
    text = "It costs $5.50 at 7:30 pm, Dr. O'Neill; e-mail me at x@y.com — now. 1,250 people did!"
    spoken, again = say(text), say(text)
    assert np.array_equal(spoken.samples, again.samples) and spoken.rate == 24_000 and spoken.voice == voices()[0]
    assert [word.text for word in spoken.words] == text.split()
    times = [time for word in spoken.words for time in (word.begin, word.end)]
    assert times == sorted(times) and 0 < times[0] and times[-1] <= spoken.seconds
    assert 0.3 < np.abs(spoken.samples).max() <= 1


def test_a_sentence_longer_than_the_network_takes_is_said_whole():
    text = "and then we walked on, " * 60 + "home."
    spoken = say(text)
    assert len(spoken.words) == len(text.split()) and spoken.seconds > 60
    assert all(before.end <= after.begin + 1e-6 for before, after in zip(spoken.words, spoken.words[1:]))


@pytest.mark.parametrize(
    "script, word, emotion",
    [
        ("[happy 0.8] What a day!", "What", {"happy": 0.8}),
        ("It rains, [sad] but not for long.", "but", {"sad": 1.0}),
        ("We won 🎉 the cup.", "the", {"happy": 1.0}),  # in the middle: from the next word on
        ("It was long. We won the cup 🎉!", "We", {"happy": 1.0}),  # at the end: its whole sentence
        ("It was long. We won the cup! 🎉", "We", {"happy": 1.0}),
        ("Look [angry 0.5, sad 0.2] there.", "there.", {"angry": 0.5, "sad": 0.2}),
    ],
)
def test_tags_and_emoji_fall_on_the_very_word(script, word, emotion):
    spoken, keys = say_script(script)
    (at,) = (each for each in spoken.words if each.text == word)
    first = next(key for key in keys if key.emotion)
    begin = 0.0 if at is spoken.words[0] else at.begin + BLEND_SECONDS / 2
    assert first.emotion == emotion and first.time == pytest.approx(begin, abs=0.011)
    assert not any("🎉" in each.text or "[" in each.text for each in spoken.words)


def test_a_script_without_tags_has_no_keys_and_unknown_emoji_are_silent():
    spoken, keys = say_script("The plane ✈ has landed.")
    assert keys == [] and [word.text for word in spoken.words] == ["The", "plane", "has", "landed."]
    assert read_script("a [sad] [happy] b").tags == ((2, {"sad": 1.0}), (3, {"happy": 1.0}))


@pytest.mark.parametrize(
    "text, error, sentence",
    [
        ("", UnusableSpeech, "has no words"),
        ("… !", UnusableSpeech, "has no words"),
        ("Привет", UnusableSpeech, "speaks English and can't read"),
        ("你好", UnusableSpeech, "speaks English and can't read"),
        ("a " * LETTERS_MAX, UnusableSpeech, "are said at once"),
        ("[joyful] Hello", UnusableInput, "can't be read"),
    ],
)
def test_what_can_not_be_said_is_told(text, error, sentence):
    with pytest.raises(error, match=sentence):
        say_script(text)


def test_an_unknown_voice_and_a_missing_engine_are_told(monkeypatch):
    with pytest.raises(UnusableInput, match="no voice 'nobody'; choose from heart"):
        say("Hello.", "nobody")
    voices.cache_clear()
    monkeypatch.setitem(sys.modules, "hibari.voices", None)
    with pytest.raises(UnusableInput, match="gmtalker-studio"):
        say("Hello.")
    voices.cache_clear()


ENGLISH = ("Hello.", "Good morning! What a lovely day.", "Yes, no, okay.", "I love pizza and spaghetti carbonara.", "Hurrah!")
ENGLISH += ("The Schadenfreude of Herr Müller was great.", "Place red in a zero again", "42", "Tokyo Kyoto Osaka")
OTHERS = ("Guten Morgen, wie geht es dir heute?", "Hola, ¿cómo estás?", "Bonjour tout le monde, il fait beau.", "Ich bin müde.")
OTHERS += ("Ciao bella, come stai oggi?", "Dette er en prøve på norsk tale", "Goedemorgen allemaal", "Danke schön")


@pytest.mark.parametrize("text", [*ENGLISH, *OTHERS])
def test_another_language_is_told_from_english(text: str):
    assert seems_english(text) == (text in ENGLISH)


def test_a_text_that_is_not_english_is_said_with_a_word_of_warning(tmp_path):
    told = heard(SpeakRequest(text="[happy] Guten Morgen, wie geht es dir heute?"), tmp_path).sentences
    assert told == (READ_AS_ENGLISH,) and not heard(SpeakRequest(text="[happy] Good morning to you!"), tmp_path).sentences
