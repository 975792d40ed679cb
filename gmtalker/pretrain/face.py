"""Learn the shared face model from the tracked faces of many people: `pretrain face`."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Sequence

import numpy as np

from gmtalker.face.geometry import align, eyelids
from gmtalker.face.landmarks import CHIN, EYE_REGION, FOREHEAD, LIPS
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import measure_eyes, measure_neutral
from gmtalker.pretrain.card import write_section
from gmtalker.pretrain.corpus import tracked_rows
from gmtalker.pretrain.datasets import Row, source_of
from gmtalker.pretrain.samples import PretrainOptions
from gmtalker.progress import OnProgress, Progress, nobody_listens
from gmtalker.training.checkpoints import TrainState

COEFFICIENTS = 40
FRAMES_A_PERSON = 1500  # so that one much-filmed person does not become the basis
RIGID_POINTS = 80


# Forehead, temples, nose bridge and outer eye corners: where the search for points that speech does not move begins.
FIRST_RIGID = (10, 338, 297, 332, 284, 251, 389, 127, 162, 21, 54, 103, 67, 109, 6, 168, 197, 195, 122, 351, 33, 263, 133, 362)


def mesh_triangles() -> np.ndarray:
    """(852, 3) triangles of the 468-point FaceMesh, found as the three-cliques of MediaPipe's published edges."""
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION

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
    options: PretrainOptions = PretrainOptions(),  # it is solved for, not trained: nothing of these limits it
    on_progress: OnProgress = nobody_listens,
) -> FaceModel:
    """Mean shape, rigid points, eyelid and expression basis over all people of the training rows; saved in `output`."""
    people: dict[str, list[np.ndarray]] = {}
    calm: dict[str, list[np.ndarray]] = {}
    used, began = [], time.monotonic()
    on_progress(Progress("tracking the clips"))
    for row, points, _, _ in tracked_rows(rows, Path(output) / "corpus"):
        used.append(row)
        people.setdefault(row.person, []).append(points)
        calm.setdefault(row.person, []).append(np.full(len(points), row.emotion == "neutral"))
    frames, neutral_frames = {}, {}
    for person, clips in people.items():
        every, still = np.concatenate(clips), np.concatenate(calm[person])
        keep = np.linspace(0, len(every) - 1, min(len(every), FRAMES_A_PERSON)).astype(int)
        frames[person], neutral_frames[person] = every[keep], still[keep]
    model, kept = _learn(frames, neutral_frames)
    model.save(Path(output) / "face_model")
    figures = {
        "people": len(frames),
        "frames": sum(map(len, frames.values())),
        f"variance that {COEFFICIENTS} coefficients keep, lips weighted up": f"{kept:.1%}",
    }
    command = f"python -m gmtalker pretrain face {source_of(used)} --output DIR"
    numbers = sum(getattr(model, name).size for name in FaceModel.TENSORS)
    write_section(
        Path(output) / "README.md", "face_model", command, TrainState(0, time.monotonic() - began), used, figures, numbers
    )
    return model


def _learn(frames: dict[str, np.ndarray], calm: dict[str, np.ndarray]) -> tuple[FaceModel, float]:
    rigid = np.array(FIRST_RIGID)
    mean = _mean_shape(frames, rigid)
    for _ in range(2):
        empty = np.zeros((COEFFICIENTS, 478, 3))
        model = FaceModel(
            mean_shape=mean,
            expression_basis=empty,
            eyelid_basis=np.zeros((2, 478, 3)),
            projection=np.zeros((COEFFICIENTS, 468 * 3)),
            triangles=mesh_triangles(),
            rigid=rigid,
        )
        offsets, blinks = [], []
        for person, points in frames.items():
            neutral = measure_neutral(model, points, calm[person])
            canonical = model.unpose(points, model.pose(points, neutral))
            blinks.append(eyelids(canonical, *measure_eyes(canonical)))
            offsets.append(canonical - neutral)
        # Points that move least within a person carry the pose from now on; lips, lids and jaw never do.
        spread = np.mean([(o[:, :468] * [1, 1, 0.5]).std(0).sum(-1) for o in offsets], axis=0)
        spread[[*LIPS, *EYE_REGION]] = np.inf
        spread[mean[:468, 1] > 0.0] = np.inf  # cheeks and nose wings follow a smile
        rigid = np.union1d(
            FIRST_RIGID, np.argsort(spread)[:RIGID_POINTS]
        )  # the first ones reach far out: a long lever for angles
    model.rigid = rigid
    offset, blink = np.concatenate(offsets), np.concatenate(blinks)
    eyes = list(EYE_REGION)
    solved = np.linalg.lstsq(
        np.concatenate([blink, np.ones((len(blink), 1))], 1), offset[:, eyes].reshape(len(offset), -1), rcond=None
    )[0]
    model.eyelid_basis = np.zeros((2, 478, 3))
    model.eyelid_basis[:, eyes] = solved[:2].reshape(2, -1, 3)
    left = offset[:, :468] - np.tensordot(blink, model.eyelid_basis[:, :468], 1)
    weight = np.ones((468, 3)) * [1, 1, 0.4]  # depth is guessed from one picture: trust it less
    weight[list(LIPS)] *= 3.0
    weight[eyes] *= 0.3
    flat = (left * weight).reshape(len(left), -1)
    _, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    vectors = vectors[:, ::-1][:, :COEFFICIENTS].T
    deviation = (flat @ vectors.T).std(0)
    model.expression_basis = np.zeros((COEFFICIENTS, 478, 3))
    model.expression_basis[:, :468] = vectors.reshape(-1, 468, 3) * deviation[:, None, None] / weight
    model.projection = vectors * weight.reshape(-1) / deviation[:, None]
    model.coefficients = COEFFICIENTS
    kept = ((flat @ vectors.T) ** 2).sum() / (flat**2).sum()
    return model, float(kept)


def _mean_shape(frames: dict[str, np.ndarray], rigid: np.ndarray) -> np.ndarray:
    """(478, 3) mean over people, upright, 1 high, its middle at the origin."""
    some = np.concatenate([points[:: max(1, len(points) // 50)] for points in frames.values()])
    mean = some[0]
    for _ in range(5):
        scale, rotation, offset = align(mean[rigid], some[:, rigid])
        mean = (np.einsum("tji,tnj->tni", rotation, some - offset[:, None]) / scale[:, None, None]).mean(0)
        right = mean[263] - mean[33]
        right /= np.linalg.norm(right)
        down = mean[CHIN] - mean[FOREHEAD]
        height = np.linalg.norm(down)
        down = down - right * (down @ right)
        down /= np.linalg.norm(down)
        axes = np.stack([right, down, np.cross(right, down)])
        mean = (mean - (mean[CHIN] + mean[FOREHEAD]) / 2) @ axes.T / height
    return mean
