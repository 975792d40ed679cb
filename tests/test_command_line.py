"""python -m gmtalker: exit 0, 1 or 2, one sentence on stderr, nothing half-written."""

import io
import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, write_speech
from media import ffmpeg, real_clip

import gmtalker.pipeline
from gmtalker.__main__ import main
from gmtalker.command_line import TITLES, progress_bar
from gmtalker.emotion_words import parse_emotion
from gmtalker.measure import speed
from gmtalker.media.video import read_info
from gmtalker.media.video_writer import VideoWriter
from gmtalker.progress import Progress, Stopped, Watcher


@pytest.fixture
def place(tmp_path, tiny_generic, tiny_avatar, monkeypatch):
    """A folder of an awkward name, with the tiny generic stages as the bundled ones."""
    monkeypatch.setattr("gmtalker.stages.GENERIC", tiny_generic)
    folder = tmp_path / 'it\'s "a" föld er'
    folder.mkdir()
    return folder


def run(*arguments) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # argparse ends the program itself
        return stopped.code


def one_sentence(capsys) -> str:
    """What a command says on stderr beside the stages that it went through."""
    (said,) = (line for line in capsys.readouterr().err.splitlines() if line not in TITLES.values())
    assert said and "Traceback" not in said
    return said


def framehash(video) -> str:
    """Of pictures and sound: the signatures tell when each video was made, all the rest is to be the same."""
    ffmpeg("-i", video, "-c", "copy", "-f", "framehash", video.with_suffix(".txt"))
    return video.with_suffix(".txt").read_text()


def json_lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


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
    assert framehash(place / "one.mp4") == framehash(place / "two.mp4")


def test_a_saved_request_makes_the_same_video_again(place, capsys, monkeypatch):
    write_speech(place / "speech.wav")
    monkeypatch.chdir(place)
    keys = '[{"time": 0, "emotion": {"happy": 1}}, {"time": 0.5, "emotion": {"sad": 1}}]'
    asked = ("--timeline", keys, "--seed", 5, "--intensity", 1.5, "--head", 0.5, "--blink", 2, "--gaze", 0, "--label")
    asked += ("--motion", "lively")
    assert run("speak", "--avatar", "tiny", "--speech", "speech.wav", "--output", "one.mp4", *asked) == 0
    assert sorted(path.name for path in place.iterdir()) == ["one.mp4", "one.request.json", "speech.wav"]
    monkeypatch.chdir(place.parent)
    assert run("speak", "--request", place / "one.request.json", "--output", place / "two.mp4") == 0
    assert framehash(place / "one.mp4") == framehash(place / "two.mp4")
    assert (place / "one.request.json").read_text() == (place / "two.request.json").read_text()
    assert run("speak", "--avatar", "tiny", "--speech", place / "speech.wav", "--output", place / "three.mp4") == 0
    assert framehash(place / "one.mp4") != framehash(place / "three.mp4")


@pytest.mark.parametrize(
    "beside",
    [
        ["--avatar", "tiny"],
        ["--emotion", "happy=1"],
        ["--timeline", "[]"],
        ["--script", "s.txt"],
        ["--intensity", "1"],
        ["--seed", "0"],
        ["--head", "1"],
        ["--blink", "1"],
        ["--gaze", "1"],
        ["--motion", "own"],
        ["--full-frame"],
        ["--label"],
    ],
)
def test_a_saved_request_is_given_alone(place, capsys, beside):
    (place / "r.json").write_text(json.dumps({"request": "speak", "speech": str(place / "s.wav"), "seed": 7}))
    assert run("speak", "--request", place / "r.json", "--output", place / "o.mp4", *beside) == 2
    assert beside[0] in one_sentence(capsys)
    assert sorted(path.name for path in place.iterdir()) == ["r.json"]


def test_a_request_that_can_not_be_repeated_is_one_sentence(place, capsys):
    saved, output = place / "r.json", place / "o.mp4"
    assert run("speak", "--request", saved, "--output", output) == 1 and "r.json" in one_sentence(capsys)
    saved.write_text(json.dumps({"request": "speak", "speech": None}))
    assert run("speak", "--request", saved, "--output", output) == 1 and "does not name the file" in one_sentence(capsys)
    saved.write_text(json.dumps({"request": "speak", "speech": str(place / "gone.wav"), "avatar": "tiny"}))
    assert run("speak", "--request", saved, "--output", output) == 1 and "gone.wav" in one_sentence(capsys)
    assert run("speak", "--request", saved, "--speech", place / "s.wav", "--output", output) == 2
    assert run("speak", "--output", output) == 2
    assert sorted(path.name for path in place.iterdir()) == ["r.json"]


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
        ["--motion", "wild"],
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
    with pytest.raises(ValueError, match="neutral, angry, contempt"):
        parse_emotion("Happy=1")


def test_a_fault_of_ours_is_no_traceback(place, capsys, monkeypatch):
    monkeypatch.delenv("GMTALKER_DEBUG", raising=False)
    monkeypatch.setattr(gmtalker.pipeline.GMTalkerPipeline, "speak", lambda *_, **__: 1 / 0)
    assert run("speak", "--avatar", "tiny", "--speech", write_speech(place / "s.wav"), "--output", place / "o.mp4") == 1
    assert "ZeroDivisionError" in one_sentence(capsys)


def test_bench_measures_every_stage(place, capsys, monkeypatch):
    small = partial(speed.time_head_generators, sizes=(256,))  # those of 512 pixels take as long as all the rest
    monkeypatch.setattr(speed, "time_head_generators", small)
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


@pytest.mark.parametrize("package", ["gmtalker", "personalize", "studio"])
def test_help_and_wrong_usage_do_not_wait_for_big_libraries(package):
    big = "torch", "gradio", "accelerate", "diffusers", "transformers", "huggingface_hub", "cv2", "mediapipe"
    told = f"import sys, {package}.__main__; print([name for name in {big} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"


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


# --- Progress and failures -----------------------------------------------------------------------------------------------------


def speak(place, *extra) -> int:
    speech = place / "s.wav"
    if not speech.exists():
        write_speech(speech)
    return run("speak", "--avatar", "tiny", "--speech", speech, "--output", place / "o.mp4", *extra)


def test_json_lines_tell_the_progress_and_the_result(place, capsys):
    assert speak(place, "--json", "--tracks", place / "t.safetensors") == 0
    *lines, last = json_lines(capsys)
    assert last == {"status": "done", "done": True, "output": str(place / "o.mp4"), "tracks": str(place / "t.safetensors")}
    assert list(dict.fromkeys(line["stage"] for line in lines)) == ["listening", "expression", "drawing"]
    assert all(list(line) == ["stage", "percent", "seconds_left"] for line in lines)
    drawing = [line["percent"] for line in lines if line["stage"] == "drawing"]
    assert drawing == sorted(drawing) and drawing[-1] == 100 and lines[-2]["seconds_left"] >= 0


def test_a_log_file_gets_a_line_a_stage(place, capsys):
    assert speak(place) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == ["reading the speech", "generating the expression", "drawing the frames"]
    assert said.out == f"{place / 'o.mp4'}\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_in_words(place, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert speak(place) == 0
    shown = sys.stderr.getvalue()
    for title in ("Reading the speech", "Generating the expression", "Drawing the frames"):
        assert title in shown
    assert "100%" in shown and " left" in shown and "listening" not in shown
    assert shown.endswith("\r") and not shown.split("\r")[-2].strip()  # the bar is gone
    assert capsys.readouterr().out == f"{place / 'o.mp4'}\n"


REPORTS = [
    Progress("tracking", 1, 4, percent=10.0, seconds_left=100.0),
    Progress("tracking", 1, 4, percent=10.2, seconds_left=99.0),
    Progress(message="The sound is late; that is corrected."),
    Progress("training", percent=50.0, figures={"its": 2.5, "step": 7}),
    Progress("training", figures={"step": 8}),
]


def shown(as_json: bool) -> None:
    with progress_bar(SimpleNamespace(json=as_json)) as on_progress:
        for report in REPORTS:
            on_progress(report)


def test_json_lines_are_as_many_as_somebody_reads(capsys):
    shown(True)
    assert json_lines(capsys) == [
        {"stage": "tracking", "percent": 10.0, "seconds_left": 100.0},
        {"stage": "", "seconds_left": None, "message": "The sound is late; that is corrected."},
        {"stage": "training", "percent": 50.0, "seconds_left": None, "its": 2.5, "step": 7},
        {"stage": "training", "seconds_left": None, "step": 8},  # how far the whole is was not said
    ]


def test_messages_and_shares_are_said_in_a_log_and_beside_a_bar(capsys, monkeypatch):
    shown(False)
    assert capsys.readouterr().err.splitlines() == ["tracking (10 %)", REPORTS[2].message, "training (50 %)"]
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown(False)
    text = sys.stderr.getvalue()
    assert f"{REPORTS[2].message}\n" in text and "2.5 it/s" in text and "99 s left" not in text and "2 min left" in text
    assert "Training:  50%" in text.split("\r")[-3]  # a report without a share leaves the bar where it is


def test_a_watcher_reports_and_stops():
    seen, stop = [], [False]
    watcher = Watcher(seen.append, lambda: stop[0], timed=("drawing",))
    for done in (0, 1, 2):
        watcher.report("expression", done, 4)
        watcher.report("drawing", done, 4)
    assert [report.seconds_left is None for report in seen] == [True, True, True, False, True, False]
    assert seen[-1].stage_percent == 50 and seen[-1].percent is None
    stop[0] = True
    with pytest.raises(Stopped):
        watcher.report("drawing", 3, 4)
    Watcher(None).report("drawing", 1, 1)


def test_json_tells_of_failures_too(place, capsys, monkeypatch):
    for extra, code, said in (
        (["--avatar", "nobody"], 1, "nobody"),
        (["--emotion", "joy=1"], 2, "joy"),
        (["--intensity", "9"], 2, "intensity"),
    ):
        assert speak(place, "--json", *extra) == code
        result = capsys.readouterr()
        last = json.loads(result.out.splitlines()[-1])
        assert last == {"status": "failed", "error": result.err.strip()} and said in last["error"]
    for raised, said in ((KeyboardInterrupt(), "Stopped."), (ZeroDivisionError("x"), "Something went wrong")):

        def fails(*_, raised=raised, **__):
            raise raised

        monkeypatch.delenv("GMTALKER_DEBUG", raising=False)
        monkeypatch.setattr(gmtalker.pipeline.GMTalkerPipeline, "speak", fails)
        assert speak(place, "--json") == 1
        result = capsys.readouterr()
        assert json.loads(result.out)["error"] == result.err.strip() and result.err.startswith(said)
        assert speak(place) == 1 and not capsys.readouterr().out


def test_where_json_names_a_file_nothing_but_results_is_printed(place, capsys):
    for command in (
        ["evaluate", "--video", "x.mp4", "--start", "-1"],
        ["emotions", "--adapt", "3"],
        ["bench", "--long", "-1"],
    ):
        assert run(*command, "--json", place / "f.json") == 2
        said = capsys.readouterr()
        assert not said.out and len(said.err.splitlines()) == 1
    assert run("evaluate", "--video", "x.mp4") == 2  # they need it
    assert not (place / "f.json").exists()


def test_verify_as_json(place, capsys):
    assert speak(place) == 0
    capsys.readouterr()
    assert run("verify", place / "o.mp4", "--json") == 0
    (found,) = json_lines(capsys)
    assert found["credentials"] == "valid" and found["sentence"].startswith("AI-generated")
    assert run("verify", place / "none.mp4", "--json") == 1
    (failed,) = json_lines(capsys)
    assert failed["status"] == "failed" and "none.mp4" in failed["error"]


def test_a_package_of_an_extra_that_is_missing_is_named_with_the_extra(capsys):
    import argparse

    from gmtalker import command_line

    def needs_mediapipe(_):
        raise ModuleNotFoundError("No module named 'mediapipe.solutions'", name="mediapipe.solutions")

    parser = argparse.ArgumentParser()
    parser.set_defaults(run=needs_mediapipe)
    assert command_line.run(parser, []) == 1
    assert capsys.readouterr().err == (
        "This needs mediapipe, which is not installed: python -m pip install 'gmtalker-studio[train]'.\n"
    )
