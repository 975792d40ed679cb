"""Lays a person over a colour, a picture or a video, in a canvas of any shape."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path

import cv2
import numpy as np

from gmtalker.errors import UnusableInput, UnusableVideo
from gmtalker.media.composition import BLUR, SHAPES, Composition, colour_of
from gmtalker.media.video import read_frames

READ = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # of what pillow can read
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MARGIN = 0.03  # of the canvas's shorter side, around a person in a corner
HALF, ANY = 128, 12  # of 255: a matte below which a pixel is rather not the person; and below which there is nothing
EDGE_REACH = 0.03  # of the side: how far colours of the person are carried into the edge of the matte
RIM = 0.015  # of the side: inside the edge, where a camera and a codec have mixed in what was behind
NOBODY = (128, 128, 128)  # the colour where nothing is seen, in which a mark has room on both sides
INPUT_PIXELS_MAX = 64_000_000  # of a picture behind


class Composer:
    """Lays the frames of one video into a canvas, in their order.

    composition: how.
    height, width: of the frames.
    rate: frames a second, for a video behind.
    transparent: whether nothing is behind: what is composed keeps its outline.
    Errors: UnusableInput naming a background that can't be read.
    """

    def __init__(self, composition: Composition, height: int, width: int, rate: Fraction, transparent: bool = False) -> None:
        self.composition, self.transparent = composition, transparent
        self.width, self.height = (
            composition.pixels(min(height, width)) if composition.canvas or height == width else (width, height)
        )
        self._frame = height, width
        self._box = self._place()
        self._behind = self._backgrounds(rate)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """A frame (height, width, 3) uint8 RGB, or (height, width, 4) with the person's outline, in the canvas.

        Returns: (height, width, 3) uint8 RGB; (height, width, 4) where it is transparent, grey where nobody is.
        """
        if self.transparent:
            empty = np.full((self.height, self.width, 4), (*NOBODY, 0), np.uint8)
            return placed(empty, self._shaped(frame), self._box)
        behind = next(self._behind) if self._behind is not None else _blurred(frame[..., :3], self.width, self.height)
        return laid(behind, self._shaped(frame), self._box)

    def _place(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of the frame in the canvas."""
        height, width = self._frame
        place, shorter = self.composition.place, min(self.width, self.height)
        scale = self.composition.size * shorter / min(height, width) if self.composition.canvas else 1.0
        if width != height and self.composition.canvas:  # a full frame is shown whole
            scale = min(self.width / width, self.height / height) * self.composition.size
        wide, high = round(width * scale), round(height * scale)
        margin = round(MARGIN * shorter) if "-" in place else 0
        left = {"left": margin, "right": self.width - wide - margin}.get(place.rpartition("-")[2], (self.width - wide) // 2)
        # With their own background nobody is cut out: a picture with edges of its own, which stands on none.
        is_whole = self.composition.shape != SHAPES[0] or width != height or not (self.transparent or self.composition.cuts_out)
        below = margin if is_whole or "-" not in place else 0  # whoever is cut out stands on the edge
        top = margin if place.startswith("top") else self.height - high - below
        if "-" not in place and is_whole:
            top = (self.height - high) // 2
        return left, top, wide, high

    def _backgrounds(self, rate: Fraction) -> Iterator[np.ndarray] | None:
        """The pictures behind, each (height, width, 3); None where it is made of each frame."""
        wanted = self.composition.background or BLUR
        if wanted == BLUR:
            return None
        colour = colour_of(wanted)
        if colour is not None:
            return repeat(np.broadcast_to(colour, (self.height, self.width, 3)))
        path = Path(wanted)
        if not path.is_file():
            raise UnusableInput(f"There is no background {wanted}; give a colour such as #00b140, a picture or a video.")
        if path.suffix.lower() in PICTURES:
            return repeat(covering(_picture(path), self.width, self.height))
        return _looped(path, rate, self.width, self.height)

    def _shaped(self, frame: np.ndarray) -> np.ndarray:
        """(height, width, 4) uint8: what is laid over the background."""
        height, width = frame.shape[:2]
        if self.composition.shape == SHAPES[0] and frame.shape[2] == 4:
            return cut_out(frame)
        matte = np.full((height, width), 255, np.uint8)
        if self.composition.shape == "circle":
            matte = np.zeros((height * 4, width * 4), np.uint8)  # drawn large, for a soft edge
            cv2.circle(matte, (width * 2, height * 2), min(height, width) * 2 - 4, 255, -1)
            matte = cv2.resize(matte, (width, height), interpolation=cv2.INTER_AREA)
        return np.dstack([frame[..., :3], matte])


def cut_out(frame: np.ndarray) -> np.ndarray:
    """A frame (height, width, 4) uint8 RGBA whose edges hold the person's own colours alone, nothing of what was behind.

    Colours are carried outwards from inside the edge, by a mean that counts the pixels there alone. What the outline leaves out
    within the person, a glint in an eye, is theirs.
    """
    matte = frame[..., 3]
    side = min(matte.shape)
    _, parts = cv2.connectedComponents((matte < HALF).astype(np.uint8))
    outside = np.isin(parts, np.unique(np.concatenate([parts[0], parts[:, 0], parts[:, -1]]))) & (parts > 0)
    rim, reach = 2 * round(RIM * side) + 1, max(1, round(EDGE_REACH * side))
    near = cv2.dilate(outside.astype(np.uint8), np.ones((rim, rim))) > 0
    inside = (~near).astype(np.float32)
    size = (2 * reach + 1, 2 * reach + 1)
    share = cv2.GaussianBlur(inside, size, 0)
    colours = cv2.GaussianBlur(frame[..., :3] * inside[..., None], size, 0) / np.maximum(share, 1e-3)[..., None]
    edge = near & (share > 1e-3)
    kept = frame.copy()
    kept[..., :3][edge] = np.clip(colours[edge] + 0.5, 0, 255).astype(np.uint8)
    kept[..., 3][~near] = 255
    kept[..., 3][near & ((matte < ANY) | ~edge)] = 0
    return kept


def laid(behind: np.ndarray, over: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """A picture (h, w, 4) uint8 RGBA over another one (height, width, 3), in a box of it: left, top, width and height."""
    left, top, wide, high = box
    if (high, wide) != over.shape[:2]:
        larger = wide > over.shape[1]
        over = cv2.resize(over, (wide, high), interpolation=cv2.INTER_CUBIC if larger else cv2.INTER_AREA)
    (height, width), whole = behind.shape[:2], np.ascontiguousarray(behind).copy()
    y0, y1, x0, x1 = max(top, 0), min(top + high, height), max(left, 0), min(left + wide, width)
    if y0 < y1 and x0 < x1:
        part = over[y0 - top : y1 - top, x0 - left : x1 - left]
        share = np.ascontiguousarray(part[..., 3]).astype(np.float32) / 255
        inside = np.ascontiguousarray(whole[y0:y1, x0:x1])
        whole[y0:y1, x0:x1] = cv2.blendLinear(np.ascontiguousarray(part[..., :3]), inside, share, 1 - share)
    return whole


def placed(empty: np.ndarray, over: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """As laid, but nothing is mixed: colours and outline of `over` take the place of those in `empty`, both (h, w, 4)."""
    flat = laid(empty[..., :3], np.dstack([over[..., :3], np.where(over[..., 3] > 0, 255, 0).astype(np.uint8)]), box)
    outline = laid(empty[..., 3:].repeat(3, -1), np.dstack([over[..., 3:].repeat(3, -1), np.full_like(over[..., 3], 255)]), box)
    return np.dstack([flat, outline[..., 0]])


def covering(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture (h, w, 3) made as large as a canvas (height, width, 3), what juts out cut off evenly."""
    scale = max(width / picture.shape[1], height / picture.shape[0])
    wide, high = max(round(picture.shape[1] * scale), width), max(round(picture.shape[0] * scale), height)
    picture = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    left, top = (wide - width) // 2, (high - height) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def _blurred(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    small = covering(frame, max(width // 16, 4), max(height // 16, 4))
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), 2), (width, height), interpolation=cv2.INTER_CUBIC)


def _picture(path: Path) -> np.ndarray:
    """(h, w, 3) uint8 RGB, upright. Errors: UnusableInput when it can't be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=READ) as image:
            if image.width * image.height > INPUT_PIXELS_MAX:
                raise UnusableInput(f"{path.name} has {image.width} x {image.height} pixels; a smaller picture is enough.")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            flat = Image.new("RGBA", upright.size, "white")
            return np.asarray(Image.alpha_composite(flat, upright).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UnusableInput(f"{path.name} can't be read as a picture.") from error


def _looped(path: Path, rate: Fraction, width: int, height: int) -> Iterator[np.ndarray]:
    """A video again and again. Errors: UnusableInput when it can't be read."""
    frames = read_frames(path, float(rate))
    try:
        first = next(frames)
    except (UnusableVideo, StopIteration) as error:
        raise UnusableInput(
            f"{path.name} can't be shown behind: it is neither a picture nor a video that can be read."
        ) from error
    again = chain.from_iterable(read_frames(path, float(rate)) for _ in repeat(None))
    return (covering(frame, width, height) for frame in chain([first], frames, again))
