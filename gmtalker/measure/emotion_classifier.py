"""Acc_emo: does a classifier that training never used recognise the emotion that was asked for (docs/method.md section 4)?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from gmtalker.avatars.ready import AvatarLike
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.face.landmarks import FACE_POINTS
from gmtalker.face.tracking import detect_landmarks
from gmtalker.media.audio import read_speech
from gmtalker.media.video import read_frames
from gmtalker.pipeline import GMTalkerPipeline

CLASSES = ("angry", "disgusted", "fear", "happy", "sad", "surprised", "neutral")  # in the classifier's order; no contempt
SIDE = 64  # pixels of the grey face that it sees
MARGIN = 1.0  # side of the square that is cut, in heights of the face's points
CLASSIFIED_EVERY = 5  # frames; neighbours look alike


class EmotionClassifier:
    """A classifier of emotions in frames.

    path: a TorchScript file that maps grey faces (n, 1, 64, 64) in [-1, 1] to probabilities of CLASSES (n, 7).
    Errors: UnusableInput when it is no such classifier.
    """

    def __init__(self, path: Path):
        try:
            self.network = torch.jit.load(str(path), map_location="cpu").eval()
            assert self.network(torch.zeros(1, 1, SIDE, SIDE)).shape == (1, len(CLASSES))
        except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
            raise UnusableInput(f"{Path(path).name} is not an emotion classifier that this program can use.") from error

    @torch.no_grad()
    def probabilities(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Mean probabilities over the frames that show a face.

        frames: (height, width, 3) uint8 RGB each.
        Returns: (7,) in the order of CLASSES; NaN when no frame shows a face.
        """
        points, found = detect_landmarks(frames)
        faces = [_grey_face(frame, shape) for frame, shape, detected in zip(frames, points, found) if detected]
        if not faces:
            return np.full(len(CLASSES), np.nan)
        pixels = torch.from_numpy(np.stack(faces)).float()[:, None] / 127.5 - 1
        return self.network(pixels).mean(0).numpy()

    def classify(self, frames: Iterable[np.ndarray]) -> str:
        """The emotion of a clip, by every CLASSIFIED_EVERY-th frame; "" when none shows a face."""
        return self.name(frame for index, frame in enumerate(frames) if index % CLASSIFIED_EVERY == 0)

    def name(self, frames: Iterable[np.ndarray]) -> str:
        """The emotion of some frames; "" when none shows a face."""
        scores = self.probabilities(list(frames))
        return "" if np.isnan(scores).any() else CLASSES[int(scores.argmax())]


@dataclass(frozen=True)
class Asked:
    """What is asked of an avatar, to be named by a classifier.

    speeches: files that it says.
    seeds: of each.
    intensities: of each emotion; the first one's accuracy is the result.
    """

    speeches: Sequence[Path]
    seeds: Sequence[int] = (0,)
    intensities: Sequence[float] = (1.0,)


def emotion_accuracy(
    classifier: EmotionClassifier, pipeline: GMTalkerPipeline, avatar: AvatarLike, asked: Asked, real: Mapping[Path, str]
) -> dict:
    """Acc_emo: share of emotions, asked for at full weight, that the classifier names; contempt, which it lacks, is left out.

    real: real clips and their emotions, on which the classifier's own accuracy is measured.
    Returns: "emotion_accuracy", 0 to 1, and "emotions_named" by emotion, the names of all speeches and seeds; the same of each
        further intensity under "emotions_at"; "emotion_accuracy_of_real_clips" and "real_clips_named" where there are any.
    Source: docs/method.md section 4, "Acc_emo".
    """
    takes = [(read_speech(speech), seed) for speech in asked.speeches for seed in asked.seeds]

    def named(emotion: str, intensity: float) -> list[str]:
        wanted = {} if emotion == "neutral" else {emotion: 1.0}
        performances = (pipeline(wave, avatar, wanted, seed=seed, intensity=intensity) for wave, seed in takes)
        return [classifier.name(performance.every(CLASSIFIED_EVERY)) for performance in performances]

    emotions = [emotion for emotion in EMOTIONS if emotion in CLASSES]
    tables = [{emotion: named(emotion, intensity) for emotion in emotions} for intensity in asked.intensities]
    first, *others = ({"emotion_accuracy": _accuracy(table), "emotions_named": table} for table in tables)
    result = first | ({"emotions_at": {f"{at:g}": found for at, found in zip(asked.intensities[1:], others)}} if others else {})
    real_named = {path: classifier.classify(read_frames(path)) for path, emotion in real.items() if emotion in CLASSES}
    if real_named:
        right = [name == real[path] for path, name in real_named.items()]
        result["emotion_accuracy_of_real_clips"] = round(float(np.mean(right)), 3)
        result["real_clips_named"] = {f"{path.name} ({real[path]})": name for path, name in real_named.items()}
    return result


def _accuracy(table: Mapping[str, Sequence[str]]) -> float:
    """Mean over emotions of the share of takes that are named as what was asked for."""
    return round(float(np.mean([np.mean([name == emotion for name in names]) for emotion, names in table.items()])), 3)


def _grey_face(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE) uint8: the face of a frame, whose points (478, 3) are in pixels, in a square."""
    low, high = points[:FACE_POINTS, :2].min(0), points[:FACE_POINTS, :2].max(0)
    middle, side = (low + high) / 2, MARGIN * (high - low).max()
    zoom = SIDE / side
    matrix = np.array([[zoom, 0, SIDE / 2 - zoom * middle[0]], [0, zoom, SIDE / 2 - zoom * middle[1]]])
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    grey = cv2.GaussianBlur(grey, (0, 0), max(0.3, 0.5 / zoom))  # no finer than the small picture can show
    return cv2.warpAffine(grey, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
