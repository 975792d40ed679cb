"""Pretraining of the speech encoder: `pretrain speech`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from gmtalker.clock import FPS, SAMPLE_RATE
from gmtalker.errors import UnusableInput
from gmtalker.face.lips import shifted_correlation
from gmtalker.media.audio import read_sound_or_none
from gmtalker.models.mel import MEL_PER_FRAME, speech_to_mel
from gmtalker.models.speech_encoder import IGNORED, SpeechBatch, SpeechEncoder
from gmtalker.pretrain.card import write_section
from gmtalker.pretrain.corpus import Clip
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.samples import (
    BATCH,
    PretrainOptions,
    Sampler,
    finish,
    hold_out,
    hold_out_people,
    random_times,
    read_corpus,
    shares_of,
    unknown,
    write_offsets,
)
from gmtalker.pretrain.speech_labels import GRID_WORDS, PHONES, phone_classes, sentence_phones, word_classes
from gmtalker.progress import OnProgress, nobody_listens
from gmtalker.tracks import interpolated
from gmtalker.training.checkpoints import TrainState
from gmtalker.training.loop import TrainOptions, fit

FRAMES = 75  # of a training crop: what a GRID clip has
LIP_NUMBERS = 8
OFFSET_SHARE = 0.25  # of the minutes, for finding out where sound and picture are apart
LARGEST_SHIFT, SURE_FRAMES = 4, 60  # frames a sound may be moved (the outermost are no peak), and that a clip needs for it
MOST_WATCHED = 40  # clips that a measure taken during training looks at
SAME_CAMERA = 10  # clips from which on a person's sound is taken to be off by the same in all of them
SURE, GAIN = 0.25, 0.02  # agreement of the lips that tells an offset, and how much better than as recorded
LONGEST_SENTENCE = 20
SHARES = {"lips": 8, "sentences": 4, "phones": 4}  # of a batch


@dataclass(frozen=True)
class Recording:
    """A training recording: mel (4T,80), and what is known about each of its T frames (see SpeechBatch)."""

    group: str
    person: str
    file: str
    mel: np.ndarray
    phones: np.ndarray
    words: np.ndarray
    transcript: np.ndarray
    lips: np.ndarray
    lips_known: bool

    def __len__(self) -> int:
        return len(self.mel) // MEL_PER_FRAME


def pretrain_speech(
    rows: Sequence[Row],
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    on_progress: OnProgress = nobody_listens,
) -> Path:
    """Trains the speech encoder: lips of tracked clips, phones of EmoDB, words of GRID, sentences of RAVDESS.

    A first part of the minutes only finds out by how many frames each recording's sound lies beside its picture; the stages
    trained after this one read that from output/corpus/offsets.json.
    """
    minutes, seed = options.minutes or 40.0, options.seed
    output = Path(output)
    clips = [clip for clip in read_corpus(rows, output) if clip.has_speech and clip.sync_ok and clip.mel is not None]
    recordings = _lip_recordings(clips) + _heard_recordings(rows, output / "corpus")
    if not recordings:
        raise UnusableInput("None of the training clips holds speech to learn from.")
    kept, unseen_speakers = hold_out_people(recordings, lambda recording: recording.person)
    kept, held_out = hold_out(kept, lambda recording: recording.group == "lips", lambda recording: recording.person)
    unseen_speakers = [recording for recording in unseen_speakers if recording.group == "lips"][:MOST_WATCHED]

    def train(stage: str, share: float, taught: Sequence[Recording]) -> tuple[SpeechEncoder, TrainState]:
        torch.manual_seed(seed)
        model = SpeechEncoder(phones=len(PHONES), words=len(GRID_WORDS), lips=LIP_NUMBERS)
        groups = {group: Sampler([x for x in taught if x.group == group]) for group in SHARES}
        groups = {group: sampler for group, sampler in groups.items() if sampler.items}
        shares = shares_of([SHARES[group] for group in groups])

        def batch(number: int) -> SpeechBatch:
            draw = np.random.default_rng([seed, number])
            names = draw.choice(list(groups), BATCH, p=shares)
            return _speech_batch([groups[name].draw(draw) for name in names], draw)

        def evaluate(network: SpeechEncoder) -> dict[str, float]:
            known, unknown = _lip_correlation(network, held_out), _lip_correlation(network, unseen_speakers)
            return {"lip_correlation": known, "lip_correlation_strangers": unknown}

        loop_options = TrainOptions(
            stage, share * minutes, learning_rate=1e-3, precision="bf16", seed=seed, device=options.device
        )
        return model, fit(model, batch, output / "checkpoints" / stage, loop_options, on_progress, evaluate)

    listener, _ = train("speech_offsets", OFFSET_SHARE, kept)
    tracked = [recording for recording in [*kept, *held_out, *unseen_speakers] if recording.lips_known]
    offsets = shared_offsets(tracked, [sound_offset(listener, recording) for recording in tracked])
    write_offsets(output / "corpus", offsets)
    model, state = train("speech", 1 - OFFSET_SHARE, [_in_time(recording, offsets.get(recording.file, 0)) for recording in kept])
    figures = {
        "lip correlation, held-out clips of seen people": _lip_correlation(model, held_out),
        f"lip correlation, {len(unseen_speakers)} clips of people never trained on": _lip_correlation(model, unseen_speakers),
        "clips whose sound was moved": sum(offset != 0 for offset in offsets.values()),
    }
    return finish(model, "speech", output, rows, state, minutes, figures)


@torch.no_grad()
def sound_offset(model: SpeechEncoder, recording: Recording) -> int:
    """By how many frames the sound of a recording comes before its picture; 0 when that can't be told.

    Where the lips that the sound lets expect agree best with the real ones, if they agree much better than as recorded.
    """
    if len(recording) < SURE_FRAMES:
        return 0
    device = model.norm.weight.device
    expected = model.lip_head(model(torch.from_numpy(recording.mel[None]).float().to(device)))[0].cpu().numpy()
    shifts = range(-LARGEST_SHIFT, LARGEST_SHIFT + 1)
    agreement = [
        np.mean([shifted_correlation(expected[:, k], recording.lips[:, k], -shift) for k in range(3)]) for shift in shifts
    ]
    best = int(np.argmax(agreement))
    sure = 0 < best < len(agreement) - 1 and agreement[best] > max(SURE, agreement[LARGEST_SHIFT] + GAIN)
    return shifts[best] if sure else 0


def shared_offsets(recordings: Sequence[Recording], offsets: Sequence[int]) -> dict[str, int]:
    """The offset of each file; whoever was filmed often, by one camera, has one offset: the median of all theirs."""
    found: dict[str, list[int]] = {}
    for recording, offset in zip(recordings, offsets):
        found.setdefault(recording.person, []).append(offset)
    median = {person: int(np.median(values)) for person, values in found.items() if len(values) >= SAME_CAMERA}
    return {recording.file: median.get(recording.person, offset) for recording, offset in zip(recordings, offsets)}


def _in_time(recording: Recording, offset: int) -> Recording:
    """The recording with its lips moved to its sound: `offset` frames earlier, its ends held."""
    if not offset:
        return recording
    frames = np.clip(np.arange(len(recording)) + offset, 0, len(recording.lips) - 1)
    return replace(recording, lips=recording.lips[frames])


def adopt_hubert(name: str, output: Path) -> Path:
    """Takes a HuBERT, by its name on the Hub or its folder, as the speech encoder of the stages in `output`; it is not trained.

    Errors: UnusableInput when it can't be fetched or is none.
    """
    from gmtalker.models.hubert_encoder import HubertEncoder  # late: transformers takes seconds to import

    try:
        encoder = HubertEncoder.from_hub(name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnusableInput(f"{name} can't be used as a speech encoder: {str(error).splitlines()[0]}") from error
    folder = Path(output) / "speech_encoder"
    shutil.rmtree(folder, ignore_errors=True)
    encoder.hubert.save_pretrained(folder)
    command = f"python -m gmtalker pretrain speech --speech-encoder {name} --output DIR"
    count = sum(weight.numel() for weight in encoder.parameters())
    write_section(Path(output) / "README.md", "speech_encoder", command, TrainState(), [], {}, count)
    return folder


def _lip_recordings(clips: Sequence[Clip]) -> list[Recording]:
    """Lips as a few numbers: principal components over all people, with mean 0 and deviation 1 over each clip."""
    if not clips:
        return []
    centred = [clip.lips - clip.lips.mean(0) for clip in clips]
    covariance = sum(lips.T @ lips / len(lips) for lips in centred)
    components = np.linalg.eigh(covariance)[1][:, ::-1][:, :LIP_NUMBERS]
    shapes = [lips @ components for lips in centred]
    floor = 0.3 * np.median([shape.std(0) for shape in shapes], axis=0)  # a still clip must not become a loud one
    recordings = []
    for clip, shape in zip(clips, shapes):
        alignment = clip.row.path.parent / "align" / (clip.row.path.stem + ".align")
        words = word_classes(alignment, clip.frames) if alignment.is_file() else unknown(clip.frames)
        lips = (shape / np.maximum(shape.std(0), floor)).astype(np.float32)
        phones = unknown(clip.frames)
        recordings.append(Recording("lips", clip.person, clip.file, clip.mel, phones, words, unknown(0), lips, True))
    return recordings


def _heard_recordings(rows: Sequence[Row], cache: Path) -> list[Recording]:
    """Recordings without a picture whose phones or sentence are known."""
    recordings = []
    mels = _read_mels(rows, cache)
    for row in rows:
        if row.file not in mels:
            continue
        mel = mels[row.file].float().numpy()
        frames = len(mel) // MEL_PER_FRAME
        labels = row.beside / "phones" / (row.path.stem + "xx.lablaut")
        phones = phone_classes(labels, frames) if labels.is_file() else None
        sentence = sentence_phones(row.file)
        group = "phones" if phones is not None else "sentences" if sentence is not None else None
        if group is not None:
            phones = unknown(frames) if phones is None else phones
            sentence = unknown(0) if sentence is None else sentence
            lips = np.zeros((frames, LIP_NUMBERS), np.float32)
            recordings.append(Recording(group, row.person, row.file, mel, phones, unknown(frames), sentence, lips, False))
    return recordings


def _read_mels(rows: Sequence[Row], cache: Path) -> dict[str, Tensor]:
    """float16 log-mel (4T,80) of every training recording without a picture, quiet ends cut off; cached."""
    path = cache / "recordings.safetensors"
    mels = load_file(str(path)) if path.is_file() else {}
    missing = [row for row in rows if not row.is_video and row.file not in mels]
    if not missing:
        return mels
    for row in tqdm(missing, desc="listening", unit="file", disable=None):
        sound = read_sound_or_none(row.path)
        if sound is not None and (row.speech or row.kind):
            mel = speech_to_mel(torch.from_numpy(sound)[: int(row.train_seconds * SAMPLE_RATE)])
            # EmoDB's labels count from the start of the file, so its ends stay as they are.
            mels[row.file] = (_without_quiet_ends(mel) if sentence_phones(row.file) is not None else mel).half().contiguous()
    cache.mkdir(parents=True, exist_ok=True)
    save_file(mels, str(path))
    return mels


def _without_quiet_ends(mel: Tensor) -> Tensor:
    """The stretch of mel (4T,80) in which somebody speaks, with a fifth of a second around it, in whole frames."""
    level = mel.mean(1)
    loud = (level > level.quantile(0.05) + 0.3 * (level.quantile(0.98) - level.quantile(0.05))).nonzero()[:, 0]
    first, last = max(0, int(loud[0]) // 4 - 5), min(len(mel) // 4, int(loud[-1]) // 4 + 6)
    return mel[4 * first : 4 * last]


def _speech_batch(recordings: Sequence[Recording], draw: np.random.Generator) -> SpeechBatch:
    frames = FRAMES
    rows: dict[str, list] = {name: [] for name in ("mel", "mask", "phones", "words", "transcript", "lips", "lips_mask")}
    for recording in recordings:
        whole = bool(len(recording.transcript))
        fits = len(recording) / frames
        speed = max(draw.uniform(0.88, 1.12), fits if whole and fits <= 1.3 else 0.0)  # a sentence is only known as a whole
        times = random_times(len(recording), frames, speed, draw)
        known = times <= len(recording) - 1
        nearest = np.minimum(times.round().astype(int), len(recording) - 1)
        mel_times = (np.repeat(times, MEL_PER_FRAME) * MEL_PER_FRAME) + np.tile(np.arange(MEL_PER_FRAME), frames) * speed
        rows["mel"].append(interpolated(recording.mel, mel_times))
        rows["mask"].append(known)
        rows["phones"].append(np.where(known, recording.phones[nearest], IGNORED))
        rows["words"].append(np.where(known, recording.words[nearest], IGNORED))
        sentence = recording.transcript if whole and times[-1] >= len(recording) - 2 else unknown(0)
        rows["transcript"].append(np.pad(sentence, (0, LONGEST_SENTENCE - len(sentence)), constant_values=IGNORED))
        rows["lips"].append(interpolated(recording.lips, times))
        rows["lips_mask"].append(known & recording.lips_known)
    return SpeechBatch(**{name: torch.from_numpy(np.stack(values)) for name, values in rows.items()})


def _lip_correlation(model: SpeechEncoder, recordings: Sequence[Recording]) -> float | None:
    """Mean correlation of the strongest lip component with its prediction; None without a recording."""
    values = []
    model.eval()
    for recording in recordings[:MOST_WATCHED]:
        if len(recording) < FPS:
            continue
        with torch.no_grad():
            device = model.norm.weight.device
            heard = model(torch.from_numpy(recording.mel[None]).float().to(device))
            predicted = model.lip_head(heard)[0, :, 0].cpu().numpy()
        values.append(np.corrcoef(predicted, recording.lips[:, 0])[0, 1])
    return round(float(np.mean(values)), 3) if values else None
