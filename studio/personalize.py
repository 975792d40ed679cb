"""The layout of the tab where a person's clips become an avatar. What it does stands in personalize_handlers.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gradio as gr

from gmtalker.assets import BUNDLED
from gmtalker.clock import EMOTIONS
from personalize.request import PRESETS
from studio.avatars import picture_of
from studio.components import scripted, webcam_recorder, words_of
from studio.translations import word
from studio.uploads import keeping_names

EXAMPLE_SIZE = (256, 256)
CONSENT, CLIPS, TRAIN, PROGRESS = 1, 2, 3, 4  # the steps


@dataclass(frozen=True)
class Checked:
    """What the check found.

    clips: those that can be trained on, as they were uploaded; empty when something stands against it.
    seconds: of the clips.
    reading_seconds: what tracking the face in them takes on this machine.
    face_height: of the face in them, in pixels.
    """

    clips: tuple[str, ...] = ()
    seconds: float = 0.0
    reading_seconds: float = 0.0
    face_height: float = 0.0


@dataclass(frozen=True)
class ClipsCard:
    """The clips and, one row each, the emotion they show: [[name, emotion or ""], ...]."""

    clips: gr.File
    webcam: gr.Video
    emotions: gr.HTML


@dataclass(frozen=True)
class CheckCard:
    """The check of the clips, and what it found. next, back: to the steps beside it."""

    check: gr.Button
    next: gr.Button
    back: gr.Button
    report: gr.HTML
    look: gr.Radio
    overlay_about: gr.Markdown
    overlay: gr.Image


@dataclass(frozen=True)
class TrainCard:
    """What is to be trained. back: to the step before."""

    name: gr.Textbox
    preset: gr.Radio
    minutes: gr.Number
    estimate: gr.HTML
    train: gr.Button
    back: gr.Button


@dataclass(frozen=True)
class ProgressCard:
    """How far the training is.

    strip: real frames above generated ones.
    curve: quality over time.
    another: begins the steps anew.
    """

    progress: gr.HTML
    stop: gr.Button
    sample: gr.Button
    finish: gr.Button
    resume: gr.Button
    use: gr.Button
    another: gr.Button
    strip_about: gr.Markdown
    strip: gr.Image
    curve_about: gr.Markdown
    curve: gr.Image


@dataclass(frozen=True)
class ConsentCard:
    """Who agrees to what.

    person: who is in the clips, and consents.
    heirs: whether the person is no longer living.
    uses, places, until: the bounds of the consent; empty ones are none.
    ask: gives the sentence that a film has to say.
    film: of the person saying it; None for none.
    next: to the next step.
    trainings: to the last step.
    """

    person: gr.Textbox
    consent: gr.Checkbox
    heirs: gr.Checkbox
    uses: gr.Textbox
    places: gr.Textbox
    until: gr.Textbox
    ask: gr.Button
    sentence: gr.Markdown
    film: gr.File
    next: gr.Button
    trainings: gr.Button


@dataclass(frozen=True)
class PersonalizeTab:
    """The tab's components.

    path: the four steps, of which one is on the screen.
    steps: they themselves, by their numbers.
    checked: what the check found (Checked).
    job: the id of the training that is shown.
    done: the name of the avatar that is ready.
    shown: what is shown of the training (personalize_handlers.TrainingView).
    """

    path: gr.Walkthrough
    steps: Mapping[int, gr.Step]
    consent: ConsentCard
    clips: ClipsCard
    check: CheckCard
    train: TrainCard
    progress: ProgressCard
    checked: gr.State
    job: gr.State
    done: gr.State
    shown: gr.State


def personalize_tab() -> PersonalizeTab:
    """Lay the tab out: a path of four steps."""
    checked, steps = gr.State(Checked()), {}
    with gr.Walkthrough(selected=CONSENT, elem_id="path") as path:
        with gr.Step(word("step_consent"), id=CONSENT) as steps[CONSENT]:
            consent = _consent_card()
        with gr.Step(word("step_clips"), id=CLIPS, interactive=False) as steps[CLIPS]:
            with gr.Row():
                with gr.Column(min_width=320):
                    clips = _clips_card()
                with gr.Column(min_width=320):
                    check = _check_card()
        with gr.Step(word("step_train"), id=TRAIN, interactive=False) as steps[TRAIN]:
            train = _train_card()
        with gr.Step(word("step_progress"), id=PROGRESS) as steps[PROGRESS]:
            progress = _progress_card()
    states = gr.State(None), gr.State(None), gr.State(None)
    return PersonalizeTab(path, steps, consent, clips, check, train, progress, checked, *states)


def _consent_card() -> ConsentCard:
    with gr.Column(elem_classes="card"):
        with gr.Row():
            with gr.Column(scale=3, min_width=240):
                gr.Markdown(word("guide"))
            with gr.Column(scale=1, min_width=140):
                example = picture_of(next(BUNDLED.glob("*/poster.jpg")), EXAMPLE_SIZE)
                still = {"show_label": False, "interactive": False, "buttons": [], "height": 140}
                gr.Image(example, label=word("guide_example"), elem_id="guide-example", **still)
                gr.Markdown(word("guide_example"), elem_classes="note")
        person = gr.Textbox(label=word("who"), info=word("who_info"), elem_id="who")
        consent = gr.Checkbox(label=word("consent"), elem_id="consent")
        gr.Markdown(word("consent_age"), elem_classes="note")
        with gr.Accordion(word("consent_bounds"), open=False, elem_id="consent-bounds"):
            with gr.Row():
                uses = gr.Textbox(label=word("consent_uses"), info=word("consent_uses_info"), elem_id="consent-uses")
                places = gr.Textbox(label=word("consent_places"), info=word("consent_places_info"), elem_id="consent-places")
                until = gr.Textbox(label=word("consent_until"), info=word("consent_until_info"), elem_id="consent-until")
            heirs = gr.Checkbox(label=word("consent_heirs"), elem_id="consent-heirs")
            gr.Markdown(word("consent_film_about"), elem_classes="note")
            ask = gr.Button(word("consent_ask"), size="sm", elem_id="consent-ask")
            sentence = gr.Markdown(elem_id="consent-sentence")
            film = keeping_names(gr.File(label=word("consent_film"), elem_id="consent-film", height=100))
        following = gr.Button(word("next"), variant="primary", size="lg", elem_id="consent-next")
        trainings = gr.Button(word("to_progress"), size="sm", elem_id="to-progress")
    return ConsentCard(person, consent, heirs, uses, places, until, ask, sentence, film, following, trainings)


def _clips_card() -> ClipsCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("upload"))
        clips = keeping_names(gr.File(label=word("clips"), file_count="multiple", elem_id="clips", height=150))
        with gr.Accordion(word("webcam"), open=False, elem_id="webcam-group"):
            webcam = webcam_recorder("webcam")
        words = words_of(*EMOTIONS, "clip_emotions", "clip_natural")
        emotions = scripted("clip_emotions", [], emotions=list(EMOTIONS), words=words, elem_id="clip-emotions")
    return ClipsCard(clips, webcam, emotions)


def _check_card() -> CheckCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("check_about"))
        check = gr.Button(word("check"), elem_id="check", variant="primary")
        report = gr.HTML(elem_id="report")
        look = gr.Radio([], label=word("look"), info=word("look_info"), visible=False, elem_id="look")
        about = gr.Markdown(word("checked_overlay"), elem_classes="note", visible=False)
        picture = {"type": "numpy", "interactive": False, "visible": False, "buttons": [], "show_label": False}
        overlay = gr.Image(label=word("checked_overlay"), elem_id="overlay", **picture)
        following = gr.Button(word("next"), variant="primary", size="lg", visible=False, elem_id="clips-next")
        back = gr.Button(word("back"), size="sm", elem_id="clips-back")
    return CheckCard(check, following, back, report, look, about, overlay)


def _train_card() -> TrainCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("train_about"))
        name = gr.Textbox(label=word("avatar_name"), info=word("avatar_name_info"), elem_id="avatar-name")
        presets = [(word(f"preset_{preset}"), preset) for preset in PRESETS]
        preset = gr.Radio(presets, value="draft", label=word("preset"), info=word("preset_info"), elem_id="preset")
        with gr.Accordion(word("minutes_title"), open=False, elem_id="minutes-group"):
            minutes = gr.Number(0, label=word("minutes"), info=word("minutes_info"), minimum=0, step=0.5, elem_id="minutes")
        estimate = gr.HTML(elem_id="estimate")
        train = gr.Button(word("train"), variant="primary", size="lg", interactive=False, elem_id="train")
        back = gr.Button(word("back"), size="sm", elem_id="train-back")
    return TrainCard(name, preset, minutes, estimate, train, back)


def _progress_card() -> ProgressCard:
    with gr.Column(elem_classes="card"):
        gr.Markdown(word("watch"))
        progress = gr.HTML(elem_id="training", padding=True)
        with gr.Row():
            stop = gr.Button(word("stop_training"), variant="stop", visible=False, elem_id="stop-training")
            sample = gr.Button(word("sample"), visible=False, elem_id="sample")
            finish = gr.Button(word("finish"), visible=False, elem_id="finish")
            resume = gr.Button(word("resume"), visible=False, elem_id="resume-training")
            use = gr.Button(word("create_with_it"), variant="primary", visible=False, elem_id="create-with-it")
            another = gr.Button(word("another"), elem_id="another")
        picture = {"type": "pil", "interactive": False, "visible": False, "buttons": [], "show_label": False}
        strip_about = gr.Markdown(word("truth_beside"), elem_classes="note", visible=False)
        strip = gr.Image(label=word("truth_beside"), elem_id="training-strip", **picture)
        curve_about = gr.Markdown(word("quality_curve"), elem_classes="note", visible=False)
        curve = gr.Image(label=word("quality_curve"), elem_id="training-curve", **picture)
    buttons = stop, sample, finish, resume, use, another
    return ProgressCard(progress, *buttons, strip_about, strip, curve_about, curve)
