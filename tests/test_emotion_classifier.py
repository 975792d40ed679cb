"""The judge sees an upright face, and its verdicts are counted as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gmtalker.measure.emotion_classifier as emotion_judge
from gmtalker.errors import UnusableInput
from gmtalker.measure.emotion_classifier import JUDGED, EmotionClassifier, emotion_accuracy
from gmtalker.media.video import read_frames
from tests.media import real_clip, write_wav


class Brightness(torch.nn.Module):
    """Calls a bright face happy, any other sad."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        bright = faces.mean((1, 2, 3)) > 0
        scores = torch.zeros(len(faces), 7)
        scores[:, 3], scores[:, 4] = bright.float(), (~bright).float()
        return scores


@pytest.fixture
def judge(tmp_path) -> EmotionClassifier:
    torch.jit.script(Brightness()).save(str(tmp_path / "judge.pt"))
    return EmotionClassifier(tmp_path / "judge.pt")


def test_a_real_face_is_seen_and_named(judge):
    frames = [frame for _, frame in zip(range(10), read_frames(real_clip("av/vrt2.mp4")))]
    assert judge.names([np.full_like(frame, 255) // 2 + frame // 2 for frame in frames]) == "happy"
    assert judge.names([frame // 3 for frame in frames]) == "sad"
    assert judge.names([np.zeros((96, 96, 3), np.uint8)] * 10) == ""


def test_accuracy_counts_what_was_asked_for(judge, tmp_path, monkeypatch):
    said = {"happy": "happy", "sad": "happy"}
    monkeypatch.setattr(judge, "names", lambda frames: frames if isinstance(frames, str) else "sad")

    def pipeline(waveform, avatar, emotion):
        return said.get(next(iter(emotion), "neutral"), "neutral")

    monkeypatch.setattr(emotion_judge, "read_frames", lambda path: [path])
    speech = write_wav(tmp_path / "s.wav", np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1)
    real = {tmp_path / "a.mp4": "sad", tmp_path / "b.mp4": "happy", tmp_path / "c.mp4": "contempt"}
    found = emotion_accuracy(judge, pipeline, None, speech, real)
    assert found["emotion_accuracy"] == round(2 / len(JUDGED), 3)  # neutral and happy
    assert found["emotion_accuracy_of_real_clips"] == 0.5 and "c.mp4 (contempt)" not in found["real_clips_named"]


def test_something_else_is_no_judge(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"no network")
    with pytest.raises(UnusableInput, match="no emotion classifier|not an emotion classifier"):
        EmotionClassifier(tmp_path / "x.pt")
