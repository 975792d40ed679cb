"""How one person moves: measured in their clips, and kept by what is generated for them, in whatever pieces."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gmtalker.avatars.habits import HABITS_FILE, MANNERS, MOVING, HabitualMotion, MotionHabits, blink_shape, usual_habits
from gmtalker.avatars.motion import MotionAmounts, person_motion
from gmtalker.avatars.ready import load_avatar
from gmtalker.clock import FPS, MOTIONS
from gmtalker.errors import UnusableAvatar
from gmtalker.tracks import BLINK, MOTION_DIM, ROTATION, TRANSLATION, count_blinks
from personalize import benchmark_command, motion_benchmark
from personalize.__main__ import main
from personalize.habits import fit_habits, learn_habits, measure_habits, relearn_habits, slow_part
from tests.media import bundled_clip

MINUTE = 60 * FPS
CLIP = bundled_clip("preview.mp4")


def person(seconds: float = 60, yaw: float = 0.05, blinks: float = 40.0, seed: int = 0) -> np.ndarray:
    """(frames, 10) of somebody who sways slowly, trembles quickly, and blinks."""
    rng, frames = np.random.default_rng(seed), int(seconds * FPS)
    clock = np.arange(frames)[:, None] / FPS
    deviation = np.array([yaw, 0.04, 0.03, 0.05, 0.03, 0.02, 0, 0, 0.04, 0.02])
    slow = np.sqrt(2) * np.sin(2 * np.pi * (0.18 + 0.02 * rng.random(10)) * clock + 6.28 * rng.random(10))
    quick = np.sqrt(2) * np.sin(2 * np.pi * (1.5 + 0.5 * rng.random(10)) * clock + 6.28 * rng.random(10))
    motion = deviation * (0.8 * slow + 0.6 * quick)
    motion[:, 3] -= 0.9 * slow[:, 0] * 0.05  # the head shifts where it turns
    motion[:, BLINK] = 0.05
    for start in np.arange(10, frames - 10, MINUTE / blinks).astype(int):
        motion[start : start + 4, BLINK] = 0.95
    return motion


def generated(frames: int, seed: int = 0) -> torch.Tensor:
    """(frames, 10) as the motion generator's: narrow, quick, with lids that now and then would rather close."""
    rng = np.random.default_rng(seed)
    values = np.apply_along_axis(lambda row: np.convolve(row, np.ones(5) / 5, "same"), 0, rng.standard_normal((frames, 10)))
    lids = np.convolve(rng.random(frames) < 0.03, [0.2, 0.6, 0.6, 0.2], "same")
    values[:, BLINK] = 0.3 * lids[:, None]
    return torch.from_numpy(values).float()


def moved_by(habits: MotionHabits, frames: int, seed: int = 0, **options) -> tuple[np.ndarray, np.ndarray]:
    moved, closed = HabitualMotion(habits, seed, **options).push(generated(frames, seed))
    return moved.numpy(), closed.numpy()


@pytest.fixture(scope="module")
def habits() -> MotionHabits:
    return fit_habits(measure_habits([person()]), [generated(30 * FPS, seed) for seed in (5, 6)])


def test_habits_are_what_the_clips_show():
    motion = person()
    habits = measure_habits([motion])
    spread = motion[:, MOVING].std(0)
    slow = habits.posture.diagonal().sqrt().numpy()
    assert slow[:6] == pytest.approx(slow_part(motion[:, MOVING]).std(0)[:6], rel=0.05)
    assert slow[0] == pytest.approx(0.8 * 0.05, rel=0.15) and habits.quick[1] == pytest.approx(0.6 * 0.04, rel=0.15)
    assert habits.deviation[:6].numpy() == pytest.approx(spread[:6], rel=0.1)
    assert habits.blinks == pytest.approx(40, abs=2) and habits.blink_frames == pytest.approx(4, abs=0.2)
    assert habits.pace == pytest.approx(0.19, abs=0.03)
    step = np.abs(np.diff(motion[:, MOVING], axis=0)).max(0)
    assert (habits.largest_step[:6].numpy() <= step[:6] + 1e-4).all() and (habits.largest_step[:6].numpy() > 0.8 * step[:6]).all()
    turned = habits.posture[0, 3] / (slow[0] * slow[3])
    assert turned < -0.5  # the head's place follows its turn


def test_a_jump_over_a_frame_without_a_face_is_no_step():
    motion = person()
    motion[500:503, 0] += 1.0
    found = np.ones(len(motion), bool)
    found[499:504] = False
    assert measure_habits([motion], [found]).largest_step[0] < 0.1 < measure_habits([motion]).largest_step[0]


def test_the_posture_of_short_clips_is_what_turns_between_them_and_not_where_somebody_sat():
    rng = np.random.default_rng(1)
    clips = []
    for number in range(60):
        clip = person(3, yaw=0.01, seed=number)
        clip[:, ROTATION] += 0.05 * rng.standard_normal(3)
        clip[:, TRANSLATION] += 0.5 * rng.standard_normal(3)
        clips.append(clip)
    habits = measure_habits(clips)
    posture = habits.posture.diagonal().sqrt()
    assert posture[0] == pytest.approx(0.05, rel=0.3) and habits.quick[0] < 0.02
    assert posture[4] < 0.1 and posture[5] < 0.1
    assert habits.pace == pytest.approx(0.08, abs=0.05)  # so wide and slow within a clip
    habits = measure_habits([person(2), person(0.3)])  # too short for the filter
    assert habits.posture.isfinite().all()


def test_nobody_who_never_blinks_or_moves_breaks_it():
    still = np.zeros((50, MOTION_DIM))
    habits = fit_habits(measure_habits([still]), [generated(300)])
    moved, closed = moved_by(habits, 300)
    assert habits.blinks == 0 and not closed.any() and np.abs(moved).max() < 1e-3


def test_generated_heads_move_as_widely_as_the_person_and_no_faster(habits):
    for seed in range(10, 14):
        moved, closed = moved_by(habits, 40 * FPS, seed)
        ratio = moved.std(0) / habits.deviation.numpy()
        assert (ratio[:3] > 0.7).all() and (ratio[:3] < 1.4).all()
        assert (np.abs(np.diff(moved, axis=0)) <= habits.largest_step.numpy() + 1e-6).all()
        assert 0.7 < count_blinks(closed) / (40 / 60) / habits.blinks < 1.3
        assert set(np.unique(closed[[0, -1]])) <= {0.0} or len(np.unique(closed)) > 2
    slow = np.corrcoef(slow_part(moved).T)
    assert slow[0, 3] < -0.5  # turns and shifts together, as the person does


def test_the_generator_alone_would_have_moved_too_little(habits):
    alone = replace(habits, drawn=torch.zeros(len(MOVING)))
    narrow, wide = (moved_by(each, 40 * FPS, 3)[0] for each in (alone, habits))
    assert narrow[:, 0].std() < 0.75 * wide[:, 0].std()


@pytest.mark.parametrize("pieces", [[1] * 200, [7, 0, 93, 1, 99], [200]])
def test_any_pieces_give_the_same_movement(habits, pieces):
    values = generated(200)
    whole = HabitualMotion(habits, 4).push(values)
    stream = HabitualMotion(habits, 4)
    parts = [stream.push(part) for part in values.split(pieces)]
    assert torch.equal(torch.cat([moved for moved, _ in parts]), whole[0])
    assert torch.equal(torch.cat([closed for _, closed in parts]), whole[1])
    assert not torch.equal(HabitualMotion(habits, 5).push(values)[0], whole[0])


def test_the_state_of_a_stream_does_not_grow(habits):
    def numbers(thing: object) -> int:
        if isinstance(thing, np.ndarray):
            return thing.size
        if isinstance(thing, list):
            return len(thing)
        return sum(map(numbers, vars(thing).values())) if hasattr(thing, "__dict__") else 1

    stream = HabitualMotion(habits, 0)
    stream.push(generated(100))
    before = numbers(stream)
    stream.push(generated(5000))
    assert numbers(stream) <= before + 30  # a blink that is under way


def test_eyes_blink_whole_and_where_the_generator_would_close_them(habits):
    values = generated(10 * MINUTE)
    _, closed = HabitualMotion(habits, 1).push(values)
    closed = closed.numpy()
    starts = np.flatnonzero((closed[1:] > 0) & (closed[:-1] == 0)) + 1
    blinks = [closed[start : start + 12] for start in starts[:-1]]
    assert all(blink.max() == 1.0 for blink in blinks)
    assert np.mean([(blink > 0.5).sum() for blink in blinks]) == pytest.approx(habits.blink_frames, abs=0.7)
    assert np.diff(starts).min() > 2 * habits.blink_frames
    wish = values[:, BLINK.start].numpy()
    at_start = np.mean([wish[start - 1 : start + 2].max() for start in starts])
    assert at_start > 2 * np.mean([wish[start - 1 : start + 2].max() for start in range(20, len(wish) - 20)])


@pytest.mark.parametrize("lids", ["steady", "silent", "loud"])
@pytest.mark.parametrize("rate", [6.0, 20.0, 42.0])
def test_the_rate_is_the_persons_whatever_the_scale_of_the_generators_lids(habits, rate, lids):
    values = generated(10 * MINUTE)
    values[:, BLINK] = {"steady": torch.full((len(values), 2), 0.4), "silent": torch.zeros(len(values), 2)}.get(
        lids, 20 * values[:, BLINK]
    )
    _, closed = HabitualMotion(replace(habits, blinks=rate), 2).push(values)
    assert count_blinks(closed.numpy()) / 10 == pytest.approx(rate, rel=0.15)


def test_the_shape_of_a_blink_falls_faster_than_it_rises():
    for length in (2.0, 3.0, 6.5):
        shape = blink_shape(length)
        peak = shape.index(max(shape))
        assert max(shape) == 1.0 and min(shape) > 0 and peak < len(shape) - 1 - peak
        assert sum(value > 0.5 for value in shape) == pytest.approx(length, abs=1)


def test_still_lively_and_own_differ_in_the_head_and_not_in_the_blinks(habits):
    assert tuple(MANNERS) == MOTIONS
    spread, blinks = {}, {}
    for manner in MOTIONS:
        moved, closed = moved_by(habits, MINUTE, 8, manner=manner)
        spread[manner], blinks[manner] = moved[:, :3].std(0), closed
    assert spread["still"] == pytest.approx(0.2 * spread["own"], rel=0.2)
    assert (spread["lively"] > 1.4 * spread["own"]).all() and (spread["lively"] < 1.8 * spread["own"]).all()
    assert np.array_equal(blinks["still"], blinks["own"]) and np.array_equal(blinks["lively"], blinks["own"])
    with pytest.raises(ValueError, match="own, still, lively"):
        MotionAmounts(manner="wild")


def test_the_amount_of_blinking_is_how_often(habits):
    counts = [count_blinks(moved_by(habits, 4 * MINUTE, 1, blink=amount)[1]) for amount in (0.0, 0.5, 1.0, 1.5)]
    assert counts[0] == 0 and counts[1] == pytest.approx(0.5 * counts[2], rel=0.2) and counts[3] > 1.25 * counts[2]


def test_eyes_rest_and_jump(habits):
    quiet = replace(habits, gain=torch.zeros(8), posture=torch.diag(torch.tensor([0, 0, 0, 0, 0, 0, 0.03**2, 0.03**2])))
    moved, _ = moved_by(replace(quiet, largest_step=torch.full((8,), 0.2), saccades=30.0), MINUTE)
    step = np.abs(np.diff(moved[:, 6]))
    assert np.quantile(step, 0.6) < 0.01 * step.max() and moved[:, 6].std() > 0.015


def test_an_avatar_without_habits_moves_as_people_do_as_widely_as_its_person(tiny_avatar):
    avatar = load_avatar(tiny_avatar)
    assert avatar.motion_habits is None
    track = person_motion(avatar, generated(40 * FPS), seed=3)
    scale = avatar.face.motion_scale[ROTATION]
    ratio = track.rotation.std(0).numpy() / scale
    assert (ratio > 0.5).all() and (ratio < 1.6).all()
    assert usual_habits(avatar.face.motion_scale).deviation.numpy() == pytest.approx(avatar.face.motion_scale[MOVING], rel=1e-4)
    assert torch.linalg.eigvalsh(usual_habits(np.ones(10)).posture).min() > 0


def test_habits_are_saved_with_the_avatar_and_loaded_strictly(habits, tiny_avatar, home):
    folder = home / "avatars" / "tiny"
    habits.save(folder)
    avatar = load_avatar(tiny_avatar)
    assert torch.equal(avatar.motion_habits.posture, habits.posture) and avatar.motion_habits.blinks == pytest.approx(
        habits.blinks
    )
    first = person_motion(avatar, generated(50), seed=1).stacked()
    assert not torch.equal(first, person_motion(replace(avatar, motion_habits=None), generated(50), seed=1).stacked())
    tensors = load_file(str(folder / HABITS_FILE))
    for broken in (
        {name: tensor for name, tensor in tensors.items() if name != "pace"},
        tensors | {"mood": torch.zeros(1)},
        tensors | {"quick": torch.zeros(3)},
        tensors | {"gain": torch.full((8,), math.nan)},
        tensors | {"posture": torch.arange(64.0).reshape(8, 8)},
        tensors | {"blinks": torch.tensor(-1.0)},
    ):
        save_file(broken, str(folder / HABITS_FILE))
        with pytest.raises(UnusableAvatar):
            load_avatar(tiny_avatar)


def test_habits_of_a_finished_avatar_are_fitted_again_without_clips(habits, tiny_pipeline, tiny_avatar, home):
    folder = home / "avatars" / "tiny"
    features = torch.randn(250, tiny_pipeline.speech_encoder.feature_dim)
    learned = learn_habits([person()], [np.ones(MINUTE, bool)], features, tiny_pipeline)
    replace(learned, gain=torch.zeros(8)).save(folder)
    again = relearn_habits(folder, [], tiny_pipeline, lambda progress: None)
    assert (again.gain > 0).all() and torch.equal(again.posture, learned.posture)
    avatar = load_avatar(tiny_avatar)
    assert torch.equal(avatar.motion_habits.gain, again.gain)
    assert avatar.card["source"]["movement"]["blinks_a_minute"] == pytest.approx(habits.blinks, abs=0.1)


def test_a_head_is_its_persons_where_every_ratio_is_within():
    good = {"yaw": 0.8, "pitch": 1.3, "roll": 1.0, "blinks_a_minute": None, "largest_step": 0.9}
    assert motion_benchmark.is_own_movement(good)
    for name, value in {"yaw": 0.6, "roll": 1.5, "blinks_a_minute": 1.7, "largest_step": 1.1}.items():
        assert not motion_benchmark.is_own_movement(good | {name: value})
    motion = person()
    figures = motion_benchmark.movement_figures([motion, motion])
    assert figures["yaw"] == pytest.approx(math.degrees(motion[:, 0].std()), abs=0.01)
    assert figures["blinks_a_minute"] == pytest.approx(40, abs=2) and 0 < figures["largest_step"] < 5


def test_the_command_measures_each_persons_longest_clip_and_learns_from_its_first_part(tmp_path, tiny_pipeline, monkeypatch):
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(CLIP, tmp_path / name)
    lines = ["file,split,person,seconds,train_seconds", "one.mp4,test,ann,5,0", "two.mp4,train,bob,5,2", "two.mp4,train,eve,5,5"]
    (tmp_path / "MANIFEST.csv").write_text("\n".join(lines))
    output = tmp_path / "motion.json"
    asked = ["benchmark", "motion", "--data", str(tmp_path), "--json", str(output), "--people", "ann,bob"]
    monkeypatch.setattr(benchmark_command, "load_pipeline", lambda options: tiny_pipeline)
    assert main(asked) == 1  # five seconds are too few
    monkeypatch.setattr(motion_benchmark, "CLIP_SECONDS_MIN", 4.0)
    learned, learn = [], motion_benchmark.learn_habits
    monkeypatch.setattr(
        motion_benchmark, "learn_habits", lambda clips, *rest: learned.append(len(clips[0])) or learn(clips, *rest)
    )
    assert main(asked) == 0
    figures = json.loads(output.read_text())
    assert figures["people"] == 2 and {"ann", "bob"} <= set(figures) and "eve" not in figures
    assert learned == [int(0.7 * 125), 50]
    assert figures["ann"]["made_to_own"]["largest_step"] <= 1.0 and figures["ann"]["unseen"]["yaw"] > 0
