"""How a person shows an emotion: learned from labelled frames, added where that emotion is wanted, and not otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gmtalker.avatars.emotion_offsets import EmotionOffsets
from gmtalker.avatars.ready import load_avatar
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableAvatar
from gmtalker.models.articulation import CLOSED, ROUNDED, SPEAKING
from gmtalker.tracks import BLINK, EmotionWeights, ExpressionTrack, FaceTrack, MotionTrack
from personalize.emotion_offsets import OWN_SHARE, generic_offsets, learn_emotion_offsets

HAPPY = EMOTIONS.index("happy")


def test_offsets_are_what_the_generic_face_lacks(tiny_pipeline):
    generator = tiny_pipeline.expression_generator
    size = generator.config.coefficient_dim
    own = torch.randn(size, generator=torch.Generator().manual_seed(0))
    labels = np.repeat([0, HAPPY, -1, 6], [50, 50, 50, 10])
    coefficients = torch.zeros(160, size)
    coefficients[50:100] = own
    coefficients[100:] = 9.0  # neither what has no label nor what was shown too shortly counts
    motion = torch.zeros(160, 10)
    motion[:, BLINK] = torch.tensor([0.1, 0.4, 0.2, 0.9]).repeat_interleave(torch.tensor([50, 50, 50, 10]))[:, None]
    motion[50:100, 0], motion[50:100, 3] = 0.1, 0.3  # the head turned, and somebody who sat elsewhere
    track = FaceTrack(ExpressionTrack(coefficients), MotionTrack.unstacked(motion), torch.ones(160, dtype=torch.bool))
    features = torch.randn(40, generator.config.feature_dim, generator=torch.Generator().manual_seed(2))
    guard = tiny_pipeline.lip_guard
    offsets = learn_emotion_offsets(generator, track, labels, features, guard)
    spoken = generator.generate(features, generator.latent(torch.eye(8)[:1].expand(40, -1), 0, 0.0)).mean(0)
    neutral = OWN_SHARE * guard.closed(-spoken, torch.tensor(1.0))  # what neutral clips, all zeros, have beside it
    generic = generic_offsets(generator, generator.no_speech.detach().expand(100, -1))
    torch.testing.assert_close(offsets.expression[HAPPY], neutral + OWN_SHARE * (own - generic[HAPPY]))
    torch.testing.assert_close(offsets.expression[[0, 1, 2, 3, 4, 6, 7]], neutral.expand(7, -1))
    assert (neutral @ guard.measures.T)[:3].abs().max() < 1e-5  # the lips are the speech's
    assert offsets.motion[:, 7].tolist() == pytest.approx([-0.1, 0, 0, 0, 0, 0.2, 0, 0], abs=1e-6)
    assert offsets.motion[HAPPY].tolist() == pytest.approx([0.1, 0, 0, 0, 0, 0, 0.2, 0.2, 0, 0], abs=1e-6)
    assert learn_emotion_offsets(generator, track, np.full(160, -1), features, guard) is None
    usual = EmotionOffsets(torch.full((8, size), 2.0), torch.full((8, 10), 0.1))
    filled = learn_emotion_offsets(generator, track, labels, features, guard, usual)
    assert torch.equal(filled.expression[HAPPY], offsets.expression[HAPPY]) and torch.equal(
        filled.motion[HAPPY], offsets.motion[HAPPY]
    )
    torch.testing.assert_close(filled.expression[1], neutral + 2.0)
    assert filled.motion[1].tolist() == pytest.approx([0.1] * 10) and torch.equal(filled.motion[0], offsets.motion[0])
    assert learn_emotion_offsets(generator, track, np.full(160, -1), features, guard, usual) is usual
    assert learn_emotion_offsets(generator, track, np.zeros(160, int), features, guard) is None


def test_an_avatar_shows_its_offsets_in_that_emotion_alone(tiny_pipeline, home):
    folder = home / "avatars" / "tiny"
    features = torch.randn(30, tiny_pipeline.expression_generator.config.feature_dim, generator=torch.Generator().manual_seed(1))
    features[:, [CLOSED, ROUNDED, SPEAKING]] = torch.tensor([0.0, 0.0, 1.0])

    def said(emotion):
        return tiny_pipeline.expression(features, EmotionWeights.from_mapping(emotion), load_avatar("tiny")).coefficients

    before = {name: said({name: 1.0} if name else {}) for name in ("", "happy", "sad")}
    offsets = EmotionOffsets(torch.zeros(8, before[""].shape[1]), torch.zeros(8, 10))
    offsets.expression[HAPPY, -1], offsets.motion[HAPPY, BLINK], offsets.motion[HAPPY, 1] = 0.5, 0.3, 0.2
    offsets.save(folder)
    assert torch.equal(said({}), before[""]) and torch.equal(said({"sad": 1.0}), before["sad"])
    moved = (said({"happy": 1.0}) - before["happy"]).mean(0)
    assert moved.abs().argmax() == len(moved) - 1 and moved[-1] == pytest.approx(0.5, abs=0.15)  # the lip guard takes a little
    happy, neutral = (EmotionWeights.from_mapping(emotion) for emotion in ({"happy": 1.0}, {}))
    tracks = [tiny_pipeline.motion(features, load_avatar("tiny"), blink=0.0, weights=weights) for weights in (happy, neutral)]
    torch.testing.assert_close(tracks[0].blink, tracks[1].blink + 0.3)
    torch.testing.assert_close(tracks[0].rotation, tracks[1].rotation + torch.tensor([0.0, 0.2, 0.0]))
    EmotionOffsets(torch.zeros(8, 3), torch.zeros(8, 10)).save(folder)
    with pytest.raises(UnusableAvatar, match="another face model"):
        said({})


def test_files_of_older_versions_are_read_and_broken_ones_refused(tiny_avatar, home):
    folder = home / "avatars" / tiny_avatar
    assert load_avatar(tiny_avatar).emotion_offsets is None
    expression, lids = torch.randn(8, 40), torch.linspace(0, 0.7, 8)
    save_file({"expression": expression, "lids": lids}, str(folder / "moods.safetensors"))
    oldest = load_avatar(tiny_avatar).emotion_offsets
    assert torch.equal(oldest.motion[:, 6], lids) and torch.equal(oldest.motion[:, 7], lids)
    assert not oldest.motion[:, [0, 1, 2, 3, 4, 5, 8, 9]].any() and torch.equal(oldest.expression, expression)
    old = {"expression": expression, "motion": torch.randn(8, 10)}
    save_file(old, str(folder / "moods.safetensors"))
    loaded = load_avatar(tiny_avatar).emotion_offsets
    assert torch.equal(loaded.expression, expression) and torch.equal(loaded.motion, old["motion"])
    EmotionOffsets(2 * expression, torch.zeros(8, 10)).save(folder)  # written under the new name, which counts
    assert (folder / "emotion_offsets.safetensors").exists()
    assert torch.equal(load_avatar(tiny_avatar).emotion_offsets.expression, 2 * expression)
    for broken in ({"expression": torch.zeros(3, 3), "motion": torch.zeros(8, 10)}, {"motion": torch.zeros(8, 10)}):
        save_file(broken, str(folder / "emotion_offsets.safetensors"))
        with pytest.raises(UnusableAvatar, match="broken"):
            load_avatar(tiny_avatar)
    (folder / "emotion_offsets.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UnusableAvatar, match="broken"):
        load_avatar(tiny_avatar)
