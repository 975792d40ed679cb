"""Making videos for the page: in a thread, told while it goes, watched while it grows, stopped when its reader stops it."""

from __future__ import annotations

import contextvars
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gradio as gr

from gmtalker.avatars.workspace import slug
from gmtalker.clock import SAMPLE_RATE
from gmtalker.errors import UnusableInput
from gmtalker.media.audio import read_speech
from gmtalker.media.side_by_side import side_by_side
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.provenance.credentials import Seal
from gmtalker.progress import Progress, Stopped
from gmtalker.request import SpeakRequest
from studio.components import progress_bar, refusal
from studio.live_video import LiveVideos, player
from studio.translations import say

DRAWING_STARTS = 15  # per cent of the bar, by the usual share of the work
TAKES, TAKE_SECONDS = 3, 4.0


class Stops:
    """Work in progress by page session, so that Stop ends one's own and no other."""

    def __init__(self) -> None:
        self._stops: dict[str, threading.Event] = {}

    def begin(self, session: str) -> threading.Event:
        """From now on Stop ends this, also while it waits for its turn."""
        self._stops[session] = threading.Event()
        return self._stops[session]

    def of(self, session: str) -> threading.Event:
        """What begin made; for a caller without a page, who has no Stop, one of its own."""
        return self._stops.get(session) or threading.Event()

    def stop(self, session: str) -> None:
        if session in self._stops:
            self._stops[session].set()

    def end(self, session: str) -> None:
        self._stops.pop(session, None)


def generate_video(
    speak: Callable[..., Path], wish: SpeakRequest, stopping: threading.Event, live: LiveVideos, request: gr.Request
) -> Iterator[tuple[str, str, str | None]]:
    """Make the video and yield (progress as HTML, a player of what there is as HTML, the video or None). speak: of zero_gpu."""
    with tempfile.TemporaryDirectory(prefix="gmtalker-") as folder:
        output = Path(folder) / f"{slug(wish.avatar) if wish.avatar else 'avatar'}.mp4"
        growing = Path(folder) / "growing.mp4"
        name, state = live.open(growing)
        began, playing = time.monotonic(), ""

        def work(tell: Callable[[Progress], None]) -> Path:
            try:
                return speak(wish, output, tell, stopping.is_set, live=growing)
            finally:
                state.finished = True

        try:
            for progress, made in _told(work, stopping, request):
                playing = playing or (player(name) if growing.exists() else "")
                if made is None:
                    yield progress_bar(*progress), playing, None
                else:
                    done = say(request, "done_in", seconds=time.monotonic() - began)
                    yield progress_bar(done, 100), playing, str(made)
        finally:
            live.close(name)


def three_takes(
    pipeline: GMTalkerPipeline, wish: SpeakRequest, stopping: threading.Event, request: gr.Request
) -> Iterator[tuple[str, str | None]]:
    """The first seconds of the speech with three seeds, side by side: (progress as HTML, the video or None)."""
    with tempfile.TemporaryDirectory(prefix="gmtalker-") as folder:

        def work(tell: Callable[[Progress], None]) -> Path:
            waveform = read_speech(wish.speech)[: int(TAKE_SECONDS * SAMPLE_RATE)]
            takes = []
            for number in range(TAKES):
                take = replace(wish, seed=wish.seed + number)
                performance = pipeline.perform(take, waveform)

                def told(progress: Progress, before: int = number) -> None:
                    tell(replace(progress, done=progress.done + before * progress.total, total=TAKES * progress.total))

                output = Path(folder) / f"{number}.mp4"
                takes.append(pipeline.film(performance, output, told, stopping.is_set, label=wish.label))
            together = side_by_side(takes, Path(folder) / "takes.mp4")
            Seal(performance.avatar.card).sign(
                together
            )  # the marks are in the pictures; saving them again stripped the signature
            return together

        for progress, made in _told(work, stopping, request):
            yield progress_bar(*progress), None if made is None else str(made)


def _told(
    work: Callable[[Callable[[Progress], None]], Path], stopping: threading.Event, request: gr.Request
) -> Iterator[tuple[tuple[str, float | None], Path | None]]:
    """Do the work in a thread; yields (text and per cent, None) while it goes, and at the end its result, unless stopped."""
    latest: deque[Progress] = deque(maxlen=1)
    with ThreadPoolExecutor(1) as thread:
        doing: Future[Path] = thread.submit(contextvars.copy_context().run, work, latest.append)  # the reader's workspace too
        shown = None
        try:
            while not doing.done():
                if latest and latest[0] is not shown:
                    shown = latest[0]
                    yield _described(shown, request), None
                time.sleep(0.2)
            try:
                made = doing.result()
            except Stopped:
                yield (say(request, "stopped"), None), None
                return
            except (UnusableInput, ValueError) as error:
                yield (str(error), None), None
                raise refusal(str(error)) from error
            yield ("", 100.0), made
        finally:
            stopping.set()  # also when the person closes the page in the middle


def _described(progress: Progress, request: gr.Request) -> tuple[str, float]:
    share = progress.done / max(progress.total, 1)
    percent = {"listening": 0.0, "expression": DRAWING_STARTS * share}.get(
        progress.stage, DRAWING_STARTS + (100 - DRAWING_STARTS) * share
    )
    frames = say(request, "frame_of", done=progress.done, total=progress.total) if progress.stage != "listening" else ""
    left = "" if progress.seconds_left is None else _time_left(progress.seconds_left, request)
    parts = [say(request, progress.stage), frames, f"{percent:.0f} %", left]
    return " · ".join(part for part in parts if part), percent


def _time_left(seconds: float, request: gr.Request) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return say(request, "seconds_left", seconds=max(seconds, 0))
    return say(request, "minutes_left", minutes=seconds / 60)
