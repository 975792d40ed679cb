"""evaluate, emotions and bench from the command line: what they measure, and what has moved to python -m personalize."""

from __future__ import annotations

import json

import pytest
from media import bundled_clip

from gmtalker.__main__ import main


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # argparse ends the program itself
        return stopped.code


def one_sentence(capsys) -> str:
    text = capsys.readouterr().err.strip()
    assert text and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("command", "now"),
    [
        (["emotions", "--adapt", "2"], "adapt"),
        (["emotions", "--adapt", "0", "--data", "D", "--leave-out", "p"], "adapt"),
        (["bench", "--heads", "a.mp4", "b.mp4"], "heads"),
        (["bench", "--heads", "a.mp4", "--minutes", "3", "--device", "cpu"], "heads"),
        (["evaluate", "--everybody", "--dataset", "mead", "--root", "R"], "set"),
        (["evaluate", "--everybody", "--dataset", "mead", "--root", "R", "--minutes", "2", "--i-have-consent"], "set"),
    ],
)
def test_what_trains_avatars_has_moved(command, now, tmp_path, capsys):
    assert run(*command, "--json", tmp_path / "out.json") == 2
    assert f"python -m personalize benchmark {now}" in one_sentence(capsys)
    assert not list(tmp_path.iterdir())


def test_lips_of_other_speeches_have_moved(tmp_path, capsys):
    assert run("emotions", "--json", tmp_path / "out.json", "--speech", "a.wav") == 2
    assert "python -m gmtalker lips --speeches" in one_sentence(capsys)


@pytest.mark.parametrize("command", ["evaluate", "emotions", "bench"])
def test_what_has_moved_is_not_offered(command, capsys):
    assert run(command, "--help") == 0
    offered = capsys.readouterr().out
    assert not any(option in offered for option in ("--everybody", "--adapt", "--heads", "--minutes", "--i-have-consent"))


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["evaluate"], "Say what to measure on"),
        (["evaluate", "--video", "a.mp4", "--dataset", "mead", "--root", "R"], "Say what to measure on"),
        (["evaluate", "--dataset", "mead"], "Say what to measure on"),
        (["evaluate", "--video", "a.mp4", "--start", "-1"], "--start"),
        (["evaluate", "--video", "a.mp4", "--labelled", "b.mp4=happy"], "--judge"),
        (["evaluate", "--video", "a.mp4", "--judge", "j.pt", "--labelled", "b.mp4=glad"], "CLIP=EMOTION"),
        (["bench", "--long", "-1"], "--long"),
        (["bench", "--device", "toaster"], "toaster"),
    ],
)
def test_wrong_usage_is_one_sentence(command, sentence, tmp_path, capsys):
    assert run(*command, "--json", tmp_path / "out.json") == 2
    assert sentence in one_sentence(capsys)


def test_an_avatar_is_measured_on_a_video_of_its_person(home, tmp_path, capsys):
    """The bundled avatar on the last second of its own preview: the figures, their table, and the traces of the lips."""
    output, pictures = tmp_path / "evaluate.json", tmp_path / "pictures"
    options = ["--start", "4", "--device", "cpu", "--pictures", pictures]
    assert run("evaluate", "--video", bundled_clip("preview.mp4"), "--json", output, *options) == 0
    measures = json.loads(output.read_text())
    assert (measures["avatar"], measures["videos"], measures["frames"], measures["start_seconds"]) == ("GRID s1", 1, 25, 4.0)
    assert 20 < measures["psnr"] < 50 and 0.6 < measures["ssim"] <= 1
    assert 0 < measures["face_landmark_distance"] < 10 and -1 <= measures["lip_correlation"] <= 1
    assert abs(measures["lip_best_offset_ms"]) == 40 * abs(measures["lip_best_offset_frames"]) <= 200
    assert set(measures["emotion_mapping"]) == {"picture", "landmarks"} and len(measures["motion_std_degrees"]) == 3
    assert {"lpips", "fid", "syncnet"} <= set(measures["not_measured"])
    assert (pictures / "lips.png").stat().st_size > 1000
    assert "| psnr |" in output.with_suffix(".md").read_text()
    assert "measuring preview.mp4" in capsys.readouterr().err


def test_a_video_that_ends_before_the_start_is_one_sentence(home, tmp_path, capsys):
    command = ["evaluate", "--video", bundled_clip("idle.mp4"), "--start", "99", "--device", "cpu"]
    assert run(*command, "--json", tmp_path / "out.json") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "idle.mp4 ends before second 99." and not (tmp_path / "out.json").exists()
