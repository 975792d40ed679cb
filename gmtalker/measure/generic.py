"""Measure the generic stages: emotions and head motion: `emotions` (docs/method.md section 4)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from gmtalker.assets import SPEECH
from gmtalker.avatars.avatar import Avatar
from gmtalker.avatars.ready import load_avatar
from gmtalker.clock import EMOTIONS, FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from gmtalker.device import one_core
from gmtalker.errors import UnusableVideo
from gmtalker.face.landmarks import FACE_POINTS
from gmtalker.face.lips import shifted_correlation
from gmtalker.face.tracking import choose_crop, in_crop, measure_shape, track_points
from gmtalker.measure.plots import draw_generic
from gmtalker.media.audio import read_sound_or_none, read_speech
from gmtalker.models.articulation import ARTICULATION_DIM
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.pretrain.corpus import FOUND_SHARE_MIN
from gmtalker.pretrain.datasets import Row, read_rows
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.tracks import (
    BLINK,
    GAZE,
    POSE,
    ROTATION,
    EmotionWeights,
    ExpressionTrack,
    FaceTrack,
    MotionTrack,
    count_blinks,
)

STEPS = 16  # from one emotion to another: M in docs/method.md section 4
PATH_FRAMES = 75  # of speech that is said at each step
PICTURE_EVERY = 25  # frames: pictures are compared on these
PICTURE_SCALES = 3
STRENGTHS = 11  # from neutral to the whole emotion
SEEDS = 10
BEAT_WIDTH = 2.0  # frames within which a movement of the head goes with a stress
CLIP_SECONDS_MAX = 30  # of a test clip that are measured


@dataclass(frozen=True)
class UnseenSpeaker:
    """A test clip of somebody to whom nothing was adapted.

    row: the clip in its set.
    lips: (frames,) their opening, in face heights.
    coefficients: (frames, n) of the expression.
    motion: (frames, 10) MotionTrack.stacked().
    waveform: (samples,) at 16 kHz.
    """

    row: Row
    lips: np.ndarray
    coefficients: np.ndarray
    motion: np.ndarray
    waveform: np.ndarray


@dataclass(frozen=True, eq=False)
class GenericMeasures:
    """Which measures of the generic stages are taken, beside those that need nothing else.

    baseline: a generator by label, measured beside the mixture.
    data: a folder with a MANIFEST.csv whose test clips show how real people's heads move.
    leave_out: people of data who are not compared with.
    pictures: a folder for pictures of the mixture, the head motion and the blend of two emotions.
    """

    baseline: ExpressionGenerator | None = None
    data: Path | None = None
    leave_out: Sequence[str] = ()
    pictures: Path | None = None


def measure_generic(
    pipeline: GMTalkerPipeline, wanted: GenericMeasures = GenericMeasures(), on_progress: OnProgress = ignore_progress
) -> dict:
    """Take the measures of the generic stages that are wanted.

    Returns: figures by name, as `emotions --json` writes them.
    Errors: UnusableInput when wanted.data holds no MANIFEST.csv.
    Source: docs/method.md section 4, "Emotion interpolation" and "Diversity".
    """
    features = pipeline.encode(read_speech(SPEECH))
    avatar = replace(load_avatar(None), speaking_style=None)  # a face to show it on, which speaks as the generic stages do
    on_progress(Progress("interpolating emotions"))
    result = {"emotions": emotion_measures(pipeline, pipeline.expression_generator, features, avatar)}
    if wanted.baseline is not None:
        on_progress(Progress("interpolating emotions with the baseline"))
        result["emotions_of_baseline"] = emotion_measures(pipeline, wanted.baseline, features, avatar)
    unseen_speakers = []
    if wanted.data is not None:
        unseen_speakers = read_unseen_speakers(wanted.data, pipeline, wanted.leave_out, on_progress)
    on_progress(Progress("generating head motion"))
    takes = _takes(pipeline, features)
    result["motion"] = motion_measures(takes, unseen_speakers, pipeline.motion_generator.scale.cpu(), read_speech(SPEECH))
    if wanted.pictures is not None:
        draw_generic(pipeline, avatar, takes, wanted.pictures)
    return result


# --- Emotions ------------------------------------------------------------------------------------------------------------------


def emotion_measures(pipeline: GMTalkerPipeline, generator: ExpressionGenerator, features: Tensor, avatar: Avatar) -> dict:
    """E-PPL and EPDV over all pairs of emotions, and what an emotion's weight does to face and lips.

    features: (frames, d) of a speech, of which the first PATH_FRAMES are used.
    avatar: the face of the pictures.
    Returns: "e_ppl_" and "epdv_" for two distances: "mesh", root mean square over the face's points in thousandths of a face
        height, and "picture", mean absolute difference of frames (0 to 255) averaged over PICTURE_SCALES scales; and, by emotion,
        "weight_to_distance_spearman", "distance_from_neutral_mesh" and "lips_as_in_neutral".
    Source: docs/method.md section 4, equation (24).
    """
    features = features[:PATH_FRAMES]
    distances: dict[str, list[np.ndarray]] = {"mesh": [], "picture": []}
    for first, second in itertools.combinations(range(len(EMOTIONS)), 2):
        weights = _blends(first, second, STEPS + 1)
        track = expression_for(pipeline, generator, features, weights)
        distances["mesh"].append(_mesh_distance(pipeline, track[:-1], track[1:]))
        frames = [_draw(pipeline, avatar, expression, omega) for expression, omega in zip(track, weights)]
        distances["picture"].append(np.array([_picture_distance(a, b) for a, b in zip(frames[:-1], frames[1:])]))
    result = {}
    for name, rows in distances.items():
        result[f"e_ppl_{name}"] = round(float(np.mean([row.sum() for row in rows])), 4)
        result[f"epdv_{name}"] = round(float(np.mean([row.var() for row in rows])), 6)
    return result | _response_to_weight(pipeline, generator, features)


def _blends(first: int, second: int, count: int) -> Tensor:
    """(count, 8) weights from one emotion to another, evenly spaced."""
    share, one_hot = torch.linspace(0, 1, count)[:, None], torch.eye(len(EMOTIONS))
    return (1 - share) * one_hot[first] + share * one_hot[second]


def _response_to_weight(pipeline: GMTalkerPipeline, generator: ExpressionGenerator, features: Tensor) -> dict:
    """By emotion: Spearman's rank correlation of its weight and the distance from neutral, that distance at full weight in
    thousandths of a face height, and the correlation of the lip opening at full weight with neutral."""
    ranks, lips, distances = {}, {}, {}
    for index, emotion in enumerate(EMOTIONS[1:], start=1):
        weights = _blends(0, index, STRENGTHS)
        track = expression_for(pipeline, generator, features, weights)
        distance = _mesh_distance(pipeline, track[:1].expand_as(track), track)
        neutral, full = (pipeline.face_model.lip_opening(expression.numpy()) for expression in (track[0], track[-1]))
        share = torch.linspace(0, 1, STRENGTHS)
        ranks[emotion] = round(float(spearmanr(share, distance).statistic), 3) if np.ptp(distance) > 0 else 0.0
        lips[emotion] = round(shifted_correlation(full, neutral, 0), 3)
        distances[emotion] = round(float(distance[-1]), 2)
    return {"weight_to_distance_spearman": ranks, "distance_from_neutral_mesh": distances, "lips_as_in_neutral": lips}


@one_core()
def expression_for(pipeline: GMTalkerPipeline, generator: ExpressionGenerator, features: Tensor, weights: Tensor) -> Tensor:
    """The same speech with each of several emotion weights, its lips shaped as in the pipeline; seed 0.

    features: (frames, d) of the speech.
    weights: (conditions, 8).
    Returns: (conditions, frames, n).
    """
    weights = torch.cat([torch.eye(len(EMOTIONS))[:1], weights]).to(generator.device)
    latents = generator.latent(weights, seed=0)[:, None].expand(-1, len(features), -1)
    neutral, *others = torch.stack(list(generator.stream_conditions(features.to(generator.device), latents)), dim=1).cpu()
    shaped = []
    for expression in others:
        lips = pipeline.lip_guard.open()
        lips.hear(features[:, -ARTICULATION_DIM:].cpu())
        shaped.append(lips.push(expression, neutral))
    return torch.stack(shaped)


def _mesh_distance(pipeline: GMTalkerPipeline, one: Tensor, other: Tensor) -> np.ndarray:
    """(conditions,) distance between expressions (conditions, frames, n), in thousandths of a face height."""
    moved = np.tensordot((other - one).numpy(), pipeline.face_model.expression_basis[:, :FACE_POINTS], 1)
    return 1000 * np.sqrt(np.square(moved).sum(-1).mean((1, 2)))


def _draw(pipeline: GMTalkerPipeline, avatar: Avatar, expression: Tensor, omega: Tensor) -> np.ndarray:
    """(pictures, height, width, 3) float32: every PICTURE_EVERY-th frame of an expression (frames, n), in the mean pose."""
    rows = expression[::PICTURE_EVERY]
    motion = torch.as_tensor(avatar.face.motion_mean).float().repeat(len(rows), 1)
    motion[:, BLINK], motion[:, GAZE] = 0, 0
    track = FaceTrack(ExpressionTrack(rows), MotionTrack.unstacked(motion), torch.ones(len(rows), dtype=torch.bool))
    return np.stack(list(pipeline.draw(track, avatar, EmotionWeights(omega[None])))).astype(np.float32)


def _picture_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of pictures (pictures, height, width, 3), 0 to 255, averaged over scales."""
    total = 0.0
    for _ in range(PICTURE_SCALES):
        total += float(np.abs(one - other).mean()) / PICTURE_SCALES
        one, other = (np.stack([cv2.pyrDown(frame) for frame in frames]) for frames in (one, other))
    return total


# --- Head motion ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@one_core()
def _takes(pipeline: GMTalkerPipeline, features: Tensor) -> list[np.ndarray]:
    """The motion (frames, 10) of one speech for each of SEEDS seeds, as the bundled avatar moves."""
    return [pipeline.motion(features, None, seed).stacked().numpy() for seed in range(SEEDS)]


def motion_measures(
    made: Sequence[np.ndarray], unseen_speakers: Sequence[UnseenSpeaker], scale: Tensor, waveform: np.ndarray
) -> dict:
    """How heads move in generation, and in real clips where there are any.

    made: takes (frames, 10) for one speech.
    scale: (10,) unit of the distance between takes, the generator's.
    waveform: (samples,) at 16 kHz of that speech.
    Returns: "made" and "real", each with "rotation_std_degrees" (3,), "blinks_a_minute", "largest_turn_of_a_frame_degrees",
        "beat_alignment", the same "of_other_moments", and "distance_between_takes" in units of scale.
    Source: docs/method.md section 4, "Diversity".
    """
    result = {"made": _movement(made) | _beats([(motion, waveform) for motion in made])}
    if not unseen_speakers:
        result["made"]["distance_between_takes"] = _distance_between([motion[:, POSE] for motion in made], scale)
        return result
    real = [speaker.motion for speaker in unseen_speakers]
    result["real"] = _movement(real) | _beats([(speaker.motion, speaker.waveform) for speaker in unseen_speakers])
    length = min(min(map(len, real)), len(made[0]))
    for name, motions in (("made", made), ("real", real)):
        result[name]["distance_between_takes"] = _distance_between([motion[:length, POSE] for motion in motions], scale)
    return result


def _movement(motions: Sequence[np.ndarray]) -> dict:
    """Deviations of yaw, pitch and roll in degrees, blinks per minute, and the largest rotation between two frames in degrees."""
    blinks = sum(count_blinks(motion[:, BLINK].mean(1)) for motion in motions)
    spread = np.mean([np.degrees(motion[:, ROTATION].std(0)) for motion in motions], axis=0)
    largest = max(np.degrees(np.abs(np.diff(motion[:, ROTATION], axis=0))).max() for motion in motions)
    return {
        "rotation_std_degrees": [round(float(value), 2) for value in spread],
        "blinks_a_minute": round(60 * FPS * blinks / sum(map(len, motions)), 1),
        "largest_turn_of_a_frame_degrees": round(float(largest), 2),
    }


def _beats(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict:
    """Beat alignment of heads (frames, 10) with their own speech (samples,), and of the same heads shifted in time."""
    scores, chance = [], []
    for motion, waveform in pairs:
        stress = stressed_frames(waveform, len(motion))
        if len(stress) and len(motion) >= 2 * FPS:
            scores.append(beat_alignment(motion, stress))
            shifts = np.linspace(0, len(motion), 12)[1:-1].astype(int)
            chance.append(np.mean([beat_alignment(np.roll(motion, shift, axis=0), stress) for shift in shifts]))
    if not scores:
        return {}
    return {
        "beat_alignment": round(float(np.mean(scores)), 3),
        "beat_alignment_of_other_moments": round(float(np.mean(chance)), 3),
    }


def stressed_frames(waveform: np.ndarray, frames: int) -> np.ndarray:
    """Numbers of the video frames at which syllables set in: librosa's onsets.

    waveform: (samples,) at 16 kHz.
    frames: of the video.
    """
    import librosa  # late: it takes a second to import

    envelope = librosa.onset.onset_strength(y=waveform, sr=SAMPLE_RATE, hop_length=SAMPLES_PER_FRAME // 4)
    onsets = librosa.onset.onset_detect(onset_envelope=envelope, sr=SAMPLE_RATE, hop_length=SAMPLES_PER_FRAME // 4)
    stressed = np.unique(np.asarray(onsets) // 4)
    return stressed[stressed < frames]


def beat_alignment(motion: np.ndarray, stress: np.ndarray) -> float:
    """Mean over stressed frames of exp(-d^2 / 2 s^2), d frames to the nearest peak of the head's rotation speed.

    motion: (frames, 10).
    stress: numbers of the stressed frames.
    Returns: 0 to 1.
    Source: docs/method.md section 4, "Diversity", with s = BEAT_WIDTH; after AIST++, arXiv 2101.08779.
    """
    speed = np.linalg.norm(np.diff(motion[:, ROTATION], axis=0), axis=1)
    peaks = 1 + np.flatnonzero((speed[1:-1] > speed[:-2]) & (speed[1:-1] >= speed[2:]))
    if not len(peaks):
        return 0.0
    distance = np.abs(stress[:, None] - peaks[None]).min(1)
    return float(np.exp(-np.square(distance) / (2 * BEAT_WIDTH**2)).mean())


def _distance_between(motions: Sequence[np.ndarray], scale: Tensor) -> float:
    """Mean over pairs of the root mean square difference of centred motions (frames, channels), in units of scale."""
    unit = scale[: motions[0].shape[1]].numpy()
    centred = [(motion - motion.mean(0)) / unit for motion in motions]
    pairs = [np.sqrt(np.square(a - b).mean()) for a, b in itertools.combinations(centred, 2)]
    return round(float(np.mean(pairs)), 3) if pairs else 0.0


# --- Unseen speakers ---------------------------------------------------------------------------------------------------------


def read_unseen_speakers(
    data: Path, pipeline: GMTalkerPipeline, leave_out: Sequence[str], on_progress: OnProgress
) -> list[UnseenSpeaker]:
    """Track the test videos of a manifest whose sound belongs to the picture; those that can't be tracked are left out.

    data: a folder with a MANIFEST.csv.
    leave_out: people who are not wanted.
    Errors: UnusableInput when there is no MANIFEST.csv.
    """
    rows = [row for row in read_rows(data) if row.test and can_be_compared(row) and row.person not in leave_out]
    tracked = (track_speaker(row, pipeline, on_progress) for row in rows)
    return [speaker for speaker in tracked if speaker is not None]


def can_be_compared(row: Row) -> bool:
    """Whether a clip shows somebody whose lips its sound belongs to."""
    return row.is_video and row.speech and row.sync == "ok"


def track_speaker(
    row: Row, pipeline: GMTalkerPipeline, on_progress: OnProgress = ignore_progress, seconds: float = CLIP_SECONDS_MAX
) -> UnseenSpeaker | None:
    """Track the beginning of a clip against the shape that the face has in it; None where that can't be done.

    seconds: of it, at most.
    """
    on_progress(Progress(f"tracking {row.file}"))
    try:
        video = track_points(row.path)
    except UnusableVideo as error:
        on_progress(Progress(message=f"{row.file} is left out: {error}"))
        return None
    points, found = video.points[: int(seconds * FPS)], video.found[: int(seconds * FPS)]
    sound = read_sound_or_none(row.heard_in)
    if sound is None or found.mean() < FOUND_SHARE_MIN:
        return None
    points, model = in_crop(points, choose_crop(points, *video.source_size)), pipeline.face_model
    shape = measure_shape(model, points[found])
    track = model.track(points, shape, 1.0, found)
    coefficients, motion = track.expression.coefficients.numpy(), track.motion.stacked().numpy()
    lips = model.lip_opening(coefficients, shape.neutral_shape)
    return UnseenSpeaker(row, lips, coefficients, motion, sound[: int(seconds * SAMPLE_RATE)])
