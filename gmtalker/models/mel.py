"""The log-mel spectrogram of 16 kHz speech (docs/method.md section 5)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gmtalker.clock import SAMPLE_RATE, SAMPLES_PER_FRAME, frames_for

MELS = 80
MEL_HOP = 160  # samples: 100 mel frames per second, 4 to a video frame
MEL_WINDOW, MEL_FFT, MEL_FLOOR = 400, 512, 1e-6
MEL_PER_FRAME = SAMPLES_PER_FRAME // MEL_HOP


def log_mel(waveform: Tensor) -> Tensor:
    """Natural log of the mel power spectrogram.

    waveform: (samples,) or (batch, samples) at 16 kHz.
    Returns: (frames, 80) or (batch, frames, 80) float32, 100 frames per second: 1 + samples // 160 frames, frame k centred on
        sample 160 k. Not normalised: the speech encoder does that.
    """
    return _mel(waveform, 0, 1 + waveform.shape[-1] // MEL_HOP)


def speech_to_mel(waveform: Tensor, first: int = 0, last: int | None = None) -> Tensor:
    """log_mel from any frame to any other; without them, exactly 4 mel frames for each video frame.

    waveform: (samples,) or (batch, samples) at 16 kHz; what lies outside of it is silence.
    first, last: mel frames to compute, last exclusive. Each is as it is in the whole.
    Returns: (last - first, 80), or (batch, ...) of it.
    """
    last = MEL_PER_FRAME * frames_for(waveform.shape[-1]) if last is None else last
    return _mel(waveform, first, last)


def _mel(waveform: Tensor, first: int, last: int) -> Tensor:
    """log_mel's frames first to last (exclusive); what lies outside the waveform is silence."""
    window = torch.hann_window(MEL_WINDOW, device=waveform.device)
    filters, blocks = mel_filters().to(waveform.device), []
    for begin in range(first, last, 6000):  # a minute at a time: an hour's spectrum would fill the memory
        end = min(begin + 6000, last)
        left, right = begin * MEL_HOP - MEL_FFT // 2, (end - 1) * MEL_HOP + MEL_FFT // 2
        sound = waveform[..., max(0, left) : max(0, right)].float()
        missing = max(0, -left)
        sound = functional.pad(sound, (missing, right - left - missing - sound.shape[-1]))
        spectrum = torch.stft(sound, MEL_FFT, MEL_HOP, MEL_WINDOW, window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        blocks.append((filters @ power).clamp(min=MEL_FLOOR).log().transpose(-1, -2))
    return torch.cat(blocks, dim=-2)


@lru_cache(maxsize=1)
def mel_filters() -> Tensor:
    """Triangles (80, 257) of equal area on Slaney's mel scale, 0 to 8000 Hz, as librosa.filters.mel gives them."""
    # Written out because importing librosa for 80 triangles costs seconds.
    edges = _mel_to_hertz(np.linspace(0.0, _hertz_to_mel(SAMPLE_RATE / 2), MELS + 2))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, MEL_FFT // 2 + 1)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.clip(np.minimum(rise, fall), 0.0, None) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(triangles.astype(np.float32))


# Slaney's scale: linear with 3 mels in 200 Hz up to 1000 Hz, from there 27 mels for each factor of 6.4.
def _hertz_to_mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def _mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))
