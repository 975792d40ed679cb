"""Films of the kinds that bug reports tell of, made of the bundled clips: what the report says; of a good one, nothing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from media import bundled_clip, ffmpeg, real_clip, write_clip

from gmtalker.media.video import read_frames
from personalize.check import Report, check_clip, check_clips
from personalize.examined import letters_in_a_row

SPEAKING, SILENT = bundled_clip("preview.mp4"), bundled_clip("idle.mp4")


def filtered(tmp_path: Path, effect: str, source: Path = SPEAKING, *more: object) -> Path:
    """A film with an effect of ffmpeg's filters."""
    ffmpeg("-i", source, "-vf", effect, "-c:v", "libx264", "-crf", 14, *more, tmp_path / "film.mp4")
    return tmp_path / "film.mp4"


def painted(tmp_path: Path, paint, source: Path = SPEAKING) -> Path:
    """A film whose frames went through a function of the frame and its number."""
    return write_clip(tmp_path / "film.mp4", (paint(frame.copy(), number) for number, frame in enumerate(read_frames(source))))


def told(report: Report, name: str):
    """The line of that name; None where the report has none."""
    return next((line for line in report.lines if line.name == name), None)


FAULTS = (
    "same person", "mouth", "pictures a second", "movement", "upright", "framing", "colour", "light from one side",
    "changing light", "words in the picture", "camera and background", "speed", "eyes", "muted parts",
)  # fmt: skip


@pytest.mark.parametrize("clip", [SPEAKING, SILENT])
def test_a_good_clip_has_none_of_these_lines(clip):
    report = check_clip(clip)
    assert [line for line in report.lines if line.name in FAULTS] == []


def test_a_grey_film_is_told(tmp_path):
    assert told(check_clip(filtered(tmp_path, "hue=s=0")), "colour").value == "grey"


def test_light_from_one_side_is_told(tmp_path):
    def dark_half(frame, number):
        shade = np.interp(np.arange(frame.shape[1]), [0.44 * frame.shape[1], 0.54 * frame.shape[1]], [0.3, 1.0])
        return (frame * shade[None, :, None]).astype(np.uint8)

    line = told(check_clip(painted(tmp_path, dark_half)), "light from one side")
    assert line.status == "warn" and "dark" in line.advice


def test_light_that_pumps_is_told(tmp_path):
    def pump(frame, number):
        return np.clip(frame * (0.85 + 0.3 * np.sin(number / 12)), 0, 255).astype(np.uint8)

    assert told(check_clip(painted(tmp_path, pump)), "changing light").status == "warn"


def test_five_pictures_a_second_are_told_whatever_the_file_says(tmp_path):
    assert told(check_clip(filtered(tmp_path, "fps=5")), "pictures a second").value == "5"
    assert told(check_clip(filtered(tmp_path, "fps=5,fps=25")), "pictures a second").value == "5"


def test_a_frozen_end_is_told_with_its_second(tmp_path):
    line = told(check_clip(filtered(tmp_path, "trim=end=3,tpad=stop_mode=clone:stop_duration=2")), "movement")
    assert line.status == "warn" and "From second 3" in line.advice
    still = told(check_clip(filtered(tmp_path, "trim=end_frame=1,tpad=stop_mode=clone:stop_duration=5")), "movement")
    assert still.status == "fail"


def test_a_covered_mouth_is_told(tmp_path):
    def masked(frame, number):
        size = len(frame)
        cv2.rectangle(frame, (int(0.34 * size), int(0.56 * size)), (int(0.7 * size), int(0.82 * size)), (150, 190, 205), -1)
        return frame

    report = check_clip(painted(tmp_path, masked))
    assert told(report, "mouth").status == "fail" and report.failed
    some = check_clip(painted(tmp_path, lambda frame, number: masked(frame, number) if 40 < number < 80 else frame))
    assert told(some, "mouth").status == "warn" and not some.failed


@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 255, 0), (0, 0, 0)])
def test_words_near_the_head_are_told(tmp_path, colour):
    def subtitled(frame, number):
        scale = len(frame) / 480
        cv2.putText(
            frame, "so that is what we do", (int(8 * scale), int(440 * scale)), cv2.FONT_HERSHEY_SIMPLEX, 1.1 * scale, colour, 2
        )
        return frame

    line = told(check_clip(painted(tmp_path, subtitled)), "words in the picture")
    assert line.status == "warn" and "subtitles" in line.advice


def test_letters_are_counted_on_one_line():
    picture = np.full((512, 512, 3), 90, np.uint8)
    assert letters_in_a_row(picture) == 0
    cv2.putText(picture, "HELLO WORLD", (40, 300), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 2)
    assert letters_in_a_row(picture) >= 8
    assert letters_in_a_row(np.zeros((8, 8, 3), np.uint8)) == 0


def test_hair_that_is_cut_off_is_told(tmp_path):
    line = told(check_clip(filtered(tmp_path, "crop=0.5*iw:0.5*ih:0.25*iw:0.31*ih,scale=400:400")), "framing")
    assert line is not None and "room above" in line.advice


def test_a_camera_that_moves_is_told(tmp_path):
    moving = "scale=420:420,crop=256:256:82+60*sin(t*3):60+40*cos(t*2.3)"
    assert told(
        check_clip(filtered(tmp_path, f"pad=2*iw:2*ih:iw/2:ih/2:0x336699,noise=alls=60:allf=0,{moving}")), "camera and background"
    )


def test_a_tilted_face_is_told(tmp_path):
    line = told(check_clip(filtered(tmp_path, "rotate=0.5:fillcolor=gray")), "upright")
    assert line.status == "warn" and "tilted" in line.value


def test_a_face_on_its_head_is_turned_and_that_is_told(tmp_path):
    report = check_clip(filtered(tmp_path, "hflip,vflip"))
    assert told(report, "upright").value == "turned by 180° to the left"
    assert report.overlay is not None and told(report, "face found").status == "pass"


def test_cuts_are_counted_and_a_flash_is_none(tmp_path):
    def cut(frame, number):
        return 255 - frame if number >= 60 else frame

    assert told(check_clip(painted(tmp_path, cut, SILENT)), "cuts").value == "1, at second 2"
    flash = check_clip(painted(tmp_path, lambda frame, number: np.full_like(frame, 255) if number == 60 else frame, SILENT))
    assert told(flash, "cuts").status == "pass"


def test_a_muted_half_is_told_in_seconds(tmp_path):
    ffmpeg("-i", SPEAKING, "-af", "volume=0:enable='lt(t,2.5)'", "-c:v", "copy", "-c:a", "aac", tmp_path / "film.mp4")
    line = told(check_clip(tmp_path / "film.mp4"), "muted parts")
    assert line.value == "2 of 5 seconds hold no sound" or line.value == "3 of 5 seconds hold no sound"


def test_slow_motion_is_told(tmp_path):
    assert told(check_clip(filtered(tmp_path, "fps=120", SILENT, "-an")), "speed").value == "it looks like slow motion"


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
