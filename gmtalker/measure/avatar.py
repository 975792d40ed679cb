"""Measure an avatar on held-out video of its own person: `evaluate`, and the figures in avatar.json (method section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Mapping, Sequence

import cv2
import numpy as np
import torch
from skimage.metrics import structural_similarity

from gmtalker.avatars.avatar import Avatar
from gmtalker.clock import EMOTIONS, FPS, SAMPLES_PER_FRAME
from gmtalker.device import one_core
from gmtalker.errors import UnusableVideo
from gmtalker.face.context_motion import measure_shoulders
from gmtalker.face.landmarks import EYE_REGION, LIPS
from gmtalker.face.lips import OFFSET_MAX, lip_opening, shifted_correlation
from gmtalker.face.renderer import CANONICAL_X
from gmtalker.face.tracking import TrackedVideo, cut, detect_landmarks, fill_and_smooth, track_of_person, track_points
from gmtalker.measure.identity import FaceRecogniser
from gmtalker.measure.plots import draw_lips
from gmtalker.media.audio import read_sound_or_none
from gmtalker.media.video import read_frames
from gmtalker.performance import Performance
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress, nobody_listens
from gmtalker.tracks import ExpressionTrack, FaceTrack, MotionTrack

FACE_POINTS = tuple(range(468))
NOT_MEASURED = {
    "lpips": "the weights of its network are not part of this project",
    "fid": "the weights of Inception are not part of this project",
    "syncnet": "its weights are not part of this project; the correlation of the lips stands instead",
}
NO_IDENTITY = "insightface's recognition network is not on this machine; --identity says where it is"
IMAGE_MEASURES = (
    "psnr", "ssim", "mouth_landmark_distance", "face_landmark_distance", "mouth_sharpness", "eye_sharpness", "flicker"
)  # fmt: skip
STILL = 4.0  # of 255: where neighbouring frames differ by less around a pixel, nothing moves there


@dataclass(frozen=True)
class HeldOut:
    """What an avatar is measured on: videos of its person, unseen in training.

    videos: files.
    start: seconds of each video before which nothing is measured.
    sounds: the file in which a video is heard, where it is not the video itself.
    """

    videos: Sequence[Path]
    start: float = 0.0
    sounds: Mapping[Path, Path] = field(default_factory=dict)


def evaluate_avatar(
    avatar: Avatar,
    held_out: HeldOut,
    pipeline: GMTalkerPipeline,
    on_progress: OnProgress = nobody_listens,
    pictures: Path | None = None,
    recogniser: FaceRecogniser | None = None,
) -> dict:
    """Every measure, over all videos together (docs/method.md section 4).

    pictures: a folder for lips.png, the traces of the first video's lips.
    recogniser: says whether drawn and real frames show the same person.
    Returns: figures by name, as avatar.json and `evaluate --json` hold them.
    Errors: UnusableVideo when a video can't be read or shows no face.
    """
    videos, start, identity = held_out.videos, held_out.start, recogniser
    images, speech = [], []
    for number, video in enumerate(videos):
        on_progress(Progress(f"measuring {Path(video).name}", percent=100 * number / len(videos)))
        scene = _Scene(avatar, Path(video), pipeline, start, held_out.sounds.get(video, video))
        images.append(image_measures(scene.real, list(scene.reenacted()), scene.points, identity))
        spoken = scene.spoken()
        if spoken is not None:
            speech.append(speech_measures(scene, spoken))
    weights = [row["frames"] for row in images]
    result = {"avatar": avatar.name, "videos": len(videos), "frames": int(sum(weights)), "start_seconds": start}
    for name in IMAGE_MEASURES:
        result[name] = _weighted(images, name)
    if identity is not None:
        result["identity_similarity"] = _weighted(images, "identity_similarity")
    result["emotion_mapping"] = emotion_mapping_measures(avatar, pipeline, identity)
    result["not_measured"] = NOT_MEASURED | ({} if identity else {"identity_similarity": NO_IDENTITY})
    if speech:
        correlations = np.array([row["correlations"] for row in speech])
        mean = np.average(correlations, axis=0, weights=[row["frames"] for row in speech])
        best = int(mean.argmax()) - OFFSET_MAX
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            draw_lips(*speech[0]["lips"], pictures / "lips.png")
        result |= {
            "lip_correlation": round(float(mean[OFFSET_MAX]), 3),
            "lip_best_offset_frames": best,
            "lip_best_offset_ms": best * 1000 // FPS,
            "lip_correlation_at_best_offset": round(float(mean.max()), 3),
            "lip_correlation_track": _weighted(speech, "track"),
            "lip_correlation_track_without_speaking_style": _weighted(speech, "before"),
            "lip_spread": round(float(np.mean([row["spread"] for row in speech])), 3),
            "motion_std_degrees": _mean_row([row["motion_std"] for row in speech]),
            "motion_std_degrees_real": _mean_row([row["motion_std_real"] for row in speech]),
        }
    return result


def _weighted(rows: list[dict], name: str) -> float:
    """Mean of a measure over videos, each counted by its frames."""
    return round(float(np.average([row[name] for row in rows], weights=[row["frames"] for row in rows])), 3)


def _mean_row(rows: list) -> list[float]:
    return [round(float(value), 2) for value in np.mean(rows, axis=0)]


class _Scene:
    """One held-out video beside what the avatar makes of it."""

    def __init__(self, avatar: Avatar, video: Path, pipeline: GMTalkerPipeline, start: float, sound: Path):
        self.avatar, self.video, self.pipeline = avatar, video, pipeline
        tracked = track_points(video)
        begin = int(round(start * FPS))
        if begin >= len(tracked.points):
            raise UnusableVideo(f"{video.name} ends before second {start:g}.")
        tracked = TrackedVideo(tracked.points[begin:], tracked.found[begin:], tracked.source_size)
        track, crop = track_of_person(tracked, pipeline.face_model, avatar.face)
        size = len(avatar.face.reference)
        self.real = [cut(frame, crop, size) for index, frame in enumerate(read_frames(video)) if index >= begin][: len(track)]
        self.points = detect_landmarks(self.real)[0]
        self.track = track[: len(self.real)]
        if np.array_equal(crop, avatar.face.crop):  # in another framing the reference picture tells nothing
            self.track = replace(self.track, shoulders=torch.from_numpy(measure_shoulders(avatar.face, self.real)))
        heard = read_sound_or_none(sound)
        heard = None if heard is None else heard[begin * SAMPLES_PER_FRAME :]
        self.sound = heard if heard is not None and len(heard) else None  # a sound may be shorter than its picture

    def reenacted(self) -> Performance:
        weights = self.pipeline.recognise(self.track, None if self.sound is None else self.pipeline.encode(self.sound))
        return Performance(self.pipeline.draw, self.avatar, self.track, weights, None)

    def spoken(self) -> Performance | None:
        """What `speak` makes of the video's own sound: the avatar never sees the picture."""
        if self.sound is None:
            return None
        return self.pipeline(self.sound, self.avatar)


@torch.no_grad()
def emotion_mapping_measures(avatar: Avatar, pipeline: GMTalkerPipeline, identity: FaceRecogniser | None = None) -> dict:
    """What a slider does through the EMN alone: one rendering, expression held fixed, drawn with each emotion's whole weight.

    Of each emotion beside neutral: "picture", mean absolute difference in the face, 0 to 255; "landmarks", how far the face's
    points went (pixels), which tells the shape of the face; "identity", with a judge, similarity of the two pictures.
    """
    still = FaceTrack(
        ExpressionTrack(torch.zeros(1, pipeline.face_model.coefficient_dim)),
        MotionTrack.unstacked(torch.as_tensor(avatar.face.motion_mean).float()[None]),
        torch.ones(1, dtype=torch.bool),
    )
    rendering = pipeline.render(still, avatar)
    drawn = pipeline.paint(avatar, rendering.repeat(len(EMOTIONS), axis=0), torch.eye(len(EMOTIONS)))
    face = rendering[0, ..., CANONICAL_X] > 0
    points = [detect_landmarks([frame])[0][0] for frame in drawn]
    result: dict[str, dict[str, float]] = {"picture": {}, "landmarks": {}}
    for index, emotion in enumerate(EMOTIONS[1:], start=1):
        change = np.abs(drawn[index].astype(np.float32) - drawn[0])[face].mean()
        moved = np.linalg.norm(points[index] - points[0], axis=-1)[list(FACE_POINTS)].mean()
        result["picture"][emotion] = round(float(change), 2)
        result["landmarks"][emotion] = round(float(moved), 2)
        if identity is not None:
            alike = identity.similarity([drawn[0]], [drawn[index]], points[:1], points[index : index + 1])
            result.setdefault("identity", {})[emotion] = round(float(alike), 3)
    return result


def image_measures(
    real: Sequence[np.ndarray], drawn: Sequence[np.ndarray], real_points: np.ndarray, identity: FaceRecogniser | None = None
) -> dict:
    """Of drawn beside real frames (size, size, 3): PSNR (dB), SSIM, landmark distances (pixels, each region's mean removed),
    sharpness of mouth and eyes, and flicker, in those of the real ones."""
    count = min(len(real), len(drawn))
    errors = [np.square(a.astype(np.float32) - b.astype(np.float32)).mean() for a, b in zip(real, drawn)]
    every = range(0, count, 3)  # structural similarity is slow, and neighbouring frames tell the same
    similar = [structural_similarity(real[i], drawn[i], channel_axis=2) for i in every]
    points, found = detect_landmarks(drawn[:count])
    both = found & np.isfinite(real_points[:count]).all((1, 2))
    alike = {}
    if identity is not None:
        seen = np.flatnonzero(both)[::5]
        alike["identity_similarity"] = identity.similarity(
            [real[i] for i in seen], [drawn[i] for i in seen], real_points[seen], points[seen]
        )
    seen = np.flatnonzero(both)
    sharp = {
        f"{name}_sharpness": sharpness([drawn[i] for i in seen], points[seen], region)
        / max(sharpness([real[i] for i in seen], real_points[seen], region), 1e-9)
        for name, region in (("mouth", LIPS), ("eye", EYE_REGION))
    }
    return (
        alike
        | sharp
        | {
            "flicker": flicker(real, drawn),
            "frames": count,
            "psnr": float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-3)))),
            "ssim": float(np.mean(similar)),
            "mouth_landmark_distance": landmark_distance(points[both], real_points[:count][both], LIPS),
            "face_landmark_distance": landmark_distance(points[both], real_points[:count][both], FACE_POINTS),
        }
    )


def sharpness(frames: Sequence[np.ndarray], points: np.ndarray, region: Sequence[int]) -> float:
    """Mean energy of the Laplacian of frames (h, w, 3) in the box around a region of points (frames, 478, 3)."""
    energies = []
    for frame, place in zip(frames, points[:, list(region), :2]):
        (left, top), (right, bottom) = np.floor(place.min(0)).astype(int) - 2, np.ceil(place.max(0)).astype(int) + 3
        part = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[max(top, 0) : bottom, max(left, 0) : right]
        energies.append(float(np.square(cv2.Laplacian(part.astype(np.float32), cv2.CV_32F)).mean()) if part.size else 0.0)
    return float(np.mean(energies)) if energies else 0.0


def flicker(real: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> float:
    """Energy of the drawn frames' differences where the real clip is still, in that of the real clip's there."""
    made = true = 0.0
    for (a, b), (c, d) in zip(pairwise(real), pairwise(drawn)):
        moved, changed = (x.astype(np.float32) - y.astype(np.float32) for x, y in ((b, a), (d, c)))
        still = cv2.blur(np.abs(moved).max(2), (9, 9)) < STILL
        true += float(np.square(moved)[still].sum())
        made += float(np.square(changed)[still].sum())
    return made / max(true, 1e-9)


def landmark_distance(points: np.ndarray, real: np.ndarray, region: Sequence[int]) -> float:
    """Mean distance in pixels of points (frames, 478, 3) to the real ones, after removing the region's mean."""
    if not len(points):
        return float("inf")
    a, b = points[:, list(region), :2], real[:, list(region), :2]
    return float(np.linalg.norm(a - a.mean(1, keepdims=True) - b + b.mean(1, keepdims=True), axis=-1).mean())


def speech_measures(scene: _Scene, spoken: Performance) -> dict:
    """Agreement of the drawn lips with the real person's, as found again in the drawn frames, over offsets in frames."""
    points, found = detect_landmarks(spoken)
    drawn = lip_opening(fill_and_smooth(points, found))
    real = lip_opening(fill_and_smooth(scene.points, np.isfinite(scene.points).all((1, 2))))
    count = min(len(drawn), len(real))
    model, face = scene.pipeline.face_model, scene.avatar.face
    track = model.lip_opening(spoken.track.expression.coefficients.numpy()[:count], face.neutral_shape)
    before = model.lip_opening(_without_style(scene, spoken)[:count], face.neutral_shape)
    track_real = model.lip_opening(scene.track.expression.coefficients.numpy()[:count], face.neutral_shape)
    offsets = range(-OFFSET_MAX, OFFSET_MAX + 1)
    return {
        "frames": count,
        "correlations": [shifted_correlation(drawn[:count], real[:count], offset) for offset in offsets],
        "track": shifted_correlation(track, track_real, 0),
        "before": shifted_correlation(before, track_real, 0),
        "lips": (real[:count], drawn[:count]),
        "spread": float(drawn[:count].std() / max(real[:count].std(), 1e-6)),
        "motion_std": np.degrees(spoken.track.motion.rotation.numpy().std(0)),
        "motion_std_real": np.degrees(scene.track.motion.rotation.numpy().std(0)),
    }


def _without_style(scene: _Scene, spoken: Performance) -> np.ndarray:
    """(frames, n): what the generic expression generator, which was not adapted to the person, says with the same speech."""
    generator = scene.pipeline.expression_generator
    features = scene.pipeline.encode(scene.sound)
    with one_core():
        latent = generator.latent(spoken.weights.at(len(features)).to(generator.device), seed=0)
        return generator.generate(features, latent).cpu().numpy()
