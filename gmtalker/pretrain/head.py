"""Pretraining of the head generator and the emotion mapping over many people: `pretrain head`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm

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
from gmtalker.pretrain.card import write_section
from gmtalker.pretrain.corpus import load_points
from gmtalker.pretrain.datasets import Row, source_of
from gmtalker.pretrain.samples import PretrainOptions, emotion_row, read_face_model
from gmtalker.progress import OnProgress, nobody_listens
from gmtalker.training.checkpoints import TrainState
from gmtalker.training.head import HeadHooks, HeadOptions, HeadTraining, sized, train_head
from gmtalker.training.head_data import PersonFrames
from gmtalker.training.head_losses import PixelWeights

SHARP = 0.8  # pixels of the footage that a pixel of the drawn head must have
FRAMES_A_CLIP = 160
HELD_OUT_CLIPS = 3  # people of whom no frame is trained on: how well does the start fit an unseen speaker
BATCH, GPU_BATCH = 4, 16


def pretrain_head(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = nobody_listens,
) -> Path:
    """Trains StyleUNet, EMN and their discriminator on every training clip; people in `leave_out` stay unseen speakers to them.

    size: pixels of a side that it draws; each size has a start of its own.
    """
    minutes, size, leave_out = options.minutes or 60.0, options.size, options.leave_out
    output = Path(output)
    model = read_face_model(output)
    rows = [row for row in rows if row.is_video and row.person not in leave_out]
    people = list(_film(rows, output / "corpus", model, size))
    if len(people) <= HELD_OUT_CLIPS:
        raise UnusableInput(f"The clips show {len(people)} people; pretraining a head needs more than {HELD_OUT_CLIPS}.")
    unseen_speakers = range(0, len(people), len(people) // HELD_OUT_CLIPS)[:HELD_OUT_CLIPS]
    held_out = [_thinned(people[index], 12) for index in unseen_speakers]
    people = [person for index, person in enumerate(people) if index not in unseen_speakers]
    torch.manual_seed(options.seed)
    networks = HeadGenerator(size, widths=WIDTHS[size]), EmotionMapping(), Discriminator()
    training = HeadTraining(*networks, PixelWeights(model), learning_rate=1e-3, average=0.998, device=options.device)
    head_options = HeadOptions(
        minutes,
        batch=BATCH if training.accelerator.device.type == "cpu" else GPU_BATCH,
        checkpoint=output / "checkpoints" / f"{sized('head', size)}.safetensors",
        augment=True,
        checkpoint_seconds=120,
        seed=options.seed,
    )
    state = train_head(training, people, held_out, head_options, HeadHooks(on_progress))
    generator, mapping = training.networks()
    discriminator = training.accelerator.unwrap_model(training.discriminator)
    for name, network in (("head_generator", generator), ("emotion_mapping", mapping), ("discriminator", discriminator)):
        save_half(network, output / sized(name, size))
    command = f"python -m gmtalker pretrain head {source_of(rows)} --output DIR --minutes {minutes:g}"
    command += f" --size {size}" if size != 256 else ""
    command += f" --leave-out {','.join(leave_out)}" if leave_out else ""
    figures = {"PSNR on frames of people never trained on, dB": round(state.curve[-1]["psnr"], 2)}
    count = sum(weight.numel() for network in (generator, mapping) for weight in network.parameters())
    write_section(output / "README.md", sized("head", size), command, TrainState(state.step, state.seconds), rows, figures, count)
    return output / sized("head_generator", size)


def _film(rows: Sequence[Row], cache: Path, model: FaceModel, size: int) -> Iterator[PersonFrames]:
    """Every clip with a face as a PersonFrames; a person's clips of one camera are measured together."""
    groups: dict[tuple, list] = {}
    for row in rows:
        points, found, source_size = load_points(row, cache)
        if found.mean() >= 0.9 and len(points) >= 25:
            groups.setdefault((row.person, tuple(source_size), row.kind), []).append((row, points, found))
    silent = None if sys.stderr.isatty() else True
    for (_, source_size, _), clips in tqdm(groups.items(), desc="filming", unit="person", disable=silent):
        every = np.concatenate([points for _, points, _ in clips])
        found = np.concatenate([found for _, _, found in clips])
        calm = np.concatenate([np.full(len(points), row.emotion == "neutral") for row, points, _ in clips])
        crop = choose_crop(every, *source_size)
        if crop[2] < SHARP * size:  # blown up, it would teach blur
            continue
        keep = {int(i) for i in np.linspace(0, len(every) - 1, min(len(every), FRAMES_A_CLIP * min(len(clips), 6)))}
        kept, frames, begin = [], [], 0
        for row, points, _ in clips:
            for index, frame in zip(range(len(points)), read_frames(row.path)):
                if begin + index in keep and found[begin + index]:
                    kept.append(begin + index)
                    frames.append(cut(frame, crop, size))
            begin += len(points)
        kept_array = np.array(kept)
        emotion = np.concatenate([np.repeat(_emotion(row)[None], len(points), 0) for row, points, _ in clips])[kept_array]
        whole = np.array([0, 0, size])  # the kept frames are already cut

        face = measure_person(
            model,
            in_crop(every[kept_array], crop, size),
            whole,
            (size, size),
            frames.__getitem__,
            np.ones(len(kept), bool),
            calm[kept_array],
        )
        track = model.track(in_crop(every[kept_array], crop), face, 1.0, np.ones(len(kept), bool), film=False)
        face, shoulders = learn_context_motion(face, frames, track.motion.stacked().numpy(), np.ones(len(frames), bool))
        track = replace(track, shoulders=torch.from_numpy(shoulders))
        yield PersonFrames(Renderer(model, face, size), np.stack(frames), track, emotion)


def _emotion(row: Row) -> np.ndarray:
    """(8,) the clip's label at its level; without one, neutral."""
    labelled = emotion_row(row)
    return np.eye(len(EMOTIONS))[0] if labelled is None else labelled.double().numpy()


def _thinned(person: PersonFrames, frames: int) -> PersonFrames:
    keep = np.linspace(0, len(person.frames) - 1, min(frames, len(person.frames))).astype(int)
    return PersonFrames(person.renderer, person.frames[keep], person.track[torch.from_numpy(keep)], person.emotion[keep])
