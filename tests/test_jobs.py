"""Training jobs with a trainer that only pretends: what happens to the row is real."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gmtalker.errors import UnusableAvatar, UnusableInput
from personalize import jobs
from personalize.__main__ import main
from personalize.consent import Consent

PRETENDER = """
import sys, time
from gmtalker.errors import UnusableInput
from personalize import jobs

jobs.command = lambda job: [sys.executable, __file__, job.id]
job = jobs.get(sys.argv[1])
try:
    with jobs.reporting(job) as report:
        if job.name == "unusable":
            raise UnusableInput("Second 12 shows 2 faces.")
        for step in range(200 if job.name.startswith("long") else 3):
            report({"stage": "training", "step": step, "steps": 200, "percent": step / 2, "its": 10.0, "seconds_left": 20.0})
            time.sleep(0.1)
finally:
    jobs.refresh()
"""


@pytest.fixture
def clip(tmp_path, monkeypatch) -> Path:
    """A workspace of its own, the pretending trainer, and a clip with an awkward name. What still runs at the end is ended."""
    monkeypatch.setenv("GMTALKER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(jobs.PROJECT), os.environ.get("PYTHONPATH", "")]))
    pretender = tmp_path / "pretender.py"
    pretender.write_text(PRETENDER)
    monkeypatch.setattr(jobs, "command", lambda job: [sys.executable, str(pretender), job.id])
    clip = tmp_path / 'my "best" clip\'s.mp4'
    clip.write_bytes(b"film")
    yield clip
    for job in jobs.jobs():
        if job.status in jobs.OPEN:
            jobs.stop(job)


def start(name: str, clip: Path, **options) -> jobs.Job:
    return jobs.start(name, [clip], Consent.given_now("Ada"), **options)


def wait_for(job: jobs.Job, *statuses: str, seconds: float = 180) -> jobs.Job:
    end = time.time() + seconds
    while time.time() < end:
        jobs.refresh()
        job = jobs.get(job.id)
        if job.status in statuses:
            return job
        time.sleep(0.1)
    raise AssertionError(f"still {job.status} after {seconds} s: {job}")


def wait_for_step(job: jobs.Job) -> jobs.Job:
    end = time.time() + 180
    while not jobs.get(job.id).step:
        jobs.refresh()
        assert time.time() < end and jobs.get(job.id).status in jobs.OPEN, jobs.get(job.id)
        time.sleep(0.1)
    return jobs.get(job.id)


def test_progress_is_seen_and_a_finished_job_is_done_without_copies_of_the_clips(clip):
    job = start("long walk", clip, minutes=0.5, emotions={clip: "happy"}, keep_clips=True)
    kept = Path(job.clips[0])
    assert kept != clip and kept.read_bytes() == b"film" and job.emotions == {str(kept): "happy"}
    seen = wait_for_step(job)
    assert (seen.status, seen.stage, seen.steps, seen.its) == ("running", "training", 200, 10.0)
    assert "20 s left" in seen.summary() and "10.0 it/s" in seen.summary()
    short = start("short", clip, keep_clips=True)
    jobs.stop(seen)
    done = wait_for(short, "done")
    assert done.percent == 100 and not done.folder.exists()


def test_a_killed_trainer_is_failed_within_ten_seconds(clip):
    job = wait_for_step(start("long", clip))
    os.kill(job.pid, signal.SIGKILL)
    killed = time.time()
    lost = wait_for(job, "failed", seconds=10)
    assert time.time() - killed < 10 and lost.message == jobs.LOST


def test_a_silent_trainer_is_failed_and_one_that_wakes_up_takes_its_row_back(clip):
    job = wait_for_step(start("long", clip))
    os.kill(job.pid, signal.SIGSTOP)  # as a sleeping machine does
    try:
        wait_for(job, "failed", seconds=jobs.SILENT_SECONDS + jobs.BEAT_SECONDS + 3)
    finally:
        os.kill(job.pid, signal.SIGCONT)
    assert wait_for(job, "running", seconds=5).message == ""


def test_one_training_at_a_time_and_the_next_starts_by_itself(clip):
    first, second = start("first", clip), start("second", clip)
    assert (first.status, second.status) == ("running", "queued")
    end = time.time() + 180
    while (status := jobs.get(second.id).status) != "done":  # nobody refreshes here: the trainer before it starts it
        assert not (status == "running" and jobs.get(first.id).status == "running")
        assert time.time() < end
        time.sleep(0.1)


def test_the_trainer_outlives_the_process_that_started_it(clip, tmp_path):
    starter = tmp_path / "starter.py"
    starter.write_text(
        "import sys\nfrom pathlib import Path\nfrom personalize import jobs\nfrom personalize.consent import Consent\n"
        "jobs.command = lambda job: [sys.executable, sys.argv[1], job.id]\n"
        "jobs.start('long', [Path(sys.argv[2])], Consent.given_now('Ada'))\n"
    )
    subprocess.run([sys.executable, str(starter), str(tmp_path / "pretender.py"), str(clip)], check=True)
    job = wait_for_step(jobs.find("long"))
    time.sleep(1)
    assert jobs.get(job.id).step > job.step


def test_stop_ends_the_process_and_resume_goes_on_with_the_same_row(clip):
    job = wait_for_step(start("long", clip))
    stopped = jobs.stop(job)
    assert stopped.status == "stopped" and not psutil.pid_exists(job.pid)
    with pytest.raises(UnusableInput, match="no training"):
        jobs.find("someone else")
    resumed = jobs.resume(stopped)
    assert (resumed.id, resumed.status) == (job.id, "running")
    queued = start("waiting", clip)
    assert jobs.stop(queued).status == "stopped"


def test_an_unusable_clip_fails_with_its_sentence(clip):
    assert wait_for(start("unusable", clip), "failed").message == "Second 12 shows 2 faces."


def test_a_name_belongs_to_one_person(clip, tmp_path):
    other = tmp_path / "other.mp4"
    other.write_bytes(b"another film")
    job = wait_for_step(start("long", clip))
    with pytest.raises(UnusableAvatar, match="already running"):
        start("long", other)
    checkpoint = jobs._workspace() / "training" / "long" / "checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"someone's face")
    jobs.stop(job)
    again = jobs.create("long", [clip], Consent.given_now("Ada"))
    assert again.id == job.id and checkpoint.exists()  # the same command goes on where it was
    jobs.stop(again)
    another = jobs.create("long", [other], Consent.given_now("Bob"))
    assert another.id != job.id and not checkpoint.exists()
    jobs.stop(another)
    jobs.delete("long")
    assert jobs.jobs() == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"preset": "best"}, "draft, standard, high"),
        ({"minutes": -1.0}, "minutes"),
        ({"emotions": {Path("x.mp4"): "sad"}}, "x.mp4"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(clip, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        start("anna", clip, **options)
    assert jobs.jobs() == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "{clip}", "--name", "anna"], 2, "consent"),
        (["train", "{clip}", "--name", "anna", "--i-have-consent", "--emotion", "{clip}=cheerful"], 2, "happy"),
        (["train", "{clip}", "--name", " ", "--i-have-consent"], 2, "name"),
        (["train", "/no/such.mp4", "--name", "anna", "--i-have-consent"], 1, "/no/such.mp4"),
        (["train", "{clip}", "--name", "anna", "--i-have-consent"], 1, ""),
        (["status", "anna"], 1, "anna"),
        (["stop", "anna"], 1, "anna"),
        (["resume", "anna"], 1, "anna"),
        (["delete", "anna", "--yes"], 1, "anna"),
        (["export", "anna"], 1, "anna"),
    ],
)
def test_the_command_line_says_one_sentence_and_leaves_nothing(clip, capsys, arguments, code, words):
    assert main([argument.format(clip=clip) for argument in arguments]) == code
    said = capsys.readouterr()
    assert words in said.err and said.err.strip().count("\n") == 0 and "Traceback" not in said.err
    assert jobs.jobs() == []


def test_the_command_line_speaks_json(clip, capsys):
    job = wait_for(start("short", clip), "done")
    assert main(["status", "short", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == job.id
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trainings"] == []
    assert main(["check", "/no/such.mp4", "--json"]) == 1
    (result,) = json.loads(capsys.readouterr().out)["clips"]
    assert result["failed"] and result["error"]


def test_the_job_is_the_public_command(monkeypatch, tmp_path):
    monkeypatch.setenv("GMTALKER_HOME", str(tmp_path))
    job = jobs.Job("1", "Ünal's --face", ["/a/b c.mp4"], "draft", 0.5, {}, "/log", {"/a/b c.mp4": "sad"})
    command = jobs.command(job)
    assert command[:4] == [sys.executable, "-m", "personalize", "train"] and command[-1] == "/a/b c.mp4"
    assert "--name=Ünal's --face" in command and "--emotion=/a/b c.mp4=sad" in command and "--minutes=0.5" in command


@pytest.mark.parametrize(
    ("who", "when", "words"), [("", "2026-01-01", "yes"), ("Ada", "yesterday", "yes"), ("Ada", "2026-01-01", " ")]
)
def test_consent_is_complete_or_not_made(who, when, words):
    with pytest.raises(ValueError):
        Consent(who, when, words)


def test_the_size_is_kept_and_asked_for(clip, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("GMTALKER_HOME", str(clip.parent / "home"))
    consent = Consent.given_now("Ada")
    job = jobs.create("large", [clip], consent, size=512)
    assert jobs.get(job.id).size == 512 and "--size=512" in jobs.command(job)
    assert not any("--size" in option for option in jobs.command(jobs.create("usual", [clip], consent)))
    with pytest.raises(ValueError, match="256, 512, 1024"):
        jobs.create("odd", [clip], consent, size=300)


def test_a_workspace_of_an_older_version_is_read(clip):
    jobs.create("old", [clip], Consent.given_now("Ada"))
    with sqlite3.connect(jobs._workspace() / "studio.sqlite") as database:
        database.execute("ALTER TABLE jobs DROP COLUMN size")
    assert [job.size for job in jobs.jobs()] == [256]
