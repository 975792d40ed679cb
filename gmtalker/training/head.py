"""Train StyleUNet and EMN against a discriminator: one loop for the generic start (many people) and for one person."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gmtalker.device import is_half_fast, usable_cores
from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import HeadGenerator
from gmtalker.progress import OnProgress, Progress, nobody_listens
from gmtalker.training.checkpoints import load_moments, moments_of
from gmtalker.training.head_data import HeadBatch, HeadBatches, PersonFrames
from gmtalker.training.head_losses import LOSS_WEIGHTS, PixelWeights, edge_loss, structure_loss, texture_loss

R1_WEIGHT, R1_EVERY = 10.0, 16
MOST_STEPS = 1 << 40
TELL_SECONDS = 2.0
ENOUGH_GAIN = 0.15  # dB in the last two fifths of a training, under which nobody sees the difference
SHARE_WITHOUT_CRITIC = 0.35  # first the picture, then its sharpness


def sized(name: str, size: int) -> str:
    """What a generic stage that draws `size` pixels is called."""
    return name if size == 256 else f"{name}_{size}"


@dataclass
class HeadState:
    """Where head training stands. seconds: of training, over all runs; curve: quality on held-out frames over time."""

    step: int = 0
    seconds: float = 0.0
    curve: list[dict] = field(default_factory=list)

    def quality(self) -> dict:
        """What the curve says: "psnr" now, "best" so far and its "seconds", whether it is "enough": it hardly rises any more."""
        best = max(self.curve, key=lambda point: point["psnr"])
        before = [point["psnr"] for point in self.curve if point["seconds"] < 0.6 * self.curve[-1]["seconds"]]
        enough = len(before) > 1 and best["psnr"] - max(before) < ENOUGH_GAIN
        now = round(self.curve[-1]["psnr"], 2)
        return {"psnr": now, "best": round(best["psnr"], 2), "seconds": round(best["seconds"]), "enough": enough}


class HeadTraining:
    """StyleUNet + EMN + discriminator with their optimisers and averages, resumable from one safetensors file.

    weights: how much each pixel counts.
    anchor: (8,) how much each emotion's head is held to the generic EMN: 1 where the person never showed the emotion, towards 0
    where they did; None trains all heads freely.
    """

    def __init__(
        self,
        generator: HeadGenerator,
        mapping: EmotionMapping,
        discriminator: Discriminator,
        weights: PixelWeights,
        *,
        learning_rate: float,
        average: float,
        anchor: Tensor | None = None,
        device: str | None = None,
    ):
        self.accelerator = Accelerator(cpu=device == "cpu")
        self.learning_rate, self.anchor, self.weights = learning_rate, anchor, weights
        self.start = [[p.detach().clone() for p in head.parameters()] for head in mapping.heads]
        drawing = nn.ModuleDict({"generator": generator, "mapping": mapping})
        self.draw_optimizer = torch.optim.Adam(drawing.parameters(), learning_rate, betas=(0.5, 0.99))
        self.judge_optimizer = torch.optim.Adam(discriminator.parameters(), learning_rate, betas=(0.5, 0.99))
        drawing = drawing.to(memory_format=torch.channels_last)
        discriminator = discriminator.to(memory_format=torch.channels_last)
        self.generator, self.mapping, self.discriminator, self.draw_optimizer, self.judge_optimizer = self.accelerator.prepare(
            generator, mapping, discriminator, self.draw_optimizer, self.judge_optimizer
        )
        self.drawing = drawing
        self.start = [[p.to(self.accelerator.device) for p in head] for head in self.start]
        self.average = EMAModel(drawing.parameters(), decay=average, use_ema_warmup=True, power=0.75)
        self.average.to(self.accelerator.device)
        self.state = HeadState()

    def step(self, batch: HeadBatch, share: float) -> dict[str, float]:
        """One step of generator and critic; share of the training that is done, 0 to 1."""
        batch = batch.to(self.accelerator.device)
        rendering, frame = batch.pictures()
        rate = self.learning_rate * min(1.0, (self.state.step + 1) / 50) * min(1.0, max(0.04, 2.5 * (1 - share)))
        for optimizer in (self.draw_optimizer, self.judge_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = rate
        with self._half():
            drawn = self.generator(rendering, self.mapping(batch.emotion))
        weight = self.weights(batch.rendering)[:, None]
        losses = {
            "pixel": ((drawn - frame).abs() * weight).mean(),
            "edges": edge_loss(drawn, frame),
            "structure": structure_loss(drawn, frame),
            "texture": texture_loss(drawn, frame, weight.square()),
        }
        critic = share > SHARE_WITHOUT_CRITIC
        if critic:
            self.discriminator.requires_grad_(False)
            with self._half():
                logits, features = self.discriminator(drawn, rendering)
                with torch.no_grad():
                    _, real_features = self.discriminator(frame, rendering)
            # As much more as the pixels weigh, where people look: there a mouth or an eye that is right on average is blurred.
            looked_at = F.adaptive_avg_pool2d(weight.square(), logits.shape[-2:])
            losses["critic"] = (F.softplus(-logits.float()) * looked_at).mean()
            losses["features"] = sum(F.l1_loss(a.float(), b.float()) for a, b in zip(features, real_features)) / len(features)
            self.discriminator.requires_grad_(True)
        if self.anchor is not None:
            losses["anchor"] = self._anchor_loss()
        self.draw_optimizer.zero_grad()
        self.accelerator.backward(sum(LOSS_WEIGHTS[name] * loss for name, loss in losses.items()))
        self.accelerator.clip_grad_norm_(self.drawing.parameters(), 5.0)
        self.draw_optimizer.step()
        if critic:
            losses["judge"] = self._judge(rendering, frame, drawn.detach())
        self.average.step(self.drawing.parameters())
        self.state.step += 1
        return {name: loss.item() for name, loss in losses.items()}

    def _half(self) -> torch.autocast:
        """bfloat16 where it is fast; not accelerate's own setting, which one process can't have two of."""
        device = self.accelerator.device
        return torch.autocast(device.type, torch.bfloat16, enabled=is_half_fast(device))

    def _judge(self, rendering: Tensor, frame: Tensor, drawn: Tensor) -> Tensor:
        """Non-saturating GAN loss of the critic, with R1 on real frames every 16 steps (lazy regularisation)."""
        with self._half():
            fake, _ = self.discriminator(drawn, rendering)
            real, _ = self.discriminator(frame, rendering)
        loss = F.softplus(fake.float()).mean() + F.softplus(-real.float()).mean()
        total = loss
        if self.state.step % R1_EVERY == 0:
            frame = frame.detach().requires_grad_()
            logits, _ = self.discriminator(frame, rendering)
            # The mean over the map stands for StyleGAN2's one logit; a sum would smother the critic.
            (slope,) = torch.autograd.grad(logits.mean((1, 2, 3)).sum(), frame, create_graph=True)
            total = loss + R1_EVERY * R1_WEIGHT / 2 * slope.square().sum((1, 2, 3)).mean()
        self.judge_optimizer.zero_grad()
        self.accelerator.backward(total)
        self.judge_optimizer.step()
        return loss

    def _anchor_loss(self) -> Tensor:
        """Heads of emotions that the clips do not show stay near the generic EMN."""
        heads = self.accelerator.unwrap_model(self.mapping).heads
        moved = [sum((p - q).square().sum() for p, q in zip(head.parameters(), first)) for head, first in zip(heads, self.start)]
        return (torch.stack(moved) * self.anchor.to(moved[0].device)).sum()

    def networks(self) -> tuple[HeadGenerator, EmotionMapping]:
        """Copies of generator and EMN with their averaged weights, on the CPU, in eval mode."""
        return self._copies([parameter.detach() for parameter in self.average.shadow_params])

    def best_networks(self, best: Path) -> tuple[HeadGenerator, EmotionMapping]:
        """The same as they were when they drew held-out frames best: kept in `best` unless they never got worse."""
        if not best.exists() or self.state.curve and self.state.curve[-1] == max(self.state.curve, key=lambda x: x["psnr"]):
            return self.networks()
        kept = load_file(str(best))
        return self._copies([kept[f"average.{index}"] for index in range(len(self.average.shadow_params))])

    def save_best(self, best: Path) -> None:
        """Keep the averaged weights for best_networks."""
        best.parent.mkdir(parents=True, exist_ok=True)
        unfinished = best.with_suffix(".part")
        weights = {f"average.{index}": x.detach().cpu().contiguous() for index, x in enumerate(self.average.shadow_params)}
        save_file(weights, str(unfinished))
        unfinished.replace(best)

    def _copies(self, weights: list[Tensor]) -> tuple[HeadGenerator, EmotionMapping]:
        """Generator and EMN with these weights in the place of those in training."""
        generator, mapping = self.accelerator.unwrap_model(self.generator), self.accelerator.unwrap_model(self.mapping)
        trained = [parameter.detach().clone() for parameter in self.drawing.parameters()]
        _set_parameters(self.drawing, weights)
        copies = []
        for network in (generator, mapping):
            copy = type(network)(**{name: value for name, value in network.config.items() if not name.startswith("_")})
            copy.load_state_dict({name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()})
            copies.append(copy.eval())
        _set_parameters(self.drawing, trained)
        return copies[0], copies[1]

    def save(self, path: Path) -> None:
        """Everything that resuming needs, whole or not at all."""
        tensors = {f"drawing.{name}": tensor for name, tensor in self.drawing.state_dict().items()}
        tensors |= {
            f"judge.{name}": tensor for name, tensor in self.accelerator.unwrap_model(self.discriminator).state_dict().items()
        }
        tensors |= {f"average.{index}": tensor for index, tensor in enumerate(self.average.shadow_params)}
        tensors |= moments_of("draw_optimizer", self.draw_optimizer) | moments_of("judge_optimizer", self.judge_optimizer)
        curve = [[point["seconds"], point["psnr"]] for point in self.state.curve]
        tensors["curve"] = torch.tensor(curve, dtype=torch.float64).reshape(-1, 2)
        metadata = {
            "step": str(self.state.step),
            "seconds": repr(self.state.seconds),
            "averaged": str(self.average.optimization_step),
        }
        unfinished = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, str(unfinished), metadata
        )
        unfinished.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a file that save wrote. Errors: ValueError when it belongs to other networks."""
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(str(path))

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        try:
            self.drawing.load_state_dict(part("drawing."))
            self.accelerator.unwrap_model(self.discriminator).load_state_dict(part("judge."))
            for index, shadow in enumerate(self.average.shadow_params):
                shadow.copy_(tensors[f"average.{index}"])
            load_moments("draw_optimizer", self.draw_optimizer, tensors)
            load_moments("judge_optimizer", self.judge_optimizer, tensors)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is the checkpoint of other networks; move it away to start afresh") from error
        self.average.optimization_step = int(metadata["averaged"])
        curve = [{"seconds": seconds, "psnr": psnr} for seconds, psnr in tensors["curve"].tolist()]
        self.state = HeadState(int(metadata["step"]), float(metadata["seconds"]), curve)


@torch.no_grad()
def _set_parameters(network: nn.Module, weights: list[Tensor]) -> None:
    for parameter, weight in zip(network.parameters(), weights, strict=True):
        parameter.copy_(weight.to(parameter.device))


@torch.no_grad()
def drawn_frames(generator: HeadGenerator, mapping: EmotionMapping, person: PersonFrames) -> np.ndarray:
    """(n, size, size, 3) uint8: what the networks make of each of a person's frames."""
    drawn = []
    for index in range(len(person.frames)):
        rendering = torch.from_numpy(person.rendering(index)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half_fast(torch.device("cpu"))):
            frame = generator(rendering, mapping(torch.from_numpy(person.emotion[index : index + 1]).float()))
        drawn.append(frame[0].float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    return np.stack(drawn)


def mean_psnr(drawn: np.ndarray, real: np.ndarray) -> float:
    """Mean over frames (n, h, w, 3) uint8 of the PSNR in dB."""
    errors = [np.square(a.astype(np.float32) - b).mean() for a, b in zip(drawn, real, strict=True)]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-3))))


@dataclass(frozen=True)
class HeadOptions:
    """How a head generator is trained.

    minutes: of training, over all the runs that it takes.
    batch: frames a step.
    checkpoint: the file that the same call goes on from.
    best: keeps the weights that drew held-out frames best; None keeps none.
    augment: vary colour, place and size, for many people; one person stays as filmed.
    checkpoint_seconds: between two checkpoints, and two measures of the held-out frames.
    seed: of batches and noise.
    """

    minutes: float
    batch: int
    checkpoint: Path
    best: Path | None = None
    augment: bool = False
    checkpoint_seconds: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class HeadHooks:
    """Who listens to a training of the head, and who may interfere.

    on_progress: told every other second, with the figures step, its, quality and losses.
    on_sample: gets real held-out frames (n, size, size, 3) uint8, what was drawn of them, and the curve, whenever they are drawn.
    sample_requested: says that somebody wants to see them now.
    stop: True ends the training here, as if its time were up.
    """

    on_progress: OnProgress = nobody_listens
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
    """Train for so many minutes in all, going on from the checkpoint where it exists; the same call resumes.

    held_out: the same people's frames that are never trained on; their PSNR is the quality that is told.
    Errors: ValueError for a checkpoint of other networks.
    """
    if options.checkpoint.exists():
        training.load(options.checkpoint)
    state, seconds = training.state, 60 * options.minutes
    workers = 0 if training.accelerator.device.type == "cpu" else max(1, usable_cores() - 2)  # a GPU outruns what one core draws
    frames = HeadBatches(people, options.batch, options.augment, options.seed)
    batches = iter(DataLoader(frames, batch_size=None, sampler=range(state.step, MOST_STEPS), num_workers=workers))
    saved = told = time.monotonic()
    while state.seconds < seconds and not hooks.stop():
        began = time.monotonic()
        torch.manual_seed(options.seed * 1_000_003 + state.step)
        losses = training.step(next(batches), state.seconds / seconds)
        now = time.monotonic()
        state.seconds += now - began
        if now - told > TELL_SECONDS:
            told = now
            hooks.on_progress(_progress_of(state, seconds, losses))
            if hooks.sample_requested() and held_out:
                _measure(training, held_out, options.best, hooks.on_sample)
        if now - saved > options.checkpoint_seconds:
            _measure(training, held_out, options.best, hooks.on_sample)
            training.save(options.checkpoint)
            saved = time.monotonic()
    _measure(training, held_out, options.best, hooks.on_sample)
    training.save(options.checkpoint)
    return state


def _progress_of(state: HeadState, seconds: float, losses: dict[str, float]) -> Progress:
    percent = round(min(100.0, 100 * state.seconds / seconds), 1)
    figures = {"step": state.step, "its": round(state.step / state.seconds, 2)}
    figures |= {"quality": state.quality()} if state.curve else {}
    figures |= {name: round(value, 4) for name, value in losses.items()}
    return Progress("head", percent, 100, seconds_left=round(max(0.0, seconds - state.seconds)), figures=figures)


def _measure(training: HeadTraining, held_out: list[PersonFrames], best: Path | None, on_sample: Callable | None) -> None:
    """Draw the held-out frames, and add their PSNR to the curve."""
    if not held_out:
        return
    generator, mapping = training.networks()
    drawn = [drawn_frames(generator, mapping, person) for person in held_out]
    quality = float(np.mean([mean_psnr(pictures, person.frames) for pictures, person in zip(drawn, held_out)]))
    curve = training.state.curve
    curve.append({"seconds": training.state.seconds, "psnr": quality})
    if best is not None and quality >= max(point["psnr"] for point in curve):
        training.save_best(best)
    if on_sample is not None:
        on_sample(held_out[0].frames, drawn[0], curve)
