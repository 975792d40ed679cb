"""An emotion that changes while the avatar speaks; frames and tracks are used as they come, no video is written.

python -m examples.timeline [SPEECH.wav]
"""

import sys
from pathlib import Path

from gmtalker import EmotionKey, GMTalkerPipeline

speech = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "assets" / "speech" / "english.flac"
keys = [EmotionKey(0.0, {"happy": 0.8}), EmotionKey(2.0, {"happy": 0.8}), EmotionKey(3.0, {"sad": 1.0})]

pipeline = GMTalkerPipeline.from_pretrained()
performance = pipeline(speech, timeline=keys, seed=0)
print(f"{len(performance)} frames; {performance.weights.weights.shape[0]} rows of emotion weights")
print(f"the head turns by {performance.track.motion.rotation.std(0).rad2deg().tolist()} degrees (yaw, pitch, roll)")
for number, frame in enumerate(performance):  # (height, width, 3) uint8 RGB, 25 a second
    if number == 24:
        print(f"after one second: {frame.shape}, mean brightness {frame.mean():.0f} of 255")
        break
