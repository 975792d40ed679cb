"""Which control of the tab Create starts what."""

from __future__ import annotations

import json

import gradio as gr

from studio.components import HIDDEN, PRIVATE, words_of
from studio.create import CreateTab
from studio.create_handlers import CreateHandlers
from studio.deployment import Deployment
from studio.live_video import LiveVideos
from studio.loading import PipelineSource
from studio.many import connect_many
from studio.theme import CONTINUE_PLAYING
from studio.timeline import connect_timeline

AT_ONCE = {"queue": False, **PRIVATE}
HEAVY = {"show_progress": "hidden", "concurrency_limit": None}  # gradio's own line would be first come, first served
OFTEN = {"trigger_mode": "always_last", **HIDDEN}
ASK = f"""(...values) => {{
  const words = {json.dumps(words_of("video_delete_question"), ensure_ascii=False)};
  const language = navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en';
  return confirm(words[language].video_delete_question) ? values : [null, values[1]];
}}"""


def connect_create(
    tab: CreateTab, pipeline: PipelineSource, live: LiveVideos, place: Deployment, page: gr.Blocks
) -> CreateHandlers:
    """Connect the controls of the tab to the one pipeline. Returns: the handlers, for other tabs."""
    handlers = CreateHandlers(tab, pipeline, live, place)
    _connect_settings(tab, handlers)
    _connect_preview(tab, handlers)
    connect_timeline(tab.emotion.timeline, pipeline, tab.said.speech, tab.emotion.sliders, tab.emotion.intensity)
    _connect_videos(tab, handlers)
    _connect_shelf(tab, handlers, page)
    _connect_takes(tab, handlers)
    _connect_browser(tab, handlers, page)
    return handlers


def _connect_settings(tab: CreateTab, handlers: CreateHandlers) -> None:
    avatar, said, output = tab.avatar.avatar, tab.said, tab.output
    tab.avatar.cards.input(lambda chosen: chosen, tab.avatar.cards, avatar, **AT_ONCE)
    said.source.change(handlers.choose_source, said.source, list(said.groups.values()), **AT_ONCE)
    said.webcam.stop_recording(lambda film: film, said.webcam, said.video, **HIDDEN)
    said.other.upload(handlers.take_speech, said.other, [said.speech, tab.visit.given], **HIDDEN)
    chosen = [output.canvas, output.background, output.captions, said.source]
    shown = [
        output.place,
        output.size,
        output.shape,
        output.background_file,
        output.caption_place,
        output.caption_size,
        output.captions_file,
        output.subtitles,
    ]
    gr.on([control.change for control in chosen], handlers.choose_canvas, chosen, shown, **AT_ONCE)
    avatar.change(handlers.show_faces, avatar, tab.emotion.pad, **HIDDEN)
    avatar.change(handlers.show_label, avatar, tab.movement.label, **HIDDEN)
    tab.movement.label.input(handlers.keep_label, [avatar, tab.movement.label], None, **HIDDEN)
    tab.stage.reset.click(handlers.reset, None, list(handlers.reset()), **AT_ONCE)


def _connect_preview(tab: CreateTab, handlers: CreateHandlers) -> None:
    emotion, avatar, sliders, stage = tab.emotion, tab.avatar.avatar, tab.emotion.sliders, tab.stage
    emotion.pad.input(handlers.feel, emotion.pad, list(sliders.values()), queue=False, **OFTEN)
    gr.on(
        [*(slider.change for slider in (*sliders.values(), emotion.intensity)), avatar.change],
        handlers.preview,
        inputs_kwargs={"avatar": avatar, "intensity": emotion.intensity, **sliders},
        outputs=[stage.still, emotion.pad, emotion.mixture],
        concurrency_id="preview",
        **OFTEN,
    )
    # By hand alone: what the page itself changes leaves a video where it is.
    by_hand = [slider.input for slider in (*sliders.values(), emotion.intensity)] + [emotion.pad.input]
    seen = _seen(tab)
    gr.on(by_hand, handlers.show_preview, None, seen, **AT_ONCE)
    gr.on(by_hand, handlers.feel_by_hand, tab.said.source, tab.said.keep_emotion, **AT_ONCE)
    avatar.change(handlers.leave_video, [avatar, stage.shelf, tab.visit.videos], seen, **AT_ONCE)


def _seen(tab: CreateTab) -> list[gr.blocks.Block]:
    """What the preview takes the place of. Named, not taken from a handler's answer: what that makes would join the page."""
    stage = tab.stage
    return [stage.still, stage.video, stage.file, stage.progress, stage.about, stage.shelf]


def _connect_videos(tab: CreateTab, handlers: CreateHandlers) -> None:
    stage, visit, settings = tab.stage, tab.visit, tab.settings
    begun = [*_buttons(tab), tab.movement.seed]
    begins = stage.create.click(handlers.begin, None, begun, inputs_kwargs={"lock": tab.movement.lock, **settings}, **AT_ONCE)
    nothing = lambda: ("", "", gr.Video(None, visible=False), gr.File(None, visible=False), gr.Accordion(visible=False))  # noqa: E731
    emptied = begins.then(nothing, None, [stage.progress, stage.growing, stage.video, stage.file, stage.about], **AT_ONCE)
    shown = [stage.progress, stage.growing, stage.still, stage.video, stage.file, stage.command, visit.made]
    making, asked = handlers.in_turn(handlers.speak), {"given": visit.given, **settings}
    # By a name of its own: "speak" is what programs call (programs.py).
    made = emptied.then(making, None, shown, inputs_kwargs=asked, api_name="page_speak", **HEAVY, **PRIVATE)
    known = [stage.video, stage.file, visit.made, visit.videos]
    finished = made.success(handlers.remember, known, [visit.videos, stage.shelf, stage.about], **HIDDEN)
    continued = finished.then(None, None, None, js=CONTINUE_PLAYING, **PRIVATE)
    continued.then(lambda: "", None, stage.growing, **AT_ONCE)
    _connect_end(made, tab, handlers)
    stage.stop.click(handlers.stop, None, None, **AT_ONCE)


def _connect_shelf(tab: CreateTab, handlers: CreateHandlers, page: gr.Blocks) -> None:
    stage, visit = tab.stage, tab.visit
    shelved = [visit.videos, stage.shelf]
    page.load(handlers.open_shelf, visit.videos, shelved, **HIDDEN)
    restored = [control for name, control in tab.settings.items() if name != "timeline"]
    brought = [stage.video, stage.file, stage.still, stage.command, stage.about, stage.progress, *shelved, *restored]
    brought += [tab.emotion.timeline.table, tab.avatar.cards]
    stage.shelf.input(handlers.bring_back, [stage.shelf, visit.videos], brought, **HIDDEN)
    stage.delete.click(handlers.delete_video, [stage.shelf, visit.videos], [*_seen(tab), visit.videos], js=ASK, **HIDDEN)
    many = connect_many(tab.many, handlers)
    many.then(handlers.open_shelf, visit.videos, shelved, **HIDDEN)


def _connect_takes(tab: CreateTab, handlers: CreateHandlers) -> None:
    stage, takes, visit = tab.stage, tab.takes, tab.visit
    begun = [*_buttons(tab), tab.movement.seed]
    begins = stage.takes.click(handlers.begin_takes, None, begun, inputs_kwargs=tab.settings, **AT_ONCE)
    shown = [stage.progress, takes.group, takes.video, visit.first_seed, *takes.buttons]
    tried = begins.then(handlers.in_turn(handlers.try_takes), None, shown, inputs_kwargs=tab.settings, **HEAVY, **PRIVATE)
    tried.success(None, None, None, js="() => document.querySelector('#takes-group')?.scrollIntoView()", **PRIVATE)
    for event in (tried.then, tried.failure):
        event(handlers.end_takes, None, _buttons(tab), **AT_ONCE)
    chosen = [tab.movement.seed, tab.movement.lock, takes.group, stage.progress]
    for number, button in enumerate(takes.buttons):
        button.click(handlers.use_take(number), visit.first_seed, chosen, **HIDDEN)
    takes.close.click(lambda: gr.Column(visible=False), None, takes.group, **AT_ONCE)


def _connect_browser(tab: CreateTab, handlers: CreateHandlers, page: gr.Blocks) -> None:
    """What was set is there when the page is opened anew."""
    lasting, rows, kept = handlers.lasting, tab.emotion.timeline.table, tab.visit.kept
    changes = [control.change for control in lasting.values()] + [rows.change]
    restored = [*lasting.values(), rows, tab.avatar.cards]
    opened = page.load(handlers.restore, kept, restored, **HIDDEN)
    opened.then(handlers.choose_source, tab.said.source, list(tab.said.groups.values()), **AT_ONCE)
    gr.on(changes, handlers.keep, rows, kept, inputs_kwargs=lasting, **OFTEN)


def _connect_end(work: gr.events.Dependency, tab: CreateTab, handlers: CreateHandlers) -> None:
    stage = tab.stage
    for event in (work.then, work.failure):  # an error does not reach `then`
        event(handlers.end, [stage.video, stage.file], [*_buttons(tab), stage.still], **AT_ONCE)


def _buttons(tab: CreateTab) -> list[gr.Button]:
    """Those that begin and stop a video."""
    return [tab.stage.create, tab.stage.takes, tab.stage.stop]
