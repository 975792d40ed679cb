"""Measure how a person moves in their footage, and fit it to the motion generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.signal import butter, sosfiltfilt
from torch import Tensor

from gmtalker.assets import SPEECH
from gmtalker.avatars.avatar import read_avatar, save_card
from gmtalker.avatars.habits import BLINK_PAUSE, MOVING, TYPICAL, HabitualMotion, MotionHabits
from gmtalker.clock import FPS
from gmtalker.device import one_core
from gmtalker.errors import UnusableInput
from gmtalker.face.tracking import track_of_person, track_points
from gmtalker.media.audio import read_sound_or_none, read_speech
from gmtalker.models.motion_generator import MotionGenerator
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress
from gmtalker.tracks import BLINK, GAZE, ROTATION, TRANSLATION, count_blinks
from personalize.card import MOVEMENT

SLOW_HERTZ = 0.4  # what is slower is posture
FILTER_FRAMES_MIN = 13  # of a clip that the filter can be run over; a shorter one is one posture
PACE_RANGE = (0.08, 0.3)  # Hz: clips of a few seconds do not show what is slower
TURN_MAX = 0.15  # radians by which the mean pose of a clip counts: beyond, the camera stood elsewhere
STEP_QUANTILE = 0.999  # the largest steps but for one in a thousand, which is the tracker's
BLINK_FRAMES_RANGE = (1.5, 7.0)
SACCADE_STEP = math.radians(2.0)  # of the gaze between two frames, beyond which eyes jump
SACCADES_RANGE = (12.0, 90.0)  # a minute; the tracker misses most of the small ones
SHUT, AROUND_BLINK = 0.35, 3  # lids lower than this, and so many frames around: the iris is hidden, its place a guess
DEVIATION_MIN = 1e-5  # in the units of MotionTrack

SPEECH_FRAMES_MIN = 8 * FPS  # of the person's own, below which the generator is compared on the bundled speech
TAKES, TAKE_FRAMES = 3, 40 * FPS  # for which motion is generated, and compared with the person's
POSTURES = 4  # drawn for each of these takes
ROUNDS = 4  # of fitting
DRAWN_RANGE = (0.1, 1.6)
OWN_SLOW_MAX = 0.9  # of a person's posture that the generator may move by itself


@dataclass(frozen=True)
class Footprint:
    """The movement of one person's clips, one after another.

    values: (frames, 8) in MOVING, each clip where its person's other clips are.
    slow: (frames, 8) what of it is slower than SLOW_HERTZ.
    speed: (frames, 8) of slow, per second.
    steps: (n, 8) between neighbouring frames.
    """

    values: np.ndarray
    slow: np.ndarray
    speed: np.ndarray
    steps: np.ndarray


def measure_habits(clips: Sequence[np.ndarray], found: Sequence[np.ndarray] | None = None) -> MotionHabits:
    """Measure how somebody moves; fit_habits then fits it to the motion generator.

    clips: (frames, 10) MotionTrack.stacked() of each.
    found: (frames,) bool of each, where a face was found; None for everywhere.
    Source: docs/method.md section 2, "Habits".
    """
    found = [np.ones(len(clip), bool) for clip in clips] if found is None else found
    prints = _footprint(_in_one_place([_without_blinks(clip) for clip in clips]), found)
    quick = (prints.values - prints.slow).std(0) + DEVIATION_MIN
    posture = np.cov(prints.slow.T) + DEVIATION_MIN**2 * np.eye(len(MOVING))
    turning = (prints.speed[:, ROTATION].std(0) + 1e-9) / (2 * np.pi * np.sqrt(posture.diagonal()[ROTATION]))
    largest = np.quantile(np.abs(prints.steps), STEP_QUANTILE, axis=0) if len(prints.steps) else np.zeros(len(MOVING))
    rate, length = _blinks(clips)
    ones = torch.ones(len(MOVING))
    return MotionHabits(
        posture=torch.from_numpy(posture).float(),
        quick=torch.from_numpy(quick).float(),
        largest_step=torch.from_numpy(largest + DEVIATION_MIN).float(),
        pace=float(np.clip(np.exp(np.log(turning).mean()), *PACE_RANGE)),
        blinks=rate,
        blink_frames=length,
        saccades=_saccades(clips),
        gain=torch.from_numpy(quick).float(),
        drawn=ones,
    )


def _without_blinks(motion: np.ndarray) -> np.ndarray:
    """Motion (frames, 10) with the gaze interpolated where lids hide the iris."""
    hidden = _hidden(motion)
    if hidden.all() or not hidden.any():
        return motion
    motion, clock = motion.copy(), np.arange(len(motion))
    for column in range(GAZE.start, GAZE.stop):
        motion[hidden, column] = np.interp(clock[hidden], clock[~hidden], motion[~hidden, column])
    return motion


def _hidden(motion: np.ndarray) -> np.ndarray:
    """(frames,) bool: lids are down in motion (frames, 10), or were or will be within AROUND_BLINK frames."""
    around = np.ones(2 * AROUND_BLINK + 1)
    return np.convolve(motion[:, BLINK].mean(1) > SHUT, around, "full")[AROUND_BLINK:-AROUND_BLINK] > 0


def _in_one_place(clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Clips (frames, 10) as if their person had not sat elsewhere in each: what turned between them stays.

    Heads shift a little where they turn, as they do within clips.
    """
    if len(clips) == 1:
        return list(clips)
    means = np.stack([clip.mean(0) for clip in clips])
    centred = np.concatenate([clip - mean for clip, mean in zip(clips, means)])
    turned = np.clip((means - np.median(means, axis=0))[:, ROTATION], -TURN_MAX, TURN_MAX)
    shift = np.linalg.lstsq(centred[:, ROTATION], centred[:, TRANSLATION], rcond=None)[0]
    placed = []
    for clip, mean, turn in zip(clips, means, turned):
        offset = mean.copy()
        offset[ROTATION] = mean[ROTATION] - turn
        offset[TRANSLATION] = mean[TRANSLATION] - turn @ shift
        offset[GAZE] = 0
        placed.append(clip - offset)
    return placed


def _footprint(clips: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Footprint:
    values = [clip[:, MOVING] for clip in clips]
    slow = [slow_part(value) for value in values]
    speed = [np.gradient(value, axis=0) * FPS if len(value) > 1 else np.zeros_like(value) for value in slow]
    steps = [np.diff(value, axis=0)[use[1:] & use[:-1]] for value, use in zip(values, found)]
    use = np.concatenate(list(found))
    use = use if use.any() else ~use
    values, slow, speed = (np.concatenate(rows)[use] for rows in (values, slow, speed))
    return Footprint(values, slow, speed, np.concatenate(steps))


def slow_part(values: np.ndarray) -> np.ndarray:
    """What of values (frames, n) is slower than SLOW_HERTZ, without lag."""
    if len(values) < FILTER_FRAMES_MIN:
        return np.repeat(values.mean(0, keepdims=True), len(values), axis=0)
    slow: np.ndarray = sosfiltfilt(butter(2, SLOW_HERTZ, fs=FPS, output="sos"), values, axis=0)
    return slow


def _blinks(clips: Sequence[np.ndarray]) -> tuple[float, float]:
    """Blinks a minute, and frames for which lids are more than half closed in one, in clips (frames, 10)."""
    lids = [clip[:, BLINK].mean(1) for clip in clips]
    count = sum(map(count_blinks, lids))
    if not count:
        return 0.0, TYPICAL["blink_frames"]
    length = float(np.clip(sum((lid > 0.5).sum() for lid in lids) / count, *BLINK_FRAMES_RANGE))
    most = 60 * FPS / (2 * length + BLINK_PAUSE + 1)  # of whole ones
    return min(60 * FPS * count / sum(map(len, lids)), most), length


def _saccades(clips: Sequence[np.ndarray]) -> float:
    """Jumps of the eyes a minute in clips (frames, 10)."""
    count, frames = 0, 0
    for clip in clips:
        jump = np.hypot(*np.diff(clip[:, GAZE], axis=0).T) * ~_hidden(clip)[1:]
        count += int(((jump[1:-1] > SACCADE_STEP) & (jump[1:-1] >= jump[:-2]) & (jump[1:-1] > jump[2:])).sum())
        frames += int((~_hidden(clip)).sum())
    return float(np.clip(60 * FPS * count / max(frames, 1), *SACCADES_RANGE))


# --- Fitting -------------------------------------------------------------------------------------------------------------------


def learn_habits(
    clips: Sequence[np.ndarray], found: Sequence[np.ndarray], speech: Tensor, pipeline: GMTalkerPipeline
) -> MotionHabits:
    """Measure how somebody moves, and fit it to the pipeline's motion generator.

    clips: (frames, 10) MotionTrack.stacked() of each.
    found: (frames,) bool of each, where a face was found.
    speech: (frames, d) features of what is said in them; where that is short, the bundled speech is taken.
    """
    if len(speech) < SPEECH_FRAMES_MIN:
        speech = pipeline.encode(read_speech(SPEECH))
    return fit_habits(measure_habits(clips, found), generate_takes(pipeline.motion_generator, speech))


def relearn_habits(folder: Path, clips: Sequence[Path], pipeline: GMTalkerPipeline, on_progress: OnProgress) -> MotionHabits:
    """Measure the habits of a finished avatar on clips of its person, and write them into it.

    folder: of the avatar.
    clips: videos; without any, the habits it has are fitted to the generic stages as they are now.
    Errors: UnusableAvatar; UnusableVideo when a clip can't be read or shows no face; UnusableInput when there are neither clips
        nor habits.
    """
    avatar = read_avatar(folder)
    tracks, speeches = [], [torch.zeros(0, pipeline.speech_encoder.feature_dim)]
    for number, clip in enumerate(clips):
        on_progress(Progress(f"tracking {Path(clip).name}", number, len(clips)))
        tracks.append(track_of_person(track_points(clip), pipeline.face_model, avatar.face)[0])
        sound = read_sound_or_none(clip)
        if sound is not None and sum(map(len, speeches)) < TAKE_FRAMES:
            speeches.append(pipeline.encode(sound).cpu())
    on_progress(Progress(f"fitting the habits of {avatar.name}"))
    if tracks:
        rows = [track.motion.stacked().numpy() for track in tracks]
        habits = learn_habits(rows, [track.found.numpy() for track in tracks], torch.cat(speeches), pipeline)
    elif avatar.motion_habits is not None:
        habits = fit_habits(avatar.motion_habits, generate_takes(pipeline.motion_generator, pipeline.encode(read_speech(SPEECH))))
    else:
        raise UnusableInput(f"Nothing is known of how {avatar.name} moves; give clips of its person.")
    habits.save(folder)
    save_card(folder, avatar.card | {"source": avatar.card.get("source", {}) | {"movement": movement_of(habits)}})
    return habits


def movement_of(habits: MotionHabits) -> dict[str, float]:
    """What the card of an avatar says of its person's habits: deviations in degrees, blinks a minute."""
    figures = [*np.degrees(habits.deviation[ROTATION].numpy()), habits.blinks]
    return {name: round(float(value), 1) for name, value in zip(MOVEMENT, figures)}


@torch.no_grad()
@one_core()
def generate_takes(generator: MotionGenerator, features: Tensor) -> list[Tensor]:
    """(frames, 10) of the motion generator for the first TAKE_FRAMES of a speech, for each of TAKES seeds."""
    speech = features[:TAKE_FRAMES].to(generator.no_speech.device)
    return [generator.generate(speech, seed).float().cpu() for seed in range(TAKES)]


def fit_habits(habits: MotionHabits, takes: Sequence[Tensor]) -> MotionHabits:
    """Fit habits to the motion generator, so that head and eyes move as widely as the person's.

    The gain makes what is quick as wide as the person's; then what is drawn is scaled, in ROUNDS, until both together are.

    takes: as generate_takes gives them.
    Source: docs/method.md section 2, "Habits".
    """
    rows = [take.numpy()[:, MOVING] for take in takes]
    slow = [slow_part(row) for row in rows]
    moves_slowly = _deviation(slow)
    quick, own = habits.quick.numpy(), np.sqrt(habits.posture.diagonal().numpy())
    gain = quick / _deviation([row - part for row, part in zip(rows, slow)])
    gain = np.minimum(gain, OWN_SLOW_MAX * own / moves_slowly)
    drawn = np.sqrt(1 - np.square(gain * moves_slowly / own).clip(max=1))
    for _ in range(ROUNDS):
        habits = replace(habits, gain=torch.from_numpy(gain).float(), drawn=torch.from_numpy(drawn).float())
        made = [HabitualMotion(habits, seed).push(take)[0] for seed, take in enumerate(list(takes) * POSTURES)]
        drawn = np.clip(drawn * habits.deviation.numpy() / _deviation([part.numpy() for part in made]), *DRAWN_RANGE)
    return replace(habits, drawn=torch.from_numpy(drawn).float())


def _deviation(rows: Sequence[np.ndarray]) -> np.ndarray:
    """(8,) root mean square of rows (frames, 8) around each one's own mean; never 0."""
    return np.sqrt(np.mean([row.var(0) for row in rows], axis=0)) + 1e-6
