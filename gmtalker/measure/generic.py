"""Measures of the generic stages: emotions, lips of unseen speakers, head motion (docs/method.md section 4)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.stats import spearmanr
from torch import Tensor

from gmtalker.assets import SPEECH, SPEECHES
from gmtalker.avatars.avatar import Avatar
from gmtalker.avatars.ready import load_avatar
from gmtalker.clock import EMOTIONS, FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from gmtalker.device import one_core
from gmtalker.errors import UnusableVideo
from gmtalker.face.lips import OFFSET_MAX, shifted_correlation
from gmtalker.face.tracking import choose_crop, in_crop, measure_shape, track_points
from gmtalker.measure.plots import draw_generic
from gmtalker.media.audio import read_sound_or_none, read_speech, silent_frames
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.pretrain.datasets import Row, read_rows
from gmtalker.progress import OnProgress, Progress, nobody_listens
from gmtalker.tracks import BLINK, POSE, ROTATION, EmotionWeights, ExpressionTrack, FaceTrack, MotionTrack, count_blinks

STEPS = 16  # from one emotion to another (M in method section 4)
PATH_FRAMES = 75  # of speech that is said on every step of the way
DRAWN_EVERY = 25  # frames; the distance between pictures is measured on these
STRENGTHS = 11  # from neutral to the whole emotion
SEEDS = 10
BEAT_WIDTH = 2.0  # frames within which a movement of the head goes with a stress
LONGEST_UNSEEN = 30  # seconds of a test clip that are measured


@dataclass(frozen=True)
class UnseenSpeaker:
    """A test clip, of somebody to whom nothing was adapted: lips (frames,) their opening, coefficients (frames, n), motion
    (frames, 10), their sound."""

    row: Row
    lips: np.ndarray
    coefficients: np.ndarray
    motion: np.ndarray
    waveform: np.ndarray


@dataclass(frozen=True, eq=False)
class GenericMeasures:
    """Which measures of the generic stages are taken, beside those that need nothing else.

    baseline: a generator by label, measured beside the mixture.
    data: a folder with a MANIFEST.csv whose test clips show how real people's lips and heads move.
    leave_out: people of data that are not compared with.
    speeches: sound files, in any language and from any room, that are said.
    pictures: a folder for drawings of the mixture, the motion and the way from one emotion to another.
    """

    baseline: ExpressionGenerator | None = None
    data: Path | None = None
    leave_out: Sequence[str] = ()
    speeches: Sequence[Path] = ()
    pictures: Path | None = None


def measure_generic(
    pipeline: GMTalkerPipeline, wanted: GenericMeasures = GenericMeasures(), on_progress: OnProgress = nobody_listens
) -> dict:
    """Every measure of the generic stages that is wanted (docs/method.md section 4). Returns: figures by name."""

    def told(stage: str) -> None:
        on_progress(Progress(stage))

    baseline, data, pictures, speeches = wanted.baseline, wanted.data, wanted.pictures, wanted.speeches
    features = pipeline.encode(read_speech(SPEECH))
    avatar = replace(load_avatar(None), speaking_style=None)  # a face to show it on, which speaks as the generic stages do
    told("walking from emotion to emotion")
    result = {"emotions": emotion_measures(pipeline, pipeline.expression_generator, features, avatar)}
    if baseline is not None:
        told("the same with the baseline")
        result["emotions_of_baseline"] = emotion_measures(pipeline, baseline, features, avatar)
    unseen_speakers = [] if data is None else read_unseen_speakers(data, pipeline, wanted.leave_out, on_progress)
    told("moving heads")
    takes = _takes(pipeline, features)
    result["motion"] = motion_measures(takes, unseen_speakers, pipeline.motion_generator.scale.cpu(), read_speech(SPEECH))
    told("speech in noise")
    result["lips_in_noise"] = noise_measures(pipeline)
    if speeches:
        told("any speech")
        result["lips_of_any_speech"] = {path.name: any_speech_measures(pipeline, path) for path in speeches}
    if pictures is not None:
        draw_generic(pipeline, avatar, takes, pictures)
    if unseen_speakers:
        told("lips of unseen speakers")
        result["lips_of_strangers"] = lip_measures(pipeline, unseen_speakers)
    return result


def emotion_measures(pipeline: GMTalkerPipeline, generator: ExpressionGenerator, features: Tensor, avatar: Avatar) -> dict:
    """E-PPL and EPDV over all pairs of emotions, how steadily an emotion grows with its weight, and what lips lose by it.

    Distances: "mesh", root mean square over the face's points in thousandths of a face height; "picture", mean absolute
    difference of the avatar's frames over three scales, 0 to 255.
    """
    features = features[:PATH_FRAMES]
    distances: dict[str, list[np.ndarray]] = {"mesh": [], "picture": []}
    for first, second in itertools.combinations(range(len(EMOTIONS)), 2):
        share = torch.linspace(0, 1, STEPS + 1)[:, None]
        weights = (1 - share) * torch.eye(len(EMOTIONS))[first] + share * torch.eye(len(EMOTIONS))[second]
        track = expression_for(pipeline, generator, features, weights)
        distances["mesh"].append(_mesh_distance(pipeline, track[:-1], track[1:]))
        frames = [_drawn(pipeline, avatar, expression, omega) for expression, omega in zip(track, weights)]
        distances["picture"].append(np.array([_picture_distance(a, b) for a, b in zip(frames[:-1], frames[1:])]))
    result = {}
    for name, rows in distances.items():
        result[f"e_ppl_{name}"] = round(float(np.mean([row.sum() for row in rows])), 4)
        result[f"epdv_{name}"] = round(float(np.mean([row.var() for row in rows])), 6)
    return result | _growth(pipeline, generator, features)


def _growth(pipeline: GMTalkerPipeline, generator: ExpressionGenerator, features: Tensor) -> dict:
    """Of each emotion: Spearman's rank correlation of its weight with the distance from neutral, and how far the lips of the
    whole emotion follow those of neutral."""
    ranks, kept, strength = {}, {}, {}
    for index, emotion in enumerate(EMOTIONS[1:], start=1):
        share = torch.linspace(0, 1, STRENGTHS)[:, None]
        weights = (1 - share) * torch.eye(len(EMOTIONS))[0] + share * torch.eye(len(EMOTIONS))[index]
        track = expression_for(pipeline, generator, features, weights)
        away = _mesh_distance(pipeline, track[:1].expand_as(track), track)
        lips = [pipeline.face_model.lip_opening(expression.numpy()) for expression in (track[0], track[-1])]
        ranks[emotion] = round(float(spearmanr(share[:, 0], away).statistic), 3) if np.ptp(away) > 0 else 0.0
        kept[emotion] = round(shifted_correlation(lips[1], lips[0], 0), 3)
        strength[emotion] = round(float(away[-1]), 2)
    return {
        "weight_to_distance_spearman": ranks,
        "distance_from_neutral_mesh": strength,
        "lips_as_in_neutral": kept,
    }


@one_core()
def expression_for(
    pipeline: GMTalkerPipeline,
    generator: ExpressionGenerator,
    features: Tensor,
    weights: Tensor,
    silent: np.ndarray | None = None,
) -> Tensor:
    """(ways, frames, n): the same speech (frames, d), said with each row of weights (ways, 8) as the pipeline does; seed 0.

    silent: (frames,) where nothing is said.
    """
    weights = torch.cat([torch.eye(len(EMOTIONS))[:1], weights]).to(generator.device)
    latents = generator.latent(weights, seed=0)[:, None].expand(-1, len(features), -1)
    neutral, *ways = torch.stack(list(generator.stream_conditions(features.to(generator.device), latents)), dim=1).cpu()
    said = torch.stack([pipeline.lip_guard(way, neutral) for way in ways])
    return said if silent is None else torch.stack([pipeline.lip_guard.still(way, neutral, silent) for way in said])


def _mesh_distance(pipeline: GMTalkerPipeline, one: Tensor, other: Tensor) -> np.ndarray:
    """(ways,) between expressions (ways, frames, n), in thousandths of a face height."""
    moved = np.tensordot((other - one).numpy(), pipeline.face_model.expression_basis[:, :468], 1)
    return 1000 * np.sqrt(np.square(moved).sum(-1).mean((1, 2)))


def _drawn(pipeline: GMTalkerPipeline, avatar: Avatar, expression: Tensor, omega: Tensor) -> np.ndarray:
    """(frames, height, width, 3) float32: every DRAWN_EVERY-th frame, by the avatar in its mean pose."""
    rows = expression[::DRAWN_EVERY]
    motion = torch.as_tensor(avatar.face.motion_mean).float().repeat(len(rows), 1)
    motion[:, 6:] = 0
    track = FaceTrack(ExpressionTrack(rows), MotionTrack.unstacked(motion), torch.ones(len(rows), dtype=torch.bool))
    return np.stack(list(pipeline.draw(track, avatar, EmotionWeights(omega[None])))).astype(np.float32)


def _picture_distance(one: np.ndarray, other: np.ndarray) -> float:
    total = 0.0
    for _ in range(3):
        total += float(np.abs(one - other).mean()) / 3
        one, other = (np.stack([cv2.pyrDown(frame) for frame in frames]) for frames in (one, other))
    return total


@torch.no_grad()
@one_core()
def _takes(pipeline: GMTalkerPipeline, features: Tensor) -> list[np.ndarray]:
    """Ten seeds for one speech: (frames, 10) each, around a head that looks straight ahead, as widely as people move."""
    generator = pipeline.motion_generator
    nobody = torch.zeros_like(generator.scale)
    return [generator.restore(generator.generate(features, seed).float(), nobody).cpu().numpy() for seed in range(SEEDS)]


def motion_measures(
    made: Sequence[np.ndarray], unseen_speakers: Sequence[UnseenSpeaker], scale: Tensor, waveform: np.ndarray
) -> dict:
    """How widely heads turn (degrees), blinks a minute, how different takes are, the largest step between two frames, how well
    heads move with the stress; the same of real clips, where there are any. made: takes (frames, 10) for one waveform;
    scale: (10,) unit of the distance between takes."""
    result = {"made": _moves(made) | _beats([(motion, waveform) for motion in made])}
    if unseen_speakers:
        length = min(min(len(unseen_speaker.motion) for unseen_speaker in unseen_speakers), len(made[0]))
        result["real"] = _moves([unseen_speaker.motion for unseen_speaker in unseen_speakers])
        result["real"] |= _beats([(unseen_speaker.motion, unseen_speaker.waveform) for unseen_speaker in unseen_speakers])
        for name, motions in (("made", made), ("real", [unseen_speaker.motion for unseen_speaker in unseen_speakers])):
            result[name]["distance_between_takes"] = _between([motion[:length, POSE] for motion in motions], scale)
    else:
        result["made"]["distance_between_takes"] = _between([motion[:, POSE] for motion in made], scale)
    return result


def _moves(motions: Sequence[np.ndarray]) -> dict:
    blinks = sum(count_blinks(motion[:, BLINK].mean(1)) for motion in motions)
    return {
        "rotation_std_degrees": [
            round(float(value), 2) for value in np.mean([np.degrees(motion[:, ROTATION].std(0)) for motion in motions], axis=0)
        ],
        "blinks_a_minute": round(60 * FPS * blinks / sum(map(len, motions)), 1),
        "largest_turn_of_a_frame_degrees": round(
            float(max(np.degrees(np.abs(np.diff(motion[:, ROTATION], axis=0))).max() for motion in motions)), 2
        ),
    }


def _beats(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict:
    """Beat alignment of heads (frames, 10) with their speech, and what the same heads have with the speech of another moment."""
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
    """Video frames at which syllables set in: librosa's onsets."""
    import librosa  # late: it takes a second to import

    envelope = librosa.onset.onset_strength(y=waveform, sr=SAMPLE_RATE, hop_length=SAMPLES_PER_FRAME // 4)
    onsets = librosa.onset.onset_detect(onset_envelope=envelope, sr=SAMPLE_RATE, hop_length=SAMPLES_PER_FRAME // 4)
    stressed = np.unique(np.asarray(onsets) // 4)
    return stressed[stressed < frames]


def beat_alignment(motion: np.ndarray, stress: np.ndarray) -> float:
    """Mean over the stressed frames of exp(-d^2 / 2 s^2), d frames to the nearest moment at which the head turns fastest."""
    speed = np.linalg.norm(np.diff(motion[:, ROTATION], axis=0), axis=1)
    beats = 1 + np.flatnonzero((speed[1:-1] > speed[:-2]) & (speed[1:-1] >= speed[2:]))
    if not len(beats):
        return 0.0
    away = np.abs(stress[:, None] - beats[None]).min(1)
    return float(np.exp(-np.square(away) / (2 * BEAT_WIDTH**2)).mean())


def _between(motions: Sequence[np.ndarray], scale: Tensor) -> float:
    """Mean over pairs of the root mean square difference of centred motions, in units of the generic scale."""
    unit = scale[: motions[0].shape[1]].numpy()
    centred = [(motion - motion.mean(0)) / unit for motion in motions]
    pairs = [np.sqrt(np.square(a - b).mean()) for a, b in itertools.combinations(centred, 2)]
    return round(float(np.mean(pairs)), 3) if pairs else 0.0


def any_speech_measures(pipeline: GMTalkerPipeline, path: Path) -> dict:
    """Whether the lips do what lips do, where nobody filmed the speaker: they open (5 % and 95 % of the openings, in face
    heights), go with the loudness (correlation over a fifth of a second), and rest in silence (part of their motion in speech).
    """
    waveform = read_speech(path)[: LONGEST_UNSEEN * SAMPLE_RATE]
    features = pipeline.encode(waveform)
    silent = silent_frames(waveform, len(features))
    neutral = EmotionWeights.from_mapping({}).weights
    said = expression_for(pipeline, pipeline.expression_generator, features, neutral, silent)[0]
    lips = pipeline.face_model.lip_opening(said.numpy())
    padded = np.pad(waveform, (0, len(features) * SAMPLES_PER_FRAME))[: len(features) * SAMPLES_PER_FRAME]
    loudness = np.log(np.sqrt(np.square(padded.reshape(len(features), -1)).mean(1)) + 1e-4)
    smooth = [gaussian_filter1d(values, 2) for values in (lips, loudness)]
    speed, quiet = np.abs(np.diff(lips)), silent[1:]
    rests = 3 < quiet.sum() < len(quiet) - 3
    return {
        "seconds": round(len(lips) / FPS, 1),
        "opening_range": [round(float(value), 3) for value in np.quantile(lips, (0.05, 0.95))],
        "with_loudness": round(float(np.corrcoef(*smooth)[0, 1]), 2) if min(x.std() for x in smooth) > 1e-9 else 0.0,
        "motion_in_silence": round(float(speed[quiet].mean() / speed[~quiet].mean()), 3) if rests else None,
    }


def noise_measures(pipeline: GMTalkerPipeline, levels: Sequence[int] = (20, 10, 0)) -> dict[str, float]:
    """How far the lips of a speech with other voices behind it, so many dB quieter, follow those of the speech alone."""
    waveform = read_speech(SPEECH)
    others = [read_speech(path) for path in sorted(SPEECHES.glob("*.flac")) if path != SPEECH]
    voices = sum(np.resize(voice, len(waveform)) + np.resize(voice[::-1], len(waveform)) for voice in others)
    voices = voices * np.sqrt(np.square(waveform).mean() / np.square(voices).mean())

    def lips(sound: np.ndarray) -> np.ndarray:
        features = pipeline.encode(sound.astype(np.float32))
        neutral = EmotionWeights.from_mapping({}).weights
        said = expression_for(pipeline, pipeline.expression_generator, features, neutral)[0]
        return pipeline.face_model.lip_opening(said.numpy())

    alone = lips(waveform)
    return {
        f"{level} dB": round(shifted_correlation(lips(waveform + voices * 10 ** (-level / 20)), alone, 0), 3) for level in levels
    }


def lip_measures(pipeline: GMTalkerPipeline, unseen_speakers: Sequence[UnseenSpeaker]) -> dict:
    """Agreement of the generic lips, which know nothing of the person, with the real ones: in the mean, and of each clip."""
    tables, at_rest, spoken = {}, [], []
    for unseen_speaker in unseen_speakers:
        features = pipeline.encode(unseen_speaker.waveform)
        row = unseen_speaker.row
        asked = EmotionWeights.from_mapping({row.emotion: row.level} if row.emotion in EMOTIONS[1:] else {})
        silent = silent_frames(unseen_speaker.waveform, len(features))
        said = expression_for(pipeline, pipeline.expression_generator, features, asked.weights, silent)[0]
        made = pipeline.face_model.lip_opening(said.numpy())
        count = min(len(made), len(unseen_speaker.lips))
        tables[row.file] = [
            shifted_correlation(made[:count], unseen_speaker.lips[:count], offset)
            for offset in range(-OFFSET_MAX, OFFSET_MAX + 1)
        ]
        speed = np.abs(np.diff(made[:count]))
        quiet = silent[1:count]
        at_rest.append(speed[quiet])
        spoken.append(speed[~quiet])
    mean = np.mean(list(tables.values()), axis=0)
    at_rest, spoken = np.concatenate(at_rest), np.concatenate(spoken)
    best = int(mean.argmax()) - OFFSET_MAX
    return {
        "clips": len(tables),
        "lip_correlation": round(float(mean[OFFSET_MAX]), 3),
        "lip_best_offset_frames": best,
        "lip_best_offset_ms": best * 1000 // FPS,
        "lip_motion_in_silence": round(float(at_rest.mean() / spoken.mean()), 3) if len(at_rest) else None,
        "by_clip": {file: round(table[OFFSET_MAX], 3) for file, table in tables.items()},
    }


def read_unseen_speakers(
    data: Path, pipeline: GMTalkerPipeline, leave_out: Sequence[str], on_progress: OnProgress
) -> list[UnseenSpeaker]:
    """The test videos of a manifest whose sound belongs to the picture."""
    model, unseen_speakers = pipeline.face_model, []
    for row in read_rows(data):
        if not (row.test and row.is_video and row.speech and row.sync == "ok") or row.person in leave_out:
            continue
        on_progress(Progress(f"tracking {row.file}"))
        try:
            video = track_points(row.path)
        except UnusableVideo as error:
            on_progress(Progress(message=f"{row.file} is left out: {error}"))
            continue
        points, found = video.points[: LONGEST_UNSEEN * FPS], video.found[: LONGEST_UNSEEN * FPS]
        sound = read_sound_or_none(row.heard_in)
        if sound is None or found.mean() < 0.9:
            continue
        points = in_crop(points, choose_crop(points, *video.source_size))
        shape = measure_shape(model, points[found])
        track = model.track(points, shape, 1.0, found)
        coefficients, motion = track.expression.coefficients.numpy(), track.motion.stacked().numpy()
        lips = model.lip_opening(coefficients, shape.neutral_shape)
        unseen_speakers.append(UnseenSpeaker(row, lips, coefficients, motion, sound[: LONGEST_UNSEEN * SAMPLE_RATE]))
    return unseen_speakers
