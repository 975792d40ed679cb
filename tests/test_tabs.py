"""What the tabs Personalize and Avatars, and the card of many videos, do, without a browser."""

from __future__ import annotations

import asyncio
import json
import zipfile
from pathlib import Path

import gradio as gr
import pytest
from conftest import write_speech
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.testclient import TestClient

from gmtalker.avatars.workspace import owned_by
from personalize import jobs
from studio import shelf
from studio.avatars import VERDICTS, AvatarHandlers, avatar_items, avatars_tab, preview_route, verdict_of
from studio.create import create_tab
from studio.create_handlers import CreateHandlers
from studio.deployment import Deployment
from studio.live_video import LiveVideos
from studio.many import ManyHandlers
from studio.personalize import CLIPS, CONSENT, PROGRESS, Checked, personalize_tab
from studio.personalize_handlers import PersonalizeHandlers, emotions_of
from studio.spacefile import Limits


def visitor(language: str = "en") -> gr.Request:
    scope = {"type": "http", "headers": [(b"accept-language", language.encode())]}
    return gr.Request(HttpRequest(scope), session_hash="a session")


# --- Avatars -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def avatars(tiny_pipeline) -> AvatarHandlers:
    with gr.Blocks():
        return AvatarHandlers(avatars_tab(), lambda: tiny_pipeline)


def test_an_avatars_quality_is_said_in_words_and_the_figures_are_folded(avatars: AvatarHandlers, home: Path):
    card = home / "avatars" / "tiny" / "avatar.json"
    values = json.loads(card.read_text())
    values["measures"] = {"psnr": 31.0, "lips_follow_in_own_style": 0.7, "flicker": 2.0}
    values["source"] = values.get("source", {}) | {"emotions_seen": {"neutral": 0.9, "happy": 0.1, "sad": 0.0}}
    card.write_text(json.dumps(values))
    details = avatars.choose(visitor(), "tiny")[avatars.tab.details]
    words = details.split("<details")[0]
    assert all(text in words for text in ("Likeness", "✓ good", "Lips", "! fair", "Steadiness", "✗ weak", "neutral, happy"))
    assert "PSNR" not in words and "PSNR" in details and "Sharpness" not in details


@pytest.mark.parametrize(
    "value,good,fair,verdict",
    [(30, 30, 27, "pass"), (28, 30, 27, "warn"), (1, 30, 27, "fail"), (1.1, 1.15, 1.5, "pass"), (2, 1.15, 1.5, "fail")],
)
def test_more_is_better_or_less_is(value: float, good: float, fair: float, verdict: str):
    assert verdict_of(value, good, fair) == verdict and all(good != fair for _, _, good, fair in VERDICTS)


def test_a_card_plays_the_avatar_of_whoever_asks(avatars: AvatarHandlers, home: Path):
    app = FastAPI(routes=[preview_route()])
    app.auth = app.auth_dependency = None
    app.cookie_id, app.tokens = "x", {}
    (home / "avatars" / "tiny" / "preview.mp4").write_bytes(b"film")
    items = {item["id"]: item for item in avatar_items()}
    assert {"GRID s1", "tiny"} <= set(items)
    client = TestClient(app)
    answer = client.get(f"/{items['tiny']['video']}")
    assert answer.content == b"film" and answer.headers["content-type"] == "video/mp4"
    assert client.get(f"/{items['GRID s1']['video']}", headers={"range": "bytes=0-9"}).status_code == 206
    assert client.get("/avatar-preview/nobody").status_code == 404 == client.get("/avatar-preview/..%2Ftiny").status_code
    app.auth = True
    assert client.get(f"/{items['tiny']['video']}").status_code == 401
    with owned_by("somebody else"):
        assert "tiny" not in [item["id"] for item in avatar_items()]


def test_the_tab_opens_with_an_avatar_shown(avatars: AvatarHandlers):
    shown = avatars.refresh(visitor(), None)
    assert shown[avatars.tab.chosen] == "GRID s1" and shown[avatars.tab.gallery].value == "GRID s1"
    assert avatars.refresh(visitor(), "tiny")[avatars.tab.chosen] == "tiny"
    assert avatars.choose(visitor(), "../elsewhere")[avatars.tab.chosen] is None


# --- Personalize ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def personalize(tiny_pipeline) -> PersonalizeHandlers:
    with gr.Blocks():
        return PersonalizeHandlers(personalize_tab(), lambda: tiny_pipeline, Limits())


def test_nobody_comes_to_the_second_step_without_consent(personalize: PersonalizeHandlers):
    for consent, person in ((False, "Ann"), (True, " ")):
        with pytest.raises(gr.Error, match="tick the box"):
            personalize.agree(visitor(), consent, person)
    path = personalize.agree(visitor(), True, "Ann")[personalize.tab.path]
    assert path.selected == CLIPS and personalize.begin_anew()[personalize.tab.path].selected == CONSENT


def test_other_clips_are_to_be_checked_again(personalize: PersonalizeHandlers):
    listed = personalize.list_clips(["/somewhere/smile.mp4"])
    assert listed[personalize.tab.checked] == Checked() and listed[personalize.tab.clips.emotions] == [["smile.mp4", ""]]
    assert listed[personalize.tab.check.next].visible is False


def test_the_emotion_of_a_clip_is_one_of_eight_or_none():
    assert emotions_of(["a.mp4", "b.mp4"], [["a.mp4", ""], ["b.mp4", "happy"]]) == {Path("b.mp4"): "happy"}
    with pytest.raises(ValueError, match="There is no emotion 'joy'"):
        emotions_of(["a.mp4"], [["a.mp4", "joy"]])


def test_the_page_opens_at_a_training_that_goes_on_or_waits(personalize: PersonalizeHandlers, monkeypatch):
    job = lambda status: type("Row", (), {"status": status})()  # noqa: E731
    monkeypatch.setattr(jobs, "refresh", lambda: None)
    for statuses, opens in ((["done"], False), ([], False), (["done", "stopped"], True), (["running"], True)):
        monkeypatch.setattr(jobs, "jobs", lambda statuses=statuses: [job(status) for status in statuses])
        opened = personalize.open(visitor())
        assert opened[personalize.tab.path].selected == PROGRESS if opens else opened == gr.skip(), statuses


def test_an_estimate_says_that_the_machine_is_busy(personalize: PersonalizeHandlers, monkeypatch, tmp_path: Path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"film")
    checked = Checked((str(clip),), 60.0, 30.0, 100.0)
    minutes = {}
    for load in (0.0, 100.0):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, load, load))
        estimate = jobs.estimate(10.0, 60.0, 30.0, 4)
        minutes[load] = estimate.minutes
        told = personalize.estimate(visitor(), checked, "standard", None)
        assert ("busy" in told) == (load > 0) == estimate.busy and f"{estimate.minutes:.0f} min" in told
    assert 11 < minutes[0.0] < 13 and minutes[100.0] > 40


# --- Many videos ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tiny_pipeline) -> ManyHandlers:
    with gr.Blocks():
        tab = create_tab()
        create = CreateHandlers(tab, lambda: tiny_pipeline, LiveVideos(), Deployment(Limits(speech_minutes=0.1)))
        return ManyHandlers(tab.many, create)


def made_of(many: ManyHandlers, files: list[Path]) -> tuple[str, list[str]]:
    """What is shown in the end, and the names in the zip, after the videos of a table were made."""

    async def run() -> tuple[str, list[str]]:
        async for updates in many.make(visitor(), [str(file) for file in files]):
            if many.card.result in updates:
                with zipfile.ZipFile(updates[many.card.result].value["path"]) as archive:
                    assert archive.testzip() is None
                    return updates[many.card.progress], sorted(archive.namelist())
        raise AssertionError("no zip")

    return asyncio.run(run())


def test_a_table_becomes_a_zip_with_what_failed(many: ManyHandlers, tmp_path: Path):
    rows = [
        {"speech": "said.wav", "avatar": "tiny", "name": "good", "subtitles": None},
        {"speech": "gone.wav", "avatar": "tiny"},
        {"speech": "said.wav", "avatar": str(tmp_path)},
        {"speech": "long.wav", "avatar": "tiny"},
        {"speech": "said.wav", "avatar": "tiny", "name": "other", "format": "gif"},
        {"text": "<b>Hi.</b>", "captions": 3},
    ]
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    files = [table, write_speech(tmp_path / "said.wav"), write_speech(tmp_path / "long.wav", 9.0)]
    shown, names = made_of(many, files)
    assert names == ["failed.csv", "good.mp4", "other.gif"] and "2 of 6 made" in shown
    for sentence in (
        "gone.wav beside the table",
        "Choose an avatar first",
        "longer than the 0.1 minutes",
        "or an .srt or .vtt file",
    ):
        assert sentence in shown, shown
    assert {video.request.output.format for video in shelf.videos()} == {"mp4", "gif"} and str(tmp_path) not in shown


def test_a_table_is_needed_and_may_not_be_endless(many: ManyHandlers, tmp_path: Path, monkeypatch):
    table = tmp_path / "t.csv"
    table.write_text("text\nHello.\nGood night.\n")
    for files in ([], [write_speech(tmp_path / "a.wav")], [table, table]):
        with pytest.raises(gr.Error, match="Add one table"):
            made_of(many, files)
    monkeypatch.setattr("studio.many.ROWS_MAX", 1)
    with pytest.raises(gr.Error, match="up to 1 rows"):
        made_of(many, [table])


def test_stop_keeps_what_was_made(many: ManyHandlers, tmp_path: Path):
    table = tmp_path / "t.jsonl"
    row = {"speech": "said.wav", "avatar": "tiny"}
    table.write_text("\n".join(json.dumps(row | {"name": name}) for name in ("one", "two", "three")))
    files = [str(table), str(write_speech(tmp_path / "said.wav"))]

    async def run() -> list[str]:
        async for updates in many.make(visitor(), files):
            if "1 of 3" in updates[many.card.progress]:
                many.stop(visitor())
            if many.card.result in updates:
                assert "Stopped" in updates[many.card.progress]
                with zipfile.ZipFile(updates[many.card.result].value["path"]) as archive:
                    return archive.namelist()
        raise AssertionError("no zip")

    names = asyncio.run(run())
    assert names[0] == "one.mp4" and len(names) < 3
