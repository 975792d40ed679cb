"""The speech encoder: its clock, its receptive field, its objective."""

import pytest
import torch

from gmtalker.models import speech_encoder
from gmtalker.models.mel import speech_to_mel
from gmtalker.models.speech_encoder import SpeechBatch, SpeechEncoder, augment

TINY = dict(
    num_mels=16, width=24, feature_dim=12, fine_dilations=(1, 2), coarse_dilations=(1, 2), num_phones=5, num_words=4, lip_dim=3,
    dropout=0.0,
)  # fmt: skip


def tiny(**changes):
    torch.manual_seed(0)
    return SpeechEncoder(**TINY | changes).eval()


def test_four_mel_frames_make_one_feature():
    assert tiny()(torch.randn(2, 40, 16)).shape == (2, 10, 12)
    with pytest.raises(ValueError, match="multiple of 4"):
        tiny()(torch.randn(1, 41, 16))


def test_level_does_not_matter():
    model, mel = tiny(), torch.randn(1, 40, 16)
    torch.testing.assert_close(model(mel * 2 + 5), model(mel), atol=5e-3, rtol=0)


def test_features_come_from_nearby_sound_only():
    model = SpeechEncoder().eval()
    mel = torch.randn(1, 400, 80, requires_grad=True)
    # The clip's own normalisation reaches everywhere by design, so the layers are looked at behind it.
    model.convolve(mel, torch.ones(1, 100, dtype=torch.bool))[0, 50].square().sum().backward()
    reached = mel.grad[0].abs().sum(1).nonzero()[:, 0]
    assert 25 <= 200 - int(reached.min()) <= 50 and 25 <= int(reached.max()) - 200 <= 50


def test_padding_changes_nothing():
    model, mel = tiny(), torch.randn(1, 40, 16)
    mask = torch.arange(15)[None] < 10
    padded = torch.cat([mel, torch.full((1, 20, 16), 9.0)], dim=1)
    torch.testing.assert_close(model(padded, mask)[:, :10], model(mel), atol=1e-4, rtol=1e-4)


def test_unknown_targets_cost_nothing():
    model = tiny()
    unknown = torch.full((2, 10), -1)
    batch = SpeechBatch(
        torch.randn(2, 40, 16),
        torch.ones(2, 10, dtype=torch.bool),
        phones=unknown,
        words=unknown,
        transcript=unknown[:, :3],
        lips=torch.randn(2, 10, 3),
        lips_mask=torch.zeros(2, 10, dtype=torch.bool),
    )
    assert model.loss(batch)["total"].item() == 0


def test_augmentation_changes_every_clip_and_stays_finite():
    mel = torch.randn(4, 40, 16)
    changed = augment(mel)
    assert changed.shape == mel.shape and torch.isfinite(changed).all()
    assert ((changed - mel).abs().amax((1, 2)) > 0.1).all()


def test_all_heads_learn():
    torch.manual_seed(1)
    model = tiny()  # in evaluation mode: augmentation moves the very bins that this toy's targets are read from
    mel = torch.randn(8, 40, 16).repeat_interleave(4, 1)[:, :80]
    heard = mel.unflatten(1, (20, 4)).mean(2)
    batch = SpeechBatch(
        mel,
        torch.ones(8, 20, dtype=torch.bool),
        phones=heard[..., :5].argmax(-1),
        words=heard[..., 5:9].argmax(-1),
        transcript=torch.tensor([[1, 2, 3, -1]]).repeat(8, 1),
        lips=heard[..., 9:12],
        lips_mask=torch.ones(8, 20, dtype=torch.bool),
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        losses.append(model.loss(batch))
        losses[-1]["total"].backward()
        optimizer.step()
    assert all(losses[-1][name].item() < 0.8 * losses[0][name].item() for name in losses[0])


def test_long_speech_is_encoded_piece_by_piece_as_in_one_go(monkeypatch):
    torch.manual_seed(0)
    model = SpeechEncoder(width=16, feature_dim=8).eval()  # as deep as the real one: as far does it reach
    waveform = torch.randn(16_000 * 6 + 123)
    whole = model(speech_to_mel(waveform)[None])[0]
    monkeypatch.setattr(speech_encoder, "ENCODE_FRAMES", 40)
    torch.testing.assert_close(model.encode(waveform), whole, atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(speech_encoder, "CONTEXT_FRAMES", 2)
    assert (model.encode(waveform) - whole).abs().max() > 1e-3  # it does need what is around


@pytest.mark.parametrize("level", [0.0, 1e-7])
def test_silence_is_encoded_as_numbers(level):
    torch.manual_seed(0)
    model = SpeechEncoder(width=16, feature_dim=8).eval()
    assert torch.isfinite(model.encode(torch.full((33_333,), level))).all()
