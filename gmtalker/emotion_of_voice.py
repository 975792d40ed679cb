"""The emotions that a voice expresses, as the keys of a timeline that can be edited."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from gmtalker.assets import GENERIC
from gmtalker.clock import EMOTIONS, SAMPLE_RATE
from gmtalker.device import one_core
from gmtalker.errors import UnusableInput
from gmtalker.models.mel import MEL_HOP, log_mel
from gmtalker.models.voice_emotion import STRIDE, VoiceEmotion, voice_input
from gmtalker.models.weights import CONFIG_FILE, load_strict
from gmtalker.tracks import EmotionKey

FOLDER = "voice_emotion"  # of the network, among the generic stages
ANSWERS_A_SECOND = SAMPLE_RATE / MEL_HOP / STRIDE
DOUBTFUL, SURE = 0.25, 0.75  # probabilities of an emotion up to which it is left out, and from which its weight is 1
FAINT = 0.05  # weight below which an emotion is left out of a key
TOLERANCE = 0.15  # by which a curve may differ from the straight lines between keys
KEYS_A_SECOND = 1.0  # at most


@cache
def load_voice_emotion() -> VoiceEmotion:
    """The bundled network. Errors: UnusableInput where there is none."""
    if not (GENERIC / FOLDER / CONFIG_FILE).is_file():
        raise UnusableInput("This installation has no network that hears emotions; say the emotion instead.")
    return load_strict(VoiceEmotion, GENERIC / FOLDER)


@torch.no_grad()
@one_core()
def timeline_of_voice(waveform: np.ndarray, network: VoiceEmotion | None = None) -> list[EmotionKey]:
    """The emotions of a speech over time, by its sound alone: as many keys as its curves need.

    waveform: (samples,) float at 16 kHz.
    network: None is the bundled one.
    Returns: keys in their order, the first at 0; a calm voice has one without emotion.
    Errors: UnusableInput where there is no network.
    Source: docs/method.md section 16.
    """
    network = network or load_voice_emotion()
    curve = network.curve(voice_input(log_mel(torch.from_numpy(np.asarray(waveform, np.float32))))).numpy()
    weights = emotion_weights(curve)
    weights[:, 0] = 0.0  # neutral is what the others leave
    seconds = np.arange(len(weights)) / ANSWERS_A_SECOND
    places = _corners(seconds, weights, most=2 + int(KEYS_A_SECOND * seconds[-1]))
    return [EmotionKey(round(float(seconds[place]), 2), _emotion(weights[place])) for place in places]


def emotion_weights(probabilities: np.ndarray) -> np.ndarray:
    """What is shown of what is heard, (n, 8): only what is likely, or every voice would be a little of everything."""
    weights: np.ndarray = np.clip((probabilities - DOUBTFUL) / (SURE - DOUBTFUL), 0, 1)
    return weights


def _emotion(row: np.ndarray) -> dict[str, float]:
    return {name: round(float(weight), 2) for name, weight in zip(EMOTIONS, row) if weight >= FAINT}


def _corners(seconds: np.ndarray, rows: np.ndarray, most: int) -> list[int]:
    """Places of a polyline through rows that is never further than TOLERANCE from them: Ramer, Douglas and Peucker's method.

    most: places at the most; the greatest deviations are followed first.
    """
    places = [0]
    if len(rows) > 1 and np.abs(rows - rows[0]).max() > TOLERANCE:
        places.append(len(rows) - 1)
    while 1 < len(places) < most:
        line = np.stack([np.interp(seconds, seconds[places], rows[places, index]) for index in range(rows.shape[1])], axis=1)
        error = np.abs(rows - line).max(1)
        worst = int(error.argmax())
        if error[worst] <= TOLERANCE:
            break
        places = sorted({*places, worst})
    return places
