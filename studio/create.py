"""The tab where an avatar is made to speak."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from gmtalker.avatars.storage import find_avatar
from gmtalker.clock import EMOTIONS
from gmtalker.media.audio import sound_seconds
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.request import LARGEST_INTENSITY, SpeakRequest
from gmtalker.tracks import over_full
from studio.accounts import of_reader
from studio.avatars import names, picture_of, portraits
from studio.components import note, or_sentence, refusal
from studio.generation import TAKES, Stops, generate_video, three_takes
from studio.live_video import LiveVideos
from studio.spacefile import Limits
from studio.timeline import MIXED, timeline_controls
from studio.translations import say, word
from studio.zero_gpu import speaker

EXAMPLES = Path(__file__).resolve().parent.parent / "assets" / "speech"
PRESETS = {
    "neutral": {},
    "joyful": {"happy": 0.8, "surprised": 0.2},
    "bitter": {"contempt": 0.5, "sad": 0.4},
    "shocked": {"surprised": 0.7, "fear": 0.3},
    "furious": {"angry": 0.8, "disgusted": 0.2},
}
AMOUNTS = ("head", "blink", "gaze")
LARGEST_SEED = 99_999
SEED_PLACE = 13  # among the values that _wish takes after the request
STRIP_SIZE = (1600, 400)  # pixels at most
MOST_KEPT = 12  # videos of a visit
# The finished video goes on where the growing one was being watched.
GO_ON = """() => {
  const growing = document.querySelector('#live video'), at = growing ? growing.currentTime : 0;
  if (growing) { growing.pause(); growing.removeAttribute('src'); growing.load(); }
  const go = (left) => {
    const video = document.querySelector('#video video');
    if (video && video.readyState > 0) { if (at < video.duration - 0.2) video.currentTime = at; video.play().catch(() => {}); }
    else if (left > 0) setTimeout(() => go(left - 1), 50);
  };
  go(100);
}"""


@dataclass(frozen=True)
class CreateTab:
    """What other tabs change here: the avatars to choose from."""

    gallery: gr.Gallery
    avatar: gr.Dropdown

    def offer(self, chosen: str | None) -> tuple[gr.Gallery, gr.Dropdown]:
        """Updates of gallery and avatar: what there is now, with `chosen` chosen if it still exists."""
        there = names()
        chosen = chosen if chosen in there else next(iter(there), None)
        gallery = gr.Gallery(value=portraits(), selected_index=there.index(chosen) if chosen else None)
        return gallery, gr.Dropdown(choices=there, value=chosen)


@dataclass(frozen=True)
class _Controls:
    """The controls of a request, in the order in which `wish_of` takes their values."""

    tab: CreateTab
    speech: gr.Audio
    emotions: Mapping[str, gr.Slider]
    intensity: gr.Slider
    amounts: Sequence[gr.Slider]
    seed: gr.Number
    full_frame: gr.Checkbox
    label: gr.Checkbox
    keys: gr.JSON
    keys_table: gr.Dataframe
    lock: gr.Checkbox
    presets: Mapping[str, gr.Button]
    strip: gr.Image
    neutral: gr.Slider
    mixture: gr.HTML

    @property
    def asked(self) -> list[gr.components.Component]:
        return [
            self.tab.avatar, self.speech, *self.emotions.values(), self.intensity, *self.amounts, self.seed, self.full_frame,
            self.keys, self.label,
        ]  # fmt: skip


def create_tab(pipeline: GMTalkerPipeline, live: LiveVideos, limits: Limits) -> CreateTab:
    """Lay the tab out and connect it to the one pipeline."""
    private = {"api_visibility": "private"}
    hidden = {"show_progress": "hidden", **private}
    with gr.Row():
        with gr.Column(scale=3):
            controls = _controls(private)
            tab = controls.tab
        with gr.Column(scale=2, elem_classes="stage"):
            still = gr.Image(
                label=word("preview"), type="numpy", interactive=False, height=300, elem_id="still", buttons=[], format="jpeg"
            )
            create = gr.Button(word("make"), variant="primary", size="lg", elem_id="create")
            with gr.Row():
                takes = gr.Button(word("takes"), size="sm", elem_id="takes")
                reset = gr.Button(word("reset"), size="sm", elem_id="reset")
            stop = gr.Button(word("stop"), variant="stop", visible=False, elem_id="stop")
            gr.Markdown(word("make_hint"), elem_classes="note")
            progress = gr.HTML(elem_id="progress")
            growing = gr.HTML(elem_id="live")
            video = gr.Video(
                label=word("finished"),
                show_label=False,  # for screen readers alone, here and below
                interactive=False,
                autoplay=True,
                elem_id="video",
                buttons=["download"],
                visible=False,
            )
            with gr.Group(visible=False, elem_id="takes-group") as takes_group:
                gr.Markdown(word("takes_video"), elem_classes="note", container=True)
                watched = {"show_label": False, "interactive": False, "autoplay": True, "buttons": []}
                takes_video = gr.Video(label=word("takes_video"), elem_id="takes-video", **watched)
                with gr.Row():
                    take_buttons = [
                        gr.Button(str(take), size="sm", min_width=60, elem_id=f"take-{take}") for take in range(1, TAKES + 1)
                    ]
            history = gr.Dropdown(
                label=word("history"), info=word("history_info"), choices=[], visible=False, elem_id="history", interactive=True
            )
            command = gr.Textbox(
                label=word("command"),
                info=word("command_info"),
                interactive=False,
                visible=False,
                buttons=["copy"],
                elem_id="command",
            )
    made_before = gr.State([])  # of this visit: (label, video, settings), the newest first
    first_seed = gr.State(0)  # of the three takes
    asked = gr.State(())  # the settings of the video that is being made
    stops = Stops()
    make = speaker(pipeline)
    sliders = list(controls.emotions.values())

    @of_reader
    def preview(request: gr.Request, avatar: str, intensity: float, *weights: float) -> tuple[np.ndarray, float, str]:
        _check_there(request, avatar)
        emotion = dict(zip(MIXED, weights, strict=True))
        said = say(request, "over_full") if over_full(emotion) else ""
        left = round(max(0.0, 1 - min(intensity, 1.0) * min(1.0, sum(weights))), 2)
        return or_sentence(pipeline.still, avatar, emotion, intensity=intensity), left, note(said)

    @of_reader
    def speak(
        avatar: str,
        speech: str,
        angry: float = 0.0,
        contempt: float = 0.0,
        disgusted: float = 0.0,
        fear: float = 0.0,
        happy: float = 0.0,
        sad: float = 0.0,
        surprised: float = 0.0,
        intensity: float = 1.0,
        head: float = 1.0,
        blink: float = 1.0,
        gaze: float = 1.0,
        seed: float = 0,
        full_frame: bool = False,
        timeline: list | None = None,
        label: bool = False,
        request: gr.Request = None,
    ) -> Iterator[tuple[object, object, object]]:
        """The avatar says a speech, in a mixture of emotions or along a timeline [{"time": seconds, "emotion": {name: weight}}]:
        progress and a growing video as HTML, and in the end the video."""
        mixture = (angry, contempt, disgusted, fear, happy, sad, surprised)
        wish = _wish(request, avatar, speech, *mixture, intensity, head, blink, gaze, seed, full_frame, timeline, label)
        _check_length(request, wish, limits)
        session = request.session_hash or ""
        try:
            for said, playing, made in generate_video(make, wish, stops.of(session), live, request):
                yield said, playing, gr.skip() if made is None else made
        finally:
            stops.end(session)

    @of_reader
    def try_takes(request: gr.Request, *values: object):
        wish = _wish(request, *values)
        _check_length(request, wish, limits)
        session = request.session_hash or ""
        try:
            for said, made in three_takes(pipeline, wish, stops.of(session), request):
                if made is None:
                    yield said, gr.skip(), gr.skip(), gr.skip(), *[gr.skip()] * TAKES
                else:
                    labels = [gr.Button(say(request, "take_use", number=wish.seed + number)) for number in range(TAKES)]
                    yield "", gr.Group(visible=True), made, wish.seed, *labels
        finally:
            stops.end(session)

    def end(request: gr.Request) -> None:
        stops.stop(request.session_hash)

    def begin(request: gr.Request, lock: bool, *values: object) -> tuple:
        """Nothing else can be begun; the settings as they are now, with the seed of this take."""
        stops.begin(request.session_hash or "")
        seed = values[SEED_PLACE] if lock else random.randint(0, LARGEST_SEED)
        values = (*values[:SEED_PLACE], seed, *values[SEED_PLACE + 1 :])
        return gr.Button(interactive=False), gr.Button(interactive=False), gr.Button(visible=True), seed, values

    @of_reader
    def remembered(request: gr.Request, video: str | None, before: list, values: tuple):
        """The video among those of this visit, and the command that repeats it."""
        if video is None:  # stopped
            return [gr.skip()] * 4
        wish = _wish(request, *values)
        label = f"{time.strftime('%H:%M:%S')} · {_said_of(wish, request)}"
        before = [(label, video, values), *before][:MOST_KEPT]
        named = SpeakRequest(**{**wish.__dict__, "speech": Path(wish.speech).name})
        choices = gr.Dropdown(choices=[item[0] for item in before], value=label, visible=True)
        return gr.Video(visible=True), before, choices, gr.Textbox(named.command(), visible=True)

    @of_reader
    def brought_back(request: gr.Request, label: str, before: list):
        found = next((item for item in before if item[0] == label), None)
        if found is None or not Path(found[1]).is_file():
            return [gr.skip()] * (1 + len(controls.asked))
        _, video, values = found
        if values[0] not in names():  # the avatar was deleted meanwhile; its video is still here
            gr.Info(say(request, "video_without_avatar"))
            return [gr.Video(video, visible=True, autoplay=False), *[gr.skip()] * len(controls.asked)]
        *settings, timeline, label = values
        keys = [[key["time"], *(key["emotion"].get(name, 0.0) for name in MIXED)] for key in timeline or []]
        return [gr.Video(video, visible=True, autoplay=False), *settings, keys, label]

    for name, button in controls.presets.items():
        weights = [PRESETS[name].get(emotion, 0.0) for emotion in MIXED]
        button.click(lambda weights=weights: weights, None, sliders, queue=False, **hidden)
    gr.on(
        [slider.change for slider in [*sliders, controls.intensity]] + [tab.avatar.change],
        preview,
        [tab.avatar, controls.intensity, *sliders],
        [still, controls.neutral, controls.mixture],
        trigger_mode="always_last",
        concurrency_id="preview",
        **hidden,
    )
    tab.avatar.change(_strip, tab.avatar, controls.strip, **hidden)
    tab.gallery.select(_chosen, None, tab.avatar, **hidden)

    def free() -> tuple[gr.Button, gr.Button, gr.Button]:
        return gr.Button(interactive=True), gr.Button(interactive=True), gr.Button(visible=False)

    at_once = {"queue": False, **private}
    begun = [create, takes, stop, controls.seed, asked]
    heavy = {"show_progress": "hidden", "concurrency_limit": 1, "concurrency_id": "heavy"}
    working = create.click(begin, [controls.lock, *controls.asked], begun, **at_once)
    emptied = working.then(lambda: ("", gr.Video(None, visible=False)), None, [growing, video], **at_once)
    made = emptied.then(speak, controls.asked, [progress, growing, video], api_name="speak", **heavy)
    shown = made.success(remembered, [video, made_before, asked], [video, made_before, history, command], **hidden)
    shown.then(None, None, None, js=GO_ON, **private).then(lambda: "", None, growing, **at_once)
    kept = gr.State(True)  # takes are counted from the seed that is shown
    trying = takes.click(begin, [kept, *controls.asked], begun, **at_once)
    tried = trying.then(
        try_takes, controls.asked, [progress, takes_group, takes_video, first_seed, *take_buttons], **heavy, **private
    )
    for work in (made, tried):
        for over in (work.then, work.failure):  # an error does not reach `then`
            over(free, None, [create, takes, stop], **at_once)
    for number, button in enumerate(take_buttons):
        button.click(lambda first, number=number: (first + number, True), first_seed, [controls.seed, controls.lock], **hidden)
    back = [video, *controls.asked[:-2], controls.keys_table, controls.label]
    history.input(brought_back, [history, made_before], back, **hidden)
    stop.click(end, None, None, queue=False, **private)
    calm = [*[0.0] * len(sliders), 1.0, *[1.0] * len(AMOUNTS), 0, False, [], False]
    options = [controls.seed, controls.full_frame, controls.keys_table, controls.label]
    settings = [*sliders, controls.intensity, *controls.amounts, *options]
    reset.click(lambda: calm, None, settings, queue=False, **hidden)
    return tab


def _controls(private: Mapping[str, str]) -> _Controls:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_avatar"))
        gallery = gr.Gallery(
            label=word("avatars"),
            show_label=False,
            columns=5,
            height=150,
            fit_columns=False,
            allow_preview=False,
            interactive=False,
            elem_id="avatar-gallery",
            object_fit="cover",
            buttons=[],
        )
        avatar = gr.Dropdown(label=word("avatar"), info=word("avatar_info"), allow_custom_value=True, elem_id="avatar")
        gr.Markdown(word("strip"), elem_classes="note")
        strip = gr.Image(
            label=word("strip"), show_label=False, type="pil", interactive=False, buttons=[], elem_id="strip", height=90
        )
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_speech"))
        speech = gr.Audio(label=word("speech"), type="filepath", sources=["upload", "microphone"], elem_id="speech")
        examples = sorted(str(path) for path in EXAMPLES.glob("*.flac"))
        gr.Examples(
            [[path] for path in examples],
            [speech],
            label=word("examples"),
            elem_id="speech-examples",
            api_visibility="private",
            example_labels=[Path(path).stem.capitalize() for path in examples],
        )
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_emotion"), container=True)
        with gr.Row(elem_id="presets"):
            presets = {
                name: gr.Button(word(f"preset_{name}"), size="sm", min_width=80, elem_id=f"preset-{name}") for name in PRESETS
            }
        emotions = {}
        for pair in _in_twos(MIXED + EMOTIONS[:1]):
            with gr.Row():
                for name in pair:
                    slider = gr.Slider(
                        0,
                        1,
                        1 if name == "neutral" else 0,
                        step=0.05,
                        label=word(name),
                        info=word(f"{name}_info"),
                        interactive=name != "neutral",
                        elem_id=f"emotion-{name}",
                    )
                    emotions[name] = slider
        neutral = emotions.pop("neutral")
        intensity = gr.Slider(
            0, LARGEST_INTENSITY, 1, step=0.05, label=word("intensity"), info=word("intensity_info"), elem_id="intensity"
        )
        mixture = gr.HTML(elem_id="mixture")
        with gr.Accordion(word("timeline_title"), open=False, elem_id="timeline"):
            timeline = timeline_controls(speech, list(emotions.values()), intensity)
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_movement"))
        amounts = [
            gr.Slider(0, 2, 1, step=0.1, label=word(name), info=word(f"{name}_info"), elem_id=f"amount-{name}", render=False)
            for name in AMOUNTS
        ]
        seed = gr.Number(0, precision=0, minimum=0, label=word("seed"), info=word("seed_info"), elem_id="seed", render=False)
        for pair in _in_twos([*amounts, seed]):
            with gr.Row():
                for control in pair:
                    control.render()
        with gr.Row():
            lock = gr.Checkbox(True, label=word("lock"), info=word("lock_info"), elem_id="lock")
            full_frame = gr.Checkbox(False, label=word("full_frame"), info=word("full_frame_info"), elem_id="full-frame")
            label = gr.Checkbox(False, label=word("label_it"), info=word("label_it_info"), elem_id="label-it")
    return _Controls(
        CreateTab(gallery, avatar), speech, emotions, intensity, amounts, seed, full_frame, label, timeline.keys, timeline.table,
        lock, presets, strip, neutral, mixture,
    )  # fmt: skip


def _wish(
    request: gr.Request,
    avatar: str,
    speech: str | None,
    angry: float,
    contempt: float,
    disgusted: float,
    fear: float,
    happy: float,
    sad: float,
    surprised: float,
    intensity: float,
    head: float,
    blink: float,
    gaze: float,
    seed: float,
    full_frame: bool,
    timeline: list | None,
    label: bool,
) -> SpeakRequest:
    """What the controls ask for, in their order; what can't be asked becomes a sentence on the page."""
    if not speech:
        raise refusal(say(request, "speech_first"))
    _check_there(request, avatar)
    mixture = (angry, contempt, disgusted, fear, happy, sad, surprised)
    emotion = {} if timeline else dict(zip(MIXED, mixture, strict=True))
    amounts = {"seed": int(seed or 0), "head": head, "blink": blink, "gaze": gaze}
    amounts |= {"full_frame": bool(full_frame), "label": bool(label)}
    return or_sentence(SpeakRequest, Path(speech), avatar, emotion, timeline or None, intensity, **amounts)


def _check_there(request: gr.Request, avatar: str | None) -> None:
    if avatar not in names():  # a folder is for the command line: from the page it could be anybody's
        raise refusal(say(request, "no_such_avatar"))


def _check_length(request: gr.Request, wish: SpeakRequest, limits: Limits) -> None:
    seconds = or_sentence(sound_seconds, Path(wish.speech))
    if seconds > 60 * limits.speech_minutes:
        raise refusal(say(request, "speech_too_long", minutes=limits.speech_minutes))


def _said_of(wish: SpeakRequest, request: gr.Request) -> str:
    """What tells one video of a visit from another."""
    shown = [f"{say(request, name)} {weight:g}" for name, weight in wish.emotion.items() if weight]
    mood = say(request, "timeline_title") if wish.timeline else ", ".join(shown) or say(request, "neutral")
    return f"{wish.avatar} · {Path(wish.speech).stem} · {mood}"


@of_reader
def _strip(request: gr.Request, avatar: str) -> Image.Image | None:
    """The avatar's picture of its eight emotions."""
    return picture_of(find_avatar(avatar) / "emotions.jpg", STRIP_SIZE) if avatar in names() else None


@of_reader
def _chosen(request: gr.Request, event: gr.SelectData) -> str:
    return names()[event.index]


def _in_twos(items: Sequence) -> list[Sequence]:
    return [items[start : start + 2] for start in range(0, len(items), 2)]
