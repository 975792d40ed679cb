"""Speaking on ZeroGPU Spaces, which get a GPU for one call, in a process forked for it; elsewhere in this process."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from gmtalker.avatars.workspace import owned_by, owner
from gmtalker.progress import OnProgress, Progress, Stopped
from studio.loading import PipelineSource, bundled_stages

if TYPE_CHECKING:
    from gmtalker.pipeline import GMTalkerPipeline
    from gmtalker.request import SpeakRequest

START_SECONDS = 15  # the process, and the networks on their way to the GPU
SECONDS_OF_LOAN = 0.5  # for a second of speech: 0.2 to 0.3 on an H200 (docs/results/gpu.md), and the video encoder's
LONGEST_LOAN = 120  # seconds; a visitor who has not signed in is lent about as much in a day


def is_lent() -> bool:
    """Whether this is a Space on ZeroGPU."""
    return bool(os.environ.get("SPACES_ZERO_GPU")) and find_spec("spaces") is not None


def lent(function: Callable[..., Iterator], seconds: Callable[..., int]) -> Callable[..., Iterator]:
    """A generator function, on ZeroGPU with a GPU, elsewhere as it is.

    seconds: takes the function's arguments, and says how long it needs the GPU.
    """
    if not is_lent():
        return function
    import spaces

    return spaces.GPU(duration=seconds)(function)


def speaker(pipeline: PipelineSource) -> Callable[..., Path]:
    """GMTalkerPipeline.speak of the pipeline, or on ZeroGPU the same on a lent GPU.

    It is made before the page is launched, as ZeroGPU then wants to know what GPUs are lent for.
    """
    if not is_lent():
        return lambda *arguments, **options: pipeline().speak(*arguments, **options)
    borrowed = lent(_steps, _loan)

    def speak(
        request: SpeakRequest, output: Path, on_progress: OnProgress, stop: Callable[[], bool], live: Path | None = None
    ) -> Path:
        if _loan(request) > LONGEST_LOAN:
            return pipeline().speak(request, output, on_progress, stop, live=live)  # slowly, rather than cut off in the middle
        steps = borrowed(request, output, live, owner())
        try:
            for step in steps:
                if isinstance(step, Exception):
                    raise step
                on_progress(step)
                if stop():
                    raise Stopped
        finally:
            steps.close()
        return output

    return speak


def _loan(request: SpeakRequest, *_: object) -> int:
    from gmtalker.source import expected_seconds  # late: it needs torch

    return math.ceil(START_SECONDS + SECONDS_OF_LOAN * expected_seconds(request))


def _steps(request: SpeakRequest, output: Path, live: Path | None, name: str) -> Iterator[Progress | Exception]:
    """Speak, in the process that has the GPU.

    What goes in and comes out is pickled, errors too: raised, they would lose their words on the way.
    """
    steps: SimpleQueue[Progress | Exception | None] = SimpleQueue()
    stopping = threading.Event()

    def work() -> None:
        try:
            with owned_by(name):
                _on_gpu().speak(request, output, steps.put, stopping.is_set, live=live)
        except Exception as error:
            steps.put(error)
        finally:
            steps.put(None)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while (step := steps.get()) is not None:
            yield step
    finally:
        stopping.set()
        thread.join()


@cache
def _on_gpu() -> GMTalkerPipeline:
    """The pipeline of the forked process, which serves several loans: the page's own pipeline has never seen a GPU."""
    return bundled_stages(device="cuda")
