"""Every example runs as its first lines say, and so does README's Python."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gmtalker.assets import BUNDLED, SPEECH

ROOT = Path(__file__).resolve().parent.parent
FOOTAGE = BUNDLED / "grid-s1"


def run(code: list[str], folder: Path) -> str:
    done = subprocess.run([sys.executable, *code], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("GMTALKER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def short_speech(tmp_path_factory):
    """1.2 seconds: every stage runs, and nobody waits."""
    from conftest import write_speech

    return write_speech(tmp_path_factory.mktemp("speech") / "short.wav", 1.2)


def test_there_are_four_and_they_are_short():
    examples = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert examples == ["pretrain_tiny.py", "speak.py", "timeline.py", "train.py"]
    assert all(len(path.read_text().splitlines()) <= 30 for path in (ROOT / "examples").glob("*.py"))


def test_speak(tmp_path, short_speech):
    printed = run([str(ROOT / "examples" / "speak.py"), str(short_speech), "out.mp4"], tmp_path)
    assert (tmp_path / "out.mp4").stat().st_size > 1000 and (tmp_path / "out.request.json").is_file()
    assert "out.mp4" in printed and "drawing 100 %" in printed


def test_timeline(tmp_path):
    printed = run([str(ROOT / "examples" / "timeline.py")], tmp_path)
    assert "after one second: (256, 256, 3)" in printed


def test_train(tmp_path):
    printed = run([str(ROOT / "examples" / "train.py"), str(FOOTAGE / "preview.mp4"), "Somebody", "0.05"], tmp_path)
    assert "Somebody is ready" in printed and (tmp_path / "preview-speaks.mp4").stat().st_size > 1000


def test_pretrain_tiny(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("idle.mp4", "preview.mp4"):
        (data / name).write_bytes((FOOTAGE / name).read_bytes())
    rows = "idle.mp4,train,one,5\npreview.mp4,train,two,5\n"
    (data / "MANIFEST.csv").write_text(f"file,split,person,seconds\n{rows}")
    printed = run([str(ROOT / "examples" / "pretrain_tiny.py"), "data", "stages", "0.05"], tmp_path)
    assert "coefficients" in printed and (tmp_path / "stages" / "speech_encoder" / "config.json").is_file()


def test_the_python_of_the_readme_runs(tmp_path, short_speech):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert blocks, "README shows no Python"
    (tmp_path / "speech.wav").write_bytes(short_speech.read_bytes())
    (tmp_path / "readme.py").write_text("\n".join(blocks) + "\nprint(len(list(performance)), 'frames')\n", encoding="utf-8")
    assert "30 frames" in run(["readme.py"], tmp_path)


def test_the_speech_that_examples_use_is_there():
    assert SPEECH.is_file()
