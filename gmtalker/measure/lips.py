"""Measure lips against the sound: closures, rest where nobody speaks, noise, people unseen: `lips` (docs/method.md section 4)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from gmtalker.assets import SPEECH, SPEECHES
from gmtalker.avatars.ready import ReadyAvatar
from gmtalker.clock import EMOTIONS, FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from gmtalker.errors import UnusableInput
from gmtalker.face.lips import OFFSET_MAX, lip_opening, shifted_correlation
from gmtalker.face.tracking import detect_landmarks, fill_and_smooth
from gmtalker.measure.generic import CLIP_SECONDS_MAX, UnseenSpeaker, expression_for, read_unseen_speakers
from gmtalker.measure.plots import draw_mouths
from gmtalker.measure.sync import SpokenLips, sync_figures
from gmtalker.media.audio import change_tempo, read_speech, silent_frames
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.tracks import EmotionWeights

LABIALS, OTHER_SOUNDS = ("m", "b", "p"), ("n", "s", "t", "k")  # sounds made with closed lips, and with the tongue
CLOSED_SHARE, WIDE = 0.15, 0.95  # closed is less than this share of the opening's quantile WIDE over the clip
NEAR = 1  # frames around a labial within which its closure may come
SPEEDS, INTENSITIES = (1.0, 0.5, 2.0), (1.0, 2.0)
SILENCE_SECONDS = 5.0
VOICE_LEVELS, MUSIC_LEVEL = (20, 10, 0), 0  # dB by which voices and music are quieter than the speech


@dataclass(frozen=True)
class Phone:
    """A sound of a speech: its name, and when it begins and ends, in seconds. Errors: ValueError when it does not last."""

    name: str
    begin: float
    end: float

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end < math.inf:
            raise ValueError(f"the phone {self.name!r} must end after it begins, not last from {self.begin:g} to {self.end:g}")

    def frames(self, count: int, around: int = 0) -> slice:
        """The frames of a video of `count` that show it, and `around` more to either side; at least one."""
        begin, end = (round(FPS * seconds, 3) for seconds in (self.begin, self.end))  # 0.28 * 25 is a little more than 7
        first = min(math.floor(begin), count - 1)
        last = min(math.ceil(end), count)
        return slice(max(first - around, 0), max(last, first + 1) + around)


@dataclass(frozen=True)
class Lips:
    """Lip opening in each frame of a performance.

    track: (frames,) before drawing, in face heights.
    drawn: (frames,) found again in the drawn frames, in distances of the eyes' outer corners; None where none were drawn.
    steady: (frames,) the same from smoothed points: free of the tracker's jitter, but quick closures are blurred.
    Errors: ValueError when they differ in length.
    """

    track: np.ndarray
    drawn: np.ndarray | None = None
    steady: np.ndarray | None = None

    def __post_init__(self) -> None:
        if any(opening is not None and opening.shape != self.track.shape for opening in (self.drawn, self.steady)):
            raise ValueError("The lips of a performance are as many in its drawn frames as in its track.")

    def closing(self) -> dict[str, np.ndarray]:
        """By where they were measured, the openings in which closures are looked for."""
        return {"track": self.track} if self.drawn is None else {"track": self.track, "drawn": self.drawn}

    def moving(self) -> dict[str, np.ndarray]:
        """By where they were measured, the openings whose movement is measured."""
        return {"track": self.track} if self.steady is None else {"track": self.track, "drawn": self.steady}


@dataclass(frozen=True)
class LipMeasures:
    """Which measures of lips are taken, beside silence and other voices, which need no file.

    spelled: a speech whose phones are known, and the file that lists them, for closures.
    hum: a file with a hummed "mmm".
    no_speech: files in which nobody speaks.
    music: a file that is heard behind the bundled speech.
    speeches: files with anybody's speech, in any language.
    data: a folder with a MANIFEST.csv whose test clips show how real people's lips move.
    leave_out: people of data who are not compared with.
    pictures: a folder for pictures of the mouth at each labial.
    drawn: whether lips are also found again in drawn frames, which takes most of the time.
    speeds: at which the speech is said for the closures.
    """

    spelled: tuple[Path, Path] | None = None
    hum: Path | None = None
    no_speech: Sequence[Path] = ()
    music: Path | None = None
    speeches: Sequence[Path] = ()
    data: Path | None = None
    leave_out: Sequence[str] = ()
    pictures: Path | None = None
    drawn: bool = True
    speeds: Sequence[float] = SPEEDS


@dataclass(frozen=True, eq=False)
class Talker:
    """An avatar whose lips are measured; drawn: whether also in drawn frames."""

    pipeline: GMTalkerPipeline
    avatar: ReadyAvatar
    drawn: bool = True

    def lips(self, waveform: np.ndarray, emotion: Mapping[str, float] | None = None, intensity: float = 1.0) -> Lips:
        """Lips of the avatar that says (samples,) at 16 kHz."""
        return self.lips_and_frames(waveform, emotion, intensity)[0]

    def lips_and_frames(
        self, waveform: np.ndarray, emotion: Mapping[str, float] | None = None, intensity: float = 1.0
    ) -> tuple[Lips, list[np.ndarray], np.ndarray]:
        """As lips, with the drawn frames (height, width, 3) uint8 and the points (frames, 478, 3) found in them; both empty where
        none are drawn. Errors: UnusableVideo when no face is found again."""
        performance = self.pipeline(waveform, self.avatar, emotion, intensity=intensity)
        coefficients = performance.track.expression.coefficients.numpy()
        track = self.pipeline.face_model.lip_opening(coefficients, self.avatar.avatar.face.neutral_shape)
        if not self.drawn:
            return Lips(track), [], np.zeros((0, 0, 3))
        frames = list(performance)
        points, found = detect_landmarks(frames)
        smooth = fill_and_smooth(points, found)
        points[~found] = smooth[~found]
        return Lips(track, lip_opening(points), lip_opening(smooth)), frames, points


def measure_lips(
    pipeline: GMTalkerPipeline, avatar: ReadyAvatar, wanted: LipMeasures, on_progress: OnProgress = ignore_progress
) -> dict:
    """Take the measures of lips that are wanted.

    Returns: figures by name, as `lips --json` writes them.
    Errors: UnusableInput when a file of phones or a MANIFEST.csv can't be read, UnusableSpeech when a sound can't be,
        UnusableVideo when no face is found in what is drawn.
    Source: docs/method.md section 4, "Closures" and "Lips in noise".
    """
    talker, result = Talker(pipeline, avatar, wanted.drawn), {"avatar": avatar.avatar.name}
    phones = None if wanted.spelled is None else read_phones(wanted.spelled[1])  # before the long part
    on_progress(Progress("measuring lips in speech"))
    spoken = talker.lips(read_speech(SPEECH))
    if wanted.spelled is not None:
        speech = read_speech(wanted.spelled[0])
        result["closures"] = closure_measures(talker, speech, phones, wanted.pictures, on_progress, wanted.speeds)
    if wanted.hum is not None:
        on_progress(Progress(f"measuring lips in {wanted.hum.name}"))
        result["closed_in_hum"] = closed_in_hum(talker.lips(read_speech(wanted.hum)), spoken)
    on_progress(Progress("measuring lips where nobody speaks"))
    silence = {"silence": np.zeros(round(SILENCE_SECONDS * SAMPLE_RATE), np.float32)}
    sounds = silence | {path.name: read_speech(path) for path in wanted.no_speech}
    result["motion_without_speaker"] = {name: lip_speed(talker.lips(sound), spoken) for name, sound in sounds.items()}
    on_progress(Progress("measuring lips in noise"))
    result["lips_in_noise"] = noise_measures(talker, spoken, wanted.music)
    if wanted.speeches:
        on_progress(Progress("measuring lips of other speeches"))
        result["lips_of_any_speech"] = {path.name: any_speech_measures(pipeline, path) for path in wanted.speeches}
    if wanted.data is not None:
        speakers = read_unseen_speakers(wanted.data, pipeline, wanted.leave_out, on_progress)
        on_progress(Progress("measuring lips of unseen speakers"))
        result["lips_of_strangers"] = lip_measures(pipeline, speakers) if speakers else {"clips": 0}
    return result


# --- Closures ------------------------------------------------------------------------------------------------------------------


def read_phones(path: Path) -> tuple[Phone, ...]:
    """The phones of a speech, one after another, from a file of `phone:end`, the end in seconds, as flite -psdur prints them.

    Errors: UnusableInput when the file can't be read or holds anything else.
    """
    try:
        pairs = [re.fullmatch(r"([^:\s]+):(\d+(?:\.\d*)?)", word) for word in Path(path).read_text(encoding="utf-8").split()]
        names, ends = [pair[1] for pair in pairs], [float(pair[2]) for pair in pairs]
        return tuple(map(Phone, names, [0.0, *ends[:-1]], ends))
    except (OSError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise UnusableInput(f'{path} holds no phones such as "pau:0.19 b:0.22", each with its end in seconds.') from error


def closure_measures(
    talker: Talker,
    waveform: np.ndarray,
    phones: Sequence[Phone],
    pictures: Path | None = None,
    on_progress: OnProgress = ignore_progress,
    speeds: Sequence[float] = SPEEDS,
) -> dict:
    """Are lips closed at every m, b and p, and not at n, s, t and k, at every speed and emotion?

    waveform: (samples,) at 16 kHz.
    phones: of that speech.
    pictures: a folder for a picture of the mouth at each labial, one for each speed and emotion.
    speeds: at which it is said.
    Returns: "labials" and "other_sounds", how many there are; "track" and "drawn", where lips were measured, each with
        "labials_closed" and "other_sounds_not_closed", shares over all conditions, "worst", the least share of closed labials in
        any, and "by_condition", such as "happy 2, speed 0.5": [labials closed, other sounds not closed].
    Source: docs/method.md section 4, "Closures".
    """
    conditions = [("neutral", None, 1.0)]
    conditions += [(f"{name} {level:g}", {name: 1.0}, level) for name, level in product(EMOTIONS[1:], INTENSITIES)]
    shares: dict[str, dict[str, tuple[float, float]]] = {}
    for number, (speed, (name, emotion, level)) in enumerate(product(speeds, conditions)):
        condition = name if speed == 1 else f"{name}, speed {speed:g}"
        percent = 100 * number / (len(speeds) * len(conditions))
        on_progress(Progress(f"measuring closures: {condition}", percent=percent))
        timed = [Phone(phone.name, phone.begin / speed, phone.end / speed) for phone in phones]
        lips, frames, points = talker.lips_and_frames(change_tempo(waveform, speed), emotion, level)
        for where, opening in lips.closing().items():
            shares.setdefault(where, {})[condition] = closed_shares(opening, timed)
        if pictures is not None and frames:
            _draw_labials(lips.closing()["drawn"], frames, points, timed, pictures / f"{condition.replace(', ', ' ')}.jpg")
    counts = {name: sum(phone.name in among for phone in phones) for name, among in _GROUPS.items()}
    return counts | {where: _over_conditions(found) for where, found in shares.items()}


_GROUPS = {"labials": LABIALS, "other_sounds": OTHER_SOUNDS}


def _over_conditions(shares: Mapping[str, tuple[float, float]]) -> dict:
    """The shares of all conditions as one figure each, and of each by its name."""
    closed, not_closed = np.array(list(shares.values())).T
    figures = {"labials_closed": closed.mean(), "other_sounds_not_closed": not_closed.mean(), "worst": closed.min()}
    rounded = {name: [round(value, 3) for value in pair] for name, pair in shares.items()}
    return {name: round(float(value), 3) for name, value in figures.items()} | {"by_condition": rounded}


def closed_below(opening: np.ndarray) -> float:
    """The opening under which lips count as closed in a clip whose openings are (frames,)."""
    return CLOSED_SHARE * float(np.quantile(opening, WIDE))


def is_closed(opening: np.ndarray, phone: Phone, limit: float) -> bool:
    """Whether lips (frames,) come under a limit within a frame of a labial."""
    return bool(opening[phone.frames(len(opening), NEAR)].min() < limit)


def is_held_closed(opening: np.ndarray, phone: Phone, limit: float) -> bool:
    """Whether lips (frames,) stay under a limit throughout a phone."""
    return bool(opening[phone.frames(len(opening))].max() < limit)


def closed_shares(opening: np.ndarray, phones: Sequence[Phone]) -> tuple[float, float]:
    """Shares of the labials at which lips (frames,) close, and of the other sounds at which they do not; NaN without any."""
    limit = closed_below(opening)
    closed = [is_closed(opening, phone, limit) for phone in phones if phone.name in LABIALS]
    free = [not is_held_closed(opening, phone, limit) for phone in phones if phone.name in OTHER_SOUNDS]
    return (sum(closed) / len(closed) if closed else math.nan), (sum(free) / len(free) if free else math.nan)


def _draw_labials(
    opening: np.ndarray, frames: Sequence[np.ndarray], points: np.ndarray, phones: Sequence[Phone], path: Path
) -> None:
    """Draw the mouth at each labial, in the frame within reach in which it is most closed."""
    limit, titles, chosen = closed_below(opening), [], []
    for phone in phones:
        if phone.name in LABIALS:
            reach = phone.frames(len(opening), NEAR)
            chosen.append(reach.start + int(opening[reach].argmin()))
            verdict = "closed" if is_closed(opening, phone, limit) else "OPEN"
            titles.append(f"{phone.name} {phone.begin:.2f} s {verdict}")
    if chosen:
        draw_mouths([frames[frame] for frame in chosen], points[chosen], titles, path)


# --- Where nobody speaks, and noise --------------------------------------------------------------------------------------------


def closed_in_hum(lips: Lips, spoken: Lips) -> dict[str, float]:
    """Share of the frames of a hummed "mmm" in which lips are closed, by where they were measured.

    spoken: lips of a speech, whose range says what closed is.
    """
    limits = {where: closed_below(opening) for where, opening in spoken.closing().items()}
    return {where: round(float((opening < limits[where]).mean()), 3) for where, opening in lips.closing().items()}


def lip_speed(lips: Lips, spoken: Lips) -> dict[str, float]:
    """Mean speed of lips over that of a speech's, by where they were measured."""
    speeds = {where: float(np.abs(np.diff(opening)).mean()) for where, opening in spoken.moving().items()}
    return {
        where: round(float(np.abs(np.diff(opening)).mean()) / max(speeds[where], 1e-9), 3)
        for where, opening in lips.moving().items()
    }


def noise_measures(talker: Talker, spoken: Lips, music: Path | None = None) -> dict[str, dict[str, float]]:
    """Correlation of the lips of the bundled speech in noise with those of the speech alone.

    spoken: the lips of the speech alone.
    music: a file whose sound is heard behind it; None leaves music out.
    Returns: by noise, such as "voices 10 dB", the correlation by where lips were measured.
    Source: docs/method.md section 4, "Lips in noise".
    """
    waveform = read_speech(SPEECH)
    others = [read_speech(path) for path in sorted(SPEECHES.glob("*.flac")) if path != SPEECH]
    voices = sum(np.resize(voice, len(waveform)) + np.resize(voice[::-1], len(waveform)) for voice in others)
    noises = {f"voices {level} dB": (voices, level) for level in VOICE_LEVELS}
    if music is not None:
        noises[f"music {MUSIC_LEVEL} dB"] = np.resize(read_speech(music), len(waveform)), MUSIC_LEVEL
    result = {}
    for name, (noise, level) in noises.items():
        loudness = np.sqrt(np.square(waveform).mean() / np.square(noise).mean()) * 10 ** (-level / 20)
        lips = talker.lips((waveform + loudness * noise).astype(np.float32))
        alone = spoken.moving()
        result[name] = {
            where: round(shifted_correlation(opening, alone[where], 0), 3) for where, opening in lips.moving().items()
        }
    return result


# --- Speakers whom nobody trained on -------------------------------------------------------------------------------------------


def any_speech_measures(pipeline: GMTalkerPipeline, path: Path) -> dict:
    """Do lips behave as lips do for a speech whose speaker nobody filmed?

    Returns: "seconds" measured; "opening_range", 5 and 95 % of the lip opening in face heights; "with_loudness", its correlation
        with the speech's loudness, both smoothed over a fifth of a second; "motion_in_silence", lip speed in silence over lip
        speed in speech, None where there is too little of either; and the figures of sync_figures.
    Errors: UnusableSpeech when the file can't be read.
    """
    waveform = read_speech(path)[: CLIP_SECONDS_MAX * SAMPLE_RATE]
    features = pipeline.encode(waveform)
    silent = silent_frames(waveform, len(features))
    weights = EmotionWeights.from_mapping({}).weights
    expression = expression_for(pipeline, pipeline.expression_generator, features, weights)[0]
    lips = pipeline.face_model.lip_opening(expression.numpy())
    padded = np.pad(waveform, (0, len(features) * SAMPLES_PER_FRAME))[: len(features) * SAMPLES_PER_FRAME]
    loudness = np.log(np.sqrt(np.square(padded.reshape(len(features), -1)).mean(1)) + 1e-4)
    smooth = [gaussian_filter1d(values, 2) for values in (lips, loudness)]
    speed, quiet = np.abs(np.diff(lips)), silent[1:]
    has_both = 3 < quiet.sum() < len(quiet) - 3
    return {
        "seconds": round(len(lips) / FPS, 1),
        "opening_range": [round(float(value), 3) for value in np.quantile(lips, (0.05, 0.95))],
        "with_loudness": round(float(np.corrcoef(*smooth)[0, 1]), 2) if min(x.std() for x in smooth) > 1e-9 else 0.0,
        "motion_in_silence": round(float(speed[quiet].mean() / speed[~quiet].mean()), 3) if has_both else None,
    } | sync_figures([SpokenLips.of_track(features, expression, pipeline.face_model)])


def lip_measures(pipeline: GMTalkerPipeline, unseen_speakers: Sequence[UnseenSpeaker]) -> dict:
    """Correlation of the generic lips, which know nothing of the person, with the real ones.

    Returns: over all clips "lip_correlation", "lip_best_offset_frames" and "_ms", and "lip_motion_in_silence", lip speed in
        silence over lip speed in speech; "by_clip", the correlation of each; and the figures of sync_figures.
    Source: docs/method.md section 4, "Sync".
    """
    correlations, in_silence, in_speech = {}, [], []
    spoken: dict[str, list[SpokenLips]] = {"made": [], "real": []}
    for speaker in unseen_speakers:
        features, row = pipeline.encode(speaker.waveform), speaker.row
        emotion = EmotionWeights.from_mapping({row.emotion: row.level} if row.emotion in EMOTIONS[1:] else {})
        silent = silent_frames(speaker.waveform, len(features))
        expression = expression_for(pipeline, pipeline.expression_generator, features, emotion.weights)[0]
        made = pipeline.face_model.lip_opening(expression.numpy())
        count = min(len(made), len(speaker.lips))
        made, real = made[:count], speaker.lips[:count]
        offsets = range(-OFFSET_MAX, OFFSET_MAX + 1)
        correlations[row.file] = [shifted_correlation(made, real, offset) for offset in offsets]
        speed, quiet = np.abs(np.diff(made)), silent[1:count]
        in_silence.append(speed[quiet])
        in_speech.append(speed[~quiet])
        for name, coefficients in (("made", expression), ("real", speaker.coefficients)):
            spoken[name].append(SpokenLips.of_track(features, coefficients, pipeline.face_model))
    mean = np.mean(list(correlations.values()), axis=0)
    in_silence, in_speech = np.concatenate(in_silence), np.concatenate(in_speech)
    best = int(mean.argmax()) - OFFSET_MAX
    return {
        "clips": len(correlations),
        "lip_correlation": round(float(mean[OFFSET_MAX]), 3),
        "lip_best_offset_frames": best,
        "lip_best_offset_ms": best * 1000 // FPS,
        "lip_motion_in_silence": round(float(in_silence.mean() / in_speech.mean()), 3) if len(in_silence) else None,
        "by_clip": {file: round(values[OFFSET_MAX], 3) for file, values in correlations.items()},
    } | sync_figures(**spoken)
