"""Benchmarks that train: two heads compared, a public set, speaking styles adapted to unseen speakers."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch

from gmtalker.avatars.ready import load_avatar
from gmtalker.avatars.speaking_style import with_speaking_style
from gmtalker.avatars.workspace import slug, workspace
from gmtalker.clock import EMOTIONS, FPS
from gmtalker.errors import UnusableInput, UnusableVideo
from gmtalker.face.lip_guard import as_spoken
from gmtalker.face.lips import shifted_correlation
from gmtalker.files import whole_file
from gmtalker.measure.avatar import HeldOut, evaluate_avatar
from gmtalker.measure.generic import UnseenSpeaker, can_be_compared, expression_for, track_speaker
from gmtalker.measure.identity import FaceRecogniser
from gmtalker.measure.plots import draw_curves
from gmtalker.media.audio import silent_frames
from gmtalker.media.video import read_info
from gmtalker.models.articulation import ARTICULATION_DIM
from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import REFERENCE_WIDTHS, HeadGenerator
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.pretrain.datasets import WHOLE, Row, read_rows
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.tracks import EmotionWeights
from personalize.consent import Consent
from personalize.footage import gather_footage
from personalize.motion_benchmark import CLIP_SECONDS_MIN, LEARNED_SHARE, longest_clips
from personalize.person_head import train_person_head
from personalize.progress import TrainingProgress
from personalize.request import TrainRequest
from personalize.sound_sync import SpokenFootage, shift_sound, sound_lag
from personalize.speaking_style import adapt_style
from personalize.train import train_avatar

ADAPTED_SECONDS_MIN = 14.0  # of the part of a clip that a style is adapted to
MEASURED_EVERY = 5  # every so many of a person's clips is measured, and never trained on


def measure_adaptation(
    data: Path,
    minutes: float,
    pipeline: GMTalkerPipeline,
    leave_out: Sequence[str] = (),
    on_progress: OnProgress = ignore_progress,
) -> dict:
    """Measure lips on the last part of long clips, before and after a speaking style was adapted to the rest.

    data: a folder with a MANIFEST.csv; its long test clips are measured, and of everybody else the longest clip that may be
        trained on in part.
    minutes: of training for each clip.
    leave_out: people who are not measured.
    Returns: "lip_correlation" and "lip_correlation_before", the means over test clips; "clips" in all, the mean "gain" over them,
        "worse", those whose lips follow less than before, and "nearer", those whose lips come nearer; and by clip the
        correlations and the "distance" of the lips, in thousandths of a face height, each before and after.
    Errors: UnusableInput when no test clip is long enough.
    """
    speakers = _long_speakers(data, pipeline, leave_out, on_progress)
    if not any(speaker.row.test for speaker in speakers):
        raise UnusableInput(f"No test clip of {data} is {CLIP_SECONDS_MIN:g} seconds long.")
    clips = {}
    for speaker in speakers:
        on_progress(Progress(f"adapting to {speaker.row.file}"))
        clips[speaker.row.file] = _before_and_after(speaker, minutes, pipeline)
    strangers = [clips[speaker.row.file] for speaker in speakers if speaker.row.test]
    figures = list(clips.values())
    return {
        "lip_correlation": _mean(clip["after"] for clip in strangers),
        "lip_correlation_before": _mean(clip["before"] for clip in strangers),
        "clips": len(clips),
        "gain": _mean(clip["after"] - clip["before"] for clip in figures),
        "worse": sum(clip["after"] < clip["before"] for clip in figures),
        "nearer": sum(clip["distance_after"] < clip["distance_before"] for clip in figures),
        "by_clip": clips,
    }


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 3)


def _long_speakers(
    data: Path, pipeline: GMTalkerPipeline, leave_out: Sequence[str], on_progress: OnProgress
) -> list[UnseenSpeaker]:
    """Whom measure_adaptation measures, tracked."""
    rows = [row for row in read_rows(data) if can_be_compared(row) and row.person not in leave_out]
    lengths = {row.file: read_info(row.path).seconds for row in rows if row.test or row.train_seconds >= ADAPTED_SECONDS_MIN}
    tested = [row for row in rows if row.test and lengths[row.file] >= CLIP_SECONDS_MIN]
    parted = [row for row in rows if 0 < row.train_seconds < lengths.get(row.file, 0) - 1]
    tracked = [track_speaker(row, pipeline, on_progress, lengths[row.file]) for row in [*tested, *longest_clips(parted)]]
    return [speaker for speaker in tracked if speaker is not None]


def _before_and_after(speaker: UnseenSpeaker, minutes: float, pipeline: GMTalkerPipeline) -> dict[str, float]:
    """What lips do on the rest of a clip, before and after the speaking style was adapted to its first part."""
    features = pipeline.encode(speaker.waveform)
    count = min(len(features), len(speaker.lips))
    rest = slice(int(speaker.row.train_seconds * FPS) or int(LEARNED_SHARE * count), count)
    silent = silent_frames(speaker.waveform, count)
    articulation = features[:count, -ARTICULATION_DIM:].cpu()
    coefficients = as_spoken(torch.from_numpy(speaker.coefficients[:count]), silent, pipeline.lip_guard, articulation)
    emotion = EmotionWeights.from_mapping({}).at(count)
    footage = SpokenFootage(coefficients, features[:count].cpu(), np.arange(count) < rest.start, emotion, [0])
    footage = shift_sound(footage, sound_lag(pipeline.expression_generator, footage, pipeline.face_model))  # as from an upload
    with tempfile.TemporaryDirectory() as folder:
        adapt_style(footage, pipeline, Path(folder), minutes, Path(folder))
        adapted = with_speaking_style(pipeline.expression_generator, Path(folder) / "speaking_style")
    model, figures = pipeline.face_model, {}
    real = torch.from_numpy(speaker.coefficients[rest]) @ model.lip_basis()
    for name, generator in (("before", pipeline.expression_generator), ("after", adapted)):
        expression = expression_for(pipeline, generator, footage.features, emotion[:1])[0][rest]
        lips = model.lip_opening(expression.numpy())
        figures[name] = round(shifted_correlation(lips, speaker.lips[rest], 0), 3)
        apart = expression @ model.lip_basis() - real
        apart = (apart - apart.mean(0)).unflatten(1, (-1, 3)).square().sum(-1).mean().sqrt()  # where a face rests is no style
        figures[f"distance_{name}"] = round(1000 * float(apart), 2)
    return figures


def compare_heads(
    clips: Sequence[Path],
    minutes: float,
    pipeline: GMTalkerPipeline,
    on_progress: OnProgress = ignore_progress,
    picture: Path | None = None,
    size: int = 256,
) -> dict:
    """Train one person's head twice on the same footage: from our generic start, and with the reference's widths from scratch.

    minutes: of training for each.
    picture: where the quality curves are drawn; None for nowhere.
    size: side of the picture in pixels.
    Returns: PSNR on held-out frames over the seconds of training, of both.
    Errors: UnusableVideo for clips that can't be used.
    """
    curves, steps = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        progress = TrainingProgress(on_progress)
        request = TrainRequest("benchmark", clips, Consent.given_now("whoever is measured"), minutes=minutes, size=size)
        footage = gather_footage(request, pipeline, work, progress)
        for name, networks in (("ours", None), ("reference", reference_networks(size))):
            progress.stage(f"training {name}", 10 + 45 * len(curves), 55 + 45 * len(curves))
            training = train_person_head(footage, pipeline.face_model, work / name, minutes, progress, networks)
            curves[name] = [[round(point["seconds"]), round(point["psnr"], 2)] for point in training.state.curve]
            steps[name] = training.state.step
    if picture is not None:
        names = {"ours": "ours, generic start", "reference": "reference widths, no start"}
        draw_curves({names[name]: curve for name, curve in curves.items()}, picture)
    return {
        "clips": [Path(clip).name for clip in clips],
        "minutes": minutes,
        "size": size,
        "training_steps": steps,
        "seconds_and_held_out_psnr": curves,
        "ours_better_by_db": round(curves["ours"][-1][1] - curves["reference"][-1][1], 2),
    }


def reference_networks(size: int) -> tuple[HeadGenerator, EmotionMapping, Discriminator]:
    """Untrained networks for a size in pixels: a StyleUNet of the reference's widths, EMN and discriminator.

    Source: StyleAvatar, arXiv 2305.00942.
    """
    torch.manual_seed(0)
    return HeadGenerator(size, widths=REFERENCE_WIDTHS[size]), EmotionMapping(), Discriminator()


def split_of(rows: Sequence[Row]) -> tuple[list[Row], list[Row], float]:
    """Split the clips of a test person for their avatar.

    A set that splits each video in time keeps its split. Elsewhere every MEASURED_EVERYth clip, by name, is measured: published
    networks never saw these people at all, ours is made for them.

    Returns: the clips to train on, those to measure on, and the second from which these are measured.
    """
    if rows[0].train_seconds and rows[0].train_seconds < WHOLE:
        return list(rows), list(rows), rows[0].train_seconds
    ordered = sorted(rows, key=lambda row: row.file)
    return [row for index, row in enumerate(ordered) if index % MEASURED_EVERY], ordered[::MEASURED_EVERY], 0.0


def measure_public_set(
    root: Path,
    dataset: str,
    minutes: float,
    pipeline: GMTalkerPipeline,
    on_progress: OnProgress = ignore_progress,
    recogniser: FaceRecogniser | None = None,
) -> dict:
    """Train an avatar of each test person of a public set, and measure it.

    root: folder of the set.
    dataset: one of DATASETS.
    minutes: of training for each person; an avatar that is already there is not trained again.
    recogniser: measures identity similarity; None leaves it out.
    Returns: every measure of evaluate_avatar for each person, and their means.
    Errors: UnusableInput when the set has nobody to test on, or too few clips of somebody.
    """
    people: dict[str, list[Row]] = {}
    for row in read_rows(root, dataset):
        if row.is_video and (row.test or row.train_seconds < WHOLE):
            people.setdefault(row.person, []).append(row)
    if not people:
        raise UnusableInput(f"{root} holds no test clip of {dataset}.")
    result: dict[str, dict] = {}
    for person, rows in sorted(people.items()):
        train, measured, start = split_of(rows)
        if not train:
            raise UnusableInput(f"{dataset} has one clip of {person}; it takes two, to train on one and to measure on the other.")
        name = f"{dataset} {person}"
        if not (workspace() / "avatars" / slug(name)).is_dir():
            on_progress(Progress(f"training {name}"))
            train_avatar(_request_for(person, name, train, minutes), pipeline=pipeline)
        held_out = HeldOut([row.path for row in measured], start, {row.path: row.heard_in for row in measured})
        result[person] = evaluate_avatar(load_avatar(name), held_out, pipeline, on_progress, recogniser=recogniser)
    return {"dataset": dataset, "people": len(result), "minutes_of_training": minutes} | _means(result) | result


def _request_for(person: str, name: str, rows: Sequence[Row], minutes: float) -> TrainRequest:
    clips = [_first_part(row) for row in rows]
    emotions = {clip: row.emotion for clip, row in zip(clips, rows) if row.emotion in EMOTIONS}
    return TrainRequest(name, clips, Consent.given_now(person), minutes=minutes, emotions=emotions)


def _means(result: Mapping[str, Mapping]) -> dict[str, float]:
    """The mean of each number over the people who have it."""
    plain = {key for measures in result.values() for key, value in measures.items() if isinstance(value, (int, float))}
    return {
        key: round(float(np.mean([measures[key] for measures in result.values() if measures.get(key) is not None])), 3)
        for key in sorted(plain - {"start_seconds"})
    }


def _first_part(row: Row) -> Path:
    """The clip, or where only its first seconds may be learned from, a copy of those in the workspace."""
    if row.train_seconds == 0 or row.train_seconds >= WHOLE:  # the whole clip of a test person
        return row.path
    copy = workspace() / "benchmarks" / f"{slug(row.file)}-{row.train_seconds:.2f}{row.path.suffix}"
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(row.path.absolute())]
        with whole_file(copy) as unfinished:
            limits = ["-t", f"{row.train_seconds:.3f}", "-crf", "12"]
            done = subprocess.run([*command, *limits, str(unfinished)], capture_output=True)
            if done.returncode:
                raise UnusableVideo(f"{row.path.name} can't be cut: {done.stderr.decode(errors='replace').strip()[:200]}")
    return copy
