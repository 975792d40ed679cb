"""From clips to an avatar: gather footage, adapt the speaking style, train the head, measure, write."""

from __future__ import annotations

import datetime
import importlib.metadata
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from gmtalker.assets import GENERIC, SPEECH
from gmtalker.avatars.audit import record
from gmtalker.avatars.avatar import read_card, save_card
from gmtalker.avatars.consent import avatar_id
from gmtalker.avatars.emotion_offsets import EmotionOffsets
from gmtalker.avatars.habits import MotionHabits
from gmtalker.avatars.ready import load_avatar
from gmtalker.avatars.storage import write_avatar
from gmtalker.avatars.workspace import slug, workspace
from gmtalker.clock import EMOTIONS, FPS
from gmtalker.errors import UnusableInput
from gmtalker.face.landmarks import CHIN
from gmtalker.face.model import FaceModel
from gmtalker.face.tracking import detect_landmarks
from gmtalker.measure.avatar import image_measures
from gmtalker.media.audio import read_speech
from gmtalker.media.full_frame import IDLE_FRAMES_MAX, Stretch, write_idle_loop
from gmtalker.models.weights import save_half
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.tracks import BLINK, GAZE, EmotionWeights, FaceTrack
from gmtalker.training.head import HeadTraining, mean_psnr
from personalize.card import write_card
from personalize.clean_footage import CleanFootage, still_background
from personalize.emotion_offsets import learn_emotion_offsets
from personalize.footage import Footage, gather_footage
from personalize.habits import learn_habits, movement_of
from personalize.person_head import BEST, CHECKPOINT, train_person_head
from personalize.progress import TRAINING_CURVE, TRAINING_STRIP, WRAP_UP, TrainingProgress
from personalize.rehearsal import rehearsal_of
from personalize.request import REQUEST_FILE, TrainRequest
from personalize.sound_sync import SpokenFootage, footage_sync, is_another_voice, shift_sound, sound_lag
from personalize.speaking_style import adapt_style

STYLE_SHARE, STYLE_MINUTES_MAX = 0.2, 1.5  # share of the training time that the speaking style takes
SPEECH_SECONDS_MIN = 3.0  # without which no speaking style is learned
MEASURED_FRAMES_MAX = 250  # of the held-out ones
NEUTRAL_SPEECH_FRAMES = 250  # over which the person's neutral face is compared with the generic one


def train_avatar(
    request: TrainRequest, on_progress: OnProgress = ignore_progress, pipeline: GMTalkerPipeline | None = None
) -> Path:
    """Make an avatar from video clips of one person. The same request resumes.

    on_progress: takes the progress, with percent and seconds_left of the whole training.
    pipeline: of the generic stages; None for the bundled ones.
    Returns: the avatar's folder in the workspace, where nothing appears before all is done.
    Errors: UnusableInput for clips that can't be used.
    """
    work = _begin(request)
    pipeline = pipeline or GMTalkerPipeline.from_pretrained()
    progress = TrainingProgress(on_progress)
    with write_avatar(request.name, replace=True) as folder:
        footage = gather_footage(request, pipeline, work, progress)
        style_minutes, style = _learn_style(footage, request, pipeline, work, folder, progress)
        minutes = request.training_minutes
        progress.stage("training the head", 10 + 80 * style_minutes / minutes, 92, WRAP_UP)
        rehearsal = rehearsal_of(footage, pipeline, _save_emotion_offsets(footage, pipeline, folder))
        head_minutes = minutes - style_minutes
        training = train_person_head(footage, pipeline.face_model, work, head_minutes, progress, rehearsal=rehearsal)
        progress.stage("measuring", 92, 96)
        if not _save_parts(footage, training, pipeline, work, folder):
            progress.alive("Camera or background move in the first clip: videos can show head and shoulders, not the full frame.")
        _habits(footage, pipeline).save(folder)
        _write_card(folder, request, footage, {}, training)
        _save_background(footage, pipeline, folder)
        measures = _measure(folder, footage, pipeline) | style
        _write_card(folder, request, footage, measures, training)
        progress.stage("pictures of the avatar", 96, 100)
        write_card(folder, pipeline)
    _clear(work)
    record("trained", request.name, id=avatar_id(read_card(workspace() / "avatars" / slug(request.name))))
    held_out = {f"held_out_{name}": value for name, value in measures.items()}
    on_progress(Progress("done", 100, 100, percent=100.0, seconds_left=0, figures=held_out))
    return workspace() / "avatars" / slug(request.name)


def _begin(request: TrainRequest) -> Path:
    """The work folder of a training that may begin. Errors: UnusableInput when the consent has ended."""
    try:
        request.consent.check_lasts()
    except ValueError as error:
        record("refused", request.name, why=str(error))
        raise UnusableInput(f"{error}.") from error
    record("training", request.name, consent_of=request.consent.who, clips=len(request.clips))
    work = workspace() / "training" / slug(request.name)
    work.mkdir(parents=True, exist_ok=True)
    request.save(work / REQUEST_FILE)
    if not (work / CHECKPOINT).exists():
        for old in (TRAINING_STRIP, TRAINING_CURVE):  # of a training before this one
            (work / old).unlink(missing_ok=True)
    return work


def _learn_style(
    footage: Footage, request: TrainRequest, pipeline: GMTalkerPipeline, work: Path, folder: Path, progress: TrainingProgress
) -> tuple[float, dict]:
    """Adapt the speaking style, where the clips hold speech.

    Returns: the minutes of training that are spent on it, and figures of what it changed, for the card.
    """
    minutes = request.training_minutes
    spoken = _synchronised(footage.spoken(pipeline.lip_guard), pipeline, progress)
    if footage.speaks.sum() < SPEECH_SECONDS_MIN * FPS:
        progress.alive("The clips hold no speech: the picture is trained, not the speaking style.")
        return 0.0, {}
    if is_another_voice(footage_sync(spoken, pipeline.face_model)):
        progress.alive("The sound of the clips is not this mouth's: the speaking style is not learned from it.")
        return 0.0, {}
    style_minutes = min(STYLE_SHARE * minutes, STYLE_MINUTES_MAX)
    later = 60 * (minutes - style_minutes) + WRAP_UP
    progress.stage("learning the speaking style", 10, 10 + 80 * style_minutes / minutes, later)
    report = adapt_style(spoken, pipeline, work, style_minutes, folder, progress)
    return style_minutes, report.figures()


def _save_parts(footage: Footage, training: HeadTraining, pipeline: GMTalkerPipeline, work: Path, folder: Path) -> bool:
    """Write the networks at their best, the face, and the idle loop. Returns: whether the full frame can be shown."""
    generator, mapping = training.best_networks(work / BEST)
    save_half(generator, folder / "head_generator")
    save_half(mapping, folder / "emotion_mapping")
    footage.face.save(folder / "face.safetensors")
    return _save_idle_loop(footage, pipeline.face_model, folder)


def _save_emotion_offsets(footage: Footage, pipeline: GMTalkerPipeline, folder: Path) -> EmotionOffsets | None:
    """Write and return the person's offsets: their own of the emotions that the clips were labelled with, else the actors'."""
    labels = np.where(footage.held_out | ~footage.track.found.numpy(), -1, footage.labels)
    speech = footage.features[torch.from_numpy(footage.speaks)][:NEUTRAL_SPEECH_FRAMES]
    if len(speech) < FPS:  # clips with a label are often silent
        speech = pipeline.encode(read_speech(SPEECH))[:NEUTRAL_SPEECH_FRAMES]
    usual = EmotionOffsets.load(GENERIC / "emotion_offsets")
    generator, guard = pipeline.expression_generator, pipeline.lip_guard
    offsets = learn_emotion_offsets(generator, footage.track, labels, speech, guard, usual)
    if offsets is not None:
        offsets.save(folder)
    return offsets


def _habits(footage: Footage, pipeline: GMTalkerPipeline) -> MotionHabits:
    """How the person moves in the clips, but for what is held out."""
    motion, found = footage.track.motion.stacked().numpy(), footage.track.found.numpy()
    clips = np.split(np.arange(len(motion)), footage.clip_starts[1:])
    used = [clip[~footage.held_out[clip]] for clip in clips if not footage.held_out[clip].all()]
    speech = footage.features[torch.from_numpy(footage.speaks & ~footage.held_out)]
    return learn_habits([motion[part] for part in used], [found[part] for part in used], speech, pipeline)


def _clear(work: Path) -> None:
    """Delete everything of a finished training but its request, and the pictures that the page may still show."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (TRAINING_STRIP, TRAINING_CURVE, REQUEST_FILE):
            path.unlink(missing_ok=True)


def _synchronised(spoken: SpokenFootage, pipeline: GMTalkerPipeline, progress: TrainingProgress) -> SpokenFootage:
    """The footage with its sound moved to the picture, or the avatar's lips would be as late or early as those of the clips."""
    lag = sound_lag(pipeline.expression_generator, spoken, pipeline.face_model)
    if abs(lag) >= 0.5:
        side = "late" if lag > 0 else "early"
        progress.alive(f"The sound of the clips is {abs(1000 * lag / FPS):.0f} ms {side}; that is corrected.")
    return shift_sound(spoken, lag)


def _save_idle_loop(footage: Footage, model: FaceModel, folder: Path) -> bool:
    """Write the stretch of the first clip in which head, lips and shoulders move least, for videos in the full frame.

    Returns: whether it can be used: camera and what is behind do not move.
    """
    end = footage.clip_starts[1] if len(footage.clip_starts) > 1 else len(footage.track)
    count = min(IDLE_FRAMES_MAX, end)
    track = footage.track[torch.arange(end)]
    moving = torch.cat([10 * track.motion.rotation, track.expression.coefficients / 10, 50 * track.shoulders], dim=1).numpy()
    movement = np.abs(np.diff(moving, axis=0, prepend=moving[:1])).sum(1) + 10.0 * ~track.found.numpy()
    first = int(np.convolve(movement, np.ones(count), "valid").argmin())
    crop, shoulders = footage.face.crop, footage.track.shoulders[first : first + count].numpy()
    chin = crop[1] + _lowest_chin(footage, model, slice(first, first + count), float(crop[2]))
    stretch = Stretch(footage.clips[0], first, count, end, footage.turns)
    clean = CleanFootage(stretch, crop, chin).frames()
    write_idle_loop(folder, stretch, crop, shoulders, clean)
    return clean is not None


def _lowest_chin(footage: Footage, model: FaceModel, frames: slice, side: float) -> float:
    """How far down the chin comes in some frames, in pixels of a crop with this side."""
    motion = footage.track.motion.stacked()[frames].numpy()
    coefficients = footage.track.expression.coefficients[frames].numpy()
    shapes = (model.shape(footage.face, row, moved[BLINK], moved[GAZE]) for row, moved in zip(coefficients, motion))
    return float(max(model.project(shape, moved, side)[CHIN, 1] for shape, moved in zip(shapes, motion)))


def _save_background(footage: Footage, pipeline: GMTalkerPipeline, folder: Path) -> None:
    """Write what is behind the person, where held-out frames are nearer to it than to what is drawn there.

    They are not where the light changes from take to take.
    """
    background, (real, track, weights) = still_background(footage.frames, footage.mattes), _held_out(footage)
    if background is None or not len(real):
        return
    drawn = np.stack(list(pipeline.draw(track, load_avatar(folder), weights, matte=True)))
    if mean_psnr(background.behind(drawn)[..., :3], real) > mean_psnr(drawn[..., :3], real):
        background.save(folder)


def _held_out(footage: Footage) -> tuple[np.ndarray, FaceTrack, EmotionWeights]:
    """Frames (n, size, size, 3) that were never trained on, with what the face does in them."""
    places = np.flatnonzero(footage.held_out[footage.frame_numbers])[:MEASURED_FRAMES_MAX]
    emotion = footage.emotion[torch.from_numpy(footage.frame_numbers[places])]
    return footage.frames[places], footage.frame_track[torch.from_numpy(places)], EmotionWeights(emotion)


def _measure(folder: Path, footage: Footage, pipeline: GMTalkerPipeline) -> dict:
    """Image measures of the finished avatar on the held-out frames."""
    frames, track, weights = _held_out(footage)
    if not len(frames):
        return {}
    real = list(frames)
    measures = image_measures(real, list(pipeline.draw(track, load_avatar(folder), weights)), detect_landmarks(real)[0])
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in measures.items()}


def _write_card(folder: Path, request: TrainRequest, footage: Footage, measures: dict, training: HeadTraining) -> None:
    """Write avatar.json."""
    emotion = footage.emotion[~footage.held_out].mean(0)
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
            "movement": movement_of(MotionHabits.load(folder)),
            "emotions_seen": {name: round(float(weight), 3) for name, weight in zip(EMOTIONS, emotion)},
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
