"""The tab where an avatar is made to speak."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np

from gmtalker.avatar import slug
from gmtalker.errors import UnusableInput
from gmtalker.pipeline import GMTalkerPipeline, Progress, SpeakRequest, Stopped
from gmtalker.tracks import EMOTIONS, over_full
from personalize.jobs import time_left
from studio.avatars import names, portraits
from studio.look import note, progress_bar, refusal

EXAMPLES = Path(__file__).resolve().parent.parent / "assets" / "speech"
SHOWN = {
    "angry": "Brows down, lips pressed.",
    "contempt": "One corner of the mouth up.",
    "disgusted": "Nose wrinkled, upper lip up.",
    "fear": "Brows up and together.",
    "happy": "A smile that reaches the eyes.",
    "sad": "Corners of the mouth down.",
    "surprised": "Brows up, eyes wide.",
}
PRESETS = {
    "Neutral": {},
    "Joyful": {"happy": 0.8, "surprised": 0.2},
    "Bitter": {"contempt": 0.5, "sad": 0.4},
    "Shocked": {"surprised": 0.7, "fear": 0.3},
    "Furious": {"angry": 0.8, "disgusted": 0.2},
}
STAGES = {"listening": "Listening to the speech", "expression": "Finding the expressions", "drawing": "Drawing"}
DRAWING_STARTS = 15  # per cent of the bar, by the usual share of the work


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


class Performing:
    """Work in progress by page session, so that Stop ends one's own video and no other."""

    def __init__(self) -> None:
        self._stops: dict[str, threading.Event] = {}

    def begin(self, session: str) -> threading.Event:
        self._stops[session] = threading.Event()
        return self._stops[session]

    def stop(self, session: str) -> None:
        if session in self._stops:
            self._stops[session].set()

    def end(self, session: str) -> None:
        self._stops.pop(session, None)


def create_tab(pipeline: GMTalkerPipeline) -> CreateTab:
    """Lay the tab out and connect it to the one pipeline."""
    with gr.Row():
        with gr.Column(scale=3):
            tab, speech, presets, emotions, neutral, mixture, motion = _controls()
        with gr.Column(scale=2, elem_classes="stage"):
            still = gr.Image(
                label="Preview", type="numpy", interactive=False, height=300, elem_id="still", buttons=[], format="jpeg"
            )
            create = gr.Button("Create the video", variant="primary", size="lg", elem_id="create")
            stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop")
            progress = gr.HTML(
                note("Choose a speech and press Create; a minute of speech takes about a minute."), elem_id="progress"
            )
            video = gr.Video(label="Video", interactive=False, autoplay=True, elem_id="video", buttons=["download"])
            command = gr.Textbox(
                label="The same again, from the command line",
                info="With your own copy of the speech.",
                interactive=False,
                visible=False,
                buttons=["copy"],
                elem_id="command",
            )

    performing = Performing()
    private = {"api_visibility": "private"}

    def preview(avatar: str, *weights: float) -> tuple[np.ndarray, float, str]:
        emotion = dict(zip(SHOWN, weights, strict=True))
        said = "Together more than 1: they are scaled down to 1." if over_full(emotion) else ""
        return _or_sentence(pipeline.still, avatar, emotion), round(max(0.0, 1 - sum(weights)), 2), note(said)

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
        head: float = 1.0,
        blink: float = 1.0,
        gaze: float = 1.0,
        seed: float = 0,
        full_frame: bool = False,
        request: gr.Request = None,
    ) -> Iterator[tuple[str, object]]:
        """The avatar says a speech, in a mixture of emotions: progress as HTML, and in the end the video."""
        if not speech:
            raise refusal("Choose a speech first: upload one, record one, or take an example.")
        weights = (angry, contempt, disgusted, fear, happy, sad, surprised)
        wish = _wish(avatar, speech, *weights, head, blink, gaze, seed, full_frame)
        session = request.session_hash or ""
        stopping = performing.begin(session)
        try:
            yield from _performed(pipeline, wish, stopping)
        finally:
            performing.end(session)

    def end(request: gr.Request) -> None:
        performing.stop(request.session_hash)

    def repeated(avatar: str, speech: str, *controls: float) -> gr.Textbox:
        wish = _wish(avatar, Path(speech).name, *controls)
        return gr.Textbox(wish.command(), visible=True)

    emotion_sliders = list(emotions.values())
    for name, button in presets.items():
        weights = [PRESETS[name].get(emotion, 0.0) for emotion in SHOWN]
        button.click(lambda weights=weights: weights, None, emotion_sliders, queue=False, show_progress="hidden", **private)
    gr.on(
        [slider.change for slider in emotion_sliders] + [tab.avatar.change],
        preview,
        [tab.avatar, *emotion_sliders],
        [still, neutral, mixture],
        trigger_mode="always_last",
        show_progress="hidden",
        concurrency_id="preview",
        **private,
    )
    tab.gallery.select(_chosen, None, tab.avatar, show_progress="hidden", **private)
    working = create.click(
        lambda: (gr.Button(interactive=False), gr.Button(visible=True), None), None, [create, stop, video], queue=False, **private
    )
    made = working.then(
        speak,
        [tab.avatar, speech, *emotion_sliders, *motion],
        [progress, video],
        api_name="speak",
        show_progress="hidden",
        concurrency_limit=1,
        concurrency_id="heavy",
    )
    made.success(repeated, [tab.avatar, speech, *emotion_sliders, *motion], command, show_progress="hidden", **private)
    for over in (made.then, made.failure):  # an error does not reach `then`
        over(lambda: (gr.Button(interactive=True), gr.Button(visible=False)), None, [create, stop], queue=False, **private)
    stop.click(end, None, None, queue=False, **private)
    return tab


def _controls() -> tuple:
    with gr.Column(elem_classes="card"):
        gr.Markdown("### 1 · Avatar")
        gallery = gr.Gallery(
            label="Avatars",
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
        avatar = gr.Dropdown(
            label="Who speaks", info="Click a picture, or choose a name.", allow_custom_value=True, elem_id="avatar"
        )
    with gr.Column(elem_classes="card"):
        gr.Markdown("### 2 · Speech")
        speech = gr.Audio(
            label="What is said: a sound file or the microphone, in any language",
            type="filepath",
            sources=["upload", "microphone"],
            elem_id="speech",
        )
        examples = sorted(str(path) for path in EXAMPLES.glob("*.flac"))
        gr.Examples(
            [[path] for path in examples],
            [speech],
            label="Examples",
            elem_id="speech-examples",
            api_visibility="private",
            example_labels=[Path(path).stem.capitalize() for path in examples],
        )
    with gr.Column(elem_classes="card"):
        gr.Markdown(
            "### 3 · Emotion\nMix as you like; the preview follows. What is missing from 1 stays neutral.", container=True
        )
        with gr.Row():
            presets = {name: gr.Button(name, size="sm", min_width=80, elem_id=f"preset-{name.lower()}") for name in PRESETS}
        emotions = {}
        for pair in _in_twos(EMOTIONS[1:] + EMOTIONS[:1]):
            with gr.Row():
                for name in pair:
                    if name == "neutral":
                        neutral = gr.Slider(
                            0,
                            1,
                            1,
                            step=0.05,
                            label=name,
                            info="What the others leave over.",
                            interactive=False,
                            elem_id="emotion-neutral",
                        )
                    else:
                        emotions[name] = gr.Slider(0, 1, 0, step=0.05, label=name, info=SHOWN[name], elem_id=f"emotion-{name}")
        mixture = gr.HTML(elem_id="mixture")
    with gr.Column(elem_classes="card"):
        gr.Markdown("### 4 · Movement")
        motion = [
            gr.Slider(0, 2, 1, step=0.1, label=name, info=info, elem_id=f"amount-{name}", render=False)
            for name, info in (
                ("head", "How much the head moves."),
                ("blink", "How far the eyelids close."),
                ("gaze", "How much the eyes wander."),
            )
        ]
        motion.append(
            gr.Number(0, precision=0, minimum=0, label="seed", info="Another number, another take.", elem_id="seed", render=False)
        )
        for pair in _in_twos(motion):
            with gr.Row():
                for control in pair:
                    control.render()
        motion.append(
            gr.Checkbox(
                False,
                label="full frame",
                info="In the person's own footage, at its size, instead of head and shoulders alone.",
                elem_id="full-frame",
            )
        )
    return CreateTab(gallery, avatar), speech, presets, emotions, neutral, mixture, motion


def _wish(
    avatar: str,
    speech: str,
    angry: float,
    contempt: float,
    disgusted: float,
    fear: float,
    happy: float,
    sad: float,
    surprised: float,
    head: float,
    blink: float,
    gaze: float,
    seed: float,
    full_frame: bool,
) -> SpeakRequest:
    """What the controls ask for, in their order; what can't be asked becomes a sentence on the page."""
    emotion = dict(zip(SHOWN, (angry, contempt, disgusted, fear, happy, sad, surprised), strict=True))
    amounts = {"seed": int(seed), "head": head, "blink": blink, "gaze": gaze, "full_frame": bool(full_frame)}
    return _or_sentence(SpeakRequest, Path(speech), avatar, emotion, **amounts)


def _performed(pipeline: GMTalkerPipeline, wish: SpeakRequest, stopping: threading.Event) -> Iterator[tuple[str, object]]:
    """Make the video in a thread and yield (progress as HTML, the video or nothing new)."""
    latest: deque[Progress] = deque(maxlen=1)
    with tempfile.TemporaryDirectory(prefix="gmtalker-") as folder, ThreadPoolExecutor(1) as thread:
        output = Path(folder) / f"{slug(wish.avatar) if wish.avatar else 'avatar'}.mp4"
        work = thread.submit(pipeline.speak, wish, output, latest.append, stopping.is_set)
        began, shown = time.monotonic(), None
        try:
            while not work.done():
                if latest and latest[0] is not shown:
                    shown = latest[0]
                    yield progress_bar(*_described(shown)), gr.skip()
                time.sleep(0.2)
            try:
                made = str(work.result())
            except Stopped:
                yield progress_bar("Stopped."), gr.skip()
                return
            except (UnusableInput, ValueError) as error:
                yield progress_bar(str(error)), gr.skip()
                raise refusal(str(error)) from error
            yield progress_bar(f"Done in {time.monotonic() - began:.0f} s.", 100), made
        finally:
            stopping.set()  # also when the person closes the page in the middle


def _described(progress: Progress) -> tuple[str, float]:
    share = progress.done / max(progress.total, 1)
    percent = {"listening": 0.0, "expression": DRAWING_STARTS * share}.get(
        progress.stage, DRAWING_STARTS + (100 - DRAWING_STARTS) * share
    )
    frames = f"frame {progress.done} of {progress.total}" if progress.stage != "listening" else ""
    left = time_left(progress.seconds_left) if progress.seconds_left is not None else ""
    parts = [STAGES.get(progress.stage, progress.stage), frames, f"{percent:.0f} %", left]
    return " · ".join(part for part in parts if part), percent


def _chosen(event: gr.SelectData) -> str:
    return names()[event.index]


def _or_sentence(call, *arguments, **options):
    """What the call returns; what it can't use becomes a sentence on the page."""
    try:
        return call(*arguments, **options)
    except (UnusableInput, ValueError) as error:
        raise refusal(str(error)) from error


def _in_twos(items: Sequence) -> list[Sequence]:
    return [items[start : start + 2] for start in range(0, len(items), 2)]
