"""The bundled avatar says a speech, mostly happy, and a video of it is written.

python -m examples.speak [SPEECH.wav] [OUTPUT.mp4]
"""

import sys
from pathlib import Path

from gmtalker import GMTalkerPipeline, SpeakRequest

speech = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "assets" / "speech" / "english.flac"
output = Path(sys.argv[2] if len(sys.argv) > 2 else "speak.mp4")

pipeline = GMTalkerPipeline.from_pretrained()
request = SpeakRequest(speech, emotion={"happy": 0.7, "surprised": 0.2}, seed=0)
pipeline.speak(request, output, on_progress=lambda progress: print(f"{progress.stage} {progress.stage_percent:.0f} %", end="\r"))
print(f"{output}, and how it was made: {output.with_suffix('.request.json')}")
