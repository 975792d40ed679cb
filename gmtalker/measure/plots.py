"""Pictures of what the measures found: the mixture, the way between two emotions, traces of lips and heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from gmtalker.avatars.avatar import Avatar
from gmtalker.clock import EMOTIONS, FPS
from gmtalker.media.video_writer import write_picture
from gmtalker.pipeline import GMTalkerPipeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SAMPLES = 60  # of each mixture component
STRIP = 7  # faces from one emotion to the other
COLOURS = ("#777777", "#d62728", "#8c564b", "#2ca02c", "#9467bd", "#ff7f0e", "#1f77b4", "#e377c2")  # in the order of EMOTIONS


def draw_generic(pipeline: GMTalkerPipeline, avatar: Avatar, motions: Sequence[np.ndarray], folder: Path) -> None:
    """mixture.png, angry-to-happy.jpg and head-motion.png in folder. motions: takes (frames, 10) of one speech."""
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(_mixture(pipeline), folder / "mixture.png")
    save_figure(_heads(motions), folder / "head-motion.png")
    write_picture(folder / "angry-to-happy.jpg", between(pipeline, avatar, "angry", "happy"))


def between(pipeline: GMTalkerPipeline, avatar: Avatar, first: str, second: str) -> np.ndarray:
    """The avatar's still on the way from one emotion to another: (height, STRIP * width, 3) uint8."""
    shares = np.linspace(0, 1, STRIP)
    return np.concatenate([pipeline.still(avatar, {first: 1 - share, second: share}) for share in shares], axis=1)


def draw_lips(real: np.ndarray, made: np.ndarray, path: Path) -> None:
    """Traces of lip opening (frames,), the real person's and the avatar's for the same speech, as a png."""
    figure = blank(10, 2.6, layout="tight")
    axes = figure.subplots()
    for values, name, style in ((real, "real person", {"color": "black", "lw": 1.0}), (made, "avatar", {"color": "#1f77b4"})):
        axes.plot(np.arange(len(values)) / FPS, values, label=name, **style)
    axes.set(xlabel="seconds", ylabel="lip opening, eye distances", xlim=(0, len(real) / FPS))
    axes.legend(loc="upper right", frameon=False)
    save_figure(figure, path)


def draw_curves(curves: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """PSNR over training time, as a png: curves holds (seconds, PSNR) of each training by its name."""
    figure = blank(7, 3.6, layout="tight")
    axes = figure.subplots()
    for name, curve in curves.items():
        seconds, quality = np.array(curve, float).T
        axes.plot(seconds / 60, quality, marker=".", label=name)
    axes.set(xlabel="minutes of training", ylabel="PSNR on held-out frames, dB")
    axes.legend(loc="lower right", frameon=False)
    save_figure(figure, path)


@torch.no_grad()
def _mixture(pipeline: GMTalkerPipeline) -> Figure:
    """Samples of every component, on the two directions in which the components' means differ most."""
    generator = pipeline.expression_generator
    drawn = torch.Generator().manual_seed(0)
    w = torch.randn(SAMPLES, generator.config.w_dim, generator=drawn).to(generator.device)
    means, log_variances = (values.cpu() for values in generator.components(w))  # (SAMPLES, 8, dz)
    noise = torch.randn(means.shape, generator=drawn)
    samples = means + (0.5 * log_variances).exp() * noise
    middle = means.mean((0, 1))
    _, _, directions = torch.linalg.svd(means.mean(0) - middle)
    flat, centres = (((values - middle) @ directions[:2].T).numpy() for values in (samples, means.mean(0)))
    figure = blank(6, 5, layout="tight")
    axes = figure.subplots()
    for index, (emotion, colour) in enumerate(zip(EMOTIONS, COLOURS)):
        axes.scatter(*flat[:, index].T, s=6, color=colour, alpha=0.35, linewidths=0)
        axes.scatter(*centres[index], s=70, color=colour, edgecolors="black", linewidths=0.6)
        axes.annotate(emotion, centres[index], xytext=(6, 6), textcoords="offset points")
    axes.set(xlabel="first direction of the means", ylabel="second direction", title="Mixture of z, 60 draws of w and z")
    return figure


def _heads(motions: Sequence[np.ndarray]) -> Figure:
    figure = blank(10, 4, layout="tight")
    for axes, column, name in zip(figure.subplots(2, 1, sharex=True), (0, 1), ("yaw", "pitch")):
        for motion in motions:
            axes.plot(np.arange(len(motion)) / FPS, np.degrees(motion[:, column]), lw=0.9)
        axes.set(ylabel=f"{name}, degrees")
    axes.set(xlabel="seconds")
    figure.suptitle(f"Head motion of {len(motions)} seeds for one speech")
    return figure


def blank(width: float, height: float, **options) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure  # late: half a second that opening the page need not wait for

    return Figure(figsize=(width, height), **options)


def save_figure(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(str(path))
