"""Emotion over time: keys in a table, from the sliders or from a script with tags, and their curves over the speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np

from gmtalker.clock import EMOTIONS, FPS, frames_for
from gmtalker.emotion_script import timeline_of_script
from gmtalker.errors import UnusableInput
from gmtalker.measure.plots import COLOURS, blank
from gmtalker.media.audio import read_speech, silent_frames, sound_seconds
from gmtalker.tracks import EmotionWeights
from studio.components import or_sentence, refusal
from studio.translations import say, word

MIXED = EMOTIONS[1:]  # what the table holds; neutral is what they leave over
UNREADABLE = [{"time": None, "emotion": {}}]  # keys that no request takes: what stands in the table can't be used
BARS = 400  # of the waveform
AXES = (0.05, 0.22, 0.93, 0.74)  # of the picture of the curves: left, bottom, width, height
NEAR = 0.03  # of the picture's width: within it a key is taken hold of
# Where in the picture the pointer went down and came up, as parts of its width; a line follows it.
DRAG = """() => {
  const picture = document.querySelector('#curves');
  if (!picture || picture.dataset.drags) return;
  picture.dataset.drags = 'yes';
  picture.style.touchAction = 'none';
  const line = Object.assign(document.createElement('div'), { className: 'key-line' });
  picture.append(line);
  let from = null;
  const place = (event) => {
    const image = picture.querySelector('img'), box = image.getBoundingClientRect();
    const width = Math.min(box.width, box.height * image.naturalWidth / image.naturalHeight);
    return (event.clientX - box.left - (box.width - width) / 2) / width;
  };
  const follow = (event) => {
    line.style.display = from === null ? 'none' : 'block';
    line.style.left = `${event.clientX - picture.getBoundingClientRect().left}px`;
  };
  picture.addEventListener('pointerdown', (event) => {
    const image = picture.querySelector('img'), box = image && image.getBoundingClientRect();
    if (!box || event.clientY < box.top || event.clientY > box.bottom) return;
    event.preventDefault();
    from = place(event);
    follow(event);
  });
  window.addEventListener('pointermove', (event) => { if (from !== null) follow(event); });
  window.addEventListener('pointerup', (event) => {
    if (from === null) return;
    const told = document.querySelector('#key-drag textarea');
    told.value = `${from} ${place(event)}`;
    told.dispatchEvent(new Event('input', { bubbles: true }));
    from = null;
    follow(event);
  });
}"""


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
        label=word("curves"),
        show_label=False,
        type="numpy",
        interactive=False,
        buttons=[],
        format="png",
        elem_id="curves",
        visible=False,
    )
    keys = gr.JSON([], visible=False, elem_id="timeline-keys")
    drag = gr.Textbox(show_label=False, container=False, elem_id="key-drag", elem_classes="unseen")

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

    def dragged(told: str, rows: list[list], moment: float, speech: str | None) -> tuple[list[list], float]:
        """A key that is dragged stands where it is let go; a click beside the keys chooses the second of the next one."""
        rows, places = or_sentence(_filled, rows), [float(part) for part in told.split()]
        if len(places) != 2 or not rows:
            return rows, moment
        seconds = _seconds(keys_of(rows), speech)
        first, last = (min(max((place - AXES[0]) / AXES[2], 0.0), 1.0) * seconds for place in places)
        last = round(last, 1)
        held = min(rows, key=lambda row: abs(row[0] - first))
        if abs(held[0] - first) > NEAR * seconds:
            return rows, last
        others = [row for row in rows if row is not held and row[0] != last]
        return sorted([*others, [last, *held[1:]]]), last

    drag.change(dragged, [drag, table, moment, speech], [table, moment], **private)
    add.click(added, [table, moment, *sliders], table, **private)
    clear.click(lambda: [], None, table, **private)
    apply.click(from_script, [script, speech], table, **private)
    read = [table, speech, intensity]
    drawn = gr.on([table.change, speech.change, intensity.release], understood, read, [keys, about, curves], **private)
    drawn.then(None, None, None, js=DRAG, api_visibility="private")
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


def _seconds(keys: Sequence[Mapping], speech: str | None) -> float:
    """How long the picture of a timeline is: as the speech, or a little longer than the keys."""
    try:
        seconds = sound_seconds(Path(speech)) if speech else 0.0
    except UnusableInput:  # creating the video will say it
        seconds = 0.0
    return seconds or max(key["time"] for key in keys) + 1.0


def draw_curves(keys: Sequence[Mapping], speech: str | None, intensity: float = 1.0) -> np.ndarray:
    """(height, width, 3) uint8: the emotions of a timeline over the loudness of the speech, as far as there is one."""
    seconds = _seconds(keys, speech)
    figure = blank(8, 2.2, dpi=100)
    axes = figure.add_axes(AXES)
    if speech:
        try:
            waveform = np.abs(read_speech(speech))
        except UnusableInput:
            waveform = np.zeros(0)
        if len(waveform):
            bars = np.array([part.max() if len(part) else 0.0 for part in np.array_split(waveform, BARS)])
            times = np.linspace(0, seconds, BARS)
            axes.fill_between(times, 0, 0.95 * bars / max(bars.max(), 1e-6), color="#cbd5e1", lw=0)
    frames = max(2, int(seconds * FPS))
    weights = EmotionWeights.from_timeline(keys, frames, min(intensity, 1.0)).weights.numpy()
    for index, (name, colour) in enumerate(zip(EMOTIONS, COLOURS)):
        if index and weights[:, index].max() > 0:
            axes.plot(np.arange(frames) / FPS, weights[:, index], color=colour, label=name, lw=2)
    for key in keys:
        axes.axvline(key["time"], color="#475569", lw=1.2, ls=":")
        axes.plot(key["time"], 1.0, marker="v", color="#475569", clip_on=False)  # what to take hold of
    axes.set(xlim=(0, seconds), ylim=(0, 1.05), xlabel="s")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", frameon=False, ncols=4, fontsize=8)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late, as in blank

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
