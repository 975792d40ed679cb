"""The tab where a person's clips become an avatar, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image, UnidentifiedImageError

from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.pipeline import GMTalkerPipeline
from personalize import jobs
from personalize.check import Report, check_clip
from personalize.consent import Consent
from personalize.progress import TRAINING_CURVE, TRAINING_STRIP
from studio.accounts import of_reader
from studio.avatars import portraits
from studio.components import Status, folded, note, or_sentence, progress_bar, refusal, table
from studio.spacefile import Limits
from studio.translations import WORDS, language_of, say, word

NOT_MIRRORED = gr.WebcamOptions(mirror=False)  # an avatar must not part its hair on the other side


@dataclass(frozen=True)
class PersonalizeTab:
    """What other tabs follow: the name of the avatar that is done, and the button that takes it to the stage."""

    done: gr.State
    create_with_it: gr.Button


@dataclass(frozen=True)
class _Checked:
    """What the check found: the clips, whether they can be trained on, and how long their reading takes on this machine."""

    clips: tuple[str, ...] = ()
    seconds: float = 0.0
    reading_seconds: float = 0.0


def personalize_tab(pipeline: GMTalkerPipeline, limits: Limits) -> PersonalizeTab:
    """Lay the tab out."""
    private = {"api_visibility": "private"}
    hidden = {"show_progress": "hidden", **private}
    checked = gr.State(_Checked())
    with gr.Row():
        with gr.Column(scale=3):
            with gr.Column(elem_classes="card"):
                with gr.Row():
                    with gr.Column(scale=3, min_width=240):
                        gr.Markdown(word("guide"))
                    with gr.Column(scale=1, min_width=140):
                        example = portraits()[0][0]  # the bundled avatar's
                        still = {"show_label": False, "interactive": False, "buttons": [], "height": 140}
                        gr.Image(example, label=word("guide_example"), elem_id="guide-example", **still)
                        gr.Markdown(word("guide_example"), elem_classes="note")
                who = gr.Textbox(label=word("who"), info=word("who_info"), elem_id="who")
                agreed = gr.Checkbox(label=word("consent"), elem_id="consent")
            with gr.Column(elem_classes="card"):
                gr.Markdown(word("upload"))
                clips = gr.File(
                    label=word("clips"), file_count="multiple", file_types=["video"], elem_id="clips", height=150
                )  # fmt: skip
                with gr.Accordion(word("webcam"), open=False, elem_id="webcam-group"):
                    filmed = gr.Video(
                        label=word("webcam"),
                        sources=["webcam"],
                        include_audio=True,  # a film alone would lose its sound, and need an ffmpeg that may not be there
                        webcam_options=NOT_MIRRORED,
                        elem_id="webcam",
                    )
                shows = gr.Dataframe(
                    [],
                    headers=["clip", "emotion"],
                    datatype="str",
                    type="array",
                    interactive=True,
                    static_columns=[0],
                    row_count=(0, "dynamic"),
                    column_count=(2, "fixed"),
                    label=word("clip_emotions"),
                    elem_id="clip-emotions",
                    visible=False,
                    buttons=[],
                )
                shows_info = gr.Markdown(word("clip_emotions_info"), elem_classes="note", visible=False)
            with gr.Column(elem_classes="card"):
                gr.Markdown(word("check_about"))
                check = gr.Button(word("check"), elem_id="check")
                report = gr.HTML(elem_id="report")
                overlay_about = gr.Markdown(word("checked_overlay"), elem_classes="note", visible=False)
                overlay = gr.Image(
                    label=word("checked_overlay"), show_label=False, type="numpy", interactive=False, visible=False, buttons=[],
                    elem_id="overlay",
                )  # fmt: skip
        with gr.Column(scale=2, elem_classes="stage"):
            with gr.Column(elem_classes="card"):
                gr.Markdown(word("train_about"))
                name = gr.Textbox(label=word("avatar_name"), info=word("avatar_name_info"), elem_id="avatar-name")
                preset = gr.Radio(
                    [(word(f"preset_{preset}"), preset) for preset in jobs.PRESETS],
                    value="draft",
                    label=word("preset"),
                    info=word("preset_info"),
                    elem_id="preset",
                )
                minutes = gr.Number(
                    0, label=word("minutes"), info=word("minutes_info"), minimum=0, step=0.5, elem_id="minutes"
                )  # fmt: skip
                estimate = gr.HTML(elem_id="estimate")
                train = gr.Button(word("train"), variant="primary", size="lg", interactive=False, elem_id="train")
            with gr.Column(elem_classes="card"):
                gr.Markdown(word("watch"))
                progress = gr.HTML(elem_id="training", padding=True)
                with gr.Row():
                    stop = gr.Button(word("stop_training"), variant="stop", visible=False, elem_id="stop-training")
                    sample = gr.Button(word("sample"), visible=False, elem_id="sample")
                    finish = gr.Button(word("finish"), visible=False, elem_id="finish")
                    resume = gr.Button(word("resume"), visible=False, elem_id="resume-training")
                    create_with_it = gr.Button(word("create_with_it"), variant="primary", visible=False, elem_id="create-with-it")
                shown = {"type": "pil", "interactive": False, "visible": False, "buttons": []}
                about = gr.Markdown(word("truth_beside"), elem_classes="note", visible=False)
                strip = gr.Image(label=word("truth_beside"), show_label=False, elem_id="training-strip", **shown)
                curve_about = gr.Markdown(word("quality_curve"), elem_classes="note", visible=False)
                curve = gr.Image(label=word("quality_curve"), show_label=False, elem_id="training-curve", **shown)
    job, done, seen = gr.State(None), gr.State(None), gr.State(None)

    @of_reader
    def begin(
        request: gr.Request,
        files: list[str] | None,
        shows: list[list[str]],
        passed: _Checked,
        agreed: bool,
        who: str,
        name: str,
        preset: str,
        minutes: float | None,
    ) -> None:
        if not agreed or not who.strip():
            raise refusal(say(request, "consent_missing"))
        if not files or tuple(files) != passed.clips:
            raise refusal(say(request, "check_first"))
        if not name.strip():
            raise refusal(say(request, "name_first"))
        if (minutes or jobs.PRESETS[preset]) > limits.training_minutes:
            raise refusal(say(request, "training_too_long", minutes=limits.training_minutes))
        emotions = or_sentence(_emotions_of, files, shows)
        consent = or_sentence(Consent.given_now, who, say(request, "consent"))
        paths = [Path(clip) for clip in passed.clips]
        or_sentence(jobs.start, name, paths, consent, preset, minutes or None, emotions, keep_clips=True)

    def listed(files: list[str] | None) -> tuple:
        """Other clips: nothing is checked of them yet; a row for each to say what it shows."""
        rows, some = [[Path(file).name, ""] for file in files or []], bool(files)
        forgotten = (_Checked(), gr.Button(interactive=False), "", gr.Markdown(visible=False), gr.Image(visible=False))
        return *forgotten, gr.Dataframe(rows, visible=some), gr.Markdown(visible=some)

    card = [report, overlay_about, overlay]
    gr.on([clips.change], listed, clips, [checked, train, *card, shows, shows_info], queue=False, **private)
    filmed.stop_recording(lambda files, film: [*(files or []), film], [clips, filmed], clips, **hidden)

    def looked_at(request: gr.Request, files: list[str] | None, agreed: bool, who: str):
        return _check(pipeline, request, files, agreed, who)

    heavy = {"concurrency_id": "heavy", "concurrency_limit": 1, **private}
    check.click(looked_at, [clips, agreed, who], [*card, checked, train], **heavy)
    gr.on([checked.change, preset.change, minutes.change], _estimate, [checked, preset, minutes], estimate, **hidden)
    buttons = [stop, sample, finish, resume, create_with_it]
    watched = {"outputs": [progress, *buttons, strip, curve, about, curve_about, job, done, seen], **hidden}
    asked = [clips, shows, checked, agreed, who, name, preset, minutes]
    train.click(begin, asked, None, **private).success(_watch, seen, **watched)
    gr.Timer(1).tick(_watch, seen, concurrency_limit=4, **watched)
    stop.click(_told(jobs.stop), job, None, **private).then(_watch, seen, **watched)
    sample.click(_told(jobs.ask_sample), job, None, **private)
    finish.click(_told(jobs.ask_finish), job, None, **private)
    resume.click(_told(jobs.resume), job, None, **private).then(_watch, seen, **watched)
    return PersonalizeTab(done, create_with_it)


def _emotions_of(files: list[str], shows: list[list[str]]) -> dict[Path, str]:
    """Clip -> emotion, as typed beside the clips. Errors: ValueError for what is no emotion."""
    emotions = {}
    for file, row in zip(files, shows or []):
        label = str(row[1] or "").strip().lower()
        if label and label not in EMOTIONS:
            raise ValueError(f"There is no emotion {label!r}; write one of {', '.join(EMOTIONS)}, or nothing")
        if label:
            emotions[Path(file)] = label
    return emotions


def _check(pipeline: GMTalkerPipeline, request: gr.Request, files: list[str] | None, agreed: bool, who: str):
    """The report card as HTML, what the tracker sees, what was checked, and whether training may begin."""
    if not agreed or not who.strip():
        raise refusal(say(request, "consent_before_check"))
    if not files:
        raise refusal(say(request, "upload_first"))
    cards, usable, reports = [], True, []
    for clip in map(Path, files):
        title = f"<h4>{escape(clip.name)}</h4>" if len(files) > 1 else ""
        try:
            found = check_clip(clip, pipeline=pipeline)
        except UnusableInput as error:
            cards.append(title + _lines(request, [("readable", "fail", str(error))]))
            usable = False
            continue
        usable = usable and not found.failed
        reports.append(found)
        said = [(line.name, line.status, ". ".join(filter(None, (line.value, line.advice)))) for line in found.lines]
        bad, good = [line for line in said if line[1] != "pass"], [line for line in said if line[1] == "pass"]
        fine = folded(say(request, "fine", count=len(good)), _lines(request, good)) if good else ""
        cards.append(title + (_lines(request, bad) if bad else "") + fine)
    verdict = progress_bar(say(request, "ready" if usable else "please_fix"), failed=not usable)  # first, and plain to see
    passed = _Checked(tuple(files), *_lengths(reports)) if usable else _Checked()
    seen = [found.overlay for found in reports if found.overlay is not None]
    alike = [part for part in seen if part.shape == seen[0].shape]
    overlay = gr.Image(np.concatenate(alike), visible=True) if seen else gr.Image(visible=False)
    return verdict + "".join(cards), gr.Markdown(visible=bool(seen)), overlay, passed, gr.Button(interactive=usable)


def _lines(request: gr.Request, lines: Sequence[tuple[str, str, str]]) -> str:
    """Lines of the report card, (what, status, found), as a table."""
    rows = [(name, Status(status, say(request, status)), found) for name, status, found in lines]
    return table((say(request, "what"), "", say(request, "found")), rows)


def _lengths(reports: list[Report]) -> tuple[float, float]:
    return sum(report.seconds for report in reports), sum(report.reading_seconds for report in reports)


def _estimate(request: gr.Request, checked: _Checked, preset: str, minutes: float | None) -> str:
    """What the training will take on this machine, once the clips are known."""
    if not checked.clips:
        return ""
    sizes = [Path(clip).stat().st_size for clip in checked.clips if Path(clip).is_file()]
    needed = jobs.estimate(minutes or jobs.PRESETS[preset], checked.seconds, checked.reading_seconds, sum(sizes))
    return note(
        say(
            request,
            "estimate",
            minutes=max(1.0, needed.minutes),
            disk=needed.disk / 2**20,
            free=jobs.free_disk() / 2**30,
            memory=needed.memory / 2**30,
        )
    )


@of_reader
def _watch(request: gr.Request, seen: tuple | None):
    """The job that matters most now, if anything about it has changed since it was `seen`."""
    jobs.refresh()
    job, waiting = _current()
    if job is None:
        view = (note(say(request, "nothing_trains")), False, False, False, False, None, None, None)
        pictures = (None, None)
    else:
        text = f"{job.name}: {_summary(job, request)}"
        html = progress_bar(text, job.percent if job.status != "failed" else None, failed=job.status == "failed")
        if job.status == "running" and isinstance(job.quality, dict) and job.quality.get("enough"):
            html += note(say(request, "good_enough"))
        if waiting:
            html += "".join(note(say(request, "waiting", name=other.name, position=jobs.position(other))) for other in waiting)
        strip, curve = job.work / TRAINING_STRIP, job.work / TRAINING_CURVE
        drawn = strip.stat().st_mtime_ns if strip.is_file() else None
        view = (
            html,
            job.status in jobs.OPEN,
            job.status == "running" and drawn is not None,
            job.status in ("stopped", "failed"),
            job.status == "done",
            job.id,
            job.name if job.status == "done" else None,
            drawn,
        )
        pictures = (strip, curve)
    if view == seen:
        return [gr.skip()] * 13
    html, stoppable, showable, resumable, ready, identifier, done, drawn = view
    new = seen is None or seen[-1] != drawn
    images = [_picture(path) if new else gr.skip() for path in pictures]
    return [
        html, *[gr.Button(visible=shown) for shown in (stoppable, showable, showable, resumable, ready)],
        *images, *[gr.Markdown(visible=drawn is not None)] * 2, identifier, done, view,
    ]  # fmt: skip


def _summary(job: jobs.Job, request: gr.Request) -> str:
    """As Job.summary, in the reader's language; what went wrong stays in the program's words."""
    if language_of(request) == "en":
        return job.summary()
    if job.status != "running":
        return f"{say(request, f'job_{job.status}')} {job.message}".strip()
    stage = say(request, job.stage) if job.stage in WORDS else job.stage
    parts = [f"{stage} {job.percent:.0f} %"]
    if job.seconds_left is not None:
        parts.append(say(request, "minutes_left", minutes=job.seconds_left / 60))
    if isinstance(job.quality, dict):
        parts.append(say(request, "job_quality", psnr=job.quality["psnr"]))
    return " · ".join(part for part in [*parts, job.message] if part)


def _picture(path: Path | None) -> gr.Image:
    if path is None:
        return gr.Image(visible=False)
    try:
        with Image.open(path, formats=["JPEG", "PNG"]) as picture:
            return gr.Image(picture.convert("RGB"), visible=True)
    except (OSError, UnidentifiedImageError):
        return gr.Image(visible=False)


def _current() -> tuple[jobs.Job | None, list[jobs.Job]]:
    everything = jobs.jobs()
    running = [job for job in everything if job.status == "running"]
    waiting = [job for job in everything if job.status == "queued"]
    current = next(iter(running or waiting or everything[-1:]), None)
    return current, [job for job in waiting if job is not current or not running]


def _told(action: Callable[[jobs.Job], object]) -> Callable[[gr.Request, str], None]:
    @of_reader
    def act(request: gr.Request, identifier: str) -> None:
        or_sentence(lambda: action(jobs.get(identifier)))

    return act
