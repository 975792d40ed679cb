"""A talking video that is drawn while it is iterated, and the file made of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch

from gmtalker.avatars.avatar import Avatar
from gmtalker.clock import FPS
from gmtalker.errors import UnusableAvatar
from gmtalker.media.captions import Captioner, Cue
from gmtalker.media.composer import Composer
from gmtalker.media.full_frame import IdleLoop
from gmtalker.media.video_writer import VideoWriter
from gmtalker.output import OutputOptions
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
    rate: frames a second.
    """

    draw: Callable[..., Frames]
    avatar: Avatar
    track: FaceTrack
    weights: EmotionWeights
    speech: np.ndarray | None = None
    idle: IdleLoop | None = None
    inputs: tuple[Path, ...] = ()
    led: bool = False
    rate: Fraction = Fraction(FPS)

    def __len__(self) -> int:
        return len(self.track)

    def __iter__(self) -> Frames:
        if self.idle is None:
            return self.draw(self.track, self.avatar, self.weights)
        return self._in_footage(self.idle)

    def _in_footage(self, idle: IdleLoop) -> Frames:
        for place, drawn in self.heads(idle):
            yield idle.around(drawn, place)

    def at_rate(self, rate: Fraction) -> Performance:
        """The same in so many frames a second."""
        if rate == self.rate:
            return self
        track = self.track.at_rate(rate)
        rows = torch.arange(len(track)).mul(float(FPS / rate)).round().long().clamp(max=len(self) - 1)
        return replace(self, track=track, weights=EmotionWeights(self.weights.at(len(self))[rows]), rate=rate)

    def cut_out(self) -> Frames:
        """The frames with the person's outline, (height, width, 4) uint8.

        Errors: UnusableAvatar for one that has learned no outline, or is to be shown in its own footage.
        """
        if self.idle is not None:
            raise UnusableAvatar("A full frame has its own background; leave out --full-frame, or the new background.")
        if not self.avatar.has_matte:
            raise UnusableAvatar(
                f"{self.avatar.name} was trained before avatars learned their outline, so nothing else can be put behind; "
                "train it again, or choose the shape square or circle."
            )
        return self.draw(self.track, self.avatar, self.weights, matte=True)

    def every(self, frames: int) -> Performance:
        """Of so many frames one, without the sound; in a full frame they are head and shoulders alone."""
        weights = EmotionWeights(self.weights.at(len(self))[::frames])
        return replace(self, track=self.track[slice(None, None, frames)], weights=weights, speech=None, idle=None)

    def heads(self, idle: IdleLoop, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """What is put into footage, of so many frames one.

        Yields: the number of the picture, and the head as IdleLoop.around takes it.
        """
        own = (np.arange(len(self))[::every] * float(FPS / self.rate)).astype(int)  # the footage has 25 pictures a second
        places = idle.places(int(own[-1]) + 1)[own]
        track = replace(self.track[slice(None, None, every)], shoulders=idle.shoulders[torch.from_numpy(places)])
        weights = EmotionWeights(self.weights.at(len(self))[::every])
        frames = self.draw(track, self.avatar, weights, matte=idle.is_clean)
        try:
            yield from zip(places.tolist(), frames)
        finally:
            frames.close()


@dataclass(frozen=True)
class Finish:
    """What a performance becomes when it is written.

    label: what says in the picture that it is AI-generated.
    output: format, background and captions.
    said: the words, each when it is said; what the captions "spoken" are made of.
    cues: of the captions that were given; None for those of `said`.
    voice: the synthetic voice that is heard; None for a recording.
    """

    label: Label | None = None
    output: OutputOptions = field(default_factory=OutputOptions)
    said: tuple[Cue, ...] = ()
    cues: tuple[Cue, ...] | None = None
    voice: str | None = None


def film(
    performance: Performance,
    output: Path,
    on_progress: OnProgress | None = None,
    stop: Callable[[], bool] | None = None,
    sound: Path | None = None,
    live: Path | None = None,
    finish: Finish = Finish(),
) -> Path:
    """Draw a performance into a file, marked and signed as AI-generated.

    on_progress: gets the stage "drawing", in frames.
    sound: the file that its speech was read from, to keep its quality; None writes the speech itself.
    stop: called before each frame; True ends the work.
    live: also write the video to this file, which can be watched while it grows (VideoWriter).
    finish: its format, background, captions and label.
    Returns: output.
    Errors: Stopped when stop() says so, UnusableInput when the output can't be written or signed, UnusableAvatar as cut_out.
    """
    watcher, output, options = Watcher(on_progress, stop, timed=("drawing",)), Path(output), finish.output
    performance = performance.at_rate(options.rate)
    backdrop = [] if options.backdrop is None else [options.backdrop]
    inputs = dict.fromkeys([*performance.inputs, *([] if sound is None or finish.voice else [Path(sound)]), *backdrop])
    composite = performance.idle is not None or performance.led or bool(backdrop)
    seal = Seal(performance.avatar.card, finish.label, composite, [*inputs], finish.voice)
    drawn, frames = _pictures(performance, finish, seal)
    try:
        first = next(frames)
        speech = performance.speech if sound is None else sound
        with VideoWriter(output, *first.shape[1::-1], speech, performance.rate, live, seal, options.file) as writer:
            for done, frame in enumerate(chain([first], frames)):
                if done:
                    watcher.report("drawing", done, len(performance))
                writer.write(frame)
        watcher.report("drawing", len(performance), len(performance))
    finally:
        frames.close()
        drawn.close()
    return output


def _pictures(performance: Performance, finish: Finish, seal: Seal) -> tuple[Frames, Frames]:
    """The frames as they are drawn, and as they are written: composed, captioned, labelled and marked."""
    options = finish.output
    if not options.file.video:  # the sound alone
        nothing = _generated(repeat(np.zeros((2, 2, 3), np.uint8), len(performance)))
        return nothing, nothing
    cues = finish.cues if finish.cues is not None else finish.said
    look = options.caption_place, options.caption_style, options.caption_size
    captioner = Captioner(cues, *look) if options.captions and cues else None
    drawn = performance.cut_out() if options.needs_outline else iter(performance)

    def written() -> Frames:
        first = next(drawn)
        plain = options.composition.is_plain and not options.file.has_alpha
        composer = None if plain else Composer(options.composition, *first.shape[:2], performance.rate, options.file.has_alpha)
        for number, frame in enumerate(chain([first], drawn)):
            picture = frame if composer is None else composer(frame)
            if captioner is not None:
                picture = captioner(picture, float(number / performance.rate))
            yield seal(picture)

    return drawn, written()


def _generated(frames: Iterator[np.ndarray]) -> Frames:
    """Frames as a generator, which can be closed."""
    yield from frames
