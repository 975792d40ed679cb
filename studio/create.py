"""The layout of the tab where an avatar is made to speak. What it does stands in create_handlers.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import gradio as gr

from gmtalker.assets import SPEECHES
from gmtalker.clock import EMOTIONS, LABELS, LARGEST_INTENSITY, MOTIONS
from gmtalker.media.captions import STYLES
from gmtalker.media.formats import CANVASES, DEFAULT_RATE, FORMATS, RATES
from studio.components import MIXED
from studio.generation import TAKES
from studio.timeline import Timeline, timeline_controls
from studio.translations import word
from studio.uploads import keeping_names

PRESETS = {
    "neutral": {},
    "joyful": {"happy": 0.8, "surprised": 0.2},
    "bitter": {"contempt": 0.5, "sad": 0.4},
    "shocked": {"surprised": 0.7, "fear": 0.3},
    "furious": {"angry": 0.8, "disgusted": 0.2},
}
AMOUNTS = ("head", "blink", "gaze")
CAPTIONS = ("none", *STYLES)  # of what is typed
BACKGROUNDS = ("own", "blur", "green", "white", "black", "file")
LARGEST_SHOWN_AMOUNT = 2  # of the sliders; a request takes more


@dataclass(frozen=True)
class AvatarCard:
    """Which avatar speaks."""

    gallery: gr.Gallery
    avatar: gr.Dropdown
    strip: gr.Image


@dataclass(frozen=True)
class SpeechCard:
    """What is said: typed, or a recording.

    other: takes a speech that the player's own upload does not: a video, or a file whose name does not say what it is.
    """

    text: gr.Textbox
    speech: gr.Audio
    other: gr.UploadButton


@dataclass(frozen=True)
class OutputCard:
    """How the video is written. background_file: what is behind where background says so."""

    canvas: gr.Dropdown
    background: gr.Dropdown
    background_file: gr.File
    captions: gr.Dropdown
    format: gr.Dropdown
    fps: gr.Dropdown

    @property
    def settings(self) -> dict[str, gr.components.Component]:
        """The controls by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class EmotionCard:
    """How it feels. sliders: by name of the emotion; neutral shows what they leave; warning: what is wrong with them."""

    presets: Mapping[str, gr.Button]
    sliders: Mapping[str, gr.Slider]
    neutral: gr.Slider
    intensity: gr.Slider
    warning: gr.HTML
    timeline: Timeline


@dataclass(frozen=True)
class MovementCard:
    """How it moves, and options of the video. amounts: by name, one of AMOUNTS."""

    amounts: Mapping[str, gr.Slider]
    motion: gr.Radio
    seed: gr.Number
    lock: gr.Checkbox
    full_frame: gr.Checkbox
    label: gr.Radio


@dataclass(frozen=True)
class Stage:
    """Where everything is started and shown.

    growing: the video while it is made.
    file: what was made, where no browser plays it.
    take_buttons: one for each of the takes.
    """

    still: gr.Image
    create: gr.Button
    takes: gr.Button
    reset: gr.Button
    stop: gr.Button
    progress: gr.HTML
    growing: gr.HTML
    video: gr.Video
    file: gr.File
    takes_group: gr.Group
    takes_video: gr.Video
    take_buttons: Sequence[gr.Button]
    history: gr.Dropdown
    command: gr.Textbox


@dataclass(frozen=True)
class Visit:
    """What the server remembers of a visit.

    settings: of the video that is being made.
    videos: made before, the newest first (create_handlers.Remembered).
    given: name of the last speech that came as a file of another kind.
    first_seed: of the three takes.
    """

    settings: gr.State
    videos: gr.State
    given: gr.State
    first_seed: gr.State


@dataclass(frozen=True)
class CreateTab:
    """The tab's components."""

    avatar: AvatarCard
    said: SpeechCard
    emotion: EmotionCard
    movement: MovementCard
    output: OutputCard
    stage: Stage
    visit: Visit

    @property
    def settings(self) -> dict[str, gr.components.Component]:
        """The controls of a request by name."""
        return {
            "avatar": self.avatar.avatar,
            "text": self.said.text,
            "speech": self.said.speech,
            **self.emotion.sliders,
            "intensity": self.emotion.intensity,
            **self.movement.amounts,
            "seed": self.movement.seed,
            "full_frame": self.movement.full_frame,
            "timeline": self.emotion.timeline.keys,
            "label": self.movement.label,
            "motion": self.movement.motion,
            **self.output.settings,
        }


def create_tab() -> CreateTab:
    """Lay the tab out."""
    with gr.Row():
        with gr.Column(scale=3):
            avatar, said, emotion = _avatar_card(), _speech_card(), _emotion_card()
            movement, output = _movement_card(), _output_card()
        with gr.Column(scale=2, elem_classes="stage"):
            stage = _stage()
    visit = Visit(gr.State({}), gr.State([]), gr.State(""), gr.State(0))
    return CreateTab(avatar, said, emotion, movement, output, stage, visit)


def _avatar_card() -> AvatarCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_avatar"))
        gallery = gr.Gallery(
            label=word("avatars"),
            show_label=False,  # for screen readers alone, here and below
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
    return AvatarCard(gallery, avatar, strip)


def _speech_card() -> SpeechCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_speech"))
        text = gr.Textbox(label=word("text"), info=word("text_info"), lines=2, max_lines=8, elem_id="text")
        speech = keeping_names(
            gr.Audio(label=word("speech"), type="filepath", sources=["upload", "microphone"], elem_id="speech")
        )
        examples = sorted(SPEECHES.glob("*.flac"))
        gr.Examples(
            [[str(path)] for path in examples],
            [speech],
            label=word("examples"),
            elem_id="speech-examples",
            api_visibility="private",
            example_labels=[path.stem.capitalize() for path in examples],
        )
        # Browsers know sound by the ends of names, and gradio takes nothing else for its player.
        other = keeping_names(gr.UploadButton(word("speech_other"), size="sm", elem_id="speech-other"))
    return SpeechCard(text, speech, other)


def _output_card() -> OutputCard:
    with gr.Column(elem_classes="card"), gr.Accordion(word("output_title"), open=False, elem_id="output"):
        with gr.Row():
            canvas = gr.Dropdown(
                [(word("canvas_own"), ""), *((name, name) for name in CANVASES)], value="", label=word("canvas"), elem_id="canvas"
            )
            shown = [(word(f"captions_{name}"), name) for name in CAPTIONS]
            captions = gr.Dropdown(shown, value=CAPTIONS[0], label=word("captions"), elem_id="captions")
        with gr.Row():
            behind = [(word(f"background_{name}"), name) for name in BACKGROUNDS]
            background = gr.Dropdown(behind, value=BACKGROUNDS[0], label=word("background"), elem_id="background")
            kinds = [(word(f"format_{name.replace('-', '_')}"), name) for name in FORMATS]
            kind = gr.Dropdown(kinds, value="mp4", label=word("format"), elem_id="format")
            fps = gr.Dropdown([*sorted(RATES)], value=DEFAULT_RATE, label=word("fps"), elem_id="fps")
        file = keeping_names(gr.File(label=word("background_file"), elem_id="background-file", height=110))
    return OutputCard(canvas, background, file, captions, kind, fps)


def _emotion_card() -> EmotionCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_emotion"), container=True)
        with gr.Row(elem_id="presets"):
            presets = {
                name: gr.Button(word(f"preset_{name}"), size="sm", min_width=80, elem_id=f"preset-{name}") for name in PRESETS
            }
        sliders = {}
        for pair in _in_twos((*MIXED, EMOTIONS[0])):
            with gr.Row():
                sliders |= {name: _emotion_slider(name) for name in pair}
        neutral = sliders.pop(EMOTIONS[0])
        intensity = gr.Slider(
            0, LARGEST_INTENSITY, 1, step=0.05, label=word("intensity"), info=word("intensity_info"), elem_id="intensity"
        )
        warning = gr.HTML(elem_id="mixture")
        with gr.Accordion(word("timeline_title"), open=False, elem_id="timeline"):
            timeline = timeline_controls()
    return EmotionCard(presets, sliders, neutral, intensity, warning, timeline)


def _emotion_slider(name: str) -> gr.Slider:
    is_neutral = name == EMOTIONS[0]
    words = {"label": word(name), "info": word(f"{name}_info")}
    return gr.Slider(0, 1, int(is_neutral), step=0.05, interactive=not is_neutral, elem_id=f"emotion-{name}", **words)


def _movement_card() -> MovementCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_movement"))
        choices = [(word(f"motion_{motion}"), motion) for motion in MOTIONS]
        motion = gr.Radio(choices, value=MOTIONS[0], label=word("motion"), info=word("motion_info"), elem_id="motion")
        amounts = {
            name: gr.Slider(
                0,
                LARGEST_SHOWN_AMOUNT,
                1,
                step=0.1,
                label=word(name),
                info=word("amount_info"),
                elem_id=f"amount-{name}",
                render=False,
            )
            for name in AMOUNTS
        }
        seed = gr.Number(0, precision=0, minimum=0, label=word("seed"), info=word("seed_info"), elem_id="seed", render=False)
        for pair in _in_twos((*amounts.values(), seed)):
            with gr.Row():
                for control in pair:
                    control.render()
        with gr.Row():
            lock = gr.Checkbox(True, label=word("lock"), info=word("lock_info"), elem_id="lock")
            full_frame = gr.Checkbox(False, label=word("full_frame"), info=word("full_frame_info"), elem_id="full-frame")
        shown = [(word(f"label_{name}"), name) for name in LABELS]
        label = gr.Radio(shown, value=LABELS[0], label=word("label_it"), info=word("label_it_info"), elem_id="label-it")
    return MovementCard(amounts, motion, seed, lock, full_frame, label)


def _stage() -> Stage:
    """One place for what is seen: the preview, the video while it is made, the finished one."""
    still = gr.Image(
        label=word("preview"), type="numpy", interactive=False, height=300, elem_id="still", buttons=[], format="jpeg"
    )
    growing = gr.HTML(elem_id="live")
    shown = {"show_label": False, "interactive": False, "autoplay": True}
    video = gr.Video(label=word("finished"), elem_id="video", buttons=["download"], visible=False, **shown)
    file = gr.File(label=word("finished"), visible=False, interactive=False, elem_id="finished-file")
    progress = gr.HTML(elem_id="progress")
    create = gr.Button(word("make"), variant="primary", size="lg", elem_id="create")
    stop = gr.Button(word("stop"), variant="stop", size="lg", visible=False, elem_id="stop")  # in the place of the other
    with gr.Row():
        takes = gr.Button(word("takes"), size="sm", elem_id="takes")
        reset = gr.Button(word("reset"), size="sm", elem_id="reset")
    gr.Markdown(word("make_hint"), elem_classes="note")
    with gr.Group(visible=False, elem_id="takes-group") as takes_group:
        gr.Markdown(word("takes_video"), elem_classes="note", container=True)
        takes_video = gr.Video(label=word("takes_video"), elem_id="takes-video", buttons=[], **shown)
        with gr.Row():
            take_buttons = [gr.Button(str(take), size="sm", min_width=60, elem_id=f"take-{take}") for take in range(1, TAKES + 1)]
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
    making = still, create, takes, reset, stop, progress, growing
    return Stage(*making, video, file, takes_group, takes_video, take_buttons, history, command)


def _in_twos(items: Sequence) -> list[Sequence]:
    return [items[start : start + 2] for start in range(0, len(items), 2)]
