"""Pretraining of the speech encoder, distilled from a large one: `pretrain speech` (docs/method.md section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import minimum_filter1d

from gmtalker.clock import FPS, SAMPLES_PER_FRAME
from gmtalker.errors import UnusableInput
from gmtalker.face.landmarks import INNER_LIPS, LIPS
from gmtalker.face.lips import shifted_correlation
from gmtalker.models.articulation import ARTICULATION_DIM, CLOSED, SPEAKING
from gmtalker.models.mel import MEL_PER_FRAME, speech_to_mel
from gmtalker.models.speech_encoder import IGNORED, LOOK_AHEAD_MEL, LOOK_AHEAD_SAMPLES, SpeechBatch, SpeechEncoder
from gmtalker.pretrain.adopt import LabelledRecording, adopt_encoder, fetch_encoder
from gmtalker.pretrain.corpus import Clip, to_float
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.recordings import STATES_PER_FRAME, Recording, read_recordings
from gmtalker.pretrain.samples import (
    BATCH_CLIPS,
    PretrainOptions,
    Sampler,
    hold_out,
    hold_out_people,
    read_corpus,
    samplers_of,
    save_stage,
    shares_of,
    start_from,
    write_offsets,
)
from gmtalker.pretrain.sound_augmentation import other_place, read_noises, sung_sound, without_speech
from gmtalker.pretrain.speech_labels import PHONES
from gmtalker.pretrain.teacher import ProbeBatch, StateScale, TeacherProbe, with_labels
from gmtalker.progress import OnProgress, ignore_progress
from gmtalker.training.loop import TrainOptions, fit

MINUTES, PROBE_MINUTES = 60.0, 3.0
LEARNING_RATE = 2e-3
WINDOW_FRAMES = 75  # of a training sample: what a GRID clip has
LIP_COMPONENTS = 8
LIP_CLIPS_MIN = 100  # of a person whose lips the encoder learns
STILL_LIPS = 0.3  # of the median deviation, to which a clip's lips are scaled at least: a still clip must not become a loud one
APART = 0.35  # of the 95th percentile of a clip's lip opening: wider than at any m, b or p
OFFSET_MAX = 4  # frames that a sound may be moved; the outermost are not accepted, for they can't be seen to be a peak
OFFSET_FRAMES_MIN = 60  # that a clip needs for it
OFFSET_CORRELATION_MIN, OFFSET_GAIN_MIN = 0.25, 0.02  # of the lips at the offset, and over the clip as recorded
SAME_CAMERA_CLIPS = 10  # from so many clips on, a person's sound is taken to be off by the same in all of them
VALIDATION_CLIPS_MAX = 40  # that are measured
GROUP_WEIGHTS = {"lips": 3, "labelled": 5, "speech": 6, "no speech": 3}  # clips of a batch
CLEAN_SHARE = 0.25  # of the windows are heard as recorded
CROWD_RECORDINGS = 200  # whose voices stand behind augmented speech
PROBE_WINDOWS = 32
# Held sounds: formants in Hz, and whether they are nasal, with the lips closed, and rounded.
HELD_SOUNDS = (
    ((270, 1050, 2250), 1, 1, 0), ((250, 1100, 2400), 1, 1, 0), ((300, 1550, 2600), 1, 0, 0), ((280, 2300, 2900), 1, 0, 0),
    ((730, 1100, 2450), 0, 0, 0), ((280, 2250, 2900), 0, 0, 0), ((310, 870, 2250), 0, 0, 1), ((500, 1750, 2450), 0, 0, 0),
)  # fmt: skip


@dataclass(frozen=True)
class FilmedLips:
    """The lips of a filmed recording.

    shapes: (frames, LIP_COMPONENTS), each with mean 0 and deviation 1 over the clip.
    apart: (frames,) bool, where the inner lips are seen apart, and were a frame before and after.
    offset: frames by which the sound precedes the picture.
    """

    shapes: np.ndarray
    apart: np.ndarray
    offset: int = 0

    def at(self, frames: np.ndarray, speed: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Shapes at frames (n,) of the sound, in a voice of that speed, and (n,) bool, where there are any."""
        places, filmed = self._places(frames, speed)
        return self.shapes[places], filmed

    def apart_at(self, frames: np.ndarray, speed: float = 1.0) -> np.ndarray:
        """(n,) bool, where the lips are seen apart at frames (n,) of the sound."""
        places, filmed = self._places(frames, speed)
        return self.apart[places] & filmed

    def _places(self, frames: np.ndarray, speed: float) -> tuple[np.ndarray, np.ndarray]:
        places = np.round((frames + 0.5) * speed - 0.5).astype(int) + self.offset
        return np.clip(places, 0, len(self.shapes) - 1), (places >= 0) & (places < len(self.shapes))


def pretrain_speech(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Distil the speech encoder from a teacher, on all training speech in several voices, rooms and noises.

    First a probe learns what the teacher's states know of phones, closures and lips, from the recordings that have labels; its
    opinion labels the others, and tells by how many frames sound and picture of a clip are apart. The stages trained after this
    one read that from output/corpus/offsets.json.

    output: folder of stages.
    options: with the teacher and the noises.
    Returns: the folder of the weights.
    Errors: UnusableInput when there is no face model or teacher, or no clip can be used.
    """
    options, output = options.with_minutes(MINUTES), Path(output)
    if options.teacher is None:
        raise UnusableInput("Say which encoder to learn from: --teacher openai/whisper-tiny.en, or its folder.")
    clips = [clip for clip in read_corpus(rows, output, on_progress) if clip.has_usable_speech]
    recordings = read_recordings(rows, output / "corpus", fetch_encoder(options.teacher, "a teacher"), on_progress=on_progress)
    if not recordings:
        raise UnusableInput("None of the training clips holds speech to learn from.")
    lips, scale = _filmed_lips(clips), StateScale.of(recordings)
    split = _split(recordings, lips)
    probe = _fit_probe(split[0], lips, scale, output / "checkpoints" / "probe", options, on_progress)
    lips = _in_time(probe, scale, lips, recordings)
    write_offsets(output / "corpus", {file: own.offset for file, own in lips.items()})
    train, validation, unseen = ([_labelled(probe, scale, item, lips) for item in items] for items in split)
    torch.manual_seed(options.seed)
    model = SpeechEncoder(teacher_dim=len(scale.deviation), num_phones=len(PHONES), lip_dim=LIP_COMPONENTS)
    if options.start is not None:
        start_from(options.start, model)
    if options.articulation_only:
        model.freeze_content()
    batches = _Batches(train, lips, scale, read_noises(options.noises), options.seed)

    def evaluate(network: SpeechEncoder) -> dict[str, float]:
        seen = _lip_correlation(network, validation, lips, "lip_correlation")
        return (
            _figures(network, validation, scale)
            | seen
            | _lip_correlation(network, unseen, lips, "lip_correlation_unseen_speakers")
        )

    settings = {"precision": "bf16", "seed": options.seed, "device": options.device, "ahead": True}
    train_options = TrainOptions("speech", options.minutes, learning_rate=LEARNING_RATE, **settings)
    state = fit(model, batches, output / "checkpoints" / "speech", train_options, on_progress, evaluate)
    figures = evaluate(model) | {"clips whose sound was moved": sum(own.offset != 0 for own in lips.values())}
    return save_stage(model, "speech", output, rows, state, options, figures)


def _split(recordings: Sequence[Recording], lips: Mapping[str, FilmedLips]) -> tuple[list[Recording], ...]:
    """Recordings to train on, filmed ones of the same people for validation, and filmed ones of unseen speakers."""
    train, unseen = hold_out_people(recordings, lambda item: item.person)
    train, validation = hold_out(train, lambda item: item.voice == 0 and item.file in lips, lambda item: item.person)
    return train, validation, [item for item in unseen if item.voice == 0 and item.file in lips]


def adopt_speech_encoder(
    name: str,
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Make a pretrained encoder the speech encoder of a folder of stages, frozen, with a head that learns from phone labels.

    name: on the Hub, or a folder.
    rows: without any, the folder must hold a head that was trained before.
    Returns: the folder of the weights.
    Errors: UnusableInput when it can't be fetched, or no recording has labels.
    """

    def labelled() -> list[LabelledRecording]:
        recordings = read_recordings(rows, Path(output) / "corpus", None, 1, on_progress)
        known = [item for item in recordings if item.labelled]
        return [
            LabelledRecording(torch.from_numpy(item.waveform), *torch.from_numpy(item.articulation).unbind(1), item.person)
            for item in known
        ]

    return adopt_encoder(name, rows, labelled if rows else None, output, options, on_progress)


# --- Lips of filmed recordings -------------------------------------------------------------------------------------------------


def _filmed_lips(clips: Sequence[Clip]) -> dict[str, FilmedLips]:
    """By file, the lips as principal components over all people, standardised over each clip."""
    if not clips:
        return {}
    centred = [clip.lips - clip.lips.mean(0) for clip in clips]
    covariance = sum(lips.T @ lips / len(lips) for lips in centred)
    components = np.linalg.eigh(covariance)[1][:, ::-1][:, :LIP_COMPONENTS]
    shapes = [lips @ components for lips in centred]
    floor = STILL_LIPS * np.median([shape.std(0) for shape in shapes], axis=0)
    return {
        clip.file: FilmedLips((shape / np.maximum(shape.std(0), floor)).astype(np.float32), _apart(clip.lips))
        for clip, shape in zip(clips, shapes)
    }


def _apart(lips: np.ndarray) -> np.ndarray:
    """(frames,) bool, where the inner lips are far apart, and were a frame before and after, of Clip.lips."""
    upper, lower = (LIPS.index(point) for point in INNER_LIPS)
    points = lips.reshape(len(lips), -1, 3)
    opening = points[:, lower, 1] - points[:, upper, 1]
    return minimum_filter1d(opening, 3) > APART * np.percentile(opening, 95)


def _labelled(probe: TeacherProbe, scale: StateScale, recording: Recording, lips: Mapping[str, FilmedLips]) -> Recording:
    """A recording labelled by the probe; where its lips are seen apart they are not closed, whatever the probe thinks."""
    labelled = with_labels(probe, scale, recording)
    if recording.file in lips:
        apart = lips[recording.file].apart_at(np.arange(len(recording)), recording.speed)
        labelled.articulation[apart, CLOSED] = 0.0
    return labelled


@torch.no_grad()
def _in_time(
    probe: TeacherProbe, scale: StateScale, lips: Mapping[str, FilmedLips], recordings: Sequence[Recording]
) -> dict[str, FilmedLips]:
    """The lips with the offset of their clip's sound.

    It is the offset at which the lips that the probe expects of the sound agree best with the real ones, where they agree well
    and better than as recorded; whoever was filmed often, by one camera, gets one offset, the median of all theirs.
    """
    found: dict[str, tuple[str, int]] = {}
    for item in recordings:
        if item.voice == 0 and item.file in lips:
            expected = probe.eval()(torch.from_numpy(scale(item.states))[None])[2][0].numpy()
            found[item.file] = item.person, sound_offset(expected, lips[item.file].shapes)
    people = {person for person, _ in found.values()}
    by_person = {person: [offset for other, offset in found.values() if other == person] for person in people}
    median = {person: int(np.median(values)) for person, values in by_person.items() if len(values) >= SAME_CAMERA_CLIPS}
    return {file: replace(lips[file], offset=median.get(person, offset)) for file, (person, offset) in found.items()}


def sound_offset(expected: np.ndarray, real: np.ndarray) -> int:
    """By how many frames a sound precedes its picture; 0 where that can't be told.

    expected: (frames, LIP_COMPONENTS) lips, as the sound makes one expect.
    real: (frames, LIP_COMPONENTS) lips, as filmed; a few frames more or less.
    """
    count = min(len(expected), len(real))
    if count < OFFSET_FRAMES_MIN:
        return 0
    offsets = range(-OFFSET_MAX, OFFSET_MAX + 1)
    agreement = [np.mean([shifted_correlation(expected[:count, k], real[:count, k], -at) for k in range(3)]) for at in offsets]
    best = int(np.argmax(agreement))
    is_peak = 0 < best < len(agreement) - 1
    is_sure = agreement[best] > max(OFFSET_CORRELATION_MIN, agreement[OFFSET_MAX] + OFFSET_GAIN_MIN)
    return offsets[best] if is_peak and is_sure else 0


def _fit_probe(
    train: Sequence[Recording],
    lips: Mapping[str, FilmedLips],
    scale: StateScale,
    folder: Path,
    options: PretrainOptions,
    on_progress: OnProgress,
) -> TeacherProbe:
    """Train the probe on labelled and filmed recordings. folder: of its checkpoint."""
    torch.manual_seed(options.seed)
    probe = TeacherProbe(len(scale.deviation), LIP_COMPONENTS)
    labelled = [item for item in train if item.labelled]
    filmed = [item for item in train if item.voice == 0 and item.file in lips]
    samplers = samplers_of({"labelled": labelled, "lips": filmed})
    if not samplers:
        return probe

    def batch(step: int) -> ProbeBatch:
        rng = np.random.default_rng([options.seed, step])
        windows = [_window(samplers[name].draw(rng), rng) for name in rng.choice(list(samplers), PROBE_WINDOWS)]
        rows = [_targets(item, begin, lips) for item, begin in windows]
        states = np.stack([_window_states(item, begin, scale) for item, begin in windows])
        stacked = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        return ProbeBatch(torch.from_numpy(states), **stacked)

    minutes = min(PROBE_MINUTES, 0.1 * options.minutes)
    fit(probe, batch, folder, TrainOptions("probe", minutes, learning_rate=1e-3, seed=options.seed, device="cpu"), on_progress)
    return probe


# --- Batches -------------------------------------------------------------------------------------------------------------------


def _of_the_often_filmed(lips: Mapping[str, FilmedLips], train: Sequence[Recording]) -> dict[str, FilmedLips]:
    """Lips of the people of whom there are LIP_CLIPS_MIN clips or more.

    Those of the others would be learned by heart, clip by clip: the stages after this one would trust features that know the lips
    of every training clip, and of nobody else.
    """
    clips: dict[str, set[str]] = {}
    for item in train:
        if item.file in lips:
            clips.setdefault(item.person, set()).add(item.file)
    return {file: lips[file] for files in clips.values() if len(files) >= LIP_CLIPS_MIN for file in files}


class _Batches:
    """The batch of every training step."""

    def __init__(
        self,
        train: Sequence[Recording],
        lips: Mapping[str, FilmedLips],
        scale: StateScale,
        noises: Sequence[np.ndarray],
        seed: int,
    ) -> None:
        lips = _of_the_often_filmed(lips, train)
        groups: dict[str, list[Recording]] = {"lips": [], "labelled": [], "speech": []}
        for item in train:
            groups["lips" if item.file in lips else "labelled" if item.labelled else "speech"].append(item)
        self.samplers: dict[str, Sampler] = samplers_of(groups)
        weights = {name: weight for name, weight in GROUP_WEIGHTS.items() if name in self.samplers or name == "no speech"}
        self.names, self.shares = list(weights), shares_of(list(weights.values()))
        self.lips, self.scale, self.noises, self.seed = lips, scale, noises, seed
        self.crowd = [item.waveform for item in train[:: max(1, len(train) // CROWD_RECORDINGS)]]
        self.rest = self._rest(train)

    def _rest(self, train: Sequence[Recording]) -> np.ndarray:
        """(d,) what the teacher makes of silence: the mean where nobody speaks."""
        rows = [self.scale(item.states)[item.articulation[:, SPEAKING] < 0.1] for item in train[:: max(1, len(train) // 400)]]
        rows = np.concatenate(rows) if rows else np.zeros((0, len(self.scale.deviation)), np.float32)
        return rows.mean(0) if len(rows) else np.zeros(len(self.scale.deviation), np.float32)

    def __call__(self, step: int) -> SpeechBatch:
        rng = np.random.default_rng([self.seed, step])
        groups = rng.choice(self.names, BATCH_CLIPS, p=self.shares)
        samples = [self._without_speech(rng) if group == "no speech" else self._spoken(group, rng) for group in groups]
        waveforms = torch.from_numpy(np.stack([waveform for waveform, _ in samples]))
        mel = speech_to_mel(waveforms, 0, MEL_PER_FRAME * WINDOW_FRAMES + LOOK_AHEAD_MEL)
        stacked = {name: torch.from_numpy(np.stack([row[name] for _, row in samples])) for name in samples[0][1]}
        return SpeechBatch(mel, **stacked)

    def _spoken(self, group: str, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A window of a recording, heard somewhere else, and what is known of it."""
        item, begin = _window(self.samplers[group].draw(rng), rng)
        length = WINDOW_FRAMES * SAMPLES_PER_FRAME + LOOK_AHEAD_SAMPLES
        first = begin * SAMPLES_PER_FRAME
        sound = to_float(item.sound[first : first + length])
        sound = np.pad(sound, (0, length - len(sound)))
        if rng.random() > CLEAN_SHARE:
            sound = other_place(sound, rng, self.noises, self.crowd)
        mask = np.arange(WINDOW_FRAMES) < len(item) - begin
        teacher = _window_states(item, begin, self.scale)
        return sound, {"mask": mask, "teacher": teacher} | _targets(item, begin, self.lips)

    def _without_speech(self, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A window in which nobody speaks, or one with a held sound: hummed with closed lips, or sung."""
        frames, length = WINDOW_FRAMES, WINDOW_FRAMES * SAMPLES_PER_FRAME + LOOK_AHEAD_SAMPLES
        sound, articulation = without_speech(length, rng, self.noises), np.zeros((frames, ARTICULATION_DIM), np.float32)
        teacher, known = np.tile(self.rest, (frames, 1)).astype(np.float32), np.ones(frames, bool)
        if rng.random() < 0.4:
            formants, nasal, closed, rounded = HELD_SOUNDS[rng.integers(len(HELD_SOUNDS))]
            begin = int(rng.integers(0, frames - 10))
            end = int(rng.integers(begin + 8, frames + 1))
            held = slice(begin * SAMPLES_PER_FRAME, end * SAMPLES_PER_FRAME)
            voice = sung_sound(held.stop - held.start, rng, np.array(formants) * rng.uniform(0.88, 1.18), bool(nasal))
            level = float(np.abs(sound).max()) + 1e-4
            sound[held] += voice * level / 0.1 * 10 ** (rng.uniform(0, 25) / 20)
            articulation[begin:end] = closed, rounded, 1.0
            known[max(0, begin - 3) : end + 3] = False  # the teacher was not asked
            sound = sound * 10 ** (rng.uniform(-30, -3) / 20) / max(1e-3, float(np.abs(sound).max()))
        targets = {
            "articulation": articulation,
            "phones": np.full(frames, IGNORED, np.int64),
            "lips": np.zeros((frames, LIP_COMPONENTS), np.float32),
            "lips_mask": np.zeros(frames, bool),
        }
        return sound.astype(np.float32), {"mask": known, "teacher": teacher} | targets


def _window(item: Recording, rng: np.random.Generator) -> tuple[Recording, int]:
    """A recording, and the first frame of a window at a random place in it."""
    return item, int(rng.integers(0, max(1, len(item) - WINDOW_FRAMES + 1)))


def _targets(item: Recording, begin: int, lips: Mapping[str, FilmedLips]) -> dict[str, np.ndarray]:
    """What is known of a window: articulation, phones, lips, lips_mask; unknown past the recording's end."""
    frames = np.arange(begin, begin + WINDOW_FRAMES)
    inside, nearest = frames < len(item), np.minimum(frames, len(item) - 1)
    shapes, filmed = np.zeros((WINDOW_FRAMES, LIP_COMPONENTS), np.float32), np.zeros(WINDOW_FRAMES, bool)
    if item.file in lips:
        shapes, filmed = lips[item.file].at(frames, item.speed)
    return {
        "articulation": np.where(inside[:, None], item.articulation[nearest], np.nan).astype(np.float32),
        "phones": np.where(inside, item.phones[nearest], IGNORED),
        "lips": shapes.astype(np.float32),
        "lips_mask": filmed & inside,
    }


def _window_states(item: Recording, begin: int, scale: StateScale) -> np.ndarray:
    """(WINDOW_FRAMES, d) the teacher's states of a window, 0 past the recording's end."""
    rows = scale(item.states[STATES_PER_FRAME * begin : STATES_PER_FRAME * (begin + WINDOW_FRAMES)], begin)
    return np.pad(rows, ((0, WINDOW_FRAMES - len(rows)), (0, 0)))


# --- Figures -------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _figures(model: SpeechEncoder, recordings: Sequence[Recording], scale: StateScale) -> dict[str, float]:
    """On recordings as recorded: share of the teacher's variance explained, and of closed frames that are called so."""
    errors, variances, right, shut, wrong, open_ = [], [], 0, 0, 0, 0
    model.eval()
    for item in [item for item in recordings if item.voice == 0][:VALIDATION_CLIPS_MAX]:
        features = model.encode(torch.from_numpy(item.waveform).to(model.device))
        wanted = torch.from_numpy(scale(item.states)).to(features)
        errors.append((model.teacher_head(features[:, :-ARTICULATION_DIM]) - wanted).square().mean().item())
        variances.append(wanted.square().mean().item())
        said, closed = (features[:, CLOSED] > 0.5).cpu().numpy(), item.articulation[:, CLOSED]
        right, shut = right + (said & (closed > 0.5)).sum(), shut + (closed > 0.5).sum()
        wrong, open_ = wrong + (said & (closed < 0.2)).sum(), open_ + (closed < 0.2).sum()
    if not errors:
        return {}
    explained = 1 - np.mean(errors) / np.mean(variances)
    figures = {"teacher_explained": explained, "closures_found": right / max(shut, 1), "false_closures": wrong / max(open_, 1)}
    return {name: round(float(value), 4) for name, value in figures.items()}


@torch.no_grad()
def _lip_correlation(
    model: SpeechEncoder, recordings: Sequence[Recording], lips: Mapping[str, FilmedLips], name: str
) -> dict[str, float]:
    """Mean correlation of the strongest lip component with its prediction; nothing without a recording."""
    values = []
    for item in recordings[:VALIDATION_CLIPS_MAX]:
        if len(item) >= FPS:
            features = model.eval().encode(torch.from_numpy(item.waveform).to(model.device))
            expected = model.lip_head(features[:, :-ARTICULATION_DIM])[:, 0].cpu().numpy()
            real, filmed = lips[item.file].at(np.arange(len(item)))
            values.append(shifted_correlation(expected[filmed], real[filmed, 0], 0))
    return {name: round(float(np.mean(values)), 3)} if values else {}
