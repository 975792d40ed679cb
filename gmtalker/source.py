"""What is said in a video: a recording, a text in a synthetic voice, or the sound of a film that leads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gmtalker.media.audio import read_sound_or_none, read_speech, sound_seconds, what_was_heard, write_wave
from gmtalker.media.captions import STYLES, Cue, cues_of
from gmtalker.media.video import read_info
from gmtalker.request import SpeakRequest
from gmtalker.text_to_speech import say_script, seems_english

TAGS_COUNT = "The tags in the text set the emotion; the one that was chosen beside them is left out."
READ_AS_ENGLISH = "The text does not seem to be English; the voice reads it as if it were. A recording can be in any language."
LETTERS_A_SECOND = 14  # of a text, as the voice says it


def expected_seconds(request: SpeakRequest) -> float:
    """About how long a video will be, before anything is said. Errors: UnusableInput when a recording can't be read."""
    if request.video is not None:
        return read_info(Path(request.video)).seconds
    return sound_seconds(Path(request.speech)) if request.text is None else len(request.text) / LETTERS_A_SECOND


@dataclass(frozen=True, eq=False)
class Heard:
    """What is said, ready to be performed.

    request: with the timeline of the text's tags.
    waveform: (samples,) float at 16 kHz; None for a silent film.
    sound: the file to be heard in the video; None where there is nothing to hear.
    sentences: what is to be told of the recording or the text.
    said: the words of a text, each when it is said.
    voice: that says the text; None for a recording.
    """

    request: SpeakRequest
    waveform: np.ndarray | None
    sound: Path | None
    sentences: tuple[str, ...] = ()
    said: tuple[Cue, ...] = ()
    voice: str | None = None

    @property
    def shown(self) -> tuple[Cue, ...]:
        """The captions, word by word or in lines."""
        return self.said if self.request.output.caption_style == STYLES[1] else cues_of(self.said)


def heard(request: SpeakRequest, folder: Path) -> Heard:
    """Read the recording of a request, or say its text.

    folder: for what a synthetic voice says.
    Errors: UnusableSpeech; UnusableVideo for a film; UnusableInput as say_script.
    """
    if request.video is not None:
        sound = read_sound_or_none(Path(request.video))
        return Heard(request, sound, None if sound is None else Path(request.video))
    if request.text is None:
        path = Path(request.speech)
        return Heard(request, read_speech(path), path, tuple(what_was_heard(path)))
    spoken, keys = say_script(request.text, request.voice)
    sound = folder / "said.wav"
    write_wave(sound, spoken.samples, spoken.rate)
    # Tags in the text are nearer to the words than sliders are.
    tagged = replace(request, emotion={}, timeline=keys) if keys else request
    overrides = keys and (request.timeline or any(request.emotion.values()))
    sentences = [TAGS_COUNT] if overrides else []
    if not seems_english(" ".join(word.text for word in spoken.words)):
        sentences.append(READ_AS_ENGLISH)
    return Heard(tagged, read_speech(sound), sound, tuple(sentences), spoken.words, spoken.voice)
