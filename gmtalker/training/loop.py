"""The one training loop of the generic stages: a model that owns its loss, batches by number, a time to be done by."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from gmtalker.progress import OnProgress, Progress
from gmtalker.training.checkpoints import TrainState, _load_checkpoint, _save_checkpoint

REPORT_SECONDS = 2.0
MOST_SKIPPED = 50  # steps in a row without a finite gradient before training is given up


@dataclass(frozen=True)
class TrainOptions:
    """How long and how hard to train.

    minutes: training time, over all the runs that it takes; steps: the same as a number of steps (then resuming is exact to the
    bit). precision: "no" or "bf16". device: "cpu", or None for the best at hand.
    """

    stage: str
    minutes: float | None = None
    steps: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warm_up: int = 200
    largest_gradient: float = 1.0
    average: float = 0.999
    precision: str = "no"
    checkpoint_seconds: float = 60.0
    evaluate_seconds: float = 300.0
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("give either minutes or steps")


class Objective(nn.Module):
    """Calls the model's loss from forward, where accelerate hooks in its processes."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, batch: Any) -> dict[str, Tensor]:
        # Here and not in the Accelerator, which has one precision for the whole process: the stages differ.
        with torch.autocast(next(self.model.parameters()).device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.model.loss(batch)


def fit(
    model: nn.Module,
    batches: Callable[[int], Any],
    folder: Path,
    options: TrainOptions,
    on_progress: OnProgress | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> TrainState:
    """Trains model in place, and leaves the average of its weights in it.

    batches: step number to a dataclass of tensors, the same for the same number. folder: holds the checkpoint; the same call goes
    on from it. on_progress: told with the figures step, its and the losses' means. evaluate: measures the
    averaged model now and then, and at the end.
    Errors: FloatingPointError when the loss stays infinite, ValueError for a checkpoint of another model.
    """
    accelerator = Accelerator(cpu=options.device == "cpu")
    objective = Objective(model, options.precision)
    optimizer = torch.optim.AdamW(_parameter_groups(model, options.weight_decay), options.learning_rate, betas=(0.9, 0.98))
    objective, optimizer = accelerator.prepare(objective, optimizer)
    average = EMAModel(model.parameters(), decay=options.average, use_ema_warmup=True)
    average.to(accelerator.device)
    checkpoint = Path(folder) / "checkpoint.safetensors"
    state = _load_checkpoint(checkpoint, model, optimizer, average) if checkpoint.exists() else TrainState()
    teller = _Teller(options, state, on_progress if accelerator.is_main_process else None)

    saved = measured = time.monotonic()
    skipped = 0
    while teller.share < 1:
        began = time.monotonic()
        losses, norm = _step(accelerator, objective, optimizer, batches, options, state, teller.share)
        if math.isfinite(norm):
            average.step(model.parameters())
        skipped = 0 if math.isfinite(norm) else skipped + 1
        if skipped > MOST_SKIPPED:
            raise FloatingPointError(f"{options.stage}: {skipped} steps in a row had no finite gradient")
        state.step += 1
        state.seconds += time.monotonic() - began
        teller.update(losses)
        done = teller.share >= 1
        if accelerator.is_main_process and (done or time.monotonic() - saved > options.checkpoint_seconds):
            _save_checkpoint(checkpoint, model, optimizer, average, state)
            saved = time.monotonic()
        if accelerator.is_main_process and evaluate and (done or time.monotonic() - measured > options.evaluate_seconds):
            teller.note(_evaluate(model, average, evaluate))
            measured = time.monotonic()
    teller.tell()
    average.copy_to(model.parameters())
    model.eval()
    return state


def _step(
    accelerator, objective, optimizer, batches, options: TrainOptions, state: TrainState, share: float
) -> tuple[dict, float]:
    """One optimizer step: the losses' parts and the gradient's norm. Without a finite gradient the weights stay."""
    number = state.step * accelerator.num_processes + accelerator.process_index
    torch.manual_seed(options.seed * 1_000_003 + number)  # dropout and sampling too are the step's own, so resuming is exact
    objective.train()
    batch = _on_device(batches(number), accelerator.device)
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate * _schedule(state.step, share, options.warm_up)
    parts = objective(batch)
    accelerator.backward(parts["total"])
    norm = accelerator.clip_grad_norm_(objective.parameters(), options.largest_gradient).item()
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return {name: part.item() for name, part in parts.items()}, norm


def _schedule(step: int, share: float, warm_up: int) -> float:
    """Linear warm-up by steps, then a cosine over the share of training that is done, down to a fiftieth."""
    return min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def _parameter_groups(model: nn.Module, decay: float) -> list[dict]:
    """Biases, norms and tables are not decayed."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _on_device(batch: Any, device: torch.device) -> Any:
    moved = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return dataclasses.replace(batch, **{name: x.to(device) if isinstance(x, Tensor) else x for name, x in moved.items()})


def _evaluate(model: nn.Module, average: EMAModel, evaluate: Callable) -> dict[str, float]:
    """Measures of the averaged weights; the trained ones are put back afterwards."""
    average.store(model.parameters())
    average.copy_to(model.parameters())
    model.eval()
    try:
        with torch.no_grad():
            return evaluate(model)
    finally:
        average.restore(model.parameters())
        model.train()


class _Teller:
    """Tells how much of a training is done, with the means of its losses since it last told."""

    def __init__(self, options: TrainOptions, state: TrainState, on_progress: OnProgress | None) -> None:
        self.options, self.state, self.on_progress = options, state, on_progress
        self.sums: dict[str, float] = {}
        self.count, self.told, self.measures = 0, time.monotonic(), {}

    @property
    def share(self) -> float:
        """Of the training that is done: 0 to 1."""
        if self.options.steps is not None:
            return self.state.step / self.options.steps
        return self.state.seconds / (60 * self.options.minutes)

    def note(self, measures: dict[str, float]) -> None:
        """Measures that are told from now on."""
        self.measures = measures

    def update(self, losses: dict[str, float]) -> None:
        """The losses of one more step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if time.monotonic() - self.told > REPORT_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Tell now, if there was a step since the last time."""
        if not self.count or self.on_progress is None:
            return
        its = self.state.step / max(self.state.seconds, 1e-9)
        left = round(max(self.state.seconds * (1 / max(self.share, 1e-9) - 1), 0))
        means = {name: round(value / self.count, 5) for name, value in self.sums.items()}
        figures = {"step": self.state.step, "its": round(its, 2)} | means | self.measures
        percent = round(min(100.0, 100 * self.share), 1)
        self.on_progress(Progress(self.options.stage, percent, 100, seconds_left=left, figures=figures))
        self.sums, self.count, self.told = {}, 0, time.monotonic()
