"""Pretraining of head generator and emotion mapping over many people: `pretrain head` (docs/method.md section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.face.context_motion import learn_context_motion
from gmtalker.face.model import FaceModel
from gmtalker.face.renderer import Renderer
from gmtalker.face.tracking import choose_crop, cut, in_crop, measure_person
from gmtalker.media.video import read_frames
from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import WIDTHS, HeadGenerator
from gmtalker.models.weights import save_half
from gmtalker.pretrain.card import StageSection, write_section
from gmtalker.pretrain.corpus import TrackedClip, tracked_clips
from gmtalker.pretrain.datasets import Row, source_of
from gmtalker.pretrain.samples import PretrainOptions, emotion_row, read_face_model
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.training.checkpoints import TrainState
from gmtalker.training.head import HeadHooks, HeadOptions, HeadTraining, sized, train_head
from gmtalker.training.head_data import PersonFrames
from gmtalker.training.head_losses import PixelWeights

MINUTES = 60.0
SHARPNESS_MIN = 0.8  # pixels of the footage for a pixel of the generated head: blown up, footage would teach blur
CLIP_FRAMES_MAX, CLIPS_MAX = 160, 6  # frames of a clip, and clips' worth of frames of a person
HELD_OUT_PEOPLE, HELD_OUT_FRAMES = 3, 12  # people of whom no frame is trained on: how well do the networks fit anybody?
BATCH_FRAMES, BATCH_FRAMES_GPU = 4, 16  # a training step


def pretrain_head(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Train StyleUNet, EMN and their discriminator on every training video, but those of people to leave out.

    output: folder of stages.
    options: each size has networks of its own.
    Returns: the folder of StyleUNet's weights.
    Errors: UnusableInput when there is no face model yet, or the videos show too few people.
    """
    options, output = options.with_minutes(MINUTES), Path(output)
    model = read_face_model(output)
    rows = [row for row in rows if row.is_video and row.person not in options.leave_out]
    people = list(_film(rows, output / "corpus", model, options.size, on_progress))
    if len(people) <= HELD_OUT_PEOPLE:
        raise UnusableInput(f"The clips show {len(people)} people; pretraining a head needs more than {HELD_OUT_PEOPLE}.")
    unseen = range(0, len(people), len(people) // HELD_OUT_PEOPLE)[:HELD_OUT_PEOPLE]
    held_out = [_thinned(people[index], HELD_OUT_FRAMES) for index in unseen]
    train = [person for index, person in enumerate(people) if index not in unseen]
    torch.manual_seed(options.seed)
    networks = HeadGenerator(options.size, widths=WIDTHS[options.size]), EmotionMapping(), Discriminator()
    training = HeadTraining(*networks, PixelWeights(model), learning_rate=1e-3, ema_decay=0.998, device=options.device)
    head_options = HeadOptions(
        options.minutes,
        batch=BATCH_FRAMES if training.accelerator.device.type == "cpu" else BATCH_FRAMES_GPU,
        checkpoint=output / "checkpoints" / f"{sized('head', options.size)}.safetensors",
        augment=True,
        checkpoint_seconds=120,
        seed=options.seed,
    )
    train_head(training, train, held_out, head_options, HeadHooks(on_progress))
    return _save(training, output, rows, options)


def _save(training: HeadTraining, output: Path, rows: Sequence[Row], options: PretrainOptions) -> Path:
    """Write the three networks and their section of the card. Returns: the folder of StyleUNet's weights."""
    size, state = options.size, training.state
    generator, mapping = training.networks()
    discriminator = training.accelerator.unwrap_model(training.discriminator)
    for name, network in (("head_generator", generator), ("emotion_mapping", mapping), ("discriminator", discriminator)):
        save_half(network, output / sized(name, size))
    command = f"python -m gmtalker pretrain head {source_of(rows)} --output DIR --minutes {options.minutes:g}"
    command += f" --size {size}" if size != 256 else ""
    command += f" --leave-out {','.join(options.leave_out)}" if options.leave_out else ""
    figures = {"PSNR on frames of people never trained on, dB": round(state.curve[-1]["psnr"], 2)}
    parameters = sum(weight.numel() for network in (generator, mapping) for weight in network.parameters())
    work = TrainState(state.step, state.seconds)
    write_section(output, StageSection(sized("head", size), command, work, rows, figures, parameters))
    return output / sized("head_generator", size)


def _film(rows: Sequence[Row], cache: Path, model: FaceModel, size: int, on_progress: OnProgress) -> Iterator[PersonFrames]:
    """Every person with a face large enough; a person's clips of one camera and kind are measured together."""
    cameras: dict[tuple, list[TrackedClip]] = {}
    for clip in tracked_clips(rows, cache, on_progress):
        cameras.setdefault((clip.row.person, clip.video.source_size, clip.row.kind), []).append(clip)
    for number, clips in enumerate(cameras.values()):
        on_progress(Progress("measuring faces", number, len(cameras)))
        crop = choose_crop(np.concatenate([clip.video.points for clip in clips]), *clips[0].video.source_size)
        if crop[2] >= SHARPNESS_MIN * size:
            yield _measure(clips, crop, model, size)


def _measure(clips: Sequence[TrackedClip], crop: np.ndarray, model: FaceModel, size: int) -> PersonFrames:
    """One person's frames, evenly over all of their clips, with face, track and emotion."""
    points = np.concatenate([clip.video.points for clip in clips])
    neutral_frames = np.concatenate([clip.neutral_frames for clip in clips])
    emotion = np.concatenate([np.repeat(_emotion(clip.row)[None], len(clip), 0) for clip in clips])
    frames, kept = _cut_frames(clips, crop, size)
    usable = np.ones(len(kept), bool)
    face = measure_person(
        model,
        in_crop(points[kept], crop, size),
        np.array([0, 0, size]),  # the frames are cut already
        (size, size),
        frames.__getitem__,
        usable,
        neutral_frames[kept],
    )
    track = model.track(in_crop(points[kept], crop), face, 1.0, usable, consecutive=False)
    face, shoulders = learn_context_motion(face, frames, track.motion.stacked().numpy(), usable)
    track = replace(track, shoulders=torch.from_numpy(shoulders))
    return PersonFrames(Renderer(model, face, size), np.stack(frames), track, emotion[kept])


def _cut_frames(clips: Sequence[TrackedClip], crop: np.ndarray, size: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames (size, size, 3) uint8 in which a face was found, and their numbers (n,) over all clips."""
    found = np.concatenate([clip.video.found for clip in clips])
    count = min(len(found), CLIP_FRAMES_MAX * min(len(clips), CLIPS_MAX))
    wanted = {int(index) for index in np.linspace(0, len(found) - 1, count)}
    frames, kept, first = [], [], 0
    for clip in clips:
        for index, frame in zip(range(first, first + len(clip)), read_frames(clip.row.path)):
            if index in wanted and found[index]:
                kept.append(index)
                frames.append(cut(frame, crop, size))
        first += len(clip)
    return frames, np.array(kept)


def _emotion(row: Row) -> np.ndarray:
    """(8,) the clip's label at its level; without one, neutral."""
    labelled = emotion_row(row)
    return np.eye(len(EMOTIONS))[0] if labelled is None else labelled.double().numpy()


def _thinned(person: PersonFrames, frames: int) -> PersonFrames:
    """At most so many of a person's frames, evenly spread."""
    chosen = np.linspace(0, len(person.frames) - 1, min(frames, len(person.frames))).astype(int)
    return PersonFrames(person.renderer, person.frames[chosen], person.track[torch.from_numpy(chosen)], person.emotion[chosen])
