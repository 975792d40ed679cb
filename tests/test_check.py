"""The report on a clip: each fault is named with what to do about it, and good clips pass."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gmtalker.errors import UnusableVideo
from personalize.check import check_clip
from personalize.check_sound import synchrony
from tests.media import babble, bundled_clip, ffmpeg, real_clip, write_clip

ROOT = Path(__file__).resolve().parent.parent
SPEAKING, SILENT = bundled_clip("preview.mp4"), bundled_clip("idle.mp4")
# What training and the page need, and a check does not; matplotlib comes with MediaPipe, torch with the face model.
HEAVY = ("accelerate", "peft", "diffusers", "transformers", "sklearn", "skimage", "moviepy", "gradio", "huggingface_hub")


def face(height, left=0.0):
    """Points of a made-up face, 80 wide for 100 high."""
    return np.array([(left, 10.0), (left + 0.8 * height, 10.0), (left, 10.0 + height)])


def squares(seconds, size=(256, 256), rate=5):
    """Pictures of sharp squares: the made-up detector finds the faces, the sharpness is measured on these."""
    cells = np.random.default_rng(0).integers(0, 255, (32, 32, 1), dtype=np.uint8).repeat(3, axis=2)
    picture = cells.repeat(16, axis=0).repeat(16, axis=1)[: size[1], : size[0]]
    return (picture for _ in range(round(seconds * rate)))


def make(path, seconds=24, size=(256, 256), sound=True):
    return write_clip(path, squares(seconds, size), rate=5, speech=babble(seconds) if sound else None, keyframes=500)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clips") / "good clip.mp4")


def statuses(report):
    return {line.name: line.status for line in report.lines}


def advice(report, name):
    return next(line.advice for line in report.lines if line.name == name)


class Sequence:
    """A detector that gives a list of faces for each picture in turn, the last one again and again."""

    def __init__(self, *faces):
        self.faces, self.calls = faces, 0

    def __call__(self, frame):
        self.calls += 1
        return self.faces[min(self.calls, len(self.faces)) - 1]


def test_a_good_clip_passes_every_line(tmp_path):
    report = check_clip(make(tmp_path / "good clip.mp4", 61), Sequence([face(160)]))
    assert set(statuses(report).values()) == {"pass"} and not report.failed
    assert list(statuses(report)) == [
        "readable", "length", "size", "face found", "one person", "face size", "sharpness", "light", "sound", "loudness",
        "noise", "used",
    ]  # fmt: skip
    assert all(not line.advice for line in report.lines)
    read = json.loads(json.dumps(report.to_json()))
    assert read["clip"] == "good clip.mp4" and read["failed"] is False
    assert set(read["lines"][0]) == {"name", "status", "value", "advice"}


@pytest.mark.parametrize("seconds,status", [(1, "fail"), (2.8, "fail"), (3.2, "warn"), (49, "warn"), (51, "pass")])
def test_length(tmp_path, seconds, status):
    report = check_clip(make(tmp_path / "clip.mp4", seconds, (64, 64)), Sequence([face(160)]))
    assert statuses(report)["length"] == status and bool(advice(report, "length")) == (status != "pass")


@pytest.mark.parametrize("size,status", [((400, 100), "fail"), ((240, 400), "warn"), ((256, 300), "pass")])
def test_size_is_that_of_the_shorter_side(tmp_path, size, status):
    report = check_clip(make(tmp_path / "clip.mp4", 1, size, sound=False), Sequence([face(60)]))
    assert statuses(report)["size"] == status


@pytest.mark.parametrize("missing,status", [(0, "pass"), (4, "pass"), (10, "warn"), (30, "fail"), (48, "fail")])
def test_pictures_without_a_face(clip, missing, status):
    detector = Sequence(*[[]] * missing, [face(160)])
    report = check_clip(clip, detector)
    assert detector.calls == 48
    assert statuses(report)["face found"] == status
    if missing == 10:
        assert "Second 0 shows no face" in advice(report, "face found")
    if missing == 48:
        assert "one person" not in statuses(report)


def test_two_people_fail_and_the_second_is_named(clip):
    alone, together = [face(160)], [face(80, 170), face(160)]
    report = check_clip(clip, Sequence(*[alone] * 24, together))
    assert report.failed and statuses(report)["one person"] == "fail"
    assert advice(report, "one person") == "Second 12 shows 2 faces. Please film exactly one person."
    assert statuses(check_clip(clip, Sequence(*[together] * 4, alone)))["one person"] == "pass"  # someone passing by
    assert statuses(check_clip(clip, Sequence(alone + [face(60, 170)])))["one person"] == "pass"  # a poster on the wall


@pytest.mark.parametrize("height,status", [(50, "fail"), (80, "warn"), (120, "pass")])
def test_face_size(clip, height, status):
    assert statuses(check_clip(clip, Sequence([face(height)])))["face size"] == status


def test_a_silent_clip_is_warned_about_not_refused(tmp_path):
    report = check_clip(make(tmp_path / "mute.mp4", sound=False), Sequence([face(160)]))
    assert statuses(report)["sound"] == "warn" and not report.failed
    assert advice(report, "sound") == "Silent clip: the picture will be trained, not the speaking style."


def test_a_blurred_face_is_warned_about(clip, tmp_path):
    ffmpeg("-i", clip, "-vf", "gblur=sigma=6", "-c:a", "copy", tmp_path / "blurred.mp4")
    report = check_clip(tmp_path / "blurred.mp4", Sequence([face(160)]))
    assert statuses(report)["sharpness"] == "warn" and not report.failed


@pytest.mark.parametrize("left", [-100, 200, -500, 500])
def test_a_face_that_reaches_out_of_the_picture_is_measured_inside_it(clip, left):
    assert "sharpness" in statuses(check_clip(clip, Sequence([face(240, left)])))


def test_a_dark_face_is_warned_about(tmp_path):
    dark = (picture // 8 for picture in squares(4))
    report = check_clip(write_clip(tmp_path / "dark.mp4", dark, rate=5, speech=babble(4), keyframes=500), Sequence([face(160)]))
    assert statuses(report)["light"] == "warn" and "dark" in advice(report, "light")


@pytest.mark.parametrize("level,noise,line", [(0.03, 0.0, "loudness"), (1.0, 0.3, "noise")])
def test_a_quiet_voice_and_a_noisy_room_are_warned_about(tmp_path, level, noise, line):
    sound = np.where(np.arange(4 * 16000) % 16000 < 12000, babble(4), 0)  # with pauses, in which the room is heard
    sound = level * sound + noise * np.random.default_rng(0).normal(0, 1, len(sound))
    report = check_clip(write_clip(tmp_path / "clip.mp4", squares(4), rate=5, speech=sound, keyframes=500), Sequence([face(160)]))
    assert statuses(report)[line] == "warn" and not report.failed


def test_a_cut_and_a_face_that_says_nothing_are_warned_about(tmp_path):
    still = "[0:v]trim=end_frame=1,loop=100:1:0,setpts=N/25/TB,scale=256:256[a]"
    still += ";[1:v]trim=end=4,setpts=PTS-STARTPTS,scale=256:256,negate[b]"  # both show one person in one room
    ffmpeg(
        "-i", SPEAKING, "-i", SILENT, "-filter_complex", f"{still};[a]fps=25[c];[b]fps=25[d];[c][d]concat=n=2:v=1:a=0",
        "-an", tmp_path / "cut.mp4",
    )  # fmt: skip
    assert statuses(check_clip(tmp_path / "cut.mp4"))["cuts"] == "warn"
    ffmpeg("-i", tmp_path / "cut.mp4", "-t", 3.5, tmp_path / "still.mp4")
    found = statuses(check_clip(tmp_path / "still.mp4"))
    assert found["lips"] == found["head"] == found["blinks"] == "warn" and found["cuts"] == "pass"


def test_a_long_clip_is_looked_at_sixty_times(tmp_path):
    detector = Sequence([face(160)])
    check_clip(write_clip(tmp_path / "long.mp4", squares(200, (64, 64), 1), rate=1, keyframes=500), detector)
    assert detector.calls == 60


def test_a_clip_cut_short_is_unusable(clip, tmp_path):
    ffmpeg("-i", clip, "-c", "copy", "-movflags", "+faststart", tmp_path / "in.mp4")
    data = (tmp_path / "in.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnusableVideo, match="cut.mp4"):
        check_clip(tmp_path / "cut.mp4", Sequence([face(160)]))


def test_no_face_is_found_where_there_is_none(clip):
    report = check_clip(clip)
    assert report.failed and statuses(report)["face found"] == "fail"


def test_the_bundled_clips_pass():
    speaking, silent = map(check_clip, (SPEAKING, SILENT))
    assert not speaking.failed and not silent.failed
    assert {line.name for line in speaking.lines if line.status != "pass"} == {"length"}
    assert {line.name for line in silent.lines if line.status != "pass"} - {"head"} == {"length", "sound"}
    assert speaking.overlay.shape == (180, 4 * 180, 3) and speaking.seconds == 5.0 and speaking.reading_seconds > 0


def test_a_pipeline_tells_whether_sound_and_lips_are_together(tiny_pipeline, monkeypatch):
    lags = iter((0.2, 2.0, -3.0))
    monkeypatch.setattr("personalize.check_sound.sound_lag", lambda *arguments: next(lags))
    lines = []
    for _ in range(3):
        report = check_clip(SPEAKING, in_step=partial(synchrony, stages=tiny_pipeline.stages))
        lines += [line for line in report.lines if line.name == "sound with lips"]
    assert [line.value for line in lines] == ["together", "sound 80 ms late", "sound 120 ms early"]
    assert [line.status for line in lines] == ["pass", "warn", "warn"] and "corrects" in lines[1].advice


def test_a_check_needs_no_library_of_training_or_of_the_page():
    """The command, so that nothing it imports on the way is missed."""
    script = (
        "import sys\nfrom personalize.__main__ import main\n"
        f"code = main(['check', {str(SILENT)!r}])\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\nsys.exit(code)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]" and "face found" in done.stdout


def test_real_clips_pass():
    clips = [real_clip(name) for name in ("av/andrew1.mp4", "av/wda60.mp4", "grid_s1/bbaf2n.mp4")]
    for report in map(check_clip, clips):
        assert not report.failed
        assert {line.name for line in report.lines if line.status != "pass"} <= {"length"}


def test_two_people_side_by_side_fail(tmp_path):
    together = "[0:v]scale=288:288[a];[a][1:v]hstack"
    ffmpeg("-i", SPEAKING, "-i", SILENT, "-filter_complex", together, tmp_path / "two.mp4")
    report = check_clip(tmp_path / "two.mp4")
    assert "Second 0 shows 2 faces" in advice(report, "one person") and report.failed


def test_a_face_out_of_focus_is_warned_about(tmp_path):
    ffmpeg("-i", SPEAKING, "-vf", "gblur=sigma=3", "-c:a", "copy", tmp_path / "blurred.mp4")
    assert statuses(check_clip(tmp_path / "blurred.mp4"))["sharpness"] == "warn"
