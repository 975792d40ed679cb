"""What runs a head generator: torch, or OpenVINO on CPUs where it is at hand, which draws the same in less time.

A network is converted for OpenVINO once, in some seconds, and kept in the workspace; later it is loaded in a few tenths.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gmtalker.avatars.workspace import home, private_home
from gmtalker.device import is_half_fast, usable_cores
from gmtalker.errors import UnusableInput
from gmtalker.files import temporary_folder
from gmtalker.models.head_generator import HeadGenerator

if TYPE_CHECKING:
    import openvino

VARIABLE = "GMTALKER_ENGINE"  # "torch" or "openvino"; unset, the faster one
ENGINES = ("torch", "openvino")
KEPT = 12  # converted networks in the workspace, the last used ones
DRAW_BATCH = 8  # frames that are drawn at a time; fixed, because other batches round differently


class DrawingEngine(Protocol):
    """Draws frames with one head generator; may be called from several threads."""

    def __call__(self, rendering: np.ndarray, style: Tensor, matte: bool) -> np.ndarray:
        """Frames (n, size, size, 3) uint8 RGB, or with a matte (n, size, size, 4).

        rendering: (n, size, size, channels) uint8.
        style: (n, style_dim).
        """


def engine_name(device: torch.device) -> str:
    """The fastest engine on a device, or the one that GMTALKER_ENGINE names.

    Errors: UnusableInput for an engine that does not exist, or can't be used here.
    """
    wanted, at_hand = os.environ.get(VARIABLE, ""), importlib.util.find_spec("openvino") is not None
    if wanted not in ("", *ENGINES):
        raise UnusableInput(f"{VARIABLE} must be one of {', '.join(ENGINES)}, not {wanted!r}.")
    if wanted == "openvino" and (not at_hand or device.type != "cpu"):
        raise UnusableInput(f"{VARIABLE} is openvino, which " + ("draws on the CPU only." if at_hand else "is not installed."))
    return wanted or ("openvino" if at_hand and device.type == "cpu" else "torch")


def drawing_engine(network: HeadGenerator, device: torch.device) -> DrawingEngine:
    """An engine for a network.

    network: on the device, in eval mode.
    Errors: as engine_name.
    """
    return TorchEngine(network, device) if engine_name(device) == "torch" else OpenVinoEngine(network)


class _Pictures(nn.Module):
    """A head generator from bytes to bytes."""

    def __init__(self, network: HeadGenerator, matte: bool):
        super().__init__()
        self.network, self.matte = network, matte

    def forward(self, rendering: Tensor, style: Tensor) -> Tensor:
        """(n, size, size, 3 or 4) uint8 of a rendering (n, size, size, channels) uint8 and a style (n, style_dim)."""
        pixels = rendering.permute(0, 3, 1, 2)  # channels_last already: only the view changes
        frames = self.network(pixels.float() / 127.5 - 1, style, self.matte)
        return ((frames.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class TorchEngine:
    """The network as it is, in bfloat16 where that is fast."""

    def __init__(self, network: HeadGenerator, device: torch.device):
        self.device, self.half = device, is_half_fast(device)
        self.pictures = {matte: _Pictures(network, matte).eval() for matte in (False, True)}

    @torch.inference_mode()
    def __call__(self, rendering: np.ndarray, style: Tensor, matte: bool) -> np.ndarray:
        """As DrawingEngine."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            frames = self.pictures[matte](torch.from_numpy(rendering).to(self.device), style)
        return frames.contiguous().cpu().numpy()


class OpenVinoEngine:
    """The network compiled by OpenVINO for whole batches and for single frames, each when it is first needed."""

    def __init__(self, network: HeadGenerator):
        self.network, self.half = network, is_half_fast(torch.device("cpu"))
        self._compiled: dict[tuple[int, bool], openvino.CompiledModel] = {}
        self._lock, self._threads = threading.Lock(), threading.local()

    def __call__(self, rendering: np.ndarray, style: Tensor, matte: bool) -> np.ndarray:
        """As DrawingEngine."""
        if matte and not self.network.config.has_matte:
            raise ValueError("this head generator has learned no matte")
        count, styles = len(rendering), style.detach().float().cpu().numpy()
        batch = 1 if count == 1 else DRAW_BATCH
        drawn = []
        for first in range(0, count, batch):
            whole = first + batch <= count
            rows = slice(first, first + batch) if whole else np.minimum(np.arange(first, first + batch), count - 1)
            request = self._request(batch, matte)
            result = request.infer([rendering[rows], styles[rows]], share_inputs=True, share_outputs=True)
            drawn.append(result[0][: count - first].copy())  # its memory is used again
        return drawn[0] if len(drawn) == 1 else np.concatenate(drawn)

    def _request(self, batch: int, matte: bool) -> openvino.InferRequest:
        """This thread's own: a request draws one batch at a time."""
        if not hasattr(self._threads, "requests"):
            self._threads.requests = {}
        if (batch, matte) not in self._threads.requests:
            with self._lock:
                if (batch, matte) not in self._compiled:
                    self._compiled[batch, matte] = self._compile(batch, matte)
            self._threads.requests[batch, matte] = self._compiled[batch, matte].create_infer_request()
        return self._threads.requests[batch, matte]

    def _compile(self, batch: int, matte: bool) -> openvino.CompiledModel:
        library = _openvino()
        core = library.Core()
        model = core.read_model(self._converted(matte))
        config = self.network.config
        shapes = [batch, config.size, config.size, config.rendering_channels], [batch, config.style_dim]
        model.reshape({index: library.PartialShape(shape) for index, shape in enumerate(shapes)})
        streams = 1 if batch == 1 else usable_cores()  # a batch to a core, as the frames are drawn side by side
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.half else "f32",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
            "ENABLE_CPU_PINNING": False,  # several programs share a machine
        }
        return core.compile_model(model, "CPU", settings)

    def _converted(self, matte: bool) -> Path:
        """The network's file, converted now if the workspace did not keep it."""
        digest = hashlib.blake2b(f"{_openvino().__version__} {matte}".encode(), digest_size=16)
        for name, tensor in self.network.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        folder = home() / "cache" / "openvino"
        path = folder / f"{digest.hexdigest()}.xml"
        if path.is_file() and path.with_suffix(".bin").is_file():
            with suppress(OSError):
                os.utime(path)
            return path
        try:
            private_home()
            folder.mkdir(parents=True, exist_ok=True)
            with temporary_folder(folder) as making:
                new = self._convert(making / path.name, matte)
                for part in (new.with_suffix(".bin"), new):  # the one that tells of the other last
                    os.replace(part, folder / part.name)
        except OSError:  # a workspace that can't be written to
            self._making = tempfile.TemporaryDirectory()  # until the network is gone
            return self._convert(Path(self._making.name) / path.name, matte)
        _forget_old(folder)
        return path

    def _convert(self, path: Path, matte: bool) -> Path:
        config, library = self.network.config, _openvino()
        example = torch.zeros(1, config.size, config.size, config.rendering_channels, dtype=torch.uint8)
        pictures = _Pictures(self.network, matte).eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's tracer: the shapes are those of this network alone
            model = library.convert_model(pictures, example_input=(example, torch.zeros(1, config.style_dim)))
        library.save_model(model, path, compress_to_fp16=True)  # as weights are stored
        return path


_first_use = threading.Lock()


def _openvino() -> ModuleType:
    """The library without its telemetry, which would tell a host elsewhere of every start."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    with _first_use:
        library = importlib.import_module("openvino")  # late: not everybody has it
        # It makes its table of number types at the first use, under a lock that it waits for with Python's held: two threads that
        # come at once would wait for each other for ever.
        library.Type.u8.to_dtype()
    return library


def _forget_old(folder: Path) -> None:
    """Keep the last used ones."""
    for old in sorted(folder.glob("*.xml"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        for path in (old, old.with_suffix(".bin")):
            path.unlink(missing_ok=True)
