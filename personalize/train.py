"""From uploaded clips to an avatar: track, cut, adapt the speaking style, train the head, measure, write."""

from __future__ import annotations

import datetime
import importlib.metadata
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from gmtalker.assets import SPEECH
from gmtalker.avatars.avatar import save_card
from gmtalker.avatars.emotion_offsets import EmotionOffsets
from gmtalker.avatars.ready import load_avatar
from gmtalker.avatars.storage import write_avatar
from gmtalker.avatars.workspace import slug, workspace
from gmtalker.clock import EMOTIONS, FPS
from gmtalker.face.tracking import detect_landmarks
from gmtalker.measure.avatar import image_measures
from gmtalker.media.audio import read_speech
from gmtalker.media.full_frame import IDLE_FRAMES_MAX, write_idle_loop
from gmtalker.models.weights import save_half
from gmtalker.pipeline import GMTalkerPipeline, Performance
from gmtalker.progress import OnProgress, Progress, nobody_listens
from gmtalker.tracks import EmotionWeights
from gmtalker.training.head import HeadTraining
from personalize.card import write_card
from personalize.emotion_offsets import learn_emotion_offsets
from personalize.footage import Footage, gather_footage
from personalize.person_head import BEST, CHECKPOINT, train_person_head
from personalize.progress import TRAINING_CURVE, TRAINING_STRIP, WRAP_UP, TrainingProgress
from personalize.request import REQUEST_FILE, TrainRequest
from personalize.sound_sync import SpokenFootage, in_time, sound_lag
from personalize.speaking_style import adapt_style

STYLE_SHARE, LONGEST_STYLE = 0.2, 1.5  # part of the minutes that goes to the speaking style, and its most minutes
LEAST_SPEECH = 3.0  # seconds from which on a speaking style is learned
MEASURED_FRAMES = 250
NEUTRAL_SPEECH = 250  # frames of speech over which a neutral face is told from the generic one


def train_avatar(
    request: TrainRequest, on_progress: OnProgress = nobody_listens, pipeline: GMTalkerPipeline | None = None
) -> Path:
    """Make an avatar from video clips of one person. The same request resumes.

    on_progress: told of the whole training. Nothing appears among the avatars until all is done.
    pipeline: of the generic stages; None is the bundled ones.
    Returns: the avatar's folder in the workspace.
    Errors: UnusableVideo and other UnusableInput for clips that can't be used.
    """
    work = workspace() / "training" / slug(request.name)
    work.mkdir(parents=True, exist_ok=True)
    request.save(work / REQUEST_FILE)
    if not (work / CHECKPOINT).exists():
        for old in (TRAINING_STRIP, TRAINING_CURVE):  # of a training before this one
            (work / old).unlink(missing_ok=True)
    pipeline = pipeline or GMTalkerPipeline.from_pretrained()
    progress = TrainingProgress(on_progress)
    with write_avatar(request.name, replace=True) as folder:
        footage = gather_footage(request, pipeline, work, progress)
        style_minutes = _learn_style(footage, request, pipeline, work, folder, progress)
        minutes = request.training_minutes
        progress.stage("training the head", 10 + 80 * style_minutes / minutes, 92, WRAP_UP)
        training = train_person_head(footage, pipeline.face_model, work, minutes - style_minutes, progress)
        progress.stage("measuring", 92, 96)
        _save_parts(footage, training, work, folder, request.clips[0])
        offsets = _emotion_offsets(footage, pipeline)
        if offsets is not None:
            offsets.save(folder)
        _write_card(folder, request, footage, {}, training)
        measures = _measure(folder, footage, pipeline)
        _write_card(folder, request, footage, measures, training)
        progress.stage("pictures of the avatar", 96, 100)
        write_card(folder, pipeline)
    _clear(work)
    held_out = {f"held_out_{name}": value for name, value in measures.items()}
    on_progress(Progress("done", 100, 100, percent=100.0, seconds_left=0, figures=held_out))
    return workspace() / "avatars" / slug(request.name)


def _learn_style(
    footage: Footage, request: TrainRequest, pipeline: GMTalkerPipeline, work: Path, folder: Path, progress: TrainingProgress
) -> float:
    """Adapt the speaking style, where the clips hold speech. Returns the minutes that it took of those that were asked for."""
    minutes = request.training_minutes
    spoken = _synchronised(footage.spoken(pipeline.lip_guard), pipeline, progress)
    if footage.speaks.sum() < LEAST_SPEECH * FPS:
        progress.alive("The clips hold no speech: the picture is trained, not the speaking style.")
        return 0.0
    style_minutes = min(STYLE_SHARE * minutes, LONGEST_STYLE)
    later = 60 * (minutes - style_minutes) + WRAP_UP
    progress.stage("learning the speaking style", 10, 10 + 80 * style_minutes / minutes, later)
    adapt_style(spoken, pipeline, work, style_minutes, folder, progress)
    return style_minutes


def _save_parts(footage: Footage, training: HeadTraining, work: Path, folder: Path, first_clip: Path) -> None:
    """The networks at their best, the face, and the loop of footage for the full frame."""
    generator, mapping = training.best_networks(work / BEST)
    save_half(generator, folder / "head_generator")
    save_half(mapping, folder / "emotion_mapping")
    footage.face.save(folder / "face.safetensors")
    _keep_idle_loop(footage, first_clip, folder)


def _emotion_offsets(footage: Footage, pipeline: GMTalkerPipeline) -> EmotionOffsets | None:
    """The person's own look of the emotions that the clips were labelled with."""
    learned = np.where(footage.held_out | ~footage.track.found.numpy(), -1, footage.labels)
    speech = footage.features[torch.from_numpy(footage.speaks)][:NEUTRAL_SPEECH]
    if len(speech) < FPS:  # clips with a label are often silent
        speech = pipeline.encode(read_speech(SPEECH))[:NEUTRAL_SPEECH]
    return learn_emotion_offsets(pipeline.expression_generator, footage.track, learned, speech, pipeline.lip_guard)


def _clear(work: Path) -> None:
    """Away with everything of a finished training but its request, and the pictures that its watcher may look at yet."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (TRAINING_STRIP, TRAINING_CURVE, REQUEST_FILE):
            path.unlink(missing_ok=True)


def _synchronised(spoken: SpokenFootage, pipeline: GMTalkerPipeline, progress: TrainingProgress) -> SpokenFootage:
    """Sound and picture brought together, or the avatar's lips would be as late or early as those of the clips are."""
    lag = sound_lag(pipeline.expression_generator, spoken, pipeline.face_model)
    if abs(lag) >= 0.5:
        side = "late" if lag > 0 else "early"
        progress.alive(f"The sound of the clips is {abs(1000 * lag / FPS):.0f} ms {side}; that is corrected.")
    return in_time(spoken, lag)


def _keep_idle_loop(footage: Footage, clip: Path, folder: Path) -> None:
    """The stretch of the first clip in which head, lips and shoulders move least, for videos in the full frame."""
    end = footage.clip_starts[1] if len(footage.clip_starts) > 1 else len(footage.track)
    count = min(IDLE_FRAMES_MAX, end)
    track = footage.track[torch.arange(end)]
    moving = torch.cat([10 * track.motion.rotation, track.expression.coefficients / 10, 50 * track.shoulders], dim=1).numpy()
    busy = np.abs(np.diff(moving, axis=0, prepend=moving[:1])).sum(1) + 10.0 * ~track.found.numpy()
    first = int(np.convolve(busy, np.ones(count), "valid").argmin())
    write_idle_loop(folder, clip, first, footage.face.crop, footage.track.shoulders[first : first + count].numpy())


def _measure(folder: Path, footage: Footage, pipeline: GMTalkerPipeline) -> dict:
    """Image measures on the held-out frames, as the finished avatar draws them."""
    places = np.flatnonzero(footage.held_out[footage.kept])[:MEASURED_FRAMES]
    if not len(places):
        return {}
    index = torch.from_numpy(footage.kept[places])
    drawn = list(Performance(pipeline, load_avatar(folder), footage.track[index], EmotionWeights(footage.emotion[index]), None))
    real = list(footage.frames[places])
    measures = image_measures(real, drawn, detect_landmarks(real)[0])
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in measures.items()}


def _write_card(folder: Path, request: TrainRequest, footage: Footage, measures: dict, training: HeadTraining) -> None:
    """avatar.json."""
    shown = footage.emotion[~footage.held_out].mean(0)
    card = {
        "name": request.name,
        "consent": asdict(request.consent),
        "source": {
            "seconds": round(footage.seconds, 2),
            "held_out_seconds": round(float(footage.held_out.sum()) / FPS, 2),
            "clips": len(footage.clip_starts),
            "picture": [int(side) for side in footage.face.source_size],
            "face_found": round(float(footage.track.found.float().mean()), 4),
            "speech_seconds": round(float(footage.speaks.sum()) / FPS, 2),
            "labelled_emotions": sorted(set(request.emotions.values())),
            "emotions_seen": {emotion: round(float(weight), 3) for emotion, weight in zip(EMOTIONS, shown)},
        },
        "training": {
            "preset": request.preset,
            "minutes": request.training_minutes,
            "head_steps": training.state.step,
            "best_second": training.state.quality()["seconds"] if training.state.curve else None,
            "quality_curve": [[round(point["seconds"]), round(point["psnr"], 2)] for point in training.state.curve],
        },
        "measures": measures,
        "versions": {
            "torch": importlib.metadata.version("torch"),
            "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        },
    }
    save_card(folder, card)
