"""The pipeline, loaded while the page is open already: the networks' libraries take longer to import than the page does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gmtalker.pipeline import GMTalkerPipeline

# Gives the pipeline, once it is loaded. A handler calls it before it imports anything that needs torch: an import begun in two
# threads at once can fail.
PipelineSource = Callable[[], "GMTalkerPipeline"]


class PipelineLoader:
    """Loads the pipeline once. Calling it gives the pipeline, and waits until it is there.

    make: makes it.
    """

    def __init__(self, make: PipelineSource) -> None:
        self._make = make
        self._made: Future[GMTalkerPipeline] = Future()

    def load(self) -> None:
        """Load it in this thread. Errors: those of make, which whoever waits gets, too."""
        try:
            self._made.set_result(self._make())
        except BaseException as error:
            self._made.set_exception(error)
            raise

    def __call__(self) -> GMTalkerPipeline:
        """The pipeline. Errors: UnusableInput when the generic stages can't be loaded."""
        return self._made.result()


def bundled_stages(device: str | None = None) -> GMTalkerPipeline:
    """The pipeline of the bundled generic stages. Errors: UnusableInput when they can't be loaded."""
    from gmtalker.pipeline import GMTalkerPipeline  # late: the page does not wait for it

    return GMTalkerPipeline.from_pretrained(device=device)
