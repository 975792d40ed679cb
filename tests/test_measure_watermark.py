"""The watermark is measured as it is: found in what was marked, also after an attack, and in no real clip."""

import pytest
from media import bundled_clip

import gmtalker.measure.watermark as module
from gmtalker.errors import UnusableInput
from gmtalker.measure.watermark import measure_mark
from gmtalker.pipeline import GMTalkerPipeline


def test_bits_alarms_and_what_it_costs(home, monkeypatch):
    monkeypatch.setattr(module, "VIDEOS", 1)
    monkeypatch.setattr(module, "SECONDS", 1)
    attack = "encoded again at crf 28"
    monkeypatch.setattr(module, "ATTACKS", {attack: module.ATTACKS[attack]})
    steps = []
    clips = [bundled_clip("idle.mp4"), bundled_clip("preview.mp4")]  # real footage, and a video that this program made
    figures = measure_mark(GMTalkerPipeline.from_pretrained(device="cpu"), clips, steps.append)
    assert figures["outputs"] == 1 and figures["avatars"] == ["GRID s1"]
    right = {"most": 0, "videos_with_any": 0, "missed_though_known": 0}
    assert figures["wrong_bits_of_64"] == {name: right for name in (module.AS_WRITTEN, attack)}
    assert figures["real_clips"] == 2 and figures["real_clips_said_to_be_marked"] == 1
    assert 40 <= figures["psnr_beside_the_unmarked"]["least"] == pytest.approx(figures["psnr_beside_the_unmarked"]["mean"])
    assert figures["cpu_ms_a_frame"] > 0
    assert [step.stage for step in steps] == ["marking GRID s1, neutral", "reading idle.mp4", "reading preview.mp4"]


def test_a_video_without_its_mark_is_wrong_in_every_bit(tmp_path):
    assert module._wrong_bits(bytes(5), bundled_clip("idle.mp4")) == 64


def test_an_attack_that_ffmpeg_refuses_is_one_sentence(tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(UnusableInput, match="ffmpeg can't change the video"):
        module._attacked(broken, ["encoded again at crf 28"])
