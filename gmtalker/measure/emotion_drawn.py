"""Is what the track asks for drawn: movement and look of an emotion in the avatar's frames (docs/method.md section 4)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gmtalker.avatars.avatar import Avatar
from gmtalker.clock import EMOTIONS
from gmtalker.face.canonical_grid import GRID, CanonicalGrid
from gmtalker.face.landmarks import FACE_POINTS
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import cut, detect_landmarks, track_of_person, track_points
from gmtalker.media.audio import read_speech
from gmtalker.media.video import read_frames
from gmtalker.performance import Performance
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.pretrain.ratio import ratio_image
from gmtalker.tracks import EmotionWeights, FaceTrack

DRAWN_EVERY, DRAWN_FRAMES = 5, 200  # of the speech: one frame in so many, of so many
LOOK_EVERY = 3  # frames of a labelled clip
# Where an expression folds the skin: between the brows, beside the nose, at the outer corners of the eyes.
FOLDS = (8, 9, 55, 285, 36, 203, 206, 266, 423, 426, 113, 130, 226, 342, 359, 446)
FOLD_RADIUS = 0.045  # of the mean face's height


def movement_drawn(avatar: Avatar, pipeline: GMTalkerPipeline, speech: Path) -> dict:
    """The mean movement of the face from neutral to each emotion: landmarks found in the frames, beside those of the track.

    Returns: by emotion, "share" of the asked movement that is drawn (its projection on the asked one), and "correlation".
    """
    wave = read_speech(speech)
    neutral = _sample(pipeline(wave, avatar))
    asked_at_rest, drawn_at_rest = _points(neutral, pipeline)
    result = {}
    for emotion in EMOTIONS[1:]:
        emotional = _sample(pipeline(wave, avatar, {emotion: 1.0}))
        # The head and the lids as in neutral: what is compared is the expression.
        track = replace(emotional.track, motion=neutral.track.motion)
        asked, drawn = _points(replace(emotional, track=track), pipeline)
        both = np.isfinite(drawn).all((1, 2)) & np.isfinite(drawn_at_rest).all((1, 2))
        wanted, seen = ((a - b)[both].mean(0).ravel() for a, b in ((asked, asked_at_rest), (drawn, drawn_at_rest)))
        share = float(wanted @ seen / max(float(wanted @ wanted), 1e-9))
        result[emotion] = {"share": round(share, 3), "correlation": round(float(np.corrcoef(wanted, seen)[0, 1]), 3)}
    return result


def _sample(performance: Performance) -> Performance:
    track = performance.track[slice(None, DRAWN_FRAMES)]
    return replace(performance, track=track).every(DRAWN_EVERY)


def _points(performance: Performance, pipeline: GMTalkerPipeline) -> tuple[np.ndarray, np.ndarray]:
    """(frames, 468, 2) face points that the track asks for, and that are found in the frames, each around its middle."""
    ready = pipeline.avatars.get(performance.avatar)
    coefficients = performance.track.expression.coefficients.double().numpy()
    motion = performance.track.motion.stacked().double().numpy()
    asked = np.stack([ready.renderer.points(*row) for row in zip(coefficients, motion)])[:, :FACE_POINTS, :2]
    drawn = detect_landmarks(list(performance))[0][:, :FACE_POINTS, :2]
    return asked, drawn


def look_drawn(avatar: Avatar, pipeline: GMTalkerPipeline, labelled: Mapping[Path, str], neutral: Sequence[Path]) -> dict:
    """The change of the skin's brightness from neutral to an emotion, where an expression folds it, redrawn and real.

    labelled: clips of the avatar's person, and their emotions.
    neutral: clips of the person without emotion.
    Returns: by clip, "correlation" with the real change and "size" in that of the real one; and the means of both.
    """
    at_rest = [_looks(avatar, pipeline, clip, "neutral") for clip in neutral]
    real_rest, drawn_rest = (np.mean([looks[which] for looks in at_rest], axis=0) for which in (0, 1))
    cells = fold_cells(pipeline.face_model)
    result: dict = {"by_clip": {}}
    for clip, emotion in labelled.items():
        real, drawn = _looks(avatar, pipeline, clip, emotion)
        wanted, seen = (real - real_rest)[cells], (drawn - drawn_rest)[cells]
        size = float(np.linalg.norm(seen) / max(float(np.linalg.norm(wanted)), 1e-9))
        figures = {"correlation": round(float(np.corrcoef(wanted, seen)[0, 1]), 3), "size": round(size, 3)}
        result["by_clip"][f"{clip.name} ({emotion})"] = figures
    for name in ("correlation", "size"):
        result[name] = round(float(np.mean([figures[name] for figures in result["by_clip"].values()])), 3)
    return result


def fold_cells(model: FaceModel) -> np.ndarray:
    """(cells,) bool of the canonical grid's covered cells: those near a place that folds."""
    low, high = model.mean_shape.min(0), model.mean_shape.max(0)
    across = np.linspace(0, 1, GRID)
    x, y = np.meshgrid(low[0] + across * (high[0] - low[0]), low[1] + across * (high[1] - low[1]))
    places = model.mean_shape[list(FOLDS), :2]
    distance = np.linalg.norm(np.stack([x, y], axis=-1)[:, :, None] - places, axis=-1).min(2)
    near: np.ndarray = (distance < FOLD_RADIUS)[CanonicalGrid(model).covered]
    return near


def _looks(avatar: Avatar, pipeline: GMTalkerPipeline, clip: Path, emotion: str) -> tuple[np.ndarray, np.ndarray]:
    """(cells,) mean ratio images of a clip's frames, and of the same redrawn by the avatar from what the face does in them."""
    grid, size = CanonicalGrid(pipeline.face_model), len(avatar.face.reference)
    video = track_points(clip)
    track, crop = track_of_person(video, pipeline.face_model, avatar.face)
    frames = enumerate(read_frames(clip, turns=video.turns))
    real = [cut(frame, crop, size) for index, frame in frames if index % LOOK_EVERY == 0]
    weights = EmotionWeights.from_mapping({} if emotion == "neutral" else {emotion: 1.0})
    some: FaceTrack = track[slice(None, None, LOOK_EVERY)]
    drawn = list(pipeline.draw(some, avatar, weights))
    return _mean_image(real, grid), _mean_image(drawn, grid)


def _mean_image(frames: Sequence[np.ndarray], grid: CanonicalGrid) -> np.ndarray:
    points, found = detect_landmarks(frames)
    image: np.ndarray = np.mean([ratio_image(frames[i], points[i], grid) for i in np.flatnonzero(found)], axis=0)
    return image
