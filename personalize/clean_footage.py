"""The footage that a full frame stands in, without its head: docs/method.md section 12."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np

from gmtalker.avatars.background import Background
from gmtalker.face.segmentation import person_segmentation
from gmtalker.media.full_frame import Stretch, inner_square, within

PLATE_FRAMES = 48  # from which the picture behind the person is made...
AROUND = 500  # ...and how many frames before and after the stretch they may lie: later the light is another
REGION_SIDES = 1.7  # side of the square in which the person is looked for, in sides of the crop
PERSON = 13  # of 255, from which on a matte may hold some of the person
REACH, RING, SOFT = 0.02, 0.04, 0.01  # sides of the crop: around the person, of what is compared beside that, of the transition
MOVES = 8.0  # of 255: what lies behind somebody who is filmed by a camera on a stand changes by less
SEEN_SHARE = 0.25  # of the frames show a pixel of the background, or it is not believed
STRIP = 64  # rows of pixels that are looked at together


@dataclass(frozen=True)
class CleanFootage:
    """A stretch of a clip in which the person's head is gone, and what they wear below the crop stays.

    stretch: which frames.
    crop: (3,) left, top and side of the square that the head generator draws, in pixels of the clip.
    chin: pixels down the picture, above which everything of the person is replaced.
    """

    stretch: Stretch
    crop: np.ndarray
    chin: float

    def frames(self) -> Iterator[np.ndarray] | None:
        """(height, width, 3) uint8 each; None where camera or background move, so that nobody knows what is behind.

        Errors: UnusableVideo when the clip can't be read.
        """
        with person_segmentation() as segment:
            person = self._finder(segment)
            plate = _plate(self._spread(person))
        return None if plate is None else self._cleaned(plate)

    def _finder(self, segment: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        """A function from a frame to where the person is, (height, width) bool, a little more rather than less."""
        left, top, side = self.crop
        reach = round(REACH * side)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))

        def person(frame: np.ndarray) -> np.ndarray:
            found = np.zeros(frame.shape[:2], np.uint8)
            for more in (REGION_SIDES - 1, 0):  # from afar and near: the network is used to people who fill the picture
                around = np.array([left - more * side / 2, top - more * side / 2, side * (1 + more)])
                place = within(around, *frame.shape[:2])
                found[place] = np.maximum(found[place], segment(frame[place]))
            return cv2.dilate((found > PERSON).astype(np.uint8), kernel) > 0

        return person

    def _spread(self, person: Callable[[np.ndarray], np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Frames around the stretch, and where the person is in each."""
        first, count = self.stretch.first, self.stretch.count
        begin, end = max(first - AROUND, 0), min(first + count + AROUND, self.stretch.total)
        wanted = np.linspace(begin, end - 1, min(PLATE_FRAMES, end - begin)).astype(int).tolist()
        frames = enumerate(islice(self.stretch.whole_clip(), end))
        return [(frame, person(frame)) for index, frame in frames if index in wanted]

    def _cleaned(self, plate: np.ndarray) -> Iterator[np.ndarray]:
        with person_segmentation() as segment:
            person = self._finder(segment)
            for frame in self.stretch.frames():
                yield self._without_head(frame, person(frame), plate)

    def _without_head(self, frame: np.ndarray, person: np.ndarray, plate: np.ndarray) -> np.ndarray:
        """A frame whose head, and what the crop's inside holds of the person, shows the plate, lit as this frame is."""
        side = float(self.crop[2])
        ring = round(RING * side)
        near = cv2.dilate(person.astype(np.uint8), np.ones((2 * ring + 1, 2 * ring + 1), np.uint8)) > 0
        beside = near & ~person
        light = np.median(frame[beside].astype(np.float32) - plate[beside], axis=0) if beside.any() else 0.0
        height, width = person.shape
        above = np.arange(height)[:, None] < self.chin
        gone = person & (above | inner_square(self.crop, height, width))
        share = cv2.GaussianBlur(gone.astype(np.float32), (0, 0), max(SOFT * side, 0.5))[..., None]
        share = np.maximum(share, gone[..., None])  # soft outwards only: inwards there is the person
        mixed = share * (plate + light) + (1 - share) * frame
        cleaned: np.ndarray = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
        return cleaned


def still_background(frames: Sequence[np.ndarray], mattes: Mapping[int, np.ndarray]) -> Background | None:
    """What is behind a person in cropped frames (size, size, 3), by the mattes (size, size) of some; None where it moves."""
    side = len(frames[0])
    reach = round(REACH * side)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    places = sorted(mattes)
    places = [places[index] for index in np.unique(np.linspace(0, len(places) - 1, PLATE_FRAMES).astype(int))]
    people = [cv2.dilate((mattes[place] > PERSON).astype(np.uint8), kernel) > 0 for place in places]
    plate = _plate([(frames[place], person) for place, person in zip(places, people)])
    if plate is None:
        return None
    known = _well_inside((~np.stack(people)).mean(0) >= SEEN_SHARE)
    picture = np.dstack([np.clip(plate + 0.5, 0, 255), 255 * known]).astype(np.uint8)
    return Background(picture)


def _plate(filmed: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray | None:
    """(height, width, 3) float32, what is behind: of every pixel the median of the frames that show it, else its surroundings.

    Returns: None where what is behind moves.
    """
    height, width = filmed[0][1].shape
    plate = np.zeros((height, width, 3), np.float32)
    seen = np.zeros((height, width), bool)
    changes = []
    for top in range(0, height, STRIP):
        rows = slice(top, top + STRIP)
        strip = np.stack([frame[rows] for frame, _ in filmed]).astype(np.float32)
        strip[np.stack([person[rows] for _, person in filmed])] = np.nan
        shown = np.isfinite(strip[..., 0])
        seen[rows] = shown.any(0)
        strip[:, ~seen[rows]] = 0  # nobody knows: filled below
        plate[rows] = np.nanmedian(strip, axis=0)
        changes.append(np.abs(strip - plate[rows]).mean(-1)[shown & seen[rows]])
    if np.percentile(np.concatenate(changes), 90) > MOVES:
        return None
    if not seen.all():
        plate = _filled(plate, _well_inside(seen))
    return plate


def _well_inside(mask: np.ndarray) -> np.ndarray:
    """A mask without the pixels along its border, where masks of people are a little wrong."""
    inside: np.ndarray = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return inside


def _filled(plate: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What was never seen, smoothly from what lies around it, coarse before fine."""
    if not known.any():
        return plate
    height, width = known.shape
    if min(height, width) <= 8:
        return np.where(known[..., None], plate, plate[known].mean(0)).astype(np.float32)
    weight = known.astype(np.float32)
    small = ((width + 1) // 2, (height + 1) // 2)
    total = cv2.resize(weight, small, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(plate * weight[..., None], small, interpolation=cv2.INTER_AREA) / np.maximum(total, 1e-6)[..., None]
    coarse = _filled(mean, total > 0)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    filled: np.ndarray = np.where(known[..., None], plate, smooth)
    return filled
