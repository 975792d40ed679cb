"""Pretraining of the face model, from the tracked faces of many people: `pretrain face` (docs/method.md section 6)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gmtalker.errors import UnusableInput
from gmtalker.face.geometry import align, eyelids
from gmtalker.face.landmarks import CHIN, EYE_REGION, FACE_POINTS, FOREHEAD, LIPS, OUTER_EYE_CORNERS, POINTS
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import measure_eyes, measure_neutral
from gmtalker.pretrain.card import StageSection, write_section
from gmtalker.pretrain.corpus import TrackedClip, tracked_clips
from gmtalker.pretrain.datasets import Row, source_of
from gmtalker.pretrain.samples import PretrainOptions
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.training.checkpoints import TrainState

COEFFICIENT_DIM = 40
PERSON_FRAMES_MAX = 1500  # so that one much-filmed person does not become the basis
RIGID_POINTS = 80  # that move least, beside the first ones
DEPTH_WEIGHT, LIP_WEIGHT, EYE_WEIGHT = 0.4, 3.0, 0.3  # in the expression basis; depth is guessed from one picture: trust it less

# Forehead, temples, nose bridge and outer eye corners: where the search for points that speech does not move begins.
FIRST_RIGID = (10, 338, 297, 332, 284, 251, 389, 127, 162, 21, 54, 103, 67, 109, 6, 168, 197, 195, 122, 351, 33, 263, 133, 362)


def mesh_triangles() -> np.ndarray:
    """(852, 3) triangles of the 468-point FaceMesh: the three-cliques of MediaPipe's published edges."""
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION  # late: it takes a second to import

    edges = {tuple(sorted(edge)) for edge in FACEMESH_TESSELATION}
    near: dict[int, set[int]] = {}
    for a, b in edges:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    triangles = {tuple(sorted((a, b, c))) for a, b in edges for c in near[a] & near[b]}
    shared: dict[tuple, int] = {}
    for triangle in triangles:
        for edge in itertools.combinations(triangle, 2):
            shared[edge] = shared.get(edge, 0) + 1
    # A clique whose three edges each carry three triangles lies over others: it is no face of the mesh.
    faces = [t for t in triangles if not all(shared[edge] > 2 for edge in itertools.combinations(t, 2))]
    return np.array(sorted(faces), dtype=np.int32)


def pretrain_face(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),  # the model is solved for, not trained: nothing of these applies
    on_progress: OnProgress = ignore_progress,
) -> FaceModel:
    """Solve for the mean shape, rigid points, eyelid and expression basis over all people of the training rows.

    output: folder of stages; the model goes to output/face_model.
    Errors: UnusableInput when no clip shows a face.
    """
    started, output = time.monotonic(), Path(output)
    clips = list(tracked_clips(rows, output / "corpus", on_progress))
    if not clips:
        raise UnusableInput("None of the training clips is a video with a face.")
    on_progress(Progress("solving for the face model"))
    frames, neutral_frames = _frames_of_people(clips)
    model, kept = _solve(frames, neutral_frames)
    model.save(output / "face_model")
    used = [clip.row for clip in clips]
    figures = {
        "people": len(frames),
        "frames": sum(map(len, frames.values())),
        f"variance that {COEFFICIENT_DIM} coefficients keep, lips weighted up": f"{kept:.1%}",
    }
    command = f"python -m gmtalker pretrain face {source_of(used)} --output DIR"
    numbers = sum(getattr(model, name).size for name in FaceModel.TENSORS)
    state = TrainState(0, time.monotonic() - started)
    write_section(output, StageSection("face_model", command, state, used, figures, numbers))
    return model


def _frames_of_people(clips: Sequence[TrackedClip]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of each person at most PERSON_FRAMES_MAX frames: points (frames, 478, 3), and (frames,) bool, labelled neutral."""
    people: dict[str, list[TrackedClip]] = {}
    for clip in clips:
        people.setdefault(clip.row.person, []).append(clip)
    points, neutral_frames = {}, {}
    for person, own in people.items():
        every, neutral = (np.concatenate(parts) for parts in zip(*((clip.video.points, clip.neutral_frames) for clip in own)))
        chosen = np.linspace(0, len(every) - 1, min(len(every), PERSON_FRAMES_MAX)).astype(int)
        points[person], neutral_frames[person] = every[chosen], neutral[chosen]
    return points, neutral_frames


def _solve(frames: Mapping[str, np.ndarray], neutral_frames: Mapping[str, np.ndarray]) -> tuple[FaceModel, float]:
    """The face model of points (frames, 478, 3) of people, and the share of variance that its coefficients keep."""
    rigid = np.array(FIRST_RIGID)
    mean = _mean_shape(frames, rigid)
    for _ in range(2):
        model = _model_without_bases(mean, rigid)
        offsets, blinks = [], []
        for person, points in frames.items():
            neutral = measure_neutral(model, points, neutral_frames[person])
            canonical = model.unpose(points, model.pose(points, neutral))
            blinks.append(eyelids(canonical, *measure_eyes(canonical)))
            offsets.append(canonical - neutral)
        rigid = _rigid_points(offsets, mean)
    model.rigid = rigid
    offset, blink = np.concatenate(offsets), np.concatenate(blinks)
    model.eyelid_basis = _eyelid_basis(offset, blink)
    rest = offset[:, :FACE_POINTS] - np.tensordot(blink, model.eyelid_basis[:, :FACE_POINTS], 1)
    model.expression_basis, model.projection, kept = _expression_basis(rest)
    return model, kept


def _model_without_bases(mean: np.ndarray, rigid: np.ndarray) -> FaceModel:
    return FaceModel(
        mean_shape=mean,
        expression_basis=np.zeros((COEFFICIENT_DIM, POINTS, 3)),
        eyelid_basis=np.zeros((2, POINTS, 3)),
        projection=np.zeros((COEFFICIENT_DIM, FACE_POINTS * 3)),
        triangles=mesh_triangles(),
        rigid=rigid,
    )


def _rigid_points(offsets: Sequence[np.ndarray], mean: np.ndarray) -> np.ndarray:
    """Numbers of the points that move least within a person, which carry the pose, joined with the first ones.

    offsets: of each person (frames, 478, 3) from their neutral shape.
    """
    spread = np.mean([(offset[:, :FACE_POINTS] * [1, 1, 0.5]).std(0).sum(-1) for offset in offsets], axis=0)
    spread[[*LIPS, *EYE_REGION]] = np.inf
    spread[mean[:FACE_POINTS, 1] > 0.0] = np.inf  # jaw, cheeks and nose wings follow speech and smiles
    return np.union1d(FIRST_RIGID, np.argsort(spread)[:RIGID_POINTS])  # the first ones reach far out: a long lever for angles


def _eyelid_basis(offset: np.ndarray, blink: np.ndarray) -> np.ndarray:
    """(2, 478, 3): displacement of the eye region per closed eye, by least squares.

    offset: (frames, 478, 3) from the neutral shape.
    blink: (frames, 2).
    """
    eyes = list(EYE_REGION)
    columns = np.concatenate([blink, np.ones((len(blink), 1))], 1)
    solved = np.linalg.lstsq(columns, offset[:, eyes].reshape(len(offset), -1), rcond=None)[0]
    basis = np.zeros((2, POINTS, 3))
    basis[:, eyes] = solved[:2].reshape(2, -1, 3)
    return basis


def _expression_basis(rest: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Weighted principal components of the displacements (frames, 468, 3) that pose, neutral shape and eyelids leave.

    Returns: basis (40, 478, 3) in standard deviations, projection (40, 468 * 3), and the share of variance kept.
    """
    weight = np.ones((FACE_POINTS, 3)) * [1, 1, DEPTH_WEIGHT]
    weight[list(LIPS)] *= LIP_WEIGHT
    weight[list(EYE_REGION)] *= EYE_WEIGHT
    flat = (rest * weight).reshape(len(rest), -1)
    _, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    vectors = vectors[:, ::-1][:, :COEFFICIENT_DIM].T
    deviation = (flat @ vectors.T).std(0)
    basis = np.zeros((COEFFICIENT_DIM, POINTS, 3))
    basis[:, :FACE_POINTS] = vectors.reshape(-1, FACE_POINTS, 3) * deviation[:, None, None] / weight
    projection = vectors * weight.reshape(-1) / deviation[:, None]
    kept = ((flat @ vectors.T) ** 2).sum() / (flat**2).sum()
    return basis, projection, float(kept)


def _mean_shape(frames: Mapping[str, np.ndarray], rigid: np.ndarray) -> np.ndarray:
    """(478, 3) mean over people: upright, 1 high, its middle at the origin."""
    some = np.concatenate([points[:: max(1, len(points) // 50)] for points in frames.values()])
    mean, (left, right) = some[0], OUTER_EYE_CORNERS
    for _ in range(5):
        scale, rotation, offset = align(mean[rigid], some[:, rigid])
        mean = (np.einsum("tji,tnj->tni", rotation, some - offset[:, None]) / scale[:, None, None]).mean(0)
        across = mean[right] - mean[left]
        across /= np.linalg.norm(across)
        down = mean[CHIN] - mean[FOREHEAD]
        height = np.linalg.norm(down)
        down = down - across * (down @ across)
        down /= np.linalg.norm(down)
        axes = np.stack([across, down, np.cross(across, down)])
        mean = (mean - (mean[CHIN] + mean[FOREHEAD]) / 2) @ axes.T / height
    return mean
