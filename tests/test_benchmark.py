"""A whole public set in one command: who is trained on what, and that nothing that is measured was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import personalize.benchmark as benchmark
import personalize.motion_benchmark as motion_benchmark
from gmtalker.errors import UnusableInput
from gmtalker.measure.generic import UnseenSpeaker
from gmtalker.media.video import read_info
from gmtalker.pretrain.datasets import WHOLE, Row
from personalize.__main__ import main
from tests.media import bundled_clip

CLIP = bundled_clip("preview.mp4")


def rows(count: int, train_seconds: float = 0.0) -> list[Row]:
    return [
        Row(Path(f"{i:03d}.mp4"), f"{i:03d}.mp4", "emotion", "p", train_seconds, True, None, "ok", test=not train_seconds)
        for i in range(count)
    ]


def test_measured_clips_are_never_trained_on():
    train, measured, start = benchmark.split_of(rows(12))
    assert not {row.file for row in train} & {row.file for row in measured} and len(train) + len(measured) == 12
    assert len(measured) == 3 and start == 0.0
    (train,), (measured,), start = benchmark.split_of(rows(1, 8.0))
    assert train == measured and start == 8.0


def test_only_the_first_part_of_a_video_split_in_time_is_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv("GMTALKER_HOME", str(tmp_path))
    row = Row(CLIP, "May/May.mp4", "speech", "May", 2.0, True, None, "ok")
    assert read_info(benchmark._first_part(row)).seconds == pytest.approx(2.0, abs=0.1)
    assert benchmark._first_part(rows(1)[0]) == Path("000.mp4") and WHOLE > 3600


def test_one_command_trains_and_measures_everybody(tmp_path, monkeypatch, tiny_generic, capsys):
    """The avatars are stood in for by the bundled one: their training has tests of its own."""
    monkeypatch.setenv("GMTALKER_HOME", str(tmp_path / "home"))
    for person in ("M003", "W009"):
        folder = tmp_path / "MEAD" / person / "video" / "front" / "happy" / "level_3"
        folder.mkdir(parents=True)
        for number in (1, 2):
            shutil.copy(CLIP, folder / f"00{number}.mp4")
    trained = []

    def train(request, pipeline):
        clips, emotions = [clip.name for clip in request.clips], set(request.emotions.values())
        trained.append((request.name, clips, emotions, request.consent.who, request.minutes))

    measured = []

    def evaluate(avatar, held_out, *others, **options):
        measured.append([video.name for video in held_out.videos])
        return {"psnr": 30.0 + len(measured), "not_measured": {"fid": "why"}}

    monkeypatch.setattr(benchmark, "train_avatar", train)
    monkeypatch.setattr(benchmark, "load_avatar", lambda name: name)
    monkeypatch.setattr(benchmark, "evaluate_avatar", evaluate)
    command = ["benchmark", "set", "--dataset", "mead", "--root", str(tmp_path / "MEAD"), "--minutes", "2"]
    command += ["--json", str(tmp_path / "mead.json"), "--device", "cpu"]
    assert main(command) == 2 and "Consent is required" in capsys.readouterr().err
    assert main([*command, "--i-have-consent"]) == 0
    assert trained == [(f"mead {person}", ["002.mp4"], {"happy"}, person, 2.0) for person in ("M003", "W009")]
    assert measured == [["001.mp4"], ["001.mp4"]]
    found = json.loads((tmp_path / "mead.json").read_text())
    assert found["psnr"] == 31.5 and found["W009"]["psnr"] == 32.0 and "EAT 21.8" in (tmp_path / "mead.md").read_text()


def test_adapting_learns_the_first_part_and_is_measured_on_the_rest(tmp_path, tiny_pipeline, monkeypatch):
    """Lips that open with the loudness, in a way that the random tiny stages do not know."""
    random = np.random.default_rng(0)
    level = np.repeat(random.random(100), 5)
    sound = (np.repeat(level, 640) * random.normal(size=320_000) * 0.2).astype(np.float32)
    model = tiny_pipeline.face_model
    opening = np.array([model.lip_opening(row[None])[0] for row in np.eye(model.coefficient_dim)])
    coefficients = np.zeros((500, model.coefficient_dim), np.float32)
    coefficients[:, opening.argmax()] = 3 * level
    trained = {"test.mp4": 0.0, "parted.mp4": 15.0, "whole.mp4": 20.0, "late.mp4": 0.0, "short.mp4": 0.0}
    rows = [
        Row(Path(file), file, "", file, seconds, True, None, "late" if file == "late.mp4" else "ok", test=not seconds)
        for file, seconds in trained.items()
    ]

    def tracked(row, pipeline, on_progress, seconds):
        assert seconds == 20.0
        return UnseenSpeaker(row, model.lip_opening(coefficients), coefficients, np.zeros((500, 10)), sound)

    monkeypatch.setattr(benchmark, "read_rows", lambda data: rows)
    monkeypatch.setattr(benchmark, "track_speaker", tracked)
    for module in (benchmark, motion_benchmark):
        monkeypatch.setattr(module, "read_info", lambda path: SimpleNamespace(seconds=19.0 if path.stem == "short" else 20.0))
    found = benchmark.measure_adaptation(tmp_path, 0.02, tiny_pipeline)
    assert found["by_clip"].keys() == {"test.mp4", "parted.mp4"} and found["clips"] == 2
    assert found["lip_correlation"] > max(found["lip_correlation_before"] + 0.04, 0.5)
    assert found["lip_correlation"] == found["by_clip"]["test.mp4"]["after"]
    assert found["worse"] == 0 and found["nearer"] == 2 and found["gain"] > 0.04
    assert all(clip["distance_after"] < clip["distance_before"] for clip in found["by_clip"].values())
    del rows[0]
    with pytest.raises(UnusableInput, match="19.9 seconds"):
        benchmark.measure_adaptation(tmp_path, 0.02, tiny_pipeline)


def test_a_person_with_one_clip_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "M003" / "video" / "front" / "happy" / "level_3"
    folder.mkdir(parents=True)
    (folder / "001.mp4").touch()
    with pytest.raises(UnusableInput, match="one clip of M003"):
        benchmark.measure_public_set(tmp_path, "mead", 1.0, None)
