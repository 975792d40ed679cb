"""An avatar from a video of one person who agreed to it; then it speaks.

python -m examples.train ME.mp4 "My name" [MINUTES] [SPEECH.wav]
"""

import sys
from pathlib import Path

from gmtalker import GMTalkerPipeline, SpeakRequest
from personalize.consent import Consent
from personalize.request import TrainRequest
from personalize.train import train_avatar

clip, name = Path(sys.argv[1]), sys.argv[2]
minutes = float(sys.argv[3]) if len(sys.argv) > 3 else None  # None: as long as the preset
speech = sys.argv[4] if len(sys.argv) > 4 else Path(__file__).parent.parent / "assets" / "speech" / "english.flac"

pipeline = GMTalkerPipeline.from_pretrained()
request = TrainRequest(name, [clip], Consent.given_now(name), preset="draft", minutes=minutes)
folder = train_avatar(request, lambda progress: print(progress.stage, progress.details(), end="\r"), pipeline)
print(f"{name} is ready: {folder}")

pipeline.speak(SpeakRequest(speech, name, emotion={"happy": 0.8}), Path(f"{clip.stem}-speaks.mp4"))
