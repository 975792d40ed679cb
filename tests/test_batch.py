"""A table of videos: broken rows are told, the rest is made, and nothing is made twice, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, write_speech

from gmtalker.__main__ import main
from gmtalker.batch import LOCK, make_batch, read_table
from gmtalker.errors import UnusableInput
from gmtalker.output import OutputOptions
from gmtalker.request import SpeakRequest, request_file


def table(path: Path, *rows: dict | str) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_every_column_of_a_csv_is_a_field(tmp_path, home):
    write_speech(tmp_path / "voice.wav", 0.5)
    (tmp_path / "wall.png").write_bytes(b"")
    text = (
        "name,speech,text,emotion,seed,head,full_frame,format,canvas,size,background\n"
        "first,voice.wav,,happy=0.5,3,0.5,no,,,,\n"
        '"second, mit ü",,Hello.,,,,,webm-alpha,9:16,0.5,\n'
        ",,Hi.,,,,,,16:9,,wall.png\n"
    )
    (tmp_path / "t.csv").write_text("\ufeff" + text, encoding="utf-8")
    first, second, third = read_table(tmp_path / "t.csv", {"blink": 0.5})
    spoken = SpeakRequest(str(tmp_path / "voice.wav"), emotion={"happy": 0.5}, seed=3, head=0.5, blink=0.5)
    assert first.name == "first" and first.request == spoken
    assert second.name == "second, mit ü" and second.request.output == OutputOptions("webm-alpha", canvas="9:16", size=0.5)
    assert third.name == "0003" and third.request.output.background == str(tmp_path / "wall.png")
    assert second.video(tmp_path).name == "second, mit ü.webm"


@pytest.mark.parametrize(
    "row, sentence",
    [
        ("no json", "can't be read as JSON"),
        ("[1]", "no object"),
        ({"text": "Hi.", "nmae": "x"}, "no column 'nmae'"),
        ({"text": "Hi.", "emotion": "joy=1"}, "no emotion 'joy'"),
        ({"text": "Hi.", "emotion": {"joy": 1}}, "joy"),
        ({"text": "Hi.", "format": "mpeg"}, "format must be one of"),
        ({"text": "Hi.", "seed": "three"}, "seed must be"),
        ({"text": "Hi.", "timeline": "[{"}, ""),
        ({"text": "Hi.", "name": "../x"}, "can't be the name"),
        ({"text": "Hi.", "name": "x" * 300}, "too long"),
        ({"text": "Hi.", "name": "ONE"}, "another row's"),
        ({"text": "Hi.", "speech": "a.wav"}, "only one of them"),
        ({"name": "x"}, ""),
        ({"text": ["Hi."]}, "text can't be"),
    ],
)
def test_what_is_wrong_with_a_row_stands_in_that_row(tmp_path, home, row, sentence):
    rows = read_table(table(tmp_path / "t.jsonl", {"text": "Hi.", "name": "one"}, row, {"text": "Ho."}))
    assert [read.request is None for read in rows] == [False, True, False]
    assert sentence in rows[1].error and rows[1].error.endswith(".") and "\n" not in rows[1].error


def test_a_table_that_is_none_is_told(tmp_path, capsys, home):
    for name, text in (("t.csv", ""), ("t.jsonl", ""), ("t.txt", "a"), ("t.csv", "text")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UnusableInput, match=name):
            read_table(tmp_path / name)
    assert main(["speak", "--batch", str(tmp_path / "none.csv"), "--output", str(tmp_path / "o")]) == 1
    (tmp_path / "t.jsonl").write_text('{"text": "Hi."}')
    for more in (["--emotion", "sad"], ["--processes", "0"]):
        assert main(["speak", "--batch", str(tmp_path / "t.jsonl"), "--output", str(tmp_path / "o"), *more]) == 2
    assert not (tmp_path / "o").exists()


def test_rows_that_fail_are_told_and_the_rest_is_made_once(tiny_pipeline, tiny_avatar, tmp_path):
    write_speech(tmp_path / "voice.wav", 0.5)
    said = {"speech": "voice.wav", "avatar": tiny_avatar}
    rows = [said | {"name": "a"}, {"speech": "none.wav", "avatar": tiny_avatar}, said | {"name": "b", "seed": 1}, "broken"]
    read = partial(read_table, table(tmp_path / "t.jsonl", *rows))
    folder, told = tmp_path / "out", []
    first = make_batch(read(), folder, lambda: tiny_pipeline, on_progress=told.append)
    assert [path.name for path in first.made] == ["a.mp4", "b.mp4"] and [row.number for row in first.failed] == [2, 4]
    assert all(row.error.endswith(".") for row in first.failed) and (told[-1].done, told[-1].total) == (3, 3)
    when = {path: path.stat().st_mtime_ns for path in first.made}
    again = make_batch(read(), folder, lambda: tiny_pipeline)
    assert again.made == () and again.kept == first.made and {path: path.stat().st_mtime_ns for path in first.made} == when
    table(tmp_path / "t.jsonl", said | {"name": "a", "seed": 9}, said | {"name": "b", "seed": 1})
    changed = make_batch(read(), folder, lambda: tiny_pipeline)
    assert [path.name for path in changed.made] == ["a.mp4"] and SpeakRequest.load(request_file(changed.made[0])).seed == 9
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".mp4", ".mp4"]


def test_what_is_to_be_told_of_a_row_is_told(tiny_pipeline, tiny_avatar, tmp_path):
    both = {"text": "[sad] Hi.", "emotion": {"happy": 0.5}, "avatar": tiny_avatar}
    told: list = []
    make_batch(read_table(table(tmp_path / "t.jsonl", both)), tmp_path / "out", lambda: tiny_pipeline, on_progress=told.append)
    assert told[0].message.startswith("Row 1 (0001): The tags in the text set the emotion")


def test_two_programs_do_not_make_the_same_table(tiny_pipeline, tiny_avatar, tmp_path):
    from filelock import FileLock

    rows = read_table(table(tmp_path / "t.jsonl", {"text": "Hi."}))
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / LOCK), pytest.raises(UnusableInput, match="Another program"):
        make_batch(rows, tmp_path / "out", lambda: tiny_pipeline)


def test_a_killed_batch_goes_on_where_it_was(tmp_path, home):
    """In two processes, with one row that can't be made: all others are there in the end, none was made twice."""
    write_speech(tmp_path / "voice.wav", 0.5)
    rows = [{"name": f"v{number}", "speech": "voice.wav" if number != 3 else "none.wav", "seed": number} for number in range(8)]
    command = [sys.executable, "-m", "gmtalker", "speak", "--batch", table(tmp_path / "t.jsonl", *rows), "--json"]
    command += ["--output", tmp_path / "out", "--processes", "2"]
    batch = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.time() + 240
    while len(list((tmp_path / "out").glob("*.request.json"))) < 3:
        assert batch.poll() is None and time.time() < end
        time.sleep(0.02)
    os.killpg(batch.pid, signal.SIGKILL)
    batch.wait()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.request.json")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("Row 4 (v3): ")
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["kept"]) == len(before) and len(result["made"]) == 7 - len(before) and len(result["failed"]) == 1
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == [
        f"v{number}.mp4" for number in range(8) if number != 3
    ]


@pytest.mark.parametrize(
    "named", [{"speech": "/etc/passwd"}, {"speech": "../out.wav"}, {"text": "Hi.", "background": "/etc/hosts"}]
)
def test_a_strangers_table_names_only_files_beside_it(tmp_path, home, named):
    """On the page the table is anybody's: of the server's files it names none, by a path or by a link."""
    (tmp_path / "out.wav").write_bytes(b"")
    folder = tmp_path / "given"
    folder.mkdir()
    write_speech(folder / "said.wav")
    (folder / "link.wav").symlink_to("/etc/passwd")
    rows = [{"speech": "said.wav"}, named, {"video": "link.wav"}, {"text": "Hi.", "captions": "/etc/a.srt"}]
    good, *wrong = read_table(table(folder / "t.jsonl", *rows), inside=True)
    assert not good.error and all("beside the table" in row.error and "/" not in row.error for row in wrong)
