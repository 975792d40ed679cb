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

from gmtalker.avatars.workspace import private_home
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.progress import Progress
from personalize import jobs
from personalize.__main__ import main
from personalize.check import Report
from personalize.consent import Consent
from personalize.report_line import ReportLine
from personalize.request import TrainRequest

ROOT = Path(__file__).resolve().parent.parent
CLIP_LINES = [ReportLine("length", "warn", "5 seconds", "Film longer.")]
PRETENDER = """
import sys, time
from gmtalker.errors import UnusableInput
from gmtalker.progress import Progress
from personalize import jobs

jobs.queue.command = lambda job: [sys.executable, __file__, job.id]
job = jobs.get(sys.argv[1])
try:
    with jobs.reporting(job) as on_progress:
        if job.name == "unusable":
            raise UnusableInput("Second 12 shows 2 faces.")
        for step in range(200 if job.name.startswith("long") else 3):
            figures = {"step": step, "steps": 200, "its": 10.0}
            on_progress(Progress("training", step, 200, percent=step / 2, seconds_left=20.0, figures=figures))
            time.sleep(0.1)
finally:
    jobs.refresh()
"""


@pytest.fixture
def clip(tmp_path, monkeypatch) -> Path:
    """A workspace of its own, the pretending trainer, and a clip with an awkward name. What still runs at the end is ended."""
    monkeypatch.setenv("GMTALKER_HOME", str(tmp_path / "home"))
    pretender = tmp_path / "pretender.py"
    pretender.write_text(PRETENDER)
    monkeypatch.setattr(jobs.queue, "command", lambda job: [sys.executable, str(pretender), job.id])
    clip = tmp_path / 'my "best" clip\'s.mp4'
    clip.write_bytes(b"film")
    yield clip
    for job in jobs.jobs():
        if job.status in jobs.OPEN:
            assert job.pid != os.getpid()  # it would end the tests
            jobs.stop(job)


def request(name: str, clip: Path, who: str = "Ada", **options) -> TrainRequest:
    return TrainRequest(name, [clip], Consent.given_now(who), **options)


def start(name: str, clip: Path, keep_clips: bool = False, **options) -> jobs.Job:
    return jobs.start(request(name, clip, **options), keep_clips)


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


def halt(process: int) -> None:
    """Stop a trainer as a sleeping machine does, but not while it writes: then nobody else could."""
    while True:
        os.kill(process, signal.SIGSTOP)
        try:
            connection = sqlite3.connect(private_home() / "studio.sqlite", timeout=0.2)
            connection.execute("BEGIN IMMEDIATE")
            connection.close()
            return
        except sqlite3.OperationalError:
            os.kill(process, signal.SIGCONT)
            time.sleep(0.05)


def test_a_refresh_while_somebody_holds_the_file_is_no_error(clip, monkeypatch):
    job = wait_for_step(start("held", clip))
    connection = sqlite3.connect(private_home() / "studio.sqlite")
    connection.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("personalize.jobs.store.LOCKED_SECONDS", 0.2)
    try:
        jobs.refresh()
    finally:
        connection.close()
    assert jobs.get(job.id).status == "running"


def test_a_silent_trainer_is_failed_and_one_that_wakes_up_takes_its_row_back(clip):
    job = wait_for_step(start("long", clip))
    halt(job.pid)
    try:
        wait_for(job, "failed", seconds=jobs.queue.SILENT_SECONDS + jobs.trainer.BEAT_SECONDS + 3)
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
        "import sys\nfrom personalize import jobs\nfrom personalize.consent import Consent\n"
        "from personalize.request import TrainRequest\n"
        "jobs.queue.command = lambda job: [sys.executable, sys.argv[1], job.id]\n"
        "jobs.start(TrainRequest('long', [sys.argv[2]], Consent.given_now('Ada')))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(starter), str(tmp_path / "pretender.py"), str(clip)], check=True, env=environment)
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
    checkpoint = job.work / "checkpoint"
    checkpoint.write_bytes(b"someone's face")
    jobs.stop(job)
    again = jobs.create(request("long", clip))
    assert again.id == job.id and checkpoint.exists()  # the same command goes on where it was
    jobs.stop(again)
    another = jobs.create(request("long", other, "Bob"))
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
        (["train", "{clip}", "--name", "anna"], 2, "Consent is required"),
        (["train", "{clip}", "--i-have-consent"], 2, "name"),
        (["train", "--request", "/no/such.json"], 1, "such.json"),
        (["train", "{clip}", "--name", "anna", "--i-have-consent", "--minutes", "nan"], 2, "minutes"),
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
    *stages, sentence = capsys.readouterr().err.strip().splitlines()
    assert words in sentence and sentence.endswith(".") and stages in ([], ["checking the clips (0 %)"])
    assert jobs.jobs() == []


def test_the_command_line_speaks_json(clip, capsys, tmp_path):
    job = wait_for(start("short", clip), "done")
    assert main(["status", "short", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == job.id
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trainings"] == []
    assert main(["check", "/no/such.mp4", "--json"]) == 1
    (result,) = json.loads(capsys.readouterr().out)["clips"]
    assert result["failed"] and result["error"]
    assert main(["check", "/no/such.mp4", "--json", str(tmp_path / "report.json")]) == 1
    assert json.loads((tmp_path / "report.json").read_text())["clips"] == [result] and "fail" in capsys.readouterr().out


def test_the_job_is_the_public_command_with_its_request_as_a_file(clip, monkeypatch):
    command = jobs.command  # the real one
    asked = request("Ünal's --face", clip, preset="draft", minutes=0.5, emotions={clip: "sad"}, size=512)
    job = jobs.start(asked)
    assert jobs.get(job.id).size == 512 and job.request == asked and TrainRequest.load(job.request_file) == asked
    assert job.request_file.parent == job.work
    options = [f"--request={job.request_file}", f"--job={job.id}", "--json"]
    assert command(job) == [sys.executable, "-m", "personalize", "train", *options]


def test_a_trainer_is_this_very_program_wherever_it_is_started(tmp_path, monkeypatch):
    """Where the command is run stands another package of the name; what the trainer says is in the log and in the row."""
    (tmp_path / "personalize").mkdir()
    (tmp_path / "personalize" / "__main__.py").write_text("print('impostor')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GMTALKER_HOME", "home of mine")  # as given: relative to here
    monkeypatch.setenv("GMTALKER_OWNER", "Ada")
    short = tmp_path / "short.mp4"
    short.write_bytes(b"no film")
    job = wait_for(start("Ada's", short), "failed")
    assert "short.mp4" in job.message and job.owner == "Ada" and job.work.is_relative_to(Path("home of mine/people"))
    psutil.wait_procs(
        [psutil.Process(job.pid)] if psutil.pid_exists(job.pid) else [], timeout=60
    )  # its last line follows its row
    lines = [json.loads(line) for line in Path(job.log).read_text().splitlines() if line.startswith("{")]
    assert lines[0] == {"stage": "checking the clips", "percent": 0.0, "seconds_left": None}
    assert lines[-1] == {"status": "failed", "error": job.message}


FIRST_SCHEMA = """CREATE TABLE jobs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, stage TEXT NOT NULL, step INTEGER, steps INTEGER,
    percent REAL NOT NULL, seconds_left REAL, its REAL, message TEXT NOT NULL, quality TEXT, pid INTEGER, heartbeat REAL NOT NULL,
    created REAL NOT NULL, log TEXT NOT NULL, clips TEXT NOT NULL, emotions TEXT NOT NULL, preset TEXT NOT NULL, minutes REAL,
    consent TEXT NOT NULL)"""  # as version 0.1 began; it added size and owner later


OLDER_JOBS = (("done", "done", 100.0), ("stopped", "stopped", 40.0), ("next", "queued", 0.0))


@pytest.fixture
def older_workspace(clip, tmp_path):
    """Jobs as the first version left them: one waiting, one stopped on the way, one done; no request on disk."""
    home = tmp_path / "home"
    home.mkdir()
    consent = json.dumps({"who": "Ada", "when": "2026-01-01T00:00:00+00:00", "words": "yes"})
    clips, emotions = json.dumps([str(clip)]), json.dumps({str(clip): "happy"})
    with sqlite3.connect(home / "studio.sqlite") as database:
        database.execute(FIRST_SCHEMA)
        for number, (name, status, percent) in enumerate(OLDER_JOBS):
            row = (str(number), name, status, "", None, None, percent, None, None, "", '{"psnr": 30.0}', None, 0.0, float(number))
            row += (str(home / "logs" / f"{name}.jsonl"), clips, emotions, "draft", None, consent)
            database.execute(f"INSERT INTO jobs VALUES ({', '.join('?' * len(row))})", row)
    checkpoint = home / "training" / "stopped" / "head.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    return checkpoint


def test_jobs_of_an_older_version_go_on(older_workspace, clip):
    done, stopped, queued = jobs.jobs()
    assert [job.status for job in (done, stopped, queued)] == ["done", "stopped", "queued"]
    assert {(job.size, job.owner) for job in (done, stopped, queued)} == {(256, "")} and done.quality == {"psnr": 30.0}
    jobs.refresh()
    assert wait_for(queued, "done").percent == 100
    made = TrainRequest.load(queued.request_file)
    assert made.clips == (clip,) and made.emotions == {clip: "happy"} and made.preset == "draft" and made.consent.who == "Ada"
    resumed = wait_for(jobs.resume(stopped), "done")
    assert resumed.id == stopped.id and older_workspace.exists() and TrainRequest.load(stopped.request_file).name == "stopped"


def test_the_same_clips_again_go_on_with_an_older_versions_job(older_workspace, clip):
    again = jobs.create(request("stopped", clip, emotions={clip: "happy"}, minutes=3.0))
    assert again.id == "1" and again.minutes == 3.0 and older_workspace.exists()


def test_a_row_that_holds_no_request_fails_with_a_sentence(clip):
    job = jobs.create(request("odd", clip))
    with sqlite3.connect(clip.parent / "home" / "studio.sqlite") as database:
        database.execute("UPDATE jobs SET preset = 'ultra'")
    jobs.refresh()
    failed = jobs.get(job.id)
    assert failed.status == "failed" and "ultra" in failed.message


def test_a_renamed_avatar_takes_its_training_along(clip, monkeypatch):
    job = wait_for(start("short", clip), "done")
    (job.work / "strip.jpg").write_bytes(b"picture")
    monkeypatch.setattr("gmtalker.avatars.storage.rename_avatar", lambda name, new_name: Path(new_name))
    jobs.rename("short", "Brief One")
    renamed = jobs.get(job.id)
    assert renamed.name == "Brief One" and not job.work.exists() and (renamed.work / "strip.jpg").exists()
    assert TrainRequest.load(renamed.request_file).name == "Brief One"


def test_a_row_keeps_what_a_report_does_not_know(clip):
    job = jobs.create(request("here", clip), here=True)
    with pytest.raises(RuntimeError), jobs.reporting(job) as on_progress:
        quality = {"psnr": 31.0, "enough": False}
        figures = {"step": 7, "its": 2.5, "quality": quality, "pixel": 0.1}
        on_progress(Progress("head", percent=42.0, seconds_left=9.0, figures=figures))
        on_progress(Progress("head", message="Still there."))  # nothing but a sign of life
        row = jobs.get(job.id)
        assert (row.stage, row.percent, row.seconds_left, row.step, row.its) == ("head", 42.0, 9.0, 7, 2.5)
        assert row.quality == quality and row.message == "Still there."
        on_progress(Progress("measuring", percent=92.0))  # the figures of a stage end with it
        row = jobs.get(job.id)
        assert (row.percent, row.seconds_left, row.step, row.its) == (92.0, None, None, None) and row.quality == quality
        raise RuntimeError("out of memory")
    row = jobs.get(job.id)
    assert row.status == "failed" and "RuntimeError: out of memory" in row.message and row.log in row.message


def test_training_speaks_json_lines(clip, capsys, monkeypatch):
    def train_avatar(request, on_progress):
        on_progress(Progress("finding the face", 0, 100, percent=0.0, seconds_left=90))
        on_progress(Progress("finding the face", figures={"step": 50}))
        figures = {"step": 3, "its": 1.5, "quality": {"psnr": 30.0}, "pixel": 0.1}
        for _ in range(2):  # the same percentage twice, with figures of its own each time
            on_progress(Progress("training the head", 10, 100, 26.4, 60, figures=figures))
        on_progress(Progress("training the head", message="The sound is late."))
        return Path("/home/avatars/anna")

    monkeypatch.setattr("personalize.train.train_avatar", train_avatar)
    monkeypatch.setattr("personalize.check.check_clips", lambda clips, in_step: [Report(clip.name, CLIP_LINES) for clip in clips])
    assert main(["train", str(clip), "--name", "anna", "--i-have-consent", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("stage") for line in lines] == [
        "checking the clips", "", "finding the face", "finding the face", "training the head", "training the head",
        "training the head", None,
    ]  # fmt: skip
    assert lines[1]["message"] == "Length: 5 seconds. Film longer." and "percent" not in lines[1]
    assert (lines[2]["percent"], lines[2]["seconds_left"]) == (0.0, 90) and lines[3]["step"] == 50 and "percent" not in lines[3]
    wanted = {"stage", "percent", "seconds_left", "step", "its", "quality", "pixel"}
    assert set(lines[4]) == set(lines[5]) == wanted and lines[4]["percent"] == 26.4 and lines[4]["quality"] == {"psnr": 30.0}
    assert lines[6]["message"] == "The sound is late." and "percent" not in lines[6]
    assert lines[7]["status"] == "done" and lines[7]["avatar"] == "/home/avatars/anna"


def test_a_saved_request_is_trained_as_it_stands(clip, capsys, monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr("personalize.train.train_avatar", lambda request, on_progress: trained.append(request) or tmp_path)
    monkeypatch.setattr("personalize.check.check_clips", lambda paths, in_step: [Report(path.name, []) for path in paths])
    asked = request("anna", clip, preset="draft", emotions={clip: "sad"}, size=512)
    asked.save(tmp_path / "asked.json")
    assert main(["train", "--request", str(tmp_path / "asked.json")]) == 0 and trained == [asked]
    assert main(["train", str(clip), "--request", str(tmp_path / "asked.json")]) == 2
    assert "--request" in capsys.readouterr().err
    assert main(["train", "--request", str(clip)]) == 1 and "saved request" in capsys.readouterr().err


def test_after_a_kill_the_same_command_goes_on_at_once(clip):
    """Nobody need look at the list of trainings before: the row of the killed process still says that it runs."""
    job = start("long", clip)
    wait_for(job, "running")
    trainer = psutil.Process(jobs.get(job.id).pid)
    trainer.kill()
    psutil.wait_procs([trainer], timeout=10)
    assert jobs.get(job.id).status == "running"
    again = jobs.create(request("long", clip), here=True)
    assert again.id == job.id and again.pid == os.getpid()
    jobs.store.write_row(again.id, status="stopped", pid=None)  # this process trains nothing
