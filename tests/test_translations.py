"""The page's words: every one in every language, with the same values to fill in."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter
from types import SimpleNamespace

import pytest

from personalize.jobs.job import OPEN
from studio.translations import LANGUAGES, TRANSLATIONS, WORDS, language_of, say, word

ROOT = Path(__file__).resolve().parent.parent


def test_no_word_is_missing_in_any_language():
    for key, words in WORDS.items():
        assert len(words) == len(LANGUAGES) and all(text.strip() for text in words), key
        fields = [{field for _, field, _, _ in Formatter().parse(text) if field} for text in words]
        assert fields[0] == fields[1], key
    assert all(re.search("[\u4e00-\u9fff]", chinese) for _, chinese in WORDS.values())
    assert set(TRANSLATIONS.translations_dict["zh"]) == set(WORDS)


def test_every_word_that_the_page_uses_is_in_the_table_and_none_is_left_over():
    source = "".join(path.read_text(encoding="utf-8") for path in [*(ROOT / "studio").glob("*.py"), ROOT / "app.py"])
    used = set(re.findall(r"""(?:word\(|say\(\s*request,\s*)["'](\w+)["']""", source))
    assert used <= set(WORDS)
    made = re.compile(r"preset_\w+|\w+_info|job_\w+|listening|expression|drawing|pass|warn|fail|ready|please_fix")
    with pytest.raises(KeyError):
        word("nothing of the kind")
    from gmtalker.clock import EMOTIONS

    training = "".join((ROOT / "personalize" / name).read_text(encoding="utf-8") for name in ("training.py", "__main__.py"))
    stages = set(re.findall(r"""(?:\.stage\(\s*|"stage": )"([a-z ]+)",""", training)) - {"done"}
    assert len(stages) > 5 and stages <= set(WORDS)
    assert {f"job_{status}" for status in (*OPEN, "done", "stopped", "failed")} - {"job_running"} <= set(WORDS)
    assert {key for key in set(WORDS) - used if not made.fullmatch(key)} <= {*EMOTIONS, *stages, "head", "blink", "gaze"}


def test_a_sentence_is_said_in_the_language_of_the_reader():
    chinese = SimpleNamespace(headers={"accept-language": "fr;q=0.9, zh-CN;q=0.8, en;q=0.5"})
    assert language_of(chinese) == "zh" and say(chinese, "done_in", seconds=3.2) == "完成，用时 3 秒。"
    assert language_of(SimpleNamespace(headers={})) == "en" == language_of(None)
