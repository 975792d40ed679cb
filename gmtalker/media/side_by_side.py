"""Finished clips put together: takes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path


def side_by_side(videos: Sequence[Path], output: Path) -> Path:
    """One mp4 of several, left to right, with the sound of the first; they are as long as each other and equally high."""
    from moviepy import VideoFileClip, clips_array  # late: it takes a second to import

    with ExitStack() as open_clips:
        clips = [open_clips.enter_context(VideoFileClip(str(video))) for video in videos]
        row = clips_array([clips]).with_audio(clips[0].audio)
        options = {"codec": "libx264", "audio_codec": "aac", "preset": "veryfast", "ffmpeg_params": ["-crf", "20"]}
        # Its sound passes through a file, which moviepy would lay into the folder it was started from.
        row.write_videofile(str(output), logger=None, temp_audiofile=str(Path(output).with_suffix(".m4a")), **options)
    return Path(output)
