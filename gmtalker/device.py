"""Where the networks run, and in which precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def choose_device(device: str | torch.device | None) -> torch.device:
    """The requested device, or without a request the best available one.

    device: None for "cuda" where there is one, else "cpu"; Apple's "mps" must be requested, as nobody has measured it yet.
    Errors: ValueError when it is unknown or not on this machine.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"There is no device {device!r}; choose cpu, cuda or mps") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(chosen.type):
        raise ValueError(f"The device {device!r} is not on this machine; choose cpu")
    return chosen


def is_half_fast(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on a device: CPUs without the instructions emulate it, many times slower."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def usable_cores() -> int:
    """Number of cores this process may use: a container or a batch system often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_core() -> Iterator[None]:
    """Restricts torch to one core inside the block, in this thread.

    Torch splits even a tiny layer over all cores, which wait for each other after it: a network that works frame by frame takes
    ten times as long, and fifty times on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
