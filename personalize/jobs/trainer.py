"""The trainer's side of a job: its row, its heartbeat, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gmtalker.errors import UnusableInput
from gmtalker.progress import OnProgress, Progress
from personalize.jobs.job import Job
from personalize.jobs.store import write_row

BEAT_SECONDS = 2
LOST = "The trainer stopped unexpectedly."
STOPPED = "Stopped; resuming goes on from the last checkpoint."
OF_A_STAGE = ("step", "steps", "seconds_left", "its")  # forgotten when the next stage begins


@contextmanager
def reporting(job: Job) -> Iterator[OnProgress]:
    """Keep a job's row while this process trains; yields what takes the progress.

    The row gets a heartbeat while the block runs. It ends as done, as stopped (SIGTERM or Ctrl-C, which leave the block as
    KeyboardInterrupt), or as failed with the sentence of an UnusableInput.
    """
    write_row(job.id, status="running", stage="starting", pid=os.getpid(), heartbeat=time.time(), message="")
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(job.id, over), daemon=True)
    heart.start()
    previous = signal.signal(signal.SIGTERM, _interrupt)
    stage = ""

    def report(progress: Progress) -> None:
        nonlocal stage
        values = _columns_of(progress)
        if progress.stage and progress.stage != stage:
            stage = progress.stage
            values = dict.fromkeys(OF_A_STAGE) | values
        if values:
            write_row(job.id, f"{_MINE} AND stage != 'stopping'", os.getpid(), **values)

    try:
        yield report
    except KeyboardInterrupt:
        _finish(job.id, "stopped", STOPPED)
        raise
    except UnusableInput as error:
        _finish(job.id, "failed", str(error))
        raise
    except BaseException as error:
        _finish(job.id, "failed", f"The training broke off ({type(error).__name__}: {error}); the log is {job.log}.")
        raise
    else:
        _finish(job.id, "done", "The avatar is ready.", percent=100.0)
        shutil.rmtree(job.folder, ignore_errors=True)  # the avatar is complete: no more copies of someone's face than needed
    finally:
        signal.signal(signal.SIGTERM, previous)
        over.set()
        heart.join()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# A trainer that was taken for dead while the machine slept takes its row back.
_MINE = f"pid = ? AND (status = 'running' OR (status = 'failed' AND message = '{LOST}'))"


def _beat(identifier: str, over: threading.Event) -> None:
    while not over.is_set():
        write_row(identifier, f"{_MINE} AND status = 'failed'", os.getpid(), status="running", message="")
        write_row(identifier, _MINE, os.getpid(), heartbeat=time.time())
        over.wait(BEAT_SECONDS)


def _columns_of(progress: Progress) -> dict[str, object]:
    """The columns that it changes: what it does not know stays as it is."""
    values = {"stage": progress.stage, "percent": progress.percent, "seconds_left": progress.seconds_left}
    values |= {"message": progress.message} | {name: progress.figures.get(name) for name in ("step", "steps", "its", "quality")}
    return {name: value for name, value in values.items() if value not in (None, "")}


def _finish(identifier: str, status: str, message: str, **values: float) -> None:
    write_row(identifier, _MINE, os.getpid(), status=status, message=message, seconds_left=None, **values)
