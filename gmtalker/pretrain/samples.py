"""What the pretraining stages share: their options and clips, how clips are drawn, and how a finished stage is saved."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from gmtalker.clock import EMOTIONS, SAMPLES_PER_FRAME
from gmtalker.errors import UnusableInput, UnusableWeights
from gmtalker.face.model import FaceModel
from gmtalker.files import whole_file
from gmtalker.models.speech_encoder import SpeechEncoder
from gmtalker.models.weights import load_speech_encoder, load_strict, save_half
from gmtalker.pretrain.card import StageSection, write_section
from gmtalker.pretrain.corpus import Clip, load_corpus, to_float
from gmtalker.pretrain.datasets import Row, source_of
from gmtalker.pretrain.sound_augmentation import in_another_pitch, other_place
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.training.checkpoints import TrainState

if TYPE_CHECKING:
    from gmtalker.models.pretrained_encoder import PretrainedSpeechEncoder

    AnySpeechEncoder = SpeechEncoder | PretrainedSpeechEncoder
SoundAugmentation = Callable[[np.ndarray], np.ndarray]
CROWD_CLIPS = 60  # whose voices stand behind augmented speech

BATCH_CLIPS = 16  # a training step
VIEWS = 4  # of each clip's speech: as recorded, and as three augmentations
SPEECH_MARGIN = 5  # frames around speech that still belong to it
MUTED_FRAMES_MAX = 40  # of a muted stretch
MUTED_LEVEL = 0.003  # of a waveform where it is muted
PERSON_POWER = 0.5  # a person with four times the material is drawn twice as often
VALIDATION_EVERY, VALIDATION_CLIPS_MIN = 20, 10  # one clip in so many is held out, of people with so many or more
UNSEEN_EVERY = 16  # one person with little material in so many is held out
FOLDERS = {
    "speech": "speech_encoder",
    "expression": "expression_generator",
    "expression_baseline": "expression_baseline",
    "motion": "motion_generator",
    "sync": "lip_sync",
    "voice": "voice_emotion",
}


@dataclass(frozen=True)
class PretrainOptions:
    """How a generic stage is trained.

    minutes: of training; None is the stage's own length.
    steps: a number of steps instead of minutes (expression generator only).
    seed: of weights, batches and noise.
    device: "cpu", or None for the best at hand.
    by_label: train the baseline without a mixture (expression generator only).
    leave_out: people who must not be trained on (head generator only).
    size: side of the pictures, in pixels (head generator only).
    teacher: the encoder to learn from, on the Hub or in a folder (speech encoder only).
    noises: folder of sounds without speech, to hear speech among.
    start: folder of the stage's weights to go on from, instead of from random ones (speech encoder and expression generator).
    articulation_only: train what hears the articulation, and leave the other features as they are (speech encoder only).
    """

    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    device: str | None = None
    by_label: bool = False
    leave_out: Sequence[str] = ()
    size: int = 256
    teacher: str | None = None
    noises: Path | None = None
    start: Path | None = None
    articulation_only: bool = False

    def with_minutes(self, minutes: float) -> PretrainOptions:
        """The same, with a stage's own length where none is given."""
        return replace(self, minutes=self.minutes or minutes, steps=None)


@dataclass(frozen=True)
class TrackedSpeech:
    """A tracked clip with several views of its speech.

    features: (VIEWS, frames, d) speech features, None without usable speech.
    silent: (VIEWS, frames) bool, where nothing is said.
    emotion: (8,) weights, None without a label.
    """

    clip: Clip
    features: Tensor | None
    silent: np.ndarray
    emotion: Tensor | None

    @property
    def person(self) -> str:
        """Whom it shows."""
        return self.clip.person

    def __len__(self) -> int:
        return self.clip.frames


class Sampler:
    """Draws samples at random: people by the square root of their material, a person's clips by their length.

    items: each has a person and a length.
    """

    def __init__(self, items: Sequence) -> None:
        self.items = list(items)
        lengths = np.array([len(item) for item in self.items], float)
        totals: dict[str, float] = {}
        for item, length in zip(self.items, lengths):
            totals[item.person] = totals.get(item.person, 0.0) + length
        weights = [length * totals[item.person] ** (PERSON_POWER - 1) for item, length in zip(self.items, lengths)]
        self.shares = shares_of(weights)

    def draw(self, rng: np.random.Generator) -> Any:
        """One of the items."""
        return self.items[rng.choice(len(self.items), p=self.shares)]


def samplers_of(groups: Mapping[str, Sequence]) -> dict[str, Sampler]:
    """A sampler for each group that has any items."""
    return {name: Sampler(items) for name, items in groups.items() if len(items)}


def encode_speech_views(
    clips: Sequence[Clip],
    encoder: AnySpeechEncoder,
    cache: Path,
    seed: int,
    noises: Sequence[np.ndarray] = (),
    on_progress: OnProgress = ignore_progress,
) -> list[TrackedSpeech]:
    """Encode VIEWS views of each clip's speech: as recorded, and augmented as another voice in another room.

    The sound is moved in time with the picture by the offsets in the cache. In every other view a stretch is muted: clips are cut
    to the speech, and silence would hardly occur otherwise.

    cache: folder that write_offsets wrote to.
    seed: of the augmentations.
    noises: sounds without speech that augmentations may add.
    """
    tracked = []
    rng, offsets = np.random.default_rng(seed), read_offsets(cache)
    voices = [to_float(clip.sound) for clip in clips[:: max(1, len(clips) // CROWD_CLIPS)] if clip.has_usable_speech]

    def augment(waveform: np.ndarray) -> np.ndarray:
        return other_place(in_another_pitch(waveform, rng), rng, noises, voices)

    for number, clip in enumerate(clips):
        on_progress(Progress("encoding speech", number, len(clips)))
        features, silent = None, np.repeat(clip.silent[None], VIEWS, axis=0)
        if clip.has_usable_speech:
            muted = [_muted_stretch(clip.frames, rng) if view % 2 else slice(0, 0) for view in range(VIEWS)]
            features = torch.stack(
                [_encode_view(clip, encoder, span, augment if view else None) for view, span in enumerate(muted)]
            ).half()
            for row, span in zip(silent, muted):
                row[span.start + SPEECH_MARGIN : max(0, span.stop - SPEECH_MARGIN)] = True
            # Early sound is read later.
            times = np.clip(np.arange(clip.frames) - offsets.get(clip.file, 0), 0, clip.frames - 1)
            features, silent = features[:, times], silent[:, times]
        tracked.append(TrackedSpeech(clip, features, silent, emotion_row(clip.row)))
    return tracked


def _muted_stretch(frames: int, rng: np.random.Generator) -> slice:
    """A stretch of a clip of so many frames; empty in a short one."""
    length = int(rng.integers(2 * SPEECH_MARGIN + 5, MUTED_FRAMES_MAX))
    if frames < 2 * length:
        return slice(0, 0)
    begin = int(rng.integers(0, frames - length + 1))
    return slice(begin, begin + length)


def _encode_view(clip: Clip, encoder: AnySpeechEncoder, muted: slice, augment: SoundAugmentation | None) -> Tensor:
    """(frames, d) features of one view.

    muted: frames without sound.
    augment: makes it another voice in another room; None leaves it as recorded.
    """
    waveform = to_float(clip.sound)
    waveform[SAMPLES_PER_FRAME * muted.start : SAMPLES_PER_FRAME * muted.stop] *= MUTED_LEVEL
    if augment is not None:
        waveform = augment(waveform)
    return encoder.encode(torch.from_numpy(waveform))


def write_offsets(cache: Path, offsets: Mapping[str, int]) -> None:
    """Write by how many frames the sound of each clip precedes its picture."""
    cache.mkdir(parents=True, exist_ok=True)
    with whole_file(cache / "offsets.json") as unfinished:
        unfinished.write_text(json.dumps(dict(offsets), indent=1), encoding="utf-8")


def read_offsets(cache: Path) -> dict[str, int]:
    """What write_offsets wrote; empty when it was never called."""
    path = cache / "offsets.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def emotion_row(row: Row) -> Tensor | None:
    """(8,) emotion weights of a clip's label at its level, the rest neutral; None without a label."""
    if row.emotion not in EMOTIONS:
        return None
    weights = torch.zeros(len(EMOTIONS))
    weights[0] = 1 - row.level
    weights[EMOTIONS.index(row.emotion)] += row.level
    return weights


def read_face_model(output: Path) -> FaceModel:
    """The face model of a folder of stages. Errors: UnusableInput when there is none yet."""
    try:
        return FaceModel.load(output / "face_model")
    except OSError as error:
        raise UnusableInput(f"{output} holds no face_model yet: run `pretrain face` first.") from error


def read_corpus(rows: Sequence[Row], output: Path, on_progress: OnProgress = ignore_progress) -> list[Clip]:
    """The training clips, measured by the face model of a folder of stages.

    Errors: UnusableInput when there is no face model yet, or no clip shows a face.
    """
    clips = load_corpus(rows, output / "corpus", read_face_model(output), on_progress)
    if not clips:
        raise UnusableInput("None of the training clips is a video with a face.")
    return clips


def read_speech_encoder(output: Path) -> AnySpeechEncoder:
    """The speech encoder of a folder of stages, frozen. Errors: UnusableInput when there is none yet."""
    if not (output / "speech_encoder").is_dir():
        raise UnusableInput(f"{output} holds no speech_encoder yet: run `pretrain speech` first.")
    return load_speech_encoder(output / "speech_encoder").requires_grad_(False)


def hold_out(items: Sequence, usable: Callable, person: Callable) -> tuple[list, list]:
    """Hold out one usable clip in VALIDATION_EVERY, chosen by a checksum of its place.

    usable: says of an item whether validation can use it.
    person: says of an item whose it is; of people with few usable clips none is held out.
    Returns: items to train on, and items for validation.
    """
    counts: dict[str, int] = {}
    for item in items:
        counts[person(item)] = counts.get(person(item), 0) + usable(item)

    def held(index: int, item: object) -> bool:
        chosen = zlib.crc32(f"{person(item)} {index}".encode()) % VALIDATION_EVERY == 0
        return usable(item) and counts[person(item)] >= VALIDATION_CLIPS_MIN and chosen

    train = [item for index, item in enumerate(items) if not held(index, item)]
    return train, [item for index, item in enumerate(items) if held(index, item)]


def hold_out_people(items: Sequence, person: Callable, one_in: int = UNSEEN_EVERY) -> tuple[list, list]:
    """Hold out one in so many people with few clips, chosen by a checksum of the name, as unseen speakers.

    person: says of an item whose it is.
    Returns: items to train on, and items of the unseen speakers.
    """
    counts: dict[str, int] = {}
    for item in items:
        counts[person(item)] = counts.get(person(item), 0) + 1
    few = [name for name, count in counts.items() if count < VALIDATION_CLIPS_MIN]
    unseen = {name for name in few if zlib.crc32(name.encode()) % one_in == 0}
    return [item for item in items if person(item) not in unseen], [item for item in items if person(item) in unseen]


def random_times(length: int, frames: int, speed: float, rng: np.random.Generator) -> np.ndarray:
    """(frames,) fractional frame numbers of a window at a random place in a clip.

    length: of the clip in frames; in one that is shorter than the window, the window starts with it and runs past its end.
    speed: frames of the clip per frame of the window.
    """
    slack = length - 1 - (frames - 1) * speed
    return max(0.0, rng.uniform(0, max(slack, 0.0))) + np.arange(frames) * speed


def shares_of(weights: Sequence[float]) -> np.ndarray:
    """Weights scaled to sum to 1."""
    weights = np.asarray(weights, float)
    return weights / weights.sum() if len(weights) else weights


def start_from(folder: Path, model: ModelMixin) -> None:
    """Give a network the weights of one that was trained before. Errors: UnusableWeights when they are of another network."""
    try:
        model.load_state_dict(load_strict(type(model), folder).state_dict())
    except RuntimeError as error:
        raise UnusableWeights(f"{folder.name} was trained with other sizes; leave --start out, and train anew.") from error


def save_stage(
    model: nn.Module,
    stage: str,
    output: Path,
    rows: Sequence[Row],
    state: TrainState,
    options: PretrainOptions,
    figures: Mapping[str, object],
) -> Path:
    """Write a stage's weights and its section of the card.

    stage: one of FOLDERS.
    rows: clips it was trained on; sound files count for the speech encoder only.
    options: with the minutes or steps that it was trained for.
    figures: for the card, by name.
    Returns: the folder of the weights.
    """
    folder = output / FOLDERS[stage]
    save_half(model.to("cpu"), folder)
    rows = [row for row in rows if row.is_video or stage in ("speech", "voice")]
    length = f"--minutes {options.minutes:g}" if options.steps is None else f"--steps {options.steps}"
    name = stage.replace("_baseline", " --baseline")
    teacher = "" if options.teacher is None else f" --teacher {Path(options.teacher).name}"
    start = "" if options.start is None else f" --start {Path(options.start).name}"
    part = " --articulation-only" if options.articulation_only else ""
    command = f"python -m gmtalker pretrain {name} {source_of(rows)} --output DIR {length}{teacher}{start}{part}"
    parameters = sum(weight.numel() for weight in model.parameters())
    write_section(output, StageSection(FOLDERS[stage], command, state, rows, figures, parameters))
    return folder
