"""The training loop of the generic stages: a network with its own loss, batches indexed by step, a limit of time or steps."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from gmtalker.device import is_half_fast
from gmtalker.progress import OnProgress, Progress
from gmtalker.training.checkpoints import TrainState, load_checkpoint, save_checkpoint

REPORT_SECONDS = 2.0
SKIPPED_STEPS_MAX = 50  # in a row without a finite gradient, before training is given up


@dataclass(frozen=True)
class TrainOptions:
    """How long and how hard to train.

    stage: what is trained, for progress and errors.
    minutes: of training, over all the runs that it takes; None where steps are given.
    steps: the same as a number of steps; then resuming is exact to the bit.
    warm_up: steps in which the learning rate rises.
    gradient_norm_max: at which gradients are clipped.
    ema_decay: of the moving average of the weights.
    precision: "no", or "bf16" for bfloat16 on devices where that is fast.
    checkpoint_seconds, evaluate_seconds: between two checkpoints, and between two evaluations.
    device: "cpu", or None for the best at hand.
    ahead: make the next batches in a process of their own; for batches that draw nothing from torch.
    """

    stage: str
    minutes: float | None = None
    steps: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warm_up: int = 200
    gradient_norm_max: float = 1.0
    ema_decay: float = 0.999
    precision: str = "no"
    checkpoint_seconds: float = 60.0
    evaluate_seconds: float = 300.0
    seed: int = 0
    device: str | None = None
    ahead: bool = False

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("give either minutes or steps")


class _Steps(Dataset):
    """The batch of each step, for torch's DataLoader."""

    def __init__(self, batches: Callable[[int], Any]) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Any:
        return self.batches(number)


class Objective(nn.Module):
    """The model's loss as forward, so that accelerate's distributed wrapper applies to it."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """The model's losses of a batch, by name."""
        # Here and not in the Accelerator, which has one precision for the whole process: the stages differ.
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16" and is_half_fast(device)):
            return self.model.loss(batch)


def fit(
    model: nn.Module,
    batches: Callable[[int], Any],
    folder: Path,
    options: TrainOptions,
    on_progress: OnProgress | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> TrainState:
    """Train a model in place, and leave the moving average of its weights in it.

    model: has loss(batch), a dict of tensors of which "total" is minimised.
    batches: step number to a dataclass of tensors, the same for the same number.
    folder: holds the checkpoint; the same call resumes from it.
    on_progress: called every other second, with the figures step, its and the mean losses since the last call.
    evaluate: measures the averaged model now and then, and at the end; its figures are reported from then on.
    Errors: FloatingPointError when the gradient stays infinite, ValueError for a checkpoint of another model.
    Source: docs/method.md section 14.
    """
    accelerator = Accelerator(cpu=options.device == "cpu")
    objective, optimizer, ema = _prepare(accelerator, model, options)
    checkpoint = Path(folder) / "checkpoint.safetensors"
    state = load_checkpoint(checkpoint, model, optimizer, ema) if checkpoint.exists() else TrainState()
    is_main = accelerator.is_main_process
    reporter = _Reporter(options, state, on_progress if is_main else None)
    batches = _in_turn(batches, state.step, accelerator, options)
    saved = evaluated = time.monotonic()
    skipped = 0
    while reporter.share < 1:
        began = time.monotonic()
        losses, norm = _step(accelerator, objective, optimizer, batches, options, state, reporter.share)
        if math.isfinite(norm):
            ema.step(model.parameters())
        skipped = 0 if math.isfinite(norm) else skipped + 1
        if skipped > SKIPPED_STEPS_MAX:
            raise FloatingPointError(f"{options.stage}: {skipped} steps in a row had no finite gradient")
        state.step += 1
        state.seconds += time.monotonic() - began
        reporter.update(losses)
        done = reporter.share >= 1
        if is_main and (done or time.monotonic() - saved > options.checkpoint_seconds):
            save_checkpoint(checkpoint, model, optimizer, ema, state)
            saved = time.monotonic()
        if is_main and evaluate and (done or time.monotonic() - evaluated > options.evaluate_seconds):
            reporter.figures = _evaluate(model, ema, evaluate)
            evaluated = time.monotonic()
    reporter.report()
    ema.copy_to(model.parameters())
    model.eval()
    return state


def _prepare(accelerator: Accelerator, model: nn.Module, options: TrainOptions) -> tuple[nn.Module, Optimizer, EMAModel]:
    """The objective and its optimizer, on the accelerator's device, and the moving average."""
    objective = Objective(model, options.precision)
    optimizer = torch.optim.AdamW(_parameter_groups(model, options.weight_decay), options.learning_rate, betas=(0.9, 0.98))
    objective, optimizer = accelerator.prepare(objective, optimizer)
    ema = EMAModel(model.parameters(), decay=options.ema_decay, use_ema_warmup=True)
    ema.to(accelerator.device)
    return objective, optimizer, ema


def _in_turn(batches: Callable[[int], Any], first: int, accelerator: Accelerator, options: TrainOptions) -> Callable[[int], Any]:
    """The same batches, made ahead where options say so; they must then be asked for one after another from step `first` on."""
    if not options.ahead:
        return batches
    numbers = itertools.count(first * accelerator.num_processes + accelerator.process_index, accelerator.num_processes)
    loader = iter(DataLoader(_Steps(batches), batch_size=None, sampler=numbers, num_workers=1, prefetch_factor=4))
    return lambda number: next(loader)


def _step(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: Optimizer,
    batches: Callable[[int], Any],
    options: TrainOptions,
    state: TrainState,
    share: float,
) -> tuple[dict[str, float], float]:
    """One optimizer step: the losses, and the gradient's norm. Without a finite gradient the weights stay."""
    number = state.step * accelerator.num_processes + accelerator.process_index
    torch.manual_seed(options.seed * 1_000_003 + number)  # dropout and sampling too are the step's own, so resuming is exact
    objective.train()
    batch = _on_device(batches(number), accelerator.device)
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate * _schedule(state.step, share, options.warm_up)
    losses = objective(batch)
    accelerator.backward(losses["total"])
    norm = accelerator.clip_grad_norm_(objective.parameters(), options.gradient_norm_max).item()
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return {name: loss.item() for name, loss in losses.items()}, norm


def _schedule(step: int, share: float, warm_up: int) -> float:
    """Factor of the learning rate: linear warm-up by steps, then a cosine over the share of training that is done, to 2 %."""
    return min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def _parameter_groups(model: nn.Module, decay: float) -> list[dict]:
    """Parameters with weight decay, and biases, norms and tables without."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _on_device(batch: Any, device: torch.device) -> Any:
    """The batch, a dataclass, with its tensors on the device."""
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return dataclasses.replace(batch, **{name: x.to(device) if hasattr(x, "to") else x for name, x in values.items()})


def _evaluate(model: nn.Module, ema: EMAModel, evaluate: Callable) -> dict[str, float]:
    """Figures of the averaged weights; the trained ones are restored afterwards."""
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    model.eval()
    try:
        with torch.no_grad():
            return evaluate(model)
    finally:
        ema.restore(model.parameters())
        model.train()


class _Reporter:
    """Reports how much of a training is done, with the mean losses since the last report and the figures of the evaluation."""

    def __init__(self, options: TrainOptions, state: TrainState, on_progress: OnProgress | None) -> None:
        self.options, self.state, self.on_progress = options, state, on_progress
        self.sums: dict[str, float] = {}
        self.count, self.reported = 0, time.monotonic()
        self.figures: dict[str, float] = {}

    @property
    def share(self) -> float:
        """Of the training that is done, 0 to 1."""
        if self.options.steps is not None:
            return self.state.step / self.options.steps
        return self.state.seconds / (60 * self.options.minutes)

    def update(self, losses: dict[str, float]) -> None:
        """Add the losses of one more step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if time.monotonic() - self.reported > REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        """Report now, if there was a step since the last time."""
        if not self.count or self.on_progress is None:
            return
        its = self.state.step / max(self.state.seconds, 1e-9)
        left = round(max(self.state.seconds * (1 / max(self.share, 1e-9) - 1), 0))
        means = {name: round(value / self.count, 5) for name, value in self.sums.items()}
        figures = {"step": self.state.step, "its": round(its, 2)} | means | self.figures
        percent = round(min(100.0, 100 * self.share), 1)
        self.on_progress(Progress(self.options.stage, percent, 100, seconds_left=left, figures=figures))
        self.sums, self.count, self.reported = {}, 0, time.monotonic()
