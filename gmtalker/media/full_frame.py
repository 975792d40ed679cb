"""Full frame: the generated head back in a loop of the person's own footage, at its resolution (docs/method.md section 12)."""

from __future__ import annotations

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

VIDEO_FILE, TRACK_FILE = "idle.mp4", "idle.safetensors"
IDLE_FRAMES_MAX = 125  # of a loop
FEATHER = 0.08  # of the crop's side, over which the generated picture fades into the footage
TINT_MAX = 12.0  # of 255: light changes a little between takes; more is another room


@dataclass(frozen=True)
class IdleLoop:
    """A stretch of the person's footage in which they move little, played forwards and backwards.

    pictures: its frames, as JPEG.
    crop: (3,) left, top and side, in its pixels, of the square that the head generator draws.
    shoulders: (frames, 4) as in FaceTrack, so that the generated shoulders are where those of the footage are.
    """

    pictures: list[bytes]
    crop: np.ndarray
    shoulders: Tensor

    @classmethod
    def load(cls, folder: Path) -> IdleLoop:
        """Read the loop of an avatar's folder. Errors: UnusableAvatar when it has none, or a broken one."""
        folder = Path(folder)
        if not (folder / TRACK_FILE).is_file():
            raise UnusableAvatar("This avatar keeps no footage to stand in; train it again to show it in its full frame.")
        try:
            track = load_file(str(folder / TRACK_FILE))
            pictures = [_packed(frame) for frame, _ in zip(read_frames(folder / VIDEO_FILE), range(IDLE_FRAMES_MAX))]
            shoulders, crop = track["shoulders"][: len(pictures)], track["crop"]
            if not pictures or shoulders.shape != (len(pictures), 4) or crop.shape != (3,) or not crop[2] >= 16:
                raise ValueError("its track and its pictures differ")
        except (OSError, KeyError, ValueError, SafetensorError, UnusableVideo) as error:
            raise UnusableAvatar("The footage that this avatar stands in is broken; train or import it again.") from error
        return cls(pictures, crop, torch.from_numpy(shoulders))

    def places(self, frames: int) -> np.ndarray:
        """(frames,) number of the picture behind each frame of a video: forwards and backwards, so that it never jumps."""
        count = len(self.pictures)
        there_and_back = np.concatenate([np.arange(count), np.arange(count - 2, 0, -1)])
        return there_and_back[np.arange(frames) % len(there_and_back)]

    def picture(self, place: int) -> np.ndarray:
        """Picture number `place`, (height, width, 3) uint8 RGB."""
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(self.pictures[place], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def around(self, drawn: np.ndarray, place: int) -> np.ndarray:
        """Picture number `place` with a generated head (size, size, 3) uint8 in it."""
        return paste(self.picture(place), drawn, self.crop)


def _packed(frame: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 97])[1].tobytes()


def paste(picture: np.ndarray, drawn: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """A picture with a generated one in a crop of it: colour-matched along the rim, feathered.

    Where the crop ends at the picture's own border, or beyond it, there is nothing to fade into.

    picture: (height, width, 3) uint8.
    drawn: (size, size, 3) uint8.
    crop: (3,) left, top and side, in pixels of the picture.
    Returns: (height, width, 3) uint8.
    """
    (height, width), (left, top, side) = picture.shape[:2], np.round(crop).astype(int)
    enlarged = cv2.resize(drawn, (side, side), interpolation=cv2.INTER_CUBIC if side > len(drawn) else cv2.INTER_AREA)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    inside = enlarged[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
    footage = picture[y0:y1, x0:x1].astype(np.float32)
    rim = max(2, int(FEATHER * side))
    across = _fade(side, rim, left > 0, left + side < width)[x0 - left : x1 - left]
    down = _fade(side, rim, top > 0, top + side < height)[y0 - top : y1 - top]
    weight = (down[:, None] * across[None])[..., None]
    edge = (weight[..., 0] < 1) & (weight[..., 0] > 0)
    if edge.any():  # the median difference, so that a shoulder which moved does not tint the rest
        inside += np.clip(np.median((footage - inside)[edge], axis=0), -TINT_MAX, TINT_MAX)
    whole = picture.copy()
    whole[y0:y1, x0:x1] = np.clip(weight * inside + (1 - weight) * footage + 0.5, 0, 255).astype(np.uint8)
    return whole


def _fade(side: int, rim: int, before: bool, after: bool) -> np.ndarray:
    """(side,) 0 at the ends that fade, 1 from rim pixels inwards."""
    place = np.arange(side) + 0.5
    share = np.ones(side)
    if before:
        share = np.minimum(share, place / rim)
    if after:
        share = np.minimum(share, (side - place) / rim)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def write_idle_loop(folder: Path, clip: Path, first: int, crop: np.ndarray, shoulders: np.ndarray) -> None:
    """Write a stretch of a clip into an avatar's folder as its idle loop.

    first: number of its first frame.
    crop: (3,) left, top and side, in the clip's pixels.
    shoulders: (frames, 4) as in FaceTrack, one row for each frame of the stretch.
    Errors: UnusableVideo when the clip can't be read.
    """
    frames = islice(read_frames(clip), first, first + len(shoulders))
    opening = next(frames)
    with VideoWriter(folder / VIDEO_FILE, opening.shape[1], opening.shape[0]) as writer:
        for frame in chain([opening], frames):
            writer.write(frame)
    track = {"shoulders": np.ascontiguousarray(shoulders, np.float32), "crop": np.asarray(crop, np.float32)}
    save_file(track, str(folder / TRACK_FILE))
