"""Pretraining of the expression ratio images: `pretrain ratio` (docs/method.md section 3, "Ratio images")."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.face.canonical_grid import GRID, CanonicalGrid
from gmtalker.face.landmarks import CHIN, FOREHEAD
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import choose_crop, in_crop, measure_shape
from gmtalker.media.video import read_frames
from gmtalker.models.ratio_image import RatioImages, ratio_features
from gmtalker.models.weights import save_half
from gmtalker.pretrain.card import StageSection, write_section
from gmtalker.pretrain.corpus import TrackedClip, tracked_clips
from gmtalker.pretrain.datasets import Row, source_of
from gmtalker.pretrain.samples import PretrainOptions, emotion_row, read_face_model
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.tracks import BLINK, ROTATION
from gmtalker.training.checkpoints import TrainState

FOLDER = "ratio_images"
LABELLED_EVERY, OTHERS_EVERY = 3, 6  # frames
CLIPS_MAX = 24  # of a person and camera
FACE_PIXELS = 200  # height of the face, above which pictures are made smaller
BLINK_MAX = 0.6  # of the frames that count: closed lids tell nothing of the skin
BLUR, WIDE_BLUR = 1.4, 14.0  # cells: what is finer is the tracker's error, what is wider is the light
DARKEST = 12.0  # levels of 255 that are added before the logarithm
ROTATION_UNIT = 8.0  # on which a radian counts as much as some coefficients
ALPHA = 1000.0  # of the ridge regression, in frames
SIZE = 0.8  # of the emotions' mean ratio images over the real ones, which ridge regression makes smaller
PEOPLE_MIN = 3


@dataclass(frozen=True)
class _Lit:
    """Frames of one person: features (n, f), rotation (n, 3), ratio images (n, cells) up to a constant, and labels (n,)."""

    person: str
    features: np.ndarray
    rotation: np.ndarray
    images: np.ndarray
    labels: np.ndarray


def pretrain_ratio(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Learn, from many people, how skin is lit in an expression over how it is lit at rest; solved for, not trained.

    output: folder of stages.
    Returns: the folder of the weights.
    Errors: UnusableInput when there is no face model yet, or the videos show too few people.
    """
    output, began = Path(output), time.monotonic()
    model = read_face_model(output)
    people = list(_lit_people([row for row in rows if row.is_video], output / "corpus", model, on_progress))
    if len({person.person for person in people}) < PEOPLE_MIN:
        raise UnusableInput(f"The clips show {len(people)} people; ratio images need {PEOPLE_MIN} or more.")
    grid, network = CanonicalGrid(model), RatioImages(model.coefficient_dim, GRID)
    equations = [_Equations.of(person) for person in people]
    figures, gain = _cross_validated(people, equations, on_progress)
    weights = gain * _solve(equations, people[0].features.shape[1])
    with torch.no_grad():
        full = torch.zeros(len(weights), GRID, GRID)
        full[:, torch.from_numpy(grid.covered)] = torch.from_numpy(weights).float()
        network.weights.copy_(full.flatten(1))
    save_half(network, output / FOLDER)
    command = f"python -m gmtalker pretrain ratio {source_of(rows)} --output DIR"
    state = TrainState(0, time.monotonic() - began)
    used = [row for row in rows if row.is_video]
    write_section(output, StageSection(FOLDER, command, state, used, figures, network.weights.numel()))
    return output / FOLDER


def _lit_people(rows: Sequence[Row], cache: Path, model: FaceModel, on_progress: OnProgress) -> Iterator[_Lit]:
    cameras: dict[tuple, list[TrackedClip]] = {}
    for clip in tracked_clips(rows, cache, on_progress):
        cameras.setdefault((clip.row.person, clip.video.source_size, clip.row.kind), []).append(clip)
    grid = CanonicalGrid(model)
    for number, clips in enumerate(cameras.values()):
        on_progress(Progress("measuring faces", number, len(cameras)))
        every = max(1, len(clips) // CLIPS_MAX)
        person = _measure(clips[::every], model, grid)
        if len(person.images) > 1:
            yield person


def _measure(clips: Sequence[TrackedClip], model: FaceModel, grid: CanonicalGrid) -> _Lit:
    """One person before one camera; what is the same in all frames, the light and the face, is taken off."""
    points = np.concatenate([clip.video.points for clip in clips])
    crop = choose_crop(points, *clips[0].video.source_size)
    shape = measure_shape(model, in_crop(points, crop), np.concatenate([clip.neutral_frames for clip in clips]))
    parts: list[tuple] = []
    for clip in clips:
        track = model.track(in_crop(clip.video.points, crop), shape, 1.0, clip.video.found)
        motion = track.motion.stacked().numpy()
        every = LABELLED_EVERY if clip.row.emotion in EMOTIONS[1:] else OTHERS_EVERY
        usable = (motion[:, BLINK].max(1) < BLINK_MAX) & clip.video.found & (np.arange(len(motion)) % every == 0)
        images = [
            ratio_image(frame, clip.video.points[index], grid)
            for index, frame in zip(range(len(motion)), read_frames(clip.row.path))
            if usable[index]
        ]
        chosen = np.flatnonzero(usable)[: len(images)]
        emotion = emotion_row(clip.row)
        emotion = torch.eye(len(EMOTIONS))[0] if emotion is None else emotion
        lids = torch.from_numpy(motion[chosen][:, BLINK])
        features = ratio_features(track.expression.coefficients[chosen], lids, emotion.expand(len(chosen), -1))
        label = EMOTIONS.index(clip.row.emotion) if clip.row.emotion in EMOTIONS else 0
        parts.append((features.numpy(), motion[chosen][:, ROTATION], np.array(images), np.full(len(chosen), label)))
    features, rotation, images, labels = (np.concatenate([part[k] for part in parts if len(part[0])]) for k in range(4))
    return _Lit(clips[0].row.person, features - features.mean(0), rotation - rotation.mean(0), images - images.mean(0), labels)


def ratio_image(frame: np.ndarray, points: np.ndarray, grid: CanonicalGrid) -> np.ndarray:
    """(cells,) logarithm of a face's brightness on the covered cells, without the light that changes slowly over it.

    frame: (height, width, 3) uint8 RGB.
    points: (478, 3) of the face in it, in pixels.
    """
    zoom = min(1.0, FACE_PIXELS / float(np.linalg.norm(points[CHIN] - points[FOREHEAD])))
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if zoom < 1:
        grey = cv2.resize(grey, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    light = np.log(_blurred(grid.take(grey.astype(np.float32), points * zoom), grid, BLUR) + DARKEST)
    image: np.ndarray = (light - _blurred(light, grid, WIDE_BLUR))[grid.covered]
    return image.astype(np.float32)


def _blurred(cells: np.ndarray, grid: CanonicalGrid, deviation: float) -> np.ndarray:
    """A Gaussian blur over the covered cells."""
    mask = grid.covered.astype(np.float32)
    blurred: np.ndarray = cv2.GaussianBlur(cells.astype(np.float32) * mask, (0, 0), deviation)
    return blurred / np.maximum(cv2.GaussianBlur(mask, (0, 0), deviation), 1e-3)


@dataclass(frozen=True)
class _Equations:
    """What a ridge regression needs to know of one person; they count by the square root of their frames."""

    gram: np.ndarray
    product: np.ndarray
    weight: float
    frames: int

    @classmethod
    def of(cls, person: _Lit) -> _Equations:
        """With the head's rotation beside the features: it explains its part of the light."""
        turned = ROTATION_UNIT * person.rotation
        columns = np.concatenate([person.features, turned, np.abs(turned) - np.abs(turned).mean(0)], axis=1)
        weight = len(columns) ** -0.5
        return cls(weight * columns.T @ columns, weight * columns.T @ person.images, weight, len(columns))


def _solve(equations: Sequence[_Equations], features: int) -> np.ndarray:
    """(features, cells) by ridge regression over some people."""
    gram, product = sum(each.gram for each in equations), sum(each.product for each in equations)
    mean_weight = sum(each.weight * each.frames for each in equations) / sum(each.frames for each in equations)
    solved: np.ndarray = np.linalg.solve(gram + ALPHA * mean_weight * np.eye(len(gram)), product)
    return solved[:features]


def _cross_validated(
    people: Sequence[_Lit], equations: Sequence[_Equations], on_progress: OnProgress
) -> tuple[dict[str, float], float]:
    """How well weights of the others fit each labelled person.

    Returns: correlation with the real change, frame by frame and of the emotions' means, and the size of the latter as it was
        solved for; the factor that makes it SIZE.
    """
    actors = sorted({person.person for person in people if len(set(person.labels.tolist())) > 1})
    frame_scores, mean_scores, sizes = [], [], []
    for number, actor in enumerate(actors):
        on_progress(Progress("validating", number, len(actors)))
        others = [own for person, own in zip(people, equations) if person.person != actor]
        weights = _solve(others, people[0].features.shape[1])
        for person in (person for person in people if person.person == actor and len(set(person.labels.tolist())) > 1):
            made = person.features @ weights
            frame_scores.append(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(made, person.images)]))
            for label in sorted(set(person.labels.tolist())):
                a, b = (rows[person.labels == label].mean(0) for rows in (made, person.images))
                mean_scores.append(np.corrcoef(a, b)[0, 1])
                sizes.append(np.linalg.norm(a) / max(float(np.linalg.norm(b)), 1e-9))
    if not actors:
        return {}, 1.0
    size = float(np.median(sizes))
    figures = {
        "correlation with held-out people, frame by frame": float(np.mean(frame_scores)),
        "the same of the emotions' means": float(np.mean(mean_scores)),
        "size before it was made 0.8": size,
    }
    return {name: round(value, 3) for name, value in figures.items()}, SIZE / max(size, 0.2)
