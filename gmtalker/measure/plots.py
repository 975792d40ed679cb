"""Pictures of what the measures found: the mixture, a blend of two emotions, traces of lips and heads, mouths, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from gmtalker.avatars.avatar import Avatar
from gmtalker.clock import EMOTIONS, FPS
from gmtalker.face.landmarks import LIPS
from gmtalker.media.video_writer import write_picture
from gmtalker.pipeline import GMTalkerPipeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MIXTURE_SAMPLES = 60  # of each component
BLENDS = 7  # faces from one emotion to the other
MOUTHS_IN_A_ROW, MOUTH_SIZE, MOUTH_MARGIN = 6, (240, 180), 0.8  # width and height in pixels; half a tile in mouth widths
COLOURS = ("#777777", "#d62728", "#8c564b", "#2ca02c", "#9467bd", "#ff7f0e", "#1f77b4", "#e377c2")  # in the order of EMOTIONS


def draw_generic(pipeline: GMTalkerPipeline, avatar: Avatar, motions: Sequence[np.ndarray], folder: Path) -> None:
    """Draw mixture.png, angry-to-happy.jpg and head-motion.png.

    motions: takes (frames, 10) of one speech.
    folder: made when it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(_mixture(pipeline), folder / "mixture.png")
    save_figure(_head_motion(motions), folder / "head-motion.png")
    write_picture(folder / "angry-to-happy.jpg", blend_strip(pipeline, avatar, "angry", "happy"))


def blend_strip(pipeline: GMTalkerPipeline, avatar: Avatar, first: str, second: str) -> np.ndarray:
    """Stills of an avatar from one emotion to another, side by side: (height, BLENDS * width, 3) uint8."""
    shares = np.linspace(0, 1, BLENDS)
    return np.concatenate([pipeline.still(avatar, {first: 1 - share, second: share}) for share in shares], axis=1)


def draw_lips(real: np.ndarray, made: np.ndarray, path: Path) -> None:
    """Plot lip openings (frames,) of the real person and of the avatar for the same speech, into a png file."""
    figure = blank_figure(10, 2.6, layout="tight")
    axes = figure.subplots()
    for values, name, style in ((real, "real person", {"color": "black", "lw": 1.0}), (made, "avatar", {"color": "#1f77b4"})):
        axes.plot(np.arange(len(values)) / FPS, values, label=name, **style)
    axes.set(xlabel="seconds", ylabel="lip opening, eye distances", xlim=(0, len(real) / FPS))
    axes.legend(loc="upper right", frameon=False)
    save_figure(figure, path)


def draw_mouths(frames: Sequence[np.ndarray], points: np.ndarray, titles: Sequence[str], path: Path) -> None:
    """Draw the mouths of frames, enlarged and titled, as a sheet into a jpg file.

    frames: (height, width, 3) uint8 each.
    points: (frames, 478, 3) of the face in them, in pixels.
    path: its folder is made when it is missing.
    """
    columns = min(len(frames), MOUTHS_IN_A_ROW)
    tiles = []
    for frame, lips, title in zip(frames, points[:, list(LIPS), :2], titles):
        half = np.ptp(lips[:, 0]) * MOUTH_MARGIN
        corner = np.maximum(lips.mean(0) - half * np.array([1.0, 0.75]), 0).astype(int)
        part = frame[corner[1] : corner[1] + round(1.5 * half), corner[0] : corner[0] + round(2 * half)]
        tile = cv2.resize(part, MOUTH_SIZE, interpolation=cv2.INTER_CUBIC)
        tiles.append(cv2.putText(tile, title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 0), 1, cv2.LINE_AA))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [np.concatenate(tiles[first : first + columns], axis=1) for first in range(0, len(tiles), columns)]
    write_picture(path, np.concatenate(rows))


def draw_curves(curves: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """Plot quality over training time into a png file.

    curves: points (seconds, PSNR in dB) of each training, by its name.
    """
    figure = blank_figure(7, 3.6, layout="tight")
    axes = figure.subplots()
    for name, curve in curves.items():
        seconds, quality = np.array(curve, float).T
        axes.plot(seconds / 60, quality, marker=".", label=name)
    axes.set(xlabel="minutes of training", ylabel="PSNR on held-out frames, dB")
    axes.legend(loc="lower right", frameon=False)
    save_figure(figure, path)


@torch.no_grad()
def _mixture(pipeline: GMTalkerPipeline) -> Figure:
    """Samples of every component, in the two directions in which the components' means differ most."""
    generator = pipeline.expression_generator
    random = torch.Generator().manual_seed(0)
    w = torch.randn(MIXTURE_SAMPLES, generator.config.w_dim, generator=random).to(generator.device)
    means, log_variances = (values.cpu() for values in generator.components(w))  # (MIXTURE_SAMPLES, 8, z_dim)
    noise = torch.randn(means.shape, generator=random)
    samples = means + (0.5 * log_variances).exp() * noise
    middle = means.mean((0, 1))
    _, _, directions = torch.linalg.svd(means.mean(0) - middle)
    flat, centres = (((values - middle) @ directions[:2].T).numpy() for values in (samples, means.mean(0)))
    figure = blank_figure(6, 5, layout="tight")
    axes = figure.subplots()
    for index, (emotion, colour) in enumerate(zip(EMOTIONS, COLOURS)):
        axes.scatter(*flat[:, index].T, s=6, color=colour, alpha=0.35, linewidths=0)
        axes.scatter(*centres[index], s=70, color=colour, edgecolors="black", linewidths=0.6)
        axes.annotate(emotion, centres[index], xytext=(6, 6), textcoords="offset points")
    title = f"Mixture of z, {MIXTURE_SAMPLES} draws of w and z"
    axes.set(xlabel="first direction of the means", ylabel="second direction", title=title)
    return figure


def _head_motion(motions: Sequence[np.ndarray]) -> Figure:
    """Yaw and pitch of takes (frames, 10) over time."""
    figure = blank_figure(10, 4, layout="tight")
    for axes, column, name in zip(figure.subplots(2, 1, sharex=True), (0, 1), ("yaw", "pitch")):
        for motion in motions:
            axes.plot(np.arange(len(motion)) / FPS, np.degrees(motion[:, column]), lw=0.9)
        axes.set(ylabel=f"{name}, degrees")
    axes.set(xlabel="seconds")
    figure.suptitle(f"Head motion of {len(motions)} seeds for one speech")
    return figure


def blank_figure(width: float, height: float, **options) -> Figure:
    """An empty figure.

    width, height: in inches.
    options: of matplotlib's Figure.
    """
    from matplotlib.figure import Figure  # late: half a second that opening the page need not wait for

    return Figure(figsize=(width, height), **options)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a png file, whatever its name. Errors: OSError when it can't be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(str(path))
