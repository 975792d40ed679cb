"""Training jobs: each a process and a row in one SQLite file, so that a training outlives the page that started it.

The trainer writes its own row (reporting), so nothing is lost when the page's server ends. Every call of refresh finds trainers
that died and starts the next job in the queue. One queued training runs at a time; `train` in a terminal starts at once.
"""

from personalize.jobs.job import OPEN, Estimate, Job, estimate, free_disk, same_name
from personalize.jobs.queue import (
    ask_finish,
    ask_sample,
    command,
    create,
    delete,
    forget,
    refresh,
    rename,
    resume,
    start,
    stop,
)
from personalize.jobs.store import find, get, jobs, position
from personalize.jobs.trainer import LOST, STOPPED, reporting

__all__ = [
    "LOST", "OPEN", "STOPPED", "Estimate", "Job", "ask_finish", "ask_sample", "command", "create", "delete", "estimate", "find",
    "forget", "free_disk", "get", "jobs", "position", "refresh", "rename", "reporting", "resume", "same_name", "start", "stop",
]  # fmt: skip
