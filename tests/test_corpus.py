"""Test rows are never read, and of a training row only its training seconds."""

from __future__ import annotations

import numpy as np
import pytest

from gmtalker.assets import GENERIC
from gmtalker.clock import SAMPLES_PER_FRAME
from gmtalker.errors import UnusableInput
from gmtalker.face.model import FaceModel
from gmtalker.pretrain import corpus
from gmtalker.pretrain.corpus import fit_to_frames, load_corpus, load_points, to_float, to_int16
from gmtalker.pretrain.datasets import training_rows
from gmtalker.pretrain.face import pretrain_face
from tests.media import bundled_clip, real_clip, write_clip

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
    manifest = HEAD + "clip.mp4,speech,train,p,5,1.0,256,256,yes,,,ok,,\n"
    (tmp_path / "MANIFEST.csv").write_text(manifest)
    (tmp_path / "clip.mp4").write_bytes(bundled_clip("preview.mp4").read_bytes())
    (row,) = training_rows(tmp_path)
    video = load_points(row, tmp_path / "cache")
    assert len(video.points) == 25 and video.found.all() and video.source_size == (256, 256)
    steps = []
    (clip,) = load_corpus([row], tmp_path / "cache", FaceModel.load(GENERIC / "face_model"), steps.append)
    assert clip.frames == 25 and np.isfinite(clip.expression).all()
    assert clip.sound.shape == (25 * SAMPLES_PER_FRAME,) and clip.sound.dtype == np.int16
    assert clip.has_usable_speech and clip.motion.shape == (25, 10) and len(clip.silent) == len(clip.lips) == 25
    assert [step.stage for step in steps] == ["tracking", "measuring faces"]
    assert not list((tmp_path / "cache").rglob(".writing-*"))


def test_points_and_sound_are_kept(tmp_path, monkeypatch):
    """Every stage reads the same clips: only the first one searches for faces and reads the sound."""
    (tmp_path / "MANIFEST.csv").write_text(HEAD + "clip.mp4,speech,train,p,5,1.0,256,256,yes,,,ok,,\n")
    (tmp_path / "clip.mp4").write_bytes(bundled_clip("preview.mp4").read_bytes())
    rows, model = training_rows(tmp_path), FaceModel.load(GENERIC / "face_model")
    (first,) = load_corpus(rows, tmp_path / "cache", model)
    monkeypatch.setattr(corpus, "detect_landmarks", None)
    monkeypatch.setattr(corpus, "read_sound_or_none", None)
    (again,) = load_corpus(rows, tmp_path / "cache", model)
    assert np.array_equal(first.expression, again.expression) and np.array_equal(first.sound, again.sound)


def test_clips_that_show_no_face_are_left_out(tmp_path):
    (tmp_path / "MANIFEST.csv").write_text(HEAD + "clip.mp4,speech,train,p,2,2.0,64,64,no,,,ok,,\n")
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    write_clip(tmp_path / "clip.mp4", noise)
    assert load_corpus(training_rows(tmp_path), tmp_path / "cache", FaceModel.load(GENERIC / "face_model")) == []
    with pytest.raises(UnusableInput, match="a video with a face"):
        pretrain_face(training_rows(tmp_path), tmp_path)


def test_a_sound_is_cut_or_ends_in_silence_and_is_kept_as_16_bits():
    sound = np.linspace(-1, 1, 1000, dtype=np.float32)
    longer, shorter = fit_to_frames(sound, 2), fit_to_frames(sound, 1)
    assert len(longer) == 2 * SAMPLES_PER_FRAME and not longer[1000:].any() and np.array_equal(longer[:1000], sound)
    assert np.array_equal(shorter, sound[:SAMPLES_PER_FRAME])
    np.testing.assert_allclose(to_float(to_int16(sound)), sound, atol=2e-5)
    assert to_int16(np.array([2.0, -2.0])).tolist() == [32767, -32767]
