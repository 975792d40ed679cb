"""The picture of eight emotions in README: an avatar's face amid a sentence, above real actors' where there are any.

python -m tools.emotion_faces --output docs/eight-emotions.jpg [--avatar A] [--real happy=clip.mp4 ...] [--intensity X]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from gmtalker.assets import SPEECH
from gmtalker.clock import EMOTIONS
from gmtalker.face.landmarks import CHIN, FOREHEAD
from gmtalker.face.tracking import cut, detect_landmarks
from gmtalker.media.video import read_frames
from gmtalker.media.video_writer import write_picture
from gmtalker.pipeline import GMTalkerPipeline

SIDE = 240  # pixels of a face
MARGIN, MIDDLE = 1.55, 0.5  # side of the cut square and height of the face's middle in it, in face heights and in sides
MOMENT = 60  # frame of the bundled speech: amid a vowel
REAL_MOMENT = 0.6  # of a real clip


def face_of(frame: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE, 3) the face in a frame."""
    points = detect_landmarks([frame])[0][0]
    top, chin = points[FOREHEAD, :2], points[CHIN, :2]
    side = MARGIN * float(np.linalg.norm(chin - top))
    middle = (top + chin) / 2
    return cut(frame, np.array([middle[0] - side / 2, middle[1] - MIDDLE * side, side]), SIDE)


def faces_of_avatar(avatar: str | None, intensity: float) -> dict[str, np.ndarray]:
    """The avatar's face at MOMENT of the bundled speech in each emotion."""
    pipeline, faces = GMTalkerPipeline.from_pretrained(), {}
    for emotion in EMOTIONS:
        performance = pipeline(SPEECH, avatar, {} if emotion == "neutral" else {emotion: 1.0}, intensity=intensity)
        moment = replace(performance.every(1), track=performance.track[slice(MOMENT, MOMENT + 1)])
        faces[emotion] = face_of(next(iter(moment)))
    return faces


def faces_of_clips(clips: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """A face of each real clip, by emotion."""
    found = {emotion: list(read_frames(clip)) for emotion, clip in clips.items()}
    return {emotion: face_of(frames[int(REAL_MOMENT * len(frames))]) for emotion, frames in found.items()}


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--avatar")
    parser.add_argument("--intensity", type=float, default=1.0)
    parser.add_argument("--real", action="append", default=[], metavar="happy=F.mp4")
    options = parser.parse_args()
    rows = [faces_of_avatar(options.avatar, options.intensity)]
    if options.real:
        rows.append(faces_of_clips({name: Path(path) for name, path in (text.split("=", 1) for text in options.real)}))
    lines = []
    for half in (EMOTIONS[:4], EMOTIONS[4:]):
        for faces in rows:
            row = [faces.get(emotion, np.full((SIDE, SIDE, 3), 255, np.uint8)).copy() for emotion in half]
            for emotion, face in zip(half, row):
                if faces is rows[0]:
                    place = (8, SIDE - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.6
                    cv2.putText(face, emotion, *place, (0, 0, 0), 4, cv2.LINE_AA)
                    cv2.putText(face, emotion, *place, (255, 255, 255), 1, cv2.LINE_AA)
            lines.append(np.concatenate(row, axis=1))
    write_picture(options.output, np.concatenate(lines))


if __name__ == "__main__":
    main()
