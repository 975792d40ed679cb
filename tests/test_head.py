"""StyleUNet, EMN and the discriminator: wavelets, style in the decoder only, learning, resuming."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from skimage.metrics import structural_similarity

from gmtalker.assets import GENERIC
from gmtalker.face.model import FaceModel
from gmtalker.face.renderer import APPEARANCE, CANONICAL, CANONICAL_X, Renderer
from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import WIDTHS, HeadGenerator, ModulatedConvolution, haar, inverse_haar
from gmtalker.models.weights import load_strict, save_half
from gmtalker.tracks import ROTATION, ExpressionTrack, FaceTrack, MotionTrack
from gmtalker.training.head import HeadHooks, HeadOptions, HeadState, HeadTraining, generate_frames, mean_psnr, train_head
from gmtalker.training.head_data import HeadBatches, PersonFrames, mirrored
from gmtalker.training.head_losses import PixelWeights, structure_loss, texture_loss
from tests.test_face_model import make_face

SIZE = 64


def tiny(seed: int = 0):
    torch.manual_seed(seed)
    return (
        HeadGenerator(SIZE, widths=(8, 12, 16)),
        EmotionMapping(latent_dim=8, hidden_dim=16, style_dim=64),
        Discriminator(widths=(8, 12, 16, 16)),
    )


def tiny_person(frames: int = 6) -> tuple[FaceModel, PersonFrames]:
    """A person whose real frames are the rendering with other colours: something to learn."""
    model = FaceModel.load(GENERIC / "face_model")
    renderer = Renderer(model, make_face(model, SIZE), SIZE)
    random = np.random.default_rng(0)
    coefficients = random.normal(size=(frames, model.coefficient_dim)) * 0.5
    motion = np.tile(renderer.face.motion_mean.astype(float), (frames, 1))
    motion[:, ROTATION] += random.normal(size=(frames, 3)) * 0.05
    pictures = np.stack([renderer.render(c, m) for c, m in zip(coefficients, motion)])
    real = pictures[..., APPEARANCE] // 2 + pictures[..., CANONICAL] // 4
    tracked = ExpressionTrack(torch.tensor(coefficients)), MotionTrack.unstacked(torch.tensor(motion)), torch.ones(frames) > 0
    return model, PersonFrames(renderer, real, FaceTrack(*tracked), np.eye(8)[np.zeros(frames, int)])


def test_haar_is_orthonormal_and_inverts():
    picture = torch.randn(2, 3, 16, 16)
    assert torch.allclose(inverse_haar(haar(picture)), picture, atol=1e-6)
    assert haar(picture).square().sum() == pytest.approx(picture.square().sum().item(), rel=1e-5)


def test_modulated_convolution_is_stylegan2s():
    """Scaling features and then channels equals convolving each sample with its own modulated, demodulated weights."""
    torch.manual_seed(0)
    layer = ModulatedConvolution(5, 7, 4)
    features, style = torch.randn(3, 5, 9, 9), torch.randn(3, 4)
    made = layer(features, style)
    for index in range(3):
        weight = layer.weight * layer.affine(style[index])[None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        one = torch.nn.functional.conv2d(features[index : index + 1], weight, layer.bias, padding=1)
        assert torch.allclose(made[index : index + 1], one, atol=1e-5)


def test_style_reaches_the_picture_through_the_decoder_only():
    generator, _, _ = tiny()
    outputs = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for module in (generator.enter, *generator.down)
    ]
    rendering = torch.randn(1, 8, SIZE, SIZE)
    first, second = (generator(rendering, torch.full((1, 64), value)) for value in (0.0, 3.0))
    for hook in hooks:
        hook.remove()
    half = len(outputs) // 2
    assert all(torch.equal(a, b) for a, b in zip(outputs[:half], outputs[half:])) and (first - second).abs().max() > 1e-3


def test_same_input_same_picture():
    generator, _, _ = tiny()
    rendering, style = torch.randn(1, 8, SIZE, SIZE), torch.randn(1, 64)
    assert torch.equal(generator(rendering, style), generator(rendering, style))


def test_emotion_mapping_is_the_weighted_sum_of_its_heads():
    _, mapping, _ = tiny()
    corners = mapping(torch.eye(8))
    weights = torch.rand(1, 8)
    weights = weights / weights.sum()
    assert torch.allclose(mapping(weights), weights @ corners, atol=1e-6)
    assert len({tuple(row.tolist()) for row in corners}) == 8


def test_training_learns_and_resumes(tmp_path):
    model, person = tiny_person()
    weights = PixelWeights(model)
    checkpoint = tmp_path / "head.safetensors"
    reports = []

    def make():
        generator, mapping, discriminator = tiny()
        return HeadTraining(generator, mapping, discriminator, weights, learning_rate=3e-3, ema_decay=0.9, device="cpu")

    training = make()

    def quality(networks) -> float:
        return mean_psnr(generate_frames(*networks, person), person.frames)

    before = quality(training.networks())
    options = HeadOptions(minutes=0.12, batch=2, checkpoint=checkpoint)
    train_head(training, [person], [person], options, HeadHooks(reports.append))
    after = quality(training.networks())
    assert reports[-1].stage == "head" and {"step", "its", "pixel", "discriminator"} <= reports[-1].figures.keys()
    assert after > before + 3 and training.state.curve[-1]["psnr"] == pytest.approx(after, abs=0.01)
    again = make()
    again.load(checkpoint)
    assert again.state.step == training.state.step and again.state.curve == training.state.curve
    assert quality(again.networks()) == pytest.approx(after, abs=1e-3)
    best = tmp_path / "best" / "best.safetensors"
    again.save_best(best)
    for weight in again.ema.shadow_params:  # training goes wrong from here on
        weight.zero_()
    again.state.curve.append({"seconds": again.state.seconds + 1, "psnr": after - 5})
    assert quality(again.networks()) < after - 3 and quality(again.best_networks(best)) == pytest.approx(after, abs=1e-3)
    again.load(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(training.generators.parameters(), again.generators.parameters()))


def test_resuming_goes_on_as_if_never_interrupted(tmp_path):
    model, person = tiny_person()
    weights = PixelWeights(model)

    def run(training, steps):
        for _ in range(steps):
            torch.manual_seed(training.state.step)
            training.step(HeadBatches([person], 2, False, 0)[training.state.step], 0.8)

    trainings = []
    for _ in range(2):
        generator, mapping, discriminator = tiny()
        trainings.append(
            HeadTraining(generator, mapping, discriminator, weights, learning_rate=1e-3, ema_decay=0.9, device="cpu")
        )
    whole, broken = trainings
    run(whole, 4)
    run(broken, 2)
    broken.save(tmp_path / "c.safetensors")
    generator, mapping, discriminator = tiny(seed=5)
    resumed = HeadTraining(generator, mapping, discriminator, weights, learning_rate=1e-3, ema_decay=0.9, device="cpu")
    resumed.load(tmp_path / "c.safetensors")
    run(resumed, 2)
    for a, b in zip(whole.generators.parameters(), resumed.generators.parameters()):
        # bf16 training on some CPUs is not exact to the bit between two objects
        assert torch.allclose(a, b, atol=1e-5)


def test_the_names_in_a_checkpoint_stay_what_they_were(tmp_path):
    """A training that was stopped by an older version goes on in this one."""
    generator, mapping, discriminator = tiny()
    model, person = tiny_person()
    training = HeadTraining(
        generator, mapping, discriminator, PixelWeights(model), learning_rate=1e-3, ema_decay=0.9, device="cpu"
    )
    training.step(HeadBatches([person], 2, False, 0)[0], 0.8)
    training.state.curve.append({"seconds": 1.0, "psnr": 20.0})
    training.save(tmp_path / "c.safetensors")
    with safe_open(str(tmp_path / "c.safetensors"), framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert set(metadata) == {"step", "seconds", "averaged"} and "curve" in names
    moments = {"step", "exp_avg", "exp_avg_sq"}
    for network, optimizer, owner, part in (
        ("drawing", "draw_optimizer", training.generators, "generator.enter.weight"),
        ("judge", "judge_optimizer", discriminator, "judge.weight"),
    ):
        assert f"{network}.{part}" in names
        count = len(list(owner.parameters()))
        assert {name for name in names if name.startswith(f"{optimizer}.")} == {
            f"{optimizer}.{index}.{moment}" for index in range(count) for moment in moments
        }
    assert {name for name in names if name.startswith("average.")} == {
        f"average.{index}" for index in range(len(training.ema.shadow_params))
    }


def test_checkpoint_of_other_networks_is_refused(tmp_path):
    generator, mapping, discriminator = tiny()
    weights = PixelWeights(FaceModel.load(GENERIC / "face_model"))
    training = HeadTraining(generator, mapping, discriminator, weights, learning_rate=1e-3, ema_decay=0.9, device="cpu")
    training.save(tmp_path / "c.safetensors")
    networks = HeadGenerator(SIZE, widths=(8, 8, 8)), *tiny()[1:]
    other = HeadTraining(*networks, weights, learning_rate=1e-3, ema_decay=0.9, device="cpu")
    with pytest.raises(ValueError, match="another model"):
        other.load(tmp_path / "c.safetensors")


def test_heads_of_unseen_emotions_stay_near_the_generic_ones():
    model, person = tiny_person()
    weights = PixelWeights(model)
    moved = {}
    for strength in (0.0, 200.0):
        generator, mapping, discriminator = tiny()
        start = [head.weight.detach().clone() for head in mapping.heads]
        training = HeadTraining(
            generator,
            mapping,
            discriminator,
            weights,
            learning_rate=3e-3,
            ema_decay=0.9,
            anchor=torch.full((8,), strength),
            device="cpu",
        )
        for step in range(12):
            training.step(HeadBatches([person], 2, False, 0)[step], 0.1)
        moved[strength] = sum((head.weight - first).norm().item() for head, first in zip(mapping.heads, start))
    assert moved[200.0] < 0.6 * moved[0.0]


def test_mouth_and_eyes_weigh_more():
    model, person = tiny_person(1)
    rendering = torch.from_numpy(person.rendering(0)[None])
    weight = PixelWeights(model)(rendering)[0]
    points = person.renderer.points(person.coefficients[0], person.motion[0])
    mouth, forehead = points[13, :2].astype(int), points[151, :2].astype(int)
    assert weight[mouth[1], mouth[0]] > weight[forehead[1], forehead[0]] == 1 and weight[0, 0] == 1


def test_the_generic_start_sees_mirrored_faces_and_other_colours():
    _, person = tiny_person(1)
    rendering = person.rendering(0)
    again = mirrored(rendering)
    assert np.array_equal(mirrored(again), rendering) and np.array_equal(again[..., APPEARANCE], rendering[:, ::-1, APPEARANCE])
    face = rendering[:, ::-1, CANONICAL_X] > 0
    assert np.array_equal(again[..., CANONICAL_X] > 0, face)
    assert np.all(again[face][:, CANONICAL_X] + rendering[:, ::-1][face][:, CANONICAL_X].astype(int) == 295)
    varied, plain = (HeadBatches([person], 4, augment, 0)[3] for augment in (True, False))
    assert len(varied.gain.unique()) > 4 and torch.equal(plain.gain, torch.ones(4, 3)) and not plain.lift.any()
    rendering, frame = plain.pictures()
    assert rendering.shape == (4, 8, SIZE, SIZE) and frame.shape == (4, 3, SIZE, SIZE) and -1 <= frame.min() < frame.max() <= 1


def test_a_larger_generator_takes_over_the_levels_of_a_smaller_one():
    torch.manual_seed(0)
    small, large = HeadGenerator(32, style_dim=4, widths=(6, 8, 10)), HeadGenerator(64, style_dim=4, widths=(4, 6, 8, 10))
    before = large.levels[-1].first.weight.clone()
    large.adopt(small)
    for ours, theirs in zip(large.levels, small.levels):
        assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()))
    for ours, theirs in zip(large.down[1:], small.down):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))
    assert torch.equal(large.levels[-1].first.weight, before)
    assert large(torch.zeros(1, 8, 64, 64), torch.zeros(1, 4)).shape == (1, 3, 64, 64)


def test_every_size_has_widths_that_end_at_eight_pixels():
    for size, widths in WIDTHS.items():
        assert size // 2 >> (len(widths) - 1) == 8
    assert WIDTHS[1024][1:] == WIDTHS[512]  # its start is theirs, as far as it goes


def pictures(seed: int) -> torch.Tensor:
    """(2, 3, 48, 48) in [-1, 1]: soft shapes with grain."""
    random = torch.Generator().manual_seed(seed)
    soft = torch.nn.functional.interpolate(torch.rand(2, 3, 6, 6, generator=random) * 1.4 - 0.7, size=48, mode="bicubic")
    return (soft + 0.1 * torch.randn(2, 3, 48, 48, generator=random)).clamp(-1, 1)


def test_the_loss_of_structure_is_what_ssim_lacks_to_one():
    a, b = pictures(1), (pictures(1) + 0.3 * pictures(2)).clamp(-1, 1)
    assert structure_loss(a, a).abs() < 1e-6
    similar = [
        structural_similarity(x.permute(1, 2, 0).numpy(), y.permute(1, 2, 0).numpy(), channel_axis=2, data_range=2.0)
        for x, y in zip(a, b)
    ]
    # skimage corrects the variances for the size of the window (49 / 48), the paper's equation does not.
    assert float(1 - structure_loss(a, b)) == pytest.approx(np.mean(similar), abs=0.005)


def test_the_loss_of_texture_minds_blur_and_not_where_the_grain_lies():
    sharp, weight = pictures(3), torch.ones(2, 1, 48, 48)
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2)
    other = pictures(4) - torch.nn.functional.avg_pool2d(pictures(4), 9, 1, 4)
    grain = blurred + other  # as strong as that of the sharp one, and elsewhere
    assert texture_loss(sharp, sharp, weight) == 0
    assert texture_loss(grain, sharp, weight) < 0.5 * texture_loss(blurred, sharp, weight)
    assert texture_loss(blurred, sharp, 3 * weight) == pytest.approx(3 * float(texture_loss(blurred, sharp, weight)), rel=1e-4)


# --- The person's outline ------------------------------------------------------------------------------------------------------


def outlined(person: PersonFrames) -> PersonFrames:
    """The same with a matte of every second frame: the left half is the person."""
    matte = np.zeros((SIZE, SIZE), np.uint8)
    matte[:, : SIZE // 2] = 255
    return PersonFrames(person.renderer, person.frames, person.track, person.emotion, {0: matte, 2: matte, 4: matte})


def test_a_network_that_learns_a_matte_draws_the_same_pictures():
    generator = tiny()[0]
    larger = generator.with_matte()
    rendering, style = torch.randn(2, 8, SIZE, SIZE), torch.randn(2, 64)
    assert torch.equal(larger(rendering, style), generator(rendering, style)) and larger.with_matte() is larger
    drawn = larger(rendering, style, matte=True)
    assert drawn.shape == (2, 4, SIZE, SIZE) and torch.equal(drawn[:, :3], generator(rendering, style))
    assert drawn[:, 3].abs().max() <= 1
    with pytest.raises(ValueError, match="no matte"):
        generator(rendering, style, matte=True)


def test_batches_hold_the_mattes_of_frames_that_have_one():
    person = outlined(tiny_person()[1])
    batch = HeadBatches([person], 40, False, 0)[0]
    own = {person.frames[index].tobytes() for index in person.mattes}
    assert batch.has_matte.tolist() == [frame.numpy().tobytes() in own for frame in batch.frame]
    assert batch.matte.shape == (int(batch.has_matte.sum()), SIZE, SIZE) and batch.matte[0, 0, [0, -1]].tolist() == [255, 0]
    assert not HeadBatches([tiny_person()[1]], 4, False, 0)[0].has_matte.any()


def test_the_matte_is_learned_beside_the_picture():
    model, person = tiny_person()
    generator, *others = tiny()
    training = HeadTraining(generator.with_matte(), *others, PixelWeights(model), learning_rate=3e-3, ema_decay=0.9, device="cpu")
    batches = HeadBatches([outlined(person)], 4, False, 0)
    losses = [training.step(batches[step], 0.1) for step in range(60)]
    told = [step["matte"] for step in losses if "matte" in step]
    assert np.mean(told[-5:]) < 0.3 * told[0] and losses[-1]["pixel"] < losses[0]["pixel"]
    trained, mapping = training.networks()
    drawn = trained(batches[0].pictures()[0], mapping(batches[0].emotion), matte=True)
    assert drawn[:, 3, :, : SIZE // 2 - 4].mean() > 0.5 and drawn[:, 3, :, SIZE // 2 + 4 :].mean() < -0.5


def test_files_from_before_the_matte_are_read(tmp_path):
    generator = tiny()[0]
    save_half(generator, tmp_path / "head_generator")
    config = json.loads((tmp_path / "head_generator" / "config.json").read_text())
    del config["has_matte"]
    (tmp_path / "head_generator" / "config.json").write_text(json.dumps(config))
    assert load_strict(HeadGenerator, tmp_path / "head_generator").config.has_matte is False


def test_a_slow_machine_takes_longer_and_not_fewer_steps(tmp_path):
    """Before steps_min a training goes on, up to slower_max times its minutes; without it the minutes alone count."""
    options = HeadOptions(minutes=1.0, batch=2, checkpoint=tmp_path / "c", steps_min=100, slower_max=4.0)
    assert options.share(HeadState(step=50, seconds=30.0)) == 0.5 and options.share(HeadState(step=400, seconds=30.0)) == 0.5
    assert options.share(HeadState(step=20, seconds=60.0)) == pytest.approx(0.25)
    assert options.seconds_left(HeadState(step=50, seconds=60.0)) == pytest.approx(60.0)
    assert options.share(HeadState(step=20, seconds=240.0)) == 1 == options.share(HeadState(step=100, seconds=60.0))
    assert HeadOptions(1.0, 2, tmp_path / "c").share(HeadState(step=1, seconds=60.0)) == 1


def test_a_training_goes_on_until_it_has_taken_its_steps(tmp_path):
    model, person = tiny_person()
    generator, mapping, discriminator = tiny()
    rates = {"learning_rate": 1e-3, "ema_decay": 0.9}
    training = HeadTraining(generator, mapping, discriminator, PixelWeights(model), device="cpu", **rates)
    options = HeadOptions(minutes=1e-6, batch=2, checkpoint=tmp_path / "c.safetensors", steps_min=3, slower_max=1e9)
    assert train_head(training, [person], [], options).step == 3


def test_a_few_steps_are_never_good_enough():
    flat = [{"seconds": float(second), "psnr": 30.0} for second in range(1, 11)]
    assert not HeadState(12, 10.0, flat).quality()["enough"] and HeadState(1000, 10.0, flat).quality()["enough"]
