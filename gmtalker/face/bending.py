"""Frames of a person bent to expressions that they did not have when they were filmed (docs/method.md section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from gmtalker.face.canonical_grid import CanonicalGrid
from gmtalker.face.renderer import CANONICAL_X, CANONICAL_Y, EYE_MAP, MOUTH_MAP, Renderer

REACH = 0.08  # of the picture's side, over which what lies around the face follows it less and less
# How far skin may be darkened and brightened, as logarithms. A brow that its tracker misses by a cell leaves a bright streak in
# ratio images, which would be drawn as one; folds are dark.
DARKENED, BRIGHTENED = 0.4, 0.12
MOUTH_EDGE = 0.004  # of the picture's side, over which the inside of a mouth goes over into its lips
SEAM = 0.012  # of the picture's side, over which a change of brightness fades out at the face's outline


@dataclass(frozen=True)
class FilmedFace:
    """One frame of a person.

    frame: (size, size, 3) uint8 RGB.
    coefficients: (n,).
    motion: (10,) one row of MotionTrack.stacked().
    shoulders: (4,) as in FaceTrack, or None.
    """

    frame: np.ndarray
    coefficients: np.ndarray
    motion: np.ndarray
    shoulders: np.ndarray | None = None


def bend(
    renderer: Renderer,
    face: FilmedFace,
    coefficients: np.ndarray,
    motion: np.ndarray,
    ratio: np.ndarray | None = None,
    mouth: FilmedFace | None = None,
) -> np.ndarray:
    """Move a frame's pixels with the mesh to another expression, and change the skin's brightness as the expression does.

    Between lips that open there is nothing to move there: a frame in which they were open shows it.

    renderer: of the person.
    coefficients, motion: of the other expression, as in FilmedFace; with the pose of the frame.
    ratio: (GRID, GRID) logarithm of the brightness over that of the frame, on the canonical grid; None leaves it.
    mouth: the frame that shows what is between the lips; None for this one.
    Returns: (size, size, 3) uint8 RGB.
    """
    before, after = renderer.points(face.coefficients, face.motion), renderer.points(coefficients, motion)
    places, maps = renderer.flow(before, after)
    on_face = maps[..., CANONICAL_X] > 0
    _extend(places, on_face, renderer.still)
    picture: np.ndarray = cv2.remap(face.frame, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if mouth is not None:
        picture = _with_mouth(picture, maps[..., MOUTH_MAP] > 0, renderer, mouth, after)
    if ratio is None:
        return picture
    change = CanonicalGrid.spread(ratio.astype(np.float32), maps[..., [CANONICAL_X, CANONICAL_Y]])
    change = np.clip(change, -DARKENED, BRIGHTENED)
    skin = on_face & (maps[..., EYE_MAP] == 0) & (maps[..., MOUTH_MAP] == 0)
    change *= cv2.GaussianBlur(skin.astype(np.float32), (0, 0), SEAM * renderer.size) * skin
    lit: np.ndarray = np.clip(picture * np.exp(change)[..., None], 0, 255).astype(np.uint8)
    return lit


def _with_mouth(picture: np.ndarray, inside: np.ndarray, renderer: Renderer, mouth: FilmedFace, after: np.ndarray) -> np.ndarray:
    """A picture with what is between the lips, inside (size, size), from another frame moved to the points after (478, 3)."""
    places, _ = renderer.flow(renderer.points(mouth.coefficients, mouth.motion), after)
    shown = cv2.remap(mouth.frame, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), MOUTH_EDGE * renderer.size)[..., None]
    mixed: np.ndarray = np.clip(share * shown + (1 - share) * picture + 0.5, 0, 255).astype(np.uint8)
    return mixed


def _extend(places: np.ndarray, on_face: np.ndarray, still: np.ndarray) -> None:
    """Let what lies around a face follow it: each pixel as the nearest one of the face, less and less with the distance."""
    if not on_face.any():
        return
    distance, labels = cv2.distanceTransformWithLabels(
        (~on_face).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    moved = np.zeros((labels.max() + 1, 2), np.float32)
    moved[labels[on_face]] = (places - still)[on_face]
    share = np.exp(-((distance / (REACH * len(places))) ** 2))
    around = cv2.GaussianBlur(moved[labels] * share[..., None], (0, 0), SEAM * len(places))
    places[~on_face] += around[~on_face]
