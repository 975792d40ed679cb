"""Acc_emo: is the emotion that was asked for the one that a classifier, which training never saw, names (method section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from gmtalker.avatars.avatar import Avatar
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.face.tracking import detect_landmarks
from gmtalker.media.audio import read_speech
from gmtalker.media.video import read_frames
from gmtalker.pipeline import GMTalkerPipeline

JUDGED = ("angry", "disgusted", "fear", "happy", "sad", "surprised", "neutral")  # what the classifier can say, in its order
SIDE = 64  # pixels of the grey face it sees
MARGIN = 1.0  # side of the square that is cut, in heights of the face's points
EVERY = 5  # frames; neighbours look alike


class EmotionClassifier:
    """A TorchScript classifier: (n, 1, 64, 64) grey faces in [-1, 1] to probabilities of JUDGED."""

    def __init__(self, path: Path):
        """Errors: UnusableInput when the file is no such classifier."""
        try:
            self.network = torch.jit.load(str(path), map_location="cpu").eval()
            assert self.network(torch.zeros(1, 1, SIDE, SIDE)).shape == (1, len(JUDGED))
        except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
            raise UnusableInput(f"{Path(path).name} is not an emotion classifier that this program can ask.") from error

    @torch.no_grad()
    def probabilities(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """(7,) mean over the frames (height, width, 3) uint8 that show a face; NaN when none does."""
        points, found = detect_landmarks(frames)
        faces = [_face(frame, shape) for frame, shape, seen in zip(frames, points, found) if seen]
        if not faces:
            return np.full(len(JUDGED), np.nan)
        seen = torch.from_numpy(np.stack(faces)).float()[:, None] / 127.5 - 1
        return self.network(seen).mean(0).numpy()

    def names(self, frames: Iterable[np.ndarray]) -> str:
        """The emotion of a clip, judged on every EVERY-th frame; "" when no face is seen."""
        some = [frame for index, frame in enumerate(frames) if index % EVERY == 0]
        scores = self.probabilities(some)
        return "" if np.isnan(scores).any() else JUDGED[int(scores.argmax())]


def emotion_accuracy(
    judge: EmotionClassifier, pipeline: GMTalkerPipeline, avatar: Avatar, speech: Path, real: Mapping[Path, str]
) -> dict:
    """What the judge calls the avatar's videos of every emotion at full weight, and real clips with a known emotion."""
    waveform = read_speech(speech)
    wanted = [emotion for emotion in EMOTIONS if emotion in JUDGED]  # it has no word for contempt
    made = {
        emotion: judge.names(pipeline(waveform, avatar, emotion={} if emotion == "neutral" else {emotion: 1.0}))
        for emotion in wanted
    }
    result = {
        "emotion_accuracy": round(float(np.mean([made[emotion] == emotion for emotion in wanted])), 3),
        "emotions_named": made,
    }
    judged = {path: judge.names(read_frames(path)) for path, emotion in real.items() if emotion in JUDGED}
    if judged:
        right = [name == real[path] for path, name in judged.items()]
        result["emotion_accuracy_of_real_clips"] = round(float(np.mean(right)), 3)
        result["real_clips_named"] = {f"{path.name} ({real[path]})": name for path, name in judged.items()}
    return result


def _face(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(64, 64) uint8: the face in a square."""
    low, high = points[:468, :2].min(0), points[:468, :2].max(0)
    middle, side = (low + high) / 2, MARGIN * (high - low).max()
    zoom = SIDE / side
    matrix = np.array([[zoom, 0, SIDE / 2 - zoom * middle[0]], [0, zoom, SIDE / 2 - zoom * middle[1]]])
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    grey = cv2.GaussianBlur(grey, (0, 0), max(0.3, 0.5 / zoom))  # as many pixels as the small picture has
    return cv2.warpAffine(grey, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
