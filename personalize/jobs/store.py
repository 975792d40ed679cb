"""The rows of all training jobs, in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from gmtalker.avatars.workspace import owner, private_home
from gmtalker.errors import UnusableInput
from personalize.jobs.job import Job, same_name

_SCHEMA = """CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, stage TEXT NOT NULL, step INTEGER, steps INTEGER,
    percent REAL NOT NULL, seconds_left REAL, its REAL, message TEXT NOT NULL, quality TEXT, pid INTEGER, heartbeat REAL NOT NULL,
    created REAL NOT NULL, log TEXT NOT NULL, clips TEXT NOT NULL, emotions TEXT NOT NULL, preset TEXT NOT NULL, minutes REAL,
    consent TEXT NOT NULL, size INTEGER NOT NULL DEFAULT 256, owner TEXT NOT NULL DEFAULT '', look TEXT NOT NULL DEFAULT '')"""
_TEXT = "TEXT NOT NULL DEFAULT ''"
_ADDED = {"size": "INTEGER NOT NULL DEFAULT 256", "owner": _TEXT, "look": _TEXT}  # since the first version
LOCKED_SECONDS = 10.0  # for which somebody else's writing is waited for
_AS_JSON = ("clips", "emotions", "consent", "quality")  # columns that hold JSON


def jobs(everybodys: bool = False) -> list[Job]:
    """The jobs of this workspace, or of everybody's, oldest first."""
    with _database() as connection:
        rows = connection.execute("SELECT * FROM jobs ORDER BY created, rowid").fetchall()
    mine = [row for row in rows if everybodys or row["owner"] == owner()]
    return [Job(**(dict(row) | {name: json.loads(row[name] or "null") for name in _AS_JSON})) for row in mine]


def position(job: Job) -> int:
    """How many trainings, of anybody, come before a queued one."""
    others = [other for other in jobs(everybodys=True) if other.id != job.id]
    return sum(other.status == "running" or (other.status == "queued" and other.created < job.created) for other in others)


def get(identifier: str, everybodys: bool = False) -> Job:
    """The job of an id.

    everybodys: whether it may be in the workspace of somebody else.
    Errors: UnusableInput when there is none.
    """
    for job in jobs(everybodys):
        if job.id == identifier:
            return job
    raise UnusableInput(f"There is no training job {identifier}.")


def find(name: str) -> Job:
    """The newest job of an avatar's name, or the job of an id.

    Errors: UnusableInput when there is none.
    """
    found = [job for job in jobs() if job.id == name or same_name(job.name, name)]
    if not found:
        raise UnusableInput(f"There is no training called {name}; `python -m personalize list` shows what there is.")
    return found[-1]


def add_row(job: Job) -> None:
    """Insert the row of a new job."""
    row = _encoded(asdict(job))
    with _database() as connection:
        columns, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
        connection.execute(f"INSERT INTO jobs ({columns}) VALUES ({marks})", row)


def write_row(identifier: str, only_if: str = "1", *bound: object, **values: object) -> None:
    """Set columns of a job's row, if the row meets a condition.

    only_if: SQL, with the values of `bound` for its question marks.
    values: by column.
    """
    sets = ", ".join(f"{name} = ?" for name in values)
    with _database() as connection:
        parameters = (*_encoded(values).values(), identifier, *bound)
        connection.execute(f"UPDATE jobs SET {sets} WHERE id = ? AND {only_if}", parameters)


def delete_row(identifier: str) -> None:
    """Delete the row of a job, if there is one."""
    with _database() as connection:
        connection.execute("DELETE FROM jobs WHERE id = ?", (identifier,))


def claim_next(now: float) -> str | None:
    """Mark the first job in the queue as running, if no other runs.

    now: seconds since 1970.
    Returns: its id; None when there is nothing to start.
    """
    with _database() as connection:
        connection.execute("BEGIN IMMEDIATE")  # two pages may refresh at the same moment
        if connection.execute("SELECT 1 FROM jobs WHERE status = 'running'").fetchone():
            return None
        row = connection.execute("SELECT id FROM jobs WHERE status = 'queued' ORDER BY created, rowid").fetchone()
        if row is None:
            return None
        claim = "UPDATE jobs SET status = 'running', stage = 'starting', pid = NULL, heartbeat = ? WHERE id = ?"
        connection.execute(claim, (now, row["id"]))
        return row["id"]


def _encoded(values: Mapping[str, object]) -> dict[str, object]:
    return {name: json.dumps(value) if name in _AS_JSON else value for name, value in values.items()}


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """A connection for one block, committed at its end. An older version's file gets the columns that it lacks."""
    path = private_home() / "studio.sqlite"
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=LOCKED_SECONDS)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(_SCHEMA)
        columns = {row["name"] for row in connection.execute("PRAGMA table_info(jobs)")}
        for name in _ADDED.keys() - columns:
            connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {_ADDED[name]}")
        with connection:
            yield connection
    finally:
        connection.close()
