"""What is behind the person stays as still as it was filmed, and never comes over the person."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from gmtalker.avatars.avatar import read_avatar
from gmtalker.avatars.background import FILE, Background
from gmtalker.errors import UnusableAvatar
from gmtalker.models.head_generator import HeadGenerator
from gmtalker.models.weights import save_half
from gmtalker.tracks import EmotionWeights
from personalize.clean_footage import still_background

SIZE = 64


def wall(size: int = SIZE, known: bool = True) -> Background:
    picture = np.full((size, size, 4), 255 if known else 0, np.uint8)
    picture[..., :3] = 30, 60, 90
    return Background(picture)


def somebody(count: int = 3) -> np.ndarray:
    """Frames that flicker, with a person in the middle."""
    frames = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 4), np.uint8)
    frames[..., 3] = 0
    frames[:, 24:, 24:40, 3] = 255
    return frames


def test_far_from_the_person_it_is_the_picture_and_at_the_person_what_was_drawn():
    frames = somebody()
    laid = wall().behind(frames)
    assert laid.shape == frames.shape and np.array_equal(laid[..., 3], frames[..., 3])
    assert np.abs(laid[:, 22:, 22:42, :3].astype(int) - frames[:, 22:, 22:42, :3]).max() <= 1
    assert np.abs(laid[:, :10, :10, :3].astype(int) - [30, 60, 90]).max() <= 1
    assert not np.diff(laid[:, :10, :10, :3].astype(int), axis=0).any(), "nothing flickers there"


def test_where_it_is_not_known_the_picture_stays_as_it_was_drawn():
    frames = somebody()
    assert np.abs(wall(known=False).behind(frames).astype(int) - frames).max() <= 1


def test_it_is_kept_in_the_avatars_folder(tmp_path):
    assert Background.load(tmp_path, SIZE) is None
    wall().save(tmp_path)
    assert np.array_equal(Background.load(tmp_path, SIZE).picture, wall().picture)
    for broken in (lambda: wall(32).save(tmp_path), lambda: (tmp_path / FILE).write_bytes(b"no picture")):
        broken()
        with pytest.raises(UnusableAvatar, match="background of this avatar"):
            Background.load(tmp_path, SIZE)


def test_an_avatar_with_one_is_drawn_before_it(avatar_folder, tiny_pipeline, home):
    config = {"size": SIZE, "style_dim": 8, "widths": (8, 8, 8), "has_matte": True}
    network = HeadGenerator(**config)
    for level in network.levels:  # nobody anywhere
        level.to_matte.weight.data.zero_()
        level.to_matte.bias.data[:] = torch.tensor([-8.0, 0, 0, 0])
    folder = home / "avatars" / "tiny"
    save_half(network, folder / "head_generator")
    wall().save(folder)
    avatar = read_avatar(folder)
    still = tiny_pipeline.still(avatar)
    assert avatar.has_matte and np.abs(still.astype(int) - [30, 60, 90]).max() <= 1
    speech = np.zeros(3200, np.float32)
    performance = tiny_pipeline(speech, avatar)
    weights = EmotionWeights(performance.weights.at(len(performance)))
    assert next(tiny_pipeline.draw(performance.track, avatar, weights, matte=True)).shape == (SIZE, SIZE, 4)


def test_it_is_what_most_frames_show_behind_the_person():
    rows, columns = np.mgrid[:SIZE, :SIZE]
    behind = np.stack([rows * 3, columns * 3, 90 + 0 * rows], axis=-1).astype(np.uint8)
    frames, mattes = [], {}
    for index in range(30):
        matte = np.zeros((SIZE, SIZE), np.uint8)
        matte[20:, 20 + index % 3 : 40 + index % 3] = 255
        frame = behind.copy()
        frame[matte > 0] = 250
        frame[0:5, 0:5] = np.random.default_rng(index).integers(0, 6)  # a little noise
        frames.append(frame)
        mattes[index] = matte
    found = still_background(frames, mattes).picture
    known = found[..., 3] > 0
    assert not known[30, 30] and known[5, 60] and known[40, 50]
    apart = np.abs(found[..., :3].astype(int) - behind)
    apart[0:5, 0:5] = 0
    assert apart[known].max() <= 1
    moving = [np.roll(frame, 5 * index, 1) for index, frame in enumerate(frames)]
    assert still_background(moving, mattes) is None


def test_a_picture_that_would_unfold_to_gigabytes_is_not_read(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / FILE), np.zeros((3000, 3000, 4), np.uint8))
    monkeypatch.setattr(cv2, "imread", lambda *_: pytest.fail("read"))
    with pytest.raises(UnusableAvatar):
        Background.load(tmp_path, SIZE)
