"""What trains avatars in order to measure: heads compared, a public set, styles adapted to unseen speakers."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch

from gmtalker.avatars.ready import load_avatar
from gmtalker.avatars.speaking_style import with_speaking_style
from gmtalker.avatars.workspace import slug, workspace
from gmtalker.clock import EMOTIONS, FPS
from gmtalker.errors import UnusableInput, UnusableVideo
from gmtalker.face.lip_guard import at_rest_in_silence
from gmtalker.face.lips import shifted_correlation
from gmtalker.files import whole_file
from gmtalker.measure.avatar import HeldOut, evaluate_avatar
from gmtalker.measure.generic import expression_for, read_unseen_speakers
from gmtalker.measure.identity import FaceRecogniser
from gmtalker.measure.plots import draw_curves
from gmtalker.media.audio import silent_frames
from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import REFERENCE_WIDTHS, HeadGenerator
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.pretrain.datasets import WHOLE, Row, read_rows
from gmtalker.progress import OnProgress, Progress, nobody_listens
from gmtalker.tracks import EmotionWeights
from personalize.consent import Consent
from personalize.footage import gather_footage
from personalize.person_head import train_person_head
from personalize.progress import TrainingProgress
from personalize.request import TrainRequest
from personalize.sound_sync import SpokenFootage
from personalize.speaking_style import adapt_style
from personalize.train import train_avatar

ADAPTED_CLIP, ADAPTED_ON = 19.9, 0.7  # seconds that a clip must have for adaptation, and the part of it that is adapted to


def measure_adaptation(
    data: Path,
    minutes: float,
    pipeline: GMTalkerPipeline,
    leave_out: Sequence[str] = (),
    on_progress: OnProgress = nobody_listens,
) -> dict:
    """Lips on the last part of each long test clip, before and after the speaking style was adapted to the first part.

    data: a folder with a MANIFEST.csv.
    minutes: of adaptation for each clip.
    leave_out: people of data that are not measured.
    Errors: UnusableInput when no test clip is long enough.
    """
    unseen_speakers = read_unseen_speakers(data, pipeline, leave_out, on_progress)
    unseen_speakers = [speaker for speaker in unseen_speakers if len(speaker.lips) >= ADAPTED_CLIP * FPS]
    if not unseen_speakers:
        raise UnusableInput(f"No test clip of {data} is {ADAPTED_CLIP:g} seconds long.")
    before, after = {}, {}
    for unseen_speaker in unseen_speakers:
        on_progress(Progress(f"adapting to {unseen_speaker.row.file}"))
        features = pipeline.encode(unseen_speaker.waveform)
        count = min(len(features), len(unseen_speaker.lips))
        rest = slice(int(ADAPTED_ON * count), count)
        silent = silent_frames(unseen_speaker.waveform, count)
        coefficients = at_rest_in_silence(torch.from_numpy(unseen_speaker.coefficients[:count]), silent, pipeline.lip_guard)
        emotion = EmotionWeights.from_mapping({}).at(count)
        footage = SpokenFootage(coefficients, features[:count].cpu(), np.arange(count) < rest.start, emotion, [0])
        with tempfile.TemporaryDirectory() as folder:
            adapt_style(footage, pipeline, Path(folder), minutes, Path(folder))
            adapted = with_speaking_style(pipeline.expression_generator, Path(folder) / "speaking_style")
        for result, generator in ((before, pipeline.expression_generator), (after, adapted)):
            said = expression_for(pipeline, generator, features[:count], emotion[:1], silent)[0]
            lips = pipeline.face_model.lip_opening(said.numpy())
            result[unseen_speaker.row.file] = round(shifted_correlation(lips[rest], unseen_speaker.lips[rest], 0), 3)
    return {
        "lip_correlation": round(float(np.mean(list(after.values()))), 3),
        "lip_correlation_before": round(float(np.mean(list(before.values()))), 3),
        "by_clip": after,
        "by_clip_before": before,
    }


def compare_heads(
    clips: Sequence[Path],
    minutes: float,
    pipeline: GMTalkerPipeline,
    on_progress: OnProgress = nobody_listens,
    picture: Path | None = None,
    size: int = 256,
) -> dict:
    """PSNR on held-out frames over the minutes of training, of both, on the same footage; a drawing of it into picture.

    Errors: UnusableVideo.
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
    """StyleUNet of StyleAvatar's widths (arXiv 2305.00942), with EMN and critic, untrained."""
    torch.manual_seed(0)
    return HeadGenerator(size, widths=REFERENCE_WIDTHS[size]), EmotionMapping(), Discriminator()


MEASURED_EVERY = 5  # of a person's clips every so many are measured, and never trained on


def split_of(rows: Sequence[Row]) -> tuple[list[Row], list[Row], float]:
    """A test person's clips to train their avatar on and to measure on, and the second from which those are measured.

    A set that splits each video in time keeps its split. Elsewhere every fifth clip, by name, is measured: the published networks
    never saw these people at all, ours is made for them.
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
    on_progress: OnProgress = nobody_listens,
    recogniser: FaceRecogniser | None = None,
) -> dict:
    """Every measure of `evaluate` for each test person, and their means. Avatars that are already there are not trained again.

    minutes: of training for each person. Errors: UnusableInput when the set has nobody to test on, or too little of somebody.
    """
    people: dict[str, list[Row]] = {}
    for row in read_rows(root, dataset):
        if row.is_video and (row.test or row.train_seconds < WHOLE):
            people.setdefault(row.person, []).append(row)
    if not people:
        raise UnusableInput(f"{root} holds no test clip of {dataset}.")
    result: dict[str, dict] = {}
    for person, rows in sorted(people.items()):
        kept, measured, start = split_of(rows)
        if not kept:
            raise UnusableInput(f"{dataset} has one clip of {person}; it takes two, to train on one and to measure on the other.")
        name = f"{dataset} {person}"
        if not (workspace() / "avatars" / slug(name)).is_dir():
            on_progress(Progress(f"training {name}"))
            clips = [_first_part(row) for row in kept]
            emotions = {clip: row.emotion for clip, row in zip(clips, kept) if row.emotion in EMOTIONS}
            request = TrainRequest(name, clips, Consent.given_now(person), minutes=minutes, emotions=emotions)
            train_avatar(request, pipeline=pipeline)
        held_out = HeldOut([row.path for row in measured], start, {row.path: row.heard_in for row in measured})
        result[person] = evaluate_avatar(load_avatar(name), held_out, pipeline, on_progress, recogniser=recogniser)
    plain = {key for measures in result.values() for key, value in measures.items() if isinstance(value, (int, float))}
    means = {
        key: round(float(np.mean([measures[key] for measures in result.values() if measures.get(key) is not None])), 3)
        for key in sorted(plain - {"start_seconds"})
    }
    return {"dataset": dataset, "people": len(result), "minutes_of_training": minutes} | means | result


def _first_part(row: Row) -> Path:
    """The clip, or where only its first seconds may be learned from, a copy of those in the workspace."""
    if row.train_seconds == 0 or row.train_seconds >= WHOLE:  # a test person's whole clip
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
