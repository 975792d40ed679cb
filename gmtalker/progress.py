"""How far a piece of work is: the one thing that every stage reports and every front end shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


class Stopped(Exception):
    """The person stopped the work; nothing was left behind."""


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    stage: what is being done, in a few words; empty where there is only a message.
    done, total: of the stage, in its own unit (frames, clips, percent); total 0 when its length is not known.
    percent: 0 to 100 of the whole work; None where stages are not weighed against each other.
    seconds_left: of the whole work; None when not known.
    message: a sentence for the person, shown once.
    figures: numbers beside it: step, steps, its (steps a second), quality, losses.
    """

    stage: str = ""
    done: float = 0
    total: float = 0
    percent: float | None = None
    seconds_left: float | None = None
    message: str = ""
    figures: Mapping[str, object] = field(default_factory=dict)

    @property
    def stage_percent(self) -> float:
        """0 to 100 of the stage; 0 when its length is not known."""
        return 100 * self.done / self.total if self.total else 0.0

    @property
    def shown_percent(self) -> float | None:
        """0 to 100 of the whole work, else of the stage; None when neither is known."""
        if self.percent is not None:
            return self.percent
        return self.stage_percent if self.total else None

    def details(self) -> str:
        """Time left and speed, for the end of a line."""
        left = "" if self.seconds_left is None else time_left(self.seconds_left)
        speed = f"{self.figures['its']:.1f} it/s" if self.figures.get("its") else ""
        return " · ".join(part for part in (left, speed) if part)

    def to_json(self) -> dict:
        """{"stage", "percent", "seconds_left", "message", ...figures}, ready for json.dumps.

        percent and message are left out where there is none.
        """
        percent = {} if self.shown_percent is None else {"percent": round(self.shown_percent, 1)}
        left = None if self.seconds_left is None else round(self.seconds_left, 1)
        message = {"message": self.message} if self.message else {}
        return {"stage": self.stage} | percent | {"seconds_left": left} | message | dict(self.figures)


OnProgress = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """The default callback: discards progress."""


def time_left(seconds: float) -> str:
    """Seconds as people say them: '40 s left', '12 min left'."""
    return f"{max(seconds, 0):.0f} s left" if seconds < 90 else f"{seconds / 60:.0f} min left"


class Watcher:
    """Reports how far the work is, and ends it on request.

    on_progress: takes the reports; None when nobody listens.
    stop: called before each report; True ends the work with Stopped.
    timed: stages from whose pace seconds_left of the whole is estimated.
    """

    def __init__(
        self, on_progress: OnProgress | None, stop: Callable[[], bool] | None = None, timed: tuple[str, ...] = ()
    ) -> None:
        self.on_progress, self.stop, self.timed = on_progress, stop, timed
        self.started: dict[str, tuple[float, float]] = {}

    def say(self, sentence: str) -> None:
        """Tell the person something, once."""
        if self.on_progress is not None:
            self.on_progress(Progress(message=sentence))

    def report(self, stage: str, done: float, total: float) -> None:
        """A stage got further.

        done, total: of the stage, in its own unit.
        Errors: Stopped.
        """
        if self.stop is not None and self.stop():
            raise Stopped
        if self.on_progress is None:
            return
        first, start = self.started.setdefault(stage, (done, time.monotonic()))
        pace = (time.monotonic() - start) / (done - first) if done > first else None
        left = pace * (total - done) if pace is not None and stage in self.timed else None
        self.on_progress(Progress(stage, done, total, seconds_left=left))
