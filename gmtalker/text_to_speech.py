"""What is to be said, as text, in a synthetic voice: the sound, and when each word is said.

The voice is hibari-tts, which brings its weights along: English, on one core a hundred times faster than speech. An engine is a
function from text and voice to what Spoken holds; ENGINES names them. No voice is copied from a person.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from gmtalker.emotion_script import blended_keys, read_script
from gmtalker.errors import UnusableInput, UnusableSpeech
from gmtalker.media.captions import Cue
from gmtalker.tracks import EmotionKey

if TYPE_CHECKING:
    from hibari import Hibari

LETTERS_MAX = 20_000  # of a text: some twenty minutes
PHONEMES_MAX = 400  # that the network takes at once
PAUSE = ",;:—.!?…"  # phonemes after which a long sentence is divided
DURATIONS = "/Cast_32_output_0"  # frames of each phoneme, in the network of hibari-tts 0.2
FOREIGN, FOREIGN_A_LETTER = 18.0, 1.0  # nats, from which a text is another language's: English ones reach 20 and 0.75
EARLY = 3  # frames by which sound comes before its phoneme, as its teacher Kokoro reckons, too


@dataclass(frozen=True, eq=False)
class Spoken:
    """A text that was said.

    samples: (n,) float32, full scale 1.
    rate: Hz.
    words: in their order; text between spaces, its punctuation included.
    voice: who says it.
    """

    samples: np.ndarray
    rate: int
    words: tuple[Cue, ...]
    voice: str

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


Engine = Callable[[str, str], Spoken]  # text, voice


def say(text: str, voice: str | None = None) -> Spoken:
    """Say a text.

    text: plain, without tags.
    voice: a name of voices(); None is the default.
    Errors: UnusableSpeech when nothing in the text can be said; UnusableInput for a voice that there is not, or can't be loaded.
    """
    if len(text) > LETTERS_MAX:
        raise UnusableSpeech(f"The text has {len(text):,} letters; up to {LETTERS_MAX:,} are said at once.")
    if not re.search(r"\w", text):
        raise UnusableSpeech("The text has no words; please write what is to be said.")
    if unreadable := re.search(r"[^\W\d_a-zA-Z\u00c0-\u024f]", text):
        raise UnusableSpeech(f"The voice speaks English and can't read {unreadable[0]!r}; please give a recording instead.")
    known = voices()
    voice = voice or known[0]
    if voice not in known:
        raise UnusableInput(f"There is no voice {voice!r}; choose from {', '.join(known)}.")
    return _hibari(text, voice)


def seems_english(text: str) -> bool:
    """Whether a text may be English: other languages are told from a few words on, by how likely their letters are."""
    from py3langid import rank  # late, as the voice

    letters = re.findall(r"[^\W\d_]", text)
    likely = dict(rank(text))
    ahead = max(likely.values()) - likely["en"]  # of the likeliest language, in nats
    return ahead < FOREIGN or ahead < FOREIGN_A_LETTER * len(letters)


def say_script(script: str, voice: str | None = None) -> tuple[Spoken, list[EmotionKey]]:
    """Say a script with emotion tags and emoji, which are not said.

    Returns: what say gives, and the keys of the timeline; none where the script has no tags.
    Errors: UnusableInput naming a tag that can't be read; as say.
    """
    try:
        read = read_script(script)
    except ValueError as error:
        raise UnusableInput(f"{error}.") from error
    spoken = say(read.words, voice)
    starts = [found.start() for found in re.finditer(r"\S+", read.words)]
    moments = []
    for place, emotion in read.tags:
        later = [word for word, start in zip(spoken.words, starts) if start >= place]
        # The very beginning is the first word's, whatever silence comes before it.
        moments.append(
            (later[0].begin if later and later[0] is not spoken.words[0] else 0.0 if later else spoken.seconds, emotion)
        )
    return spoken, blended_keys(moments)


@cache
def voices() -> tuple[str, ...]:
    """The voices there are, the default first. Errors: UnusableInput when no engine is installed."""
    try:
        from hibari.voices import DEFAULT, VOICES  # late: an extra
    except ModuleNotFoundError as error:
        raise UnusableInput("No voice is installed: pip install 'gmtalker-studio[voice]'.") from error
    return (DEFAULT, *sorted(set(VOICES) - {DEFAULT}))


# --- hibari-tts ----------------------------------------------------------------------------------------------------------------


@cache
def _loaded(voice: str) -> Hibari:
    """An engine whose network also tells how long each phoneme lasts. Errors: UnusableInput when the voice can't be fetched."""
    import onnx
    import onnxruntime
    from hibari import Hibari

    try:
        engine = Hibari(voice)
    except RuntimeError as error:
        raise UnusableInput(f"The voice {voice} can't be fetched; heart is the one that comes along.") from error
    network = onnx.load(engine.model_path)
    network.graph.output.append(onnx.helper.make_tensor_value_info(DURATIONS, onnx.TensorProto.INT64, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    engine.sess = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return engine


def _hibari(text: str, voice: str) -> Spoken:
    from hibari import SAMPLE_RATE

    engine = _loaded(voice)
    pieces: list[np.ndarray] = []
    said: list[Cue] = []
    samples = 0
    for sentence in engine.split_sentences(text):
        for chunk in _chunks(_phonemes(engine, sentence)):
            sound, times = _sound(engine, [phonemes for _, phonemes in chunk])
            begin = samples / SAMPLE_RATE
            said += [Cue(word, begin + first, begin + last) for (word, _), (first, last) in zip(chunk, times)]
            pieces.append(sound)
            samples += len(sound)
    if not samples:
        raise UnusableSpeech("Nothing of the text can be said; please write it in English words.")
    return Spoken(np.concatenate(pieces), SAMPLE_RATE, _as_written(text.split(), said), voice)


def _phonemes(engine: Hibari, sentence: str) -> list[tuple[str, str]]:
    """The words of a sentence between spaces, as the engine reads them, and their phonemes."""
    from hibari.g2p.normalize import normalize

    words: list[tuple[str, str]] = []
    is_new = True
    for token in engine.g2p.phonemize_tokens(engine.g2p.tokenize(normalize(sentence))):
        phonemes = token.phonemes or ""
        words = (
            [*words, (token.text, phonemes)] if is_new else [*words[:-1], (words[-1][0] + token.text, words[-1][1] + phonemes)]
        )
        is_new = bool(token.whitespace)
    return words


def _chunks(words: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """As many words at once as the network takes, divided after a pause where there is one."""
    chunks: list[list[tuple[str, str]]] = [[]]
    for word in words:
        if sum(len(phonemes) + 1 for _, phonemes in (*chunks[-1], word)) > PHONEMES_MAX:
            pauses = [place for place, (_, phonemes) in enumerate(chunks[-1], start=1) if phonemes[-1:] in PAUSE and phonemes]
            cut = pauses[-1] if pauses else len(chunks[-1])
            chunks[-1:] = [chunks[-1][:cut], chunks[-1][cut:]]
        chunks[-1].append(word)
    return [chunk for chunk in chunks if any(phonemes for _, phonemes in chunk)]


def _sound(engine: Hibari, phonemes: Sequence[str]) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The sound of words, and seconds at which each begins and ends."""
    from hibari import SAMPLE_RATE, dsp

    ids, owners = [0], [-1]
    for number, word in enumerate(phonemes):
        for letter in word + (" " if number + 1 < len(phonemes) else ""):
            if letter in engine.vocab:
                ids.append(engine.vocab[letter])
                owners.append(number if letter.isalpha() else -1)  # neither a pause nor a sign of stress
    inputs = {"ids": np.asarray([[*ids, 0]], np.int64), "speed": np.ones(1, np.float32)}
    *spectra, durations = engine.sess.run(None, inputs)
    sound = dsp.synth(*(output[0] for output in spectra), np.random.default_rng(0))
    frames = np.cumsum(durations.ravel())
    ends = np.maximum(frames - EARLY, 0) / frames[-1] * len(sound) / SAMPLE_RATE
    owner, times = np.array([*owners, -1]), []
    for number in range(len(phonemes)):
        own = np.flatnonzero(owner == number)
        begin = ends[own[0] - 1] if len(own) else times[-1][1] if times else 0.0
        times.append((float(begin), float(ends[own[-1]] if len(own) else begin)))
    return sound, times


def _as_written(written: Sequence[str], said: Sequence[Cue]) -> tuple[Cue, ...]:
    """When the words as they are written are said: "$5" may have been read as two, which are one then."""
    words: list[Cue] = []
    plain = partial(re.sub, r"\W", "")
    matcher = SequenceMatcher(None, [plain(word).lower() for word in written], [plain(word.text).lower() for word in said], False)
    for _, first, last, other, end in matcher.get_opcodes():
        span = said[other:end]
        if last - first == len(span):
            words += [Cue(text, word.begin, word.end) for text, word in zip(written[first:last], span)]
            continue
        begin = span[0].begin if span else words[-1].end if words else 0.0
        length = (span[-1].end - begin if span else 0.0) / max(last - first, 1)
        words += [Cue(text, begin + length * i, begin + length * (i + 1)) for i, text in enumerate(written[first:last])]
    return tuple(words)
