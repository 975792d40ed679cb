"""The page's words: every one in every language, with the same values to fill in."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter
from types import SimpleNamespace

import pytest

from gmtalker.clock import EMOTIONS
from personalize.consent import CONSENT_WORDS
from personalize.jobs.job import OPEN
from personalize.request import PRESETS
from studio.translations import LANGUAGES, TRANSLATIONS, WORDS, language_of, say, word

ROOT = Path(__file__).resolve().parent.parent
ENGLISH = WORDS["en"]


def fields(text: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(text) if field}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_word_is_missing_in_any_language(language: str):
    words = WORDS[language]
    assert set(words) == set(ENGLISH) == set(TRANSLATIONS.translations_dict[language])
    for key, text in words.items():
        assert text.strip() and fields(text) == fields(ENGLISH[key]), key


def test_no_english_is_left_in_chinese():
    assert all(re.search("[\u4e00-\u9fff]", text) for text in WORDS["zh"].values())


def test_words_that_the_browser_shows_have_no_values_left_to_fill_in():
    for words in WORDS.values():
        assert not any(fields(words[key]) for key in used("word"))
        for preset, minutes in PRESETS.items():
            assert f" {minutes:g} " in words[f"preset_{preset}"]


def used(function: str) -> set[str]:
    """The keys that the page's sources give to word or say as they stand there."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "studio").glob("*.py"))
    if function == "words_of":  # and the titles of cards
        calls = re.findall(r"words_of\(([^)]*)\)", source) + re.findall(r"cards\(([^)]*)elem_id", source)
        return {key for call in calls for key in re.findall(r'"(\w+)"', call)}
    call = {"word": r"word\(", "say": r"say\(\s*\w+,\s*"}[function]
    return set(re.findall(call + r"""["'](\w+)["']""", source))


def training_stages() -> set[str]:
    """What a training says it is doing."""
    sources = [*(ROOT / "personalize").glob("*.py"), *(ROOT / "personalize" / "jobs").glob("*.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in sources if not path.name.startswith("benchmark"))
    return set(re.findall(r"""(?:\.stage\(\s*|"stage": |stage=|Progress\()"([a-z ]+)"[,)]""", source)) - {"done", "waiting"}


def test_every_word_that_the_page_uses_is_in_the_table_and_none_is_left_over():
    used_words = used("word") | used("say") | used("words_of")
    assert len(used_words) > 100 and used_words <= set(ENGLISH)
    stages = training_stages()
    assert len(stages) > 5 and stages <= set(ENGLISH)
    states = {f"job_{status}" for status in (*OPEN, "done", "stopped", "failed")} - {"job_running"}
    assert states <= set(ENGLISH)
    composed = {"listening", "expression", "drawing", "pass", "warn", "fail", "head", "blink", "gaze", "following", "finishing"}
    composed |= {*EMOTIONS, *stages, *states, "speech_first", "video_first", "size", "intensity", "fps"}
    families = "preset_ motion_ label_ check_ consent_ canvas captions background format place shape subtitles source_"
    families += " caption_place caption_size quality_ verdict_ advice_"
    composed |= {key for key in ENGLISH if key.startswith(tuple(families.split()))} | {"ready", "please_fix"}
    composed |= {"marked", "sound_marked", "withdraw_question", "delete_question"}
    assert set(ENGLISH) - used_words <= composed
    with pytest.raises(KeyError):
        word("nothing of the kind")


def test_a_sentence_is_said_in_the_language_of_the_visitor():
    chinese = SimpleNamespace(headers={"accept-language": "fr;q=0.9, zh-CN;q=0.8, en;q=0.5"})
    assert language_of(chinese) == "zh" and say(chinese, "done_in", seconds=3.2) == "完成，用时 3 秒。"
    assert language_of(SimpleNamespace(headers={})) == "en" == language_of(None)


def test_who_consents_on_the_page_agrees_to_the_words_of_the_command_line():
    assert ENGLISH["consent"] == CONSENT_WORDS
