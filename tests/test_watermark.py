"""The invisible mark: not seen, found again after what people do to videos, and in nothing else."""

import cv2
import numpy as np
import pytest
from media import ffmpeg, real_clip

from gmtalker.media.video import read_frames
from gmtalker.media.video_writer import VideoWriter
from gmtalker.provenance.watermark import CODED, PAYLOAD, Watermark, _code, _levels, _tile, find_mark

ATTACKS = {
    "crf 28": ["-crf", "28"],
    "half": ["-vf", "scale=iw/2:ih/2"],
    "a tenth less, at the top left": ["-vf", "crop=iw*0.9:ih*0.9:iw*0.1:ih*0.1"],
    "a tenth less, around": ["-vf", "crop=iw*0.9:ih*0.9"],
    "a tenth less, at the sides": ["-vf", "crop=iw*0.9:ih"],
}


def scene(number: int, height: int = 256, width: int = 256, frames: int = 50) -> list[np.ndarray]:
    """Soft shapes, grain and a disc that moves: about as much detail as a portrait has."""
    random = np.random.default_rng(number)
    still = cv2.resize(random.uniform(40, 215, (9, 9, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    still += cv2.GaussianBlur(random.normal(0, 12, (height, width, 3)).astype(np.float32), (0, 0), 1.2) * 3
    pictures = []
    for index in range(frames):
        place = (width // 2 + round(8 * np.sin(index / 9)), height // 2 + round(5 * np.cos(index / 7)))
        pictures.append(cv2.circle(still.clip(0, 255).astype(np.uint8), place, height // 5, (190, 150, 130), -1))
    return pictures


def filmed(frames: list[np.ndarray], path):
    with VideoWriter(path, frames[0].shape[1], frames[0].shape[0]) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def payload(number: int) -> bytes:
    return np.random.default_rng(1000 + number).bytes(PAYLOAD)


def test_the_patterns_are_orthonormal_and_the_code_keeps_its_words_apart():
    patterns = np.stack([_tile(row).ravel() for row in np.eye(1 + 4 * CODED)])
    assert np.allclose(patterns @ patterns.T, np.eye(1 + 4 * CODED), atol=1e-4)
    picture = np.random.default_rng(0).normal(size=(64, 64))
    assert np.allclose(_levels(picture), patterns @ picture.ravel(), atol=1e-3)
    weights = (_code() < 0).sum(1)
    assert weights[0] == 0 and np.sort(weights)[1] >= 7


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_mark_survives(attack, tmp_path):
    mark = Watermark(payload(1))
    video = filmed([mark(frame) for frame in scene(1)], tmp_path / "marked.mp4")
    even = ["-vf", "scale=trunc(iw/2)*2:trunc(ih/2)*2"]
    changed = list(ATTACKS[attack])
    if "-vf" in changed:
        changed[changed.index("-vf") + 1] += "," + even[1]
    ffmpeg("-i", video, *changed, "-pix_fmt", "yuv420p", tmp_path / "changed.mp4")
    assert find_mark(read_frames(tmp_path / "changed.mp4")) == payload(1)


@pytest.mark.parametrize("size", [(512, 512), (300, 200), (480, 854)])
def test_any_size_holds_the_mark(size, tmp_path):
    mark = Watermark(payload(2))
    frames = [mark(frame) for frame in scene(2, *size, frames=25)]
    assert find_mark(read_frames(filmed(frames, tmp_path / "marked.mp4"))) == payload(2)


def test_the_picture_hardly_changes():
    frames, mark = scene(3), Watermark(payload(3))
    errors = [np.square(mark(frame).astype(float) - frame).mean() for frame in frames]
    assert 10 * np.log10(255**2 / np.mean(errors)) >= 40


def test_a_mark_that_is_still_does_not_flicker():
    frame, mark = scene(4)[0], Watermark(payload(4))
    marked = [mark(frame) for _ in range(20)]
    assert np.abs(np.diff(np.stack(marked[5:]).astype(int), axis=0)).max() <= 1


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert find_mark(scene(5)) is None and find_mark([]) is None
    assert find_mark([np.zeros((64, 64, 3), np.uint8)] * 3) is None


@pytest.mark.parametrize("name", ["av/wda60.mp4", "av/hyper4.mp4", "grid_s1/bbbm3a.mp4"])
def test_nothing_is_found_in_a_real_clip(name):
    assert find_mark(read_frames(real_clip(name))) is None


def test_a_payload_has_its_length():
    with pytest.raises(ValueError, match="5 bytes"):
        Watermark(b"longer than six")
