"""What the controls of the tab Create do, without a browser."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import gradio as gr
import pytest
from conftest import write_speech
from fastapi import Request as HttpRequest

from gmtalker.errors import UnusableAvatar
from gmtalker.output import OutputOptions
from gmtalker.progress import Progress, Stopped
from gmtalker.request import SpeakRequest
from gmtalker.tracks import EmotionKey
from studio.components import MIXED
from studio.create import CreateTab, create_tab
from studio.create_handlers import CreateHandlers, Remembered
from studio.deployment import Deployment
from studio.generation import Stops, generate_video
from studio.live_video import LiveVideos
from studio.spacefile import Limits


def visitor(language: str = "en", session: str = "a session") -> gr.Request:
    scope = {"type": "http", "headers": [(b"accept-language", language.encode())]}
    return gr.Request(HttpRequest(scope), session_hash=session)


@pytest.fixture
def tab() -> CreateTab:
    with gr.Blocks():
        return create_tab()


@pytest.fixture
def handlers(tab: CreateTab, tiny_pipeline) -> CreateHandlers:
    return CreateHandlers(tab, lambda: tiny_pipeline, LiveVideos(), Deployment(Limits(speech_minutes=0.1)))


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    """Of a request as the controls give them."""
    others = {"head": 0.5, "blink": 1, "gaze": 1, "seed": 3, "full_frame": False, "timeline": [], "label": "whole"}
    others |= {"motion": "still", "text": "", "canvas": "", "background": "own", "background_file": None}
    others |= {"captions": "none", "format": "mp4", "fps": "25"}
    emotion = dict.fromkeys(MIXED, 0) | {"happy": 0.8}
    return {"avatar": "tiny", "speech": str(write_speech(tmp_path / "speech.wav"))} | emotion | {"intensity": 1.2} | others


def test_the_controls_are_named_as_the_fields_of_a_request_and_the_emotions(tab: CreateTab):
    fields = {field.name for field in dataclasses.fields(SpeakRequest)}
    written = {field.name for field in dataclasses.fields(OutputOptions)}
    own = set(tab.settings) - set(tab.output.settings)
    assert own == fields - {"emotion", "label_language", "output", "voice"} | set(MIXED)
    assert set(tab.output.settings) - {"background_file"} <= written


def test_a_video_is_made_of_the_settings(handlers: CreateHandlers, settings: dict, monkeypatch):
    requests = []
    speak = handlers.speaker
    monkeypatch.setattr(
        handlers, "speaker", lambda request, *rest, **more: requests.append(request) or speak(request, *rest, **more)
    )
    stage, videos = handlers.tab.stage, []
    for updates in handlers.speak(visitor(), **settings):
        assert "<p" in updates[stage.progress]
        videos += [Path(updates[stage.video]).read_bytes()] if stage.video in updates else []
    assert len(videos) == 1 and b"ftyp" in videos[0][:16] and "Done in" in updates[stage.progress]
    emotion = dict.fromkeys(MIXED, 0) | {"happy": 0.8}
    expected = SpeakRequest(Path(settings["speech"]), "tiny", emotion, None, 1.2, seed=3, head=0.5, label=True, motion="still")
    assert requests == [expected]


def test_what_is_typed_is_said_in_the_place_of_a_voice(handlers: CreateHandlers, settings: dict, tmp_path: Path):
    typed = {"text": " [sad] Hello. ", "captions": "words", "canvas": "4:5", "background": "white", "format": "gif"}
    request = handlers.request_of(visitor(), settings | typed)
    assert request.text == "[sad] Hello." and request.speech is None
    assert request.output == OutputOptions("gif", background="white", canvas="4:5", captions="spoken", caption_style="words")
    shown = handlers.bring_back(visitor(), "a", [Remembered("a", str(write_speech(tmp_path / "a.gif")), request, "command")])
    for name, value in typed.items():
        assert shown[handlers.tab.settings[name]] == value.strip()
    untyped = {"text": "", "captions": "lines"}
    for wrong, sentence in ((untyped, "Captions are made"), ({"background": "file"}, "background first")):
        with pytest.raises(gr.Error, match=sentence):
            handlers.request_of(visitor(), settings | typed | wrong)
    with pytest.raises(gr.Error, match="0.1"):  # some 20 seconds
        next(handlers.speak(visitor(), **settings | {"text": "word " * 60}))


@pytest.mark.parametrize("behind", ["/etc/passwd", "../secret.png", "C:\\secret.png"])
def test_a_background_is_a_colour_or_an_upload_and_no_file_of_the_server(handlers: CreateHandlers, settings: dict, behind: str):
    with pytest.raises(gr.Error, match="background first"):
        handlers.request_of(visitor(), settings | {"background": behind, "place": "center"})


def test_keyframes_override_the_sliders(handlers: CreateHandlers, settings: dict):
    keys = [{"time": 0.5, "emotion": {"sad": 0.3}}]
    updates = handlers.remember(visitor(), "video.mp4", None, [], settings | {"timeline": keys})
    request = updates[handlers.tab.visit.videos][0].request
    assert request.timeline == (EmotionKey(0.5, {"sad": 0.3}),) and not request.emotion
    assert "--timeline" in updates[handlers.tab.stage.command].value


@pytest.mark.parametrize(
    "change,sentence",
    [
        ({"speech": None}, "Choose a voice first"),
        ({"avatar": "nobody"}, "Choose an avatar first"),
        ({"avatar": "/somebody/else's/folder"}, "Choose an avatar first"),
        ({"seed": -1}, "seed must be"),
        ({"timeline": [{"time": None, "emotion": {}}]}, "timeline"),
    ],
)
def test_what_can_not_be_used_is_said_in_a_sentence(handlers: CreateHandlers, settings: dict, change: dict, sentence: str):
    for work in (handlers.speak, handlers.try_takes):
        with pytest.raises(gr.Error, match=sentence):
            next(work(visitor(), **settings | change))


def test_a_speech_may_be_so_long_and_no_longer(handlers: CreateHandlers, settings: dict, tmp_path: Path):
    long = str(write_speech(tmp_path / "long.wav", 7.0))
    with pytest.raises(gr.Error, match="0.1"):
        next(handlers.speak(visitor("zh"), **settings | {"speech": long}))


def test_a_new_seed_is_taken_unless_it_is_locked(handlers: CreateHandlers, settings: dict):
    tab = handlers.tab
    locked = handlers.begin(visitor(), True, **settings)
    assert locked[tab.movement.seed] == 3 and locked[tab.visit.settings] == settings
    seeds = set()
    for _ in range(5):
        begun = handlers.begin(visitor(), False, **settings)
        assert begun[tab.visit.settings] == settings | {"seed": begun[tab.movement.seed]}
        seeds.add(begun[tab.movement.seed])
    assert len(seeds) > 1 and handlers.begin_takes(visitor(), **settings)[tab.movement.seed] == 3


def test_a_video_brings_its_settings_back(handlers: CreateHandlers, settings: dict, tmp_path: Path):
    tab, video = handlers.tab, tmp_path / "video.mp4"
    video.write_bytes(b"video")
    remembered = handlers.remember(visitor(), str(video), None, [], settings)
    videos = remembered[tab.visit.videos]
    assert "happy 0.8" in videos[0].label and videos[0].request.seed == 3
    shown = handlers.bring_back(visitor(), videos[0].label, videos)
    controls = {name: control for name, control in tab.settings.items() if name != "timeline"}
    assert {name: shown[control] for name, control in controls.items()} == {name: settings[name] for name in controls}
    assert shown[tab.emotion.timeline.table] == [] and Path(shown[tab.stage.video].value["path"]).read_bytes() == b"video"
    assert (
        handlers.bring_back(visitor(), "no such video", videos) == gr.skip() == handlers.remember(visitor(), None, None, [], {})
    )


def test_a_video_outlives_its_avatar(handlers: CreateHandlers, settings: dict, home: Path, tmp_path: Path):
    video = tmp_path / "video.mp4"
    video.write_bytes(b"video")
    videos = handlers.remember(visitor(), str(video), None, [], settings)[handlers.tab.visit.videos]
    (home / "avatars" / "tiny").rename(tmp_path / "elsewhere")
    stage = handlers.tab.stage
    assert list(handlers.bring_back(visitor(), videos[0].label, videos)) == [stage.video, stage.file, stage.still, stage.command]


def test_the_preview_says_what_is_left_and_what_is_too_much(handlers: CreateHandlers):
    card = handlers.tab.emotion
    emotion = dict.fromkeys(MIXED, 0.0)
    half = handlers.preview(visitor(), "tiny", 1.0, **emotion | {"happy": 0.5})
    assert half[card.neutral] == 0.5 and half[handlers.tab.stage.still].shape == (64, 64, 3) and "100 %" not in half[card.warning]
    much = handlers.preview(visitor(), "tiny", 1.0, **emotion | {"happy": 0.8, "sad": 0.8})
    assert much[card.neutral] == 0 and "Over 100 %" in much[card.warning]


def test_a_preset_sets_every_slider_and_a_reset_every_setting(handlers: CreateHandlers):
    sliders = handlers.tab.emotion.sliders
    joyful = handlers.preset("joyful")()
    assert joyful[sliders["happy"]] == 0.8 and joyful[sliders["surprised"]] == 0.2 and sum(joyful.values()) == 1
    reset = handlers.reset()
    said = handlers.tab.said
    kept = {handlers.tab.avatar.avatar, said.text, said.speech, handlers.tab.emotion.timeline.keys}
    assert set(handlers.tab.settings.values()) - set(reset) == kept and reset[sliders["happy"]] == 0


# --- Making a video ------------------------------------------------------------------------------------------------------------


def made(speak, stopping: threading.Event, request: SpeakRequest, language: str = "en") -> list[str]:
    """The progress that is shown, as HTML."""
    return [text for text, _, _ in generate_video(speak, request, stopping, LiveVideos(), visitor(language))]


@pytest.mark.parametrize("language,expected", [("en", "frame 5 of 10"), ("zh", "第 5 / 10 帧")])
def test_progress_is_told_in_the_visitors_language(settings: dict, language: str, expected: str):
    def speak(request, output: Path, on_progress, stop, live: Path) -> Path:
        on_progress(Progress("drawing", 5, 10, seconds_left=100))
        time.sleep(0.5)
        return output

    texts = made(speak, threading.Event(), SpeakRequest(settings["speech"], "tiny"), language)
    assert expected in texts[0] and "width:57.5%" in texts[0] and "width:100.0%" in texts[-1]


def test_stop_ends_ones_own_work_and_no_other(settings: dict):
    stops = Stops()
    ours, theirs = stops.begin("ours"), stops.begin("theirs")

    def speak(request, output: Path, on_progress, stop, live: Path) -> Path:
        while not stop():
            time.sleep(0.01)
        raise Stopped

    stops.stop("ours")
    stops.stop("nobody's")
    assert "Stopped" in made(speak, ours, SpeakRequest(settings["speech"], "tiny"))[-1] and not theirs.is_set()
    stops.end("ours")
    assert not stops.of("ours").is_set()


def test_what_goes_wrong_is_shown_and_raised_as_a_sentence(settings: dict):
    def speak(request, *_, **options) -> Path:
        raise UnusableAvatar("The avatar is broken.")

    shown = []
    with pytest.raises(gr.Error, match="The avatar is broken."):
        for text, _, _ in generate_video(speak, SpeakRequest(settings["speech"]), threading.Event(), LiveVideos(), visitor()):
            shown.append(text)
    assert "The avatar is broken." in shown[-1]
