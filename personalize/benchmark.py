"""Benchmarks that train: two heads compared, a public set, speaking styles adapted to unseen speakers."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
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
from gmtalker.measure.generic import UnseenSpeaker, expression_for, read_unseen_speakers
from gmtalker.measure.identity import FaceRecogniser
from gmtalker.measure.plots import draw_curves
from gmtalker.media.audio import silent_frames
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
from personalize.person_head import train_person_head
from personalize.progress import TrainingProgress
from personalize.request import TrainRequest
from personalize.sound_sync import SpokenFootage
from personalize.speaking_style import adapt_style
from personalize.train import train_avatar

ADAPTED_CLIP_SECONDS = 19.9  # at least, of a clip that a style is adapted to
ADAPTED_SHARE = 0.7  # of it, from its beginning; the rest is measured
MEASURED_EVERY = 5  # every so many of a person's clips is measured, and never trained on


def measure_adaptation(
    data: Path,
    minutes: float,
    pipeline: GMTalkerPipeline,
    leave_out: Sequence[str] = (),
    on_progress: OnProgress = ignore_progress,
) -> dict:
    """Measure lip correlation on the last part of each long test clip, before and after a speaking style was adapted to the rest.

    data: a folder with a MANIFEST.csv.
    minutes: of training for each clip.
    leave_out: people who are not measured.
    Returns: the means over the clips and the value of each, before and after.
    Errors: UnusableInput when no test clip is long enough.
    """
    speakers = read_unseen_speakers(data, pipeline, leave_out, on_progress)
    speakers = [speaker for speaker in speakers if len(speaker.lips) >= ADAPTED_CLIP_SECONDS * FPS]
    if not speakers:
        raise UnusableInput(f"No test clip of {data} is {ADAPTED_CLIP_SECONDS:g} seconds long.")
    before, after = {}, {}
    for speaker in speakers:
        on_progress(Progress(f"adapting to {speaker.row.file}"))
        before[speaker.row.file], after[speaker.row.file] = _lips_before_and_after(speaker, minutes, pipeline)
    return {
        "lip_correlation": round(float(np.mean(list(after.values()))), 3),
        "lip_correlation_before": round(float(np.mean(list(before.values()))), 3),
        "by_clip": after,
        "by_clip_before": before,
    }


def _lips_before_and_after(speaker: UnseenSpeaker, minutes: float, pipeline: GMTalkerPipeline) -> list[float]:
    """Lip correlation on the rest of a clip, before and after the speaking style was adapted to its first part."""
    features = pipeline.encode(speaker.waveform)
    count = min(len(features), len(speaker.lips))
    rest = slice(int(ADAPTED_SHARE * count), count)
    silent = silent_frames(speaker.waveform, count)
    articulation = features[:count, -ARTICULATION_DIM:].cpu()
    coefficients = as_spoken(torch.from_numpy(speaker.coefficients[:count]), silent, pipeline.lip_guard, articulation)
    emotion = EmotionWeights.from_mapping({}).at(count)
    footage = SpokenFootage(coefficients, features[:count].cpu(), np.arange(count) < rest.start, emotion, [0])
    with tempfile.TemporaryDirectory() as folder:
        adapt_style(footage, pipeline, Path(folder), minutes, Path(folder))
        adapted = with_speaking_style(pipeline.expression_generator, Path(folder) / "speaking_style")
    correlations = []
    for generator in (pipeline.expression_generator, adapted):
        expression = expression_for(pipeline, generator, features[:count], emotion[:1])[0]
        lips = pipeline.face_model.lip_opening(expression.numpy())
        correlations.append(round(shifted_correlation(lips[rest], speaker.lips[rest], 0), 3))
    return correlations


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
