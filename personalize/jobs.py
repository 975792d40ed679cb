"""Training jobs: a process each and a row each in one SQLite file, so that a training outlives the page that started it.

The trainer writes its own row (`reporting`), so nothing is lost when the page's server ends. Whoever looks (`refresh`) finds
trainers that died without a word and starts the next job in the queue: one training runs at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Callable, Iterable, Iterator, Mapping, Sequence

import psutil

from gmtalker.errors import UnusableAvatar, UnusableInput
from personalize.consent import Consent

SIZES = (256, 512, 1024)  # pixels of a side that a head can be drawn at
PRESETS = {"draft": 2.0, "standard": 10.0, "high": 30.0}  # minutes of training, after the clips are tracked
FPS = 25  # as in gmtalker.tracks, which brings torch
HELD_OUT_SHARE, LONGEST_HELD_OUT = 0.1, 20.0  # the last part of the footage is never trained on; at most so many seconds
MOST_FRAMES = 6000  # of 256 pixels kept in memory for training: 1.2 GB; fewer where they are larger
WRAP_UP = 30.0  # seconds that measuring and the pictures take at the end
TRAINER_BYTES = 1.6e9  # of memory, beside the frames
WORK_BYTES, POINT_BYTES = 220e6, 478 * 3 * 4  # on disk: checkpoints, best weights and the avatar; the points of a frame
MOST_WAITING = 8  # trainings in the queue
BEAT_SECONDS = 2
SILENT_SECONDS = 10  # a trainer that has not beaten for so long is dead
STARTING_SECONDS = 300  # importing torch takes minutes on a busy machine; a process that is gone shows at once
LOST = "The trainer stopped unexpectedly."
STOPPED = "Stopped; resuming goes on from the last checkpoint."
FINISH_ASKED = "finish.asked"  # a file of this name asks the trainer to make the avatar of what it has by now
SAMPLE_ASKED = "sample.asked"  # a file of this name among the checkpoints asks the trainer to show what it can by now
OPEN = ("queued", "running")
OF_A_STAGE = ("step", "steps", "seconds_left", "its")  # forgotten when the next stage begins
REPORTED = ("stage", "step", "steps", "percent", "seconds_left", "its", "message", "quality")
PROJECT = Path(__file__).resolve().parent.parent

_SCHEMA = """CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, stage TEXT NOT NULL, step INTEGER, steps INTEGER,
    percent REAL NOT NULL, seconds_left REAL, its REAL, message TEXT NOT NULL, quality TEXT, pid INTEGER, heartbeat REAL NOT NULL,
    created REAL NOT NULL, log TEXT NOT NULL, clips TEXT NOT NULL, emotions TEXT NOT NULL, preset TEXT NOT NULL, minutes REAL,
    consent TEXT NOT NULL, size INTEGER NOT NULL DEFAULT 256, owner TEXT NOT NULL DEFAULT '')"""
_ADDED = {"size": "INTEGER NOT NULL DEFAULT 256", "owner": "TEXT NOT NULL DEFAULT ''"}  # since the first version
_AS_JSON = ("clips", "emotions", "consent", "quality")


@dataclass(frozen=True)
class Job:
    """One training.

    status: queued, running, done, failed or stopped; percent: 0 to 100 of the whole training; its: steps a second;
    heartbeat, created: seconds since 1970; clips: absolute paths; emotions: path -> label; minutes: None = the preset's;
    size: pixels of a side that the avatar is drawn at; owner: whose it is, where several people use one machine.
    """

    id: str
    name: str
    clips: list[str]
    preset: str
    minutes: float | None
    consent: dict
    log: str
    emotions: dict[str, str] = field(default_factory=dict)
    status: str = "queued"
    stage: str = "waiting"
    step: int | None = None
    steps: int | None = None
    percent: float = 0.0
    seconds_left: float | None = None
    its: float | None = None
    message: str = ""
    quality: dict | None = None
    pid: int | None = None
    heartbeat: float = field(default_factory=time.time)
    created: float = field(default_factory=time.time)
    size: int = 256
    owner: str = ""

    @property
    def work(self) -> Path:
        """Where this job's training keeps its checkpoints, and strip.jpg and curve.png for whoever watches."""
        from gmtalker.avatar import slug  # late: it brings torch

        return _workspace(self.owner) / "training" / slug(self.name)

    @property
    def folder(self) -> Path:
        """Where copies of this job's uploads are kept."""
        return _workspace(self.owner) / "uploads" / self.id

    def summary(self) -> str:
        """One line for people: status, stage, %, time left, speed, message."""
        if self.status == "queued":
            return "Waiting for the training before it to end"
        if self.status != "running":
            return f"{self.status.capitalize()}. {self.message}".strip()
        parts = [f"{self.stage.capitalize()}, {self.percent:.0f} %"]
        if self.step:
            parts.append(f"step {self.step} of {self.steps}" if self.steps else f"step {self.step}")
        if self.seconds_left is not None:
            parts.append(time_left(self.seconds_left))
        if self.its:
            parts.append(f"{self.its:.1f} it/s")
        if isinstance(self.quality, dict):
            parts.append(f"{self.quality['psnr']:.1f} dB on seconds it never saw")
        return " · ".join(part for part in [*parts, self.message] if part)


@dataclass(frozen=True)
class Estimate:
    """What a training will take: minutes in all, disk and memory in bytes."""

    minutes: float
    disk: float
    memory: float


def estimate(minutes: float, seconds: float, reading_seconds: float, upload_bytes: float, size: int = 256) -> Estimate:
    """minutes: of training; seconds: of the clips; reading_seconds: what finding the face in them takes here (Report)."""
    frames = min(seconds * FPS, MOST_FRAMES * 256**2 / size**2)
    disk = WORK_BYTES * max(1, size // 256) + POINT_BYTES * seconds * FPS + upload_bytes
    memory = TRAINER_BYTES + frames * 3 * size**2
    return Estimate(minutes + (2 * reading_seconds + WRAP_UP) / 60, disk, memory)


def free_disk() -> int:
    """Bytes that the workspace's disk still takes."""
    folder = _workspace()
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free


def time_left(seconds: float) -> str:
    """Seconds as people say them: '40 s left', '12 min left'."""
    return f"{max(seconds, 0):.0f} s left" if seconds < 90 else f"{seconds / 60:.0f} min left"


def start(
    name: str,
    clips: Sequence[Path],
    consent: Consent,
    preset: str = "standard",
    minutes: float | None = None,
    emotions: Mapping[Path, str] | None = None,
    keep_clips: bool = False,
    size: int = 256,
) -> Job:
    """Put a training in the queue; it starts at once when no other runs.

    keep_clips: copy the clips into the workspace, for uploads that the page's server deletes after a day.
    Errors: as `create`.
    """
    job = create(name, clips, consent, preset, minutes, emotions, keep_clips, size=size)
    refresh()
    return get(job.id)


def create(
    name: str,
    clips: Sequence[Path],
    consent: Consent,
    preset: str = "standard",
    minutes: float | None = None,
    emotions: Mapping[Path, str] | None = None,
    keep_clips: bool = False,
    here: bool = False,
    size: int = 256,
) -> Job:
    """A new row in the queue, or the unfinished one of the same name and clips, which then goes on where it was.

    here: this process will do the training itself, so nobody else may start it.
    Errors: ValueError for a bad name, an unknown preset or size, minutes <= 0 or an emotion of a clip that is not there;
    UnusableInput when the name is taken or a clip is missing.
    """
    from gmtalker.avatar import clean_name, owner

    name = clean_name(name)
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    if minutes is not None and not 0 < minutes < 10000:
        raise ValueError(f"minutes must be a number above 0, not {minutes}")
    if size not in SIZES:
        raise ValueError(f"An avatar is drawn at {', '.join(map(str, SIZES))} pixels, not at {size}")
    paths = [Path(clip).resolve() for clip in clips]
    labels = {str(Path(clip).resolve()): label for clip, label in (emotions or {}).items()}
    if unknown := set(labels) - {str(path) for path in paths}:
        raise ValueError(f"An emotion is given for {Path(unknown.pop()).name}, which is not one of the clips")
    for path in paths:
        if not path.is_file():
            raise UnusableInput(f"There is no file {path}; please check the name.")
    if _own_avatar(name):
        raise UnusableAvatar(f"There is already an avatar called {name}; choose another name, or delete it first.")
    if not here and sum(job.status == "queued" for job in jobs(everybodys=True)) >= MOST_WAITING:
        raise UnusableInput(f"{MOST_WAITING} trainings are waiting already; please come back when some are done.")
    needed = estimate(minutes or PRESETS[preset], 0.0, 0.0, sum(path.stat().st_size for path in paths) * keep_clips, size).disk
    if (free := free_disk()) < needed:
        sizes = f"{needed / 2**20:.0f} MB of disk and {free / 2**20:.0f} MB are free"
        raise UnusableInput(f"The training needs {sizes}; make room first.")
    for old in jobs():
        if not same_name(old.name, name) or old.status == "done":
            continue
        if old.status in OPEN:
            raise UnusableAvatar(f"A training called {old.name} is already {old.status}; wait for it, or stop it first.")
        if _contents(old.clips, old.emotions) == _contents(map(str, paths), labels) and old.size == size:
            _write(old.id, **_begun(here), message="", heartbeat=time.time(), preset=preset, minutes=minutes)
            return get(old.id)
        forget(old)  # other clips or another size under the same name: nothing of the earlier person may slip into this one
    identifier = uuid.uuid4().hex[:12]
    log = _workspace() / "logs" / f"{identifier}.jsonl"
    given = [str(path) for path in paths]
    state = _begun(here)
    job = Job(identifier, name, given, preset, minutes, asdict(consent), str(log), labels, size=size, owner=owner(), **state)
    if keep_clips:
        job.folder.mkdir(parents=True)
        kept = {path: job.folder / f"{number:02d} {path.name}" for number, path in enumerate(paths)}
        for path, copy in kept.items():
            shutil.copyfile(path, copy)
        job.clips[:] = [str(copy) for copy in kept.values()]
        labels = {str(kept[Path(path)]): label for path, label in labels.items()}
        job.emotions.clear()
        job.emotions.update(labels)
    row = asdict(job) | {name: json.dumps(getattr(job, name)) for name in _AS_JSON}
    with _database() as database:
        marks = ", ".join(f":{name}" for name in row)
        database.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks})", row)
    return job


def _contents(clips: Iterable[str], emotions: Mapping[str, str]) -> list[tuple[str, str]]:
    """What clips hold and are said to show, whatever they are called: kept copies have other names than the uploads."""
    found = []
    for clip in clips:
        try:
            with open(clip, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            digest = f"no file {clip}"
        found.append((digest, emotions.get(clip, "")))
    return sorted(found)


def _begun(here: bool) -> dict:
    if here:
        return {"status": "running", "stage": "starting", "pid": os.getpid()}
    return {"status": "queued", "stage": "waiting", "pid": None}


def jobs(everybodys: bool = False) -> list[Job]:
    """The jobs of this workspace, or of everybody's, the newest last."""
    from gmtalker.avatar import owner  # late, as in _workspace

    with _database() as database:
        rows = database.execute("SELECT * FROM jobs ORDER BY created, rowid").fetchall()
    mine = [row for row in rows if everybodys or row["owner"] == owner()]
    return [Job(**(dict(row) | {name: json.loads(row[name] or "null") for name in _AS_JSON})) for row in mine]


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


def refresh() -> None:
    """Find dead trainers and start the next job in the queue, if none runs."""
    now = time.time()
    for job in jobs(everybodys=True):
        if job.status == "running" and _is_dead(job, now):
            status, message = ("stopped", STOPPED) if job.stage == "stopping" else ("failed", LOST)
            # Only as it was seen: it may have ended properly since.
            seen = ("status = 'running' AND heartbeat = ?", job.heartbeat)
            _write(job.id, *seen, status=status, message=message, seconds_left=None)
    with _database() as database:
        database.execute("BEGIN IMMEDIATE")  # two pages may refresh at the same moment
        if database.execute("SELECT 1 FROM jobs WHERE status = 'running'").fetchone():
            return
        row = database.execute("SELECT id FROM jobs WHERE status = 'queued' ORDER BY created, rowid").fetchone()
        if row is None:
            return
        claim = "UPDATE jobs SET status = 'running', stage = 'starting', pid = NULL, heartbeat = ? WHERE id = ?"
        database.execute(claim, (now, row["id"]))
    try:
        _launch(get(row["id"], everybodys=True))
    except OSError as error:
        _write(row["id"], status="failed", message=f"The training could not be started: {error.strerror}.")


def stop(job: Job) -> Job:
    """End a queued or running job; returns it when its process is gone (10 s at most, then it is killed)."""
    refresh()
    _write(job.id, "status = 'queued'", status="stopped", message=STOPPED)
    _write(job.id, "status = 'running'", stage="stopping")
    job = get(job.id)
    if job.status == "running":
        _terminate(job.pid)
        _write(job.id, "status = 'running'", status="stopped", message=STOPPED, seconds_left=None)
    refresh()
    return get(job.id)


def resume(job: Job) -> Job:
    """Put a stopped or failed job back in the queue. Errors: UnusableInput when it is running or done."""
    if job.status not in ("stopped", "failed"):
        raise UnusableInput(f"The training {job.name} is {job.status}; only a stopped or failed one can be resumed.")
    _write(job.id, status="queued", stage="waiting", message="")
    refresh()
    return get(job.id)


def ask_sample(job: Job) -> None:
    """Ask the trainer to draw held-out frames now. It looks every other second."""
    if job.status == "running" and job.work.is_dir():
        (job.work / SAMPLE_ASKED).touch()


def ask_finish(job: Job) -> None:
    """Ask the trainer to end the training of the head here, and to make the avatar."""
    if job.status == "running" and job.work.is_dir():
        (job.work / FINISH_ASKED).touch()


def forget(job: Job) -> None:
    """Remove a job that is not running with its log, its kept clips and its unfinished training."""
    if job.status == "running":
        raise UnusableInput(f"The training {job.name} is running; stop it first.")
    with _database() as database:
        database.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
    Path(job.log).unlink(missing_ok=True)
    shutil.rmtree(job.folder, ignore_errors=True)
    shutil.rmtree(job.work, ignore_errors=True)


def delete(name: str) -> None:
    """Remove an avatar of the workspace with all that was made on the way to it, or an unfinished training of that name.

    Errors: UnusableAvatar when it is bundled, unknown or still in training.
    """
    from gmtalker.avatar import delete_avatar

    found = [job for job in jobs() if same_name(job.name, name)]
    if any(job.status in OPEN for job in found):
        raise UnusableAvatar(f"The avatar {name} is still in training; stop the training first.")
    if not found or _own_avatar(name):
        delete_avatar(name)
    for job in found:
        forget(job)


def rename(name: str, new_name: str) -> Path:
    """Give an avatar another name, its finished training with it. Returns its folder.

    Errors: ValueError for a name that is none; UnusableAvatar when it is bundled, unknown, in training, or the name is taken.
    """
    from gmtalker.avatar import clean_name, rename_avatar

    everything = jobs()
    for wanted in (name, new_name):
        if any(same_name(job.name, wanted) and job.status != "done" for job in everything):
            raise UnusableAvatar(f"A training called {wanted} is not finished; finish or delete it first.")
    folder = rename_avatar(name, new_name)
    for job in everything:
        if same_name(job.name, name):
            _write(job.id, name=clean_name(new_name))
            if job.work.is_dir() and job.work != get(job.id).work:
                shutil.rmtree(get(job.id).work, ignore_errors=True)
                job.work.rename(get(job.id).work)
    return folder


def same_name(one: str, other: str) -> bool:
    """Whether two names would land in the same folder."""
    from gmtalker.avatar import slug

    return slug(one) == slug(other)


# The trainer's side


@contextmanager
def reporting(job: Job) -> Iterator[Callable[[Mapping], None]]:
    """Own the job's row while training in this process; yields what takes the training's reports.

    The row beats while the block runs and ends as done, stopped (SIGTERM or Ctrl-C, which leave the block as
    KeyboardInterrupt) or failed with the sentence of an UnusableInput.
    """
    _write(job.id, status="running", stage="starting", pid=os.getpid(), heartbeat=time.time(), message="")
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(job.id, over), daemon=True)
    heart.start()
    previous = signal.signal(signal.SIGTERM, _interrupt)
    stage = None

    def report(values: Mapping) -> None:
        nonlocal stage
        if values.get("stage", stage) != stage:
            stage = values["stage"]
            values = dict.fromkeys(OF_A_STAGE) | dict(values)
        _report(job.id, values)

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
        _write(identifier, f"{_MINE} AND status = 'failed'", os.getpid(), status="running", message="")
        _write(identifier, _MINE, os.getpid(), heartbeat=time.time())
        over.wait(BEAT_SECONDS)


def _report(identifier: str, values: Mapping) -> None:
    known = {name: json.dumps(values[name]) if name in _AS_JSON else values[name] for name in REPORTED if name in values}
    if known:
        _write(identifier, f"{_MINE} AND stage != 'stopping'", os.getpid(), **known)


def _finish(identifier: str, status: str, message: str, **values: float) -> None:
    _write(identifier, _MINE, os.getpid(), status=status, message=message, seconds_left=None, **values)


# Processes and rows


def command(job: Job) -> list[str]:
    """The public command that does this job."""
    minutes = [] if job.minutes is None else [f"--minutes={job.minutes}"]
    emotions = [f"--emotion={clip}={label}" for clip, label in job.emotions.items()]
    size = [] if job.size == 256 else [f"--size={job.size}"]
    options = [f"--name={job.name}", "--i-have-consent", f"--preset={job.preset}", *minutes, *size, *emotions]
    return [sys.executable, "-m", "personalize", "train", *options, f"--job={job.id}", "--json", *job.clips]


def _launch(job: Job) -> None:
    Path(job.log).parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "ab") as log:
        process = subprocess.Popen(
            command(job),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            start_new_session=True,
            env=os.environ | {"GMTALKER_OWNER": job.owner},
        )
    _write(job.id, pid=process.pid)
    threading.Thread(target=process.wait, daemon=True).start()  # nobody else collects it when it ends


def _is_dead(job: Job, now: float) -> bool:
    patience = STARTING_SECONDS if job.stage == "starting" else SILENT_SECONDS
    return (job.pid is not None and not _is_alive(job.pid)) or now - job.heartbeat > patience


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _terminate(pid: int | None) -> None:
    if pid is None:  # not yet started; psutil would take None for this very process
        return
    try:
        trainer = psutil.Process(pid)
        children = trainer.children(recursive=True)
        trainer.terminate()
    except psutil.NoSuchProcess:  # gone already
        return
    _, alive = psutil.wait_procs([trainer, *children], timeout=10)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)


def _write(identifier: str, only_if: str = "1", *bound: object, **values: object) -> None:
    """Set columns of a job's row, if the row meets a condition (SQL, with `bound` for its question marks)."""
    sets = ", ".join(f"{name} = ?" for name in values)
    with _database() as database:
        database.execute(f"UPDATE jobs SET {sets} WHERE id = ? AND {only_if}", (*values.values(), identifier, *bound))


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """A connection for one block, committed at its end."""
    from gmtalker.avatar import home  # late, as in _workspace

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


def _workspace(name: str | None = None) -> Path:
    from gmtalker.avatar import workspace  # late: it brings torch, and a trainer's first beat should not wait for it

    return workspace(name)


def _own_avatar(name: str) -> bool:
    """Whether the workspace holds a finished avatar of this name (a bundled one of the same name is no hindrance)."""
    from gmtalker.avatar import list_avatars

    return any(same_name(entry.name, name) for entry in list_avatars() if not entry.bundled)
