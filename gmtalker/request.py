"""What an avatar is to say, and how: the request object shared by page, command line and Python."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from gmtalker.avatars.avatar import Avatar
from gmtalker.avatars.ready import AvatarLike, ReadyAvatar
from gmtalker.avatars.storage import lookup_avatar
from gmtalker.clock import EMOTIONS, LABEL_LANGUAGES, LABELS, LARGEST_AMOUNT, LARGEST_INTENSITY, MOTIONS
from gmtalker.files import load_request, save_json
from gmtalker.output import SPOKEN, OutputOptions
from gmtalker.tracks import EmotionKey, EmotionWeights, over_full

MOVED = ("seed", "head", "blink", "gaze", "motion")  # what a video that leads decides
KIND = "speak"  # of request that a JSON file holds
# What JSON gives for the fields whose value no other check looks at.
JSON_KINDS: dict[str, type | tuple[type, ...]] = {
    "speech": (str, type(None)),
    "text": (str, type(None)),
    "video": (str, type(None)),
    "voice": (str, type(None)),
    "avatar": (str, type(None)),
    "emotion": dict,
    "full_frame": bool,
    "label": (bool, str),
}


@dataclass(frozen=True)
class SpeakRequest:
    """What an avatar is to say, and how.

    speech: a sound or video file, or (samples,) float at 16 kHz. Or:
    text: what a synthetic voice says, with emotion tags and emoji (text_to_speech.say_script). Or:
    video: a film whose person the avatar follows, with its sound; without an emotion or a timeline it keeps that of the film.
    voice: of the text; None is the default.
    avatar: name, folder or repo on the Hub, or a loaded one; None is the bundled one.
    emotion: weights by name, 0 to 1; what they leave of 1 is neutral. Or:
    timeline: keys, as EmotionKey or {"time": seconds, "emotion": {name: weight}}, between which emotions are blended.
    intensity: 0 neutral, 1 as given, up to 2 exaggerated.
    seed: another take of the same speech.
    head, blink, gaze: how much of that movement; 1 is the person's own, 3 the most.
    full_frame: in the person's own footage, at its size, instead of head and shoulders alone.
    label: when a label in the picture says that it is AI-generated: "none", "whole" or "intervals" (provenance.label).
    label_language: of its word: "en" or "zh".
    motion: "own", as the person moves; "still", with the head held nearly still; or "lively".
    output: format, frame rate, background, canvas and captions, as OutputOptions or its JSON.
    Errors: ValueError naming the valid choices.
    """

    speech: Path | str | np.ndarray | None = None
    avatar: AvatarLike = None
    emotion: Mapping[str, float] = field(default_factory=dict)
    timeline: Sequence[EmotionKey | Mapping[str, object]] | None = None
    intensity: float = 1.0
    seed: int = 0
    head: float = 1.0
    blink: float = 1.0
    gaze: float = 1.0
    full_frame: bool = False
    label: str = LABELS[0]
    label_language: str = LABEL_LANGUAGES[0]
    motion: str = "own"
    text: str | None = None
    voice: str | None = None
    video: Path | str | None = None
    output: OutputOptions = field(default_factory=OutputOptions)

    def __post_init__(self) -> None:
        self._check_source()
        if self.emotion is None:
            object.__setattr__(self, "emotion", {})
        if self.emotion and self.timeline:
            raise ValueError("Give an emotion or a timeline, not both")
        if self.timeline is not None:
            is_empty = isinstance(self.timeline, (list, tuple)) and not self.timeline
            object.__setattr__(self, "timeline", None if is_empty else EmotionKey.read_all(self.timeline))
        if not isinstance(self.intensity, (int, float)) or not 0 <= self.intensity <= LARGEST_INTENSITY:
            raise ValueError(f"intensity must be between 0 and {LARGEST_INTENSITY:g}, not {self.intensity!r}")
        self.weights(1)
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be a whole number >= 0, not {self.seed!r}")
        for name in ("head", "blink", "gaze"):
            amount = getattr(self, name)
            if not isinstance(amount, (int, float)) or not 0 <= amount <= LARGEST_AMOUNT:
                raise ValueError(f"{name} must be between 0 and {LARGEST_AMOUNT:g}, not {amount!r}")
        if isinstance(self.label, bool):  # as requests of version 0.2 have it
            object.__setattr__(self, "label", LABELS[int(self.label)])
        for name, choices in (("motion", MOTIONS), ("label", LABELS), ("label_language", LABEL_LANGUAGES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")

    def _check_source(self) -> None:
        """What is said, and how it is written."""
        if sum(source is not None for source in (self.speech, self.text, self.video)) != 1:
            raise ValueError("Give a speech, a text or a video that leads, and only one of them")
        if self.voice is not None and self.text is None:
            raise ValueError("A voice says a text; with a recording there is none to choose")
        if self.video is not None:
            moved = [name for name in MOVED if getattr(self, name) != SpeakRequest.__dataclass_fields__[name].default]
            if moved:
                raise ValueError(f"The person in the video leads how the avatar moves; leave out {moved[0]}")
        if not isinstance(self.output, OutputOptions):  # of JSON
            object.__setattr__(self, "output", OutputOptions.from_json(self.output))
        if self.text is None and (self.output.captions == SPOKEN or self.output.subtitles is not None):
            raise ValueError("Captions of what is said need it as a text; with a recording, give an .srt or .vtt file")
        if self.full_frame and self.output.needs_outline:
            raise ValueError("A full frame has its own background; leave out full_frame, or the new background")

    @property
    def keys(self) -> tuple[EmotionKey, ...]:
        """The timeline's, none where the emotion is constant."""
        return EmotionKey.read_all(self.timeline) if self.timeline else ()

    def weights(self, frames: int) -> EmotionWeights:
        """The emotion weights of a video of so many frames."""
        if self.timeline:
            return EmotionWeights.from_timeline(self.keys, frames, min(self.intensity, 1.0))
        return EmotionWeights.from_mapping(self.emotion, min(self.intensity, 1.0))

    def is_over_full(self) -> bool:
        """Whether emotion weights sum to more than 1 somewhere, so that they are scaled down: the caller warns of it."""
        emotions = [key.emotion for key in self.keys] or [self.emotion]
        return any(map(over_full, emotions))

    def command(self, output: str = "video.mp4") -> str:
        """The line that repeats this request from a shell."""
        words = ["python", "-m", "gmtalker", "speak" if self.video is None else "reenact"]
        if self.avatar is not None:
            words.append(f"--avatar={_named(self.avatar)}")  # a name may begin as an option does
        sources = {"--speech": self.speech, "--text": self.text, "--video": self.video}
        said = next((option, str(value)) for option, value in sources.items() if value is not None)
        for option, value in (said, ("--output", output)):
            words += [f"{option}={value}"] if value.startswith("-") else [option, value]
        shown = {name: weight for name, weight in self.emotion.items() if weight}
        if self.video is not None and self.emotion and not shown:  # not the film's own
            shown = {EMOTIONS[0]: 1.0}
        if shown:
            words += ["--emotion", ",".join(f"{name}={weight:g}" for name, weight in shown.items())]
        if self.timeline:
            words += ["--timeline", json.dumps([key.to_json() for key in self.keys])]
        for name in ("intensity", "seed", "head", "blink", "gaze"):
            value = getattr(self, name)
            if value != SpeakRequest.__dataclass_fields__[name].default:
                words += [f"--{name}", str(value) if name == "seed" else f"{value:g}"]
        words += ["--motion", self.motion] if self.motion != MOTIONS[0] else []
        words += ["--full-frame"] if self.full_frame else []
        words += [f"--label={self.label}"] if self.label != LABELS[0] else []
        words += [f"--label-language={self.label_language}"] if self.label_language != LABEL_LANGUAGES[0] else []
        words += [] if self.voice is None else [f"--voice={self.voice}"]
        return shlex.join([*words, *self.output.words()])

    def to_json(self) -> dict[str, object]:
        """The request, ready for json.dumps, such that it means the same from any folder.

        Returns: {"request": "speak", "speech": absolute path, "avatar": name, repo or absolute path, ...}; speech is null where
            it was given as samples, or is a text or a video.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["speech"] = os.path.abspath(self.speech) if isinstance(self.speech, (str, Path)) else None
        values["video"] = None if self.video is None else os.path.abspath(self.video)
        values["output"] = self.output.to_json()
        values["avatar"] = _lasting(self.avatar)
        values["emotion"] = {name: float(weight) for name, weight in self.emotion.items()}
        values["timeline"] = [key.to_json() for key in self.keys] or None
        return {"request": KIND} | values

    @classmethod
    def from_json(cls, values: object) -> SpeakRequest:
        """The request that to_json wrote. Errors: ValueError for anything else."""
        known = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or values.get("request") != KIND:
            raise ValueError('it does not begin with {"request": "speak", ...')
        given = {name: value for name, value in values.items() if name != "request"}
        if unknown := set(given) - known:
            raise ValueError(f"it holds {min(unknown)!r}, which no request has")
        if all(given.get(source) is None for source in ("speech", "text", "video")):
            raise ValueError("it does not name the file that was spoken")
        for name, kinds in JSON_KINDS.items():
            if name in given and not isinstance(given[name], kinds):
                raise ValueError(f"its {name} can't be {json.dumps(given[name])[:40]}")
        return cls(**given)

    def save(self, path: Path) -> None:
        """Write the request as JSON, whole or not at all. Errors: OSError when it can't be written."""
        save_json(self.to_json(), path)

    @classmethod
    def load(cls, path: Path) -> SpeakRequest:
        """Read a saved request. Errors: UnusableInput when the file is missing or holds none."""
        return load_request(path, cls.from_json)


def request_file(video: Path) -> Path:
    """Where the request of a video is saved: video.request.json beside video.mp4."""
    return Path(video).with_suffix(".request.json")


def _named(avatar: AvatarLike) -> str | None:
    """How an avatar is named on a command line: the name of a loaded one, or its folder where no name leads there."""
    if isinstance(avatar, ReadyAvatar):
        avatar = avatar.avatar
    if isinstance(avatar, Avatar):
        return avatar.name if lookup_avatar(avatar.name) == avatar.folder else os.path.abspath(avatar.folder)
    return None if avatar is None else str(avatar)


def _lasting(avatar: AvatarLike) -> str | None:
    """As _named, but a folder by its absolute path."""
    name = _named(avatar)
    if name is None or not isinstance(avatar, (str, Path)):
        return name
    folder = Path(name).expanduser()
    return os.path.abspath(folder) if lookup_avatar(avatar) == folder else name
