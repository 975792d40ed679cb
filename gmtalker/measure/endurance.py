"""Accidents and load, from outside: programs killed at random moments, long speech, many visitors, a full disk, two at once.

Programs are started as people start them, in a workspace of their own, and looked at by what they leave: `measure endurance`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import wave
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

import gmtalker
from gmtalker.assets import SPEECH
from gmtalker.clock import FPS, SAMPLE_RATE
from gmtalker.command_line import DONE, UNUSABLE
from gmtalker.errors import UnusableInput
from gmtalker.files import HIDDEN, MEGABYTE
from gmtalker.media.audio import read_speech, stream_sound
from gmtalker.media.video import read_frames, read_info
from gmtalker.progress import OnProgress, Progress, ignore_progress

START_SECONDS = 300  # that a page may take to open
SPEECH_SECONDS = 4.0  # of what is said where nothing else is asked for
CROWD = 30  # visitors
TRAINING_MINUTES = 1.0  # of the trainings that are killed; they write a checkpoint every 15 seconds


@dataclass(frozen=True)
class Ordeal:
    """What is done to the programs, and how often.

    clip: a person's clip, for the trainings; None leaves them out.
    kills: of each program.
    minutes: of the long speech.
    visitors: at once on the page.
    videos: in the page's queue.
    small_disk: a folder on a disk of 50 to 500 MB that is filled up; None leaves that out.
    seed: of the random moments.
    """

    clip: Path | None = None
    kills: int = 20
    minutes: float = 60.0
    visitors: int = 50
    videos: int = 200
    small_disk: Path | None = None
    seed: int = 0


@dataclass
class _Place:
    """A workspace of its own, and a short speech."""

    folder: Path
    random: random.Random

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def speech(self) -> Path:
        return self.folder / "speech.wav"

    def start(self, module: str, *words: object, **options: object) -> subprocess.Popen:
        """Start a program, in a process group of its own."""
        project = str(Path(gmtalker.__file__).resolve().parent.parent)
        paths = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"GMTALKER_HOME": str(self.home), "PYTHONPATH": paths}
        command = [sys.executable, "-m", module, *map(str, words)]
        return subprocess.Popen(command, env=environment, cwd=self.folder, start_new_session=True, **options)

    def run(self, module: str, *words: object) -> tuple[int, float, str]:
        """Run a program to its end. Returns: exit code, seconds, what it said on stderr."""
        began = time.monotonic()
        process = self.start(module, *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = process.communicate()[1].decode(errors="replace")
        return process.returncode, time.monotonic() - began, said

    def speak(self, output: Path, speech: Path | None = None, *words: object) -> list[object]:
        """The words of a command that speaks."""
        return ["speak", "--speech", speech or self.speech, "--output", output, *words]


@contextmanager
def _place(ordeal: Ordeal, inside: Path | None = None) -> Iterator[_Place]:
    with tempfile.TemporaryDirectory(prefix="gmtalker-endurance-", dir=inside, ignore_cleanup_errors=True) as folder:
        place = _Place(Path(folder), random.Random(ordeal.seed))
        _write_speech(place.speech, SPEECH_SECONDS)
        yield place


def measure_endurance(ordeal: Ordeal, parts: Sequence[str] = (), on_progress: OnProgress = ignore_progress) -> dict:
    """Do all of it, or some parts.

    parts: names of PARTS; none for all.
    Returns: figures by part, as `measure endurance --json` writes them.
    Errors: ValueError for a part that does not exist; UnusableInput when a program does not even start.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"There is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    figures: dict[str, dict] = {}
    for name in parts or PARTS:
        on_progress(Progress(name.replace("_", " ")))
        began = time.monotonic()
        if (found := PARTS[name](ordeal)) is not None:
            figures[name] = found | {"seconds": round(time.monotonic() - began)}
    return figures


# --- Killed at random moments --------------------------------------------------------------------------------------------------


def killed_speaking(ordeal: Ordeal) -> dict:
    """`speak`, killed: is a half-written film ever seen, is anything left behind, is the next film the same?"""
    with _place(ordeal) as place:
        films = place.folder / "films"
        films.mkdir()
        code, lasts, said = place.run("gmtalker", *place.speak(films / "whole.mp4"))
        _must_run(code, said)
        whole, broken, left = _digest(films / "whole.mp4"), 0, 0
        for number in range(ordeal.kills):
            output = films / f"{number}.mp4"
            process = place.start("gmtalker", *place.speak(output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _kill(process, place.random.uniform(0, 1.05 * lasts))
            broken += output.exists() and _digest(output) != whole
            left = max(left, len(_hidden(films)))
        code, _, _ = place.run("gmtalker", *place.speak(films / "after.mp4"))
        same = code == DONE and _digest(films / "after.mp4") == whole
        return {
            "kills": ordeal.kills,
            "broken_films": broken,
            "hidden_before_the_next_start": left,
            "hidden_after_it": len(_hidden(films)) + len(_hidden(place.home)),
            "next_film_is_the_same": same,
        }


def killed_training(ordeal: Ordeal) -> dict | None:
    """A training, killed and resumed again and again: does it go on, and is its avatar as good as an unbroken one's?"""
    if ordeal.clip is None:
        return None
    clip = ordeal.clip.resolve()
    words = "train", clip, "--i-have-consent", "--minutes", TRAINING_MINUTES
    with _place(ordeal) as place:
        code, lasts, said = place.run("personalize", *words, "--name", "unbroken")
        _must_run(code, said)
        kills, went_back, broken = 0, 0, []
        while kills < ordeal.kills:
            broken.append(f"broken-{len(broken) + 1}")
            killed, back = _train_and_kill(place, [*words, "--name", broken[-1]], ordeal.kills - kills, lasts)
            kills, went_back = kills + killed, went_back + back
        return {
            "kills": kills,
            "trainings": len(broken),
            "went_back_behind_a_checkpoint": went_back,
            "psnr_unbroken_db": _quality(place.home / "avatars" / "unbroken"),
            "psnr_broken_db": [_quality(place.home / "avatars" / name) for name in broken],
            "hidden_at_the_end": len(_hidden(place.home)) + len(_hidden(place.home / "avatars")),
        }


def _train_and_kill(place: _Place, words: Sequence[object], most: int, lasts: float) -> tuple[int, int]:
    """One training, killed until it ends all the same, or often enough. Returns: kills; how often a checkpoint was lost."""
    kills, went_back, far = 0, 0, 0.0
    while kills < most:
        process = place.start("personalize", *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        kills += _kill(process, place.random.uniform(1, lasts))
        if process.returncode >= 0:  # it was not killed
            _must_run(process.returncode, f"a training that was killed does not go on: {' '.join(map(str, words))}")
            return kills, went_back
        now = _trained_seconds(place.home / "training" / str(words[-1]))
        went_back += now < far
        far = max(far, now)
    code, _, said = place.run("personalize", *words)
    _must_run(code, said)
    return kills, went_back


def killed_page(ordeal: Ordeal) -> dict:
    """The page, killed while it makes a video: does it open again, with all that people had?"""
    with _place(ordeal) as place:
        opened, lost = 0, 0
        place.run("gmtalker", *place.speak(place.folder / "first.mp4"))
        keep = sorted(path.name for path in place.home.iterdir())
        for _ in range(ordeal.kills):
            with _page(place) as (address, process):
                opened += 1
                visitor = threading.Thread(target=_ask_and_forget, args=(address, place.speech), daemon=True)
                visitor.start()
                _kill(process, place.random.uniform(0, 8))
            lost += not set(keep) <= {path.name for path in place.home.iterdir()}
        with _page(place) as (address, _):
            film = _ask(address, place.speech)
        return {"kills": ordeal.kills, "opened_again": opened, "lost": lost, "film_afterwards_seconds": read_info(film).seconds}


def _kill(process: subprocess.Popen, after: float) -> int:
    """Kill a process and all it started, after some seconds. Returns: 1, or 0 when it had ended by itself."""
    try:
        process.wait(after)
        return 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return 1


# --- Long, many, full, at once -------------------------------------------------------------------------------------------------


def long_speech(ordeal: Ordeal) -> dict:
    """A speech of an hour: memory over time, how far sound and picture are apart at the end, and whether it is the same face."""
    with _place(ordeal) as place:
        speech, output, tracks = (place.folder / name for name in ("long.wav", "long.mp4", "long.safetensors"))
        period = _write_speech(speech, 60 * ordeal.minutes)
        process = place.start("gmtalker", *place.speak(output, speech, "--tracks", tracks), stdout=subprocess.DEVNULL)
        memory = _memory_of(process)
        _must_run(process.returncode, "")
        quarters = np.array_split(np.array(memory), 4)
        info, frames, sound = read_info(output), 0, list(stream_sound(output))
        ends: list[np.ndarray] = []
        first = None
        for frame in read_frames(output):
            first = frame if first is None else first
            frames += 1
            ends = [*ends[-(10 * FPS - 1) :], frame] if frames > FPS * (info.seconds - 11) else ends
        heard = np.concatenate(sound)
        return {
            "minutes": round(frames / FPS / 60, 2),
            "memory_megabytes_by_quarter": [round(float(quarter.max()) / MEGABYTE) for quarter in quarters],
            "sound_longer_than_picture_ms": round(1000 * (len(heard) / SAMPLE_RATE - frames / FPS), 1),
            "sound_late_at_the_end_ms": round(1000 * _lag(heard, read_speech(speech)) / SAMPLE_RATE, 1),
            "lips_late_at_the_end_frames": _lips_late(tracks, period),
            "last_pictures_differ_from_the_first": round(float(np.abs(ends[-1].astype(int) - first).mean()), 1),
        }


def many_visitors(ordeal: Ordeal) -> dict:
    """So many visitors at once, each of whom wants one video."""
    return _asked_of_a_page(ordeal, ordeal.visitors, ordeal.visitors, 2.0)


def crowd(ordeal: Ordeal) -> dict:
    """30 visitors, three previews and a speech of 3 seconds each; a second person behind one who queues; memory afterwards."""
    from gmtalker.measure.crowd import REST_SECONDS, crowd_figures, turn_figures

    with _place(ordeal) as place:
        _write_speech(place.speech, 3.0)
        with _page(place) as (address, process):
            _ask(address, place.speech)
            before = _resident(process.pid)
            figures = crowd_figures(address, place.speech, CROWD)
            during = _resident(process.pid)
            figures |= turn_figures(address, place.speech)
            time.sleep(REST_SECONDS)
            memory = (round(size / MEGABYTE) for size in (before, during, _resident(process.pid)))
            return figures | dict(zip(("memory_before_mb", "memory_after_mb", "memory_ten_minutes_later_mb"), memory))


def long_queue(ordeal: Ordeal) -> dict:
    """So many videos in the queue of the page, from ten visitors."""
    return _asked_of_a_page(ordeal, 10, ordeal.videos, 0.6)


def _asked_of_a_page(ordeal: Ordeal, visitors: int, videos: int, seconds: float) -> dict:
    with _place(ordeal) as place:
        _write_speech(place.speech, seconds)
        with _page(place) as (address, process), ThreadPoolExecutor(visitors) as crowd:
            began = time.monotonic()
            asked = [crowd.submit(_timed_ask, address, place.speech) for _ in range(videos)]
            results = [future.result() for future in asked]
            took = time.monotonic() - began
            memory = _resident(process.pid)
        waits = [wait for wait in results if wait is not None]
        return {
            "visitors": visitors,
            "videos": videos,
            "failed": results.count(None),
            "videos_a_minute": round(60 * len(waits) / took, 1),
            "slowest_seconds": round(max(waits, default=0.0), 1),
            "memory_megabytes": round(memory / MEGABYTE),
        }


def full_disk(ordeal: Ordeal) -> dict | None:
    """The disk of films and workspace, filled up at random moments: a sentence, no leavings, and all well with room again?"""
    if ordeal.small_disk is None:
        return None
    with _place(ordeal, ordeal.small_disk) as place:
        code, lasts, said = place.run("gmtalker", *place.speak(place.folder / "whole.mp4"))
        _must_run(code, said)
        codes, wordless, broken, left = [], 0, 0, 0
        for number in range(ordeal.kills):
            output = place.folder / f"{number}.mp4"
            process = place.start("gmtalker", *place.speak(output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            timer = threading.Timer(place.random.uniform(0, lasts), _fill, (place.folder,))
            timer.start()
            said = process.communicate()[1].decode(errors="replace").strip()
            timer.join()
            codes.append(process.returncode)
            wordless += process.returncode != DONE and ("Traceback" in said or "went wrong inside" in said or not said)
            (place.folder / "ballast").unlink()
            broken += output.exists() and read_info(output).seconds < SPEECH_SECONDS - 0.1
            left += len(_hidden(place.folder)) + len(_hidden(place.home))
            output.unlink(missing_ok=True)
        code, _, _ = place.run("gmtalker", *place.speak(place.folder / "after.mp4"))
        return {
            "times": ordeal.kills,
            "told": codes.count(UNUSABLE),
            "done_before_it_was_full": codes.count(DONE),
            "other_exit_codes": len(codes) - codes.count(UNUSABLE) - codes.count(DONE),
            "without_a_sentence": wordless,
            "broken_films": broken,
            "leavings": left,
            "well_with_room_again": code == DONE,
        }


def two_at_once(ordeal: Ordeal) -> dict:
    """Two processes in one fresh workspace, which begin in the same moment: films, each signed, and trainings."""
    with _place(ordeal) as place:
        outputs = [place.folder / f"{number}.mp4" for number in range(2)]
        films = [place.start("gmtalker", *place.speak(output), stdout=subprocess.DEVNULL) for output in outputs]
        codes = [process.wait() for process in films]
        signed = [place.run("gmtalker", "verify", output)[0] for output in outputs]
        figures: dict[str, object] = {"films": codes, "verified": signed, "same": _digest(outputs[0]) == _digest(outputs[1])}
        if ordeal.clip is not None:
            words = "train", ordeal.clip.resolve(), "--i-have-consent", "--minutes", TRAINING_MINUTES, "--name"
            trainings = [place.start("personalize", *words, name, stdout=subprocess.DEVNULL) for name in ("one", "other")]
            figures["trainings"] = [process.wait() for process in trainings]
            figures["avatars"] = sorted(path.name for path in (place.home / "avatars").iterdir())
        return figures


PARTS: dict[str, Callable[[Ordeal], dict | None]] = {
    part.__name__: part
    for part in (
        killed_speaking,
        killed_training,
        killed_page,
        long_speech,
        many_visitors,
        crowd,
        long_queue,
        full_disk,
        two_at_once,
    )
}


# --- The page ------------------------------------------------------------------------------------------------------------------


@contextmanager
def _page(place: _Place) -> Iterator[tuple[str, subprocess.Popen]]:
    """A page that is open: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = place.start("studio.page", "--port", port, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(10 * START_SECONDS):
            try:
                with urllib.request.urlopen(address, timeout=5):
                    break
            except OSError:
                if process.poll() is not None:
                    raise UnusableInput("The page does not open.") from None
                time.sleep(0.1)
        yield address, process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _ask(address: str, speech: Path) -> Path:
    """A video from a page, as a program asks for it."""
    import gradio_client  # late: it comes with the page

    client = gradio_client.Client(address, verbose=False, analytics_enabled=False)
    return Path(client.predict(avatar="GRID s1", speech=gradio_client.handle_file(speech), api_name="/speak")[0])


def _ask_and_forget(address: str, speech: Path) -> None:
    try:
        _ask(address, speech)
    except Exception:  # noqa: BLE001 - the page is killed meanwhile
        return


def _timed_ask(address: str, speech: Path) -> float | None:
    """Seconds until the video is there; None where it never comes."""
    began = time.monotonic()
    try:
        return time.monotonic() - began if _ask(address, speech).is_file() else None
    except Exception:  # noqa: BLE001 - whatever it was: this visitor got no video
        return None


# --- What is left --------------------------------------------------------------------------------------------------------------


def _write_speech(path: Path, seconds: float) -> int:
    """The bundled speech, again and again, as 16-bit sound. Returns: frames of video after which it begins anew."""
    once = read_speech(SPEECH)
    once = once[: len(once) // (SAMPLE_RATE // FPS) * (SAMPLE_RATE // FPS)]
    left = round(seconds * SAMPLE_RATE)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        while left > 0:
            file.writeframes((once[:left] * 32767).astype("<i2").tobytes())
            left -= len(once)
    return len(once) * FPS // SAMPLE_RATE


def _must_run(code: int | None, said: str) -> None:
    if code != DONE:
        raise UnusableInput(f"A program that nobody disturbed ended with {code}: {said.strip()[-300:]}")


def _digest(film: Path) -> str:
    """Of a film's pictures, the same for the same pictures."""
    digest = hashlib.sha256()
    for frame in read_frames(film):
        digest.update(frame.tobytes())
    return digest.hexdigest()


def _hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(HIDDEN)] if folder.is_dir() else []


def _trained_seconds(work: Path) -> float:
    """Seconds of training that its checkpoints hold: none of them may be lost by a kill."""
    total = 0.0
    for path in work.rglob("*.safetensors") if work.is_dir() else ():
        with safe_open(path, "numpy") as file:
            total += float((file.metadata() or {}).get("seconds", 0.0))
    return total


def _quality(avatar: Path) -> float:
    return json.loads((avatar / "avatar.json").read_text(encoding="utf-8"))["measures"]["psnr"]


def _fill(folder: Path) -> None:
    """Leave no room on the disk."""
    with open(folder / "ballast", "wb", buffering=0) as ballast:
        for size in (MEGABYTE, 4096):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


def _resident(pid: int) -> int:
    """Bytes of memory of a process and its children."""
    import psutil

    try:
        process = psutil.Process(pid)
        return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


def _memory_of(process: subprocess.Popen) -> list[int]:
    """Bytes of memory of a process and its children, every other second until it ends."""
    seen = []
    while process.poll() is None:
        seen.append(_resident(process.pid))
        time.sleep(2)
    return seen


def _lag(heard: np.ndarray, said: np.ndarray, seconds: float = 10.0) -> int:
    """Samples by which the last seconds of a film's sound come late, as correlation finds it."""
    count, most = round(seconds * SAMPLE_RATE), SAMPLE_RATE // 4
    end = min(len(heard), len(said)) - most
    window = said[end - count : end]
    padded = heard[end - count - most : end + most]
    scores = np.fft.irfft(np.fft.rfft(padded, 2 * len(padded)) * np.conj(np.fft.rfft(window, 2 * len(padded))))
    return int(np.argmax(scores[: 2 * most])) - most


def _lips_late(tracks: Path, period: int) -> int:
    """Frames by which the lips of the last time that the speech is said come later than those of the second."""
    from gmtalker.tracks import FaceTrack

    coefficients = FaceTrack.load(tracks).expression.coefficients.numpy()
    times = len(coefficients) // period
    if times < 3:
        return 0
    second, last = (coefficients[number * period : (number + 1) * period] for number in (1, times - 1))
    reach = range(-10, 11)
    scores = [float((np.roll(last, -shift, axis=0) * second).sum()) for shift in reach]
    return reach[int(np.argmax(scores))]
