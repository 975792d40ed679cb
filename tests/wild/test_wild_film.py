"""What the check of films rests on: words in a picture, and who is seen. The films themselves stand in wild_cases.py."""

from __future__ import annotations

import cv2
import numpy as np
from media import bundled_clip, ffmpeg, real_clip

from personalize.check import Report, check_clip, check_clips
from personalize.examined import letters_in_a_row

SPEAKING, SILENT = bundled_clip("preview.mp4"), bundled_clip("idle.mp4")


def told(report: Report, name: str):
    """The line of that name; None where the report has none."""
    return next((line for line in report.lines if line.name == name), None)


def test_letters_are_counted_on_one_line():
    picture = np.full((512, 512, 3), 90, np.uint8)
    assert letters_in_a_row(picture) == 0
    cv2.putText(picture, "HELLO WORLD", (40, 300), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 2)
    assert letters_in_a_row(picture) >= 8
    assert letters_in_a_row(np.zeros((8, 8, 3), np.uint8)) == 0


def test_another_person_after_a_cut_or_in_another_clip_is_told(tmp_path):
    one, other = real_clip("av/cnn71.mp4"), real_clip("av/aoc.mp4")
    joined = "[0:v]trim=end=5,scale=256:256,setsar=1[a];[1:v]trim=end=5,scale=256:256,setsar=1[b];[a][b]concat=n=2:v=1"
    ffmpeg("-i", one, "-i", other, "-filter_complex", joined, "-an", "-c:v", "libx264", "-crf", 16, tmp_path / "two.mp4")
    line = told(check_clip(tmp_path / "two.mp4"), "same person")
    assert line.status == "fail" and "from second 5" in line.value
    for number, clip in enumerate((real_clip("av/menendez.mp4"), real_clip("av/german20.mp4"))):
        ffmpeg("-i", clip, "-t", 4, "-an", "-c:v", "libx264", "-crf", 16, tmp_path / f"{number}.mp4")
    first, second = check_clips([tmp_path / "0.mp4", tmp_path / "1.mp4"])
    assert told(first, "same person") is None and told(second, "same person").status in ("warn", "fail")


def test_two_clips_of_one_person_pass(tmp_path):
    first, second = check_clips([SPEAKING, SILENT])
    assert told(second, "same person").status == "pass" and not first.failed
