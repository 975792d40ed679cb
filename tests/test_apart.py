"""Decoding in a process of its own: what takes it down, or too much of anything, is told in one sentence; the caller goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from media import babble, bundled_clip, number_of, numbered, write_clip, write_wav

from gmtalker.errors import UnusableSpeech, UnusableVideo
from gmtalker.media import apart
from gmtalker.media.audio import sound_seconds, stream_sound
from gmtalker.media.video import read_frames, read_info


@pytest.fixture(autouse=True)
def fresh():
    """No worker of an earlier test, and none for a later one."""
    apart._end_all()
    yield
    apart._end_all()


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "clip.mp4", (numbered(index) for index in range(100)))


def only_worker() -> apart._Worker:
    assert len(apart._idle) == 1
    return apart._idle[0]


def test_one_worker_serves_one_request_after_another(clip):
    assert read_info(clip).seconds == 4
    worker = only_worker()
    assert [number_of(frame) for frame in read_frames(clip)] == list(range(100))
    assert number_of(next(read_frames(clip))) == 0, "and goes on after one that was broken off"
    assert [number_of(frame) for frame in read_frames(clip)] == list(range(100))
    assert only_worker() is worker


def test_requests_at_once_get_workers_of_their_own(clip):
    one, other = read_frames(clip), read_frames(clip)
    assert [(number_of(a), number_of(b)) for a, b in zip(one, other)] == [(index, index) for index in range(100)]
    assert list(other) == [] and len(apart._idle) == 2
    found = []
    threads = [threading.Thread(target=lambda: found.append(len(list(read_frames(clip))))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [100] * 6 and len(apart._idle) == apart.IDLE_MAX


def test_errors_are_those_of_the_reader_and_the_worker_stays(tmp_path, clip):
    (tmp_path / "text.mp4").write_text("no film")
    for _ in range(2):
        with pytest.raises(UnusableVideo, match="text.mp4 is damaged or of a kind"):
            list(read_frames(tmp_path / "text.mp4"))
        with pytest.raises(UnusableSpeech, match="text.mp4 is damaged or of a kind"):
            list(stream_sound(tmp_path / "text.mp4", UnusableSpeech))
    assert len(list(read_frames(clip))) == 100 and only_worker()


def test_a_path_counts_from_where_the_caller_is_now(tmp_path, clip, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "clip.mp4").write_bytes(bundled_clip("idle.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert read_info(Path("clip.mp4")).width == 32
    monkeypatch.chdir(tmp_path / "other")
    assert read_info(Path("clip.mp4")).width == 360


def test_a_worker_that_is_killed_is_told_and_the_next_request_works(clip):
    frames = read_frames(bundled_clip("idle.mp4"))
    next(frames)
    for child in children():
        os.kill(child, signal.SIGKILL)
    with pytest.raises(UnusableVideo, match="idle.mp4 can't be read: it took the decoder down"):
        list(frames)
    assert len(list(read_frames(clip))) == 100


def children() -> list[int]:
    """Numbers of the workers of this process."""
    import psutil

    return [child.pid for child in psutil.Process().children() if "gmtalker.media.apart" in child.cmdline()]


def test_a_worker_that_waits_and_is_gone_is_replaced(clip):
    read_info(clip)
    os.kill(only_worker().process.pid, signal.SIGKILL)
    only_worker().process.wait()
    assert read_info(clip).seconds == 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit of the address space")
def test_a_film_that_takes_too_much_memory_is_told(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", (numbered(index) for index in range(5)))
    monkeypatch.setattr(apart, "MEMORY_BYTES", 2**30)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with pytest.raises(UnusableVideo, match="clip.mp4 takes too much memory to read"):
        _without_end(path)
    assert len(list(read_frames(path))) == 5


def test_a_film_that_takes_too_long_is_told(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", (numbered(index) for index in range(5)))
    monkeypatch.setattr(apart, "CPU_SECONDS", 1)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    began = time.monotonic()
    with pytest.raises(UnusableVideo, match="clip.mp4 can't be read: it took too long"):
        _for_ever(path)
    assert time.monotonic() - began < 20


@apart.apart()
def _without_end(path: Path) -> None:
    """A decoder that takes more and more."""
    taken = []
    while True:
        taken.append(np.ones(2**24))


@apart.apart()
def _for_ever(path: Path) -> None:
    """A decoder that never comes to an end."""
    while True:
        pass


def test_the_length_of_a_sound_is_read_apart_too(tmp_path):
    assert sound_seconds(write_wav(tmp_path / "a.wav", babble(1.5))) == pytest.approx(1.5)
    assert only_worker()


def test_what_a_worker_sends_is_not_trusted():
    """A worker that a file has taken over may write anything."""
    for said in (
        b"{",
        b"[]",
        b"{}",
        b'{"kind": "array", "dtype": "uint8", "shape": [1000000, 1000000]}',
        b'{"kind": "array"}',
        b"",
    ):
        worker = object.__new__(apart._Worker)
        worker.process = subprocess.Popen(
            [sys.executable, "-c", f"print({said.decode()!r})"], stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        with pytest.raises(apart.Broken):
            worker._result()
        worker.end()
