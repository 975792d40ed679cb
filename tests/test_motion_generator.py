"""NFMG: the flow against autograd, streaming against the full pass, and what generation must look like."""

from functools import partial

import pytest
import torch

from gmtalker.models.motion_generator import BLINK_GAIN, FlowStream, MotionBatch, MotionGenerator, TransformerFlow, _pooled
from gmtalker.tracks import BLINK, MOTION_DIM

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


def test_flow_latent_by_latent_is_the_flow_at_once(flow):
    z, condition = torch.randn(1, 20, 4).double(), torch.randn(1, 20, 3).double()  # many times the three that it reads back
    with torch.no_grad():
        whole, _ = flow(z, condition, torch.ones(1, 20, dtype=torch.bool))
        stream = FlowStream(flow)
        made = torch.stack([stream.step(*pair) for pair in zip(z.unbind(1), condition.unbind(1))], dim=1)
        torch.testing.assert_close(made, whole)
        stream.reset()
        torch.testing.assert_close(stream.step(z[:, 0], condition[:, 0]), whole[:, 0])


def test_flow_reads_no_later_latent(flow):
    z, condition, valid = torch.randn(1, 9, 4).double(), torch.randn(1, 9, 3).double(), torch.ones(1, 9, dtype=torch.bool)
    later = torch.arange(9)[:, None] >= 5
    for direction in (flow.forward, flow.inverse):
        first, second = (direction(*pair, valid)[0] for pair in ((z, condition), (z + later, condition + later)))
        torch.testing.assert_close(first[:, :5], second[:, :5])
        assert (first[:, 5] - second[:, 5]).abs().min() > 1e-3


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
    assert motion[:, BLINK].min() >= 0 and motion[:, BLINK].max() > 0
    torch.testing.assert_close(model.generate(speech, seed=1), motion, atol=0, rtol=0)
    assert not torch.allclose(model.generate(speech, seed=2), motion)
    torch.testing.assert_close(*(model.generate(speech, seed=seed, temperature=0.0) for seed in (1, 2)))
    assert model.generate(speech[:0], seed=1).shape == (0, MOTION_DIM)


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 6, 7, 61])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_speech_in_pieces_moves_the_head_as_the_whole_does(frames, ahead):
    model, speech = tiny(ahead=ahead), torch.randn(frames, 6)
    whole = model.generate(speech, seed=5)
    assert whole.shape == (frames, MOTION_DIM)
    for sizes in ([1] * frames, [frames], [3] * (frames // 3) + [frames % 3], [0, frames // 2, 0, frames - frames // 2]):
        stream = model.open(seed=5)
        pieces = [stream.push(piece) for piece in speech.split(sizes)]
        torch.testing.assert_close(torch.cat([*pieces, stream.finish()]), whole, atol=1e-5, rtol=1e-4)


def test_each_frame_waits_for_the_next_alone():
    model, speech = tiny(), torch.randn(40, 6)
    stream = model.open(seed=1)
    lengths = [len(stream.push(frame[None])) for frame in speech]
    assert lengths == [0] + [1] * 39 and len(stream.finish()) == 1
    changed = speech.clone()
    for frame in range(20, 24):  # every place within the four frames of a latent
        changed[frame:] += 1
        first, second = (model.generate(x, seed=1) for x in (speech, changed))
        torch.testing.assert_close(first[: frame - 1], second[: frame - 1], atol=1e-6, rtol=1e-5)
        assert not torch.allclose(first[frame - 1], second[frame - 1], atol=1e-4)
        changed = speech.clone()


def test_a_cleared_stream_is_as_new_and_a_long_one_does_not_grow():
    model, speech = tiny(), torch.randn(61, 6)
    stream = model.open(seed=2)
    stream.push(torch.randn(33, 6))
    stream.reset()
    first = torch.cat([stream.push(speech), stream.finish()])
    torch.testing.assert_close(first, model.generate(speech, seed=2), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat([stream.push(speech), stream.finish()]), first, atol=1e-5, rtol=1e-4)

    def held():
        layers = [*stream._flow._layers, *stream._decoder._layers]
        kept = [x for layer in layers for part in (layer, *vars(layer).values()) for x in getattr(part, "__dict__", {}).values()]
        return sum(x.numel() for x in [*kept, *vars(stream).values(), *vars(stream._decoder).values()] if torch.is_tensor(x))

    sizes = set()
    for _ in range(60):
        stream.push(torch.randn(4, 6))
        sizes.add(held())
    assert len(sizes) <= 3 and held() in sizes  # after the first pushes it stays


def test_the_training_pass_hears_what_generation_hears():
    """The pooled speech of each latent is the mean of the frames 4n - 2 to 4n + 1 that there are."""
    speech, mask = torch.randn(1, 12, 6), torch.arange(12)[None] < 9
    pooled = _pooled(speech, mask)[0]
    for latent, frames in enumerate((slice(0, 2), slice(2, 6), slice(6, 9))):
        torch.testing.assert_close(pooled[latent], speech[0, frames].mean(0))
    model = tiny()
    z = torch.randn(1, 3, 6)
    with torch.no_grad():
        conditions = model._conditions(z)
        expected = model.unfold(torch.cat([z[:, 1], z[:, 2]], dim=-1)).view(4, -1)
    torch.testing.assert_close(conditions[0, 8:], expected)


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
    torch.manual_seed(0)
    model = MotionGenerator(**TINY | {"latent_dim": 8, "flow_reach": 6, "window": 16}).train()
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
    assert float(motion.diff(dim=0)[:, :6].abs().quantile(0.99)) < 0.6  # and hardly ever in jumps, as from latent to latent
    assert BLINK_GAIN > 1


def test_heads_move_as_widely_as_the_data():
    model = tiny()
    speeches = [torch.randn(200, 6) for _ in range(3)]
    plain = [model._decoded(speech, seed) for seed, speech in enumerate(speeches)]
    model.fit_gain(speeches, [1.3 * motion for motion in plain])
    pose = [index for index in range(MOTION_DIM) if not BLINK.start <= index < BLINK.stop]
    assert model.gain[pose] == pytest.approx(1.3, rel=1e-4) and torch.all(model.gain[BLINK] == 1)
    made = model.generate(speeches[0], 0)
    torch.testing.assert_close(made[50:, pose], 1.3 * plain[0][50:, pose])
    torch.testing.assert_close(made[:, BLINK], plain[0][:, BLINK].clamp(min=0))  # lids are neither widened nor settled
    model.fit_gain(speeches, [0.5 * motion for motion in plain])
    assert torch.all(model.gain == 1)
