"""Every row of the corpus of the wild, by the public commands; of the slow half every change runs none, `make wild` all."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from media import write_wav
from wild_cases import TABLE, Case, Outcome, words

import gmtalker.__main__ as gmtalker_command
import personalize.__main__ as personalize_command
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.tracks import FaceTrack
from personalize.check_sound import synchrony

EVERYTHING = bool(os.environ.get("WILD"))
CASES = [case for case in TABLE if case.quick or EVERYTHING]


@pytest.fixture(scope="module")
def pipeline() -> GMTalkerPipeline:
    return GMTalkerPipeline.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def plain(pipeline, tmp_path_factory) -> np.ndarray:
    """(frames,) lip opening of the words of the corpus, plainly recorded."""
    speech = write_wav(tmp_path_factory.mktemp("plain") / "words.wav", words())
    return opening_of(pipeline, pipeline(speech).track)


def opening_of(pipeline: GMTalkerPipeline, track: FaceTrack) -> np.ndarray:
    return pipeline.face_model.lip_opening(
        track.expression.coefficients.numpy(), pipeline.avatars.get(None).avatar.face.neutral_shape
    )


def run(main, arguments: list[str], capsys) -> tuple[int, list[dict], str]:
    """Exit code, the JSON lines on stdout, and stderr; a traceback or a program error is never right."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert code in (0, 1) and "Traceback" not in err and "Something went wrong" not in err, err
    return code, [json.loads(line) for line in out.splitlines() if line.startswith("{")], err


def checked(path: Path, capsys) -> Outcome:
    code, out, err = run(personalize_command.main, ["check", str(path), "--json"], capsys)
    report = out[-1]["clips"][0]
    lines = {line["name"]: f"{line['status']} {line['value']} {line['advice']}" for line in report["lines"]}
    assert report["failed"] == bool(code)
    return Outcome(code, f"{report.get('error', '')} {err}", lines, path)


def spoken(path: Path, capsys, pipeline, plain) -> Outcome:
    film, tracks = path.with_name("film.mp4"), path.with_name("film.safetensors")
    arguments = ["speak", "--speech", str(path), "--output", str(film), "--tracks", str(tracks), "--json"]
    code, out, err = run(gmtalker_command.main, arguments, capsys)
    said = " ".join([*(line.get("message", "") for line in out), err])
    if code:
        assert not film.exists() and not tracks.exists()
        return Outcome(code, said)
    return Outcome(code, said, {}, film, opening_of(pipeline, FaceTrack.load(tracks)), plain)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.command}-{case.file}" for case in CASES])
def test_what_people_bring(case: Case, tmp_path, capsys, pipeline, plain, home, monkeypatch):
    monkeypatch.setattr("gmtalker.__main__.load_pipeline", lambda options: pipeline)
    monkeypatch.setattr("personalize.check_sound.SynchronyApart", lambda: nullcontext(partial(synchrony, stages=pipeline.stages)))
    path = tmp_path / case.file
    case.make(path)
    before = set(tmp_path.iterdir())
    outcome = checked(path, capsys) if case.command == "check" else spoken(path, capsys, pipeline, plain)
    left = {made.name for made in set(tmp_path.iterdir()) - before} - {
        "film.mp4",
        "film.safetensors",
        "film.request.json",
        home.name,
    }
    assert not left, "nothing else is left"
    wrong = [right.__qualname__ for right in case.right if not right(outcome)]
    assert not wrong, f"{case.file}: {wrong}; code {outcome.code}, {outcome.said.strip()}, {dict(outcome.lines)}"


def test_the_table_has_each_file_once():
    assert len({(case.command, case.file) for case in TABLE}) == len(TABLE)
