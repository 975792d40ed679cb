"""The layout of the tab where an avatar is made to speak. What it does stands in create_handlers.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gradio as gr

from gmtalker.assets import SPEECHES
from gmtalker.clock import EMOTIONS, LABELS, LARGEST_INTENSITY, MOTIONS
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
LARGEST_SHOWN_AMOUNT = 2  # of the sliders; a request takes more


@dataclass(frozen=True)
class AvatarCard:
    """Which avatar speaks."""

    gallery: gr.Gallery
    avatar: gr.Dropdown
    strip: gr.Image


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
    """The tab's components.

    other: takes a speech that the player's own upload does not: a video, or a file whose name does not say what it is.
    """

    avatar: AvatarCard
    speech: gr.Audio
    other: gr.UploadButton
    emotion: EmotionCard
    movement: MovementCard
    stage: Stage
    visit: Visit

    @property
    def settings(self) -> dict[str, gr.components.Component]:
        """The controls of a request by name, in the order in which the public endpoint "speak" takes their values."""
        return {
            "avatar": self.avatar.avatar,
            "speech": self.speech,
            **self.emotion.sliders,
            "intensity": self.emotion.intensity,
            **self.movement.amounts,
            "seed": self.movement.seed,
            "full_frame": self.movement.full_frame,
            "timeline": self.emotion.timeline.keys,
            "label": self.movement.label,
            "motion": self.movement.motion,
        }


def create_tab() -> CreateTab:
    """Lay the tab out."""
    with gr.Row():
        with gr.Column(scale=3):
            avatar, (speech, other), emotion, movement = _avatar_card(), _speech_card(), _emotion_card(), _movement_card()
        with gr.Column(scale=2, elem_classes="stage"):
            stage = _stage()
    return CreateTab(
        avatar, speech, other, emotion, movement, stage, Visit(gr.State({}), gr.State([]), gr.State(""), gr.State(0))
    )


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


def _speech_card() -> tuple[gr.Audio, gr.UploadButton]:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_speech"))
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
    return speech, other


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
    still = gr.Image(
        label=word("preview"), type="numpy", interactive=False, height=300, elem_id="still", buttons=[], format="jpeg"
    )
    create = gr.Button(word("make"), variant="primary", size="lg", elem_id="create")
    with gr.Row():
        takes = gr.Button(word("takes"), size="sm", elem_id="takes")
        reset = gr.Button(word("reset"), size="sm", elem_id="reset")
    stop = gr.Button(word("stop"), variant="stop", visible=False, elem_id="stop")
    gr.Markdown(word("make_hint"), elem_classes="note")
    progress, growing = gr.HTML(elem_id="progress"), gr.HTML(elem_id="live")
    shown = {"show_label": False, "interactive": False, "autoplay": True}
    video = gr.Video(label=word("finished"), elem_id="video", buttons=["download"], visible=False, **shown)
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
    return Stage(
        still, create, takes, reset, stop, progress, growing, video, takes_group, takes_video, take_buttons, history, command
    )


def _in_twos(items: Sequence) -> list[Sequence]:
    return [items[start : start + 2] for start in range(0, len(items), 2)]
