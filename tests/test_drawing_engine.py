"""Whatever runs the head generator draws the same: torch as it is, OpenVINO to 45 dB of it."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from gmtalker.avatars import drawing_engine as module
from gmtalker.avatars.drawing_engine import DRAW_BATCH, OpenVinoEngine, TorchEngine, drawing_engine, engine_name
from gmtalker.errors import UnusableInput
from gmtalker.models.head_generator import HeadGenerator

CPU, SIZE = torch.device("cpu"), 64
openvino = pytest.mark.skipif(not module.importlib.util.find_spec("openvino"), reason="needs OpenVINO: pip install openvino")


@pytest.fixture(scope="module")
def network() -> HeadGenerator:
    torch.manual_seed(0)
    return HeadGenerator(SIZE, style_dim=8, widths=(8, 8, 8), has_matte=True).eval()


@pytest.fixture
def pictures() -> tuple[np.ndarray, torch.Tensor]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (DRAW_BATCH + 3, SIZE, SIZE, 8), np.uint8), torch.randn(DRAW_BATCH + 3, 8)


def in_float(network: HeadGenerator, rendering: np.ndarray, style: torch.Tensor, matte: bool) -> np.ndarray:
    with torch.inference_mode():
        drawn = network(torch.from_numpy(rendering).permute(0, 3, 1, 2).float() / 127.5 - 1, style, matte)
    return ((drawn + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("matte", [False, True])
@pytest.mark.parametrize("engine", [TorchEngine, pytest.param(OpenVinoEngine, marks=openvino)])
def test_an_engine_draws_what_the_network_draws(network, pictures, home, engine, matte):
    engine = engine(network, CPU) if engine is TorchEngine else engine(network)
    drawn = engine(*pictures, matte)
    wanted = in_float(network, *pictures, matte)
    assert drawn.shape == wanted.shape == (DRAW_BATCH + 3, SIZE, SIZE, 3 + matte) and drawn.dtype == np.uint8
    assert 10 * np.log10(255**2 / np.square(drawn - wanted).mean()) > 45
    assert np.array_equal(engine(*pictures, matte), drawn), "and the same every time"
    assert np.array_equal(engine(pictures[0][:DRAW_BATCH], pictures[1][:DRAW_BATCH], matte), drawn[:DRAW_BATCH])


@openvino
def test_several_threads_draw_the_same(network, pictures, home):
    engine = OpenVinoEngine(network)
    alone = engine(*pictures, False)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: engine(*pictures, False), range(8)))
    assert all(np.array_equal(frames, alone) for frames in drawn)


@openvino
def test_a_network_is_converted_once(network, pictures, home, monkeypatch):
    OpenVinoEngine(network)(*pictures, False)
    kept = sorted(path.suffix for path in (home / "cache" / "openvino").iterdir())
    assert kept == [".bin", ".xml"]
    monkeypatch.setattr(OpenVinoEngine, "_convert", lambda *_: pytest.fail("converted again"))
    OpenVinoEngine(network)(*pictures, False)
    other = HeadGenerator(SIZE, style_dim=8, widths=(8, 8, 8)).eval()  # other weights
    with pytest.raises(pytest.fail.Exception, match="converted again"):
        OpenVinoEngine(other)(*pictures, False)


@openvino
def test_old_conversions_are_forgotten(home):
    folder = home / "cache" / "openvino"
    folder.mkdir(parents=True)
    for index in range(module.KEPT + 2):
        for suffix in (".xml", ".bin"):
            (folder / f"{index}{suffix}").touch()
        module.os.utime(folder / f"{index}.xml", (index, index))
    module._forget_old(folder)
    assert not (folder / "1.xml").exists() and not (folder / "1.bin").exists() and len(list(folder.iterdir())) == 2 * module.KEPT


@openvino
def test_a_workspace_that_can_not_be_written_to_is_no_obstacle(network, pictures, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GMTALKER_HOME", str(tmp_path / "file"))
    assert OpenVinoEngine(network)(*pictures, True).shape == (DRAW_BATCH + 3, SIZE, SIZE, 4)


@openvino
def test_nobody_is_told_of_a_start():
    """OpenVINO's telemetry sends an event at import unless somebody forbade it."""
    code = "import sys; from gmtalker.avatars.drawing_engine import _openvino; _openvino();"
    code += "import openvino.tools.ovc.convert_impl as c; print(c.tm.__name__, sys.modules.get('openvino_telemetry'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["openvino.tools.ovc.telemetry_stub", "None"]


@openvino
def test_a_matte_that_was_never_learned_is_named(pictures, home):
    without = HeadGenerator(SIZE, style_dim=8, widths=(8, 8, 8)).eval()
    for engine in (TorchEngine(without, CPU), OpenVinoEngine(without)):
        with pytest.raises(ValueError, match="no matte"):
            engine(*pictures, True)


def test_the_engine_can_be_chosen(network, monkeypatch):
    monkeypatch.setenv("GMTALKER_ENGINE", "torch")
    assert isinstance(drawing_engine(network, CPU), TorchEngine)
    monkeypatch.setenv("GMTALKER_ENGINE", "tensorrt")
    with pytest.raises(UnusableInput, match="one of torch, openvino, not 'tensorrt'"):
        engine_name(CPU)
    monkeypatch.setenv("GMTALKER_ENGINE", "openvino")
    with pytest.raises(UnusableInput, match="on the CPU only|not installed"):
        engine_name(torch.device("cuda"))
    monkeypatch.delenv("GMTALKER_ENGINE")
    assert engine_name(torch.device("cuda")) == "torch"
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert engine_name(CPU) == "torch"
    monkeypatch.setenv("GMTALKER_ENGINE", "openvino")
    with pytest.raises(UnusableInput, match="not installed"):
        engine_name(CPU)


@openvino
def test_threads_that_draw_first_do_not_wait_for_each_other():
    """A fresh process, whose threads change places all the time: without the lock it hangs in nearly every run."""
    script = (
        "import sys, threading\nfrom gmtalker.avatars.drawing_engine import _openvino\nsys.setswitchinterval(1e-6)\n"
        "together = threading.Barrier(4)\n"
        "def draw():\n    together.wait()\n    _openvino().Type.u8.to_dtype()\n"
        "threads = [threading.Thread(target=draw) for _ in range(4)]\n"
        "[thread.start() for thread in threads]\n[thread.join() for thread in threads]\nprint('drawn')"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment)
        assert done.stdout.strip() == "drawn", done.stderr
