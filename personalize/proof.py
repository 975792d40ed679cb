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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from gmtalker.avatars.audit import record
from gmtalker.avatars.workspace import own_file, workspace
from gmtalker.clock import SAMPLE_RATE
from gmtalker.errors import UnusableInput
from gmtalker.files import save_json
from gmtalker.media.audio import read_speech
from personalize.check import Report, check_clip
from personalize.check_faults import another_person_between
from personalize.consent import Consent

# Words that recognisers hear alike in most voices; in an order of their own there are 4,080 choices of three.
WORDS = "apple bridge candle dragon elephant forest garden hammer island jacket kitchen lemon mountain orange purple river window"
FILE = "consent-words.json"  # in the workspace
VALID_SECONDS = 30 * 60.0
SENTENCE = "I agree that an avatar of me is made, which can be made to say anything: {words}."
SECONDS_MAX, HEARD_MAX = 120.0, 40  # of the film; words in it
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
    # In the place of those asked for before: many at once would prove nothing.
    save_json({"words": words, "when": time.time()}, own_file(FILE))
    return SENTENCE.format(words=words)


def proved(consent: Consent, film: Path, clip: Path, avatar: str) -> Consent:
    """A consent with what a film of it shows; a film that shows something else is noted in the audit log.

    film: a video with sound, up to two minutes.
    clip: the person's, of whom an avatar is made.
    avatar: its name.
    Errors: UnusableInput as prove.
    """
    try:
        return replace(consent, proof=asdict(prove(film, check_clip(clip))))
    except UnusableInput as error:
        record("refused", avatar, why=str(error))
        raise


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
    hear, words = recognise or recogniser(), _asked()
    heard = _plain(hear(read_speech(film))).split()
    own_file(FILE).unlink(missing_ok=True)  # one try: a film that tries others is no answer
    if words is None or not _says(heard, words.split()):
        raise UnusableInput(f"The sentence asked for in the last half hour is not heard in {film.name}; ask for a new one.")
    return Proof(hashlib.sha256(film.read_bytes()).hexdigest(), words, face.value)


def recogniser() -> Recogniser:
    """The speech recogniser that GMTALKER_RECOGNISER names; without it pocketsphinx, which brings its English model along.

    Errors: UnusableInput when none is at hand or it can't be loaded; ModuleNotFoundError without transformers.
    """
    name = os.environ.get(RECOGNISER, "")
    if not name:
        return _pocketsphinx()
    from transformers import pipeline  # late: takes seconds

    try:
        hear = pipeline("automatic-speech-recognition", model=name)
    except (OSError, ValueError) as error:
        raise UnusableInput(f"The speech recogniser {name} can't be loaded; {RECOGNISER} names it.") from error
    return lambda samples: str(hear({"raw": samples, "sampling_rate": SAMPLE_RATE})["text"])


def _pocketsphinx() -> Recogniser:
    """Hears the sentence freely, and its end as three of the words that are asked for: the likeliest of 4,096."""
    try:
        from pocketsphinx import Config, Decoder  # late: an extra
    except ModuleNotFoundError:
        raise UnusableInput(
            f"No speech recogniser is set up: install gmtalker-studio[recogniser], or name one in {RECOGNISER}, "
            "such as openai/whisper-base."
        ) from None
    freely, closed = Decoder(loglevel="FATAL"), Decoder(Config(lm=None, loglevel="FATAL"))
    sentence, choices = _plain(SENTENCE.format(words="")).strip(), " | ".join(WORDS.split())
    grammar = f"grammar consent; <word> = {choices}; public <consent> = [{sentence}] <word> <word> <word>;"
    closed.add_jsgf_string("consent", f"#JSGF V1.0; {grammar}")
    closed.activate_search("consent")

    def hear(samples: np.ndarray) -> str:
        sound = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        heard = []
        for decoder in (freely, closed):
            decoder.start_utt()
            decoder.process_raw(sound, full_utt=True)
            decoder.end_utt()
            heard.append(decoder.hyp().hypstr if decoder.hyp() else "")
        return f"{heard[0]} {' '.join(heard[1].split()[-3:])}"

    return hear


def _asked() -> str | None:
    """The words that were asked for, while they are valid."""
    try:
        known = json.loads((workspace() / FILE).read_text(encoding="utf-8"))
        return str(known["words"]) if 0 <= time.time() - known["when"] < VALID_SECONDS else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _says(heard: list[str], words: list[str]) -> bool:
    """Whether somebody agrees, and then says the words, one after the other, and not much else."""
    places = [place for place in range(len(heard)) if heard[place : place + len(words)] == words]
    return bool(places) and "agree" in heard[: places[0]] and len(heard) <= HEARD_MAX


def _plain(text: str) -> str:
    """Small letters and spaces alone."""
    return re.sub(r"[^a-z]+", " ", unicodedata.normalize("NFKD", text.lower()))
