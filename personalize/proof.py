"""A film in which a person says that they agree, with three words that nobody knew before: it is them, and it is now."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gmtalker.avatars.workspace import private_home, workspace
from gmtalker.clock import SAMPLE_RATE
from gmtalker.errors import UnusableInput
from gmtalker.files import whole_file
from gmtalker.media.audio import read_speech
from personalize.check import Report, check_clip
from personalize.check_faults import another_person_between

# Words that recognisers hear alike in most voices; of three different ones there are 4,080.
WORDS = "apple bridge candle dragon elephant forest garden hammer island jacket kitchen lemon mountain orange purple river window"
VALID_SECONDS = 30 * 60.0
SENTENCE = "I agree that an avatar of me is made, which can be made to say anything: {words}."
SECONDS_MAX = 120.0
RECOGNISER = "GMTALKER_RECOGNISER"  # environment variable: a repo on the Hub, or a folder, of a speech recogniser
Recogniser = Callable[[np.ndarray], str]  # (samples,) at 16 kHz -> what is said


@dataclass(frozen=True)
class Proof:
    """What a film of a consent showed. The film itself is not kept.

    sha256: of the film.
    words: that were asked for, and heard.
    face: what was found of the face, in words.
    """

    sha256: str
    words: str
    face: str


def ask() -> str:
    """Three random words, to be said within half an hour. Returns: the sentence to film."""
    words = " ".join(secrets.SystemRandom().sample(WORDS.split(), 3))
    asked = _asked() | {words: time.time()}
    private_home()
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(asked), encoding="utf-8")
    return SENTENCE.format(words=words)


def prove(film: Path, clip: Report, recognise: Recogniser | None = None) -> Proof:
    """Look and listen whether the person of a clip says in a film that they agree.

    film: a video with sound, up to two minutes.
    clip: the report on the clip, whose person is to be the one in the film.
    recognise: what hears the words; None for the recogniser that GMTALKER_RECOGNISER names.
    Errors: UnusableInput when the film can't be read, shows somebody else, or not one of the sentences asked for is heard in it.
    """
    report = check_clip(film)
    if not report.faces or not clip.faces:
        raise UnusableInput(f"No face is seen in {(film if clip.faces else Path(clip.clip)).name}; please film it again.")
    if report.seconds > SECONDS_MAX:
        raise UnusableInput(f"{film.name} has {report.seconds:.0f} seconds; the sentence alone is enough.")
    face = another_person_between(clip.clip, clip.faces, report.faces)
    if face.status == "fail":
        raise UnusableInput(f"The person in {film.name} is another than in {clip.clip}; they have to agree themselves.")
    heard = _plain((recognise or recogniser())(read_speech(film)))
    words = next((words for words in _asked() if set(words.split()) <= set(heard.split())), None)
    if words is None:
        raise UnusableInput(
            f"The words asked for are not heard in {film.name}; ask for new ones, which are valid for half an hour."
        )
    return Proof(hashlib.sha256(film.read_bytes()).hexdigest(), words, face.value)


def recogniser() -> Recogniser:
    """The speech recogniser that GMTALKER_RECOGNISER names.

    Errors: UnusableInput when none is named or it can't be loaded; ModuleNotFoundError without transformers.
    """
    name = os.environ.get(RECOGNISER, "")
    if not name:
        raise UnusableInput(f"No speech recogniser is set up; {RECOGNISER} names one, such as openai/whisper-base.")
    from transformers import pipeline  # late: takes seconds

    try:
        hear = pipeline("automatic-speech-recognition", model=name)
    except (OSError, ValueError) as error:
        raise UnusableInput(f"The speech recogniser {name} can't be loaded; {RECOGNISER} names it.") from error
    return lambda samples: str(hear({"raw": samples, "sampling_rate": SAMPLE_RATE})["text"])


def _file() -> Path:
    return workspace() / "consent-words.json"


def _asked() -> dict[str, float]:
    """The words that were asked for and are still valid, with the time."""
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
        return {words: when for words, when in known.items() if 0 <= time.time() - when < VALID_SECONDS}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _plain(text: str) -> str:
    """Small letters and spaces alone."""
    return re.sub(r"[^a-z]+", " ", unicodedata.normalize("NFKD", text.lower()))


def as_json(proof: Proof) -> dict:
    """The proof as a consent keeps it."""
    return asdict(proof)
