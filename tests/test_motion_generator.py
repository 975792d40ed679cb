"""NFMG: the flow against autograd, streaming against the full pass, and what generation must look like."""

from functools import partial

import numpy as np
import pytest
import torch

from gmtalker.models.motion_generator import BLINK_GAIN, MotionBatch, MotionGenerator, TransformerFlow
from gmtalker.tracks import BLINK, MOTION_DIM, count_blinks

TINY = dict(
    feature_dim=6, latent_dim=6, width=32, heads=2, encoder_layers=1, decoder_layers=1, flow_steps=3, flow_width=16, flow_reach=3,
    window=8, period=4, dropout=0.0,
)  # fmt: skip


def perturb(module, size=0.3):
    """A zero-initialised flow is the identity, on which a wrong inverse passes too."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * size)


def tiny(**changes):
    torch.manual_seed(0)
    model = MotionGenerator(**TINY | changes).eval()
    perturb(model.flow)
    return model


@pytest.fixture
def flow():
    torch.manual_seed(0)
    flow = TransformerFlow(channels=4, condition_dim=3, width=16, heads=2, steps=4, reach=3).double()
    perturb(flow)
    return flow


def test_flow_starts_as_the_flipped_identity():
    flow = TransformerFlow(channels=4, condition_dim=3, width=16, heads=2, steps=4, reach=3)
    z, valid = torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
    made, log_determinant = flow(z, torch.randn(2, 5, 3), valid)
    torch.testing.assert_close(made, z)
    assert not log_determinant.any()


def test_flow_inverts(flow):
    z, condition = torch.randn(2, 7, 4).double(), torch.randn(2, 7, 3).double()
    valid = torch.arange(7)[None] < torch.tensor([[7], [5]])
    made, forward = flow(z, condition, valid)
    assert (made - z).abs().max() > 0.1
    back, backward = flow.inverse(made, condition, valid)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(forward, -backward)
    assert not forward[1, 5:].any()


def test_flow_log_determinant_is_that_of_its_jacobian(flow):
    z, condition = torch.randn(1, 5, 4).double(), torch.randn(1, 5, 3).double()
    valid = torch.ones(1, 5, dtype=torch.bool)
    for direction in (flow.forward, flow.inverse):
        jacobian, _ = torch.autograd.functional.jacobian(partial(direction, condition=condition, valid=valid), z)
        expected = torch.linalg.slogdet(jacobian.reshape(20, 20)).logabsdet
        assert expected.abs() > 0.1
        torch.testing.assert_close(direction(z, condition, valid)[1].sum(), expected)


def test_prior_in_pieces_is_the_prior_in_one():
    model = tiny()
    speech = torch.randn(4 * 100 - 2, 6)  # 100 latents: several pieces of 2 * 3 * 3
    made = model.prior(speech, seed=3, temperature=0.7)
    noise = 0.7 * torch.randn(1, 100, 6, generator=torch.Generator().manual_seed(3))
    pooled = torch.cat([speech, torch.zeros(2, 6)]).unflatten(0, (100, 4)).mean(1)
    with torch.no_grad():
        whole, _ = model.flow(noise, model.listen(pooled)[None], torch.ones(1, 100, dtype=torch.bool))
    torch.testing.assert_close(made, whole[0], atol=1e-4, rtol=1e-4)


def test_stream_with_cache_is_the_full_pass():
    model = tiny()
    condition, speech = torch.randn(1, 300, 32), torch.randn(1, 300, 6)
    streamed = torch.stack(list(model.decoder.stream(condition, speech)), dim=1)
    with torch.no_grad():
        torch.testing.assert_close(streamed, model.decoder(streamed, condition, speech), atol=1e-4, rtol=1e-4)


def test_generation_starts_in_the_mean_pose_and_the_seed_decides():
    model, speech = tiny(), torch.randn(61, 6)
    motion = model.generate(speech, seed=1)
    assert motion.shape == (61, MOTION_DIM)
    still = [column for column in range(MOTION_DIM) if not 6 <= column < 8]
    assert motion[0, still].abs().max() == 0 < motion[30, still].abs().max()
    assert motion[:, BLINK].min() >= 0 and motion[:, BLINK].max() <= 1
    torch.testing.assert_close(model.generate(speech, seed=1), motion, atol=0, rtol=0)
    assert not torch.allclose(model.generate(speech, seed=2), motion)
    torch.testing.assert_close(*(model.generate(speech, seed=seed, temperature=0.0) for seed in (1, 2)))
    assert model.generate(speech[:0], seed=1).shape == (0, MOTION_DIM)


def test_scale_is_the_spread_around_each_persons_mean():
    model = tiny()
    motions = [torch.randn(500, MOTION_DIM) * 0.1 + person for person in range(3)]
    model.fit_scale(motions)
    torch.testing.assert_close(model.scale[:6], torch.full((6,), 0.1), atol=0.01, rtol=0)
    assert model.scale[BLINK].tolist() == [1, 1]
    mean = motions[1].mean(0)
    normalised = model.normalise(motions[1], mean)
    torch.testing.assert_close(normalised[:, BLINK], motions[1][:, BLINK])
    torch.testing.assert_close(model.restore(normalised, mean), motions[1])


def toy(clips, frames, generator):
    """A head that sways at its own pace and blinks."""
    time = torch.arange(frames)[None, :, None] / 25
    phase = torch.rand(clips, 1, MOTION_DIM, generator=generator) * 6.28
    motion = torch.sin(time * 3 + phase)
    motion[..., BLINK] = (motion[..., :1] > 0.9).float()
    return motion


def test_padding_costs_nothing():
    model = tiny()
    motion, speech = torch.randn(2, 20, MOTION_DIM), torch.randn(2, 20, 6)
    mask = (torch.arange(20) < 16).repeat(2, 1)
    heard = torch.ones(2, dtype=torch.bool)
    losses = []
    for padding in (0.0, 50.0):
        clips = [torch.where(mask[..., None], x, padding) for x in (motion, speech)]
        torch.manual_seed(3)
        losses.append(model.loss(MotionBatch(*clips, heard, mask))["total"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_it_learns_to_move_like_the_data():
    model = MotionGenerator(**TINY | {"latent_dim": 8, "flow_reach": 6, "window": 16}).train()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    heard, mask = torch.ones(16, dtype=torch.bool), torch.ones(16, 48, dtype=torch.bool)
    losses = []
    for _ in range(250):
        batch = MotionBatch(toy(16, 48, generator), torch.zeros(16, 48, 6), heard, mask)
        optimizer.zero_grad()
        total = model.loss(batch)["total"]
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(total.item())
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    motion = model.eval().generate(torch.zeros(200, 6), seed=0)[25:]
    assert 0.3 < float(motion[:, :6].std()) < 1.5  # neither frozen nor run away
    assert float(motion.diff(dim=0)[:, :6].abs().max()) < 1.0  # and without jumps
    assert BLINK_GAIN > 1


def test_eyes_shut_as_often_as_asked_and_wholly(monkeypatch):
    """Lids that hesitate: they come to a half, at random moments, and shut at those alone that pass the fitted threshold."""
    model, random = tiny(), np.random.default_rng(0)
    falls = {seed: np.convolve(random.random(3000) * (random.random(3000) < 0.02), [0.5, 1, 1, 0.5], "same") for seed in range(2)}

    def hesitating(speech, seed, temperature=1.0):
        for fall in falls[seed]:
            yield torch.tensor([0.0] * 6 + [fall] * 2 + [0.0] * 2)

    monkeypatch.setattr(model, "_unsettled", hesitating)
    speeches = [torch.zeros(3000, 6)] * 2
    for wanted in (8.0, 20.0):
        model.fit_blinks(speeches, wanted)
        lids = [model.generate(speech, seed)[:, BLINK] for seed, speech in enumerate(speeches)]
        blinks = sum(count_blinks(both.mean(1).numpy()) for both in lids) / (6000 / 25 / 60)
        assert blinks == pytest.approx(wanted, abs=1)
        assert torch.equal(lids[0][:, 0], lids[0][:, 1])
        assert ((lids[0] < 0.05) | (lids[0] > 0.95)).float().mean() > 0.97


def test_heads_move_as_widely_as_the_data():
    model = tiny()
    speeches = [torch.randn(200, 6) for _ in range(3)]
    plain = [torch.stack(list(model._unsettled(speech, seed))) for seed, speech in enumerate(speeches)]
    model.fit_gain(speeches, [1.3 * motion for motion in plain])
    pose = [index for index in range(MOTION_DIM) if not BLINK.start <= index < BLINK.stop]
    assert model.gain[pose] == pytest.approx(1.3, rel=1e-4) and torch.all(model.gain[BLINK] == 1)
    made = model.generate(speeches[0], 0)
    torch.testing.assert_close(made[50:, pose], 1.3 * plain[0][50:, pose])
    model.fit_gain(speeches, [0.5 * motion for motion in plain])
    assert torch.all(model.gain == 1)
