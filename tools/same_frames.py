"""Whether two checkouts make the same frames: six requests of the bundled avatar by the command line, picture by picture.

python tools/same_frames.py OTHER_CHECKOUT [--clip F]

For a change that should change nothing. Compare on one machine: another processor may round otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg

HERE = Path(__file__).resolve().parent.parent
SECONDS = "3"  # of speech
TIMELINE = '[{"time": 0.0, "emotion": {"happy": 0.8}}, {"time": 1.5, "emotion": {"sad": 1.0}}]'
SPEAK = {
    "plain": [],
    "mixed emotion": ["--emotion", "happy=0.5,surprised=0.3"],
    "timeline": ["--timeline", TIMELINE],
    "intensity 2": ["--emotion", "angry=1", "--intensity", "2"],
    "full frame": ["--full-frame"],
}


def frames_of(checkout: Path, arguments: list[str], home: Path) -> str:
    """Run one command of a checkout with an empty workspace.

    arguments: of `python -m gmtalker`, without --output.
    home: the workspace.
    Returns: SHA-256 of the hashes of all its pictures and sound.
    Errors: CalledProcessError when the command fails.
    """
    video = home / "video.mp4"
    # One thread: sums of several threads may round otherwise from run to run.
    environment = os.environ | {"GMTALKER_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "gmtalker", *arguments, "--output", str(video)]
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
    hashes = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        str(video),
        "-map",
        "0:v",
        "-map",
        "0:a?",
        "-f",
        "framehash",
        "-",
    ]
    return hashlib.sha256(subprocess.run(hashes, check=True, capture_output=True).stdout).hexdigest()


def main() -> int:
    """Compare. Returns 0 when all frames are equal, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="a checkout to compare this one with")
    parser.add_argument("--clip", type=Path, default=HERE / "assets/avatars/grid-s1/preview.mp4", help="a face to reenact")
    options = parser.parse_args()
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        speech = Path(folder) / "speech.flac"
        cut = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(HERE / "assets/speech/english.flac"), "-t", SECONDS]
        subprocess.run([*cut, str(speech)], check=True)
        requests = {name: ["speak", "--speech", str(speech), *given] for name, given in SPEAK.items()}
        requests["reenact"] = ["reenact", "--video", str(options.clip.resolve())]
        for number, (name, arguments) in enumerate(requests.items()):
            homes = [Path(folder) / f"{number}-{side}" for side in ("this", "other")]
            for home in homes:
                home.mkdir()
            this, other = (frames_of(place, arguments, home) for place, home in zip((HERE, options.other.resolve()), homes))
            different += this != other
            print(f"{name:14} {'the same' if this == other else 'DIFFERENT'}  {this[:12]}  {other[:12]}", flush=True)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
