"""Train StyleUNet and EMN against a discriminator: one loop for the generic start (many people) and for one person."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gmtalker.device import is_half_fast, usable_cores
from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import HeadGenerator
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.training.checkpoints import (
    ema_tensors,
    load_ema_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
    read_tensors,
    refusing_another_model,
    tensors_below,
    write_tensors,
)
from gmtalker.training.head_data import HeadBatch, HeadBatches, PersonFrames, RehearsesEmotions
from gmtalker.training.head_losses import (
    LOSS_WEIGHTS,
    PixelWeights,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    matte_loss,
    r1_penalty,
    reconstruction_losses,
)

R1_WEIGHT, R1_EVERY = 10.0, 16  # steps
GRADIENT_NORM_MAX = 5.0
WARM_UP_STEPS = 50
SHARE_WITHOUT_DISCRIMINATOR = 0.6  # of the training time: first the picture, then its sharpness
STEPS_MAX = 1 << 40
REPORT_SECONDS = 2.0
ENOUGH_STEPS = 300  # before which no curve says much
ENOUGH_GAIN = 0.15  # dB in the last two fifths of a training, under which nobody sees the difference
PSNR_MAX = 10 * np.log10(255**2 / 1e-3)  # dB, of frames that are equal
# What a checkpoint's tensors are called: trainings that began under these names are resumed.
GENERATORS, GENERATOR_OPTIMIZER = "drawing", "draw_optimizer"
DISCRIMINATOR, DISCRIMINATOR_OPTIMIZER = "judge", "judge_optimizer"


def sized(name: str, size: int) -> str:
    """The name of a generic stage for pictures of `size` pixels."""
    return name if size == 256 else f"{name}_{size}"


@dataclass
class HeadState:
    """Where head training stands.

    step: steps taken.
    seconds: spent on them, over all runs.
    curve: quality on held-out frames over time, points of "seconds" and "psnr" in dB.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[dict] = field(default_factory=list)

    def quality(self) -> dict:
        """What a curve with at least one point says.

        Returns: "psnr" now, "best" so far and its "seconds", and whether it is "enough": it hardly rises any more.
        """
        best = max(self.curve, key=lambda point: point["psnr"])
        before = [point["psnr"] for point in self.curve if point["seconds"] < 0.6 * self.curve[-1]["seconds"]]
        enough = self.step >= ENOUGH_STEPS and len(before) > 1 and best["psnr"] - max(before) < ENOUGH_GAIN
        now = round(self.curve[-1]["psnr"], 2)
        return {"psnr": now, "best": round(best["psnr"], 2), "seconds": round(best["seconds"]), "enough": enough}


class HeadTraining:
    """StyleUNet, EMN and discriminator with their optimizers and moving average, resumable from one safetensors file.

    weights: how much each pixel counts.
    ema_decay: of the moving average of StyleUNet and EMN.
    anchor: (8,) how strongly each emotion's EMN head is held to the generic one: 0 where the person showed the emotion; None
        trains all heads freely.
    device: "cpu", or None for the best at hand.
    Source: docs/method.md section 3, equations (20) to (23).
    """

    def __init__(
        self,
        generator: HeadGenerator,
        mapping: EmotionMapping,
        discriminator: Discriminator,
        weights: PixelWeights,
        *,
        learning_rate: float,
        ema_decay: float,
        anchor: Tensor | None = None,
        device: str | None = None,
    ):
        self.accelerator = Accelerator(cpu=device == "cpu")
        self.learning_rate, self.anchor, self.weights = learning_rate, anchor, weights
        generic_heads = [[p.detach().clone() for p in head.parameters()] for head in mapping.heads]
        generators = nn.ModuleDict({"generator": generator, "mapping": mapping})
        generator_optimizer = torch.optim.Adam(generators.parameters(), learning_rate, betas=(0.5, 0.99))
        discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), learning_rate, betas=(0.5, 0.99))
        self.generators = generators.to(memory_format=torch.channels_last)
        discriminator = discriminator.to(memory_format=torch.channels_last)
        self.generator, self.mapping, self.discriminator, self.generator_optimizer, self.discriminator_optimizer = (
            self.accelerator.prepare(generator, mapping, discriminator, generator_optimizer, discriminator_optimizer)
        )
        self.generic_heads = [[p.to(self.accelerator.device) for p in head] for head in generic_heads]
        self.ema = EMAModel(self.generators.parameters(), decay=ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        self.ema.to(self.accelerator.device)
        self.state = HeadState()

    def step(self, batch: HeadBatch, share: float) -> dict[str, float]:
        """One step of the generators and, later in the training, of the discriminator.

        share: of the training that is done, 0 to 1.
        Returns: the losses before weighting, by the names of LOSS_WEIGHTS, and "discriminator".
        """
        batch = batch.to(self.accelerator.device)
        rendering, frame = batch.pictures()
        self._set_learning_rate(share)
        outlined = len(batch.matte) > 0
        with self._half():
            drawn = self.generator(rendering, self.mapping(batch.emotion), outlined)
        generated = drawn[:, :3]
        weight = self.weights(batch.rendering)[:, None]
        losses = reconstruction_losses(generated, frame, weight)
        if outlined:
            losses["matte"] = matte_loss(drawn[batch.has_matte, 3], batch.matte)
        adversarial = share > SHARE_WITHOUT_DISCRIMINATOR
        if adversarial:
            losses |= self._adversarial_losses(rendering, frame, generated, weight.square())
        if self.anchor is not None:
            losses["anchor"] = self._anchor_loss()
        self.generator_optimizer.zero_grad()
        self.accelerator.backward(sum(LOSS_WEIGHTS[name] * loss for name, loss in losses.items()))
        self.accelerator.clip_grad_norm_(self.generators.parameters(), GRADIENT_NORM_MAX)
        self.generator_optimizer.step()
        if adversarial:
            losses["discriminator"] = self._train_discriminator(rendering, frame, generated.detach())
        self.ema.step(self.generators.parameters())
        self.state.step += 1
        return {name: loss.item() for name, loss in losses.items()}

    def _set_learning_rate(self, share: float) -> None:
        """Warm-up by steps, then a linear fall over the last two fifths of the training: equation (23)."""
        warm_up = min(1.0, (self.state.step + 1) / WARM_UP_STEPS)
        rate = self.learning_rate * warm_up * min(1.0, max(0.04, 2.5 * (1 - share)))
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _half(self) -> torch.autocast:
        """bfloat16 where it is fast; not accelerate's own setting, which one process can't have two of."""
        device = self.accelerator.device
        return torch.autocast(device.type, torch.bfloat16, enabled=is_half_fast(device))

    def _adversarial_losses(self, rendering: Tensor, frame: Tensor, generated: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """L_adv and L_feat, with no gradient for the discriminator."""
        self.discriminator.requires_grad_(False)
        with self._half():
            logits, features = self.discriminator(generated, rendering)
            with torch.no_grad():
                _, real_features = self.discriminator(frame, rendering)
        losses = {
            "adversarial": adversarial_loss(logits, weight),
            "features": feature_matching_loss(features, real_features),
        }
        self.discriminator.requires_grad_(True)
        return losses

    def _anchor_loss(self) -> Tensor:
        """L_anchor: EMN heads of emotions that the clips do not show stay near the generic ones, equation (22)."""
        heads = self.accelerator.unwrap_model(self.mapping).heads
        moved = [
            sum((p - q).square().sum() for p, q in zip(head.parameters(), generic))
            for head, generic in zip(heads, self.generic_heads)
        ]
        return (torch.stack(moved) * self.anchor.to(moved[0].device)).sum()

    def _train_discriminator(self, rendering: Tensor, frame: Tensor, generated: Tensor) -> Tensor:
        """One step of the discriminator, with R1 every 16th (lazy regularisation): L_D, returned without R1."""
        with self._half():
            logits, _ = self.discriminator(generated, rendering)
            real_logits, _ = self.discriminator(frame, rendering)
        loss = discriminator_loss(logits, real_logits)
        total = loss
        if self.state.step % R1_EVERY == 0:
            total = loss + R1_EVERY * R1_WEIGHT / 2 * r1_penalty(self.discriminator, frame, rendering)
        self.discriminator_optimizer.zero_grad()
        self.accelerator.backward(total)
        self.discriminator_optimizer.step()
        return loss

    def networks(self) -> tuple[HeadGenerator, EmotionMapping]:
        """Copies of StyleUNet and EMN with the averaged weights, on the CPU, in eval mode."""
        return self._copies([parameter.detach() for parameter in self.ema.shadow_params])

    def best_networks(self, best: Path) -> tuple[HeadGenerator, EmotionMapping]:
        """The same as they were at the highest held-out PSNR.

        best: the file of save_best; without it, or where the last measurement is the best, today's networks.
        """
        if not best.exists() or self.state.curve and self.state.curve[-1] == max(self.state.curve, key=lambda x: x["psnr"]):
            return self.networks()
        tensors, _ = read_tensors(best)
        return self._copies([tensors[f"average.{index}"] for index in range(len(self.ema.shadow_params))])

    def save_best(self, best: Path) -> None:
        """Write the averaged weights for best_networks. Errors: OSError when they can't be written."""
        write_tensors(best, ema_tensors(self.ema))

    def _copies(self, weights: list[Tensor]) -> tuple[HeadGenerator, EmotionMapping]:
        """StyleUNet and EMN with these weights in place of those in training."""
        generator, mapping = self.accelerator.unwrap_model(self.generator), self.accelerator.unwrap_model(self.mapping)
        trained = [parameter.detach().clone() for parameter in self.generators.parameters()]
        _set_parameters(self.generators, weights)
        copies = []
        for network in (generator, mapping):
            copy = type(network)(**{name: value for name, value in network.config.items() if not name.startswith("_")})
            copy.load_state_dict({name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()})
            copies.append(copy.eval())
        _set_parameters(self.generators, trained)
        return copies[0], copies[1]

    def save(self, path: Path) -> None:
        """Write everything that resuming needs. Errors: OSError when it can't be written."""
        discriminator = self.accelerator.unwrap_model(self.discriminator).state_dict()
        tensors = {f"{GENERATORS}.{name}": tensor for name, tensor in self.generators.state_dict().items()}
        tensors |= {f"{DISCRIMINATOR}.{name}": tensor for name, tensor in discriminator.items()}
        tensors |= ema_tensors(self.ema)
        tensors |= optimizer_tensors(GENERATOR_OPTIMIZER, self.generator_optimizer)
        tensors |= optimizer_tensors(DISCRIMINATOR_OPTIMIZER, self.discriminator_optimizer)
        curve = [[point["seconds"], point["psnr"]] for point in self.state.curve]
        tensors["curve"] = torch.tensor(curve, dtype=torch.float64).reshape(-1, 2)
        state = {"step": str(self.state.step), "seconds": repr(self.state.seconds), "averaged": str(self.ema.optimization_step)}
        write_tensors(path, tensors, state)

    def load(self, path: Path) -> None:
        """Go on from a file that save wrote. Errors: ValueError when it belongs to other networks."""
        tensors, state = read_tensors(path)
        with refusing_another_model(path):
            self.generators.load_state_dict(tensors_below(GENERATORS, tensors))
            self.accelerator.unwrap_model(self.discriminator).load_state_dict(tensors_below(DISCRIMINATOR, tensors))
            load_ema_tensors(self.ema, tensors)
            load_optimizer_tensors(GENERATOR_OPTIMIZER, self.generator_optimizer, tensors)
            load_optimizer_tensors(DISCRIMINATOR_OPTIMIZER, self.discriminator_optimizer, tensors)
        self.ema.optimization_step = int(state["averaged"])
        curve = [{"seconds": seconds, "psnr": psnr} for seconds, psnr in tensors["curve"].tolist()]
        self.state = HeadState(int(state["step"]), float(state["seconds"]), curve)


@torch.no_grad()
def _set_parameters(network: nn.Module, weights: list[Tensor]) -> None:
    for parameter, weight in zip(network.parameters(), weights, strict=True):
        parameter.copy_(weight.to(parameter.device))


@torch.no_grad()
def generate_frames(generator: HeadGenerator, mapping: EmotionMapping, person: PersonFrames) -> np.ndarray:
    """Generate each of a person's frames from its rendering. Returns: (n, size, size, 3) uint8."""
    frames = []
    for index in range(len(person.frames)):
        rendering = torch.from_numpy(person.rendering(index)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half_fast(torch.device("cpu"))):
            frame = generator(rendering, mapping(torch.from_numpy(person.emotion[index : index + 1]).float()))
        frames.append(frame[0].float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    return np.stack(frames)


def mean_psnr(generated: np.ndarray, real: np.ndarray) -> float:
    """Mean over frames (n, h, w, 3) uint8 of the PSNR in dB, at most PSNR_MAX."""
    with np.errstate(divide="ignore"):  # of equal frames
        psnr = [peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(generated, real, strict=True)]
    return float(np.mean(np.minimum(psnr, PSNR_MAX)))


@dataclass(frozen=True)
class HeadOptions:
    """How a head generator is trained.

    minutes: of training, over all the runs that it takes.
    batch: frames per step.
    checkpoint: the file that the same call resumes from.
    best: file for the weights with the highest held-out PSNR; None keeps none.
    augment: vary colours and mirror pictures, for the generic networks; one person stays as filmed.
    checkpoint_seconds: between two checkpoints, and between two measurements of the held-out frames.
    seed: of batches and noise.
    rehearsal: of emotions that the frames do not show; None for none.
    steps_min: on a busy machine the training takes longer, until it has taken so many steps.
    slower_max: times its minutes, after which it ends all the same.
    """

    minutes: float
    batch: int
    checkpoint: Path
    best: Path | None = None
    augment: bool = False
    checkpoint_seconds: float = 60.0
    seed: int = 0
    rehearsal: RehearsesEmotions | None = None
    steps_min: int = 0
    slower_max: float = 4.0

    def share(self, state: HeadState) -> float:
        """How much of the training is done: 1 is all."""
        timed = state.seconds / (60 * self.minutes)
        return max(min(timed, state.step / self.steps_min), timed / self.slower_max) if self.steps_min else timed

    def seconds_left(self, state: HeadState) -> float:
        """What is left, at the speed so far."""
        share = self.share(state)
        return 60 * self.minutes if share <= 0 else max(0.0, state.seconds * (1 / share - 1))


@dataclass(frozen=True)
class HeadHooks:
    """What is called during head training.

    on_progress: every other second, with the figures step, its, quality and losses.
    on_sample: whenever held-out frames are generated, with real ones (n, size, size, 3) uint8, their generated counterparts, and
        the curve.
    sample_requested: True asks for such a sample now.
    stop: True ends the training here, as if its time were up.
    """

    on_progress: OnProgress = ignore_progress
    on_sample: Callable[[np.ndarray, np.ndarray, list[dict]], None] | None = None
    sample_requested: Callable[[], bool] = lambda: False
    stop: Callable[[], bool] = lambda: False


def train_head(
    training: HeadTraining,
    people: list[PersonFrames],
    held_out: list[PersonFrames],
    options: HeadOptions,
    hooks: HeadHooks = HeadHooks(),
) -> HeadState:
    """Train for so many minutes in all, or steps, going on from the checkpoint where it exists; the same call resumes.

    held_out: frames of the same people that are never trained on; their PSNR is the quality that is reported.
    Errors: ValueError for a checkpoint of other networks.
    """
    if options.checkpoint.exists():
        training.load(options.checkpoint)
    state = training.state
    frames = HeadBatches(people, options.batch, options.augment, options.seed, options.rehearsal)
    batches = _batches(frames, state.step, training.accelerator.device)
    saved = reported = time.monotonic()
    while options.share(state) < 1 and not hooks.stop():
        began = time.monotonic()
        torch.manual_seed(options.seed * 1_000_003 + state.step)
        losses = training.step(next(batches), options.share(state))
        now = time.monotonic()
        state.seconds += now - began
        if now - reported > REPORT_SECONDS:
            reported = now
            hooks.on_progress(_progress_of(state, options, losses))
            if hooks.sample_requested() and held_out:
                _measure(training, held_out, options.best, hooks)
        if now - saved > options.checkpoint_seconds:
            _measure(training, held_out, options.best, hooks)
            training.save(options.checkpoint)
            saved = time.monotonic()
    _measure(training, held_out, options.best, hooks)
    training.save(options.checkpoint)
    return state


def _batches(frames: HeadBatches, first: int, device: torch.device) -> Iterator[HeadBatch]:
    """The batches from step `first` on, each made while the network learns from the one before."""
    if device.type != "cpu":  # a GPU outruns what one core renders
        yield from DataLoader(frames, batch_size=None, sampler=range(first, STEPS_MAX), num_workers=max(1, usable_cores() - 2))
        return
    with ThreadPoolExecutor(1) as thread:
        batch = thread.submit(frames.__getitem__, first)
        for step in count(first + 1):
            made, batch = batch.result(), thread.submit(frames.__getitem__, step)
            yield made


def _progress_of(state: HeadState, options: HeadOptions, losses: dict[str, float]) -> Progress:
    percent = round(min(100.0, 100 * options.share(state)), 1)
    figures = {"step": state.step, "its": round(state.step / state.seconds, 2)}
    figures |= {"quality": state.quality()} if state.curve else {}
    figures |= {name: round(value, 4) for name, value in losses.items()}
    return Progress("head", percent, 100, seconds_left=round(options.seconds_left(state)), figures=figures)


def _measure(training: HeadTraining, held_out: list[PersonFrames], best: Path | None, hooks: HeadHooks) -> None:
    """Generate the held-out frames, and add their PSNR to the curve."""
    if not held_out:
        return
    generator, mapping = training.networks()
    generated = [generate_frames(generator, mapping, person) for person in held_out]
    quality = float(np.mean([mean_psnr(frames, person.frames) for frames, person in zip(generated, held_out)]))
    curve = training.state.curve
    curve.append({"seconds": training.state.seconds, "psnr": quality})
    if best is not None and quality >= max(point["psnr"] for point in curve):
        training.save_best(best)
    if hooks.on_sample is not None:
        hooks.on_sample(held_out[0].frames, generated[0], curve)
