"""Do generated heads move as their people do? Habits learned from a part of each person's footage, without training a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmtalker.avatars.habits import MOVING, HabitualMotion, MotionHabits
from gmtalker.clock import FPS
from gmtalker.device import one_core
from gmtalker.errors import UnusableInput
from gmtalker.face.tracking import choose_crop, in_crop, measure_shape, track_points
from gmtalker.media.audio import read_sound_or_none
from gmtalker.media.video import read_info
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.pretrain.datasets import Row, read_rows
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.tracks import BLINK, MOTION_DIM, ROTATION, count_blinks
from personalize.habits import learn_habits

CLIP_SECONDS_MIN = 19.9  # of a clip that is measured: what heads do slowly does not show in a shorter one
LEARNED_SHARE = 0.7  # of a clip, from its beginning; of one that is split already, what may be trained on
SEEDS = range(100, 104)  # of the takes, other than those that the habits are fitted on
# A head moves as its person's where the ratios of generated to real figures lie between these.
WITHIN = {"yaw": (0.7, 1.4), "pitch": (0.7, 1.4), "roll": (0.7, 1.4), "blinks_a_minute": (0.6, 1.6), "largest_step": (0.0, 1.0)}


@dataclass(frozen=True)
class FilmedPerson:
    """A clip in two parts: the first is learned from, the second is unseen.

    motion: (frames, 10) MotionTrack.stacked().
    found: (frames,) bool.
    features: (frames, d) of the speech in it.
    learned: frames of the first part.
    """

    motion: np.ndarray
    found: np.ndarray
    features: Tensor
    learned: int


def measure_habitual_motion(
    data: Path, pipeline: GMTalkerPipeline, people: Sequence[str] = (), on_progress: OnProgress = ignore_progress
) -> dict[str, Any]:
    """Compare generated heads with the footage that their person's habits were learned from, and with its unseen rest.

    The longest clip of each person is taken. Nothing is trained.

    data: a folder with a MANIFEST.csv.
    people: who is measured; empty is everybody with a clip of CLIP_SECONDS_MIN.
    Returns: "people"; "within", the people by whose own footage every ratio lies in WITHIN; and by person "made", "own" and
        "unseen" (movement_figures of each), "made_to_own" and "made_to_unseen".
    Errors: UnusableInput when nobody has a clip that is long enough.
    Source: docs/method.md section 4, "Habits".
    """
    result: dict[str, Any] = {}
    for row in longest_clips(read_rows(data), people):
        on_progress(Progress(f"measuring {row.person}"))
        person = _film(row, pipeline)
        parts = slice(0, person.learned), slice(person.learned, None)
        speech = person.features[parts[0]]
        habits = learn_habits([person.motion[parts[0]]], [person.found[parts[0]]], speech, pipeline)
        made = movement_figures(generate_habitual(habits, person.features, pipeline))
        own, unseen = (movement_figures([person.motion[part]]) for part in parts)
        result[row.person] = {"made": made, "own": own, "unseen": unseen}
        result[row.person] |= {"made_to_own": _ratios(made, own), "made_to_unseen": _ratios(made, unseen)}
    if not result:
        raise UnusableInput(f"Nobody in {data} has a clip with speech of {CLIP_SECONDS_MIN:.0f} seconds.")
    within = [name for name, figures in result.items() if is_own_movement(figures["made_to_own"])]
    return {"people": len(result), "within": len(within)} | result


def longest_clips(rows: Sequence[Row], people: Sequence[str] = ()) -> list[Row]:
    """The longest clip of each person in which they are heard, by name; people: who is wanted, empty is everybody."""
    seconds: dict[str, tuple[float, Row]] = {}
    for row in rows:
        if row.is_video and row.speech and row.sync == "ok" and (row.person in people or not people):
            length = read_info(row.path).seconds
            if length >= CLIP_SECONDS_MIN and length > seconds.get(row.person, (0.0, row))[0]:
                seconds[row.person] = length, row
    return [row for _, (_, row) in sorted(seconds.items())]


def _film(row: Row, pipeline: GMTalkerPipeline) -> FilmedPerson:
    """Track a clip against the shape that the face has in the part that is learned from. Errors: UnusableInput."""
    video, sound = track_points(row.path), read_sound_or_none(row.heard_in)
    if sound is None:
        raise UnusableInput(f"{row.path.name} holds no sound.")
    features = pipeline.encode(sound).cpu()
    frames = min(len(features), len(video.points))
    learned = int(LEARNED_SHARE * frames)
    if 0 < row.train_seconds * FPS < frames - FPS:
        learned = int(row.train_seconds * FPS)
    points = in_crop(video.points[:frames], choose_crop(video.points[:learned], *video.source_size))
    found = video.found[:frames]
    shape = measure_shape(pipeline.face_model, points[:learned][found[:learned]])
    track = pipeline.face_model.track(points, shape, 1.0, found)
    return FilmedPerson(track.motion.stacked().numpy(), found, features[:frames], learned)


@torch.no_grad()
@one_core()
def generate_habitual(habits: MotionHabits, features: Tensor, pipeline: GMTalkerPipeline) -> list[np.ndarray]:
    """(frames, 10) of a head with these habits around a pose that looks straight ahead, for each of SEEDS seeds."""
    generator, made = pipeline.motion_generator, []
    for seed in SEEDS:
        normalised = generator.generate(features.to(pipeline.device), seed).float().cpu()
        moved, closed = HabitualMotion(habits, seed).push(normalised)
        values = np.zeros((len(moved), MOTION_DIM))
        values[:, MOVING], values[:, BLINK] = moved.numpy(), closed[:, None].numpy()
        made.append(values)
    return made


def movement_figures(motions: Sequence[np.ndarray]) -> dict[str, float]:
    """Standard deviation of yaw, pitch and roll and the largest step of any of them between two frames, in degrees, and blinks.

    motions: (frames, 10) takes or clips of one person; deviations are root mean squares over them.
    """
    degrees = [np.degrees(motion[:, ROTATION]) for motion in motions]
    deviation = np.sqrt(np.mean([turn.var(0) for turn in degrees], axis=0))
    blinks = sum(count_blinks(motion[:, BLINK].mean(1)) for motion in motions)
    figures = dict(zip(("yaw", "pitch", "roll"), map(float, deviation)))
    figures["largest_step"] = float(max(np.abs(np.diff(turn, axis=0)).max() for turn in degrees))
    figures["blinks_a_minute"] = 60 * FPS * blinks / sum(map(len, motions))
    return {name: round(value, 2) for name, value in figures.items()}


def _ratios(made: dict[str, float], real: dict[str, float]) -> dict[str, float | None]:
    return {name: round(value / real[name], 2) if real[name] else None for name, value in made.items()}


def is_own_movement(ratios: dict[str, float | None]) -> bool:
    """Whether every ratio of generated to real figures lies in WITHIN; what the person never did is not compared."""
    known = {name: value for name, value in ratios.items() if value is not None}
    return all(WITHIN[name][0] <= value <= WITHIN[name][1] for name, value in known.items())
