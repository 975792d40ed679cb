"""The page opens before the pipeline is loaded."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT

from gmtalker.errors import UnusableInput
from studio.loading import PipelineLoader


def test_whoever_needs_the_pipeline_waits_for_it():
    made = object()
    loader = PipelineLoader(lambda: made)
    given = []
    waiting = [threading.Thread(target=lambda: given.append(loader())) for _ in range(3)]
    for thread in waiting:
        thread.start()
    assert given == []
    loader.load()
    for thread in waiting:
        thread.join(10)
    assert given == [made] * 3 and loader() is made


def test_a_pipeline_that_can_not_be_loaded_tells_everybody_why():
    def fail() -> None:
        raise UnusableInput("The generic stages are missing.")

    loader = PipelineLoader(fail)
    for call in (loader.load, loader):
        with pytest.raises(UnusableInput, match="stages are missing"):
            call()


BROKEN = """
import sys
from gmtalker.errors import UnusableInput
from studio import page

def fail(device):
    raise UnusableInput("The generic stages are missing.")

page.bundled_stages = fail
sys.exit(page.main(sys.argv[1:]))
"""


def test_the_page_ends_with_a_sentence_when_the_pipeline_can_not_be_loaded(home: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # In a process of its own: a server sets the logging of its process up anew, and that closes what pytest listens with.
    command = [sys.executable, "-c", BROKEN, "--port", str(port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "The generic stages are missing."
    with socket.socket() as closed:
        assert closed.connect_ex(("127.0.0.1", port)) != 0


def test_nothing_that_takes_seconds_to_import_delays_the_page():
    heavy = (
        "torch",
        "diffusers",
        "transformers",
        "peft",
        "matplotlib",
        "mediapipe",
        "scipy",
        "numba",
        "librosa",
        "moviepy",
        "cv2",
    )
    code = f"import sys, studio.page; print(sorted(set({heavy}) & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_a_port_that_is_taken_is_one_sentence(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([sys.executable, "app.py", "--port", port], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and f"Port {port} is taken" in done.stderr
