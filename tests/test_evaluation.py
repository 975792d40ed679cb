"""The measures measure what they say."""

from __future__ import annotations

import numpy as np
import pytest

from personalize.evaluation import landmark_distance, lip_opening, shifted_correlation


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
