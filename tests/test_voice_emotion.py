"""Emotions heard in a voice: as a curve, as keys that can be edited, at the command line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmtalker.__main__ import hear_emotions
from gmtalker.assets import SPEECH
from gmtalker.clock import EMOTIONS
from gmtalker.emotion_of_voice import FAINT, TOLERANCE, emotion_weights, load_voice_emotion, timeline_of_voice
from gmtalker.media.audio import read_speech
from gmtalker.models.mel import log_mel
from gmtalker.models.voice_emotion import VoiceBatch, VoiceEmotion, voice_input
from gmtalker.pretrain.voice import SpokenEmotion, _Batches, unweighted_accuracy
from gmtalker.tracks import EmotionWeights


def test_loudness_of_the_microphone_says_nothing():
    sound = torch.from_numpy(read_speech(SPEECH))[:32000]
    first, second = (voice_input(log_mel(gain * sound)) for gain in (0.3, 1.0))
    loud = first > -1.5  # above the floor of the logarithm
    assert (first - second)[loud].abs().max() < 0.05 and first.max() < 3


def test_a_curve_has_an_answer_for_every_eight_mel_frames():
    torch.manual_seed(0)
    network = VoiceEmotion(channels=4, width=8).eval()
    for frames in (8, 50, 101, 400):
        curve = network.curve(torch.randn(frames, 80))
        assert curve.shape == (-(-frames // 8), len(EMOTIONS))
        assert torch.allclose(curve.sum(1), torch.ones(len(curve)), atol=1e-4) and curve.isfinite().all()


class Spoken(VoiceEmotion):
    """Says what it is told."""

    def __init__(self, curve: np.ndarray) -> None:
        super().__init__(channels=4, width=8)
        self.told = torch.from_numpy(curve).float()

    def curve(self, mel, window=25):
        return self.told


def test_keys_follow_the_curve_and_are_few():
    seconds = np.arange(100) / 12.5
    happy = np.clip(seconds - 2, 0, 1) * np.clip(7 - seconds, 0, 1) * 0.9
    curve = np.zeros((100, len(EMOTIONS)))
    curve[:, EMOTIONS.index("happy")], curve[:, 0] = happy, 1 - happy
    keys = timeline_of_voice(np.zeros(8 * 16000, np.float32), Spoken(curve))
    assert keys[0].time == 0 and 4 <= len(keys) <= 9
    weights = EmotionWeights.from_timeline(keys, 200).weights[:, EMOTIONS.index("happy")].numpy()
    wanted = np.interp(np.arange(200) / 25, seconds, emotion_weights(happy))
    assert np.abs(weights - wanted).max() <= TOLERANCE + FAINT


def test_a_calm_voice_has_one_key_without_emotion():
    curve = np.zeros((60, len(EMOTIONS)))
    curve[:, 0], curve[:, 1] = 0.95, 0.05
    (key,) = timeline_of_voice(np.zeros(5 * 16000, np.float32), Spoken(curve))
    assert key.time == 0 and not key.emotion


def test_the_bundled_network_hears_something_in_the_bundled_speech():
    keys = timeline_of_voice(read_speech(SPEECH))
    EmotionWeights.from_timeline(keys, 100)
    assert load_voice_emotion().config.num_emotions == len(EMOTIONS)
    assert hear_emotions(SPEECH) == keys


def test_training_tells_a_high_voice_from_a_low_one():
    rng = np.random.default_rng(0)

    def item(person: str, band: int, emotion: int) -> SpokenEmotion:
        mel = torch.from_numpy(rng.normal(-1.5, 0.2, (260, 80))).float()
        mel[:, band : band + 6] += 2
        return SpokenEmotion(person, mel, emotion)

    items = [item(f"p{k % 4}", 15 if k % 2 else 55, 1 if k % 2 else 5) for k in range(24)]
    torch.manual_seed(0)
    network, batches = VoiceEmotion(channels=4, width=8, dropout=0.0), _Batches(items, 0)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for step in range(25):
        batch = batches(step)
        assert isinstance(batch, VoiceBatch) and batch.mel.shape == (32, 240, 80)
        optimizer.zero_grad()
        network.loss(batch)["total"].backward()
        optimizer.step()
    assert unweighted_accuracy(network.eval(), items) == pytest.approx(1.0, abs=0.1)
