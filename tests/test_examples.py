"""Every example runs as its first lines say, and so does README's Python."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from conftest import write_speech
from media import bundled_clip, write_clip

from gmtalker.media.video import read_frames

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(tmp_path, home, monkeypatch, capsys):
    """Runs a program in an empty folder, with an empty workspace; gives what it printed."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(program: Path, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [str(program), *map(str, arguments)])
        runpy.run_path(str(program), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def speech(tmp_path) -> Path:
    """1.2 seconds: every stage runs, and nobody waits."""
    return write_speech(tmp_path / "speech.wav", 1.2)


def test_there_are_four_and_they_are_short():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == ["pretrain_tiny.py", "speak.py", "timeline.py", "train.py"]
    assert all(len(path.read_text().splitlines()) <= 30 for path in EXAMPLES.glob("*.py"))


def test_speak(run, speech):
    printed = run(EXAMPLES / "speak.py", speech, "out.mp4")
    assert Path("out.mp4").stat().st_size > 1000 and Path("out.request.json").is_file()
    assert "out.mp4" in printed and "drawing 100 %" in printed


def test_timeline(run):
    assert "after one second: (256, 256, 3)" in run(EXAMPLES / "timeline.py")


def test_train(run, speech, tmp_path):
    clip = write_clip(tmp_path / "me.mp4", list(read_frames(bundled_clip("idle.mp4")))[:76])  # the shortest that is taken
    assert "Somebody is ready" in run(EXAMPLES / "train.py", clip, "Somebody", 0.05, speech)
    assert Path("me-speaks.mp4").stat().st_size > 1000


def test_pretrain_tiny(run, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("idle.mp4", "preview.mp4"):
        (data / name).write_bytes(bundled_clip(name).read_bytes())
    rows = "idle.mp4,train,one,5\npreview.mp4,train,two,5\n"
    (data / "MANIFEST.csv").write_text(f"file,split,person,seconds\n{rows}")
    assert "coefficients" in run(EXAMPLES / "pretrain_tiny.py", data, "stages", 0.03)
    assert Path("stages/expression_generator/config.json").is_file()


def test_the_python_of_the_readme_runs(run, tmp_path, speech):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert blocks, "README shows no Python"
    program = tmp_path / "readme.py"
    program.write_text("\n".join(blocks) + "\nprint(len(frames), 'frames')\n", encoding="utf-8")
    Path("speech.wav").write_bytes(speech.read_bytes())
    assert "30 frames" in run(program)
