"""The rows of all trainings, in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from typing import Iterator

from gmtalker.avatars.workspace import home, owner
from gmtalker.errors import UnusableInput
from personalize.jobs.job import Job, same_name

_SCHEMA = """CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, stage TEXT NOT NULL, step INTEGER, steps INTEGER,
    percent REAL NOT NULL, seconds_left REAL, its REAL, message TEXT NOT NULL, quality TEXT, pid INTEGER, heartbeat REAL NOT NULL,
    created REAL NOT NULL, log TEXT NOT NULL, clips TEXT NOT NULL, emotions TEXT NOT NULL, preset TEXT NOT NULL, minutes REAL,
    consent TEXT NOT NULL, size INTEGER NOT NULL DEFAULT 256, owner TEXT NOT NULL DEFAULT '')"""
_ADDED = {"size": "INTEGER NOT NULL DEFAULT 256", "owner": "TEXT NOT NULL DEFAULT ''"}  # since the first version
AS_JSON = ("clips", "emotions", "consent", "quality")


def jobs(everybodys: bool = False) -> list[Job]:
    """The jobs of this workspace, or of everybody's, the newest last."""
    with database() as connection:
        rows = connection.execute("SELECT * FROM jobs ORDER BY created, rowid").fetchall()
    mine = [row for row in rows if everybodys or row["owner"] == owner()]
    return [Job(**(dict(row) | {name: json.loads(row[name] or "null") for name in AS_JSON})) for row in mine]


def position(job: Job) -> int:
    """How many trainings, of anybody, come before a waiting one."""
    before = [other for other in jobs(everybodys=True) if other.id != job.id]
    return sum(other.status == "running" or (other.status == "queued" and other.created < job.created) for other in before)


def get(identifier: str, everybodys: bool = False) -> Job:
    """Errors: UnusableInput when there is no such job in this workspace, or in everybody's."""
    for job in jobs(everybodys):
        if job.id == identifier:
            return job
    raise UnusableInput(f"There is no training job {identifier}.")


def find(name: str) -> Job:
    """The newest job of an avatar's name. Errors: UnusableInput when there is none."""
    found = [job for job in jobs() if job.id == name or same_name(job.name, name)]
    if not found:
        raise UnusableInput(f"There is no training called {name}; `python -m personalize list` shows what there is.")
    return found[-1]


def write_row(identifier: str, only_if: str = "1", *bound: object, **values: object) -> None:
    """Set columns of a job's row, if the row meets a condition (SQL, with `bound` for its question marks)."""
    sets = ", ".join(f"{name} = ?" for name in values)
    with database() as connection:
        connection.execute(f"UPDATE jobs SET {sets} WHERE id = ? AND {only_if}", (*values.values(), identifier, *bound))


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """A connection for one block, committed at its end."""
    path = home() / "studio.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=10)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(_SCHEMA)
        columns = {row["name"] for row in connection.execute("PRAGMA table_info(jobs)")}
        for name in _ADDED.keys() - columns:  # a workspace of an older version
            connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {_ADDED[name]}")
        with connection:
            yield connection
    finally:
        connection.close()
