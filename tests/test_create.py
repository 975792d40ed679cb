"""What the controls of the tab Create do, without a browser."""

from __future__ import annotations

import dataclasses
import shlex
import threading
import time
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from conftest import write_speech
from fastapi import Request as HttpRequest

from gmtalker.errors import UnusableAvatar
from gmtalker.output import OutputOptions
from gmtalker.progress import Progress, Stopped
from gmtalker.request import SpeakRequest
from gmtalker.tracks import EmotionKey
from studio import shelf
from studio.components import MIXED
from studio.create import CreateTab, create_tab
from studio.create_handlers import CreateHandlers
from studio.deployment import Deployment
from studio.emotion_pad import PLACES, place_of, weights_at
from studio.generation import Stops, file_name, generate_video
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
    others |= {"captions": "none", "format": "mp4", "fps": "25", "place": "center", "size": 1, "shape": "person"}
    others |= {
        "caption_place": "bottom",
        "caption_size": "medium",
        "captions_file": None,
        "subtitles": "",
        "source": "voice",
        "video": None,
    }
    others |= {"keep_emotion": True}
    emotion = dict.fromkeys(MIXED, 0) | {"happy": 0.8}
    return {"avatar": "tiny", "speech": str(write_speech(tmp_path / "speech.wav"))} | emotion | {"intensity": 1.2} | others


def test_the_controls_are_named_as_the_fields_of_a_request_and_the_emotions(tab: CreateTab):
    fields = {field.name for field in dataclasses.fields(SpeakRequest)}
    written = {field.name for field in dataclasses.fields(OutputOptions)}
    own = set(tab.settings) - set(tab.output.settings)
    assert own == fields - {"emotion", "label_language", "output", "voice"} | {*MIXED, "source", "keep_emotion"}
    assert set(tab.output.settings) - {"background_file", "captions_file"} <= written


def test_a_video_is_made_of_the_settings(handlers: CreateHandlers, settings: dict, monkeypatch):
    requests = []
    speak = handlers.speaker
    monkeypatch.setattr(
        handlers, "speaker", lambda request, *rest, **more: requests.append(request) or speak(request, *rest, **more)
    )
    stage, videos = handlers.tab.stage, []
    for updates in handlers.speak(visitor(), **settings):
        assert "<p" in updates[stage.progress]
        videos += [Path(updates[stage.video].value["path"]).read_bytes()] if stage.video in updates else []
    assert len(videos) == 1 and b"ftyp" in videos[0][:16] and "Done in" in updates[stage.progress]
    emotion = dict.fromkeys(MIXED, 0) | {"happy": 0.8}
    expected = SpeakRequest(Path(settings["speech"]), "tiny", emotion, None, 1.2, seed=3, head=0.5, label=True, motion="still")
    assert requests == [expected]
    (kept,) = shelf.videos()
    assert Path(kept.video).read_bytes() == videos[0] and kept.poster.startswith("data:image/jpeg")


def shelved(handlers: CreateHandlers, settings: dict, tmp_path: Path, suffix: str = ".mp4") -> shelf.ShelvedVideo:
    """A video of these settings on the shelf, that nobody drew."""
    video = tmp_path / f"drawn{suffix}"
    video.write_bytes(b"video")
    return handlers.shelve(visitor(), video, handlers.request_of(visitor(), settings))


def test_what_is_typed_is_said(handlers: CreateHandlers, settings: dict, tmp_path: Path):
    typed = {"source": "text", "text": " [sad] Hello. ", "captions": "words", "canvas": "4:5", "background": "white"}
    typed |= {"format": "gif", "place": "left", "size": 0.5, "subtitles": "srt", "caption_place": "top", "caption_size": "large"}
    request = handlers.request_of(visitor(), settings | typed)
    assert request.text == "[sad] Hello." and request.speech is None
    placed = {"canvas": "4:5", "place": "left", "size": 0.5, "background": "white"}
    captions = {
        "captions": "spoken",
        "caption_style": "words",
        "caption_place": "top",
        "subtitles": "srt",
        "caption_size": "large",
    }
    assert request.output == OutputOptions("gif", **placed, **captions)
    made = shelved(handlers, settings | typed, tmp_path, ".gif")
    shown = handlers.bring_back(visitor(), made.id, [made])
    (tmp_path / "drawn.srt").write_text("1")
    made = shelved(handlers, settings | typed, tmp_path, ".gif")
    files = [Path(file["path"]) for file in handlers.bring_back(visitor(), made.id, [made])[handlers.tab.stage.file].value]
    assert {file.name for file in files} == {"drawn.gif", "drawn.srt"} and all(file.is_file() for file in files)
    for name, value in typed.items():
        assert shown[handlers.tab.settings[name]] == (value.strip() if isinstance(value, str) else value), name
    untyped = {"source": "voice", "captions": "lines"}
    nothing = {"source": "text", "text": " "}
    for wrong, sentence in ((untyped, "need its text"), ({"background": "file"}, "background first"), (nothing, "Type what")):
        with pytest.raises(gr.Error, match=sentence):
            handlers.request_of(visitor(), settings | typed | wrong)
    with pytest.raises(gr.Error, match="0.1"):  # some 20 seconds
        next(handlers.speak(visitor(), **settings | {"source": "text", "text": "word " * 60}))


def test_captions_of_a_recording_are_given(handlers: CreateHandlers, settings: dict, tmp_path: Path):
    given = tmp_path / "said.srt"
    given.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
    asked = settings | {"captions": "lines", "captions_file": str(given), "subtitles": "srt"}
    request = handlers.request_of(visitor(), asked)
    assert request.output.captions == str(given) and request.output.subtitles is None
    assert "--captions=said.srt" in handlers.shelve(visitor(), given, request).command


def test_a_film_leads_in_its_own_emotion_or_in_that_of_the_sliders(handlers: CreateHandlers, settings: dict, tmp_path: Path):
    led = settings | {"source": "film", "video": str(tmp_path / "led.mp4")}
    own = handlers.request_of(visitor(), led)
    assert own.video == tmp_path / "led.mp4" and own.speech is None and not own.emotion and own.head == 1 and own.seed == 0
    other = handlers.request_of(visitor(), led | {"keep_emotion": False})
    assert other.emotion["happy"] == 0.8 and "--emotion happy=0.8" in other.command() and " reenact " in other.command()
    calm = handlers.request_of(visitor(), led | {"keep_emotion": False, "happy": 0})
    assert calm.emotion == {"neutral": 1.0} and "--emotion neutral=1" in calm.command()
    with pytest.raises(gr.Error, match="Choose a film first"):
        handlers.request_of(visitor(), led | {"video": None})
    with pytest.raises(gr.Error, match="only one take"):
        next(handlers.try_takes(visitor(), **led))


@pytest.mark.parametrize("behind", ["/etc/passwd", "../secret.png", "C:\\secret.png"])
def test_a_background_is_a_colour_or_an_upload_and_no_file_of_the_server(handlers: CreateHandlers, settings: dict, behind: str):
    with pytest.raises(gr.Error, match="background first"):
        handlers.request_of(visitor(), settings | {"background": behind, "place": "center"})


def test_keyframes_override_the_sliders(handlers: CreateHandlers, settings: dict):
    keys = [{"time": 0.5, "emotion": {"sad": 0.3}}]
    request = handlers.request_of(visitor(), settings | {"timeline": keys})
    assert request.timeline == (EmotionKey(0.5, {"sad": 0.3}),) and not request.emotion
    assert "--timeline" in request.command()


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
    assert locked[tab.movement.seed] == 3
    seeds = set()
    for _ in range(5):
        begun = handlers.begin(visitor(), False, **settings)
        seeds.add(begun[tab.movement.seed])
    assert len(seeds) > 1 and handlers.begin_takes(visitor(), **settings)[tab.movement.seed] == 3


def test_a_video_brings_its_settings_back(handlers: CreateHandlers, settings: dict, tmp_path: Path):
    tab, made = handlers.tab, shelved(handlers, settings, tmp_path)
    Path(settings["speech"]).unlink()  # as uploads are, after a day
    (made,) = shelf.videos()
    assert (
        made.title == "speech" and "happy 0.8" in made.about and made.request.seed == 3 and "--speech speech.wav" in made.command
    )
    shown = handlers.bring_back(visitor(), made.id, [made])
    files = ("timeline", "speech", "video", "text", "keep_emotion")
    controls = {name: control for name, control in tab.settings.items() if name not in files}
    assert {name: shown[control] for name, control in controls.items()} == {name: settings[name] for name in controls}
    assert Path(shown[tab.said.speech]).name == "speech.wav" and Path(shown[tab.said.speech]).is_file()
    assert shown[tab.emotion.timeline.table] == [] and Path(shown[tab.stage.video].value["path"]).read_bytes() == b"video"
    assert made.id not in str(shown[tab.said.speech])  # gradio serves nothing of the workspace itself


def test_a_video_that_is_gone_is_told_and_a_stopped_one_is_not_remembered(
    handlers: CreateHandlers, settings: dict, tmp_path: Path
):
    made, tab = shelved(handlers, settings, tmp_path), handlers.tab
    assert handlers.bring_back(visitor(), "../" + made.id, [made])[tab.visit.videos] == [made]
    assert handlers.remember(visitor(), None, None, None, []) == gr.skip()
    kept = handlers.remember(visitor(), "video.mp4", None, made, [])
    assert kept[tab.visit.videos] == [made] and kept[tab.stage.shelf].value == made.id
    left = handlers.delete_video(visitor(), made.id, [made])
    assert shelf.videos() == [] == left[tab.visit.videos] and left[tab.stage.still].visible is True


def test_a_shelf_holds_so_many_and_nothing_half_written(
    handlers: CreateHandlers, settings: dict, tmp_path: Path, home, monkeypatch
):
    monkeypatch.setattr(shelf, "VIDEOS_MAX", 2)
    made = [shelved(handlers, settings | {"seed": seed}, tmp_path) for seed in range(3)]
    assert [video.request.seed for video in shelf.videos()] == [2, 1] and not Path(made[0].video).exists()
    (home / "videos" / made[1].id / "shelved.json").write_text("{")
    assert [video.request.seed for video in shelf.videos()] == [2] and shelf.delete("../avatars") is None
    assert (home / "avatars").is_dir() and not [path for path in (home / "videos").iterdir() if path.name.startswith(".")]


def test_videos_follow_an_avatar_that_is_renamed(handlers: CreateHandlers, settings: dict, tmp_path: Path):
    shelved(handlers, settings, tmp_path)
    shelf.rename_avatar("somebody else", "x")
    assert shelf.videos()[0].request.avatar == "tiny"
    shelf.rename_avatar("tiny", "New 'name'")
    (made,) = shelf.videos()
    assert made.request.avatar == "New 'name'" and made.about.startswith("New 'name' ·")
    assert "--avatar=New 'name'" in shlex.split(made.command) and "tiny" not in made.command
    chosen = handlers.offer(visitor(), "old", {"old": "tiny"})[handlers.tab.avatar.avatar]
    assert chosen == "tiny" == handlers.offer(visitor(), "tiny", {"other": "x"})[handlers.tab.avatar.avatar]


def test_what_is_not_to_be_deleted_stays(handlers: CreateHandlers, settings: dict, tmp_path: Path):
    made = shelved(handlers, settings, tmp_path)
    assert handlers.delete_video(visitor(), None, [made]) == gr.skip() and shelf.videos() == [made]


@pytest.mark.parametrize(
    "text,name", [("[happy] Hello, you!", "tiny-Hello-you"), ("😊" * 3, "tiny"), ("../a" * 40, "tiny-" + "a-" * 17 + "a")]
)
def test_a_videos_file_is_called_what_it_says(text: str, name: str):
    assert file_name(SpeakRequest(text=text, avatar="tiny")) == name


def test_a_demo_keeps_no_videos(tab: CreateTab, tiny_pipeline, settings: dict, tmp_path: Path):
    demo = CreateHandlers(tab, lambda: tiny_pipeline, LiveVideos(), Deployment(demo=True))
    made = shelved(demo, settings, tmp_path)
    assert shelf.videos() == []
    there = demo.remember(visitor(), str(tmp_path / "drawn.mp4"), None, made, [])[tab.visit.videos]
    assert [video.video for video in there] == [str(tmp_path / "drawn.mp4")]
    assert demo.open_shelf(visitor(), there)[tab.visit.videos] == there  # nor does a table's end clear those of the visit


def test_a_video_outlives_its_avatar(handlers: CreateHandlers, settings: dict, home: Path, tmp_path: Path):
    made, stage = shelved(handlers, settings, tmp_path), handlers.tab.stage
    (home / "avatars" / "tiny").rename(tmp_path / "elsewhere")
    shown = {stage.video, stage.file, stage.still, stage.command, stage.about, stage.progress}
    assert set(handlers.bring_back(visitor(), made.id, [made])) == shown


def test_the_preview_says_what_is_left_and_what_is_too_much(handlers: CreateHandlers):
    card = handlers.tab.emotion
    emotion = dict.fromkeys(MIXED, 0.0)
    half = handlers.preview(visitor(), "tiny", 1.0, **emotion | {"happy": 0.5})
    assert "50 %" in half[card.mixture] and half[handlers.tab.stage.still].shape == (64, 64, 3)
    assert half[card.pad] == {"x": PLACES["happy"][0] / 2, "y": PLACES["happy"][1] / 2, "exact": True}
    assert not handlers.preview(visitor(), "tiny", 1.0, **emotion | {"angry": 0.5, "surprised": 0.5})[card.pad]["exact"]
    much = handlers.preview(visitor(), "tiny", 1.0, **emotion | {"happy": 0.8, "sad": 0.8})
    assert "Over 100 %" in much[card.mixture]


def test_a_point_of_the_pad_sets_every_slider_and_a_reset_every_setting(handlers: CreateHandlers):
    sliders, said = handlers.tab.emotion.sliders, handlers.tab.said
    felt = handlers.feel(dict(zip("xy", PLACES["happy"])))
    assert felt[sliders["happy"]] == 1 and sum(felt.values()) == 1 and set(felt) == set(sliders.values())
    reset = handlers.reset()
    kept = {handlers.tab.avatar.avatar, said.source, said.text, said.speech, said.video, handlers.tab.emotion.timeline.keys}
    assert set(handlers.tab.settings.values()) - set(reset) == kept and reset[sliders["happy"]] == 0


@pytest.mark.parametrize("name", MIXED)
def test_every_emotion_is_where_the_pad_says(name: str):
    x, y = PLACES[name]
    assert weights_at(x, y) == {name: 1.0} and place_of({name: 1.0}) == (x, y)
    half = weights_at(x / 2, y / 2)
    assert half == {name: 0.5}


def test_the_pad_has_a_mixture_everywhere_and_it_stands_there(handlers: CreateHandlers):
    """On the whole pad: at most two emotions, no more than 1 in all, nothing leaps, and what is not cut off is where it was."""
    rows = np.linspace(-1, 1, 81)
    weights = np.array([[[weights_at(x, y).get(name, 0.0) for name in MIXED] for x in rows] for y in rows])
    assert (weights >= 0).all() and weights.sum(-1).max() <= 1.051 and ((weights > 0).sum(-1) <= 2).all()
    assert max(np.abs(np.diff(weights, axis=axis)).max() for axis in (0, 1)) <= 0.3
    for x, y in ((0.3, 0.2), (-0.4, 0.5), (-0.5, -0.3), (0.2, -0.4), (0.0, 0.0)):
        mixture = weights_at(x, y)
        assert place_of(mixture) == pytest.approx((x, y), abs=0.06)
    assert weights_at(0, 0) == {} and max(weights_at(5, -5).values()) <= 1


def test_what_the_browser_keeps_is_shown_again_where_it_fits(handlers: CreateHandlers, settings: dict, monkeypatch):
    lasting = {name: settings[name] for name in handlers.lasting}
    kept = handlers.keep(visitor(), [[0.5, *[0.1] * 7]], **lasting)
    assert "speech" not in kept and "background_file" not in kept
    shown = handlers.restore(visitor(), kept)
    for name, control in handlers.lasting.items():
        assert shown[control] == settings[name], name
    assert shown[handlers.tab.emotion.timeline.table] == [[0.5, *[0.1] * 7]]
    odd = {"happy": "<b>", "sad": 7, "format": "exe", "lock": 1, "text": 3, "avatar": "/etc", "full_frame": "yes"}
    wrong = handlers.restore(visitor(), kept | odd)
    changed = {name for name, control in handlers.lasting.items() if control in wrong and wrong[control] == odd.get(name)}
    assert not changed & set(odd) and wrong[handlers.tab.avatar.avatar] == "GRID s1"
    assert set(handlers.restore(visitor(), kept | {"whose": "somebody else"})) == set(handlers.offered)
    assert set(handlers.restore(visitor(), ["odd"])) == set(handlers.offered)


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


def test_whoever_sets_an_emotion_while_a_film_leads_wants_it(handlers: CreateHandlers):
    assert handlers.feel_by_hand("film") is False and handlers.feel_by_hand("text") == gr.skip()


def test_what_means_nothing_now_is_not_shown_and_as_it_was(handlers: CreateHandlers):
    card = handlers.tab.output
    plain = handlers.choose_canvas("", "own", "none", "voice")
    shown = lambda update: update["visible"] if isinstance(update, dict) else update.visible  # noqa: E731
    assert not any(map(shown, plain.values()))
    assert [plain[part]["value"] for part in (card.place, card.size, card.shape)] == ["center", 1, "person"]
    full = handlers.choose_canvas("9:16", "file", "lines", "text")
    assert [part for part in full if not shown(full[part])] == [card.captions_file]
    assert handlers.choose_canvas("", "own", "words", "film")[card.captions_file].visible
