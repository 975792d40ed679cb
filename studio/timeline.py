"""Emotion over time: keyframes in a table, from the sliders, a script or the voice, and their curves over the speech."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gradio as gr

from studio.components import HIDDEN, MIXED, PRIVATE, or_sentence, refusal, told
from studio.loading import PipelineSource
from studio.theme import DRAG_KEYS
from studio.translations import say, word

UNREADABLE = [{"time": None, "emotion": {}}]  # keys that no request takes: what stands in the table can't be used


@dataclass(frozen=True)
class Timeline:
    """The controls of the timeline.

    moment: where the next keyframe is added.
    table: the keyframes as they are typed in; a row is a time and the weights of MIXED.
    keys: the keyframes as a request takes them, hidden.
    drag: where the pointer went down and came up in the curves, hidden; a script fills it in.
    """

    moment: gr.Number
    add: gr.Button
    clear: gr.Button
    table: gr.Dataframe
    script: gr.Textbox
    apply: gr.Button
    listen: gr.Button
    about: gr.Markdown
    curves: gr.Image
    keys: gr.JSON
    drag: gr.Textbox


def timeline_controls() -> Timeline:
    """Lay the controls out."""
    gr.Markdown(word("timeline_about"))
    with gr.Row(equal_height=True):
        moment = gr.Number(0, label=word("key_time"), info=word("key_time_info"), minimum=0, step=0.5, elem_id="key-time")
        with gr.Column(min_width=120):
            add = gr.Button(word("key_add"), elem_id="key-add")
            clear = gr.Button(word("key_clear"), elem_id="key-clear")
        listen = gr.Button(word("listen"), elem_id="listen", min_width=120)
    table = gr.Dataframe(
        [],
        headers=["time (s)", *MIXED],
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
    picture = {"type": "numpy", "format": "png", "interactive": False, "buttons": [], "show_label": False, "visible": False}
    curves = gr.Image(label=word("curves"), elem_id="curves", **picture)
    keys = gr.JSON([], elem_id="timeline-keys", visible=False)
    drag = gr.Textbox(show_label=False, container=False, elem_id="key-drag", elem_classes="unseen")
    return Timeline(moment, add, clear, table, script, apply, listen, about, curves, keys, drag)


def connect_timeline(
    timeline: Timeline, pipeline: PipelineSource, speech: gr.Audio, sliders: Mapping[str, gr.Slider], intensity: gr.Slider
) -> None:
    """Connect the controls.

    sliders: those of MIXED, by name; a new keyframe takes their mixture.
    """
    handlers = TimelineHandlers(pipeline)
    table, place = timeline.table, [timeline.table, timeline.moment]
    timeline.add.click(handlers.add, place, table, inputs_kwargs=dict(sliders), **HIDDEN)
    timeline.clear.click(lambda: [], None, table, **HIDDEN)
    timeline.apply.click(handlers.read_script, [timeline.script, speech], table, **HIDDEN)
    timeline.listen.click(handlers.listen, speech, table, **HIDDEN)
    timeline.drag.change(handlers.drag, [timeline.drag, *place, speech], place, **HIDDEN)
    changes = [table.change, speech.change, intensity.release]
    drawn = [timeline.keys, timeline.about, timeline.curves]
    drawing = gr.on(changes, handlers.show, [table, speech, intensity], drawn, **HIDDEN)
    drawing.then(None, None, None, js=DRAG_KEYS, **PRIVATE)


class TimelineHandlers:
    """What the controls of the timeline do.

    pipeline: keyframes are read and drawn with its libraries.
    """

    def __init__(self, pipeline: PipelineSource) -> None:
        self.pipeline = pipeline

    def _keyframes(self):
        """The module of the keyframes, once it can be imported."""
        self.pipeline()
        from studio import keyframes  # late: it needs torch

        return keyframes

    def add(self, rows: list[list], moment: float | None, **weights: float) -> list[list]:
        """Add a keyframe at a moment, in the place of one that stands there already. Returns: the table's rows."""
        time = float(moment or 0.0)
        others = [row for row in or_sentence(self._keyframes().filled_rows, rows) if row[0] != time]
        return sorted([*others, [time, *(weights[name] for name in MIXED)]])

    def read_script(self, visitor: gr.Request, script: str, speech: str | None) -> list[list]:
        """Make the table's rows from a script with tags that is spread over a speech."""
        if not speech:
            raise refusal(say(visitor, "speech_before_script"))
        return or_sentence(self._keyframes().rows_of_script, script, speech)

    def listen(self, visitor: gr.Request, speech: str | None) -> list[list]:
        """Make the table's rows from how the voice sounds."""
        if not speech:
            raise refusal(say(visitor, "speech_before_listening"))
        return or_sentence(self._keyframes().rows_of_voice, speech)

    def show(self, rows: list[list], speech: str | None, intensity: float) -> tuple[list[dict], gr.Markdown, gr.Image]:
        """The table's rows as a request takes them, and their curves."""
        keyframes = self._keyframes()
        try:
            keys = keyframes.keys_of(rows)
        except ValueError as error:
            gr.Warning(told(str(error)))
            return UNREADABLE, gr.Markdown(visible=False), gr.Image(visible=False)
        picture = or_sentence(keyframes.draw_curves, keys, speech, intensity) if keys else None
        return [key.to_json() for key in keys], gr.Markdown(visible=bool(keys)), gr.Image(picture, visible=bool(keys))

    def drag(self, drag: str, rows: list[list], moment: float, speech: str | None) -> tuple[list[list], float]:
        """Move the keyframe that was dragged; a click anywhere else chooses the time of the next one."""
        places = [float(place) for place in drag.split()]
        if len(places) != 2:
            return rows, moment
        return or_sentence(self._keyframes().dragged, places, rows, moment, speech)
