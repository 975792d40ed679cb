"""The progress of a training, and the pictures that show it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gmtalker.files import whole_file
from gmtalker.progress import OnProgress, Progress

TRAINING_STRIP, TRAINING_CURVE = "strip.jpg", "curve.png"
# A file of this name in the work folder asks the trainer to end the training of the head here, or to show what it can by now.
FINISH_REQUESTED, SAMPLE_REQUESTED = "finish.asked", "sample.asked"
WRAP_UP = 30.0  # seconds that measuring and the pictures take at the end
STRIP_FRAMES = 5


class TrainingProgress:
    """Turns the progress of each stage into that of the whole training.

    on_progress: takes it, with percent and seconds_left of the whole.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self.on_progress, self.name, self.low, self.high, self.later, self.began = on_progress, "", 0.0, 0.0, 0.0, 0.0

    def stage(self, name: str, low: float, high: float, later: float = 0.0) -> None:
        """Begin the next stage.

        low, high: percent of the whole at its beginning and end.
        later: seconds that the stages after it will take.
        """
        self.name, self.low, self.high, self.later, self.began = name, low, high, later, time.monotonic()
        self(Progress(name, 0, 100, seconds_left=None))

    def alive(self, message: str = "", **figures: object) -> None:
        """Report a message or figures where the percentage is not known."""
        self.on_progress(Progress(self.name, message=message, figures=figures, percent=None))

    def __call__(self, progress: Progress) -> None:
        """Report the progress of the current stage."""
        percent = None
        if progress.total:
            percent = round(self.low + (self.high - self.low) * progress.stage_percent / 100, 1)
        left = progress.seconds_left
        if left is None and progress.total and progress.done:  # at the speed so far
            left = (time.monotonic() - self.began) * (progress.total / progress.done - 1)
        left = None if left is None else round(left + self.later)
        self.on_progress(Progress(self.name, progress.done, progress.total, percent, left, progress.message, progress.figures))


def write_progress(folder: Path, real: np.ndarray, drawn: np.ndarray, curve: Sequence[Mapping[str, float]]) -> None:
    """Write TRAINING_STRIP, real frames above generated ones, and TRAINING_CURVE, the quality over time with its best point.

    real, drawn: (n, h, w, 3) uint8, held-out frames.
    curve: points with "seconds" and "psnr" (dB).
    """
    # Late: the page, which reads the names above, need not wait for matplotlib and the writing of videos.
    from gmtalker.measure.plots import blank_figure, save_figure
    from gmtalker.media.video_writer import write_picture

    chosen = np.linspace(0, len(real) - 1, min(len(real), STRIP_FRAMES)).astype(int)
    strip = np.concatenate([np.concatenate(list(frames[chosen]), axis=1) for frames in (real, drawn)])
    figure = blank_figure(6, 2.2, layout="tight")
    axes = figure.subplots()
    seconds, quality = (np.array([point[name] for point in curve]) for name in ("seconds", "psnr"))
    axes.plot(seconds / 60, quality, marker=".", color="#0d9488")
    axes.plot(seconds[quality.argmax()] / 60, quality.max(), marker="*", ms=12, color="#b45309")
    low, high = quality.min(), max(quality.max(), quality.min() + 1)  # noise is not to look like progress
    axes.set(xlabel="min", ylabel="dB", ylim=(low - 0.1 * (high - low), high + 0.2 * (high - low)))
    with whole_file(folder / TRAINING_STRIP) as unfinished:  # the page may be reading it
        write_picture(unfinished, strip)
    with whole_file(folder / TRAINING_CURVE) as unfinished:
        save_figure(figure, unfinished)
