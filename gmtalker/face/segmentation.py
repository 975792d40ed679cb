"""Who is in the picture and what is behind: MediaPipe's selfie segmentation, the teacher of the matte."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from gmtalker.face.tracking import silent_stderr


@contextmanager
def person_segmentation() -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """MediaPipe's general selfie segmentation, which looks at 256 x 256 pixels, its native log kept off stderr.

    Yields: a function from a frame (height, width, 3) uint8 RGB to a matte (height, width) uint8, 255 where there is a person.
    """
    with silent_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mediapipe's protobuf messages warn of their own age
        import mediapipe  # late: it takes a second to import

        network = mediapipe.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
        network.process(np.zeros((64, 64, 3), np.uint8))  # it loads, and logs, in threads: wait for them

    def segment(frame: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            share = network.process(np.ascontiguousarray(frame)).segmentation_mask
        matte: np.ndarray = np.round(255 * np.clip(share, 0, 1)).astype(np.uint8)
        return matte

    with network:
        yield segment
