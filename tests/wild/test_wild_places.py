"""Names, places and accidents: one sentence each, before the work, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import write_speech

from gmtalker import files
from gmtalker.__main__ import main
from gmtalker.request import SpeakRequest
from studio.live_video import player

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path, tiny_generic, tiny_avatar, monkeypatch):
    monkeypatch.setattr("gmtalker.stages.GENERIC", tiny_generic)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "name", ["-speech.wav", "100%20 sure %s #1 ?x=1&y=2.wav", "NO_EXTENSION", "new\nline.wav", "长" * 80 + ".wav"]
)
def test_speech_of_any_name_is_spoken(place, name):
    write_speech(place / name)
    assert main(["speak", "--avatar", "tiny", "--speech", name, "--output", "out.mp4"]) == 0
    line = SpeakRequest(Path(name)).command()
    printed = subprocess.run(
        ["sh", "-c", f'printf "%s\\n" {line.split("speak ", 1)[1]}'], capture_output=True, text=True, cwd=place
    )
    assert name in printed.stdout, "the printed command names the very file"


def test_a_clip_whose_name_begins_with_a_dash_is_checked(place):
    from personalize.__main__ import main as personalize

    (place / "-me.mp4").write_text("no film")
    assert personalize(["check", "-me.mp4"]) == 1


@pytest.mark.parametrize("option", ["--output", "--tracks"])
def test_a_name_that_is_too_long_is_told_before_the_work(place, capsys, option):
    write_speech(place / "speech.wav")
    suffix = ".mp4" if option == "--output" else ".safetensors"
    wanted = {"--output": "out.mp4", option: "a" * 300 + suffix}
    words = [word for pair in wanted.items() for word in pair]
    assert main(["speak", "--avatar", "tiny", "--speech", "speech.wav", *words]) == 1
    assert "too long" in said(capsys) and not (place / "out.mp4").exists()


def test_names_as_long_as_names_can_be_are_written(place):
    write_speech(place / "speech.wav")
    names = "a" * (255 - len(".request.json") - 4) + ".mp4", "b" * 230 + ".safetensors"
    assert main(["speak", "--avatar", "tiny", "--speech", "speech.wav", "--output", names[0], "--tracks", names[1]]) == 0
    assert (place / names[0]).exists() and (place / names[1]).exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_is_told_before_the_work(place, capsys):
    write_speech(place / "speech.wav")
    (place / "locked").mkdir(mode=0o500)
    assert main(["speak", "--avatar", "tiny", "--speech", "speech.wav", "--output", "locked/out.mp4"]) == 1
    assert "Nothing can be written" in said(capsys)


def test_a_workspace_that_can_not_be_used_is_named(place, capsys, monkeypatch):
    write_speech(place / "speech.wav")
    (place / "file").touch()
    monkeypatch.setenv("GMTALKER_HOME", str(place / "file" / "home"))
    assert main(["speak", "--speech", "speech.wav", "--output", "out.mp4"]) == 1
    assert "GMTALKER_HOME" in said(capsys)


def test_a_terminal_that_knows_ascii_alone_gets_escapes(tmp_path):
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gmtalker", "verify", str(tmp_path / "长.mp4")]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=ROOT)
    assert done.returncode == 1 and b"Traceback" not in done.stderr and b"does not exist" in done.stderr


def test_what_a_killed_run_left_is_swept_by_the_next(place, tmp_path):
    """A process that dies in the middle of a film, then another film in the same folder."""
    script = (
        "import sys, time\nimport numpy as np\nfrom gmtalker.media.video_writer import VideoWriter\n"
        f"with VideoWriter({str(tmp_path / 'half.mp4')!r}, 64, 64) as writer:\n"
        "    writer.write(np.zeros((64, 64, 3), np.uint8))\n    print('writing', flush=True)\n    time.sleep(60)\n"
    )
    writing = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert writing.stdout.readline().strip() == b"writing"
    assert len(list(tmp_path.glob(".writing-*"))) == 1
    files.sweep(tmp_path)
    assert len(list(tmp_path.glob(".writing-*"))) == 1, "it still lives"
    writing.send_signal(signal.SIGKILL)
    writing.wait()
    write_speech(place / "speech.wav")
    for _ in range(20):  # its ffmpeg ends a moment later
        assert main(["speak", "--avatar", "tiny", "--speech", "speech.wav", "--output", "out.mp4"]) == 0
        if not list(tmp_path.glob(".writing-*")):
            break
        time.sleep(0.2)
    assert not list(tmp_path.glob(".writing-*"))


def test_hidden_files_of_others_are_not_swept(tmp_path):
    for name in (".writing-ffffff-1-x", ".writing-mine", f"{files.unfinished_prefix()}x"):
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(("root", "source"), [("", "/live/x"), ("/studio", "/studio/live/x"), ("https://a.org/b/", "/b/live/x")])
def test_the_growing_video_is_found_below_a_path(monkeypatch, root, source):
    monkeypatch.setenv("GRADIO_ROOT_PATH", root)
    assert f'src="{source}"' in player("x")


def test_the_page_asks_itself_not_a_proxy(monkeypatch):
    from studio.deployment import reach_itself

    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    reach_itself("10.0.0.1")
    assert os.environ["NO_PROXY"].split(",") == ["example.org", "localhost", "127.0.0.1", "::1", "10.0.0.1"]
    assert "127.0.0.1" in os.environ["no_proxy"]
    monkeypatch.setenv("no_proxy", "")


def test_folders_of_killed_processes_are_swept_when_the_next_one_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for kind in (files.HIDDEN, files.PLAIN):
        stale = tmp_path / files.unfinished_prefix(kind).replace(f"-{os.getpid()}-", f"-{ended.pid}-")
        (stale / "inside").mkdir(parents=True)
    (tmp_path / "gmtalker-mine").mkdir()
    with files.temporary_folder() as one, files.temporary_folder(tmp_path) as other:
        assert {path.name for path in tmp_path.iterdir()} == {"gmtalker-mine", one.name, other.name}
        assert not one.name.startswith(".") and other.name.startswith(".")
    assert [path.name for path in tmp_path.iterdir()] == ["gmtalker-mine"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_visitors_sent_goes_with_the_page_or_at_its_next_start(tmp_path, end):
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "GMTALKER_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "app.py", "--port", str(port)]
    page = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    own = [path for path in tmp_path.iterdir() if path.name.startswith(files.HIDDEN)]
    assert len(own) == 1
    page.send_signal(end)
    page.wait(60)
    assert own[0].exists() == (end == signal.SIGKILL)
    with files.temporary_folder(tmp_path):
        assert not own[0].exists()
