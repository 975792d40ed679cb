"""The tab where a person's clips become an avatar, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from gmtalker.errors import UnusableInput
from personalize import jobs
from personalize.check import check_clip
from personalize.consent import CONSENT_WORDS, Consent
from studio.look import note, progress_bar, refusal, table

GUIDE = """### 1 · Film yourself, and agree
* One to three minutes of talking, one person, head and shoulders, looking at the camera.
* Light from the front, a calm background, the camera on a table; talk as you do with a friend, with your moods.
* A phone or a webcam is good enough, upright or sideways, in one clip or several."""
PROMISES = {"draft": "a first look", "standard": "for every day", "high": "the sharpest picture"}
PRESETS = [
    (f"{preset.capitalize()}: {PROMISES[preset]}, {minutes:g} minutes of training", preset)
    for preset, minutes in jobs.PRESETS.items()
]
NOTHING_TRAINS = note("No training yet. You may close this page while one runs: it goes on, and is shown here again.")


@dataclass(frozen=True)
class PersonalizeTab:
    """What other tabs follow: the name of the avatar that is done, and the button that takes it to the stage."""

    done: gr.State
    create_with_it: gr.Button


def personalize_tab() -> PersonalizeTab:
    """Lay the tab out."""
    private = {"api_visibility": "private"}
    checked = gr.State([])  # the clips that passed
    with gr.Row():
        with gr.Column(scale=3):
            with gr.Column(elem_classes="card"):
                gr.Markdown(GUIDE)
                who = gr.Textbox(label="Who is in the clips", info="The name of the person who agrees.", elem_id="who")
                agreed = gr.Checkbox(label=CONSENT_WORDS, elem_id="consent")
            with gr.Column(elem_classes="card"):
                gr.Markdown("### 2 · Upload")
                clips = gr.File(
                    label="One clip or several, of one person",
                    file_count="multiple",
                    file_types=["video"],
                    elem_id="clips",
                    height=150,
                )
            with gr.Column(elem_classes="card"):
                gr.Markdown("### 3 · Check\nIs one face well in view, sharp, large enough? Half a minute tells.")
                check = gr.Button("Check the clips", elem_id="check")
                report = gr.HTML(elem_id="report")
        with gr.Column(scale=2, elem_classes="stage"):
            with gr.Column(elem_classes="card"):
                gr.Markdown("### 4 · Train")
                name = gr.Textbox(label="Name of the avatar", info="How you find it again.", elem_id="avatar-name")
                preset = gr.Radio(PRESETS, value="draft", label="How well", info="More time, more likeness.", elem_id="preset")
                minutes = gr.Number(
                    0,
                    label="Minutes",
                    info="0 means the preset's own time.",
                    minimum=0,
                    step=0.5,
                    elem_id="minutes",
                )
                train = gr.Button("Train", variant="primary", size="lg", interactive=False, elem_id="train")
            with gr.Column(elem_classes="card"):
                gr.Markdown("### 5 · Watch")
                progress = gr.HTML(NOTHING_TRAINS, elem_id="training", padding=True)
                with gr.Row():
                    stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop-training")
                    resume = gr.Button("Resume", visible=False, elem_id="resume-training")
                    create_with_it = gr.Button("Create with it", variant="primary", visible=False, elem_id="create-with-it")
    job, done, seen = gr.State(None), gr.State(None), gr.State(None)

    def begin(files: list[str] | None, passed: list[str], agreed: bool, who: str, name: str, preset: str, minutes: float | None):
        if not agreed or not who.strip():
            raise refusal("Write whose face it is and tick the box: nobody is made into an avatar without consent.")
        if not files or files != passed:
            raise refusal("Check the clips first.")
        try:
            consent = Consent.given_now(who)
            jobs.start(name, [Path(clip) for clip in passed], consent, preset, minutes or None, keep_clips=True)
        except (UnusableInput, ValueError) as error:
            raise refusal(str(error)) from error

    gr.on([clips.change], lambda: ([], gr.Button(interactive=False), ""), None, [checked, train, report], queue=False, **private)
    check.click(_check, [clips, agreed, who], [report, checked, train], concurrency_id="heavy", concurrency_limit=1, **private)
    watched = {"outputs": [progress, stop, resume, create_with_it, job, done, seen], "show_progress": "hidden", **private}
    train.click(begin, [clips, checked, agreed, who, name, preset, minutes], None, **private).success(_watch, seen, **watched)
    gr.Timer(1).tick(_watch, seen, concurrency_limit=4, **watched)
    stop.click(_told(jobs.stop), job, None, **private).then(_watch, seen, **watched)
    resume.click(_told(jobs.resume), job, None, **private).then(_watch, seen, **watched)
    return PersonalizeTab(done, create_with_it)


def _check(files: list[str] | None, agreed: bool, who: str):
    """The report card as HTML, the clips that passed, and whether training may begin."""
    if not agreed or not who.strip():
        raise refusal("Write whose face it is and tick the box first.")
    if not files:
        raise refusal("Upload a clip first.")
    rows, usable = [], True
    for clip in map(Path, files):
        try:
            found = check_clip(clip)
        except UnusableInput as error:
            rows.append((clip.name, "readable", "fail", str(error)))
            usable = False
            continue
        usable = usable and not found.failed
        for line in found.lines:
            rows.append((clip.name, line.name, line.status, f"{line.value}. {line.advice}" if line.advice else line.value))
    if len(files) == 1:
        card = table(("what", "", "found"), [row[1:] for row in rows])
    else:
        card = table(("clip", "what", "", "found"), rows)
    verdict = note("Ready to train." if usable else "Please fix what is marked, and upload again.")
    return card + verdict, files if usable else [], gr.Button(interactive=usable)


def _watch(seen: tuple | None):
    """The job that matters most now, if anything about it has changed since it was `seen`."""
    jobs.refresh()
    job, waiting = _current()
    if job is None:
        view = (NOTHING_TRAINS, False, False, False, None, None)
    else:
        text = f"{job.name}: {job.summary()}"
        html = progress_bar(text, job.percent if job.status != "failed" else None)
        if waiting:
            html += note(f"Waiting: {', '.join(waiting)}")
        resumable = job.status in ("stopped", "failed")
        view = (
            html,
            job.status in jobs.OPEN,
            resumable,
            job.status == "done",
            job.id,
            job.name if job.status == "done" else None,
        )
    if view == seen:
        return [gr.skip()] * 7
    html, stoppable, resumable, ready, identifier, done = view
    return [
        html, gr.Button(visible=stoppable), gr.Button(visible=resumable), gr.Button(visible=ready), identifier, done, view,
    ]  # fmt: skip


def _current() -> tuple[jobs.Job | None, list[str]]:
    everything = jobs.jobs()
    running = [job for job in everything if job.status == "running"]
    waiting = [job for job in everything if job.status == "queued"]
    current = next(iter(running or waiting or everything[-1:]), None)
    return current, [job.name for job in waiting if job is not current]


def _told(action: Callable[[jobs.Job], jobs.Job]) -> Callable[[str], None]:
    def act(identifier: str) -> None:
        try:
            action(jobs.get(identifier))
        except UnusableInput as error:
            raise refusal(str(error)) from error

    return act
