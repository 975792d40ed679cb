"""Training jobs: a process each and a row each in one SQLite file, so that a training outlives the page that started it.

The trainer writes its own row (`reporting`), so nothing is lost when the page's server ends. Whoever looks (`refresh`) finds
trainers that died without a word and starts the next job in the queue: one training runs at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import asdict, replace
from pathlib import Path

import psutil

import gmtalker
from gmtalker.avatars.workspace import clean_name, owner, workspace
from gmtalker.errors import UnusableAvatar, UnusableInput
from personalize.jobs.job import OPEN, Job, estimate, free_disk, own_avatar, same_name, uploads_folder
from personalize.jobs.store import AS_JSON, database, get, jobs, write_row
from personalize.jobs.trainer import LOST, STOPPED
from personalize.progress import FINISH_REQUESTED, SAMPLE_REQUESTED
from personalize.request import TrainRequest

MOST_WAITING = 8  # trainings in the queue
SILENT_SECONDS = 10  # a trainer that has not beaten for so long is dead
STARTING_SECONDS = 300  # importing torch takes minutes on a busy machine; a process that is gone shows at once


def start(request: TrainRequest, keep_clips: bool = False) -> Job:
    """Put a training in the queue; it starts at once when no other runs.

    keep_clips: copy the clips into the workspace, for uploads that the page's server deletes after a day.
    Errors: as `create`.
    """
    job = create(request, keep_clips)
    refresh()
    return get(job.id)


def create(request: TrainRequest, keep_clips: bool = False, here: bool = False) -> Job:
    """A new row in the queue, or the unfinished one of the same name and clips, which then goes on where it was.

    keep_clips: as for `start`.
    here: this process will do the training itself, so nobody else may start it.
    Errors: UnusableInput when the name is taken, a clip is missing, the queue is full, or there is no room on the disk.
    """
    _check(request, keep_clips, here)
    for old in jobs():
        if not same_name(old.name, request.name) or old.status == "done":
            continue
        if old.status in OPEN:
            raise UnusableAvatar(f"A training called {old.name} is already {old.status}; wait for it, or stop it first.")
        if _contents(old.request) == _contents(request) and old.size == request.size:
            state = _state_of_new(here)
            write_row(old.id, **state, message="", heartbeat=time.time(), preset=request.preset, minutes=request.minutes)
            return get(old.id)
        forget(old)  # other clips or another size under the same name: nothing of the earlier person may slip into this one
    return _insert(request, keep_clips, here)


def _check(request: TrainRequest, keep_clips: bool, here: bool) -> None:
    """Errors: UnusableInput for what stands against a training before it begins."""
    for clip in request.clips:
        if not clip.is_file():
            raise UnusableInput(f"There is no file {clip}; please check the name.")
    if own_avatar(request.name):
        raise UnusableAvatar(f"There is already an avatar called {request.name}; choose another name, or delete it first.")
    if not here and sum(job.status == "queued" for job in jobs(everybodys=True)) >= MOST_WAITING:
        raise UnusableInput(f"{MOST_WAITING} trainings are waiting already; please come back when some are done.")
    copied = sum(clip.stat().st_size for clip in request.clips) * keep_clips
    needed = estimate(request.training_minutes, 0.0, 0.0, copied, request.size).disk
    if (free := free_disk()) < needed:
        sizes = f"{needed / 2**20:.0f} MB of disk and {free / 2**20:.0f} MB are free"
        raise UnusableInput(f"The training needs {sizes}; make room first.")


def _insert(request: TrainRequest, keep_clips: bool, here: bool) -> Job:
    """A new row; with keep_clips of copies of the clips in the job's folder."""
    identifier = uuid.uuid4().hex[:12]
    log = workspace() / "logs" / f"{identifier}.jsonl"
    if keep_clips:
        folder = uploads_folder(identifier)
        folder.mkdir(parents=True)
        copies = {clip: folder / f"{number:02d} {clip.name}" for number, clip in enumerate(request.clips)}
        for clip, copy in copies.items():
            shutil.copyfile(clip, copy)
        emotions = {copies[clip]: emotion for clip, emotion in request.emotions.items()}
        request = replace(request, clips=list(copies.values()), emotions=emotions)
    values = {name: value for name, value in request.to_json().items() if name != "request"}
    job = Job(id=identifier, log=str(log), owner=owner(), **values, **_state_of_new(here))
    row = asdict(job) | {name: json.dumps(getattr(job, name)) for name in AS_JSON}
    with database() as connection:
        marks = ", ".join(f":{name}" for name in row)
        connection.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks})", row)
    return job


def _contents(request: TrainRequest) -> list[tuple[str, str]]:
    """What clips hold and are said to show, whatever they are called: kept copies have other names than the uploads."""
    found = []
    for clip in request.clips:
        try:
            with open(clip, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            digest = f"no file {clip}"
        found.append((digest, request.emotions.get(clip, "")))
    return sorted(found)


def _state_of_new(here: bool) -> dict:
    if here:
        return {"status": "running", "stage": "starting", "pid": os.getpid()}
    return {"status": "queued", "stage": "waiting", "pid": None}


def refresh() -> None:
    """Find dead trainers and start the next job in the queue, if none runs."""
    now = time.time()
    for job in jobs(everybodys=True):
        if job.status == "running" and _is_dead(job, now):
            status, message = ("stopped", STOPPED) if job.stage == "stopping" else ("failed", LOST)
            # Only as it was seen: it may have ended properly since.
            seen = ("status = 'running' AND heartbeat = ?", job.heartbeat)
            write_row(job.id, *seen, status=status, message=message, seconds_left=None)
    with database() as connection:
        connection.execute("BEGIN IMMEDIATE")  # two pages may refresh at the same moment
        if connection.execute("SELECT 1 FROM jobs WHERE status = 'running'").fetchone():
            return
        row = connection.execute("SELECT id FROM jobs WHERE status = 'queued' ORDER BY created, rowid").fetchone()
        if row is None:
            return
        claim = "UPDATE jobs SET status = 'running', stage = 'starting', pid = NULL, heartbeat = ? WHERE id = ?"
        connection.execute(claim, (now, row["id"]))
    try:
        _launch(get(row["id"], everybodys=True))
    except OSError as error:
        write_row(row["id"], status="failed", message=f"The training could not be started: {error.strerror}.")


def stop(job: Job) -> Job:
    """End a queued or running job; returns it when its process is gone (10 s at most, then it is killed)."""
    refresh()
    write_row(job.id, "status = 'queued'", status="stopped", message=STOPPED)
    write_row(job.id, "status = 'running'", stage="stopping")
    job = get(job.id)
    if job.status == "running":
        _terminate(job.pid)
        write_row(job.id, "status = 'running'", status="stopped", message=STOPPED, seconds_left=None)
    refresh()
    return get(job.id)


def resume(job: Job) -> Job:
    """Put a stopped or failed job back in the queue. Errors: UnusableInput when it is running or done."""
    if job.status not in ("stopped", "failed"):
        raise UnusableInput(f"The training {job.name} is {job.status}; only a stopped or failed one can be resumed.")
    write_row(job.id, status="queued", stage="waiting", message="")
    refresh()
    return get(job.id)


def ask_sample(job: Job) -> None:
    """Ask the trainer to draw held-out frames now. It looks every other second."""
    if job.status == "running" and job.work.is_dir():
        (job.work / SAMPLE_REQUESTED).touch()


def ask_finish(job: Job) -> None:
    """Ask the trainer to end the training of the head here, and to make the avatar."""
    if job.status == "running" and job.work.is_dir():
        (job.work / FINISH_REQUESTED).touch()


def forget(job: Job) -> None:
    """Remove a job that is not running with its log, its kept clips and its unfinished training."""
    if job.status == "running":
        raise UnusableInput(f"The training {job.name} is running; stop it first.")
    with database() as connection:
        connection.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
    Path(job.log).unlink(missing_ok=True)
    shutil.rmtree(job.folder, ignore_errors=True)
    shutil.rmtree(job.work, ignore_errors=True)


def delete(name: str) -> None:
    """Remove an avatar of the workspace with all that was made on the way to it, or an unfinished training of that name.

    Errors: UnusableAvatar when it is bundled, unknown or still in training.
    """
    from gmtalker.avatars.storage import delete_avatar

    found = [job for job in jobs() if same_name(job.name, name)]
    if any(job.status in OPEN for job in found):
        raise UnusableAvatar(f"The avatar {name} is still in training; stop the training first.")
    if not found or own_avatar(name):
        delete_avatar(name)
    for job in found:
        forget(job)


def rename(name: str, new_name: str) -> Path:
    """Give an avatar another name, its finished training with it. Returns its folder.

    Errors: ValueError for a name that is none; UnusableAvatar when it is bundled, unknown, in training, or the name is taken.
    """
    from gmtalker.avatars.storage import rename_avatar

    everything = jobs()
    for wanted in (name, new_name):
        if any(same_name(job.name, wanted) and job.status != "done" for job in everything):
            raise UnusableAvatar(f"A training called {wanted} is not finished; finish or delete it first.")
    folder = rename_avatar(name, new_name)
    for job in everything:
        if same_name(job.name, name):
            write_row(job.id, name=clean_name(new_name))
            if job.work.is_dir() and job.work != get(job.id).work:
                shutil.rmtree(get(job.id).work, ignore_errors=True)
                job.work.rename(get(job.id).work)
    return folder


def command(job: Job) -> list[str]:
    """The public command that does this job, with its request as a file."""
    return [sys.executable, "-m", "personalize", "train", f"--request={job.request_file}", f"--job={job.id}", "--json"]


def _launch(job: Job) -> None:
    Path(job.log).parent.mkdir(parents=True, exist_ok=True)
    job.work.mkdir(parents=True, exist_ok=True)
    job.request.save(job.request_file)
    with open(job.log, "ab") as log:
        process = subprocess.Popen(
            command(job),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"GMTALKER_OWNER": job.owner, "PYTHONPATH": _python_path()},
        )
    write_row(job.id, pid=process.pid)
    threading.Thread(target=process.wait, daemon=True).start()  # nobody else collects it when it ends


def _python_path() -> str:
    """Where the trainer finds this code, too, when it is no installed package."""
    project = str(Path(gmtalker.__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))


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
