"""The head back in its footage: no seam, no jump, and the footage untouched around it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from gmtalker.errors import UnusableAvatar
from gmtalker.face.segmentation import person_segmentation
from gmtalker.media.full_frame import FEATHER, IDLE_FRAMES_MAX, IdleLoop, Stretch, paste, write_idle_loop
from gmtalker.media.video import read_frames
from gmtalker.media.video_writer import VideoWriter
from personalize.clean_footage import CleanFootage
from tests.media import bundled_clip


def test_a_flat_wall_shows_no_seam():
    picture = np.full((300, 400, 3), (90, 120, 150), np.uint8)
    drawn = np.full((128, 128, 3), (95, 121, 146), np.uint8)  # the same wall, a little warmer
    whole = paste(picture, drawn, np.array([100.0, 60.0, 160.0]))
    assert np.abs(whole.astype(int) - picture).max() <= 1


def test_the_footage_is_untouched_around_the_head_and_the_head_whole_inside():
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (300, 400, 3), np.uint8)
    drawn = np.full((128, 128, 3), 128, np.uint8)
    whole = paste(picture, drawn, np.array([100.0, 60.0, 128.0]))
    outside = np.ones((300, 400), bool)
    outside[60:188, 100:228] = False
    assert np.array_equal(whole[outside], picture[outside])
    rim = int(FEATHER * 128) + 1
    middle = whole[60 + rim : 188 - rim, 100 + rim : 228 - rim].astype(int)
    assert np.ptp(middle) <= 15 and abs(middle.mean() - 128) <= 12


def test_a_crop_that_reaches_over_the_border_is_drawn_up_to_it():
    picture, drawn = np.zeros((100, 120, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
    whole = paste(picture, drawn, np.array([-10.0, 30.0, 90.0]))
    assert whole[99, 0].min() > 180 and whole[60, 30].min() > 180 and not whole[20].any()


def test_the_loop_goes_to_and_fro_and_never_jumps(tmp_path):
    frames = [np.full((90, 120, 3), 10 * index, np.uint8) for index in range(20)]
    with VideoWriter(tmp_path / "clip.mp4", 120, 90) as writer:
        for frame in frames:
            writer.write(frame)
    shoulders = np.arange(32.0).reshape(8, 4)
    stretch, crop = Stretch(tmp_path / "clip.mp4", 5, 8, 20), np.array([10.0, 5.0, 64.0])
    write_idle_loop(tmp_path, stretch, crop, shoulders, None)
    with pytest.raises(UnusableAvatar, match="Camera or background move"):
        IdleLoop.load(tmp_path)
    write_idle_loop(tmp_path, stretch, crop, shoulders, iter(frames[5:13]))
    idle = IdleLoop.load(tmp_path)
    assert torch.equal(idle.shoulders, torch.from_numpy(shoulders).float()) and len(idle.pictures) == 8 <= IDLE_FRAMES_MAX
    assert abs(int(idle.picture(0).mean()) - 50) < 6 and abs(int(idle.picture(7).mean()) - 120) < 6
    places = idle.places(40)
    assert places[0] == 0 and places.max() == 7 and np.abs(np.diff(places)).max() == 1
    assert idle.around(np.zeros((64, 64, 3), np.uint8), 3).shape == (90, 120, 3)


def test_avatars_without_footage_say_so(tmp_path):
    with pytest.raises(UnusableAvatar, match="train it again"):
        IdleLoop.load(tmp_path)
    (tmp_path / "idle.safetensors").write_bytes(b"broken")
    with pytest.raises(UnusableAvatar, match="broken"):
        IdleLoop.load(tmp_path)


def test_a_performance_in_the_full_frame_has_the_footages_size(tiny_pipeline, home):
    folder = home / "avatars" / "tiny"
    with VideoWriter(folder / "clip.mp4", 240, 200) as writer:
        for index in range(6):
            writer.write(np.full((200, 240, 3), 80 + index, np.uint8))
    stretch = Stretch(folder / "clip.mp4", 0, 6, 6)
    write_idle_loop(folder, stretch, np.array([60.0, 40.0, 120.0]), np.zeros((6, 4)), None)
    track = load_file(folder / "idle.safetensors")
    save_file({name: track[name] for name in ("shoulders", "crop")}, folder / "idle.safetensors")  # as older versions did
    speech = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    performance = tiny_pipeline(speech, "tiny", full_frame=True)
    whole = list(performance)
    assert len(whole) == len(performance) and {frame.shape for frame in whole} == {(200, 240, 3)}
    head = next(iter(tiny_pipeline(speech, "tiny")))
    assert head.shape[0] == head.shape[1] != 200


# --- Without the head that was filmed ------------------------------------------------------------------------------------------


def filmed(folder: Path, moving: bool = False) -> tuple[Stretch, np.ndarray]:
    """A real person before a wall with a pattern, at twice the size of the crop; the pattern moves, or does not.

    Returns: all frames of the clip, and the wall's picture (height, width, 3).
    """
    rows, columns = np.mgrid[0:480, 0:640]
    wall = np.stack([90 + rows / 6, 120 + columns / 8, 100 + 30 * np.sin(columns / 60)], axis=-1).astype(np.uint8)
    with person_segmentation() as segment, VideoWriter(folder / "clip.mp4", 640, 480) as writer:
        for index, frame in enumerate(read_frames(bundled_clip("idle.mp4"))):
            size = frame.shape[:2]
            top, left = 480 - size[0], 140 + index // 2  # the person moves past what is behind
            picture = np.roll(wall, 9 * index, 1) if moving else wall.copy()
            share = segment(frame)[..., None] / 255
            place = picture[top:, left : left + size[1]]
            place[:] = (share * frame + (1 - share) * place).astype(np.uint8)
            writer.write(picture)
            if index == 49:
                break
    return Stretch(folder / "clip.mp4", 10, 25, 50), wall


def test_the_head_is_gone_and_the_wall_behind_it_there(tmp_path):
    stretch, wall = filmed(tmp_path)
    crop = np.array([150.0, 200.0, 280.0])
    cleaned = list(CleanFootage(stretch, crop, chin=420.0).frames())
    original = list(stretch.frames())
    assert len(cleaned) == len(original) == 25
    with person_segmentation() as segment:
        for before, after in zip(original[::8], cleaned[::8]):
            head = segment(before) > 128
            head[420:] = False
            assert head.sum() > 5000
            assert (segment(after)[:400] > 128).sum() < 0.02 * head.sum(), "nobody is left above the chin"
            # What was seen in other frames is the wall itself; the middle, which nobody ever saw, only looks like it.
            assert np.abs(after[:420].astype(int) - wall[:420]).mean(-1)[head[:420]].mean() < 25
            outside = cv2.dilate((segment(before) > 5).astype(np.uint8), np.ones((25, 25))) == 0
            assert np.abs(after.astype(int) - before)[outside].max() <= 1, "and all else is untouched"


def test_a_background_that_moves_can_not_be_known(tmp_path):
    stretch, _ = filmed(tmp_path, moving=True)
    assert CleanFootage(stretch, np.array([150.0, 200.0, 280.0]), chin=420.0).frames() is None


def test_only_the_person_is_laid_over_clean_footage():
    picture = np.full((300, 400, 3), 90, np.uint8)
    drawn = np.zeros((128, 128, 4), np.uint8)
    drawn[..., :3] = 200  # its own wall is another
    drawn[40:90, 40:90] = 60, 61, 62, 255
    whole = paste(picture, drawn, np.array([100.0, 60.0, 128.0]))
    assert np.array_equal(whole[60:95, 100:228], picture[60:95, 100:228]) and whole[120, 160].tolist() == [60, 61, 62]


def test_shoulders_are_joined_in_the_colour_of_the_footage():
    picture = np.full((300, 400, 3), 90, np.uint8)
    drawn = np.full((128, 128, 4), 255, np.uint8)
    drawn[..., :3] = 96  # a jacket that is a little too light
    whole = paste(picture, drawn, np.array([100.0, 60.0, 128.0]))
    assert np.abs(whole.astype(int) - 90).max() <= 1
