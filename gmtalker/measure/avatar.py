"""Measure an avatar on held-out video of its person: `evaluate`, and the figures in avatar.json (docs/method.md section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.metrics import structural_similarity

from gmtalker.avatars.avatar import Avatar
from gmtalker.clock import EMOTIONS, FPS, SAMPLES_PER_FRAME
from gmtalker.device import one_core
from gmtalker.errors import UnusableVideo
from gmtalker.face.alignment import aligned
from gmtalker.face.context_motion import measure_shoulders
from gmtalker.face.landmarks import EYE_REGION, FACE_POINTS, LIPS
from gmtalker.face.lips import OFFSET_MAX, lip_opening, shifted_correlation
from gmtalker.face.renderer import CANONICAL_X
from gmtalker.face.tracking import TrackedVideo, cut, detect_landmarks, fill_and_smooth, track_of_person, track_points
from gmtalker.measure.identity import FaceRecogniser
from gmtalker.measure.outline import matte_measures
from gmtalker.measure.perceptual import PerceptualDistance
from gmtalker.measure.plots import draw_lips
from gmtalker.measure.sync import SpokenLips, sync_figures
from gmtalker.media.audio import read_sound_or_none
from gmtalker.media.video import read_frames
from gmtalker.performance import Performance
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.tracks import ExpressionTrack, FaceTrack, MotionTrack
from gmtalker.training.head import mean_psnr

FACE = tuple(range(FACE_POINTS))
NOT_MEASURED = {
    "lpips": "the weights of its network are not part of this project; --lpips says where they are",
    "fid": "the weights of Inception are not part of this project",
    "syncnet": "its weights are not part of this project; the project's own lip-sync network stands instead",
    "identity_similarity": "insightface's recognition network is not on this machine; --identity says where it is",
}
IMAGE_MEASURES = (
    "psnr", "ssim", "mouth_landmark_distance", "face_landmark_distance", "mouth_sharpness", "eye_sharpness", "flicker"
)  # fmt: skip
SOME_MEASURES = ("identity_similarity", "lpips", "matte_iou", "matte_flicker")  # where their networks are at hand
SSIM_EVERY = 3  # frames: it is slow, and neighbouring frames hardly differ
IDENTITY_EVERY = 5  # frames
STATIC = 4.0  # levels of 255: where neighbouring frames differ by less around a pixel, nothing moves there
LEAST_ENERGY = 1e-9  # under a ratio


@dataclass(frozen=True)
class HeldOut:
    """What an avatar is measured on: videos of its person, unseen in training.

    videos: files.
    start: seconds of each video before which nothing is measured.
    sounds: by video, the file with its sound, where that is not the video itself.
    """

    videos: Sequence[Path]
    start: float = 0.0
    sounds: Mapping[Path, Path] = field(default_factory=dict)


def evaluate_avatar(
    avatar: Avatar,
    held_out: HeldOut,
    pipeline: GMTalkerPipeline,
    on_progress: OnProgress = ignore_progress,
    pictures: Path | None = None,
    recogniser: FaceRecogniser | None = None,
    perceptual: PerceptualDistance | None = None,
) -> dict:
    """Take every measure, over all videos together.

    pictures: a folder for lips.png, the traces of the first video's lips.
    recogniser: measures identity similarity; None leaves it out.
    perceptual: measures LPIPS; None leaves it out.
    Returns: figures by name, as avatar.json and `evaluate --json` hold them.
    Errors: UnusableVideo when a video can't be read or shows no face.
    Source: docs/method.md section 4, "LMD", "Sync" and "Image".
    """
    images, lips = [], []
    for number, video in enumerate(held_out.videos):
        on_progress(Progress(f"measuring {Path(video).name}", percent=100 * number / len(held_out.videos)))
        scene = _Scene(avatar, Path(video), pipeline, held_out)
        drawn = scene.reenacted()
        measures = image_measures(scene.real, [frame[..., :3] for frame in drawn], scene.points, recogniser, perceptual)
        images.append(measures | (matte_measures(scene.real, [frame[..., 3] for frame in drawn]) if avatar.has_matte else {}))
        spoken = scene.spoken()
        if spoken is not None:
            lips.append(_speech_measures(scene, spoken))
    frames = int(sum(row["frames"] for row in images))
    names = [name for name in (*IMAGE_MEASURES, *SOME_MEASURES) if name in images[0]]
    result = {"avatar": avatar.name, "videos": len(images), "frames": frames, "start_seconds": held_out.start}
    result |= {name: _weighted_mean(images, name) for name in names}
    result["emotion_mapping"] = emotion_mapping_measures(avatar, pipeline, recogniser)
    result["not_measured"] = {name: why for name, why in NOT_MEASURED.items() if name not in result}
    if lips:
        result |= _speech_summary(lips)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            draw_lips(*lips[0]["openings"], pictures / "lips.png")
    return result


def _weighted_mean(rows: Sequence[Mapping], name: str) -> float:
    """Mean of a measure over videos, each counted by its frames."""
    return round(float(np.average([row[name] for row in rows], weights=[row["frames"] for row in rows])), 3)


class _Scene:
    """One held-out video, and what the avatar makes of it.

    real: the frames (size, size, 3) uint8, cropped as the avatar's.
    points: (frames, 478, 3) of the face in them, in pixels; NaN without a face.
    track: what the face does in them.
    sound: (samples,) at 16 kHz, None without any.
    """

    def __init__(self, avatar: Avatar, video: Path, pipeline: GMTalkerPipeline, held_out: HeldOut):
        self.avatar, self.pipeline = avatar, pipeline
        tracked = track_points(video)
        first = int(round(held_out.start * FPS))
        if first >= len(tracked.points):
            raise UnusableVideo(f"{video.name} ends before second {held_out.start:g}.")
        tracked = TrackedVideo(tracked.points[first:], tracked.found[first:], tracked.source_size, tracked.turns)
        track, crop = track_of_person(tracked, pipeline.face_model, avatar.face)
        size = len(avatar.face.reference)
        frames = islice(read_frames(video, turns=tracked.turns), first, first + len(track))
        self.real = [cut(frame, crop, size) for frame in frames]
        self.points = detect_landmarks(self.real)[0]
        self.track = track[: len(self.real)]
        if np.array_equal(crop, avatar.face.crop):  # in another framing shoulders can't be compared with the reference picture
            self.track = replace(self.track, shoulders=torch.from_numpy(measure_shoulders(avatar.face, self.real)))
            self.track = aligned(pipeline.face_model, avatar.face, self.real, self.track)
        sound = read_sound_or_none(held_out.sounds.get(video, video))
        sound = None if sound is None else sound[first * SAMPLES_PER_FRAME :]
        self.sound = sound if sound is not None and len(sound) else None  # a sound may be shorter than its picture

    def reenacted(self) -> list[np.ndarray]:
        """Frames of the avatar with the pose and expression of the video, with its matte where it draws one."""
        weights = self.pipeline.recognise(self.track, None if self.sound is None else self.pipeline.encode(self.sound))
        return list(self.pipeline.draw(self.track, self.avatar, weights, matte=self.avatar.has_matte))

    def spoken(self) -> Performance | None:
        """What `speak` makes of the video's sound: the avatar never sees the picture."""
        if self.sound is None:
            return None
        return self.pipeline(self.sound, self.avatar)


# --- Pictures ------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def emotion_mapping_measures(avatar: Avatar, pipeline: GMTalkerPipeline, recogniser: FaceRecogniser | None = None) -> dict:
    """What a slider changes through the EMN alone: one rendering of a neutral face, drawn in each emotion at full weight.

    Returns: figures of each emotion against neutral. "picture": mean absolute difference in the face, 0 to 255; "landmarks":
        mean displacement of the face's points, in pixels; "identity", with a recogniser: CSIM.
    Source: docs/method.md section 4, "Image".
    """
    still = FaceTrack(
        ExpressionTrack(torch.zeros(1, pipeline.face_model.coefficient_dim)),
        MotionTrack.unstacked(torch.as_tensor(avatar.face.motion_mean).float()[None]),
        torch.ones(1, dtype=torch.bool),
    )
    rendering = pipeline.render(still, avatar)
    frames = pipeline.paint(avatar, rendering.repeat(len(EMOTIONS), axis=0), torch.eye(len(EMOTIONS)))
    face = rendering[0, ..., CANONICAL_X] > 0
    points = [detect_landmarks([frame])[0][0] for frame in frames]
    result: dict[str, dict[str, float]] = {"picture": {}, "landmarks": {}}
    for index, emotion in enumerate(EMOTIONS[1:], start=1):
        change = np.abs(frames[index].astype(np.float32) - frames[0])[face].mean()
        moved = np.linalg.norm(points[index] - points[0], axis=-1)[list(FACE)].mean()
        result["picture"][emotion] = round(float(change), 2)
        result["landmarks"][emotion] = round(float(moved), 2)
        if recogniser is not None:
            similarity = recogniser.similarity([frames[0]], [frames[index]], points[:1], points[index : index + 1])
            result.setdefault("identity", {})[emotion] = round(float(similarity), 3)
    return result


def image_measures(
    real: Sequence[np.ndarray],
    generated: Sequence[np.ndarray],
    real_points: np.ndarray,
    recogniser: FaceRecogniser | None = None,
    perceptual: PerceptualDistance | None = None,
) -> dict:
    """Compare generated frames with the real ones.

    real, generated: (size, size, 3) uint8 each; where one has more frames, the others are ignored.
    real_points: (frames, 478, 3) of the face in the real frames, in pixels; NaN without a face.
    recogniser, perceptual: measure identity similarity and LPIPS; None leaves it out.
    Returns: "frames", how many were compared; "psnr" in dB; "ssim"; "mouth_landmark_distance" and "face_landmark_distance" (M-LMD
        and F-LMD) in pixels; "mouth_sharpness" and "eye_sharpness", generated over real; "flicker"; "identity_similarity" (CSIM);
        "lpips".
    Source: docs/method.md section 4, "LMD" and "Image".
    """
    count = min(len(real), len(generated))
    real, generated = real[:count], generated[:count]
    points, found = detect_landmarks(generated)
    both = np.flatnonzero(found & np.isfinite(real_points[:count]).all((1, 2)))
    result, some_pictures = {}, (generated[::SSIM_EVERY], real[::SSIM_EVERY])
    if recogniser is not None:
        some = both[::IDENTITY_EVERY]
        rows = [real[i] for i in some], [generated[i] for i in some]
        result["identity_similarity"] = recogniser.similarity(*rows, real_points[some], points[some])
    if perceptual is not None:
        result["lpips"] = perceptual(*some_pictures)
    shown = [generated[i] for i in both], [real[i] for i in both]
    for name, region in (("mouth", LIPS), ("eye", EYE_REGION)):
        of_generated, of_real = sharpness(shown[0], points[both], region), sharpness(shown[1], real_points[both], region)
        result[f"{name}_sharpness"] = of_generated / max(of_real, LEAST_ENERGY)
    return result | {
        "flicker": flicker(real, generated),
        "frames": count,
        "psnr": mean_psnr(generated, real),
        "ssim": float(np.mean([structural_similarity(a, b, channel_axis=2) for a, b in zip(*some_pictures)])),
        "mouth_landmark_distance": landmark_distance(points[both], real_points[both], LIPS),
        "face_landmark_distance": landmark_distance(points[both], real_points[both], FACE),
    }


def sharpness(frames: Sequence[np.ndarray], points: np.ndarray, region: Sequence[int]) -> float:
    """Mean energy of the Laplacian in the box around a region of the face.

    frames: (height, width, 3) uint8 RGB each.
    points: (frames, 478, 3) in pixels.
    region: numbers of the points.
    Returns: squared grey levels; 0 without frames.
    """
    energies = []
    for frame, box in zip(frames, points[:, list(region), :2]):
        (left, top), (right, bottom) = np.floor(box.min(0)).astype(int) - 2, np.ceil(box.max(0)).astype(int) + 3
        part = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[max(top, 0) : bottom, max(left, 0) : right]
        energies.append(float(np.square(cv2.Laplacian(part.astype(np.float32), cv2.CV_32F)).mean()) if part.size else 0.0)
    return float(np.mean(energies)) if energies else 0.0


def flicker(real: Sequence[np.ndarray], generated: Sequence[np.ndarray]) -> float:
    """Ratio of frame-to-frame energy, generated over real, in pixels where the real clip is static; 1 is ideal.

    real, generated: (height, width, 3) uint8 each.
    """
    generated_energy = real_energy = 0.0
    for (a, b), (c, d) in zip(pairwise(real), pairwise(generated)):
        real_change, generated_change = (x.astype(np.float32) - y.astype(np.float32) for x, y in ((b, a), (d, c)))
        static = cv2.blur(np.abs(real_change).max(2), (9, 9)) < STATIC
        real_energy += float(np.square(real_change)[static].sum())
        generated_energy += float(np.square(generated_change)[static].sum())
    return generated_energy / max(real_energy, LEAST_ENERGY)


def landmark_distance(points: np.ndarray, real: np.ndarray, region: Sequence[int]) -> float:
    """LMD: mean distance of face points to the real ones, after removing the region's mean in each frame.

    points, real: (frames, 478, 3) in pixels.
    region: numbers of the points that are compared.
    Returns: pixels; infinite without frames.
    Source: docs/method.md section 4, equation (25).
    """
    if not len(points):
        return float("inf")
    a, b = points[:, list(region), :2], real[:, list(region), :2]
    return float(np.linalg.norm(a - a.mean(1, keepdims=True) - b + b.mean(1, keepdims=True), axis=-1).mean())


# --- Speech --------------------------------------------------------------------------------------------------------------------


def _speech_measures(scene: _Scene, spoken: Performance) -> dict:
    """Lips and head of the avatar that says a video's sound, beside the real person's.

    Returns: "frames"; "openings" (frames,) of real and generated lips, found again in the frames; "correlations" of these at
        each offset from -OFFSET_MAX to OFFSET_MAX; "track" and "track_without_style", correlation before rendering, with and
        without the speaking style; "spread", ratio of the openings' deviations, generated over real; "rotation" and
        "real_rotation" (3,), deviations in degrees.
    Source: docs/method.md section 4, "Sync".
    """
    points, found = detect_landmarks(spoken)
    generated = lip_opening(fill_and_smooth(points, found))
    real = lip_opening(fill_and_smooth(scene.points, np.isfinite(scene.points).all((1, 2))))
    count = min(len(generated), len(real))
    generated, real = generated[:count], real[:count]
    coefficients = spoken.track.expression.coefficients, _without_style(scene, spoken), scene.track.expression.coefficients
    model, face = scene.pipeline.face_model, scene.avatar.face
    features = scene.pipeline.encode(scene.sound)
    styled, plain, tracked = (model.lip_opening(np.asarray(rows)[:count], face.neutral_shape) for rows in coefficients)
    return {
        "frames": count,
        "openings": (real, generated),
        "correlations": [shifted_correlation(generated, real, offset) for offset in range(-OFFSET_MAX, OFFSET_MAX + 1)],
        "made": SpokenLips.of_track(features, spoken.track.expression.coefficients, model),
        "real": SpokenLips.of_track(features, scene.track.expression.coefficients, model),
        "track": shifted_correlation(styled, tracked, 0),
        "track_without_style": shifted_correlation(plain, tracked, 0),
        "spread": float(generated.std() / max(real.std(), 1e-6)),
        "rotation": np.degrees(spoken.track.motion.rotation.numpy().std(0)),
        "real_rotation": np.degrees(scene.track.motion.rotation.numpy().std(0)),
    }


def _speech_summary(rows: Sequence[Mapping]) -> dict:
    """The figures of _speech_measures over all videos, as evaluate_avatar returns them."""
    correlation = np.average([row["correlations"] for row in rows], axis=0, weights=[row["frames"] for row in rows])
    best = int(correlation.argmax()) - OFFSET_MAX
    return {
        "lip_correlation": round(float(correlation[OFFSET_MAX]), 3),
        "lip_best_offset_frames": best,
        "lip_best_offset_ms": best * 1000 // FPS,
        "lip_correlation_at_best_offset": round(float(correlation.max()), 3),
        "lip_correlation_track": _weighted_mean(rows, "track"),
        "lip_correlation_track_without_speaking_style": _weighted_mean(rows, "track_without_style"),
        "lip_spread": round(float(np.mean([row["spread"] for row in rows])), 3),
        "motion_std_degrees": [round(float(value), 2) for value in np.mean([row["rotation"] for row in rows], axis=0)],
        "motion_std_degrees_real": [round(float(value), 2) for value in np.mean([row["real_rotation"] for row in rows], axis=0)],
    } | sync_figures([row["made"] for row in rows], [row["real"] for row in rows])


def _without_style(scene: _Scene, spoken: Performance) -> np.ndarray:
    """(frames, n): the same speech as the generic expression generator says it, which was not adapted to the person."""
    generator = scene.pipeline.expression_generator
    features = scene.pipeline.encode(scene.sound)
    with one_core():
        latent = generator.latent(spoken.weights.at(len(features)).to(generator.device), seed=0)
        return generator.generate(features, latent).cpu().numpy()
