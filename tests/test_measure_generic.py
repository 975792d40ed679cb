"""The measures of the generic stages measure what they say; tiny networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FEATURES, perturbed
from media import bundled_clip

import gmtalker.measure.generic as measures
from gmtalker.__main__ import main
from gmtalker.avatars.ready import load_avatar
from gmtalker.clock import EMOTIONS
from gmtalker.media.audio import silent_frames
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.models.weights import save_half
from gmtalker.pretrain.datasets import Row
from gmtalker.tracks import count_blinks


@pytest.fixture
def short(tiny_avatar, monkeypatch):
    """Short ways, drawn by the tiny avatar."""
    avatar = load_avatar(tiny_avatar)
    monkeypatch.setattr(measures, "load_avatar", lambda _: avatar)
    for name, value in (("STEPS", 2), ("PATH_FRAMES", 26), ("STRENGTHS", 3), ("SEEDS", 3)):
        monkeypatch.setattr(measures, name, value)
    return avatar


def by_label(pipeline) -> ExpressionGenerator:
    torch.manual_seed(0)
    small = {"feature_dim": FEATURES, "width": 16, "heads": 2, "decoder_layers": 1, "z_dim": 8}
    coefficients = pipeline.face_model.coefficient_dim
    return perturbed(ExpressionGenerator(coefficient_dim=coefficients, by_label=True, **small))


def test_emotions_that_change_nothing_are_no_distance_apart(tiny_pipeline, short):
    generator = by_label(tiny_pipeline)
    features = torch.randn(40, FEATURES, generator=torch.Generator().manual_seed(1))
    moved = measures.emotion_measures(tiny_pipeline, generator, features, short)
    assert moved["e_ppl_mesh"] > 0 and moved["epdv_mesh"] >= 0 and set(moved["lips_as_in_neutral"]) == set(EMOTIONS[1:])
    with torch.no_grad():
        generator.labels.copy_(generator.labels[:1].expand_as(generator.labels))
    still = measures.emotion_measures(tiny_pipeline, generator, features, short)
    assert still["e_ppl_mesh"] < 1e-3 * moved["e_ppl_mesh"] and min(still["lips_as_in_neutral"].values()) > 0.999


def test_a_jump_on_the_way_shows_as_variance(tiny_pipeline, short, monkeypatch):
    monkeypatch.setattr(measures, "STEPS", 8)
    features = torch.randn(30, FEATURES, generator=torch.Generator().manual_seed(1))
    generator = by_label(tiny_pipeline)
    steady = measures.emotion_measures(tiny_pipeline, generator, features, short)
    mixed = generator.latent
    monkeypatch.setattr(generator, "latent", lambda weights, **options: mixed((weights > 0.5).float(), **options))
    jumping = measures.emotion_measures(tiny_pipeline, generator, features, short)
    assert jumping["epdv_mesh"] > 5 * steady["epdv_mesh"]


def test_silence_is_where_nothing_is_heard_around():
    sound = np.zeros(32_000, np.float32)
    sound[:8_000] = 0.3
    quiet = silent_frames(sound, 50)
    assert not quiet[:17].any() and quiet[18:].all()


def test_blinks_are_counted_once_each():
    closed = np.zeros(100)
    for begin in (10, 40, 70):
        closed[begin : begin + 6] = (0.3, 0.8, 0.45, 0.9, 0.4, 0.1)
    assert count_blinks(closed) == 3 and count_blinks(np.zeros(10)) == 0


def test_motion_of_several_seeds_beside_real_heads(tiny_pipeline, monkeypatch):
    monkeypatch.setattr(measures, "SEEDS", 3)
    features = torch.randn(60, FEATURES, generator=torch.Generator().manual_seed(1))
    real = np.zeros((50, 10))
    real[:, 0] = np.radians(10) * np.sin(np.arange(50))
    row = Row(Path("a.mp4"), "a.mp4", "speech", "p", 0.0, True, None, "ok", test=True)
    silence, still = np.zeros(16_000, np.float32), np.zeros((50, 3))
    unseen_speakers = [measures.UnseenSpeaker(row, np.zeros(50), still, sign * real, silence) for sign in (1, -1)]
    takes = measures._takes(tiny_pipeline, features)
    assert len(takes) == 3 and not np.allclose(takes[0], takes[1])
    found = measures.motion_measures(takes, unseen_speakers, tiny_pipeline.motion_generator.scale, silence)
    assert found["real"]["rotation_std_degrees"][0] == pytest.approx(10 / np.sqrt(2), rel=0.05)
    assert found["made"]["distance_between_takes"] > 0 and found["real"]["distance_between_takes"] > 0
    largest = np.degrees(np.abs(np.diff(real[:, 0])).max())
    assert found["real"]["largest_turn_of_a_frame_degrees"] == pytest.approx(largest, abs=0.01)


def test_heads_that_turn_on_the_stress_are_told_from_those_that_do_not():
    """Clicks twice a second; a head that turns fastest on each of them, and the same head a quarter of a second later."""
    sound = 0.0003 * np.random.default_rng(0).standard_normal(10 * 16_000)
    clicks = np.arange(8_000, 10 * 16_000, 8_000)
    for click in clicks:
        sound[click : click + 800] += 0.7 * np.hanning(800) * np.sin(np.arange(800) / 3)
    stress = measures.stressed_frames(sound.astype(np.float32), 250)
    assert len(stress) >= 15 and np.abs(stress[:, None] - clicks[None] / 640).min(1).max() <= 3
    motion = np.zeros((250, 10))
    motion[:, 1] = 0.05 * np.sin(2 * np.pi * (np.arange(250) - clicks[0] / 640) / 25)  # fastest every 12.5 frames
    late = np.roll(motion, 6, axis=0)
    assert measures.beat_alignment(motion, stress) > 0.8 > 0.5 > measures.beat_alignment(late, stress)
    assert measures.beat_alignment(np.zeros((250, 10)), stress) == 0


def test_the_command_measures_beside_unseen_speakers_of_a_manifest(tmp_path, tiny_generic, tiny_pipeline, short):
    head = "file,kind,split,person,seconds,train_seconds,speech,emotion,sync\n"
    (tmp_path / "MANIFEST.csv").write_text(head + "a.mp4,speech,test,p,5,0,yes,,ok\nb.mp4,speech,test,q,5,0,yes,,ok\n")
    (tmp_path / "a.mp4").write_bytes(bundled_clip("preview.mp4").read_bytes())
    save_half(by_label(tiny_pipeline), tmp_path / "baseline")
    output = tmp_path / "measures.json"
    options = ["--generic", str(tiny_generic), "--data", str(tmp_path), "--leave-out", "q"]
    options += ["--baseline", str(tmp_path / "baseline"), "--device", "cpu", "--pictures", str(tmp_path / "pictures")]
    assert main(["emotions", "--json", str(output), *options]) == 0
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"mixture.png", "head-motion.png", "angry-to-happy.jpg"}
    assert "## emotions of baseline" in output.with_suffix(".md").read_text()
    found = json.loads(output.read_text())
    assert found["emotions_of_baseline"]["e_ppl_mesh"] > 0 and found["motion"]["real"]["rotation_std_degrees"][0] > 0
