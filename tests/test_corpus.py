"""Test rows are never read, and of a training row only its training seconds."""

from __future__ import annotations

import numpy as np
import pytest

from gmtalker.assets import GENERIC
from gmtalker.errors import UnusableInput
from gmtalker.face.model import FaceModel
from gmtalker.pretrain.corpus import load_corpus, load_points
from gmtalker.pretrain.datasets import training_rows
from tests.media import real_clip

HEAD = "file,kind,split,person,seconds,train_seconds,width,height,speech,emotion,level,sync,licence,source\n"


def test_only_train_rows_with_training_seconds(tmp_path):
    (tmp_path / "MANIFEST.csv").write_text(
        HEAD
        + "a.mp4,speech,train,p,5,4.0,1,1,yes,,,ok,,\n"
        + "b.mp4,speech,test,p,5,0,1,1,yes,,,ok,,\n"
        + "c.mp4,speech,train,p,5,0,1,1,yes,,,ok,,\n"
    )
    rows = training_rows(tmp_path)
    assert [row.file for row in rows] == ["a.mp4"] and rows[0].train_seconds == 4.0


def test_a_folder_without_manifest_is_named(tmp_path):
    with pytest.raises(UnusableInput, match="MANIFEST"):
        training_rows(tmp_path)


def test_no_test_row_is_ever_a_training_row():
    rows = training_rows(real_clip("MANIFEST.csv").parent)
    files = {row.file for row in rows}
    assert len(files) > 1000 and "av/german20.mp4" not in files and not any(file.startswith("driving/") for file in files)


def test_training_stops_at_the_training_seconds(tmp_path):
    manifest = HEAD + "clip.mp4,speech,train,p,5,1.0,844,844,yes,,,ok,,\n"
    (tmp_path / "MANIFEST.csv").write_text(manifest)
    (tmp_path / "clip.mp4").write_bytes((real_clip("av/vrt2.mp4")).read_bytes())
    (row,) = training_rows(tmp_path)
    points, found, size = load_points(row, tmp_path / "cache")
    assert len(points) == 25 and found.all() and tuple(size) == (844, 844)
    (clip,) = load_corpus([row], tmp_path / "cache", FaceModel.load(GENERIC / "face_model"))
    assert clip.frames == 25 and clip.mel.shape == (100, 80) and np.isfinite(clip.expression).all()
