"""What the controls of the tab Create do, and which of them starts what."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from PIL import Image

from gmtalker.avatars.storage import find_avatar
from gmtalker.clock import LABELS, MOTIONS
from gmtalker.errors import UnusableSpeech
from gmtalker.media.audio import sound_seconds
from gmtalker.media.captions import STYLES
from gmtalker.media.composition import colour_of
from gmtalker.media.formats import DEFAULT_RATE, PLAYED
from gmtalker.media.sound_track import sound_track
from gmtalker.output import SPOKEN, OutputOptions
from studio.accounts import in_own_workspace
from studio.avatars import names, picture_of, portraits
from studio.components import HIDDEN, MIXED, PRIVATE, Updates, note, or_sentence, refusal
from studio.create import BACKGROUNDS, CAPTIONS, PRESETS, CreateTab
from studio.deployment import Deployment
from studio.generation import TAKES, Stops, generate_video, three_takes
from studio.labels import remember_label, remembered_labels
from studio.live_video import LiveVideos
from studio.loading import PipelineSource
from studio.terms import check_terms
from studio.theme import CONTINUE_PLAYING
from studio.timeline import connect_timeline
from studio.translations import language_of, say
from studio.turns import Turns, in_turn
from studio.zero_gpu import speaker

if TYPE_CHECKING:
    from gmtalker.request import SpeakRequest

LARGEST_RANDOM_SEED = 99_999
STRIP_SIZE = (1600, 400)  # pixels at most
PROGRAMS_ALONE = ("place", "size", "shape", "caption_place")  # of the output: the page has no controls for them
TITLE_LETTERS = 32  # of a text, in the list of videos
VIDEOS_KEPT = 12  # of a visit
AT_ONCE = {"queue": False, **PRIVATE}
HEAVY = {"show_progress": "hidden", "concurrency_limit": None}  # gradio's own line would be first come, first served


@dataclass(frozen=True)
class Remembered:
    """A video of this visit.

    label: what the list of videos shows.
    video: its file.
    request: what it was made from.
    command: that makes it again.
    """

    label: str
    video: str
    request: SpeakRequest
    command: str


class CreateHandlers:
    """What the controls do. A request's settings come by the names of CreateTab.settings, those of SpeakRequest and the emotions.

    tab: the components.
    place: how long a speech may be, which label is usual, and whether choices are kept: no demo's are.
    """

    def __init__(self, tab: CreateTab, pipeline: PipelineSource, live: LiveVideos, place: Deployment) -> None:
        self.tab, self.pipeline, self.live, self.place = tab, pipeline, live, place
        self.speaker, self.stops = speaker(pipeline), Stops()
        self.turns = Turns()
        self.in_turn = in_turn(self.turns, self.stops, tab.stage.progress)

    @property
    def offered(self) -> list[gr.blocks.Block]:
        """What `offer` updates."""
        return [self.tab.avatar.gallery, self.tab.avatar.avatar]

    @in_own_workspace
    def offer(self, visitor: gr.Request, chosen: str | None) -> Updates:
        """Show the avatars there are now, with `chosen` chosen if it still exists."""
        offered = names()
        chosen = chosen if chosen in offered else next(iter(offered), None)
        return {
            self.tab.avatar.gallery: gr.Gallery(value=portraits(), selected_index=offered.index(chosen) if chosen else None),
            self.tab.avatar.avatar: gr.Dropdown(choices=offered, value=chosen),
        }

    # --- Settings --------------------------------------------------------------------------------------------------------------

    @in_own_workspace
    def show_strip(self, visitor: gr.Request, avatar: str) -> Image.Image | None:
        """The avatar's picture of its eight emotions."""
        return picture_of(find_avatar(avatar) / "emotions.jpg", STRIP_SIZE) if avatar in names() else None

    @in_own_workspace
    def show_label(self, visitor: gr.Request, avatar: str) -> str:
        """When the label is seen, as it was chosen for this avatar before."""
        known = {} if self.place.demo else remembered_labels()
        return known.get(avatar, self.place.default_label) if avatar in names() else gr.skip()

    @in_own_workspace
    def keep_label(self, visitor: gr.Request, avatar: str, label: str) -> None:
        """Remember the label that was chosen for an avatar."""
        if not self.place.demo and avatar in names() and label in LABELS:
            remember_label(avatar, label)

    @in_own_workspace
    def choose(self, visitor: gr.Request, event: gr.SelectData) -> str:
        """The name of the avatar whose picture was clicked."""
        return names()[event.index]

    def take_speech(self, path: str) -> Updates:
        """A speech from any file that holds sound."""
        or_sentence(sound_seconds, Path(path))
        if or_sentence(sound_track, Path(path), UnusableSpeech) is None:
            raise refusal(f"{Path(path).name} holds no sound. Please record it again with the microphone on.")
        return {self.tab.said.speech: path, self.tab.visit.given: Path(path).name}

    def preset(self, name: str) -> Callable[[], Updates]:
        """A handler that sets the sliders to a preset."""
        weights = PRESETS[name]
        return lambda: {slider: weights.get(emotion, 0.0) for emotion, slider in self.tab.emotion.sliders.items()}

    @in_own_workspace
    def preview(self, visitor: gr.Request, avatar: str, intensity: float, **emotion: float) -> Updates:
        """A still of the avatar in the emotion of the sliders, and how much of it is neutral."""
        _check_avatar(visitor, avatar)
        pipeline = or_sentence(self.pipeline)
        from gmtalker.tracks import over_full  # late: it needs torch

        card, total = self.tab.emotion, sum(emotion.values())
        return {
            self.tab.stage.still: or_sentence(pipeline.still, avatar, emotion, intensity=intensity),
            card.neutral: round(max(0.0, 1 - min(intensity, 1.0) * min(1.0, total)), 2),
            card.warning: note(say(visitor, "over_full") if over_full(emotion) else ""),
        }

    def reset(self) -> Updates:
        """Every setting but avatar and speech as it is on a fresh page."""
        emotion, movement = self.tab.emotion, self.tab.movement
        return (
            dict.fromkeys(emotion.sliders.values(), 0.0)
            | dict.fromkeys([emotion.intensity, *movement.amounts.values()], 1.0)
            | {
                movement.motion: MOTIONS[0],
                movement.seed: 0,
                movement.full_frame: False,
                movement.label: self.place.default_label,
            }
            | {emotion.timeline.table: []}
            | self._shown_output(OutputOptions())
        )

    # --- Videos ----------------------------------------------------------------------------------------------------------------

    def begin(self, visitor: gr.Request, lock: bool, **settings: object) -> Updates:
        """Nothing else can be begun now; the settings as they are, with the seed of this take.

        lock: whether the seed is the one shown, and no new one.
        """
        self.stops.begin(visitor.session_hash or "")
        seed = settings["seed"] if lock else random.randint(0, LARGEST_RANDOM_SEED)
        stage = self.tab.stage
        return {
            stage.create: gr.Button(visible="hidden"),
            stage.takes: gr.Button(interactive=False),
            stage.stop: gr.Button(visible=True),
            self.tab.movement.seed: seed,
            self.tab.visit.settings: settings | {"seed": seed},
        }

    def begin_takes(self, visitor: gr.Request, **settings: object) -> Updates:
        """As begin; takes are counted from the seed that is shown."""
        return self.begin(visitor, lock=True, **settings)

    def end(self, video: str | None, file: str | None) -> Updates:
        """Something else can be begun again; the preview comes back where nothing was made."""
        stage = self.tab.stage
        return {
            stage.create: gr.Button(visible=True),
            stage.takes: gr.Button(interactive=True),
            stage.stop: gr.Button(visible=False),
            stage.still: gr.Image(visible="hidden" if video or file else True),
        }

    def show_preview(self) -> Updates:
        """The preview in the place of a video, which stays in the list of videos."""
        stage = self.tab.stage
        return {
            stage.still: gr.Image(visible=True),
            stage.video: gr.Video(visible=False),
            stage.file: gr.File(visible=False),
            stage.progress: "",
        }

    def stop(self, visitor: gr.Request) -> None:
        """Stop what this visitor has begun."""
        self.stops.stop(visitor.session_hash or "")

    def leave_video(self, avatar: str, label: str | None, videos: Sequence[Remembered]) -> Updates:
        """The preview in the place of another avatar's video."""
        shown = next((item for item in videos if item.label == label), None)
        return gr.skip() if shown is None or shown.request.avatar == avatar else self.show_preview()

    @in_own_workspace
    def speak(self, visitor: gr.Request, **settings: object) -> Iterator[Updates]:
        """The avatar says a speech, in a mixture of emotions or along a timeline [{"time": seconds, "emotion": {name: weight}}]:
        progress and a growing video as HTML, and in the end the video."""
        check_terms(visitor)
        request = self.request_of(visitor, settings)
        self.check_length(visitor, request)
        stage, session = self.tab.stage, visitor.session_hash or ""
        try:
            for progress, player, video in generate_video(self.speaker, request, self.stops.of(session), self.live, visitor):
                shown = stage.video if request.output.format in PLAYED else stage.file
                still = {stage.still: gr.Image(visible="hidden")} if player else {}
                yield {stage.progress: progress, stage.growing: player} | still | ({} if video is None else {shown: video})
        finally:
            self.stops.end(session)

    @in_own_workspace
    def try_takes(self, visitor: gr.Request, **settings: object) -> Iterator[Updates]:
        """Three takes of the first seconds, side by side."""
        check_terms(visitor)
        request = self.request_of(visitor, settings)
        self.check_length(visitor, request)
        stage, session = self.tab.stage, visitor.session_hash or ""
        try:
            for progress, video in three_takes(self.pipeline(), request, self.stops.of(session), visitor):
                if video is None:
                    yield {stage.progress: progress}
                    continue
                seeds = range(request.seed, request.seed + TAKES)
                labels = [gr.Button(say(visitor, "take_use", number=seed)) for seed in seeds]
                shown = {stage.progress: "", stage.takes_group: gr.Group(visible=True), stage.takes_video: video}
                yield shown | {self.tab.visit.first_seed: request.seed} | dict(zip(stage.take_buttons, labels))
        finally:
            self.stops.end(session)

    def use_take(self, number: int) -> Callable[[int], Updates]:
        """A handler that sets the seed to that of a take, given the first one's."""
        return lambda first: {self.tab.movement.seed: first + number, self.tab.movement.lock: True}

    @in_own_workspace
    def remember(
        self,
        visitor: gr.Request,
        video: str | None,
        file: str | None,
        videos: Sequence[Remembered],
        settings: Mapping[str, object],
        given: str = "",
    ) -> Updates:
        """Add the video to those of this visit, and show the command that repeats it.

        file: what was made in the place of a video that browsers play.
        given: name of the last speech of another kind: the player has it as a file that browsers know.
        """
        made = video or file
        if made is None:  # stopped
            return gr.skip()
        request = self.request_of(visitor, settings)
        label = f"{time.strftime('%H:%M:%S')} · {_description(request, visitor)}"
        command = _named(request, given).command(f"video{request.output.file.suffix}")
        videos = [Remembered(label, made, request, command), *videos][:VIDEOS_KEPT]
        stage = self.tab.stage
        return {
            stage.video: gr.Video(visible=video is not None),
            stage.file: gr.File(visible=video is None),
            self.tab.visit.videos: videos,
            stage.history: gr.Dropdown(choices=[item.label for item in videos], value=label, visible=True),
            stage.command: gr.Textbox(command, visible=True),
        }

    @in_own_workspace
    def bring_back(self, visitor: gr.Request, label: str, videos: Sequence[Remembered]) -> Updates:
        """Show a video of this visit again, with its settings."""
        found = next((item for item in videos if item.label == label), None)
        if found is None or not Path(found.video).is_file():
            return gr.skip()
        stage, is_played = self.tab.stage, found.request.output.format in PLAYED
        shown = {
            stage.video: gr.Video(found.video if is_played else None, visible=is_played, autoplay=False),
            stage.file: gr.File(None if is_played else found.video, visible=not is_played),
            stage.still: gr.Image(visible="hidden"),
            stage.command: gr.Textbox(found.command, visible=True),
        }
        if found.request.avatar not in names():  # the avatar was deleted meanwhile; its video is still here
            gr.Info(say(visitor, "video_without_avatar"))
            return shown
        return shown | self._shown_settings(found.request)

    def _shown_settings(self, request: SpeakRequest) -> Updates:
        """The controls with the values of a request."""
        from studio.keyframes import rows_of  # late: it needs torch

        sliders, timeline = self.tab.emotion.sliders, self.tab.emotion.timeline
        apart = (*sliders, "speech", "text", "timeline", *self.tab.output.settings)
        others = {name: control for name, control in self.tab.settings.items() if name not in apart}
        said = {self.tab.said.text: request.text or ""}
        if request.speech is not None:
            said[self.tab.said.speech] = str(request.speech)
        return (
            said
            | {timeline.table: rows_of(request.timeline)}
            | self._shown_output(request.output)
            | {slider: request.emotion.get(name, 0.0) for name, slider in sliders.items()}
            | {control: getattr(request, name) for name, control in others.items()}
        )

    def _shown_output(self, output: OutputOptions) -> Updates:
        """The controls of the output with its values."""
        card, backdrop = self.tab.output, output.backdrop
        behind = "file" if backdrop else output.background or BACKGROUNDS[0]
        return {
            card.canvas: output.canvas or "",
            card.background: behind,
            card.background_file: str(backdrop) if backdrop else None,
            card.captions: output.caption_style if output.captions else CAPTIONS[0],
            card.format: output.format,
            card.fps: output.fps,
        }

    def request_of(self, visitor: gr.Request, settings: Mapping[str, object]) -> SpeakRequest:
        """What the settings ask for; what can't be asked for becomes a sentence on the page."""
        values = dict(settings)
        text = str(values.pop("text", "") or "").strip() or None
        if text is None and not values["speech"]:
            raise refusal(say(visitor, "speech_first"))
        _check_avatar(visitor, values["avatar"])
        or_sentence(self.pipeline)
        from gmtalker.request import SpeakRequest  # late: it needs torch

        emotion = {name: values.pop(name, 0.0) for name in MIXED}
        values |= {"emotion": {} if values["timeline"] else emotion, "timeline": values["timeline"] or None}
        values |= {"speech": None if text else Path(values["speech"]), "text": text, "seed": int(values["seed"] or 0)}
        written = (*self.tab.output.settings, *PROGRAMS_ALONE)
        values["output"] = _output(visitor, {name: values.pop(name) for name in written if name in values}, text is not None)
        values |= {"full_frame": bool(values["full_frame"]), "label_language": language_of(visitor)}
        return or_sentence(SpeakRequest, **values)

    def check_length(self, visitor: gr.Request, request: SpeakRequest) -> None:
        """Errors: gr.Error when a video would be longer than this place makes."""
        from gmtalker.source import expected_seconds  # late: it needs torch

        if or_sentence(expected_seconds, request) > 60 * self.place.limits.speech_minutes:
            raise refusal(say(visitor, "speech_too_long", minutes=self.place.limits.speech_minutes))


def _output(visitor: gr.Request, given: Mapping[str, object], is_typed: bool) -> OutputOptions:
    """How the controls want the video to be written; what can't be becomes a sentence on the page."""
    behind, captions = given["background"] or BACKGROUNDS[0], given["captions"] or CAPTIONS[0]
    if behind == BACKGROUNDS[0] and given["background_file"] and "place" in given:  # a program need not say it twice
        behind = "file"
    # A name that is neither would be anybody's file.
    if (behind == "file" and not given["background_file"]) or (behind not in BACKGROUNDS and colour_of(behind) is None):
        raise refusal(say(visitor, "background_first"))
    if captions != CAPTIONS[0] and not is_typed:
        raise refusal(say(visitor, "captions_need_text"))
    return or_sentence(
        OutputOptions,
        **{name: given[name] for name in ("place", "size", "shape", "caption_place") if name in given},
        format=given["format"] or "mp4",
        fps=given["fps"] or DEFAULT_RATE,
        background={"own": None, "file": given["background_file"]}.get(behind, behind),
        canvas=given["canvas"] or None,
        captions=None if captions == CAPTIONS[0] else SPOKEN,
        caption_style=STYLES[0] if captions == CAPTIONS[0] else captions,
    )


def _named(request: SpeakRequest, given: str) -> SpeakRequest:
    """The request with the names of visitors' files in the place of their paths.

    given: name of the last speech of another kind: the player has it as a file that browsers know.
    """
    output = request.output
    if output.backdrop is not None:
        output = replace(output, background=output.backdrop.name)
    if request.speech is None:
        return replace(request, output=output)
    spoken = Path(request.speech)
    name = given if spoken.stem in (given, Path(given).stem) else spoken.name
    return replace(request, speech=name, output=output)


def _check_avatar(visitor: gr.Request, avatar: str | None) -> None:
    if avatar not in names():  # a folder is for the command line: from the page it could be anybody's
        raise refusal(say(visitor, "no_such_avatar"))


def _description(request: SpeakRequest, visitor: gr.Request) -> str:
    """What tells one video of a visit from another."""
    weights = [f"{say(visitor, name)} {weight:g}" for name, weight in request.emotion.items() if weight]
    emotion = say(visitor, "timeline_title") if request.timeline else ", ".join(weights) or say(visitor, "neutral")
    said = Path(request.speech).stem if request.text is None else f"“{request.text[:TITLE_LETTERS]}”"
    return f"{request.avatar} · {said} · {emotion}"


# --- Connections ---------------------------------------------------------------------------------------------------------------


def connect_create(tab: CreateTab, pipeline: PipelineSource, live: LiveVideos, place: Deployment) -> CreateHandlers:
    """Connect the controls of the tab to the one pipeline. Returns: the handlers, for other tabs."""
    handlers = CreateHandlers(tab, pipeline, live, place)
    _connect_settings(tab, handlers)
    connect_timeline(tab.emotion.timeline, pipeline, tab.said.speech, tab.emotion.sliders, tab.emotion.intensity)
    _connect_videos(tab, handlers)
    _connect_takes(tab, handlers)
    return handlers


def _connect_settings(tab: CreateTab, handlers: CreateHandlers) -> None:
    emotion, avatar, sliders = tab.emotion, tab.avatar.avatar, tab.emotion.sliders
    for name, button in emotion.presets.items():
        button.click(handlers.preset(name), None, list(sliders.values()), queue=False, **HIDDEN)
    gr.on(
        [*(slider.change for slider in (*sliders.values(), emotion.intensity)), avatar.change],
        handlers.preview,
        inputs_kwargs={"avatar": avatar, "intensity": emotion.intensity, **sliders},
        outputs=[tab.stage.still, emotion.neutral, emotion.warning],
        trigger_mode="always_last",
        concurrency_id="preview",
        **HIDDEN,
    )
    tab.said.other.upload(handlers.take_speech, tab.said.other, [tab.said.speech, tab.visit.given], **HIDDEN)
    # By hand alone: a gallery also says that something was selected when the page itself selects it.
    chosen = [slider.input for slider in (*sliders.values(), emotion.intensity)]
    chosen += [button.click for button in emotion.presets.values()]
    # Named, not taken from the handler's answer: components that it makes here would become part of the page.
    seen = [tab.stage.still, tab.stage.video, tab.stage.file, tab.stage.progress]
    gr.on(chosen, handlers.show_preview, None, seen, **AT_ONCE)
    shown = [avatar, tab.stage.history, tab.visit.videos]
    avatar.change(handlers.leave_video, shown, seen, **AT_ONCE)
    avatar.change(handlers.show_strip, avatar, tab.avatar.strip, **HIDDEN)
    avatar.change(handlers.show_label, avatar, tab.movement.label, **HIDDEN)
    tab.movement.label.input(handlers.keep_label, [avatar, tab.movement.label], None, **HIDDEN)
    tab.avatar.gallery.select(handlers.choose, None, avatar, **HIDDEN)
    tab.stage.reset.click(handlers.reset, None, list(handlers.reset()), queue=False, **HIDDEN)


def _connect_videos(tab: CreateTab, handlers: CreateHandlers) -> None:
    stage, visit, settings = tab.stage, tab.visit, tab.settings
    begun = [*_buttons(tab), tab.movement.seed, visit.settings]
    begins = stage.create.click(handlers.begin, None, begun, inputs_kwargs={"lock": tab.movement.lock, **settings}, **AT_ONCE)
    nothing = lambda: ("", gr.Video(None, visible=False), gr.File(None, visible=False))  # noqa: E731
    emptied = begins.then(nothing, None, [stage.growing, stage.video, stage.file], **AT_ONCE)
    shown = [stage.progress, stage.growing, stage.still, stage.video, stage.file]
    making = handlers.in_turn(handlers.speak)
    # By a name of its own: "speak" is what programs call (programs.py).
    made = emptied.then(making, None, shown, inputs_kwargs=settings, api_name="page_speak", **HEAVY, **PRIVATE)
    remembered = [stage.video, stage.file, visit.videos, stage.history, stage.command]
    known = [stage.video, stage.file, visit.videos, visit.settings, visit.given]
    finished = made.success(handlers.remember, known, remembered, **HIDDEN)
    continued = finished.then(None, None, None, js=CONTINUE_PLAYING, **PRIVATE)
    continued.then(lambda: "", None, stage.growing, **AT_ONCE)
    _connect_end(made, tab, handlers)
    restored = [control for name, control in settings.items() if name != "timeline"]
    brought = [stage.video, stage.file, stage.still, stage.command, *restored, tab.emotion.timeline.table]
    stage.history.input(handlers.bring_back, [stage.history, visit.videos], brought, **HIDDEN)
    stage.stop.click(handlers.stop, None, None, queue=False, **PRIVATE)


def _connect_takes(tab: CreateTab, handlers: CreateHandlers) -> None:
    stage, visit = tab.stage, tab.visit
    begun = [*_buttons(tab), tab.movement.seed, visit.settings]
    begins = stage.takes.click(handlers.begin_takes, None, begun, inputs_kwargs=tab.settings, **AT_ONCE)
    shown = [stage.progress, stage.takes_group, stage.takes_video, visit.first_seed, *stage.take_buttons]
    tried = begins.then(handlers.in_turn(handlers.try_takes), None, shown, inputs_kwargs=tab.settings, **HEAVY, **PRIVATE)
    _connect_end(tried, tab, handlers)
    for number, button in enumerate(stage.take_buttons):
        button.click(handlers.use_take(number), visit.first_seed, [tab.movement.seed, tab.movement.lock], **HIDDEN)


def _connect_end(work: gr.events.Dependency, tab: CreateTab, handlers: CreateHandlers) -> None:
    stage = tab.stage
    for event in (work.then, work.failure):  # an error does not reach `then`
        event(handlers.end, [stage.video, stage.file], [*_buttons(tab), stage.still], **AT_ONCE)


def _buttons(tab: CreateTab) -> list[gr.Button]:
    """Those that begin and stop a video."""
    return [tab.stage.create, tab.stage.takes, tab.stage.stop]
