"""A talking video that is drawn while it is iterated, and the file made of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gmtalker.avatars.avatar import Avatar
from gmtalker.clock import SAMPLES_PER_FRAME
from gmtalker.media.full_frame import IdleLoop
from gmtalker.media.video_writer import VideoWriter
from gmtalker.progress import OnProgress, Watcher
from gmtalker.provenance.credentials import Seal
from gmtalker.provenance.label import Label
from gmtalker.tracks import EmotionWeights, FaceTrack

Frames = Generator[np.ndarray, None, None]  # (height, width, 3) uint8 RGB, 25 a second


@dataclass(frozen=True, eq=False)
class Performance:
    """A talking video: frames (height, width, 3) uint8 RGB, 25 a second, drawn while they are taken.

    Iterating again draws the same frames.

    draw: makes the frames of a track (GMTalkerPipeline.draw).
    avatar: whom it shows.
    track: what the face does.
    weights: the emotion.
    speech: (samples,) at 16 kHz, None for a silent one.
    idle: the person's own footage to put the head into; None for head and shoulders alone.
    inputs: the files that it is made of, but for the avatar: a speech, a video that leads it.
    led: whether a real person's video leads it.
    """

    draw: Callable[..., Frames]
    avatar: Avatar
    track: FaceTrack
    weights: EmotionWeights
    speech: np.ndarray | None = None
    idle: IdleLoop | None = None
    inputs: tuple[Path, ...] = ()
    led: bool = False

    def __len__(self) -> int:
        return len(self.track)

    def __iter__(self) -> Frames:
        if self.idle is None:
            return self.draw(self.track, self.avatar, self.weights)
        return self._in_footage(self.idle)

    def _in_footage(self, idle: IdleLoop) -> Frames:
        for place, drawn in self.heads(idle):
            yield idle.around(drawn, place)

    def every(self, frames: int) -> Performance:
        """Of so many frames one, without the sound; in a full frame they are head and shoulders alone."""
        weights = EmotionWeights(self.weights.at(len(self))[::frames])
        return replace(self, track=self.track[slice(None, None, frames)], weights=weights, speech=None, idle=None)

    def heads(self, idle: IdleLoop, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """What is put into footage, of so many frames one.

        Yields: the number of the picture, and the head as IdleLoop.around takes it.
        """
        places = idle.places(len(self))[::every]
        track = replace(self.track[slice(None, None, every)], shoulders=idle.shoulders[torch.from_numpy(places)])
        weights = EmotionWeights(self.weights.at(len(self))[::every])
        frames = self.draw(track, self.avatar, weights, matte=idle.is_clean)
        try:
            yield from zip(places.tolist(), frames)
        finally:
            frames.close()


def film(
    performance: Performance,
    output: Path,
    on_progress: OnProgress | None = None,
    stop: Callable[[], bool] | None = None,
    sound: Path | None = None,
    live: Path | None = None,
    label: Label | None = None,
) -> Path:
    """Draw a performance into an mp4 file, marked and signed as AI-generated.

    on_progress: gets the stage "drawing", in frames.
    sound: the file that its speech was read from, to keep its quality; None writes the speech itself.
    stop: called before each frame; True ends the work.
    live: also write the video to this file, which can be watched while it grows (VideoWriter).
    label: what says it in the picture, too.
    Returns: output.
    Errors: Stopped when stop() says so, UnusableInput when the output can't be written or signed.
    """
    watcher, output = Watcher(on_progress, stop, timed=("drawing",)), Path(output)
    inputs = dict.fromkeys([*performance.inputs, *([] if sound is None else [Path(sound)])])
    composite = performance.idle is not None or performance.led
    seal, frames = Seal(performance.avatar.card, label, composite, [*inputs]), iter(performance)
    try:
        first = next(frames)
        speech = sound
        if speech is None and performance.speech is not None:
            speech = performance.speech[: len(performance) * SAMPLES_PER_FRAME]
        with VideoWriter(output, first.shape[1], first.shape[0], speech, live=live, seal=seal) as writer:
            writer.write(seal(first))
            for done, frame in enumerate(frames, start=2):
                watcher.report("drawing", done - 1, len(performance))
                writer.write(seal(frame))
        watcher.report("drawing", len(performance), len(performance))
    finally:
        frames.close()
    return output
