"""Full frame: the generated head back in a loop of the person's own footage, at its resolution (docs/method.md section 12).

Where the avatar draws a matte, the footage is one without a head, and the person is laid over it; avatars made before get their
whole square pasted in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from gmtalker.errors import UnusableAvatar, UnusableVideo
from gmtalker.media.video import read_frames
from gmtalker.media.video_writer import VideoWriter

VIDEO_FILE, CLEAN_FILE, TRACK_FILE = "idle.mp4", "behind.mp4", "idle.safetensors"
IDLE_FRAMES_MAX = 125  # of a loop
CROP_SIDE_MAX = 2**13  # pixels; the drawn square is made as large
FEATHER = 0.08  # of the crop's side, over which the generated picture fades into the footage
SOLID = 0.9  # of a matte, from which on a pixel shows the person alone
TINT_MAX = 12.0  # of 255: light changes a little between takes; more is another room


@dataclass(frozen=True)
class IdleLoop:
    """A stretch of the person's footage in which they move little, played forwards and backwards.

    pictures: its frames, as JPEG.
    crop: (3,) left, top and side, in its pixels, of the square that the head generator draws.
    shoulders: (frames, 4) as in FaceTrack, so that the generated shoulders are where those of the footage are.
    is_clean: whether the head is gone from the pictures; then frames are laid over them by their matte.
    """

    pictures: list[bytes]
    crop: np.ndarray
    shoulders: Tensor
    is_clean: bool = False

    @classmethod
    def load(cls, folder: Path) -> IdleLoop:
        """Read the loop of an avatar's folder. Errors: UnusableAvatar when it has none, or a broken one."""
        folder = Path(folder)
        if not (folder / TRACK_FILE).is_file():
            raise UnusableAvatar("This avatar keeps no footage to stand in; train it again to show it in its full frame.")
        try:
            track = load_file(str(folder / TRACK_FILE))
            is_clean = (folder / CLEAN_FILE).is_file()
            video = folder / (CLEAN_FILE if is_clean else VIDEO_FILE)
            pictures = [_packed(frame) for frame in islice(read_frames(video), IDLE_FRAMES_MAX)]
            shoulders, crop = track["shoulders"][: len(pictures)], track["crop"]
            moves = "moves" in track and bool(track["moves"][0])
            if not pictures or shoulders.shape != (len(pictures), 4) or crop.shape != (3,) or not 16 <= crop[2] <= CROP_SIDE_MAX:
                raise ValueError("its track and its pictures differ")
            if not (np.isfinite(shoulders).all() and (np.abs(crop) <= CROP_SIDE_MAX).all()):
                raise ValueError("its track holds impossible numbers")
        except (OSError, KeyError, ValueError, SafetensorError, UnusableVideo) as error:
            raise UnusableAvatar("The footage that this avatar stands in is broken; train or import it again.") from error
        if moves:
            raise UnusableAvatar(
                "Camera or background move in the footage of this avatar, so that its head can't be replaced without a trace;"
                " choose head and shoulders, or train it again from a clip that was filmed by a camera on a stand."
            )
        return cls(pictures, crop, torch.from_numpy(shoulders), is_clean)

    def places(self, frames: int) -> np.ndarray:
        """(frames,) number of the picture behind each frame of a video: forwards and backwards, so that it never jumps."""
        count = len(self.pictures)
        there_and_back = np.concatenate([np.arange(count), np.arange(count - 2, 0, -1)])
        return there_and_back[np.arange(frames) % len(there_and_back)]

    def picture(self, place: int) -> np.ndarray:
        """Picture number `place`, (height, width, 3) uint8 RGB."""
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(self.pictures[place], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def around(self, drawn: np.ndarray, place: int) -> np.ndarray:
        """Picture number `place` with a generated head in it, (size, size, 3) uint8, or (size, size, 4) where it is_clean."""
        return paste(self.picture(place), drawn, self.crop)


def _packed(frame: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 97])[1].tobytes()


def paste(picture: np.ndarray, drawn: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """A picture with a generated one in a crop of it: colour-matched along the rim, feathered.

    Where the crop ends at the picture's own border, or beyond it, there is nothing to fade into.

    picture: (height, width, 3) uint8.
    drawn: (size, size, 3) uint8; with a matte (size, size, 4): then only the person is laid over the picture.
    crop: (3,) left, top and side, in pixels of the picture.
    Returns: (height, width, 3) uint8.
    """
    (height, width), (left, top, side) = picture.shape[:2], np.round(crop).astype(int)
    enlarged = cv2.resize(drawn, (side, side), interpolation=cv2.INTER_CUBIC if side > len(drawn) else cv2.INTER_AREA)
    place = within(crop, height, width)
    (y0, y1), (x0, x1) = ((part.start, part.stop) for part in place)
    inside = enlarged[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
    inside, matte = inside[..., :3], inside[..., 3:] / 255 if drawn.shape[2] == 4 else 1.0
    footage = picture[place].astype(np.float32)
    rim = _rim(side)
    across = _fade(side, rim, left > 0, left + side < width)[x0 - left : x1 - left]
    down = _fade(side, rim, top > 0, top + side < height)[y0 - top : y1 - top]
    weight = (down[:, None] * across[None])[..., None]
    edge = (weight[..., 0] < 1) & (weight[..., 0] > 0)
    if drawn.shape[2] == 4:  # what is behind is not the generated picture's
        edge &= matte[..., 0] > SOLID
    if edge.any():  # the median difference, so that a shoulder which moved does not tint the rest
        inside += np.clip(np.median((footage - inside)[edge], axis=0), -TINT_MAX, TINT_MAX)
    whole = picture.copy()
    weight = weight * matte
    whole[place] = np.clip(weight * inside + (1 - weight) * footage + 0.5, 0, 255).astype(np.uint8)
    return whole


def within(square: np.ndarray, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the part of a square (3,), left, top and side in pixels, that lies within a picture."""
    left, top, side = np.round(square).astype(int)
    return slice(max(top, 0), min(top + side, height)), slice(max(left, 0), min(left + side, width))


def inner_square(crop: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) bool: the part of a crop in which a generated picture stands alone, with nothing of the footage."""
    left, top, side = np.round(crop).astype(int)
    rim = _rim(side)
    inside = np.zeros((height, width), bool)
    x0, y0 = max(left + rim, 0) if left > 0 else 0, max(top + rim, 0) if top > 0 else 0
    x1, y1 = (left + side - rim) if left + side < width else width, (top + side - rim) if top + side < height else height
    inside[y0:y1, x0:x1] = True
    return inside


def _rim(side: int) -> int:
    return max(2, int(FEATHER * side))


def _fade(side: int, rim: int, before: bool, after: bool) -> np.ndarray:
    """(side,) 0 at the ends that fade, 1 from rim pixels inwards."""
    place = np.arange(side) + 0.5
    share = np.ones(side)
    if before:
        share = np.minimum(share, place / rim)
    if after:
        share = np.minimum(share, (side - place) / rim)
    return (share * share * (3 - 2 * share)).astype(np.float32)


@dataclass(frozen=True)
class Stretch:
    """Some frames of a clip.

    clip: the file.
    first, count: which.
    total: frames of the whole clip.
    turns: quarter turns to the left that make it upright.
    """

    clip: Path
    first: int
    count: int
    total: int
    turns: int = 0

    def whole_clip(self) -> Iterator[np.ndarray]:
        """(height, width, 3) uint8 each, of the whole clip. Errors: UnusableVideo when the clip can't be read."""
        return read_frames(self.clip, turns=self.turns)

    def frames(self) -> Iterator[np.ndarray]:
        """(height, width, 3) uint8 each. Errors: UnusableVideo when the clip can't be read."""
        return islice(self.whole_clip(), self.first, self.first + self.count)


def write_idle_loop(
    folder: Path, stretch: Stretch, crop: np.ndarray, shoulders: np.ndarray, clean: Iterator[np.ndarray] | None
) -> None:
    """Write a stretch of a clip into an avatar's folder as its idle loop.

    crop: (3,) left, top and side, in the clip's pixels.
    shoulders: (frames, 4) as in FaceTrack, one row for each frame of the stretch.
    clean: the stretch without the head, of the same size; None where camera or background move.
    Errors: UnusableVideo when the clip can't be read.
    """
    _write_video(folder / VIDEO_FILE, stretch.frames())
    if clean is not None:
        _write_video(folder / CLEAN_FILE, clean)
    track = {"shoulders": np.ascontiguousarray(shoulders, np.float32), "crop": np.asarray(crop, np.float32)}
    save_file(track | {"moves": np.array([clean is None], np.uint8)}, str(folder / TRACK_FILE))


def _write_video(path: Path, frames: Iterator[np.ndarray]) -> None:
    opening = next(frames)
    with VideoWriter(path, opening.shape[1], opening.shape[0]) as writer:
        for frame in chain([opening], frames):
            writer.write(frame)
