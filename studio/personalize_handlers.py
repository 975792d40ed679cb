"""What the controls of the tab Personalize do: the check of the clips, and a training in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from PIL import Image, UnidentifiedImageError

from gmtalker.clock import EMOTIONS
from personalize import jobs
from personalize.consent import Consent
from personalize.progress import TRAINING_CURVE, TRAINING_STRIP
from personalize.request import PRESETS, TrainRequest, size_for
from studio.accounts import in_own_workspace
from studio.avatars import LIKENESS, verdict_of
from studio.components import HIDDEN, PRIVATE, Status, Updates, folded, note, or_sentence, progress_bar, refusal, table
from studio.generation import time_left
from studio.loading import PipelineSource
from studio.personalize import CLIPS, CONSENT, PROGRESS, TRAIN, Checked, PersonalizeTab
from studio.spacefile import Limits
from studio.terms import check_terms
from studio.translations import WORDS, language_of, say

if TYPE_CHECKING:
    from personalize.check import Report

HEAVY = {"concurrency_id": "heavy", "concurrency_limit": 1, **PRIVATE}


@dataclass(frozen=True)
class TrainingView:
    """What is shown of a training.

    html: how far it is.
    job: its id, None for none.
    status: of the job.
    done: the name of the avatar that is ready.
    drawn: when its pictures were drawn, in nanoseconds since 1970; None while there are none.
    """

    html: str
    job: str | None = None
    status: str = ""
    done: str | None = None
    drawn: int | None = None


class PersonalizeHandlers:
    """What the controls do.

    limits: how long a training may be.
    """

    def __init__(self, tab: PersonalizeTab, pipeline: PipelineSource, limits: Limits) -> None:
        self.tab, self.pipeline, self.limits = tab, pipeline, limits

    def list_clips(self, files: list[str] | None) -> Updates:
        """Other clips were uploaded: nothing is checked of them yet, and each gets a row for the emotion it shows."""
        clips, check = self.tab.clips, self.tab.check
        rows = [[Path(file).name, ""] for file in files or []]
        return {
            self.tab.checked: Checked(),
            self.tab.train.train: gr.Button(interactive=False),
            check.report: "",
            check.look: gr.Radio([], value=None, visible=False),
            check.overlay_about: gr.Markdown(visible=False),
            check.overlay: gr.Image(visible=False),
            clips.emotions: rows,
            check.next: gr.Button(visible=False),
            self.tab.steps[TRAIN]: gr.Step(interactive=False),
        }

    def agree(self, visitor: gr.Request, consent: bool, person: str) -> Updates:
        """To the second step, once somebody has agreed."""
        if not consent or not person.strip():
            raise refusal(say(visitor, "consent_before_check"))
        return self._step(CLIPS)

    def _step(self, number: int) -> Updates:
        steps = {} if number == PROGRESS else {self.tab.steps[number]: gr.Step(interactive=True)}
        return steps | {self.tab.path: gr.Walkthrough(selected=number)}

    def to_clips(self) -> Updates:
        """To the second step."""
        return self._step(CLIPS)

    def to_training(self) -> Updates:
        """To the third step."""
        return self._step(TRAIN)

    def to_progress(self) -> Updates:
        """To the fourth step."""
        return self._step(PROGRESS)

    def begin_anew(self) -> Updates:
        """To the first step."""
        return self._step(CONSENT)

    @in_own_workspace
    def open(self, visitor: gr.Request) -> Updates:
        """The last step, when the page is opened while something trains, or waits to be resumed."""
        jobs.refresh()
        return self._step(PROGRESS) if any(job.status != "done" for job in jobs.jobs()) else gr.skip()

    def check(self, visitor: gr.Request, files: list[str] | None, consent: bool, person: str) -> Updates:
        """Check the clips: a report card of each, what the tracker sees, and whether training may begin."""
        if not consent or not person.strip():
            raise refusal(say(visitor, "consent_before_check"))
        if not files:
            raise refusal(say(visitor, "upload_first"))
        pipeline = or_sentence(self.pipeline)
        from personalize.check import check_clips  # late: they need torch
        from personalize.check_sound import synchrony

        reports = list(check_clips([Path(file) for file in files], partial(synchrony, stages=pipeline.stages)))
        cards = []
        for report in reports:
            title = f"<h4>{escape(report.clip)}</h4>" if len(files) > 1 else ""
            cards.append(title + _report_card(visitor, report))
        usable = not any(report.failed for report in reports)
        verdict = progress_bar(say(visitor, "ready" if usable else "please_fix"), failed=not usable)  # first, and plain to see
        lengths = sum(report.seconds for report in reports), sum(report.reading_seconds for report in reports)
        height = max((report.face_height for report in reports), default=0.0)
        pictures = [report.overlay for report in reports if report.overlay is not None]
        alike = [picture for picture in pictures if picture.shape == pictures[0].shape]
        return {
            self.tab.check.report: verdict + "".join(cards),
            self.tab.check.look: _looks(reports) if usable else gr.Radio([], value=None, visible=False),
            self.tab.check.overlay_about: gr.Markdown(visible=bool(pictures)),
            self.tab.check.overlay: gr.Image(np.concatenate(alike), visible=True) if alike else gr.Image(visible=False),
            self.tab.checked: Checked(tuple(files), *lengths, height) if usable else Checked(),
            self.tab.train.train: gr.Button(interactive=usable),
            self.tab.check.next: gr.Button(visible=usable),
            self.tab.steps[TRAIN]: gr.Step(interactive=usable),
        }

    def estimate(self, visitor: gr.Request, checked: Checked, preset: str, minutes: float | None) -> str:
        """What the training will take on this machine, once the clips are known."""
        if not checked.clips:
            return ""
        sizes = [Path(clip).stat().st_size for clip in checked.clips if Path(clip).is_file()]
        taken = minutes or PRESETS[preset]
        size = size_for(checked.face_height, taken)
        needed = jobs.estimate(taken, checked.seconds, checked.reading_seconds, sum(sizes), size)
        disk = {"disk": needed.disk / 2**20, "free": jobs.free_disk() / 2**30}
        told = note(say(visitor, "estimate", minutes=max(1.0, needed.minutes), memory=needed.memory / 2**30, **disk))
        return told + (note(say(visitor, "machine_busy")) if needed.busy else "")

    @in_own_workspace
    def train(self, visitor: gr.Request, checked: Checked, clips: list[str] | None, **settings: object) -> None:
        """Put a training in the queue.

        clips: the files that are uploaded now.
        settings: person, consent and its bounds (ConsentCard), emotions (rows of the table beside the clips), look (number of a
            clip, or None), name, preset, minutes.
        """
        check_terms(visitor)
        person, preset, minutes = str(settings["person"]), settings["preset"], settings["minutes"] or None
        if not settings["consent"] or not person.strip():
            raise refusal(say(visitor, "consent_missing"))
        if not clips or tuple(clips) != checked.clips:
            raise refusal(say(visitor, "check_first"))
        if not str(settings["name"]).strip():
            raise refusal(say(visitor, "name_first"))
        if (minutes or PRESETS[preset]) > self.limits.training_minutes:
            raise refusal(say(visitor, "training_too_long", minutes=self.limits.training_minutes))
        emotions = or_sentence(emotions_of, clips, settings["emotions"])
        paths = [Path(clip) for clip in clips]
        consent = or_sentence(_consent, visitor, settings, paths[0])
        look = None if settings["look"] is None else or_sentence(lambda: paths[int(settings["look"])])
        request = or_sentence(TrainRequest, settings["name"], paths, consent, preset, minutes, emotions, look=look)
        or_sentence(jobs.start, request, keep_clips=True)

    @in_own_workspace
    def ask(self, visitor: gr.Request) -> str:
        """The sentence for a film of the consent."""
        self.pipeline()
        from personalize.proof import ask  # late: it needs torch

        return f"> {ask()}"

    @in_own_workspace
    def watch(self, visitor: gr.Request, shown: TrainingView | None) -> Updates:
        """Show the training that matters most now, if anything about it has changed since `shown`."""
        jobs.refresh()
        job, waiting = _current()
        if job is None:
            view, pictures = TrainingView(note(say(visitor, "nothing_trains"))), (None, None)
        else:
            pictures = (job.work / TRAINING_STRIP, job.work / TRAINING_CURVE)
            view = _view(visitor, job, waiting, pictures[0])
        if view == shown:
            return gr.skip()
        card, running = self.tab.progress, view.status == "running" and view.drawn is not None
        updates = {
            card.progress: view.html,
            card.stop: gr.Button(visible=view.status in jobs.OPEN),
            card.sample: gr.Button(visible=running),
            card.finish: gr.Button(visible=running),
            card.resume: gr.Button(visible=view.status in ("stopped", "failed")),
            card.use: gr.Button(visible=view.status == "done"),
            card.strip_about: gr.Markdown(visible=view.drawn is not None),
            card.curve_about: gr.Markdown(visible=view.drawn is not None),
            self.tab.job: view.job,
            self.tab.done: view.done,
            self.tab.shown: view,
        }
        if shown is None or shown.drawn != view.drawn:
            updates |= {component: _picture(path) for component, path in zip((card.strip, card.curve), pictures)}
        return updates


def _consent(visitor: gr.Request, settings: Mapping[str, object], clip: Path) -> Consent:
    """The consent as the card has it. Errors: ValueError for its bounds, UnusableInput for a film that proves nothing."""
    words = f"{say(visitor, 'consent')} {say(visitor, 'consent_heirs' if settings['heirs'] else 'consent_adult')}"
    bounds = {name: str(settings[name] or "") for name in ("uses", "places", "until")}
    consent = Consent.given_now(str(settings["person"]), words, **bounds)
    if not settings["film"]:
        return consent
    from personalize.proof import proved  # late: it needs torch

    return proved(consent, Path(str(settings["film"])), clip, str(settings["name"]))


def _looks(reports: Sequence[Report]) -> gr.Radio:
    """Which clip's room, clothes and light the avatar gets, where the clips show more than one."""
    from personalize.looks import first_clips, longest_look, looks_of  # late, as the check

    looks = looks_of([report.look for report in reports if report.look is not None])
    if len(looks) < len(reports) or not looks.any():
        return gr.Radio([], value=None, visible=False)
    firsts = first_clips(looks)
    longest = firsts[longest_look(looks, [report.seconds for report in reports])]
    return gr.Radio([(reports[first].clip, first) for first in firsts], value=longest, visible=True)


def emotions_of(files: Sequence[str], rows: Sequence[Sequence[str]] | None) -> dict[Path, str]:
    """The emotion of each clip that shows one.

    rows: of the table beside the clips, (name, emotion or nothing).
    Errors: ValueError for what is no emotion.
    """
    emotions = {}
    for file, row in zip(files, rows or []):
        label = str(row[1] or "").strip().lower()
        if label and label not in EMOTIONS:
            raise ValueError(f"There is no emotion {label!r}; write one of {', '.join(EMOTIONS)}, or nothing")
        if label:
            emotions[Path(file)] = label
    return emotions


def _report_card(visitor: gr.Request, report: Report) -> str:
    """What is bad in a clip, and folded what is good."""
    if report.error:
        return _lines(visitor, [("readable", "fail", report.error)])
    lines = [(line.name, line.status, ". ".join(filter(None, (line.value, line.advice)))) for line in report.lines]
    bad, good = [line for line in lines if line[1] != "pass"], [line for line in lines if line[1] == "pass"]
    fine = folded(say(visitor, "fine", count=len(good)), _lines(visitor, good)) if good else ""
    return (_lines(visitor, bad) if bad else "") + fine


def _lines(visitor: gr.Request, lines: Sequence[tuple[str, str, str]]) -> str:
    """Lines of the report card, (what, status, found), as a table."""
    rows = [(name, Status(status, say(visitor, status)), found) for name, status, found in lines]
    return table((say(visitor, "what"), "", say(visitor, "found")), rows)


def _current() -> tuple[jobs.Job | None, list[jobs.Job]]:
    """The training that matters most now, and those that wait."""
    everything = jobs.jobs()
    running = [job for job in everything if job.status == "running"]
    waiting = [job for job in everything if job.status == "queued"]
    current = next(iter(running or waiting or everything[-1:]), None)
    return current, [job for job in waiting if job is not current or not running]


def _view(visitor: gr.Request, job: jobs.Job, waiting: Sequence[jobs.Job], strip: Path) -> TrainingView:
    failed = job.status == "failed"
    html = progress_bar(f"{job.name}: {_summary(visitor, job)}", None if failed else job.percent, failed)
    if job.status == "running" and isinstance(job.quality, dict) and job.quality.get("enough"):
        html += note(say(visitor, "good_enough"))
    html += "".join(note(say(visitor, "waiting", name=other.name, position=jobs.position(other))) for other in waiting)
    drawn = strip.stat().st_mtime_ns if strip.is_file() else None
    return TrainingView(html, job.id, job.status, job.name if job.status == "done" else None, drawn)


def _summary(visitor: gr.Request, job: jobs.Job) -> str:
    """One line on a training; what went wrong stays in the program's words."""
    if job.status != "running":
        message = "" if job.message == jobs.STOPPED else job.message
        return f"{say(visitor, f'job_{job.status}')} {message}".strip()
    stage = say(visitor, job.stage) if job.stage in WORDS[language_of(visitor)] else job.stage
    parts = [f"{stage[:1].upper()}{stage[1:]}, {job.percent:.0f} %"]
    if job.seconds_left is not None:
        parts.append(time_left(job.seconds_left, visitor))
    if isinstance(job.quality, dict):
        verdict = verdict_of(job.quality["psnr"], *LIKENESS)
        parts.append(say(visitor, "job_quality", verdict=say(visitor, f"verdict_{verdict}"), psnr=job.quality["psnr"]))
    return " · ".join(part for part in [*parts, job.message] if part)


def _picture(path: Path | None) -> gr.Image:
    if path is None:
        return gr.Image(visible=False)
    try:
        with Image.open(path, formats=["JPEG", "PNG"]) as picture:
            return gr.Image(picture.convert("RGB"), visible=True)
    except (OSError, UnidentifiedImageError):
        return gr.Image(visible=False)


def _on_job(action: Callable[[jobs.Job], object], told: str | None = None) -> Callable[[gr.Request, str], None]:
    """A handler that does something with the training that is shown. told: key of what is said of it."""

    @in_own_workspace
    def handler(visitor: gr.Request, identifier: str) -> None:
        or_sentence(lambda: action(jobs.get(identifier)))
        if told is not None:
            gr.Info(say(visitor, told))

    return handler


def connect_personalize(tab: PersonalizeTab, pipeline: PipelineSource, limits: Limits, page: gr.Blocks) -> None:
    """Connect the tab's controls."""
    handlers = PersonalizeHandlers(tab, pipeline, limits)
    _connect_clips(tab, handlers)
    _connect_training(tab, handlers, page)


def _connect_clips(tab: PersonalizeTab, handlers: PersonalizeHandlers) -> None:
    """The first two steps."""
    clips, check, train, progress = tab.clips, tab.check, tab.train, tab.progress
    card = [check.report, check.look, check.overlay_about, check.overlay]
    steps = [tab.path, *tab.steps.values()]
    listed = [tab.checked, train.train, *card, clips.emotions, check.next, tab.steps[TRAIN]]
    clips.clips.change(handlers.list_clips, clips.clips, listed, queue=False, **PRIVATE)
    films = [clips.clips, clips.webcam]
    clips.webcam.stop_recording(lambda files, film: [*(files or []), film], films, clips.clips, **HIDDEN)
    found = [*card, tab.checked, train.train, check.next, tab.steps[TRAIN]]
    agreed = tab.consent
    check.check.click(handlers.check, [clips.clips, agreed.consent, agreed.person], found, **HEAVY)
    agreed.ask.click(handlers.ask, None, agreed.sentence, **HIDDEN)
    agreed.next.click(handlers.agree, [agreed.consent, agreed.person], steps, **HIDDEN)
    agreed.trainings.click(handlers.to_progress, None, steps, **HIDDEN)
    check.next.click(handlers.to_training, None, steps, **HIDDEN)
    for button in (progress.another, check.back):
        button.click(handlers.begin_anew, None, steps, **HIDDEN)
    train.back.click(handlers.to_clips, None, steps, **HIDDEN)
    estimated = [tab.checked, train.preset, train.minutes]
    gr.on([part.change for part in estimated], handlers.estimate, estimated, train.estimate, **HIDDEN)


def _connect_training(tab: PersonalizeTab, handlers: PersonalizeHandlers, page: gr.Blocks) -> None:
    """The last two steps."""
    agreed, train, progress, steps = tab.consent, tab.train, tab.progress, [tab.path, *tab.steps.values()]
    buttons = [progress.stop, progress.sample, progress.finish, progress.resume, progress.use]
    pictures = [progress.strip_about, progress.strip, progress.curve_about, progress.curve]
    outputs = [progress.progress, *buttons, *pictures, tab.job, tab.done, tab.shown]
    watch = {"fn": handlers.watch, "inputs": tab.shown, "outputs": outputs, **HIDDEN}
    settings = {
        **{part: getattr(agreed, part) for part in ("person", "consent", "heirs", "uses", "places", "until", "film")},
        "emotions": tab.clips.emotions,
        "look": tab.check.look,
        "name": train.name,
        "preset": train.preset,
        "minutes": train.minutes,
    }
    started = train.train.click(handlers.train, [tab.checked, tab.clips.clips], None, inputs_kwargs=settings, **PRIVATE)
    started.success(**watch)
    started.success(handlers.to_progress, None, steps, **HIDDEN)
    page.load(handlers.open, None, steps, **HIDDEN)
    gr.Timer(1).tick(concurrency_limit=4, **watch)
    progress.stop.click(_on_job(jobs.stop), tab.job, None, **PRIVATE).then(**watch)
    progress.sample.click(_on_job(jobs.ask_sample), tab.job, None, **PRIVATE)
    progress.finish.click(_on_job(jobs.ask_finish, "finishing"), tab.job, None, **PRIVATE)
    progress.resume.click(_on_job(jobs.resume), tab.job, None, **PRIVATE).then(**watch)
