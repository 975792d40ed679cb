"""A request to train is checked when it is made, and written and read as JSON without a loss."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gmtalker.errors import UnusableInput
from personalize.consent import Consent
from personalize.request import PRESETS, TrainRequest, size_for

CONSENT = Consent("Zoë", "2026-01-01T00:00:00+00:00", "Yes, “all of it”.")


def request(**options) -> TrainRequest:
    return TrainRequest(**{"name": "Zoë", "clips": ["a.mp4"], "consent": CONSENT} | options)


def test_what_is_given_is_made_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = request(name="  Zoe\u0308   the  first ", clips=["a.mp4", tmp_path / "b c.mp4"], emotions={"a.mp4": "sad"})
    assert made.name == "Zoë the first"  # composed letters, single spaces
    assert made.clips == (tmp_path / "a.mp4", tmp_path / "b c.mp4") and made.emotions == {tmp_path / "a.mp4": "sad"}
    assert made.training_minutes == PRESETS["standard"] and made.size is None  # the face in the clips chooses
    assert request(preset="draft").training_minutes == 2.0 and request(preset="draft", minutes=0.5).training_minutes == 0.5


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * 81}, "80"),
        ({"name": "tab\x07bell"}, "printable"),
        ({"clips": []}, "at least one"),
        ({"clips": "a.mp4"}, "list"),
        ({"consent": None}, "consent"),
        ({"preset": "ultra"}, "draft, standard, high"),
        ({"minutes": 0}, "minutes"),
        ({"minutes": -1.0}, "minutes"),
        ({"minutes": float("nan")}, "minutes"),
        ({"minutes": float("inf")}, "minutes"),
        ({"size": 300}, "256, 512, 1024"),
        ({"emotions": {"other.mp4": "sad"}}, "other.mp4"),
        ({"emotions": {"a.mp4": "cheerful"}}, "happy"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        request(**options)


def test_json_loses_nothing(tmp_path):
    clips = [tmp_path / "my 'own' “film”.mp4", tmp_path / "日本.mov"]
    made = request(clips=clips, preset="high", minutes=1.5, emotions={clips[1]: "happy"}, size=512)
    made.save(tmp_path / "request.json")
    assert TrainRequest.load(tmp_path / "request.json") == made
    assert TrainRequest.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert "日本" in (tmp_path / "request.json").read_text(encoding="utf-8")  # for people, too
    request().save(tmp_path / "request.json")  # over another
    assert TrainRequest.load(tmp_path / "request.json") == request()
    assert [path.name for path in tmp_path.iterdir()] == ["request.json"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "request.json"
    request().save(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        request(size=512).save(path)
    assert TrainRequest.load(path).size is None and [path.name for path in tmp_path.iterdir()] == ["request.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"request": "speak"},
        {"consent": None},
        {"consent": {"who": "Zoë"}},
        {"consent": {"who": 5, "when": "2026-01-01", "words": "yes"}},
        {"consent": {"who": "Zoë", "when": "yesterday", "words": "yes"}},
        {"clips": "a.mp4"},
        {"clips": 5},
        {"emotions": ["a.mp4"]},
        {"minutes": "long"},
        {"command": "rm"},
        {"preset": ["draft"]},
    ],
)
def test_any_other_json_is_one_sentence(tmp_path, change):
    path = tmp_path / "re quest.json"
    path.write_text(json.dumps(request().to_json() | change))
    with pytest.raises(UnusableInput, match="re quest.json is not a saved request"):
        TrainRequest.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"request": "train"}', "[" * 100_000])
def test_a_file_that_holds_no_request_is_one_sentence(tmp_path, text):
    path = tmp_path / "request.json"
    path.write_text(text)
    with pytest.raises(UnusableInput, match="request.json is not a saved request"):
        TrainRequest.load(path)
    with pytest.raises(UnusableInput, match="There is no file"):
        TrainRequest.load(Path("/no/such.json"))


@pytest.mark.parametrize(
    ("who", "when", "words"), [("", "2026-01-01", "yes"), ("Ada", "yesterday", "yes"), ("Ada", "2026-01-01", " ")]
)
def test_consent_is_complete_or_not_made(who, when, words):
    with pytest.raises(ValueError):
        Consent(who, when, words)


def test_a_large_face_is_drawn_at_512_where_there_is_time_to_learn_it():
    assert size_for(200, PRESETS["standard"]) == size_for(900, PRESETS["high"]) == 512
    assert size_for(199, PRESETS["high"]) == size_for(900, PRESETS["draft"]) == 256


def test_a_look_is_that_of_one_of_the_clips(tmp_path):
    made = request(clips=["a.mp4", "b.mp4"], look="b.mp4")
    assert TrainRequest.from_json(made.to_json()) == made and made.look.name == "b.mp4"
    with pytest.raises(ValueError, match="c.mp4, which is not one of the clips"):
        request(clips=["a.mp4", "b.mp4"], look="c.mp4")
