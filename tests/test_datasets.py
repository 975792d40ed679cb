"""The public sets are read as they lie on disk, with the splits of the literature; small trees of the same layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gmtalker.__main__ import main
from gmtalker.command_line import DATASETS
from gmtalker.errors import UnusableInput
from gmtalker.pretrain.datasets import LAYOUTS, MANIFEST, READERS, clips_to_measure, read_rows, training_rows
from tests.media import bundled_clip


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_mead(tmp_path):
    root = tree(
        tmp_path / "MEAD",
        "M003/video/front/angry/level_3/001.mp4",
        "M005/video/front/angry/level_1/001.mp4",
        "M005/audio/angry/level_1/001.m4a",
        "M005/video/front/neutral/level_1/002.mp4",
        "M005/video/left_30/angry/level_1/001.mp4",
        "W015/video/front/happy/level_2/030.mp4",
    )
    rows = {row.file: row for row in read_rows(root, "mead")}
    assert len(rows) == 4 and not any("left_30" in file for file in rows)
    angry, neutral = rows["M005/video/front/angry/level_1/001.mp4"], rows["M005/video/front/neutral/level_1/002.mp4"]
    assert (angry.person, angry.emotion, angry.level) == ("M005", "angry", 0.6)
    assert angry.heard_in == root / "M005/audio/angry/level_1/001.m4a" and neutral.heard_in == neutral.path
    assert neutral.level == 1.0  # MEAD films neutral once, at level 1
    assert {row.person for row in training_rows(root, "mead")} == {"M005"}
    assert {row.person for row in rows.values() if row.test} == {"M003", "W015"}


def test_cremad(tmp_path):
    root = tree(
        tmp_path,
        "VideoFlash/1001_DFA_ANG_XX.flv",
        "VideoFlash/1015_IEO_HAP_HI.flv",
        "VideoFlash/1002_IEO_SAD_LO.flv",
        "VideoFlash/notes.flv",
        "AudioWAV/1001_DFA_ANG_XX.wav",
    )
    rows = {row.file: row for row in read_rows(root, "cremad")}
    assert [row.emotion for row in rows.values()] == ["angry", "sad", "happy"] and all(row.is_video for row in rows.values())
    assert rows["VideoFlash/1001_DFA_ANG_XX.flv"].heard_in == root / "AudioWAV/1001_DFA_ANG_XX.wav"
    assert rows["VideoFlash/1002_IEO_SAD_LO.flv"].level == 0.6 and rows["VideoFlash/1015_IEO_HAP_HI.flv"].test


def test_hdtf_tests_on_whole_people(tmp_path):
    names = [f"RD_Radio{person}_{clip:03d}.mp4" for person in range(40) for clip in range(2)]
    rows = read_rows(tree(tmp_path, *names, "WRA/WRA_Someone0_000.mp4", "WRA_Someone1_000.mp4", "other.mp4"), "hdtf")
    assert len(rows) == 82 and sum(row.person == "WRA_Someone" for row in rows) == 2
    tested = {row.person for row in rows if row.test}
    assert len(tested) == 2 and not tested & {row.person for row in rows if not row.test}


def test_voxceleb2_keeps_its_official_split(tmp_path):
    root = tree(tmp_path, "dev/mp4/id00012/21Uxsk56VDQ/00001.mp4", "test/mp4/id00017/01dfn2spqyE/00001.mp4")
    rows = read_rows(root, "voxceleb2")
    assert [(row.person, row.test, row.emotion) for row in rows] == [("id00012", False, None), ("id00017", True, None)]


def test_lsp_trains_on_the_first_part_of_each_video(tmp_path):
    (tmp_path / "May").mkdir()
    shutil.copy(bundled_clip("preview.mp4"), tmp_path / "May" / "May.mp4")
    (row,) = training_rows(tmp_path, "lsp")
    assert row.person == "May" and row.train_seconds == pytest.approx(0.8 * 5, abs=0.1)
    assert clips_to_measure(tmp_path, "lsp", "May") == ([row], row.train_seconds)


def test_measuring_takes_the_test_clips_of_one_person(tmp_path):
    root = tree(tmp_path, "M003/video/front/sad/level_1/001.mp4", "W009/video/front/sad/level_1/001.mp4", "M001/audio/x.m4a")
    rows, start = clips_to_measure(root, "mead", "W009")
    assert [row.person for row in rows] == ["W009"] and start == 0
    with pytest.raises(UnusableInput, match="M003, W009"):
        clips_to_measure(root, "mead", "M001")


def test_the_command_line_offers_every_set_that_can_be_read():
    assert {MANIFEST, *DATASETS} == set(READERS) == set(LAYOUTS)


def test_another_folder_is_refused_with_the_layout(tmp_path):
    for dataset in DATASETS:
        with pytest.raises(UnusableInput, match=dataset):
            read_rows(tmp_path, dataset)


def test_a_public_set_trains_from_the_command_line(tmp_path, capsys):
    for person, clip in (("M005", "preview.mp4"), ("M003", "idle.mp4")):
        folder = tmp_path / "MEAD" / person / "video" / "front" / "happy" / "level_3"
        folder.mkdir(parents=True)
        shutil.copy(bundled_clip(clip), folder / "001.mp4")
    root = str(tmp_path / "MEAD")
    assert main(["pretrain", "face", "--dataset", "mead", "--root", root, "--output", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--dataset mead --root DIR" in card and "- people: 1\n" in card and "| mead | 1 | all |" in card
    assert main(["pretrain", "face", "--root", root, "--output", str(tmp_path / "out")]) == 2
    assert "--dataset" in capsys.readouterr().err
