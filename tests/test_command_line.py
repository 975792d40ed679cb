"""python -m gmtalker: exit 0, 1 or 2, one sentence on stderr, nothing half-written."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, write_speech
from media import ffmpeg, real_clip

import gmtalker.pipeline
from gmtalker.__main__ import WrongUsage, main, parse_emotion
from gmtalker.media.video import read_info
from gmtalker.media.video_writer import VideoWriter


@pytest.fixture
def place(tmp_path, tiny_generic, tiny_avatar, monkeypatch):
    """A folder of an awkward name, with the tiny generic stages as the bundled ones."""
    monkeypatch.setattr(gmtalker.pipeline, "GENERIC", tiny_generic)
    folder = tmp_path / 'it\'s "a" föld er'
    folder.mkdir()
    return folder


def run(*arguments) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # argparse ends the program itself
        return stopped.code


def one_sentence(capsys) -> str:
    said = capsys.readouterr().err.strip()
    assert said and "\n" not in said and "Traceback" not in said
    return said


def test_speak_writes_the_video_and_the_tracks(place, capsys):
    speech, output, tracks = write_speech(place / "my speech.wav"), place / "-out 'put'.mp4", place / "face.safetensors"
    wanted = ("--emotion", "happy=0.7,sad=0.1", "--tracks", tracks)
    status = run("speak", "--avatar", "tiny", "--speech", speech, "--output", output, *wanted)
    assert status == 0 and output.stat().st_size > 1000 and tracks.exists()
    assert capsys.readouterr().out.strip() == str(output)


def test_two_runs_write_the_same_pictures_and_sound(place):
    speech = write_speech(place / "speech.wav")
    for name in ("one.mp4", "two.mp4"):
        assert run("speak", "--avatar", "tiny", "--speech", speech, "--output", place / name, "--seed", 3) == 0
    for name in ("one", "two"):  # the signatures tell when each was made; all the rest is the same
        ffmpeg("-i", place / f"{name}.mp4", "-c", "copy", "-f", "framehash", place / f"{name}.txt")
    assert (place / "one.txt").read_bytes() == (place / "two.txt").read_bytes()


def test_json_lines_tell_the_progress_and_the_result(place, capsys):
    status = run("speak", "--avatar", "tiny", "--speech", write_speech(place / "s.wav"), "--output", place / "o.mp4", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert status == 0 and lines[-1] == {"done": True, "output": str(place / "o.mp4")}
    assert [line["stage"] for line in lines if line.get("percent") == 100][-1] == "drawing"


def test_weights_over_one_are_scaled_and_it_is_said(place, capsys):
    speech = write_speech(place / "s.wav")
    status = run("speak", "--avatar", "tiny", "--speech", speech, "--output", place / "o.mp4", "--emotion", "happy=1,sad=1")
    assert status == 0 and "scaled" in capsys.readouterr().err


def test_a_timeline_file_is_followed_and_a_broken_one_named(place, capsys):
    timeline, speech = place / "time line.json", write_speech(place / "s.wav")
    timeline.write_text('[{"time": 0, "emotion": {"happy": 1}}, {"time": 0.5, "emotion": {"sad": 1}}]')
    assert run("speak", "--avatar", "tiny", "--speech", speech, "--output", place / "o.mp4", "--timeline", timeline) == 0
    capsys.readouterr()
    script = place / "what is said.txt"
    script.write_text("[happy 0.5] One two. [sad] Three.", encoding="utf-8")
    assert run("speak", "--avatar", "tiny", "--speech", speech, "--output", place / "o.mp4", "--script", script) == 0
    script.write_text("[glad] One two.", encoding="utf-8")
    capsys.readouterr()
    assert run("speak", "--avatar", "tiny", "--speech", speech, "--output", place / "o.mp4", "--script", script) == 1
    assert "[glad]" in one_sentence(capsys)
    keys = '[{"time": 0, "emotion": {"happy": 1}}]'
    assert run("speak", "--avatar", "tiny", "--speech", speech, "--output", place / "o.mp4", "--timeline", keys) == 0
    timeline.write_text("[{")
    assert run("speak", "--avatar", "tiny", "--speech", speech, "--output", place / "p.mp4", "--timeline", timeline) == 1
    assert "time line.json" in one_sentence(capsys)
    timeline.write_text('[{"emotion": {}}]')
    assert run("speak", "--avatar", "tiny", "--speech", speech, "--output", place / "p.mp4", "--timeline", timeline) == 2
    assert not (place / "p.mp4").exists()


def test_silent_speech_is_one_sentence_exit_1_and_no_file(place, capsys):
    speech = write_speech(place / "silent.wav", loudness=0.0)
    assert run("speak", "--avatar", "tiny", "--speech", speech, "--output", place / "o.mp4") == 1
    assert "silent.wav" in one_sentence(capsys) or "sound" in one_sentence(capsys)
    assert sorted(path.name for path in place.iterdir()) == ["silent.wav"]


@pytest.mark.parametrize(
    "change",
    [
        {"--speech": "missing.wav"},
        {"--speech": "."},
        {"--avatar": "nobody"},
        {"--avatar": "owner/model"},
        {"--output": "no such folder/o.mp4"},
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_exit_1(place, capsys, change):
    chosen = {"--avatar": "tiny", "--speech": write_speech(place / "s.wav"), "--output": place / "o.mp4"}
    chosen |= {option: value if option == "--avatar" else place / value for option, value in change.items()}
    assert run("speak", *(part for pair in chosen.items() for part in pair)) == 1
    one_sentence(capsys)
    assert sorted(path.name for path in place.iterdir()) == ["s.wav"]


@pytest.mark.parametrize(
    "extra",
    [
        ["--emotion", "joy=1"],
        ["--emotion", "happy=lots"],
        ["--emotion", "happy=-1"],
        ["--emotion", "happy=nan"],
        ["--emotion", ""],
        ["--emotion", "happy=1,happy=1"],
        ["--emotion", "happy=1", "--timeline", "t.json"],
        ["--intensity", "2.5"],
        ["--head", "-1"],
        ["--seed", "-1"],
        ["--seed", "x"],
        ["--device", "toaster"],
        ["--format", "webm-alpha"],
        ["--no-such-flag"],
    ],
)
def test_wrong_usage_is_exit_2(place, capsys, extra):
    status = run("speak", "--avatar", "tiny", "--speech", write_speech(place / "s.wav"), "--output", place / "o.mp4", *extra)
    assert status == 2 and "Traceback" not in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir()) == ["s.wav"]


def test_an_output_that_is_no_mp4_is_wrong_usage(place):
    assert run("speak", "--avatar", "tiny", "--speech", write_speech(place / "s.wav"), "--output", place / "o.avi") == 2


def test_emotions_are_read_in_any_spacing():
    assert parse_emotion(" happy = 0.7 , sad=.1,") == {"happy": 0.7, "sad": 0.1}
    assert parse_emotion("fear") == {"fear": 1.0}
    with pytest.raises(WrongUsage, match="neutral, angry, contempt"):
        parse_emotion("Happy=1")


def test_a_fault_of_ours_is_no_traceback(place, capsys, monkeypatch):
    monkeypatch.delenv("GMTALKER_DEBUG", raising=False)
    monkeypatch.setattr(gmtalker.pipeline.GMTalkerPipeline, "speak", lambda *_, **__: 1 / 0)
    assert run("speak", "--avatar", "tiny", "--speech", write_speech(place / "s.wav"), "--output", place / "o.mp4") == 1
    assert "ZeroDivisionError" in one_sentence(capsys)


def test_bench_measures_every_stage(place, capsys):
    assert run("bench", "--avatar", "tiny", "--json", place / "bench.json", "--long", "0.1") == 0
    figures = json.loads((place / "bench.json").read_text())
    networks = ["speech_encoder", "expression_generator", "motion_generator", "renderer", "head_generator"]
    assert list(figures["stages"]) == [*networks, "mark", "video_encoder", "signature", "speak"]
    assert figures["machine"]["cores"] >= 1
    assert all(stage["wall_ms_a_frame"] > 0 for stage in figures["stages"].values()) and figures["times_speech_length"] > 0
    (long,) = figures["long_speech"]
    assert long["last_lips_as_second_correlation"] > 0.9 and 100 < long["peak_memory_megabytes"] < 4000
    assert figures["speak_peak_memory_megabytes"] > 100
    assert len(figures["steps_of_drawing_ms_a_frame"]) >= 4 and min(figures["steps_of_drawing_ms_a_frame"].values()) > 0


def test_pretraining_without_data_is_one_sentence(place, capsys):
    assert run("pretrain", "speech", "--data", place / "none", "--output", place / "o") == 1
    assert "MANIFEST.csv" in one_sentence(capsys)
    assert run("pretrain", "everything", "--data", place, "--output", place / "o") == 2


def test_the_program_starts_from_a_folder_of_its_own():
    told = subprocess.run([sys.executable, "-m", "gmtalker", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(command in told.stdout for command in ("speak", "reenact", "evaluate", "bench", "pretrain"))


def test_reenact_follows_a_real_person(place):
    video, output = real_clip("grid_s1/bbaf2n.mp4"), place / "again.mp4"
    assert run("reenact", "--avatar", "tiny", "--video", video, "--output", output) == 0
    assert read_info(output).has_sound and read_info(output).seconds == pytest.approx(read_info(video).seconds, abs=0.05)


def test_a_video_without_a_face_reenacts_nothing(place, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with VideoWriter(place / "no face.mp4", 64, 64) as writer:
        for _ in range(25):
            writer.write(noise)
    assert run("reenact", "--avatar", "tiny", "--video", place / "no face.mp4", "--output", place / "o.mp4") == 1
    assert "face" in one_sentence(capsys)
    assert not (place / "o.mp4").exists()
