"""Finished videos side by side, to compare takes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path


def side_by_side(videos: Sequence[Path], output: Path) -> Path:
    """Join videos of equal length and height left to right in one mp4, with the sound of the first.

    Returns: output.
    """
    from moviepy import VideoFileClip, clips_array  # late: it takes a second to import

    with ExitStack() as open_clips:
        clips = [open_clips.enter_context(VideoFileClip(str(video))) for video in videos]
        row = clips_array([clips]).with_audio(clips[0].audio)
        options = {"codec": "libx264", "audio_codec": "aac", "preset": "veryfast", "ffmpeg_params": ["-crf", "20"]}
        # Its sound passes through a file, which moviepy would put into the working directory.
        row.write_videofile(str(output), logger=None, temp_audiofile=str(Path(output).with_suffix(".m4a")), **options)
    return Path(output)
