"""The queue of trainings: what may enter it, starting and stopping trainers, and what becomes of their jobs."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import psutil

import gmtalker
from gmtalker.avatars.workspace import clean_name, owner, private_home, workspace
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.files import NAME_BYTES_MAX
from personalize.jobs.job import OPEN, Job, estimate, free_disk, own_avatar, same_name, uploads_folder
from personalize.jobs.store import add_row, claim_next, delete_row, get, jobs, write_row
from personalize.jobs.trainer import LOST, STOPPED
from personalize.progress import FINISH_REQUESTED, SAMPLE_REQUESTED
from personalize.request import TrainRequest

QUEUED_MAX, QUEUED_MAX_EACH = 8, 3  # trainings; of each, where several people come in
SILENT_SECONDS = 10  # without a heartbeat, after which a trainer counts as dead
STARTING_SECONDS = 300  # importing torch takes minutes on a busy machine; a process that is gone shows at once


def start(request: TrainRequest, keep_clips: bool = False) -> Job:
    """Put a training in the queue; it starts at once when no other runs.

    keep_clips: copy the clips into the workspace, for uploads that the page's server deletes after a day.
    Errors: as create.
    """
    job = create(request, keep_clips)
    refresh()
    return get(job.id)


def create(request: TrainRequest, keep_clips: bool = False, here: bool = False) -> Job:
    """Add a job to the queue, or the unfinished job of the same name and clips again, which then resumes.

    keep_clips: as for start.
    here: this process does the training itself, so nobody else may start it.
    Errors: UnusableInput when the name is taken, a clip is missing, the queue is full, or there is too little room on the disk.
    """
    _check(request, keep_clips, here)
    _find_dead()
    for old in jobs():
        if not same_name(old.name, request.name) or old.status == "done":
            continue
        if old.status in OPEN:
            raise UnusableAvatar(f"A training called {old.name} is already {old.status}; wait for it, or stop it first.")
        if _is_the_same(old.request, request):
            state = _first_state(here)
            write_row(old.id, **state, message="", heartbeat=time.time(), preset=request.preset, minutes=request.minutes)
            return get(old.id)
        forget(old)  # other clips or another size under the same name: nothing of the earlier person may slip into this one
    return _insert(request, keep_clips, here)


def _check(request: TrainRequest, keep_clips: bool, here: bool) -> None:
    """Errors: UnusableInput for whatever prevents the training."""
    for clip in request.clips:
        if not clip.is_file():
            raise UnusableInput(f"There is no file {clip}; please check the name.")
    if own_avatar(request.name):
        raise UnusableAvatar(f"There is already an avatar called {request.name}; choose another name, or delete it first.")
    most = QUEUED_MAX_EACH if owner() else QUEUED_MAX
    if not here and sum(job.status == "queued" for job in jobs()) >= most:  # one's own: nobody fills the line for others
        raise UnusableInput(f"{most} trainings are waiting already; please come back when some are done.")
    copied = sum(clip.stat().st_size for clip in request.clips) * keep_clips
    needed = estimate(request.training_minutes, 0.0, 0.0, copied, request.size or 512).disk
    if (free := free_disk()) < needed:
        sizes = f"{needed / 2**20:.0f} MB of disk and {free / 2**20:.0f} MB are free"
        raise UnusableInput(f"The training needs {sizes}; make room first.")


def _insert(request: TrainRequest, keep_clips: bool, here: bool) -> Job:
    """Add a new row; with keep_clips for copies of the clips in the job's folder."""
    identifier = uuid.uuid4().hex[:12]
    log = workspace() / "logs" / f"{identifier}.jsonl"
    if keep_clips:
        folder = uploads_folder(identifier)
        folder.mkdir(parents=True)
        copies = {clip: folder / _copy_name(number, clip) for number, clip in enumerate(request.clips)}
        for clip, copy in copies.items():
            shutil.copyfile(clip, copy)
        emotions = {copies[clip]: emotion for clip, emotion in request.emotions.items()}
        look = None if request.look is None else copies[request.look]
        request = replace(request, clips=list(copies.values()), emotions=emotions, look=look)
    values = {name: value for name, value in request.to_json().items() if name != "request"}
    values |= {"size": request.size or 0, "look": values["look"] or ""}
    job = Job(id=identifier, log=str(log), owner=owner(), **values, **_first_state(here))
    add_row(job)
    return job


def _copy_name(number: int, clip: Path) -> str:
    """A copy's name: the clip's, after a number that keeps two of one name apart, as long as names can be."""
    suffix = clip.suffix[:16]
    whole = f"{number:02d} {clip.stem}".encode(errors="replace")[: NAME_BYTES_MAX - len(suffix.encode(errors="replace"))]
    return whole.decode(errors="ignore") + suffix


def _is_the_same(old: TrainRequest, new: TrainRequest) -> bool:
    """Whether an unfinished training goes on with a new request: of the same clips, and of no other size or look."""
    if _contents(old) != _contents(new) or new.size not in (None, old.size):
        return False
    return new.look is None or old.look is not None and _digest(old.look) == _digest(new.look)


def _contents(request: TrainRequest) -> list[tuple[str, str]]:
    """Digest and emotion of each clip, but not its name: copies have other names than the uploads."""
    return sorted((_digest(clip), request.emotions.get(clip, "")) for clip in request.clips)


def _digest(clip: Path) -> str:
    try:
        with open(clip, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"no file {clip}"


def _first_state(here: bool) -> dict:
    if here:
        return {"status": "running", "stage": "starting", "pid": os.getpid()}
    return {"status": "queued", "stage": "waiting", "pid": None}


def refresh() -> None:
    """Find dead trainers and start the next job in the queue, if none runs."""
    try:
        _find_dead()
        identifier = claim_next(time.time())
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        return  # somebody was halted in the middle of writing: the next refresh looks again
    if identifier is None:
        return
    try:
        _launch(get(identifier, everybodys=True))
    except (OSError, ValueError) as error:  # ValueError: a row that no version of this program wrote
        reason = error.strerror if isinstance(error, OSError) else error
        write_row(identifier, status="failed", message=f"The training could not be started: {reason}.")


def _find_dead() -> None:
    """Mark the trainings whose process is gone, so that they can be done again."""
    now = time.time()
    for job in jobs(everybodys=True):
        if job.status == "running" and _is_dead(job, now):
            status, message = ("stopped", STOPPED) if job.stage == "stopping" else ("failed", LOST)
            unchanged = ("status = 'running' AND heartbeat = ?", job.heartbeat)  # it may have ended properly since
            write_row(job.id, *unchanged, status=status, message=message, seconds_left=None)


def stop(job: Job) -> Job:
    """End a queued or running job; returns it when its process is gone, which is killed after 10 s."""
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
    """Put a stopped or failed job back in the queue.

    Errors: UnusableInput when it is queued, running or done.
    """
    if job.status not in ("stopped", "failed"):
        raise UnusableInput(f"The training {job.name} is {job.status}; only a stopped or failed one can be resumed.")
    write_row(job.id, status="queued", stage="waiting", message="")
    refresh()
    return get(job.id)


def ask_sample(job: Job) -> None:
    """Ask the trainer to show held-out frames now; it looks for the request every two seconds."""
    if job.status == "running" and job.work.is_dir():
        (job.work / SAMPLE_REQUESTED).touch()


def ask_finish(job: Job) -> None:
    """Ask the trainer to end the training of the head now, and to make the avatar."""
    if job.status == "running" and job.work.is_dir():
        (job.work / FINISH_REQUESTED).touch()


def forget(job: Job) -> None:
    """Delete a job that is not running, with its log, the copies of its clips and its work folder.

    Errors: UnusableInput when it is running.
    """
    if job.status == "running":
        raise UnusableInput(f"The training {job.name} is running; stop it first.")
    delete_row(job.id)
    Path(job.log).unlink(missing_ok=True)
    shutil.rmtree(job.folder, ignore_errors=True)
    shutil.rmtree(job.work, ignore_errors=True)


def delete(name: str) -> None:
    """Delete an avatar of the workspace with its jobs, or the unfinished trainings of that name.

    Errors: UnusableAvatar when it is bundled, unknown or still in training.
    """
    from gmtalker.avatars.storage import delete_avatar  # late: it brings torch, for which a trainer's first beat need not wait

    found = [job for job in jobs() if same_name(job.name, name)]
    if any(job.status in OPEN for job in found):
        raise UnusableAvatar(f"The avatar {name} is still in training; stop the training first.")
    if not found or own_avatar(name):
        delete_avatar(name)
    for job in found:
        forget(job)


def rename(name: str, new_name: str) -> Path:
    """Rename an avatar, and its finished training with it.

    Returns: its folder.
    Errors: ValueError for an invalid name, UnusableAvatar when it is bundled, unknown, in training, or the name is taken.
    """
    from gmtalker.avatars.storage import rename_avatar  # late, as in delete

    everything = jobs()
    for wanted in (name, new_name):
        if any(same_name(job.name, wanted) and job.status != "done" for job in everything):
            raise UnusableAvatar(f"A training called {wanted} is not finished; finish or delete it first.")
    folder = rename_avatar(name, new_name)
    for job in everything:
        if same_name(job.name, name):
            write_row(job.id, name=clean_name(new_name))
            _move_work(job, get(job.id))
    return folder


def _move_work(job: Job, renamed: Job) -> None:
    """Move the work folder to the new name's, and put that into its request."""
    if job.work.is_dir() and job.work != renamed.work:
        shutil.rmtree(renamed.work, ignore_errors=True)
        job.work.rename(renamed.work)
    if renamed.request_file.is_file():
        renamed.request.save(renamed.request_file)


def command(job: Job) -> list[str]:
    """The public command that does a job; its request is a file."""
    return [sys.executable, "-m", "personalize", "train", f"--request={job.request_file}", f"--job={job.id}", "--json"]


def _launch(job: Job) -> None:
    private_home()
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
            env=os.environ | {"GMTALKER_OWNER": job.owner, "PYTHONPATH": _python_path(), "PYTHONSAFEPATH": "1"},
        )
    write_row(job.id, pid=process.pid)
    threading.Thread(target=process.wait, daemon=True).start()  # nobody else collects it when it ends


def _python_path() -> str:
    """Where the trainer finds this very code, installed or not; PYTHONSAFEPATH keeps the current folder from coming first."""
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
