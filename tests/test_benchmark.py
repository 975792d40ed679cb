"""A whole public set in one command: who is trained on what, and that nothing that is measured was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import personalize.benchmark as benchmark
from gmtalker.__main__ import main
from gmtalker.errors import UnusableInput
from gmtalker.media.video import read_info
from gmtalker.pretrain.datasets import WHOLE, Row
from tests.media import real_clip


def rows(count: int, train_seconds: float = 0.0) -> list[Row]:
    return [
        Row(Path(f"{i:03d}.mp4"), f"{i:03d}.mp4", "emotion", "p", train_seconds, True, None, "ok", test=not train_seconds)
        for i in range(count)
    ]


def test_measured_clips_are_never_trained_on():
    kept, measured, start = benchmark.split_of(rows(12))
    assert not {row.file for row in kept} & {row.file for row in measured} and len(kept) + len(measured) == 12
    assert len(measured) == 3 and start == 0.0
    (kept,), (measured,), start = benchmark.split_of(rows(1, 8.0))
    assert kept == measured and start == 8.0


def test_only_the_first_part_of_a_video_split_in_time_is_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv("GMTALKER_HOME", str(tmp_path))
    clip = real_clip("av/vrt2.mp4")
    row = Row(clip, "May/May.mp4", "speech", "May", 2.0, True, None, "ok")
    assert read_info(benchmark._first_part(row)).seconds == pytest.approx(2.0, abs=0.1)
    assert benchmark._first_part(rows(1)[0]) == Path("000.mp4") and WHOLE > 3600


def test_one_command_trains_and_measures_everybody(tmp_path, monkeypatch, tiny_generic, capsys):
    """The avatars are stood in for by the bundled one: their training has tests of its own."""
    monkeypatch.setenv("GMTALKER_HOME", str(tmp_path / "home"))
    for person in ("M003", "W009"):
        folder = tmp_path / "MEAD" / person / "video" / "front" / "happy" / "level_3"
        folder.mkdir(parents=True)
        for number in (1, 2):
            shutil.copy(real_clip("av/vrt2.mp4"), folder / f"00{number}.mp4")
    trained = []

    def train(clips, name, consent, minutes, emotions, pipeline):
        trained.append((name, [Path(clip).name for clip in clips], set(emotions.values()), consent.who, minutes))

    measured = []

    def evaluate(avatar, videos, *others, **options):
        measured.append([Path(video).name for video in videos])
        return {"psnr": 30.0 + len(measured), "not_measured": {"fid": "why"}}

    monkeypatch.setattr(benchmark, "train_avatar", train)
    monkeypatch.setattr(benchmark, "load_avatar", lambda name: name)
    monkeypatch.setattr(benchmark, "evaluate_avatar", evaluate)
    command = ["evaluate", "--dataset", "mead", "--root", str(tmp_path / "MEAD"), "--everybody", "--minutes", "2"]
    command += ["--json", str(tmp_path / "mead.json"), "--device", "cpu"]
    assert main(command) == 2 and "consent" in capsys.readouterr().err
    assert main([*command, "--i-have-consent"]) == 0
    assert trained == [(f"mead {person}", ["002.mp4"], {"happy"}, person, 2.0) for person in ("M003", "W009")]
    assert measured == [["001.mp4"], ["001.mp4"]]
    found = json.loads((tmp_path / "mead.json").read_text())
    assert found["psnr"] == 31.5 and found["W009"]["psnr"] == 32.0 and "EAT 21.8" in (tmp_path / "mead.md").read_text()


def test_a_person_with_one_clip_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "M003" / "video" / "front" / "happy" / "level_3"
    folder.mkdir(parents=True)
    (folder / "001.mp4").touch()
    with pytest.raises(UnusableInput, match="one clip of M003"):
        benchmark.measure_public_set(tmp_path, "mead", 1.0, None)
