"""What the pretraining stages share: their clips, how they are drawn, and how a finished stage is saved."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from gmtalker.clock import EMOTIONS, SAMPLES_PER_FRAME
from gmtalker.errors import UnusableInput
from gmtalker.face.model import FaceModel
from gmtalker.media.audio import read_sound_or_none
from gmtalker.models.mel import MEL_PER_FRAME
from gmtalker.models.speech_encoder import IGNORED, SpeechEncoder, augment
from gmtalker.models.weights import load_speech_encoder, save_half
from gmtalker.pretrain.card import write_section
from gmtalker.pretrain.corpus import Clip, load_corpus
from gmtalker.pretrain.datasets import Row, source_of
from gmtalker.training.checkpoints import TrainState

if TYPE_CHECKING:
    from gmtalker.models.hubert_encoder import HubertEncoder


BATCH = 16
VIEWS = 4  # ways each clip is heard: as it is, and as other voices in other rooms
HEARD_AROUND, LONGEST_MUTED = 5, 40  # frames around speech that still belong to it, and of a muted stretch
PERSON_POWER = 0.5  # a person with four times the material is seen twice as often
FOLDERS = {
    "speech": "speech_encoder",
    "expression": "expression_generator",
    "expression_baseline": "expression_baseline",
    "motion": "motion_generator",
}


@dataclass(frozen=True)
class PretrainOptions:
    """How a generic stage is trained.

    minutes: None is the stage's own length.
    steps: a number of steps in the place of minutes (expression generator).
    seed: of weights, batches and noise.
    device: "cpu", or None for the best at hand.
    by_label: the baseline without a mixture (expression generator).
    leave_out: people it must never see (head generator).
    size: pixels of a side that it draws (head generator).
    """

    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    device: str | None = None
    by_label: bool = False
    leave_out: Sequence[str] = ()
    size: int = 256


@dataclass(frozen=True)
class TrackedSpeech:
    """A tracked clip with its speech as heard in several ways: features (VIEWS,T,d), or None without usable speech; silent
    (VIEWS,T), where nothing is said around."""

    clip: Clip
    features: Tensor | None
    silent: np.ndarray
    emotion: Tensor | None
    speaker: int

    @property
    def person(self) -> str:
        return self.clip.person

    def __len__(self) -> int:
        return self.clip.frames


def encode_speech_views(
    clips: Sequence[Clip], encoder: SpeechEncoder | HubertEncoder, cache: Path, seed: int
) -> list[TrackedSpeech]:
    """Each clip with its speech features, its soft emotion label and the row of its person in the speaker table.

    The sound is moved to be in time with the picture where the offsets in `cache` say so. In every other hearing a stretch of it
    is muted: clips are cut to the speech, and silence is hardly met otherwise.
    """
    people = sorted({clip.person for clip in clips})
    tracked = []
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    offsets = read_offsets(cache)
    for clip in tqdm(clips, desc="hearing", unit="clip", disable=None):
        features, silent = None, np.repeat(clip.silent[None], VIEWS, axis=0)
        if clip.mel is not None and clip.sync_ok and clip.has_speech:
            muted = [_muted(clip.frames, draw) if index % 2 else slice(0, 0) for index in range(VIEWS)]
            features = torch.stack([_heard(clip, encoder, index > 0, span) for index, span in enumerate(muted)]).half()
            for row, span in zip(silent, muted):
                row[span.start + HEARD_AROUND : max(0, span.stop - HEARD_AROUND)] = True
            later = np.clip(np.arange(clip.frames) - offsets.get(clip.file, 0), 0, clip.frames - 1)  # early sound is heard later
            features, silent = features[:, later], silent[:, later]
        tracked.append(TrackedSpeech(clip, features, silent, emotion_row(clip.row), people.index(clip.person)))
    return tracked


def _muted(frames: int, draw: np.random.Generator) -> slice:
    """A stretch of the clip, where it is long enough."""
    length = int(draw.integers(2 * HEARD_AROUND + 5, LONGEST_MUTED))
    if frames < 2 * length:
        return slice(0, 0)
    begin = int(draw.integers(0, frames - length + 1))
    return slice(begin, begin + length)


@torch.no_grad()
def _heard(clip: Clip, encoder: SpeechEncoder | HubertEncoder, changed: bool, muted: slice) -> Tensor:
    """(frames, d) features of the clip's speech; changed: of another voice in another room; muted: frames without sound."""
    if isinstance(encoder, SpeechEncoder):
        mel = torch.from_numpy(clip.mel).float().clone()
        span = mel[MEL_PER_FRAME * muted.start : MEL_PER_FRAME * muted.stop]
        span.copy_(mel.quantile(0.02, dim=0) + 0.3 * torch.randn_like(span))
        return encoder(augment(mel[None]) if changed else mel[None])[0]
    sound = read_sound_or_none(clip.row.heard_in)
    waveform = torch.from_numpy(fitted(sound, clip.frames))
    waveform[SAMPLES_PER_FRAME * muted.start : SAMPLES_PER_FRAME * muted.stop] *= 0.003
    return encoder.encode(augment_waveform(waveform) if changed else waveform)


def write_offsets(cache: Path, offsets: Mapping[str, int]) -> None:
    """Keeps by how many frames the sound of each clip comes before its picture."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "offsets.json").write_text(json.dumps(dict(offsets), indent=1), encoding="utf-8")


def read_offsets(cache: Path) -> dict[str, int]:
    """What write_offsets kept; nothing when it was never called."""
    path = cache / "offsets.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def fitted(sound: np.ndarray, frames: int) -> np.ndarray:
    """The sound of exactly so many frames: cut, or silence behind it."""
    samples = frames * SAMPLES_PER_FRAME
    return np.pad(sound[:samples], (0, max(0, samples - len(sound))))


def augment_waveform(waveform: Tensor) -> Tensor:
    """Another microphone and room for (samples,): a random filter, an echo, noise, loudness; the times stay what they are."""
    spectrum = torch.fft.rfft(waveform)
    place = torch.linspace(0, 1, len(spectrum))
    tilt = torch.randn(3) * torch.tensor([0.8, 0.5, 0.3])
    gain = sum(tilt[order] * torch.cos(torch.pi * (order + 1) * place) for order in range(3)).exp()
    filtered = torch.fft.irfft(spectrum * gain, n=len(waveform))
    late = int(torch.randint(160, 1600, ()))
    echoed = filtered.clone()
    echoed[late:] += 0.4 * torch.rand(()) * filtered[:-late]
    level = echoed.square().mean().sqrt()
    noise = torch.randn_like(echoed) * level * 10 ** (-torch.empty(()).uniform_(5, 35) / 20)
    return (echoed + noise) * torch.empty(()).uniform_(0.5, 1.5)


def emotion_row(row: Row) -> Tensor | None:
    """(8,) the clip's label at its level, the rest neutral; None without a label."""
    if row.emotion not in EMOTIONS:
        return None
    weights = torch.zeros(len(EMOTIONS))
    weights[0] = 1 - row.level
    weights[EMOTIONS.index(row.emotion)] += row.level
    return weights


class Sampler:
    """Draws clips: people by the root of their material, a person's clips by their length."""

    def __init__(self, items: Sequence) -> None:
        self.items = list(items)
        lengths = np.array([len(item) for item in self.items], float)
        totals: dict[str, float] = {}
        for item, length in zip(self.items, lengths):
            totals[item.person] = totals.get(item.person, 0.0) + length
        weights = [length * totals[item.person] ** (PERSON_POWER - 1) for item, length in zip(self.items, lengths)]
        self.shares = shares_of(weights)

    def draw(self, draw: np.random.Generator):
        return self.items[draw.choice(len(self.items), p=self.shares)]


def read_face_model(output: Path) -> FaceModel:
    """Errors: UnusableInput when it was not made yet."""
    try:
        return FaceModel.load(output / "face_model")
    except OSError as error:
        raise UnusableInput(f"{output} holds no face_model yet: run `pretrain face` first.") from error


def read_corpus(rows: Sequence[Row], output: Path) -> list[Clip]:
    clips = load_corpus(rows, output / "corpus", read_face_model(output))
    if not clips:
        raise UnusableInput("None of the training clips is a video with a face.")
    return clips


def read_speech_encoder(output: Path) -> SpeechEncoder | HubertEncoder:
    if not (output / "speech_encoder").is_dir():
        raise UnusableInput(f"{output} holds no speech_encoder yet: run `pretrain speech` first.")
    return load_speech_encoder(output / "speech_encoder").requires_grad_(False)


def hold_out(items: Sequence, usable: Callable, person: Callable) -> tuple[list, list]:
    """Every twentieth usable clip, by the checksum of its place, of people with ten clips or more: watched, never trained on."""
    counts: dict[str, int] = {}
    for item in items:
        counts[person(item)] = counts.get(person(item), 0) + usable(item)

    def held(index: int, item) -> bool:
        return usable(item) and counts[person(item)] >= 10 and zlib.crc32(f"{person(item)} {index}".encode()) % 20 == 0

    kept = [item for index, item in enumerate(items) if not held(index, item)]
    return kept, [item for index, item in enumerate(items) if held(index, item)]


def hold_out_people(items: Sequence, person: Callable, one_in: int = 16) -> tuple[list, list]:
    """One in so many people with little material, by the checksum of the name: how well does a stage fit unseen speakers?"""
    counts: dict[str, int] = {}
    for item in items:
        counts[person(item)] = counts.get(person(item), 0) + 1
    held = {name for name, count in counts.items() if count < 10 and zlib.crc32(name.encode()) % one_in == 0}
    return [item for item in items if person(item) not in held], [item for item in items if person(item) in held]


def random_times(length: int, frames: int, speed: float, draw: np.random.Generator) -> np.ndarray:
    """(frames,) moments of a clip of that many frames, from a random start; a short clip starts at its start and runs out."""
    slack = length - 1 - (frames - 1) * speed
    return max(0.0, draw.uniform(0, max(slack, 0.0))) + np.arange(frames) * speed


def unknown(frames: int) -> np.ndarray:
    return np.full(frames, IGNORED, np.int64)


def shares_of(weights: Sequence[float]) -> np.ndarray:
    weights = np.asarray(weights, float)
    return weights / weights.sum() if len(weights) else weights


def finish(
    model: nn.Module,
    stage: str,
    output: Path,
    rows: Sequence[Row],
    state: TrainState,
    minutes: float | None,
    figures: dict,
    steps: int | None = None,
) -> Path:
    """Saves the stage's weights and its section of the card; returns the folder of the weights."""
    folder = output / FOLDERS[stage]
    save_half(model.to("cpu"), folder)
    rows = [row for row in rows if row.is_video or stage == "speech"]
    name = stage.replace("_baseline", " --baseline")
    length = f"--minutes {minutes:g}" if steps is None else f"--steps {steps}"
    command = f"python -m gmtalker pretrain {name} {source_of(rows)} --output DIR {length}"
    write_section(output / "README.md", FOLDERS[stage], command, state, rows, figures, sum(x.numel() for x in model.parameters()))
    return folder
