"""What an avatar shows of itself: poster, strip of its eight emotions, a short preview, the model card."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from gmtalker.audio import read_speech
from gmtalker.avatar import load_avatar
from gmtalker.models.mel import SAMPLE_RATE
from gmtalker.pipeline import GENERIC, GMTalkerPipeline
from gmtalker.tracks import EMOTIONS
from gmtalker.video import write_picture

PREVIEW_SPEECH = GENERIC.parent / "speech"
PREVIEW_SECONDS = 5


def write_card(folder: Path, pipeline: GMTalkerPipeline, credit: str = "") -> None:
    """poster.jpg, emotions.jpg, preview.mp4 and README.md of the avatar in `folder`. credit: a line on whose footage it is."""
    avatar = load_avatar(folder)
    write_picture(folder / "poster.jpg", pipeline.still(avatar))
    write_picture(folder / "emotions.jpg", emotion_strip(pipeline, avatar))
    speeches = sorted(PREVIEW_SPEECH.glob("*.flac")) + sorted(PREVIEW_SPEECH.glob("*.ogg"))
    if speeches:
        english = next((path for path in speeches if path.stem.startswith("english")), speeches[0])
        speech = read_speech(english)[: PREVIEW_SECONDS * SAMPLE_RATE]
        pipeline.film(pipeline(speech, avatar, emotion={"happy": 0.6}), folder / "preview.mp4")
    (folder / "README.md").write_text(_card(avatar.card, credit), encoding="utf-8")


def emotion_strip(pipeline: GMTalkerPipeline, avatar) -> np.ndarray:
    """The avatar's still in each of the eight emotions, side by side, named: (height, 8 * width, 3) uint8."""
    faces = []
    for emotion in EMOTIONS:
        face = pipeline.still(avatar, {emotion: 1.0} if emotion != "neutral" else {}).copy()
        cv2.putText(face, emotion, (8, face.shape[0] - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.putText(face, emotion, (8, face.shape[0] - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
        faces.append(face)
    return np.concatenate(faces, axis=1)


def _card(card: dict, credit: str) -> str:
    measures, consent = card["measures"], card["consent"]
    rows = [f"| {name.replace('_', ' ')} | {value} |" for name, value in measures.items()]
    lines = [
        "---",
        "library_name: gmtalker-studio",
        "tags: [talking-head, avatar, ai-generated]",
        "---",
        f"# {card['name']}",
        "",
        "![The avatar in eight emotions](emotions.jpg)",
        "",
        f"An avatar of GMTalker Studio, trained for {card['training']['minutes']:g} minutes "
        f"on {card['source']['seconds']:g} seconds of video.",
        "",
        *([credit, ""] if credit else []),
        f"Consent: {json.dumps(consent['who'], ensure_ascii=False)}, {consent['when']}: “{consent['words']}”",
        "",
        "| on held-out frames | |",
        "|---|---|",
        *rows,
        "",
        "Videos made with this avatar are not recordings of the person. Say so wherever you show them.",
    ]
    return "\n".join(lines) + "\n"
