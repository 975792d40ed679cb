"""The training loop: exact resume, averaged weights, and what it refuses."""

from dataclasses import dataclass

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from gmtalker.training.loop import TrainOptions, fit


@dataclass(frozen=True)
class Pairs:
    given: Tensor
    wanted: Tensor


class Line(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.layer = nn.Linear(size, 1)
        self.dropout = nn.Dropout(0.1)  # draws random numbers, which a resumed run must draw again

    def loss(self, batch):
        error = (self.dropout(self.layer(batch.given)) - batch.wanted).square().mean()
        return {"error": error, "total": error}


def batches(number):
    given = torch.randn(16, 3, generator=torch.Generator().manual_seed(number))
    return Pairs(given, given.sum(1, keepdim=True))


def made():
    torch.manual_seed(0)
    return Line()


def options(steps, **others):
    return TrainOptions("line", steps=steps, learning_rate=0.05, warm_up=5, ema_decay=0.9, device="cpu", **others)


def test_it_learns_and_reports(tmp_path):
    model, reports = made(), []
    state = fit(model, batches, tmp_path, options(300), reports.append, lambda model: {"bias": abs(model.layer.bias.item())})
    assert state.step == 300 and not model.training
    torch.testing.assert_close(model.layer.weight, torch.ones(1, 3), atol=0.2, rtol=0)
    last = reports[-1]
    assert last.stage == "line" and last.stage_percent == 100 and {"error", "bias", "its"} <= last.figures.keys()


def test_resuming_is_exact(tmp_path):
    whole, first, second = made(), made(), made()
    fit(whole, batches, tmp_path / "whole", options(20))

    class Interrupted(Exception):
        pass

    def breaking(number):
        if number == 12:
            raise Interrupted
        return batches(number)

    with pytest.raises(Interrupted):
        fit(first, breaking, tmp_path / "parts", options(20, checkpoint_seconds=0.0))
    fit(second, batches, tmp_path / "parts", options(20))
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), atol=0, rtol=0)


def test_batches_made_ahead_are_the_same(tmp_path):
    here, ahead = made(), made()
    fit(here, batches, tmp_path / "here", options(12))
    fit(made(), batches, tmp_path / "ahead", options(5, ahead=True))
    fit(ahead, batches, tmp_path / "ahead", options(12, ahead=True))  # resumed at step 5
    fit(made(), batches, tmp_path / "alone", options(5))
    resumed = made()
    fit(resumed, batches, tmp_path / "alone", options(12))
    torch.testing.assert_close(ahead.state_dict(), resumed.state_dict(), atol=0, rtol=0)
    whole = made()
    fit(whole, batches, tmp_path / "whole", options(12, ahead=True))
    torch.testing.assert_close(whole.state_dict(), here.state_dict(), atol=0, rtol=0)


def test_the_names_in_a_checkpoint_stay_what_they_were(tmp_path):
    """A training that was stopped by an older version goes on in this one."""
    fit(made(), batches, tmp_path, options(2))
    with safe_open(str(tmp_path / "checkpoint.safetensors"), framework="pt") as file:
        assert set(file.metadata()) == {"step", "seconds", "average_step"}
        assert set(file.keys()) == {"weights.layer.weight", "weights.layer.bias", "average.0", "average.1"} | {
            f"optimizer.{index}.{part}" for index in range(2) for part in ("step", "exp_avg", "exp_avg_sq")
        }


def test_a_finished_training_is_not_repeated(tmp_path):
    fit(made(), batches, tmp_path, options(5))
    again = fit(made(), lambda number: pytest.fail("trained again"), tmp_path, options(5))
    assert again.step == 5


def test_time_is_kept(tmp_path):
    state = fit(made(), batches, tmp_path, TrainOptions("line", minutes=0.005, device="cpu"))
    assert 0.3 <= state.seconds < 1.0


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    fit(made(), batches, tmp_path, options(3))
    with pytest.raises(ValueError, match="another model"):
        fit(Line(4), batches, tmp_path, options(5))


def test_endless_infinities_end_it(tmp_path):
    broken = Pairs(torch.full((2, 3), float("nan")), torch.zeros(2, 1))
    model = made()
    with pytest.raises(FloatingPointError):
        fit(model, lambda number: broken, tmp_path, options(1000))
    assert torch.isfinite(model.layer.weight).all()
