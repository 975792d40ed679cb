"""The speech encoder: its clock and look-ahead, speech in pieces, loudness, and its objective."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import perturbed
from media import babble

from gmtalker.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from gmtalker.models import speech_encoder
from gmtalker.models.articulation import ARTICULATION_DIM
from gmtalker.models.mel import MEL_PER_FRAME, MEL_WINDOW, MELS, speech_to_mel
from gmtalker.models.speech_encoder import (
    IGNORED,
    LOOK_AHEAD_MEL,
    LOOK_AHEAD_SAMPLES,
    LOSS_WEIGHTS,
    UNSETTLED_FRAMES,
    SpeechBatch,
    SpeechEncoder,
)

TINY = {"width": 24, "content_dim": 12, "articulation_width": 16, "fine_dilations": (1, 2), "coarse_dilations": (1, 2)}
HEADS = {"teacher_dim": 6, "num_phones": 5, "lip_dim": 3}
PARTS = set(LOSS_WEIGHTS)


def tiny(**changes) -> SpeechEncoder:
    torch.manual_seed(0)
    return perturbed(SpeechEncoder(**TINY | changes), size=0.1)


def said(seconds: float, seed: int = 0) -> torch.Tensor:
    """Speech-like sound over a little noise."""
    sound = torch.from_numpy(babble(seconds, seed=seed))
    return sound + 0.003 * torch.randn(len(sound), generator=torch.Generator().manual_seed(seed))


def mel_of(frames: int, clips: int = 2, seed: int = 0) -> torch.Tensor:
    """Random log-mel of clips of so many frames."""
    shape = clips, MEL_PER_FRAME * frames + LOOK_AHEAD_MEL, MELS
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_pieces(encoder: SpeechEncoder, sound: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    stream = encoder.open()
    return torch.cat([*(stream.push(piece) for piece in sound.split(sizes)), stream.finish()])


# --- Clock and look-ahead ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [0, 1, 640, 641, 16_000, 33_333])
def test_every_40_ms_begun_have_a_row_whose_last_columns_are_probabilities(samples):
    encoder = tiny()
    features = encoder.encode(said(3)[:samples])
    assert features.shape == (-(-samples // SAMPLES_PER_FRAME), 12 + ARTICULATION_DIM) and encoder.feature_dim == 15
    assert torch.isfinite(features).all()
    articulation = features[:, -ARTICULATION_DIM:]
    assert ((articulation > 0) & (articulation < 1)).all()


def test_a_frame_hears_what_comes_up_to_152_5_ms_after_its_end_and_nothing_later():
    assert 1000 * LOOK_AHEAD_SAMPLES / SAMPLE_RATE == 152.5
    encoder, sound, frame = tiny(), said(3), 30
    edge = SAMPLES_PER_FRAME * (frame + 1) + LOOK_AHEAD_SAMPLES
    before = encoder.encode(sound)

    def changed(begin: int) -> torch.Tensor:
        other = sound.clone()
        other[begin:] = said(3, seed=5)[begin:] + 0.1
        return (encoder.encode(other) - before).abs().amax(1)

    assert changed(edge)[: frame + 1].max() == 0 < changed(edge)[frame + 1]
    assert changed(edge - MEL_WINDOW)[frame] > 1e-3 and changed(edge - MEL_WINDOW)[:frame].max() == 0


def test_the_real_encoder_hears_three_seconds_of_the_past():
    """As deep as the shipped one: what lies further back is forgotten, but for the loudness."""
    torch.manual_seed(0)
    encoder = SpeechEncoder(width=8, content_dim=8).eval()
    mel = (0.25 * mel_of(160, clips=1) - 3).requires_grad_()
    with torch.no_grad():
        mel[0, 0, 0] = 8.0  # a loud moment at the start sets the level for all that comes
    encoder(mel)[0, 150, 0].backward()
    reached = mel.grad[0, 1:].abs().sum(1).nonzero()[:, 0] + 1
    assert int(reached.max()) == MEL_PER_FRAME * 151 + LOOK_AHEAD_MEL - 1
    past = (MEL_PER_FRAME * 150 - int(reached.min())) / 100
    assert 2.5 < past < 3.5


def test_silence_is_encoded_as_numbers():
    for level in (0.0, 1e-7):
        assert torch.isfinite(tiny().encode(torch.full((33_333,), level))).all()


# --- Loudness ------------------------------------------------------------------------------------------------------------------


def test_the_loudness_of_a_recording_does_not_matter_until_it_is_next_to_nothing():
    """Speech in a room, 20 dB above its noise; in cleaner speech the quietest parts fall below what is heard at all."""
    encoder, clean = tiny(), said(3)
    noisy = clean / clean.abs().max() + 0.1 * torch.randn(len(clean), generator=torch.Generator().manual_seed(1))
    heard = slice(0, -10)  # the last frames hear the silence after the end
    typical = (encoder.encode(said(3, seed=9)) - encoder.encode(clean))[heard].square().mean().sqrt()

    def moved(sound: torch.Tensor, decibels: float) -> float:
        sound = sound / sound.abs().max()
        quiet = encoder.encode(sound * 10 ** (decibels / 20))
        return float((quiet - encoder.encode(sound))[heard].square().mean().sqrt() / typical)

    assert moved(noisy, -20) < 0.01 and moved(noisy, -30) < 0.1 and moved(clean, -20) < 0.2
    assert moved(noisy, -70) > 0.5  # noise that is as quiet as that is not to become speech


def test_a_loud_moment_lowers_what_comes_after_it_and_is_forgotten():
    encoder, sound = tiny(), said(12)
    loud = sound.clone()
    loud[16_000:17_600] *= 10
    moved = (encoder.encode(loud) - encoder.encode(sound)).abs().amax(1)
    assert moved[40] > 10 * moved[-25:].max()  # 20 dB have faded at 5 dB a second


# --- Pieces --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1600, 37, 640, 7001, 100_000])
def test_features_are_the_same_in_any_pieces(size):
    encoder, sound = tiny(), said(2)[:31_234]
    whole = encoder.encode(sound)
    sizes = [size] * (len(sound) // size) + [len(sound) % size]
    torch.testing.assert_close(in_pieces(encoder, sound, sizes), whole, atol=2e-5, rtol=1e-4)


def test_long_speech_is_encoded_piece_by_piece_as_in_one_go(monkeypatch):
    encoder, sound = tiny(), said(6)
    mel = speech_to_mel(sound, 0, MEL_PER_FRAME * 150 + LOOK_AHEAD_MEL)
    with torch.no_grad():
        whole = encoder(mel[None])[0]
    torch.testing.assert_close(encoder.encode(sound), whole, atol=2e-5, rtol=1e-4)
    monkeypatch.setattr(speech_encoder, "ENCODE_FRAMES", 40)
    torch.testing.assert_close(encoder.encode(sound), whole, atol=2e-5, rtol=1e-4)


def test_a_frame_is_given_as_soon_as_its_look_ahead_is_there():
    stream, sound = tiny().open(), said(2)
    assert len(stream.push(sound[: SAMPLES_PER_FRAME + LOOK_AHEAD_SAMPLES - 1])) == 0
    begin = SAMPLES_PER_FRAME + LOOK_AHEAD_SAMPLES - 1
    assert len(stream.push(sound[begin : begin + 1])) == 1
    assert len(stream.push(sound[begin + 1 : begin + SAMPLES_PER_FRAME])) == 0
    assert len(stream.push(sound[begin + SAMPLES_PER_FRAME : begin + 3 * SAMPLES_PER_FRAME])) == 2


def test_a_stream_that_was_finished_or_reset_begins_anew():
    encoder, sound = tiny(), said(1)
    stream = encoder.open()
    first = torch.cat([stream.push(sound), stream.finish()])
    stream.push(10 * said(1, seed=3))
    stream.reset()
    again = torch.cat([stream.push(sound), stream.finish()])
    assert torch.equal(again, first) and not again.requires_grad


def test_a_stream_does_not_grow():
    stream, sizes = tiny().open(), []
    for second in range(60):
        stream.push(said(1, seed=second % 3))
        kept = [stream._sound, stream._state.level, *stream._state.pasts]
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in kept))
    assert max(sizes[3:]) <= max(sizes[:3])


# --- Objective -----------------------------------------------------------------------------------------------------------------


def batch_of(clips: int = 2, frames: int = 30) -> SpeechBatch:
    """Clips with every target, which can all be read off the loudness of single bins."""
    mel = mel_of(frames, clips)
    steps = mel[:, LOOK_AHEAD_MEL:].unflatten(1, (frames, MEL_PER_FRAME))
    steps += 3 * torch.randn(clips, frames, 1, MELS, generator=torch.Generator().manual_seed(1))  # frames are heard apart
    heard = steps.mean(2)
    return SpeechBatch(
        mel,
        torch.ones(clips, frames, dtype=torch.bool),
        teacher=heard[..., :6] / 3,
        phones=heard[..., 10:15].argmax(-1),
        articulation=(heard[..., 20:23] > 0).float(),
        lips=heard[..., 30:33] / 3,
        lips_mask=torch.ones(clips, frames, dtype=torch.bool),
    )


def test_every_target_is_learned():
    model, batch = tiny(**HEADS).train(), batch_of(clips=4)
    optimizer, losses = torch.optim.AdamW(model.parameters(), 5e-3), []
    for _ in range(100):
        optimizer.zero_grad()
        losses.append(model.loss(batch))
        losses[-1]["total"].backward()
        optimizer.step()
    assert losses[0].keys() == PARTS | {"total"}
    assert {name: bool(losses[-1][name] < 0.85 * value) for name, value in losses[0].items()} == dict.fromkeys(losses[0], True)


def test_unknown_targets_cost_nothing():
    model, batch = tiny(**HEADS), batch_of()
    nowhere = torch.zeros_like(batch.mask)
    unknown = replace(
        batch,
        mask=nowhere,
        phones=torch.full_like(batch.phones, IGNORED),
        articulation=torch.full_like(batch.articulation, torch.nan),
        lips_mask=nowhere,
    )
    assert set(model.loss(unknown)) == PARTS | {"total"} and model.loss(unknown)["total"].item() == 0
    parts = model.loss(SpeechBatch(batch.mel, batch.mask, articulation=batch.articulation))
    assert parts.keys() == {"articulation", "total"} and parts["articulation"] > 0


def test_what_is_wrong_in_unknown_places_changes_no_loss():
    model, batch = tiny(**HEADS), batch_of()
    hidden = torch.zeros_like(batch.mask)
    hidden[:, 20:] = True
    masked = replace(
        batch,
        mask=batch.mask & ~hidden,
        lips_mask=batch.lips_mask & ~hidden,
        phones=batch.phones.masked_fill(hidden, IGNORED),
        articulation=batch.articulation.masked_fill(hidden[..., None], torch.nan),
    )
    wild = replace(
        masked,
        teacher=masked.teacher.masked_fill(hidden[..., None], 1e3),
        lips=masked.lips.masked_fill(hidden[..., None], 1e3),
    )
    before, after = model.loss(masked), model.loss(wild)
    assert {name: value.item() for name, value in after.items()} == {name: value.item() for name, value in before.items()}
    assert model.loss(replace(wild, mask=batch.mask))["teacher"] > 100  # it does matter where it is known


def test_frames_whose_past_is_cut_off_are_not_held_to_the_teacher():
    model, batch = tiny(**HEADS), batch_of()
    wild = batch.teacher.clone()
    wild[:, :UNSETTLED_FRAMES] += 1e3
    assert model.loss(replace(batch, teacher=wild))["teacher"] == model.loss(batch)["teacher"]
    wild[:, UNSETTLED_FRAMES] += 1e3
    assert model.loss(replace(batch, teacher=wild))["teacher"] > 100


def test_a_batch_with_too_little_sound_for_the_look_ahead_is_refused():
    with pytest.raises(AssertionError):
        SpeechBatch(torch.zeros(2, 40, MELS), torch.ones(2, 10, dtype=torch.bool))
