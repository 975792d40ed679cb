"""The head back in its footage: no seam, no jump, and the footage untouched around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmtalker.errors import UnusableAvatar
from gmtalker.media.full_frame import FEATHER, IDLE_FRAMES_MAX, IdleLoop, paste, write_idle_loop
from gmtalker.media.video_writer import VideoWriter


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
    write_idle_loop(tmp_path, tmp_path / "clip.mp4", 5, np.array([10.0, 5.0, 64.0]), shoulders)
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
    write_idle_loop(folder, folder / "clip.mp4", 0, np.array([60.0, 40.0, 120.0]), np.zeros((6, 4)))
    speech = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    performance = tiny_pipeline(speech, "tiny", full_frame=True)
    whole = list(performance)
    assert len(whole) == len(performance) and {frame.shape for frame in whole} == {(200, 240, 3)}
    head = next(iter(tiny_pipeline(speech, "tiny")))
    assert head.shape[0] == head.shape[1] != 200
