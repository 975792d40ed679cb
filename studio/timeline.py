"""Emotion over time: keys in a table, from the sliders or from a script with tags, and their curves over the speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gradio as gr
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gmtalker.audio import read_speech, silent_frames
from gmtalker.emotion_script import timeline_of_script
from gmtalker.errors import UnusableInput
from gmtalker.models.mel import SAMPLE_RATE, frames_for
from gmtalker.tracks import EMOTIONS, FPS, EmotionWeights
from personalize.pictures import COLOURS
from studio.look import or_sentence, refusal
from studio.words import say, word

MIXED = EMOTIONS[1:]  # what the table holds; neutral is what they leave over
UNREADABLE = [{"time": None, "emotion": {}}]  # keys that no request takes: what stands in the table can't be used
BARS = 400  # of the waveform


@dataclass(frozen=True)
class Timeline:
    """What the rest of the tab reads: the keys as a request takes them, and the table that they are typed into."""

    keys: gr.JSON
    table: gr.Dataframe


def timeline_controls(speech: gr.Audio, sliders: Sequence[gr.Slider], intensity: gr.Slider) -> Timeline:
    """Lay the controls out. sliders: those of MIXED, whose mixture a new key takes."""
    private = {"api_visibility": "private", "show_progress": "hidden"}
    gr.Markdown(word("timeline_about"))
    with gr.Row(equal_height=True):
        moment = gr.Number(0, label=word("key_time"), info=word("key_time_info"), minimum=0, step=0.5, elem_id="key-time")
        with gr.Column(min_width=120):
            add = gr.Button(word("key_add"), elem_id="key-add")
            clear = gr.Button(word("key_clear"), elem_id="key-clear")
    table = gr.Dataframe(
        [],
        headers=["second", *MIXED],
        datatype="number",
        type="array",
        interactive=True,
        row_count=(0, "dynamic"),
        column_count=(1 + len(MIXED), "fixed"),
        label=word("keys"),
        elem_id="keys",
        wrap=True,
        buttons=[],
    )
    script = gr.Textbox(label=word("script"), info=word("script_info"), lines=2, elem_id="script")
    apply = gr.Button(word("script_apply"), elem_id="script-apply")
    about = gr.Markdown(word("curves"), elem_classes="note", visible=False)
    curves = gr.Image(
        show_label=False, type="numpy", interactive=False, buttons=[], format="png", elem_id="curves", visible=False
    )
    keys = gr.JSON([], visible=False, elem_id="timeline-keys")

    def added(rows: list[list], moment: float | None, *weights: float) -> list[list]:
        others = [row for row in or_sentence(_filled, rows) if row[0] != (moment or 0.0)]
        return sorted([*others, [float(moment or 0.0), *weights]])

    def from_script(script: str, speech: str | None, request: gr.Request) -> list[list]:
        if not speech:
            raise refusal(say(request, "speech_before_script"))
        waveform = or_sentence(read_speech, speech)
        found = or_sentence(timeline_of_script, script, silent_frames(waveform, frames_for(len(waveform))))
        return [[key["time"], *(key["emotion"].get(name, 0.0) for name in MIXED)] for key in found]

    def understood(rows: list[list], speech: str | None, intensity: float) -> tuple[list[dict], gr.Markdown, gr.Image]:
        try:
            found = keys_of(rows)
        except ValueError as error:
            gr.Warning(str(error))
            return UNREADABLE, gr.Markdown(visible=False), gr.Image(visible=False)
        drawn = or_sentence(draw_curves, found, speech, intensity) if found else None
        return found, gr.Markdown(visible=bool(found)), gr.Image(drawn, visible=bool(found))

    add.click(added, [table, moment, *sliders], table, **private)
    clear.click(lambda: [], None, table, **private)
    apply.click(from_script, [script, speech], table, **private)
    read = [table, speech, intensity]
    gr.on([table.change, speech.change, intensity.release], understood, read, [keys, about, curves], **private)
    return Timeline(keys, table)


def _filled(rows: Sequence[Sequence] | None) -> list[list[float]]:
    """The rows of the table that hold anything, empty cells as 0. Errors: ValueError for what is no number."""
    filled = []
    for row in rows or []:
        cells = [None if cell is None or str(cell).strip() == "" else cell for cell in row]
        if any(cell is not None for cell in cells):
            try:
                filled.append([float(cell or 0.0) for cell in cells])
            except (TypeError, ValueError) as error:
                raise ValueError("Every cell of the keys takes a number: seconds, and weights from 0 to 1") from error
    return filled


def keys_of(rows: Sequence[Sequence] | None) -> list[dict]:
    """The table's rows as keys of a timeline. Errors: ValueError for what can't be one."""
    keys = [
        {"time": time, "emotion": {name: weight for name, weight in zip(MIXED, weights) if weight}}
        for time, *weights in _filled(rows)
    ]
    if keys:
        EmotionWeights.from_timeline(keys, 1)  # says what is wrong with them
    if any(not 0 <= key["time"] < 24 * 3600 for key in keys):
        raise ValueError("A key stands at a second from 0 on")
    return keys


def draw_curves(keys: Sequence[Mapping], speech: str | None, intensity: float = 1.0) -> np.ndarray:
    """(height, width, 3) uint8: the emotions of a timeline over the loudness of the speech, as far as there is one."""
    seconds = max(key["time"] for key in keys) + 1.0
    figure = Figure(figsize=(8, 2.2), dpi=100, layout="tight")
    axes = figure.subplots()
    if speech:
        try:
            waveform = np.abs(read_speech(speech))
        except UnusableInput:  # creating the video will say it
            waveform = np.zeros(0)
        if len(waveform):
            seconds = len(waveform) / SAMPLE_RATE
            bars = np.array([part.max() if len(part) else 0.0 for part in np.array_split(waveform, BARS)])
            times = np.linspace(0, seconds, BARS)
            axes.fill_between(times, 0, 0.95 * bars / max(bars.max(), 1e-6), color="#cbd5e1", lw=0)
    frames = max(2, int(seconds * FPS))
    weights = EmotionWeights.from_timeline(keys, frames, min(intensity, 1.0)).weights.numpy()
    for index, (name, colour) in enumerate(zip(EMOTIONS, COLOURS)):
        if index and weights[:, index].max() > 0:
            axes.plot(np.arange(frames) / FPS, weights[:, index], color=colour, label=name, lw=2)
    for key in keys:
        axes.axvline(key["time"], color="#475569", lw=0.6, ls=":")
    axes.set(xlim=(0, seconds), ylim=(0, 1.05), xlabel="s")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", frameon=False, ncols=4, fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
