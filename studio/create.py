"""The layout of the tab where an avatar is made to speak. What it does stands in create_handlers.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import gradio as gr

from gmtalker.assets import SPEECHES
from gmtalker.clock import LABELS, LARGEST_INTENSITY, MOTIONS
from gmtalker.media.captions import CAPTION_PLACES, CAPTION_SIZES, STYLES, USUAL_SIZE
from gmtalker.media.composition import PLACES, SHAPES
from gmtalker.media.formats import CANVASES, DEFAULT_RATE, FORMATS, RATES
from studio.components import MIXED, cards, webcam_recorder
from studio.emotion_pad import emotion_pad
from studio.generation import TAKES
from studio.many import ManyCard, many_card
from studio.timeline import Timeline, timeline_controls
from studio.translations import word
from studio.uploads import keeping_names

SOURCES = ("text", "voice", "film")
AMOUNTS = ("head", "blink", "gaze")
CAPTIONS = ("none", *STYLES)
BACKGROUNDS = ("own", "blur", "green", "white", "black", "file")
SUBTITLES = ("", "srt", "vtt")
LARGEST_SHOWN_AMOUNT = 2  # of the sliders; a request takes more


@dataclass(frozen=True)
class AvatarCard:
    """Which avatar speaks. avatar: its name, behind the cards."""

    cards: gr.HTML
    avatar: gr.Textbox


@dataclass(frozen=True)
class SpeechCard:
    """What is said: typed, a recording, or a film whose person leads.

    source: which of them counts, one of SOURCES; groups: of each, of which one is shown.
    other: takes a speech that the player's own upload does not: a video, or a file whose name does not say what it is.
    webcam: records a film.
    keep_emotion: whether the emotion is that of the film.
    """

    source: gr.Radio
    groups: Mapping[str, gr.Column]
    text: gr.Textbox
    speech: gr.Audio
    other: gr.UploadButton
    video: gr.File
    webcam: gr.Video
    keep_emotion: gr.Checkbox


@dataclass(frozen=True)
class OutputCard:
    """How the video is written.

    background_file: what is behind where background says so.
    captions_file: captions of a recording.
    """

    canvas: gr.Dropdown
    place: gr.Dropdown
    size: gr.Slider
    shape: gr.Dropdown
    background: gr.Dropdown
    background_file: gr.File
    captions: gr.Dropdown
    caption_place: gr.Dropdown
    caption_size: gr.Dropdown
    captions_file: gr.File
    subtitles: gr.Dropdown
    format: gr.Dropdown
    fps: gr.Dropdown

    @property
    def settings(self) -> dict[str, gr.components.Component]:
        """The controls by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class EmotionCard:
    """How it feels. sliders: by name of the emotion; mixture: what they leave neutral, and what is wrong with them."""

    pad: gr.HTML
    sliders: Mapping[str, gr.Slider]
    intensity: gr.Slider
    mixture: gr.HTML
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
class Takes:
    """Three takes side by side. buttons: one for each of them."""

    group: gr.Column
    video: gr.Video
    buttons: Sequence[gr.Button]
    close: gr.Button


@dataclass(frozen=True)
class Stage:
    """Where everything is started and shown.

    growing: the video while it is made.
    file: what was made, where no browser plays it, and subtitles beside a video.
    shelf: the videos that were made before.
    about: the command that makes the shown video again, and what can be done with it.
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
    shelf: gr.HTML
    about: gr.Accordion
    command: gr.Textbox
    delete: gr.Button


@dataclass(frozen=True)
class Visit:
    """What the server remembers of a visit, and the browser.

    made: the video that was made last (shelf.ShelvedVideo).
    videos: all that are on the shelf, the newest first.
    given: name of the last speech that came as a file of another kind.
    first_seed: of the three takes.
    kept: the settings, in the browser.
    """

    made: gr.State
    videos: gr.State
    given: gr.State
    first_seed: gr.State
    kept: gr.BrowserState


@dataclass(frozen=True)
class CreateTab:
    """The tab's components."""

    avatar: AvatarCard
    said: SpeechCard
    emotion: EmotionCard
    movement: MovementCard
    output: OutputCard
    many: ManyCard
    takes: Takes
    stage: Stage
    visit: Visit

    @property
    def settings(self) -> dict[str, gr.components.Component]:
        """The controls of a request by name."""
        return {
            "avatar": self.avatar.avatar,
            "source": self.said.source,
            "text": self.said.text,
            "speech": self.said.speech,
            "video": self.said.video,
            "keep_emotion": self.said.keep_emotion,
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
    takes = _takes()
    with gr.Row(elem_id="create-columns"):
        with gr.Column(scale=8, min_width=320):
            avatar, said = _avatar_card(), _speech_card()
            with gr.Column(elem_classes="card", elem_id="rare"):
                output, movement, many = _output_card(), _movement_card(), many_card()
        with gr.Column(scale=8, min_width=320):
            emotion = _emotion_card()
        with gr.Column(scale=9, min_width=320, elem_classes="stage"):
            stage = _stage()
    kept = gr.BrowserState({}, storage_key="gmtalker-create", secret="gmtalker")  # nothing secret: so it outlives the server
    visit = Visit(gr.State(None), gr.State([]), gr.State(""), gr.State(0), kept)
    return CreateTab(avatar, said, emotion, movement, output, many, takes, stage, visit)


def _avatar_card() -> AvatarCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_avatar"))
        shown = cards("avatars", "avatars_none", elem_id="avatar-cards")
        avatar = gr.Textbox(label=word("avatar"), elem_id="avatar", elem_classes="unseen")
    return AvatarCard(shown, avatar)


def _speech_card() -> SpeechCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_speech"))
        choices = [(word(f"source_{source}"), source) for source in SOURCES]
        label = {"label": word("source"), "show_label": False, "container": False}
        source = gr.Radio(choices, value=SOURCES[0], elem_id="source", elem_classes="segments", **label)
        with gr.Column(elem_id="said-text") as typed:
            text = gr.Textbox(
                label=word("text"), info=word("text_info"), placeholder=word("text_example"), lines=4, max_lines=8, elem_id="text"
            )
        with gr.Column(visible=False, elem_id="said-voice") as recorded:
            speech, other = _recording()
        with gr.Column(visible=False, elem_id="said-film") as led:
            gr.Markdown(word("film_about"), elem_classes="note")
            # Any file: a browser may not know what a phone's .MOV is, and gradio's own player would refuse it.
            video = keeping_names(gr.File(label=word("film"), elem_id="film", height=120))
            with gr.Accordion(word("webcam"), open=False, elem_id="film-webcam-group"):
                webcam = webcam_recorder("film-webcam")
            keep = gr.Checkbox(True, label=word("keep_emotion"), info=word("keep_emotion_info"), elem_id="keep-emotion")
    return SpeechCard(source, dict(zip(SOURCES, (typed, recorded, led))), text, speech, other, video, webcam, keep)


def _recording() -> tuple[gr.Audio, gr.UploadButton]:
    speech = keeping_names(gr.Audio(label=word("speech"), type="filepath", sources=["upload", "microphone"], elem_id="speech"))
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
    return speech, keeping_names(gr.UploadButton(word("speech_other"), size="sm", elem_id="speech-other"))


def _output_card() -> OutputCard:
    def choice(name: str, choices: Sequence, value: object) -> gr.Dropdown:
        return gr.Dropdown(choices, value=value, label=word(name), elem_id=name.replace("_", "-"))

    def words(family: str, names: Sequence[str]) -> list:
        return [(word(f"{family}_{(name or 'none').replace('-', '_')}"), name) for name in names]

    with gr.Accordion(word("output_title"), open=False, elem_id="output"):
        with gr.Row():
            canvas = choice("canvas", [(word("canvas_own"), ""), *((name, name) for name in CANVASES)], "")
            background = choice("background", words("background", BACKGROUNDS), BACKGROUNDS[0])
        behind = keeping_names(gr.File(label=word("background_file"), visible=False, elem_id="background-file", height=100))
        with gr.Row():
            place = choice("place", words("place", PLACES), PLACES[0])
            shape = choice("shape", words("shape", SHAPES), SHAPES[0])
            size = _slider("size", 0.2, 1, 1)
        with gr.Row():
            captions = choice("captions", words("captions", CAPTIONS), CAPTIONS[0])
            caption_place = choice("caption_place", words("caption_place", CAPTION_PLACES), CAPTION_PLACES[0])
            caption_size = choice("caption_size", words("caption_size", [*CAPTION_SIZES]), USUAL_SIZE)
            subtitles = choice("subtitles", words("subtitles", SUBTITLES), SUBTITLES[0])
        label = word("captions_file")
        file = keeping_names(
            gr.File(label=label, visible=False, file_types=[".srt", ".vtt"], elem_id="captions-file", height=100)
        )
        with gr.Row():
            kind = choice("format", words("format", [*FORMATS]), "mp4")
            fps = choice("fps", [*sorted(RATES)], DEFAULT_RATE)
    return OutputCard(
        canvas, place, size, shape, background, behind, captions, caption_place, caption_size, file, subtitles, kind, fps
    )


def _slider(name: str, low: float, high: float, value: float, **options: object) -> gr.Slider:
    return gr.Slider(low, high, value, step=0.05, label=word(name), elem_id=name.replace("_", "-"), buttons=[], **options)


def _emotion_card() -> EmotionCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("create_emotion"))
        pad = emotion_pad()
        mixture = gr.HTML(elem_id="mixture")
        sliders = {}
        with gr.Column(elem_id="sliders"):
            for name in MIXED:
                options = {"label": word(name), "elem_id": f"emotion-{name}", "buttons": []}
                sliders[name] = gr.Slider(0, 1, 0, step=0.05, **options)
            intensity = _slider("intensity", 0, LARGEST_INTENSITY, 1)
        with gr.Accordion(word("timeline_title"), open=False, elem_id="timeline"):
            timeline = timeline_controls()
    return EmotionCard(pad, sliders, intensity, mixture, timeline)


def _movement_card() -> MovementCard:
    with gr.Accordion(word("create_movement"), open=False, elem_id="movement"):
        choices = [(word(f"motion_{motion}"), motion) for motion in MOTIONS]
        motion = gr.Radio(choices, value=MOTIONS[0], label=word("motion"), info=word("motion_info"), elem_id="motion")
        with gr.Row():
            amounts = {
                name: gr.Slider(
                    0, LARGEST_SHOWN_AMOUNT, 1, step=0.05, label=word(name), info=word("amount_info"), elem_id=f"amount-{name}",
                    min_width=120, buttons=[],
                )
                for name in AMOUNTS
            }  # fmt: skip
        with gr.Row():
            seed = gr.Number(0, label=word("seed"), info=word("seed_info"), precision=0, minimum=0, elem_id="seed", min_width=120)
            lock = gr.Checkbox(True, label=word("lock"), info=word("lock_info"), elem_id="lock", min_width=120)
        full_frame = gr.Checkbox(False, label=word("full_frame"), info=word("full_frame_info"), elem_id="full-frame")
        labels = [(word(f"label_{label}"), label) for label in LABELS]
        label = gr.Radio(labels, value=LABELS[0], label=word("label_it"), info=word("label_it_info"), elem_id="label-it")
    return MovementCard(amounts, motion, seed, lock, full_frame, label)


def _takes() -> Takes:
    with gr.Column(visible=False, elem_classes="card", elem_id="takes-group") as group:
        gr.Markdown(word("takes_video"))
        video = gr.Video(
            label=word("takes"), elem_id="takes-video", buttons=[], show_label=False, interactive=False, autoplay=True
        )
        with gr.Row():
            buttons = [gr.Button(str(take), min_width=60, elem_id=f"take-{take}") for take in range(1, TAKES + 1)]
        close = gr.Button(word("takes_close"), size="sm", elem_id="takes-close")
    return Takes(group, video, buttons, close)


def _stage() -> Stage:
    """One place for the still, the video while it is made, and the finished one."""
    shown = {"show_label": False, "interactive": False}
    still = gr.Image(label=word("preview"), type="numpy", elem_id="still", buttons=[], format="jpeg", **shown)
    growing = gr.HTML(elem_id="live")
    video = gr.Video(label=word("finished"), elem_id="video", buttons=["download"], visible=False, autoplay=True, **shown)
    file = gr.File(label=word("finished"), visible=False, interactive=False, file_count="multiple", elem_id="finished-file")
    progress = gr.HTML(elem_id="progress")
    with gr.Row(elem_id="main-buttons"):
        create = gr.Button(word("make"), variant="primary", size="lg", elem_id="create")
        stop = gr.Button(word("stop"), variant="stop", size="lg", visible=False, elem_id="stop")  # in the place of the other
    with gr.Row():
        takes = gr.Button(word("takes"), size="sm", elem_id="takes")
        reset = gr.Button(word("reset"), size="sm", elem_id="reset")
    gr.Markdown(word("shelf"), elem_classes="shelf-title")
    shelf = cards("shelf_title", "shelf_empty", elem_id="video-shelf")
    with gr.Accordion(word("about_video"), open=False, visible=False, elem_id="about-video") as about:
        command = gr.Textbox(
            label=word("command"), info=word("command_info"), interactive=False, buttons=["copy"], elem_id="command"
        )
        delete = gr.Button(word("video_delete"), size="sm", variant="stop", elem_id="video-delete")
    return Stage(still, create, takes, reset, stop, progress, growing, video, file, shelf, about, command, delete)
