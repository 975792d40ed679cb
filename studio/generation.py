"""Making videos for the page: in a thread, with progress, watched while they grow, stopped when their visitor stops them."""

from __future__ import annotations

import contextvars
import ctypes
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from gmtalker.clock import SAMPLE_RATE
from gmtalker.emotion_words import TAG
from gmtalker.errors import UnusableInput
from gmtalker.files import temporary_folder
from gmtalker.media.side_by_side import side_by_side
from gmtalker.progress import OnProgress, Progress, Stopped
from studio.components import progress_bar, refusal, told, without_places
from studio.live_video import LiveVideos, player
from studio.translations import say

if TYPE_CHECKING:
    from gmtalker.pipeline import GMTalkerPipeline
    from gmtalker.request import SpeakRequest

DRAWING_STARTS = 15  # per cent of the bar, by the usual share of the work
TAKES, TAKE_SECONDS = 3, 4.0
POLL_SECONDS = 0.2
NAME_LETTERS = 40  # of a video's file
M_ARENA_MAX = -8  # of mallopt, in malloc.h


class Stops:
    """Work in progress by page session, so that Stop ends a visitor's own and no other."""

    def __init__(self) -> None:
        self._stops: dict[str, threading.Event] = {}

    def begin(self, session: str) -> threading.Event:
        """From now on Stop ends this, also while it waits for its turn."""
        self._stops[session] = threading.Event()
        return self._stops[session]

    def of(self, session: str) -> threading.Event:
        """What begin made; for a caller without a page, who has no Stop, a new one."""
        return self._stops.get(session) or threading.Event()

    def stop(self, session: str) -> None:
        """End the work of a session, if there is any."""
        if session in self._stops:
            self._stops[session].set()

    def end(self, session: str) -> None:
        """The work of a session has ended."""
        self._stops.pop(session, None)


def generate_video(
    speak: Callable[..., Path], request: SpeakRequest, stopping: threading.Event, live: LiveVideos, visitor: gr.Request
) -> Iterator[tuple[str, str, str | None]]:
    """Make the video of a request.

    speak: of zero_gpu.speaker.
    stopping: set by whoever wants it to end.
    Yields: progress as HTML, a player of what there is by then as HTML, and the video's file or None.
    Errors: gr.Error for what can't be used.
    """
    with temporary_folder() as folder:
        output = folder / f"{file_name(request)}{request.output.file.suffix}"
        growing = folder / "growing.mp4"
        name, state = live.open(growing)
        start, playing = time.monotonic(), ""

        def work(on_progress: OnProgress) -> Path:
            try:
                return speak(request, output, on_progress, stopping.is_set, live=growing)
            finally:
                state.finished = True

        try:
            for (text, percent), video in _in_a_thread(work, stopping, visitor):
                playing = playing or (player(name) if growing.exists() else "")
                if video is not None:
                    text = say(visitor, "done_in", seconds=time.monotonic() - start)
                yield progress_bar(text, percent), playing, None if video is None else str(video)
        finally:
            live.close(name)
            _give_memory_back()


def file_name(request: SpeakRequest) -> str:
    """What the file of a video is called, without its suffix: the avatar, and what it says."""
    said = TAG.sub(" ", request.text) if request.text is not None else Path(str(request.speech or request.video)).stem
    words = re.findall(r"\w+", f"{request.avatar or ''} {said}")
    return "-".join(words)[:NAME_LETTERS].strip("-_") or "video"


def keep_memory_together() -> None:
    """Let the threads of this process share two arenas: glibc gives each its own, and none of them is ever handed back whole.

    After 30 visitors the page then holds 8 % more than before them, instead of 20 %.
    """
    with suppress(OSError, AttributeError):  # another system's library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def _give_memory_back() -> None:
    """Hand the memory of what was drawn to the system: glibc keeps it, and with many visitors that is some hundred megabytes."""
    with suppress(OSError, AttributeError):  # another system's library
        ctypes.CDLL(None).malloc_trim(0)


def three_takes(
    pipeline: GMTalkerPipeline, request: SpeakRequest, stopping: threading.Event, visitor: gr.Request
) -> Iterator[tuple[str, str | None]]:
    """Make the first seconds of the speech with three seeds, side by side.

    stopping: set by whoever wants it to end.
    Yields: progress as HTML, and the video's file or None.
    Errors: gr.Error for what can't be used.
    """
    from gmtalker.performance import Finish  # late: it needs torch
    from gmtalker.pipeline import label_of
    from gmtalker.provenance.credentials import Seal
    from gmtalker.source import heard

    with temporary_folder() as folder:

        def work(on_progress: OnProgress) -> Path:
            said = heard(request, folder)
            waveform, takes = said.waveform[: int(TAKE_SECONDS * SAMPLE_RATE)], []
            began = time.monotonic()
            for number in range(TAKES):
                performance = pipeline.perform(replace(said.request, seed=request.seed + number), waveform)

                def on_take(progress: Progress, before: int = number) -> None:
                    done, total = progress.done + before * progress.total, TAKES * progress.total
                    left = (time.monotonic() - began) * (total / done - 1) if done else None
                    on_progress(replace(progress, done=done, total=total, seconds_left=left))

                output = folder / f"{number}.mp4"
                takes.append(pipeline.film(performance, output, on_take, stopping.is_set, finish=Finish(label_of(request))))
            together = side_by_side(takes, folder / "takes.mp4")
            # The marks are in the pictures; putting them side by side stripped the signature.
            Seal(performance.avatar.card).sign(together)
            return together

        for shown, video in _in_a_thread(work, stopping, visitor):
            yield progress_bar(*shown), None if video is None else str(video)


def _in_a_thread(
    work: Callable[[OnProgress], Path], stopping: threading.Event, visitor: gr.Request
) -> Iterator[tuple[tuple[str, float | None], Path | None]]:
    """Do the work in a thread. Yields: text and per cent with None while it goes, and in the end, unless stopped, its result."""
    latest: deque[Progress] = deque(maxlen=1)
    sentences: deque[str] = deque()

    def hear(progress: Progress) -> None:
        if progress.message:
            sentences.append(progress.message)
        else:
            latest.append(progress)

    with ThreadPoolExecutor(1) as thread:
        doing: Future[Path] = thread.submit(contextvars.copy_context().run, work, hear)  # the visitor's workspace too
        shown = None
        try:
            while not doing.done() or sentences:
                while sentences:
                    gr.Warning(told(sentences.popleft()))
                if latest and latest[0] is not shown:
                    shown = latest[0]
                    yield _description(shown, visitor), None
                time.sleep(POLL_SECONDS)
            try:
                result = doing.result()
            except Stopped:
                yield (say(visitor, "stopped"), None), None
                return
            except (UnusableInput, ValueError) as error:
                yield (without_places(str(error)), None), None
                raise refusal(str(error)) from error
            yield ("", 100.0), result
        finally:
            stopping.set()  # also when the visitor closes the page in the middle


def _description(progress: Progress, visitor: gr.Request) -> tuple[str, float]:
    """A line of text on the progress, and per cent of the whole."""
    share = progress.done / max(progress.total, 1)
    percent = {"listening": 0.0, "expression": DRAWING_STARTS * share}.get(
        progress.stage, DRAWING_STARTS + (100 - DRAWING_STARTS) * share
    )
    frames = say(visitor, "frame_of", done=progress.done, total=progress.total) if progress.stage != "listening" else ""
    left = "" if progress.seconds_left is None else time_left(progress.seconds_left, visitor)
    parts = [say(visitor, progress.stage), frames, f"{percent:.0f} %", left]
    return " · ".join(part for part in parts if part), percent


def time_left(seconds: float, visitor: gr.Request) -> str:
    """Seconds as people say them, in the visitor's language."""
    if seconds < 90:
        return say(visitor, "seconds_left", seconds=max(seconds, 0))
    return say(visitor, "minutes_left", minutes=seconds / 60)
