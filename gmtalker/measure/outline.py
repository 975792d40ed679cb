"""The person's outline: is the matte right, and is a full frame free of the head that was filmed (docs/method.md section 4)?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from gmtalker.avatars.avatar import Avatar
from gmtalker.clock import EMOTIONS, SAMPLES_PER_FRAME
from gmtalker.errors import UnusableAvatar
from gmtalker.face.landmarks import CHIN
from gmtalker.face.segmentation import person_segmentation
from gmtalker.media.audio import read_speech
from gmtalker.media.full_frame import VIDEO_FILE, IdleLoop, paste, within
from gmtalker.media.video import read_frames
from gmtalker.pipeline import GMTalkerPipeline

HALF = 127  # of 255: from here on it is the person
SEGMENTED_EVERY = 3  # frames
FULL_FRAME_EVERY, FULL_FRAMES = 6, 120  # of a speech: one frame in so many, of so many
HEADS = (1.0, 2.0)  # how much the head moves
NEAR = 0.03  # sides of the crop, within which an outline is blurred
SAME = 6  # of 255: where a head was filmed, what differs by less is that head
LEAST = 1e-9


def matte_measures(real: Sequence[np.ndarray], mattes: Sequence[np.ndarray]) -> dict:
    """A drawn matte beside that of the segmentation of the real frames.

    real: (size, size, 3) uint8 each, consecutive.
    mattes: (size, size) uint8 each, 255 for the person.
    Returns: "matte_iou", mean intersection over union of the person's pixels; "matte_flicker", frame-to-frame change of the drawn
        one over that of the segmentation.
    """
    with person_segmentation() as segment:
        taught = [segment(frame) for frame in real]
    overlaps = []
    for drawn, wanted in list(zip(mattes, taught))[::SEGMENTED_EVERY]:
        a, b = drawn > HALF, wanted > HALF
        overlaps.append(float((a & b).sum() / max((a | b).sum(), 1)))
    drawn_change, taught_change = (
        float(np.mean([np.abs(b.astype(np.float32) - a).mean() for a, b in pairwise(rows)])) for rows in (mattes, taught)
    )
    return {"matte_iou": float(np.mean(overlaps)), "matte_flicker": drawn_change / max(taught_change, LEAST)}


def full_frame_measures(avatar: Avatar, pipeline: GMTalkerPipeline, speech: Path) -> dict:
    """What is left of the head that was filmed, when the avatar speaks in its footage, in every emotion and with a lively head.

    Returns: by movement of the head, "head_left", pixels of the filmed head that still show it where nobody is drawn, as a share
        of that head; "difference_outside", mean absolute difference to the footage, 0 to 255, where nobody is or was.
    Errors: UnusableAvatar for one whose footage still has its head.
    """
    wave, idle = read_speech(speech), IdleLoop.load(avatar.folder)
    if not idle.is_clean:
        raise UnusableAvatar(f"The footage of {avatar.name!r} still has its head: it was made by an older version.")
    with person_segmentation() as segment:
        filmed = _Filmed(avatar, idle, segment)
        result = {}
        for head in HEADS:
            rows = []
            for emotion in EMOTIONS:
                weights = {} if emotion == EMOTIONS[0] else {emotion: 1.0}
                performance = pipeline(wave[: FULL_FRAMES * SAMPLES_PER_FRAME], avatar, weights, head=head, full_frame=True)
                rows += [filmed.compare(place, drawn) for place, drawn in performance.heads(idle, FULL_FRAME_EVERY)]
            left, outside = np.mean(rows, axis=0)
            result[f"{head:g}"] = {"head_left": round(float(left), 4), "difference_outside": round(float(outside), 2)}
    return result


class _Filmed:
    """The footage as it was filmed, and where its person is."""

    def __init__(self, avatar: Avatar, idle: IdleLoop, segment: Callable[[np.ndarray], np.ndarray]):
        self.idle, self.segment = idle, segment
        self.frames = list(read_frames(avatar.folder / VIDEO_FILE))
        self.near = np.ones((2 * round(NEAR * float(idle.crop[2])) + 1,) * 2, np.uint8)
        chin = idle.crop[1] + idle.crop[2] * avatar.face.reference_points[CHIN, 1]
        people = [self._person(frame) for frame in self.frames]
        above = np.arange(len(self.frames[0]))[:, None] < chin
        self.heads = [person & above for person in people]
        self.people = [cv2.dilate(person.astype(np.uint8), self.near) > 0 for person in people]

    def _person(self, frame: np.ndarray) -> np.ndarray:
        """(height, width) bool, within the crop."""
        place, person = within(self.idle.crop, *frame.shape[:2]), np.zeros(frame.shape[:2], bool)
        person[place] = self.segment(frame[place]) > HALF
        return person

    def compare(self, place: int, drawn: np.ndarray) -> tuple[float, float]:
        """ "head_left" and "difference_outside" of one frame: head (size, size, 4), in picture number `place`."""
        whole = self.idle.around(drawn, place)
        nothing = np.zeros((*whole.shape[:2], 3), np.uint8)
        covered = paste(nothing, np.dstack([np.full_like(drawn[..., :3], 255), drawn[..., 3]]), self.idle.crop)[..., 0] > 0
        head, change = self.heads[place], np.abs(whole.astype(np.int16) - self.frames[place])
        left = ((change.max(-1) < SAME) & head & ~covered).sum() / max(head.sum(), 1)
        empty = ~(cv2.dilate(covered.astype(np.uint8), self.near) > 0) & ~self.people[place]
        change = change[empty]
        return float(left), float(change.mean()) if change.size else 0.0
