"""The emotion classifier sees an upright face, and what it names is counted as it is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gmtalker.measure.emotion_classifier as module
from gmtalker.errors import UnusableInput
from gmtalker.measure.emotion_classifier import CLASSES, Asked, EmotionClassifier, emotion_accuracy
from gmtalker.media.video import read_frames
from tests.media import bundled_clip, write_wav


class Brightness(torch.nn.Module):
    """Calls a bright face happy, any other sad."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        bright = faces.mean((1, 2, 3)) > 0
        scores = torch.zeros(len(faces), 7)
        scores[:, 3], scores[:, 4] = bright.float(), (~bright).float()
        return scores


@pytest.fixture
def classifier(tmp_path) -> EmotionClassifier:
    torch.jit.script(Brightness()).save(str(tmp_path / "classifier.pt"))
    return EmotionClassifier(tmp_path / "classifier.pt")


def test_a_real_face_is_found_and_classified(classifier):
    frames = [frame for _, frame in zip(range(10), read_frames(bundled_clip("idle.mp4")))]
    assert classifier.classify([np.full_like(frame, 255) // 2 + frame // 2 for frame in frames]) == "happy"
    assert classifier.classify([frame // 3 for frame in frames]) == "sad"
    assert classifier.classify([np.zeros((96, 96, 3), np.uint8)] * 10) == ""


def test_accuracy_counts_what_was_asked_for(classifier, tmp_path, monkeypatch):
    said = {"happy": "happy", "sad": "happy"}
    monkeypatch.setattr(classifier, "classify", lambda frames: "sad")
    monkeypatch.setattr(classifier, "name", lambda frames: frames)

    def pipeline(waveform, avatar, emotion, seed, intensity):
        name = said.get(next(iter(emotion), "neutral"), "neutral") if intensity and not seed else "neutral"
        return SimpleNamespace(every=lambda frames: name)

    monkeypatch.setattr(module, "read_frames", lambda path: [path])
    speech = write_wav(tmp_path / "s.wav", np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1)
    real = {tmp_path / "a.mp4": "sad", tmp_path / "b.mp4": "happy", tmp_path / "c.mp4": "contempt"}
    found = emotion_accuracy(classifier, pipeline, None, Asked([speech], (0, 1), (1.0, 0.0)), real)
    assert found["emotion_accuracy"] == round(1.5 / len(CLASSES), 3)  # neutral, and one take of happy
    assert found["emotions_named"]["happy"] == ["happy", "neutral"]
    assert found["emotions_at"]["0"]["emotion_accuracy"] == round(1 / len(CLASSES), 3)
    assert found["emotion_accuracy_of_real_clips"] == 0.5 and "c.mp4 (contempt)" not in found["real_clips_named"]


def test_another_file_is_no_classifier(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"no network")
    with pytest.raises(UnusableInput, match="not an emotion classifier"):
        EmotionClassifier(tmp_path / "x.pt")
