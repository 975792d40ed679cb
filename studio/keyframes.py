"""Keyframes of the emotion timeline: from the table's rows and from a script, and drawn as curves over the speech."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gmtalker.clock import EMOTIONS, FPS, frames_for
from gmtalker.emotion_of_voice import timeline_of_voice
from gmtalker.emotion_script import timeline_of_script
from gmtalker.errors import UnusableInput
from gmtalker.measure.plots import COLOURS, blank_figure
from gmtalker.media.audio import read_speech, silent_frames, sound_seconds
from gmtalker.tracks import EmotionKey, EmotionWeights
from studio.components import MIXED

WAVEFORM_BARS = 400
AXES = (0.05, 0.22, 0.93, 0.74)  # of the picture of the curves: left, bottom, width, height
GRAB_SHARE = 0.03  # of the picture's width: within it a keyframe is taken hold of
SECONDS_MAX = 24 * 3600


def filled_rows(rows: Sequence[Sequence] | None) -> list[list[float]]:
    """The non-empty rows of the table, with empty cells as 0.

    Errors: ValueError for a cell that is not a number.
    """
    filled = []
    for row in rows or []:
        cells = [None if cell is None or str(cell).strip() == "" else cell for cell in row]
        if any(cell is not None for cell in cells):
            try:
                filled.append([float(cell or 0.0) for cell in cells])
            except (TypeError, ValueError) as error:
                raise ValueError("Every cell takes a number: a time in seconds, or a weight from 0 to 1") from error
    return filled


def keys_of(rows: Sequence[Sequence] | None) -> tuple[EmotionKey, ...]:
    """The table's rows as the keys of a timeline.

    Errors: ValueError for a row that can't be one.
    """
    keys = tuple(
        EmotionKey(time, {name: weight for name, weight in zip(MIXED, weights) if weight}) for time, *weights in filled_rows(rows)
    )
    if keys:
        EmotionWeights.from_timeline(keys, 1)  # says what is wrong with them
    if any(not 0 <= key.time < SECONDS_MAX for key in keys):
        raise ValueError("The time of a keyframe is a number of seconds from 0 on")
    return keys


def rows_of(keys: Sequence[EmotionKey] | None) -> list[list[float]]:
    """The table's rows for the keys of a timeline."""
    return [[key.time, *(key.emotion.get(name, 0.0) for name in MIXED)] for key in keys or ()]


def rows_of_script(script: str, speech: str) -> list[list[float]]:
    """The table's rows for a script with tags that is spread over a speech.

    speech: a sound file.
    Errors: ValueError for a script that can't be read; UnusableSpeech.
    """
    waveform = read_speech(speech)
    return rows_of(timeline_of_script(script, silent_frames(waveform, frames_for(len(waveform)))))


def rows_of_voice(speech: str) -> list[list[float]]:
    """The table's rows for the emotions that the voice in a sound file expresses. Errors: UnusableInput."""
    return rows_of(timeline_of_voice(read_speech(speech)))


def dragged(
    places: Sequence[float], rows: Sequence[Sequence], moment: float, speech: str | None
) -> tuple[list[list[float]], float]:
    """The table after a drag in the picture of the curves.

    places: where the pointer went down and where it came up, as shares of the picture's width.
    moment: where the next keyframe was to be added.
    Returns: the rows, with the keyframe moved that was taken hold of; and where the next one is to be added now.
    Errors: ValueError for a cell that is no number.
    """
    rows = filled_rows(rows)
    if not rows:
        return rows, moment
    seconds = _picture_seconds(keys_of(rows), speech)
    first, last = (min(max((place - AXES[0]) / AXES[2], 0.0), 1.0) * seconds for place in places)
    last = round(last, 1)
    nearest = min(rows, key=lambda row: abs(row[0] - first))
    if abs(nearest[0] - first) > GRAB_SHARE * seconds:
        return rows, last
    others = [row for row in rows if row is not nearest and row[0] != last]
    return sorted([*others, [last, *nearest[1:]]]), last


def _picture_seconds(keys: Sequence[EmotionKey], speech: str | None) -> float:
    """How much time the picture of a timeline shows: that of the speech, or a little more than the keyframes."""
    try:
        seconds = sound_seconds(Path(speech)) if speech else 0.0
    except UnusableInput:  # creating the video will say it
        seconds = 0.0
    return seconds or max(key.time for key in keys) + 1.0


def draw_curves(keys: Sequence[EmotionKey], speech: str | None, intensity: float = 1.0) -> np.ndarray:
    """The emotions of a timeline over the loudness of the speech, where there is one.

    Returns: (height, width, 3) uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late, as in blank_figure: matplotlib takes a second to import

    seconds = _picture_seconds(keys, speech)
    figure = blank_figure(8, 2.2, dpi=100)
    axes = figure.add_axes(AXES)
    if speech:
        _draw_loudness(axes, speech, seconds)
    frames = max(2, int(seconds * FPS))
    weights = EmotionWeights.from_timeline(keys, frames, min(intensity, 1.0)).weights.numpy()
    for index, (name, colour) in enumerate(zip(EMOTIONS, COLOURS)):
        if index and weights[:, index].max() > 0:
            axes.plot(np.arange(frames) / FPS, weights[:, index], color=colour, label=name, lw=2)
    for key in keys:
        axes.axvline(key.time, color="#475569", lw=1.2, ls=":")
        axes.plot(key.time, 1.0, marker="v", color="#475569", clip_on=False)  # what to take hold of
    axes.set(xlim=(0, seconds), ylim=(0, 1.05), xlabel="s")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", frameon=False, ncols=4, fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_loudness(axes, speech: str, seconds: float) -> None:
    try:
        waveform = np.abs(read_speech(speech))
    except UnusableInput:
        return
    if len(waveform):
        bars = np.array([part.max() if len(part) else 0.0 for part in np.array_split(waveform, WAVEFORM_BARS)])
        axes.fill_between(np.linspace(0, seconds, WAVEFORM_BARS), 0, 0.95 * bars / max(bars.max(), 1e-6), color="#cbd5e1", lw=0)
