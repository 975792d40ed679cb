"""Pretraining of the speech encoder: `pretrain speech` (docs/method.md section 5)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gmtalker.clock import FPS, SAMPLE_RATE
from gmtalker.errors import UnusableInput
from gmtalker.face.lips import shifted_correlation
from gmtalker.files import whole_file
from gmtalker.media.audio import read_sound_or_none
from gmtalker.models.mel import MEL_PER_FRAME, speech_to_mel
from gmtalker.models.speech_encoder import IGNORED, SpeechBatch, SpeechEncoder
from gmtalker.pretrain.card import StageSection, write_section
from gmtalker.pretrain.corpus import Clip
from gmtalker.pretrain.datasets import Row
from gmtalker.pretrain.samples import (
    BATCH_CLIPS,
    PretrainOptions,
    hold_out,
    hold_out_people,
    random_times,
    read_corpus,
    samplers_of,
    save_stage,
    shares_of,
    unknown,
    write_offsets,
)
from gmtalker.pretrain.speech_labels import GRID_WORDS, PHONES, phone_classes, sentence_phones, word_classes
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.tracks import sample_rows
from gmtalker.training.checkpoints import TrainState
from gmtalker.training.loop import TrainOptions, fit

MINUTES = 40.0
WINDOW_FRAMES = 75  # of a training sample: what a GRID clip has
LIP_COMPONENTS = 8
STILL_LIPS = 0.3  # of the median deviation, to which a clip's lips are scaled at least: a still clip must not become a loud one
OFFSET_SHARE = 0.25  # of the minutes, in which the offsets of sound and picture are estimated
OFFSET_MAX = 4  # frames that a sound may be moved; the outermost are not accepted, for they can't be seen to be a peak
OFFSET_FRAMES_MIN = 60  # that a clip needs for it
OFFSET_CORRELATION_MIN, OFFSET_GAIN_MIN = 0.25, 0.02  # of the lips at the offset, and over the clip as recorded
SAME_CAMERA_CLIPS = 10  # from so many clips on, a person's sound is taken to be off by the same in all of them
VALIDATION_CLIPS_MAX = 40  # that are measured
SPEEDS, WHOLE_SPEED_MAX = (0.88, 1.12), 1.3  # at which clips are played, and to which a sentence is sped up to fit
SENTENCE_PHONES_MAX = 20
GROUP_WEIGHTS = {"lips": 8, "sentences": 4, "phones": 4}  # clips of a batch


@dataclass(frozen=True)
class Recording:
    """A training recording, and what is known of its frames.

    group: one of GROUP_WEIGHTS.
    person: who speaks.
    file: its name within the set.
    mel: (4 * frames, 80) log-mel.
    phones, words: (frames,) classes, IGNORED where unknown.
    transcript: (phones,) classes of the whole sentence; empty where unknown.
    lips: (frames, LIP_COMPONENTS), each with mean 0 and deviation 1 over the clip.
    lips_known: False where there is no picture.
    """

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
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """Train the speech encoder on lips of tracked clips, phones of EmoDB, words of GRID, and sentences of RAVDESS.

    A first part of the minutes only trains a model that estimates, per recording, by how many frames sound and picture are apart;
    the stages trained after this one read that from output/corpus/offsets.json.

    output: folder of stages.
    Returns: the folder of the weights.
    Errors: UnusableInput when there is no face model yet, or no clip can be used.
    """
    options, output = options.with_minutes(MINUTES), Path(output)
    clips = [clip for clip in read_corpus(rows, output, on_progress) if clip.has_usable_speech]
    recordings = _filmed_recordings(clips) + _sound_recordings(rows, output / "corpus", on_progress)
    train, validation, unseen_speakers = _split(recordings)

    def evaluate(network: SpeechEncoder) -> dict[str, float | None]:
        return {
            "lip_correlation": _lip_correlation(network, validation),
            "lip_correlation_unseen_speakers": _lip_correlation(network, unseen_speakers),
        }

    def fitted(stage: str, share: float, samples: Sequence[Recording]) -> tuple[SpeechEncoder, TrainState]:
        own = replace(options, minutes=share * options.minutes)
        return _fit(stage, samples, output / "checkpoints" / stage, own, on_progress, evaluate)

    first, _ = fitted("speech_offsets", OFFSET_SHARE, train)
    offsets = _estimate_offsets(first, [*train, *validation, *unseen_speakers])
    write_offsets(output / "corpus", offsets)
    model, state = fitted("speech", 1 - OFFSET_SHARE, [in_time(item, offsets.get(item.file, 0)) for item in train])
    figures = {
        "lip correlation, held-out clips of seen people": _lip_correlation(model, validation),
        f"lip correlation, {len(unseen_speakers)} clips of people never trained on": _lip_correlation(model, unseen_speakers),
        "clips whose sound was moved": sum(offset != 0 for offset in offsets.values()),
    }
    return save_stage(model, "speech", output, rows, state, options, figures)


def adopt_hubert(name: str, output: Path) -> Path:
    """Make a HuBERT the speech encoder of a folder of stages; it is not trained.

    name: of a model on the Hub, or its folder.
    Returns: the folder of the weights.
    Errors: UnusableInput when it can't be fetched or is no HuBERT.
    """
    from gmtalker.models.hubert_encoder import HubertEncoder  # late: transformers takes seconds to import

    try:
        encoder = HubertEncoder.from_hub(name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnusableInput(f"{name} can't be used as a speech encoder: {str(error).splitlines()[0]}") from error
    output = Path(output)
    folder = output / "speech_encoder"
    shutil.rmtree(folder, ignore_errors=True)
    encoder.hubert.save_pretrained(folder)
    command = f"python -m gmtalker pretrain speech --speech-encoder {name} --output DIR"
    parameters = sum(weight.numel() for weight in encoder.parameters())
    write_section(output, StageSection("speech_encoder", command, TrainState(), [], {}, parameters))
    return folder


def _split(recordings: Sequence[Recording]) -> tuple[list[Recording], list[Recording], list[Recording]]:
    """Recordings to train on, clips of the same people for validation, and clips of unseen speakers.

    Errors: UnusableInput without a recording.
    """
    if not recordings:
        raise UnusableInput("None of the training clips holds speech to learn from.")
    train, unseen = hold_out_people(recordings, lambda recording: recording.person)
    train, validation = hold_out(train, lambda recording: recording.group == "lips", lambda recording: recording.person)
    return train, validation, [recording for recording in unseen if recording.group == "lips"][:VALIDATION_CLIPS_MAX]


def _fit(
    stage: str,
    samples: Sequence[Recording],
    folder: Path,
    options: PretrainOptions,
    on_progress: OnProgress,
    evaluate: Callable[[SpeechEncoder], dict],
) -> tuple[SpeechEncoder, TrainState]:
    """Train a speech encoder on recordings. folder: of its checkpoint."""
    torch.manual_seed(options.seed)
    model = SpeechEncoder(num_phones=len(PHONES), num_words=len(GRID_WORDS), lip_dim=LIP_COMPONENTS)
    samplers = samplers_of({group: [item for item in samples if item.group == group] for group in GROUP_WEIGHTS})
    shares = shares_of([GROUP_WEIGHTS[group] for group in samplers])

    def batch(step: int) -> SpeechBatch:
        rng = np.random.default_rng([options.seed, step])
        groups = rng.choice(list(samplers), BATCH_CLIPS, p=shares)
        return _speech_batch([samplers[group].draw(rng) for group in groups], rng)

    train_options = TrainOptions(
        stage, options.minutes, learning_rate=1e-3, precision="bf16", seed=options.seed, device=options.device
    )
    return model, fit(model, batch, folder, train_options, on_progress, evaluate)


# --- Sound and picture in time -------------------------------------------------------------------------------------------------


@torch.no_grad()
def sound_offset(model: SpeechEncoder, recording: Recording) -> int:
    """By how many frames the sound of a recording precedes its picture; 0 where that can't be told.

    It is the offset at which the lips that the model expects of the sound agree best with the real ones, where they agree well
    and better than as recorded.
    """
    if len(recording) < OFFSET_FRAMES_MIN:
        return 0
    device = model.norm.weight.device
    expected = model.lip_head(model(torch.from_numpy(recording.mel[None]).float().to(device)))[0].cpu().numpy()
    offsets = range(-OFFSET_MAX, OFFSET_MAX + 1)
    agreement = [
        np.mean([shifted_correlation(expected[:, k], recording.lips[:, k], -offset) for k in range(3)]) for offset in offsets
    ]
    best = int(np.argmax(agreement))
    is_peak = 0 < best < len(agreement) - 1
    is_sure = agreement[best] > max(OFFSET_CORRELATION_MIN, agreement[OFFSET_MAX] + OFFSET_GAIN_MIN)
    return offsets[best] if is_peak and is_sure else 0


def _estimate_offsets(model: SpeechEncoder, recordings: Sequence[Recording]) -> dict[str, int]:
    """The offset of each recording with a picture, by file."""
    filmed = [recording for recording in recordings if recording.lips_known]
    return shared_offsets(filmed, [sound_offset(model, recording) for recording in filmed])


def shared_offsets(recordings: Sequence[Recording], offsets: Sequence[int]) -> dict[str, int]:
    """Offsets by file; whoever was filmed often, by one camera, gets one offset, the median of all theirs.

    offsets: of each recording, in frames.
    """
    found: dict[str, list[int]] = {}
    for recording, offset in zip(recordings, offsets):
        found.setdefault(recording.person, []).append(offset)
    median = {person: int(np.median(values)) for person, values in found.items() if len(values) >= SAME_CAMERA_CLIPS}
    return {recording.file: median.get(recording.person, offset) for recording, offset in zip(recordings, offsets)}


def in_time(recording: Recording, offset: int) -> Recording:
    """A recording with its lips moved to its sound, `offset` frames earlier; the first or last row fills the gap."""
    if not offset:
        return recording
    frames = np.clip(np.arange(len(recording)) + offset, 0, len(recording.lips) - 1)
    return replace(recording, lips=recording.lips[frames])


# --- Recordings ----------------------------------------------------------------------------------------------------------------


def _filmed_recordings(clips: Sequence[Clip]) -> list[Recording]:
    """Clips with their lips as principal components over all people, standardised over each clip."""
    if not clips:
        return []
    centred = [clip.lips - clip.lips.mean(0) for clip in clips]
    covariance = sum(lips.T @ lips / len(lips) for lips in centred)
    components = np.linalg.eigh(covariance)[1][:, ::-1][:, :LIP_COMPONENTS]
    shapes = [lips @ components for lips in centred]
    floor = STILL_LIPS * np.median([shape.std(0) for shape in shapes], axis=0)
    recordings = []
    for clip, shape in zip(clips, shapes):
        alignment = clip.row.path.parent / "align" / (clip.row.path.stem + ".align")
        words = word_classes(alignment, clip.frames) if alignment.is_file() else unknown(clip.frames)
        lips = (shape / np.maximum(shape.std(0), floor)).astype(np.float32)
        phones = unknown(clip.frames)
        recordings.append(Recording("lips", clip.person, clip.file, clip.mel, phones, words, unknown(0), lips, True))
    return recordings


def _sound_recordings(rows: Sequence[Row], cache: Path, on_progress: OnProgress) -> list[Recording]:
    """Recordings without a picture whose phones or sentence are known."""
    recordings = []
    mels = _read_mels(rows, cache, on_progress)
    for row in rows:
        if row.file not in mels:
            continue
        mel = mels[row.file].float().numpy()
        frames = len(mel) // MEL_PER_FRAME
        labels = row.set_folder / "phones" / (row.path.stem + "xx.lablaut")
        phones = phone_classes(labels, frames) if labels.is_file() else None
        sentence = sentence_phones(row.file)
        group = "phones" if phones is not None else "sentences" if sentence is not None else None
        if group is not None:
            phones = unknown(frames) if phones is None else phones
            sentence = unknown(0) if sentence is None else sentence
            lips = np.zeros((frames, LIP_COMPONENTS), np.float32)
            recordings.append(Recording(group, row.person, row.file, mel, phones, unknown(frames), sentence, lips, False))
    return recordings


def _read_mels(rows: Sequence[Row], cache: Path, on_progress: OnProgress) -> dict[str, Tensor]:
    """Log-mel (4 * frames, 80) float16 of every recording without a picture, by file, quiet ends cut off; cached."""
    path = cache / "recordings.safetensors"
    mels = load_file(str(path)) if path.is_file() else {}
    missing = [row for row in rows if not row.is_video and row.file not in mels]
    if not missing:
        return mels
    for number, row in enumerate(missing):
        on_progress(Progress("reading recordings", number, len(missing)))
        sound = read_sound_or_none(row.path)
        if sound is not None and (row.speech or row.kind):
            mel = speech_to_mel(torch.from_numpy(sound)[: int(row.train_seconds * SAMPLE_RATE)])
            # EmoDB's labels count from the start of the file, so its ends stay as they are.
            mels[row.file] = (_without_quiet_ends(mel) if sentence_phones(row.file) is not None else mel).half().contiguous()
    cache.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        save_file(mels, str(unfinished))
    return mels


def _without_quiet_ends(mel: Tensor) -> Tensor:
    """The stretch of mel (4 * frames, 80) in which somebody speaks, with a fifth of a second around it, in whole frames."""
    level = mel.mean(1)
    loud = (level > level.quantile(0.05) + 0.3 * (level.quantile(0.98) - level.quantile(0.05))).nonzero()[:, 0]
    first, last = max(0, int(loud[0]) // 4 - 5), min(len(mel) // 4, int(loud[-1]) // 4 + 6)
    return mel[4 * first : 4 * last]


# --- Batches and figures -------------------------------------------------------------------------------------------------------


def _speech_batch(recordings: Sequence[Recording], rng: np.random.Generator) -> SpeechBatch:
    """A window of each recording, at a random place and speed."""
    frames = WINDOW_FRAMES
    rows: dict[str, list] = {name: [] for name in ("mel", "mask", "phones", "words", "transcript", "lips", "lips_mask")}
    for recording in recordings:
        whole = bool(len(recording.transcript))
        fits = len(recording) / frames
        # A sentence is only known as a whole.
        speed = max(rng.uniform(*SPEEDS), fits if whole and fits <= WHOLE_SPEED_MAX else 0.0)
        times = random_times(len(recording), frames, speed, rng)
        known = times <= len(recording) - 1
        nearest = np.minimum(times.round().astype(int), len(recording) - 1)
        mel_times = (np.repeat(times, MEL_PER_FRAME) * MEL_PER_FRAME) + np.tile(np.arange(MEL_PER_FRAME), frames) * speed
        rows["mel"].append(sample_rows(recording.mel, mel_times))
        rows["mask"].append(known)
        rows["phones"].append(np.where(known, recording.phones[nearest], IGNORED))
        rows["words"].append(np.where(known, recording.words[nearest], IGNORED))
        sentence = recording.transcript if whole and times[-1] >= len(recording) - 2 else unknown(0)
        rows["transcript"].append(np.pad(sentence, (0, SENTENCE_PHONES_MAX - len(sentence)), constant_values=IGNORED))
        rows["lips"].append(sample_rows(recording.lips, times))
        rows["lips_mask"].append(known & recording.lips_known)
    return SpeechBatch(**{name: torch.from_numpy(np.stack(values)) for name, values in rows.items()})


def _lip_correlation(model: SpeechEncoder, recordings: Sequence[Recording]) -> float | None:
    """Mean correlation of the strongest lip component with its prediction; None without a recording."""
    values = []
    model.eval()
    for recording in recordings[:VALIDATION_CLIPS_MAX]:
        if len(recording) < FPS:
            continue
        with torch.no_grad():
            device = model.norm.weight.device
            features = model(torch.from_numpy(recording.mel[None]).float().to(device))
            predicted = model.lip_head(features)[0, :, 0].cpu().numpy()
        values.append(np.corrcoef(predicted, recording.lips[:, 0])[0, 1])
    return round(float(np.mean(values)), 3) if values else None
