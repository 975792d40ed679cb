"""The request to train an avatar, as page, command line, Python and jobs hand it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gmtalker.avatars.workspace import clean_name
from gmtalker.clock import EMOTIONS, SIZES
from gmtalker.files import load_request, save_json
from personalize.consent import Consent

PRESETS = {"draft": 2.0, "standard": 10.0, "high": 30.0}  # minutes of training, after the clips are tracked
MINUTES_MAX = 10_000
STEPS_A_MINUTE = 100  # at least, of a picture of 256 pixels: two quiet cores take 200
SLOWER_MAX = 4.0  # times its minutes, after which a training ends however few steps it took
# A face that is smaller holds no more than 256 pixels show, and in fewer minutes 512 are not learned.
FACE_HEIGHT_512, MINUTES_512 = 200.0, 5.0
HELD_OUT_SHARE, HELD_OUT_SECONDS_MAX = 0.1, 20.0  # of the end of every clip, which is never trained on
TRAINING_FRAMES_MAX = 6000  # of 256 pixels in memory, 1.2 GB; fewer of larger ones
REQUEST_FILE = "request.json"  # in the work folder of a training
KIND = "train"  # "request" in the JSON file


def size_for(face_height: float, minutes: float) -> int:
    """The side of the picture, in pixels, that an avatar is drawn at where nobody asks for another.

    face_height: in the clips, in pixels.
    minutes: of training.
    """
    return 512 if face_height >= FACE_HEIGHT_512 and minutes >= MINUTES_512 else 256


@dataclass(frozen=True)
class TrainRequest:
    """What an avatar is made of, and how.

    name: of the avatar, 1 to 80 printable characters.
    clips: video files of one person; kept as absolute paths.
    consent: of that person.
    preset: of the training time, one of PRESETS.
    minutes: of training instead of the preset's; tracking and measuring take time of their own.
    emotions: the emotion that a clip was filmed in, one of EMOTIONS, for any of the clips.
    size: side of the avatar's picture in pixels, one of SIZES; None for what size_for says of the clips and the minutes.
    look: one of the clips, whose room, clothes and light the avatar has; None for those that the clips show longest.
    Errors: ValueError naming the valid choices.
    """

    name: str
    clips: Sequence[Path]
    consent: Consent
    preset: str = "standard"
    minutes: float | None = None
    emotions: Mapping[Path, str] = field(default_factory=dict)
    size: int | None = None
    look: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.clips, str):
            raise ValueError("clips must be a list of files")
        clips = tuple(Path(clip).resolve() for clip in self.clips)
        emotions = {Path(clip).resolve(): emotion for clip, emotion in (self.emotions or {}).items()}
        look = None if self.look is None else Path(self.look).resolve()
        for name, value in (("name", clean_name(self.name)), ("clips", clips), ("emotions", emotions), ("look", look)):
            object.__setattr__(self, name, value)
        if not clips:
            raise ValueError("There is no clip; give at least one")
        if not isinstance(self.consent, Consent):
            raise ValueError("The consent of the person is required")
        if self.preset not in PRESETS:
            raise ValueError(f"There is no preset {self.preset!r}; choose from {', '.join(PRESETS)}")
        if self.minutes is not None and not 0 < self.minutes < MINUTES_MAX:
            raise ValueError(f"minutes must be a number above 0, not {self.minutes}")
        if self.size is not None and self.size not in SIZES:
            raise ValueError(f"An avatar is drawn at {', '.join(map(str, SIZES))} pixels, not at {self.size}")
        if unknown := [clip for clip in emotions if clip not in clips]:
            raise ValueError(f"An emotion is given for {unknown[0].name}, which is not one of the clips")
        if look is not None and look not in clips:
            raise ValueError(f"The look is that of {look.name}, which is not one of the clips")
        if wrong := [emotion for emotion in emotions.values() if emotion not in EMOTIONS]:
            raise ValueError(f"There is no emotion {wrong[0]!r}; choose from {', '.join(EMOTIONS)}")

    @property
    def training_minutes(self) -> float:
        """Minutes of training: the given ones, or the preset's."""
        return PRESETS[self.preset] if self.minutes is None else self.minutes

    def to_json(self) -> dict:
        """{"request": "train", "name": ..., "clips": [absolute paths], ...}, ready for json.dumps."""
        return {
            "request": KIND,
            "name": self.name,
            "clips": [str(clip) for clip in self.clips],
            "consent": asdict(self.consent),
            "preset": self.preset,
            "minutes": self.minutes,
            "emotions": {str(clip): emotion for clip, emotion in self.emotions.items()},
            "size": self.size,
            "look": None if self.look is None else str(self.look),
        }

    @classmethod
    def from_json(cls, values: object) -> TrainRequest:
        """The inverse of to_json.

        Errors: ValueError for anything else.
        """
        if not isinstance(values, Mapping) or values.get("request") != KIND:
            raise ValueError('It is not a request to train: {"request": "train", ...}')
        given = {name: value for name, value in values.items() if name != "request"}
        try:
            return cls(**given | {"consent": Consent(**given["consent"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"A part of it is missing or unknown ({error})") from error

    def save(self, path: Path) -> None:
        """Write the request as JSON, whole or not at all."""
        save_json(self.to_json(), path)

    @classmethod
    def load(cls, path: Path) -> TrainRequest:
        """Read a request that save wrote.

        Errors: UnusableInput when the file is missing or holds no request.
        """
        return load_request(path, cls.from_json)
