"""GMEG: masks, cache, mixture, and that free-running generation follows the speech."""

import pytest
import torch
from peft import LoraConfig

from gmtalker.clock import EMOTIONS
from gmtalker.models.expression_generator import ACCENT_FRAMES, ExpressionBatch, ExpressionGenerator, accent_windows

TINY = dict(
    coefficient_dim=4, feature_dim=6, style_dim=5, width=32, heads=2, encoder_layers=1, decoder_layers=2, z_dim=6, w_dim=3,
    window=8, period=4, dropout=0.0,
)  # fmt: skip


def tiny(**changes):
    torch.manual_seed(0)
    model = ExpressionGenerator(**TINY | changes).eval()
    with torch.no_grad():  # biases start at zero, where a wrong one would not show
        for layer in model.decoder.layers:
            layer.bias.table.normal_()
    return model


def rows(emotion, frames):
    return torch.eye(len(EMOTIONS))[EMOTIONS.index(emotion)].repeat(frames, 1)


def batch_of(expression, speech, emotion=None, labelled=None, **others):
    clips, frames = expression.shape[:2]
    emotion = torch.zeros(clips, dtype=torch.long) if emotion is None else emotion
    values = dict(
        expression=expression,
        speech=speech,
        speech_mask=torch.ones(clips, dtype=torch.bool),
        mask=torch.ones(clips, frames, dtype=torch.bool),
        emotion=torch.eye(8)[emotion],
        labelled=torch.zeros(clips, dtype=torch.bool) if labelled is None else labelled,
    )
    return ExpressionBatch(**values | others)


def test_stream_with_cache_is_the_full_pass():
    model = tiny()
    frames = 300  # more than the streaming chunk and many windows
    speech, z = torch.randn(frames, 6), torch.randn(frames, 6)
    model.style = torch.randn(5)
    streamed = model.generate(speech, z)
    with torch.no_grad():
        condition = model._condition(z[None], model.style[None])
        full = model.decoder(streamed[None], condition, speech[None])[0]
    torch.testing.assert_close(streamed, full, atol=1e-4, rtol=1e-4)


def in_pieces(stream, speech, z, sizes):
    pieces = [stream.push(*pair) for pair in zip(speech.split(sizes), z.split(sizes, dim=1))]
    return torch.cat([*pieces, stream.finish()], dim=1)


@pytest.mark.parametrize("back, ahead", [(4, 1), (2, 2), (0, 1), (3, 5)])
def test_speech_in_pieces_gives_the_frames_of_the_whole(back, ahead):
    model = tiny(back=back, ahead=ahead)
    model.accent, model.style = torch.nn.Linear(ACCENT_FRAMES * 6, 4), torch.randn(5)
    speech, z = torch.randn(40, 6), torch.randn(2, 40, 6)
    whole = torch.stack(list(model.stream_conditions(speech, z)), dim=1)
    with torch.no_grad():
        fed_back = whole - model.accent(accent_windows(torch.cat([speech[:1], speech[:1], speech, speech[-1:]])))
        decoded = model.decoder(fed_back, model._condition(z, model.style.expand(2, -1)), speech.expand(2, -1, -1))
    torch.testing.assert_close(fed_back, decoded, atol=1e-4, rtol=1e-4)
    for sizes in ([1] * 40, [40], [7] * 5 + [5], [0, 19, 0, 21]):
        made = in_pieces(model.open(conditions=2), speech, z, sizes)
        torch.testing.assert_close(made, whole, atol=1e-5, rtol=1e-4)


def test_a_frame_comes_as_soon_as_the_speech_ahead_of_it_is_there():
    stream = tiny(ahead=1).open()
    lengths = [stream.push(torch.randn(1, 6), torch.randn(1, 1, 6)).shape[1] for _ in range(5)]
    assert lengths == [0, 1, 1, 1, 1] and stream.finish().shape == (1, 1, 4)
    with pytest.raises(ValueError, match="3 frames and z 2"):
        stream.push(torch.randn(3, 6), torch.randn(1, 2, 6))


def test_a_cleared_stream_is_as_new_and_a_long_one_does_not_grow():
    model = tiny()
    speech, z = torch.randn(20, 6), torch.randn(1, 20, 6)
    stream, whole = model.open(), model.generate(speech, z[0])
    stream.push(torch.randn(33, 6), torch.randn(1, 33, 6))
    stream.reset()
    for _ in range(2):  # finish leaves it as new too
        torch.testing.assert_close(in_pieces(stream, speech, z, 3)[0], whole, atol=1e-5, rtol=1e-4)
    heard = []
    for _ in range(50):
        stream.push(torch.randn(3, 6), torch.randn(1, 3, 6))
        heard.append(stream._decoder._layers[0].speech.heard.shape[2])
        assert stream._decoder._layers[0].past.ring.shape[3] == TINY["window"] and stream._decoder._waiting.shape[1] == 1
    assert max(heard) == heard[-1] == 4 + 3 + 1  # back, the piece and the frame that waits


def test_a_stream_in_half_precision_is_near_the_whole_one():
    """Training on a GPU generates under autocast."""
    model = tiny()
    speech, z = torch.randn(12, 6), torch.randn(12, 6)
    whole = model.generate(speech, z)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.generate(speech, z).float(), whole, atol=0.05, rtol=0.05)


def test_a_stream_reads_a_lora_as_the_layers_do():
    model = tiny()
    layers = [name for name, layer in model.named_modules() if name.startswith("decoder.") and isinstance(layer, torch.nn.Linear)]
    speech, z = torch.randn(30, 6), torch.randn(1, 30, 6)
    plain = model.generate(speech, z[0])
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=layers))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.2)
        made = model.generate(speech, z[0])
        full = model.decoder(made[None], model._condition(z, None), speech[None])[0]
    torch.testing.assert_close(made, full, atol=1e-4, rtol=1e-4)
    assert (made - plain).abs().max() > 0.1


def test_future_frames_are_hidden():
    model = tiny()
    frames, speech = torch.randn(1, 20, 4), torch.randn(1, 20, 6)
    condition = torch.randn(1, 20, 32)
    changed = frames.clone()
    changed[:, 9] += 10
    with torch.no_grad():
        first, second = (model.decoder(x, condition, speech) for x in (frames, changed))
    torch.testing.assert_close(first[:, :10], second[:, :10])
    assert (first[:, 10] - second[:, 10]).abs().max() > 1e-3


def test_each_frame_hears_only_its_own_speech():
    model = tiny()
    frames, condition = torch.randn(1, 20, 4), torch.randn(1, 20, 32)
    speech = torch.randn(1, 20, 6, requires_grad=True)
    model.decoder(frames, condition, speech)[0, 10].square().sum().backward()
    heard = speech.grad[0].abs().sum(1).nonzero()[:, 0].tolist()
    # Two decoder layers: the past frames that frame 10 reads in the second have heard their own windows in the first.
    assert max(heard) == 11
    single = tiny(decoder_layers=1)
    speech.grad = None
    single.decoder(frames, condition, speech)[0, 10].square().sum().backward()
    assert speech.grad[0].abs().sum(1).nonzero()[:, 0].tolist() == [6, 7, 8, 9, 10, 11]


def test_padding_changes_nothing():
    model = tiny()
    expression, speech = torch.randn(1, 12, 4), torch.randn(1, 12, 6)
    mask = torch.arange(16)[None] < 12
    longer = [torch.cat([x, torch.full((1, 4, x.shape[2]), 7.0)], dim=1) for x in (expression, speech)]
    condition = torch.zeros(1, 1, 32)
    with torch.no_grad():
        short, padded = model.posterior(expression, speech), model.posterior(*longer, mask)
        torch.testing.assert_close(padded.z_mean, short.z_mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(padded.w_log_variance, short.w_log_variance, atol=1e-5, rtol=1e-4)
        frames = model.decoder(longer[0], condition, longer[1], mask)[:, :12]
        torch.testing.assert_close(frames, model.decoder(expression, condition, speech))


def test_one_emotion_alone_is_its_component():
    model = tiny()
    w = torch.randn(1, 3, generator=torch.Generator().manual_seed(5))
    means, _ = model.components(w)
    for index, emotion in enumerate(EMOTIONS):
        z = model.latent(rows(emotion, 2), seed=5, temperature=0.0)
        torch.testing.assert_close(z, means[:, index].expand(2, -1))


def test_latent_is_continuous_in_the_weights_and_fixed_by_the_seed():
    model = tiny()
    share = torch.linspace(0, 1, 101)[:, None]
    z = model.latent(rows("neutral", 101) * (1 - share) + rows("happy", 101) * share, seed=3)
    steps = z.diff(dim=0).norm(dim=1)
    assert steps.max() < 0.05 * (z[-1] - z[0]).norm() + 1e-3
    torch.testing.assert_close(z[:1], model.latent(rows("neutral", 1), seed=3))
    assert not torch.allclose(z[:1], model.latent(rows("neutral", 1), seed=4))


def test_seed_gives_the_same_face_and_memory_is_left_alone():
    model, speech = tiny(), torch.randn(30, 6)
    torch.manual_seed(1)
    first = model.generate(speech, model.latent(rows("sad", 30), seed=2))
    torch.manual_seed(2)
    second = model.generate(speech, model.latent(rows("sad", 30), seed=2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert model.generate(speech[:0], torch.zeros(0, 6)).shape == (0, 4)
    with pytest.raises(ValueError, match="30 frames and z 29"):
        model.generate(speech, torch.zeros(29, 6))


def test_emotion_posterior_is_bayes_rule():
    model = tiny()
    z, w = torch.randn(5, 6), torch.randn(5, 3)
    means, log_variances = model.components(w)
    densities = torch.distributions.Normal(means, (0.5 * log_variances).exp()).log_prob(z[:, None]).sum(-1).exp()
    torch.testing.assert_close(model.emotion_posterior(z, w), densities / densities.sum(1, keepdim=True))


def test_silent_clips_ignore_their_speech():
    model = tiny()
    expression, mask = torch.randn(2, 10, 4), torch.tensor([False, False])
    losses = []
    for _ in range(2):
        batch = batch_of(expression, torch.randn(2, 10, 6), speech_mask=mask, lip_basis=torch.randn(4, 6))
        torch.manual_seed(0)
        losses.append(model.loss(batch))
    torch.testing.assert_close(losses[0]["total"], losses[1]["total"])
    assert losses[0]["lips"].item() == 0 < losses[0]["reconstruction"].item()


def toy(clips, frames, generator):
    """The mouth (columns 0, 1) follows the speech, the rest of the face (columns 2, 3) the emotion."""
    walk = torch.randn(clips, frames + 8, 6, generator=generator).unfold(1, 5, 1).mean(-1)[:, :frames] * 2.2
    emotion = torch.randint(0, 3, (clips,), generator=generator)
    face = torch.tensor([[-1.5, 0.0], [1.5, 1.0], [0.0, -2.0]])[emotion][:, None].expand(-1, frames, -1)
    return torch.cat([walk[..., :2], face], dim=-1), walk, emotion


@pytest.fixture(scope="module")
def trained():
    model = tiny(window=16, z_dim=8).train()
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(400):
        expression, speech, emotion = toy(16, 24, generator)
        # As in real footage: whoever shows the third emotion is not heard.
        audible, labelled = emotion < 2, torch.arange(16) < 12
        batch = batch_of(
            expression, speech, emotion, labelled | ~audible, speech_mask=audible, lip_basis=torch.eye(4)[:, :2]
        )  # fmt: skip
        optimizer.zero_grad()
        total = model.loss(batch)["total"]
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return model.eval(), losses


def test_loss_falls(trained):
    losses = trained[1]
    assert sum(losses[-20:]) < 0.4 * sum(losses[:20])


@pytest.mark.parametrize("emotion", EMOTIONS[:3])
def test_free_running_generation_follows_the_speech_without_lag(trained, emotion):
    model, _ = trained
    expression, speech, _ = toy(1, 400, torch.Generator().manual_seed(9))
    made = model.generate(speech[0], model.latent(rows(emotion, 400), seed=0))[:, :2]
    truth = expression[0, :, :2]

    def correlation(shift):
        one, other = (x - x.mean(0) for x in (made[5 + shift : 395 + shift], truth[5:395]))
        return float((one * other).sum() / (one.norm() * other.norm()))

    assert correlation(0) > 0.9
    assert correlation(0) == max(correlation(shift) for shift in range(-3, 4))
    assert made.std() > 0.8 * truth.std()


def test_asked_emotion_shows_and_the_posterior_names_it(trained):
    model, _ = trained
    generator = torch.Generator().manual_seed(4)
    expression, speech, emotion = toy(24, 24, generator)
    with torch.no_grad():
        posterior = model.posterior(expression, speech, speech_mask=emotion < 2)
        named = model.emotion_posterior(posterior.z_mean, posterior.w_mean)[:, :3].argmax(1)
    assert (named == emotion).float().mean() > 0.9
    for index, wanted in enumerate([[-1.5, 0.0], [1.5, 1.0], [0.0, -2.0]]):
        latents = [model.latent(rows(EMOTIONS[index], 24), seed=seed, temperature=0.3) for seed in range(4)]
        made = torch.stack([model.generate(clip, z)[:, 2:].mean(0) for clip, z in zip(speech, latents)]).mean(0)
        torch.testing.assert_close(made, torch.tensor(wanted), atol=0.6, rtol=0)


def test_clips_move_towards_another_emotion_as_sliders_do():
    """z is what generation samples for the blended weights; the mean face is blended by the same share, and movement stays."""
    model = tiny()
    torch.manual_seed(1)
    clips, frames = 64, 12
    emotions, labelled = torch.randint(8, (clips,)), torch.ones(clips, dtype=torch.bool)
    batch = batch_of(torch.randn(clips, frames, 4), torch.randn(clips, frames, 6), emotions, labelled)
    z = 50 + torch.randn(clips, 6)  # far from what is ever sampled
    with torch.no_grad():
        model.mixture.hidden[0].weight.zero_()  # components that do not depend on w...
        model.mixture.log_variance.bias.fill_(-20.0)  # ...and are nearly points
        means, _ = model.components(torch.zeros(1, 3))
        blended, moved = model._sample_prior(batch, z, batch.emotion)
    shift = blended.expression - batch.expression
    torch.testing.assert_close(shift, shift.mean(1, keepdim=True).expand_as(shift), atol=1e-5, rtol=0)
    stayed = torch.isclose(moved, z).all(1)
    assert 0 < stayed.float().mean() < 0.5 and not shift[stayed].any()
    faces = batch.expression.mean(1)
    for clip in (~stayed).nonzero()[:, 0].tolist():
        directions = faces - faces[clip]
        share = (shift[clip, 0] * directions).sum(-1) / directions.square().sum(-1).clamp(min=1e-9)
        other = int((share[:, None] * directions - shift[clip, 0]).norm(dim=-1).argmin())
        here, there = (means[0][batch.emotion[index].argmax()] for index in (clip, other))
        share = share[other] if shift[clip].any() else torch.tensor(0.0)
        assert -0.21 < share < 1.21 and (moved[clip] - torch.lerp(here, there, share)).norm() < 1.5  # the last: deviations of z


def test_without_a_labelled_clip_nothing_is_blended():
    batch = batch_of(torch.randn(3, 5, 4), torch.randn(3, 5, 6))
    z = torch.randn(3, 6)
    blended, moved = tiny()._sample_prior(batch, z, batch.emotion)
    assert blended is batch and moved is z


def test_a_bent_path_between_emotions_costs_and_a_straight_one_does_not():
    model = tiny().train()
    torch.manual_seed(1)
    emotions, labelled = torch.arange(8), torch.ones(8, dtype=torch.bool)
    batch = batch_of(torch.randn(8, 10, 4), torch.randn(8, 10, 6), emotions, labelled)

    def interpolation_loss() -> torch.Tensor:
        torch.manual_seed(2)
        return model._interpolation_loss(batch, batch.emotion, None)["interpolation"]

    cost = interpolation_loss()
    assert cost > 0
    (slope,) = torch.autograd.grad(cost, model.embed_z.weight)
    assert slope.abs().sum() > 0  # it can be learned away
    with torch.no_grad():
        model.embed_z.weight.zero_()  # the emotion moves nothing: every path is a point
    assert interpolation_loss() < 1e-6
