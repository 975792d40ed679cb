"""An avatar from a video of one person who agreed to it; then it speaks.

python examples/train.py ME.mp4 "My name" [MINUTES]
"""

import sys
from pathlib import Path

from gmtalker import GMTalkerPipeline, SpeakRequest
from personalize.consent import Consent
from personalize.request import TrainRequest
from personalize.train import train_avatar

clip, name = Path(sys.argv[1]), sys.argv[2]
minutes = float(sys.argv[3]) if len(sys.argv) > 3 else None  # None: as long as the preset

pipeline = GMTalkerPipeline.from_pretrained()
request = TrainRequest(name, [clip], Consent.given_now(name), preset="draft", minutes=minutes)
folder = train_avatar(request, lambda progress: print(progress.stage, progress.details(), end="\r"), pipeline)
print(f"{name} is ready: {folder}")

speech = Path(__file__).parent.parent / "assets" / "speech" / "english.flac"
pipeline.speak(SpeakRequest(speech, name, emotion={"happy": 0.8}), Path(f"{clip.stem}-speaks.mp4"))
