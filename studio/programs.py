"""What programs ask of the page: the endpoints, and MCP tools, `speak` and `avatars`. No handler of the page is among them."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from threading import Event
from typing import Literal

import gradio as gr
from gradio.components.api_component import Api
from gradio_client.utils import python_type_to_json_schema

from gmtalker.clock import EMOTIONS, LABELS, LARGEST_AMOUNT, LARGEST_INTENSITY, MOTIONS
from gmtalker.files import temporary_folder
from gmtalker.media.captions import CAPTION_PLACES, CAPTION_SIZES, STYLES, USUAL_SIZE
from gmtalker.media.composition import PLACES, SHAPES
from gmtalker.media.formats import CANVASES, DEFAULT_RATE, FORMATS, RATES
from gmtalker.progress import Progress, Stopped
from studio.accounts import in_own_workspace
from studio.avatars import names
from studio.components import MIXED, or_sentence, refusal
from studio.create_handlers import CreateHandlers
from studio.terms import check_terms
from studio.translations import say
from studio.uploads import keeping_names

WEIGHTS = f"{{name: weight}}, weights from 0 to 1 of {', '.join(MIXED)}; what they leave of 1 is neutral"
AMOUNT = f"0 none, 1 the person's own, up to {LARGEST_AMOUNT:g}"
FILE = None  # the type of a parameter that is a file
# Of `speak`, in their order: type, default, and what it is.
PARAMETERS: dict[str, tuple[object, object, str]] = {
    "text": (str, "", "What a synthetic voice says, in English; tags such as [happy 0.8] and emoji set the emotion. Or speech:"),
    "speech": (FILE, None, "A sound file, or a video with sound, in any language; in the place of text"),
    "video": (FILE, None, "A film whose person the avatar follows, with its sound; in the place of text and speech"),
    "avatar": (str, "", "The name of an avatar, one of those that `avatars` lists; empty for the first"),
    "voice": (str, "", "The synthetic voice; empty for the usual one"),
    "emotion": (dict[str, float], {}, WEIGHTS),
    "timeline": (list[dict], [], 'Keys [{"time": seconds, "emotion": {name: weight}}] between which emotions are blended'),
    "intensity": (float, 1.0, f"Of the emotion: 0 neutral, 1 as given, up to {LARGEST_INTENSITY:g}"),
    "head": (float, 1.0, f"How much the head moves: {AMOUNT}"),
    "blink": (float, 1.0, f"How much the eyelids move: {AMOUNT}"),
    "gaze": (float, 1.0, f"How much the eyes move: {AMOUNT}"),
    "motion": (Literal[MOTIONS], MOTIONS[0], "How the head moves"),
    "seed": (int, 0, "Another number is another take"),
    "full_frame": (bool, False, "In the person's own footage instead of head and shoulders"),
    "label": (Literal[LABELS], LABELS[0], "When a label in the picture says that it is AI-generated"),
    "format": (Literal[tuple(FORMATS)], "mp4", "Of the file"),
    "fps": (Literal[tuple(sorted(RATES))], DEFAULT_RATE, "Frames a second"),
    "canvas": (str, "", f"{', '.join(CANVASES)}, or like 1080x1920; empty for the avatar's own square"),
    "background": (str, "", "A colour such as #00b140 or white, or blur; empty for the person's own"),
    "background_file": (FILE, None, "A picture or video to put behind the person"),
    "place": (Literal[PLACES], PLACES[0], "Where the person stands in the canvas"),
    "size": (float, 1.0, "Of the person, in the canvas's shorter side"),
    "shape": (Literal[SHAPES], SHAPES[0], "What is put into the canvas"),
    "captions": (bool, False, "Whether the text is written into the picture"),
    "caption_style": (Literal[STYLES], STYLES[0], "Lines, or one word at a time"),
    "caption_place": (Literal[CAPTION_PLACES], CAPTION_PLACES[0], "Where captions stand"),
    "caption_size": (Literal[tuple(CAPTION_SIZES)], USUAL_SIZE, "How large captions are"),
}
SPEAK = "Make a video in which an avatar says a text or a recording, with emotions. It is marked and signed as AI-generated."


def offer_to_programs(handlers: CreateHandlers) -> None:
    """Make the endpoints, inside the page's gr.Blocks."""
    inputs = {name: _component(name, kind, default) for name, (kind, default, _) in PARAMETERS.items()}
    outputs = [gr.File(label="video", visible=False), *(_api(label, kind) for label, kind in RETURNED.items())]
    speak = described(_Programs(handlers).speak, SPEAK)
    # Turns are for all; gradio's own line would be first come, first served.
    shown = {"show_progress": "hidden", "concurrency_limit": None}
    gr.Button(visible=False).click(speak, None, outputs, inputs_kwargs=inputs, api_name="speak", **shown)
    gr.api(avatars, api_name="avatars")


RETURNED = {"seconds": float, "seed": int, "request": dict}  # beside the file, by their names


def _component(name: str, kind: object, default: object) -> gr.components.Component:
    if kind is FILE:
        return keeping_names(gr.File(label=name, visible=False))
    return _api(name, kind, default)


def _api(label: str, kind: object, default: object = None) -> Api:
    return Api(default, python_type_to_json_schema(kind), label)


def described(function: Callable, about: str) -> Callable:
    """A handler that takes PARAMETERS by name, with the signature and the description that gradio reads for programs."""

    async def speak(visitor: gr.Request, *values: object, **named: object) -> AsyncIterator[tuple]:
        async for result in function(visitor, **dict(zip(PARAMETERS, values)) | named):
            yield result

    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    asked = [inspect.Parameter(name, either, default=default) for name, (_, default, _) in PARAMETERS.items()]
    speak.__signature__ = inspect.Signature([inspect.Parameter("visitor", either, annotation=gr.Request), *asked])  # type: ignore[attr-defined]
    listed = "\n".join(f"    {name}: {text}" for name, (_, _, text) in PARAMETERS.items())
    speak.__doc__ = f"{about}\n\nArgs:\n{listed}\n\nReturns:\n    the file, seconds, the seed, and the request that repeats it"
    return speak


@in_own_workspace
def avatars(visitor: gr.Request) -> list[str]:
    """The names of the avatars that can speak."""
    return names()


class _Programs:
    """Answers programs with what the page's own handlers do."""

    def __init__(self, handlers: CreateHandlers) -> None:
        self.handlers = handlers

    async def speak(self, visitor: gr.Request, **settings: object) -> AsyncIterator[tuple]:
        """Make a video when it is this program's turn. Yields: once, file, seconds, seed and request."""
        gone = Event()
        with temporary_folder() as folder:
            try:
                with self.handlers.turns.ticket(visitor) as ticket:
                    await ticket.turn.wait()
                    result = await asyncio.to_thread(self._made, visitor, folder, settings, gone)
            finally:
                gone.set()  # also for the thread of a program that waits no longer
            yield result

    @in_own_workspace
    def _made(
        self, visitor: gr.Request, folder: Path, settings: Mapping[str, object], gone: Event
    ) -> tuple[str, float, int, dict]:
        check_terms(visitor)
        request = self.handlers.request_of(visitor, _as_on_the_page(visitor, settings))
        self.handlers.check_length(visitor, request)
        output = folder / f"video{request.output.file.suffix}"
        frames = deque([0.0], maxlen=1)

        def count(progress: Progress) -> None:
            if progress.stage == "drawing":
                frames.append(progress.total)

        try:
            or_sentence(self.handlers.speaker, request, output, count, gone.is_set)
        except Stopped as error:
            raise refusal(say(visitor, "stopped")) from error
        return str(output), round(frames[0] / float(request.output.rate), 2), request.seed, _told(request.to_json())


def _as_on_the_page(visitor: gr.Request, settings: Mapping[str, object]) -> dict[str, object]:
    """The values as the page's own controls give them. Errors: gr.Error naming what can't be asked for."""
    sources = [name for name in ("text", "speech", "video") if settings[name]]
    if len(sources) > 1:
        raise refusal("Give a text, a speech or a video, and only one of them.")
    emotion = settings["emotion"] or {}
    if not isinstance(emotion, dict) or not set(emotion) <= set(EMOTIONS):
        raise refusal(f"emotion is {WEIGHTS}.")
    values = dict(settings) | {name: emotion.get(name, 0.0) for name in MIXED}
    del values["emotion"]
    values["voice"] = values["voice"] or None
    offered = names()
    values["avatar"] = values["avatar"] or next(iter(offered), None)
    style = values.pop("caption_style") or STYLES[0]
    values["captions"] = style if values["captions"] else "none"
    values["source"] = {"speech": "voice", "video": "film"}.get(sources[0] if sources else "text", "text")
    values["keep_emotion"] = not emotion and not values["timeline"]
    if values["background_file"] and values["background"] in ("", "own"):  # a program need not say it twice
        values["background"] = "file"
    return values


def _told(request: dict[str, object]) -> dict[str, object]:
    """A request without the places of files on the server."""
    output = dict(request["output"])  # type: ignore[call-overload]
    for values, name in ((request, "speech"), (request, "video"), (output, "background")):
        if isinstance(values.get(name), str) and "/" in str(values[name]):
            values[name] = Path(str(values[name])).name
    return request | {"output": output}
