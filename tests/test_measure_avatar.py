"""The measures measure what they say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from gmtalker.assets import SPEECH
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.face.bending import FilmedFace, bend
from gmtalker.face.lips import lip_opening, shifted_correlation
from gmtalker.face.segmentation import person_segmentation
from gmtalker.face.tracking import cut
from gmtalker.measure.avatar import flicker, landmark_distance, sharpness
from gmtalker.measure.emotion_drawn import look_drawn, movement_drawn
from gmtalker.measure.outline import matte_measures
from gmtalker.measure.perceptual import PerceptualDistance
from gmtalker.media.audio import read_speech
from gmtalker.media.video import read_frames
from gmtalker.pipeline import GMTalkerPipeline
from tests.media import bundled_clip, write_wav


def test_correlation_finds_a_late_copy():
    real = np.convolve(np.random.default_rng(0).normal(size=200), np.ones(4), "same")
    late = np.roll(real, 2)
    values = {offset: shifted_correlation(late, real, offset) for offset in range(-5, 6)}
    assert max(values, key=values.get) == 2 and values[2] > 0.99 > values[0]


def test_a_still_mouth_correlates_with_nothing():
    assert shifted_correlation(np.ones(50), np.random.default_rng(0).normal(size=50), 0) == 0.0


def test_landmark_distance_ignores_where_the_region_is():
    real = np.random.default_rng(0).normal(size=(4, 478, 3))
    assert landmark_distance(real + [5, -3, 0], real, (1, 2, 3)) == pytest.approx(0, abs=1e-9)
    moved = real.copy()
    moved[:, 1, 0] += 3.0
    assert landmark_distance(moved, real, (1, 2, 3)) == pytest.approx((2 + 1 + 1) / 3)


def test_no_common_frame_is_infinitely_far():
    assert landmark_distance(np.zeros((0, 478, 3)), np.zeros((0, 478, 3)), (1,)) == float("inf")


def test_lip_opening_is_free_of_scale():
    points = np.random.default_rng(0).normal(size=(3, 478, 3))
    assert np.allclose(lip_opening(points), lip_opening(points * 7))


def test_blur_is_less_sharp_and_noise_flickers():
    random = np.random.default_rng(0)
    frames = [random.integers(0, 255, (64, 64, 3)).astype(np.uint8)] * 4
    points = np.zeros((4, 478, 3))
    points[:, :4, :2] = [[20, 20], [44, 20], [20, 40], [44, 40]]
    blurred = [cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in frames]
    assert sharpness(blurred, points, range(4)) < 0.2 * sharpness(frames, points, range(4))
    grey = [np.full((64, 64, 3), 100, np.uint8) + random.integers(0, 3, (64, 64, 3)).astype(np.uint8) for _ in range(6)]
    worse = [np.full((64, 64, 3), 100, np.uint8) + random.integers(0, 9, (64, 64, 3)).astype(np.uint8) for _ in range(6)]
    assert flicker(grey, grey) == pytest.approx(1.0) and flicker(grey, worse) > 4 and flicker(grey, [grey[0]] * 6) == 0


def test_movement_that_is_drawn_is_found_again(tmp_path):
    """Of pictures that are the reference bent to the track, landmarks find most of what is asked for."""
    pipeline = GMTalkerPipeline.from_pretrained()
    ready = pipeline.avatars.get(None)
    face = ready.avatar.face
    at_rest = np.zeros(pipeline.face_model.coefficient_dim)
    filmed = FilmedFace(ready.renderer.reference, at_rest, face.motion_mean.astype(float))

    def draw(track, avatar, weights):
        for row in track.expression.coefficients.double().numpy():
            yield bend(ready.renderer, filmed, row, filmed.motion)

    speech = write_wav(tmp_path / "speech.wav", read_speech(SPEECH)[:32000])
    pipeline.draw = draw
    drawn = movement_drawn(ready.avatar, pipeline, speech)
    assert set(drawn) == set(EMOTIONS[1:])
    assert np.mean([figures["share"] for figures in drawn.values()]) > 0.5
    assert np.mean([figures["correlation"] for figures in drawn.values()]) > 0.7
    pipeline.draw = lambda track, avatar, weights: iter([ready.renderer.reference] * len(track))
    still = movement_drawn(ready.avatar, pipeline, speech)
    assert all(abs(figures["share"]) < 0.1 for figures in still.values())


def test_the_look_of_a_clip_is_its_own(monkeypatch):
    """Redrawn as it was filmed, a clip has the look that it has; redrawn without a change, none."""
    pipeline = GMTalkerPipeline.from_pretrained()
    ready = pipeline.avatars.get(None)
    clip, calm = bundled_clip("preview.mp4"), bundled_clip("idle.mp4")
    frames = {path: list(read_frames(path)) for path in (clip, calm)}
    looked = iter([calm, clip])

    def draw(track, avatar, weights):
        path = next(looked)
        crop = avatar.face.crop if path == calm else np.array([0, 0, len(frames[path][0])])
        return iter([cut(frame, crop, 256) for frame in frames[path][::3]][: len(track)])

    monkeypatch.setattr(pipeline, "draw", draw)
    found = look_drawn(ready.avatar, pipeline, {clip: "happy"}, [calm])
    assert found["correlation"] > 0.95 and found["size"] == pytest.approx(1, abs=0.2)
    assert list(found["by_clip"]) == ["preview.mp4 (happy)"]


def test_a_matte_is_compared_with_the_segmentation():
    frames = [frame for frame, _ in zip(read_frames(bundled_clip("idle.mp4")), range(8))]
    with person_segmentation() as segment:
        taught = [segment(frame) for frame in frames]
    same = matte_measures(frames, taught)
    assert same == {"matte_iou": 1.0, "matte_flicker": pytest.approx(1.0)}
    cut = [matte.copy() for matte in taught]
    for index, matte in enumerate(cut):
        matte[: len(matte) // 2 + 8 * (index % 2)] = 0  # half of the person, and it jumps
    worse = matte_measures(frames, cut)
    assert worse["matte_iou"] < 0.9 and worse["matte_flicker"] > 2


def test_a_perceptual_distance_is_read_from_a_file(tmp_path):
    class Distance(torch.nn.Module):
        def forward(self, a, b):
            return (a - b).abs().mean((1, 2, 3))

    torch.jit.script(Distance()).save(str(tmp_path / "d.pt"))
    distance = PerceptualDistance(tmp_path / "d.pt")
    dark, light = np.zeros((20, 40, 40, 3), np.uint8), np.full((20, 40, 40, 3), 255, np.uint8)
    assert distance(dark, dark) == 0 and distance(dark, light) == pytest.approx(2)
    (tmp_path / "x.pt").write_bytes(b"none")
    with pytest.raises(UnusableInput, match="x.pt is not a perceptual distance"):
        PerceptualDistance(tmp_path / "x.pt")
