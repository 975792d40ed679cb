"""How well emotions are heard in the voices of people whom training never heard (docs/method.md section 16)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.preprocessing import StandardScaler

from gmtalker.clock import EMOTIONS
from gmtalker.emotion_of_voice import load_voice_emotion, timeline_of_voice
from gmtalker.media.audio import read_speech
from gmtalker.models.mel import log_mel
from gmtalker.models.voice_emotion import VoiceEmotion, voice_input
from gmtalker.pretrain.datasets import read_rows
from gmtalker.pretrain.voice import SpokenEmotion, read_spoken_emotions
from gmtalker.progress import OnProgress, ignore_progress

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def measure_voice(
    data: Path | None,
    speeches: Sequence[Path] = (),
    network: VoiceEmotion | None = None,
    on_progress: OnProgress = ignore_progress,
) -> dict:
    """Name the emotions of test recordings, and of any speech.

    data: a folder with a MANIFEST.csv, whose test rows are named, and whose training rows teach what loudness alone can tell;
        None for none.
    speeches: files to listen to.
    network: None is the bundled one.
    Returns: "unweighted_accuracy", "chance", "loudness_alone", and "recall" by emotion, where there is
        data; "speeches": by file, the three strongest emotions over all of it, and how many keys a timeline of it has.
    Errors: UnusableInput.
    """
    network = network or load_voice_emotion()
    result: dict = {}
    if data is not None:
        rows = [row for row in read_rows(data) if row.emotion in EMOTIONS and row.kind != "personal"]
        test = read_spoken_emotions([row for row in rows if row.test], on_progress)
        train = read_spoken_emotions([row for row in rows if not row.test and row.train_seconds > 0], on_progress)
        result |= _accuracy(network, train, test)
    result["speeches"] = {path.name: _heard(path, network) for path in speeches}
    return result


@torch.no_grad()
def _accuracy(network: VoiceEmotion, train: Sequence[SpokenEmotion], test: Sequence[SpokenEmotion]) -> dict:
    wanted = np.array([item.emotion for item in test])
    named = np.array([int(network.pooled(item.mel[None]).argmax()) for item in test])
    kinds = sorted(set(wanted.tolist()))
    recall = recall_score(wanted, named, labels=kinds, average=None, zero_division=0)
    scale = StandardScaler().fit([_loudness(item) for item in train])
    by_loudness = LogisticRegression(max_iter=2000, class_weight="balanced").fit(
        scale.transform([_loudness(item) for item in train]), [item.emotion for item in train]
    )
    guessed = by_loudness.predict(scale.transform([_loudness(item) for item in test]))
    return {
        "recordings": len(test),
        "people": len({item.person for item in test}),
        "unweighted_accuracy": round(float(recall.mean()), 3),
        "chance": round(1 / len(kinds), 3),
        "loudness_alone": round(float(recall_score(wanted, guessed, labels=kinds, average="macro", zero_division=0)), 3),
        "recall": {EMOTIONS[kind]: round(float(value), 3) for kind, value in zip(kinds, recall)},
    }


def _loudness(item: SpokenEmotion) -> np.ndarray:
    """How loud a recording is over time, relative to itself, as quantiles, and how much that changes."""
    loud = item.mel.amax(1).numpy()
    return np.array([*np.quantile(loud, QUANTILES), loud.std(), np.abs(np.diff(loud)).mean()])


@torch.no_grad()
def _heard(path: Path, network: VoiceEmotion) -> dict:
    """The emotions of a file, as shares of its time, and its keys."""
    wave = read_speech(path)
    curve = network.curve(voice_input(log_mel(torch.from_numpy(wave)))).mean(0)
    strongest = {EMOTIONS[int(index)]: round(float(curve[index]), 2) for index in curve.argsort(descending=True)[:3]}
    return {"strongest": strongest, "keys": len(timeline_of_voice(wave, network))}
