"""What the controls of the tab Create do, and which of them starts what."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from gmtalker.avatars.storage import find_avatar
from gmtalker.clock import EMOTIONS, LABELS, MOTIONS
from gmtalker.command_line import place_sentence
from gmtalker.emotion_words import TAG
from gmtalker.errors import UnusableSpeech
from gmtalker.media.audio import sound_seconds
from gmtalker.media.captions import STYLES
from gmtalker.media.composition import PLACES, SHAPES, colour_of
from gmtalker.media.formats import DEFAULT_RATE, PLAYED
from gmtalker.media.sound_track import sound_track
from gmtalker.output import SPOKEN, OutputOptions
from personalize import jobs
from studio import shelf
from studio.accounts import in_own_workspace, name_of
from studio.avatars import avatar_items, names, picture_of
from studio.components import MIXED, Updates, note, or_sentence, progress_bar, refusal, told
from studio.create import BACKGROUNDS, CAPTIONS, CreateTab
from studio.deployment import Deployment
from studio.emotion_pad import STRIP_SIZE, data_url, place_of, weights_at
from studio.generation import TAKES, Stops, generate_video, three_takes
from studio.labels import remember_label, remembered_labels
from studio.live_video import LiveVideos
from studio.loading import PipelineSource
from studio.shelf import ShelvedVideo, new_id, poster_of
from studio.terms import check_terms
from studio.translations import language_of, say
from studio.turns import Turns, in_turn
from studio.uploads import lent
from studio.zero_gpu import speaker

if TYPE_CHECKING:
    from gmtalker.request import SpeakRequest

LARGEST_RANDOM_SEED = 99_999
PAD_ERROR = 0.06  # of a weight, up to which a point of the pad says the same as the sliders
TITLE_LETTERS = 32  # of a text, on a card of the shelf
VIDEOS_KEPT = 12  # of a visit to a demo


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
        return [self.tab.avatar.cards, self.tab.avatar.avatar]

    @in_own_workspace
    def offer(self, visitor: gr.Request, chosen: str | None, renamed: Mapping[str, str] = {}) -> Updates:
        """Show the avatars there are now, with `chosen` chosen if it still exists.

        renamed: new names by the old ones.
        """
        offered = names()
        chosen = renamed.get(chosen or "", chosen)
        chosen = chosen if chosen in offered else next(iter(offered), None)
        return {
            self.tab.avatar.cards: gr.HTML(chosen, items=avatar_items()),
            self.tab.avatar.avatar: chosen,
        }

    # --- Settings --------------------------------------------------------------------------------------------------------------

    @in_own_workspace
    def show_faces(self, visitor: gr.Request, avatar: str) -> gr.HTML:
        """The avatar's picture of its eight emotions, on the pad."""
        strip = picture_of(find_avatar(avatar) / "emotions.jpg", STRIP_SIZE) if avatar in names() else None
        return gr.HTML(faces=None if strip is None else data_url(strip))

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

    def take_speech(self, path: str) -> Updates:
        """A speech from any file that holds sound."""
        or_sentence(sound_seconds, Path(path))
        if or_sentence(sound_track, Path(path), UnusableSpeech) is None:
            raise refusal(f"{Path(path).name} holds no sound. Please record it again with the microphone on.")
        return {self.tab.said.speech: path, self.tab.visit.given: Path(path).name}

    def choose_source(self, source: str) -> Updates:
        """Show what belongs to the one of SOURCES that counts."""
        return {group: gr.Column(visible=name == source) for name, group in self.tab.said.groups.items()}

    def feel(self, point: Mapping[str, float]) -> Updates:
        """The sliders for a point of the pad."""
        weights = weights_at(float(point["x"]), float(point["y"]))
        return {slider: weights.get(emotion, 0.0) for emotion, slider in self.tab.emotion.sliders.items()}

    def feel_by_hand(self, source: str) -> object:
        """Whoever sets an emotion while a film leads wants that, and not the film's own."""
        return False if source == "film" else gr.skip()

    def choose_canvas(self, canvas: str, background: str, captions: str, source: str) -> Updates:
        """Show of the output's controls those that mean something now."""
        card = self.tab.output
        behind = background != BACKGROUNDS[0]

        def or_usual(shown: bool, usual: object) -> dict:
            return gr.update(visible=True) if shown else gr.update(visible=False, value=usual)

        return {
            card.place: or_usual(bool(canvas), PLACES[0]),
            card.size: or_usual(bool(canvas), 1),
            card.shape: or_usual(behind, SHAPES[0]),  # as filmed nobody is cut out
            card.background_file: gr.File(visible=background == "file"),
            card.caption_place: gr.Dropdown(visible=captions != CAPTIONS[0]),
            card.caption_size: gr.Dropdown(visible=captions != CAPTIONS[0]),
            card.captions_file: gr.File(visible=captions != CAPTIONS[0] and source != "text"),
            card.subtitles: gr.Dropdown(visible=source == "text"),
        }

    @in_own_workspace
    def preview(self, visitor: gr.Request, avatar: str, intensity: float, **emotion: float) -> Updates:
        """A still of the avatar in the emotion of the sliders, their place on the pad, and how much of it is neutral."""
        self.check_avatar(visitor, avatar)
        pipeline = or_sentence(self.pipeline)
        from gmtalker.tracks import over_full  # late: it needs torch

        card, (x, y) = self.tab.emotion, place_of(emotion)
        neutral = max(0.0, 1 - min(intensity, 1.0) * min(1.0, sum(emotion.values())))
        mixed = [f"{say(visitor, name)} {100 * weight:.0f} %" for name, weight in emotion.items() if weight]
        left = say(visitor, "over_full") if over_full(emotion) else say(visitor, "neutral_left", percent=100 * neutral)
        there = weights_at(x, y)
        exact = all(abs(there.get(name, 0.0) - weight) < PAD_ERROR for name, weight in emotion.items())
        return {
            self.tab.stage.still: or_sentence(pipeline.still, avatar, emotion, intensity=intensity),
            card.pad: {"x": x, "y": y, "exact": exact},
            card.mixture: note(" · ".join([*mixed, left])),
        }

    def reset(self) -> Updates:
        """Every setting but avatar and what is said as it is on a fresh page."""
        emotion, movement = self.tab.emotion, self.tab.movement
        return (
            dict.fromkeys(emotion.sliders.values(), 0.0)
            | dict.fromkeys([emotion.intensity, *movement.amounts.values()], 1.0)
            | {
                movement.motion: MOTIONS[0],
                movement.seed: 0,
                movement.full_frame: False,
                movement.label: self.place.default_label,
                movement.lock: True,
                self.tab.said.keep_emotion: True,
            }
            | {emotion.timeline.table: [], emotion.timeline.moment: 0, emotion.timeline.script: ""}
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
        }

    def begin_takes(self, visitor: gr.Request, **settings: object) -> Updates:
        """As begin; takes are counted from the seed that is shown."""
        return self.begin(visitor, lock=True, **settings)

    def end_takes(self) -> Updates:
        """Something else can be begun again."""
        stage = self.tab.stage
        return {
            stage.create: gr.Button(visible=True),
            stage.takes: gr.Button(interactive=True),
            stage.stop: gr.Button(visible=False),
        }

    def end(self, video: str | None, files: list[str] | None) -> Updates:
        """Something else can be begun again; the preview comes back where nothing was made."""
        return self.end_takes() | {self.tab.stage.still: gr.Image(visible="hidden" if video or files else True)}

    def show_preview(self) -> Updates:
        """The preview in the place of a video, which stays in the list of videos."""
        stage = self.tab.stage
        return {
            stage.still: gr.Image(visible=True),
            stage.video: gr.Video(visible=False),
            stage.file: gr.File(visible=False),
            stage.progress: "",
            stage.about: gr.Accordion(visible=False),  # the command would be another video's
            stage.shelf: None,
        }

    def stop(self, visitor: gr.Request) -> None:
        """Stop what this visitor has begun."""
        self.stops.stop(visitor.session_hash or "")

    def leave_video(self, avatar: str, chosen: str | None, videos: Sequence[ShelvedVideo]) -> Updates:
        """The preview in the place of another avatar's video."""
        shown = next((item for item in videos if item.id == chosen), None)
        return gr.skip() if shown is None or shown.request.avatar == avatar else self.show_preview()

    @in_own_workspace
    def speak(self, visitor: gr.Request, given: str = "", **settings: object) -> Iterator[Updates]:
        """The avatar says a speech, in a mixture of emotions or along a timeline [{"time": seconds, "emotion": {name: weight}}]:
        progress and a growing video as HTML, and in the end the video.

        given: name of the last speech of another kind: the player has it as a file that browsers know.
        """
        check_terms(visitor)
        request = self.request_of(visitor, settings)
        self.check_length(visitor, request)
        stage, session = self.tab.stage, visitor.session_hash or ""
        if not self.place.demo and any(job.status == "running" for job in jobs.jobs()):
            gr.Info(say(visitor, "training_runs"))
        try:
            for progress, player, video in generate_video(self.speaker, request, self.stops.of(session), self.live, visitor):
                still = {stage.still: gr.Image(visible="hidden")} if player else {}
                done = {} if video is None else self._finished(visitor, Path(video), request, given)
                yield {stage.progress: progress, stage.growing: player} | still | done
        finally:
            self.stops.end(session)

    def _finished(self, visitor: gr.Request, video: Path, request: SpeakRequest, given: str) -> Updates:
        """A video in the place of the preview, and on the shelf."""
        made = self.shelve(visitor, video, request, given)
        return self._played(made, replace(made, video=str(video))) | {self.tab.visit.made: made}

    def _played(self, made: ShelvedVideo, there: ShelvedVideo) -> Updates:
        """A video in the place of the preview, or a file where no browser plays it.

        there: the same, where gradio may read its files.
        """
        stage, is_played = self.tab.stage, made.request.output.format in PLAYED
        files = [*([] if is_played else [there.video]), *filter(None, [there.subtitles])]
        return {
            stage.video: gr.Video(there.video if is_played else None, visible=is_played),
            stage.file: gr.File(files or None, visible=bool(files)),
            stage.command: made.command,
        }

    def shelve(self, visitor: gr.Request, video: Path, request: SpeakRequest, given: str = "") -> ShelvedVideo:
        """Keep a video with what is the visitor's; a demo keeps nothing."""
        command = _named(request, given).command(f"video{request.output.file.suffix}")
        title, about = _title(request, visitor), _description(request, visitor)
        made = ShelvedVideo(new_id(), title, about, str(video), request, command, poster_of(video))
        try:
            return made if self.place.demo else shelf.put(made)
        except OSError as error:  # the video itself is there
            gr.Warning(told(place_sentence(error)))
            return made

    @in_own_workspace
    def try_takes(self, visitor: gr.Request, **settings: object) -> Iterator[Updates]:
        """Three takes of the first seconds, side by side."""
        check_terms(visitor)
        request = self.request_of(visitor, settings)
        if request.video is not None:
            raise refusal(say(visitor, "takes_of_film"))
        self.check_length(visitor, request)
        stage, takes, session = self.tab.stage, self.tab.takes, visitor.session_hash or ""
        try:
            for progress, video in three_takes(self.pipeline(), request, self.stops.of(session), visitor):
                if video is None:
                    yield {stage.progress: progress}
                    continue
                seeds = range(request.seed, request.seed + TAKES)
                labels = [gr.Button(say(visitor, "take_use", number=number)) for number, _ in enumerate(seeds, 1)]
                shown = {stage.progress: "", takes.group: gr.Column(visible=True), takes.video: video}
                yield shown | {self.tab.visit.first_seed: request.seed} | dict(zip(takes.buttons, labels))
        finally:
            self.stops.end(session)

    def use_take(self, number: int) -> Callable[[gr.Request, int], Updates]:
        """A handler that sets the seed to that of a take, given the first one's, and puts the takes away."""
        movement, group = self.tab.movement, self.tab.takes.group

        def use(visitor: gr.Request, first: int) -> Updates:
            told = progress_bar(say(visitor, "take_chosen", number=number + 1))
            seed = {movement.seed: first + number, movement.lock: True}
            return seed | {group: gr.Column(visible=False), self.tab.stage.progress: told}

        return use

    # --- The shelf -------------------------------------------------------------------------------------------------------------

    @in_own_workspace
    def open_shelf(self, visitor: gr.Request, videos: Sequence[ShelvedVideo]) -> Updates:
        """The videos of the workspace; of a demo, which has none, those of the visit."""
        self.pipeline()  # their requests need torch
        return self._shelved(videos if self.place.demo else shelf.videos())

    def _shelved(self, videos: Sequence[ShelvedVideo], chosen: str | None = None) -> Updates:
        items = [made.card for made in videos]
        return {self.tab.visit.videos: list(videos), self.tab.stage.shelf: gr.HTML(chosen, items=items)}

    @in_own_workspace
    def remember(
        self,
        visitor: gr.Request,
        video: str | None,
        files: list[str] | None,
        made: ShelvedVideo | None,
        videos: Sequence[ShelvedVideo],
    ) -> Updates:
        """Put the video that was made on the shelf, and show the command that repeats it.

        files: what was made in the place of a video that browsers play, and subtitles.
        """
        path = video or next(iter(files or []), None)
        if path is None or made is None:  # stopped
            return gr.skip()
        # A demo has it nowhere but among the files that gradio serves.
        kept = [replace(made, video=path), *videos][:VIDEOS_KEPT] if self.place.demo else shelf.videos()
        return self._shelved(kept, made.id) | {self.tab.stage.about: gr.Accordion(visible=True)}

    @in_own_workspace
    def bring_back(self, visitor: gr.Request, chosen: str | None, videos: Sequence[ShelvedVideo]) -> Updates:
        """Show a video of the shelf again, with its settings."""
        found = next((item for item in videos if item.id == chosen), None)
        if found is None or not Path(found.video).is_file():
            gr.Info(say(visitor, "video_gone"))
            return self._shelved([made for made in videos if Path(made.video).is_file()])
        shown = self._played(found, replace(found, video=lent(found.video, found.subtitles))) | {
            self.tab.stage.still: gr.Image(visible="hidden"),
            self.tab.stage.about: gr.Accordion(visible=True),
            self.tab.stage.progress: "",
        }
        if found.request.avatar not in names():  # the avatar was deleted meanwhile; its video is still here
            gr.Info(say(visitor, "video_without_avatar"))
            return shown
        return shown | self._shown_settings(found.request)

    @in_own_workspace
    def delete_video(self, visitor: gr.Request, chosen: str | None, videos: Sequence[ShelvedVideo]) -> Updates:
        """Delete the video that is shown; None where it is not to be."""
        if chosen is None:
            return gr.skip()
        if not self.place.demo:
            or_sentence(shelf.delete, chosen)
        return self.show_preview() | self._shelved([made for made in videos if made.id != chosen])

    def _shown_settings(self, request: SpeakRequest) -> Updates:
        """The controls with the values of a request."""
        from studio.keyframes import rows_of  # late: it needs torch

        sliders, said = self.tab.emotion.sliders, self.tab.said
        source = "film" if request.video is not None else "voice" if request.text is None else "text"
        files = {said.speech: request.speech, said.video: request.video}
        apart = (*sliders, "source", "text", "speech", "video", "keep_emotion", "timeline", *self.tab.output.settings)
        others = {name: control for name, control in self.tab.settings.items() if name not in apart}
        return (
            {said.source: source}
            | ({said.text: request.text} if request.text is not None else {})
            | {control: lent(str(path)) for control, path in files.items() if path is not None and Path(str(path)).is_file()}
            | ({said.keep_emotion: not request.emotion and not request.timeline} if source == "film" else {})
            | {self.tab.emotion.timeline.table: rows_of(request.timeline)}
            | self._shown_output(request.output)
            | {slider: request.emotion.get(name, 0.0) for name, slider in sliders.items()}
            | {control: getattr(request, name) for name, control in others.items() if name != "avatar"}
            | {self.tab.avatar.avatar: request.avatar, self.tab.avatar.cards: request.avatar}
        )

    def _shown_output(self, output: OutputOptions) -> Updates:
        """The controls of the output with its values."""
        card, backdrop = self.tab.output, output.backdrop
        behind = "file" if backdrop else output.background or BACKGROUNDS[0]
        named = None if output.captions in (None, SPOKEN) else output.captions
        files = {card.background_file: backdrop, card.captions_file: named}
        plain = ("place", "size", "shape", "caption_place", "caption_size", "format", "fps")
        return (
            {card.canvas: output.canvas or "", card.background: behind, card.subtitles: output.subtitles or ""}
            | {control: lent(str(path)) if path and Path(path).is_file() else None for control, path in files.items()}
            | {card.captions: output.caption_style if output.captions else CAPTIONS[0]}
            | {card.settings[name]: getattr(output, name) for name in plain}
        )

    # --- What the browser keeps ------------------------------------------------------------------------------------------------

    @property
    def lasting(self) -> dict[str, gr.components.Component]:
        """The controls that are as they were when the page is opened anew: all but files."""
        files = ("speech", "video", "background_file", "captions_file", "timeline")
        return {name: control for name, control in self.tab.settings.items() if name not in files}

    def keep(self, visitor: gr.Request, rows: list, **settings: object) -> dict[str, object]:
        """The settings for the browser, with whose they are: another person's are not shown."""
        return settings | {"rows": rows, "whose": name_of(visitor)}

    @in_own_workspace
    def restore(self, visitor: gr.Request, kept: Mapping[str, object] | None) -> Updates:
        """The controls as the browser has kept them, and the avatars there are."""
        kept = kept if isinstance(kept, dict) and kept.get("whose") == name_of(visitor) else {}
        offered = self.offer(visitor, str(kept.get("avatar")))
        known = {control: kept[name] for name, control in self.lasting.items() if name in kept and name != "avatar"}
        rows = {self.tab.emotion.timeline.table: kept["rows"]} if kept.get("rows") else {}
        return offered | {control: value for control, value in known.items() if _fits(control, value)} | rows

    # --- Requests --------------------------------------------------------------------------------------------------------------

    def request_of(self, visitor: gr.Request, settings: Mapping[str, object]) -> SpeakRequest:
        """What the settings ask for; what can't be asked for becomes a sentence on the page."""
        values = dict(settings)
        source, keep = str(values.pop("source")), bool(values.pop("keep_emotion"))
        said = {name: values.pop(name) for name in ("text", "speech", "video")}
        self.check_avatar(visitor, values["avatar"])
        given = _said(visitor, source, said)
        or_sentence(self.pipeline)
        from gmtalker.request import MOVED, SpeakRequest  # late: it needs torch

        emotion = {name: values.pop(name, 0.0) for name in MIXED}
        timeline = values.pop("timeline") or None
        if source == "film":
            values = {name: value for name, value in values.items() if name not in MOVED}
            timeline = None if keep else timeline
            emotion = {} if keep else emotion if any(emotion.values()) else {EMOTIONS[0]: 1.0}
        else:
            values["seed"] = int(values["seed"] or 0)
        written = self.tab.output.settings
        values["output"] = _output(visitor, {name: values.pop(name) for name in written if name in values}, source)
        values |= {"emotion": {} if timeline else emotion, "timeline": timeline} | given
        values |= {"full_frame": bool(values["full_frame"]), "label_language": language_of(visitor)}
        return or_sentence(SpeakRequest, **values)

    def check_length(self, visitor: gr.Request, request: SpeakRequest) -> None:
        """Errors: gr.Error when a video would be longer than this place makes."""
        from gmtalker.source import expected_seconds  # late: it needs torch

        if or_sentence(expected_seconds, request) > 60 * self.place.limits.speech_minutes:
            raise refusal(say(visitor, "speech_too_long", minutes=self.place.limits.speech_minutes))

    def check_avatar(self, visitor: gr.Request, avatar: object) -> None:
        """Errors: gr.Error for what is no avatar's name: from the page a folder could be anybody's."""
        if avatar not in names():
            raise refusal(say(visitor, "no_such_avatar"))


def _said(visitor: gr.Request, source: str, said: Mapping[str, object]) -> dict[str, object]:
    """The fields of a request for what is said."""
    if source == "text":
        text = str(said["text"] or "").strip()
        if not text:
            raise refusal(say(visitor, "text_first"))
        return {"text": text}
    name = "speech" if source == "voice" else "video"
    if not said[name]:
        raise refusal(say(visitor, f"{name}_first"))
    return {name: Path(str(said[name]))}


def _output(visitor: gr.Request, given: Mapping[str, object], source: str) -> OutputOptions:
    """How the controls want the video to be written; what can't be becomes a sentence on the page."""
    behind, style = given["background"] or BACKGROUNDS[0], given["captions"] or CAPTIONS[0]
    # A name that is neither would be anybody's file.
    if (behind == "file" and not given["background_file"]) or (behind not in BACKGROUNDS and colour_of(behind) is None):
        raise refusal(say(visitor, "background_first"))
    captions = None if style == CAPTIONS[0] else SPOKEN
    if captions and source != "text":
        captions = given.get("captions_file")
        if not captions:
            raise refusal(say(visitor, "captions_need_text"))
    return or_sentence(
        OutputOptions,
        **{name: given[name] for name in ("place", "size", "shape", "caption_place", "caption_size") if name in given},
        format=given["format"] or "mp4",
        fps=given["fps"] or DEFAULT_RATE,
        background={"own": None, "file": given["background_file"]}.get(behind, behind),
        canvas=given["canvas"] or None,
        captions=captions,
        caption_style=STYLES[0] if style == CAPTIONS[0] else style,
        subtitles=(given.get("subtitles") or None) if source == "text" else None,
    )


def _named(request: SpeakRequest, given: str) -> SpeakRequest:
    """The request with the names of visitors' files in the place of their paths.

    given: name of the last speech of another kind: the player has it as a file that browsers know.
    """
    output = request.output
    if output.backdrop is not None:
        output = replace(output, background=output.backdrop.name)
    if output.captions not in (None, SPOKEN):
        output = replace(output, captions=Path(output.captions).name)
    request = replace(request, output=output)
    if request.video is not None:
        return replace(request, video=Path(request.video).name)
    if request.speech is None:
        return request
    spoken = Path(request.speech)
    name = given if spoken.stem in (given, Path(given).stem) else spoken.name
    return replace(request, speech=name)


def _fits(control: gr.components.Component, value: object) -> bool:
    """Whether a control can have a value that the browser gives: it may be from another version."""
    if isinstance(control, (gr.Radio, gr.Dropdown)):
        return value in [choice[1] for choice in control.choices]
    if isinstance(control, gr.Slider):
        return isinstance(value, (int, float)) and control.minimum <= value <= control.maximum
    return isinstance(value, {gr.Checkbox: bool, gr.Number: (int, float)}.get(type(control), str))


def _title(request: SpeakRequest, visitor: gr.Request) -> str:
    """What is said in a video."""
    if request.text is not None:
        return TAG.sub("", request.text).strip()[:TITLE_LETTERS] or request.text[:TITLE_LETTERS]
    return Path(str(request.speech or request.video)).stem[:TITLE_LETTERS]


def _description(request: SpeakRequest, visitor: gr.Request) -> str:
    """Who says it, and how."""
    weights = [f"{say(visitor, name)} {weight:g}" for name, weight in request.emotion.items() if weight]
    emotion = say(visitor, "timeline_title") if request.timeline else ", ".join(weights) or say(visitor, "neutral")
    if request.video is not None and not request.emotion and not request.timeline:
        emotion = say(visitor, "keep_emotion")
    return f"{request.avatar} · {emotion}"
