"""Measure how fast this machine makes a video, stage by stage, and how much memory it takes: `bench`."""

from __future__ import annotations

import multiprocessing
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmtalker.assets import SPEECH
from gmtalker.avatars.drawing_engine import DRAW_BATCH, engine_name
from gmtalker.avatars.ready import load_avatar
from gmtalker.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, frames_for
from gmtalker.device import one_core, usable_cores
from gmtalker.face.renderer import CHANNELS
from gmtalker.media.audio import read_speech
from gmtalker.media.video_writer import VideoWriter
from gmtalker.models.head_generator import REFERENCE_WIDTHS, WIDTHS, HeadGenerator
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.provenance.credentials import Seal
from gmtalker.request import SpeakRequest
from gmtalker.tracks import EmotionWeights, FaceTrack

TIMED_BATCHES = 6
EMOTION = {"happy": 0.6, "surprised": 0.2}
Stages = dict[str, dict[str, float]]  # milliseconds per frame of each stage, "wall_ms_a_frame" and "cpu_ms_a_frame"


def measure_speed(
    pipeline: GMTalkerPipeline, avatar: str | None = None, speech: Path = SPEECH, long: Sequence[float] = ()
) -> dict:
    """Time every stage on its own, then the whole command, in which they overlap, and measure its memory.

    Networks are warmed up before, start-up is timed apart, and memory is that of a process that does nothing else.

    speech: a recording that the avatar says.
    long: minutes of speech that the stages before the picture are run on too, to see whether memory grows and lips drift.
    Returns: figures by name, as `bench --json` writes them: times in wall and CPU milliseconds per frame, memory in megabytes.
    Errors: UnusableInput when avatar or speech can't be used.
    """
    waveform = read_speech(speech)
    frames = frames_for(len(waveform))
    began = time.perf_counter()
    pipeline.still(avatar)  # loads the avatar and warms every network up
    seconds_to_first_still = time.perf_counter() - began
    stages: Stages = {}
    renderings = _time_tracks(stages, pipeline, avatar, waveform)
    pictures = _time_drawing(stages, pipeline, avatar, renderings)
    _time_writing(stages, pipeline, avatar, speech, pictures)
    speech_seconds = len(waveform) / SAMPLE_RATE
    speak_seconds = stages["speak"]["wall_ms_a_frame"] * frames / 1000
    return {
        "machine": describe_machine(pipeline),
        "picture": list(pictures[0].shape[:2]),
        "frames": frames,
        "speech_seconds": round(speech_seconds, 2),
        "speak_seconds": round(speak_seconds, 2),
        "times_speech_length": round(speak_seconds / speech_seconds, 3),
        "seconds_to_first_still": round(seconds_to_first_still, 2),
        "speak_peak_memory_megabytes": _in_new_process(_memory_of_speaking, pipeline, speech, avatar),
        "stages": stages,
        "head_generators_cpu_ms_a_frame": time_head_generators(pipeline),
        "steps_of_drawing_ms_a_frame": time_steps_of_drawing(pipeline, avatar, renderings),
        "long_speech": [_in_new_process(_long_speech, pipeline, speech, avatar, minutes) for minutes in long],
    }


def _time_tracks(stages: Stages, pipeline: GMTalkerPipeline, avatar: str | None, waveform: np.ndarray) -> list[np.ndarray]:
    """Time the stages from speech to renderings. Returns: the renderings, in the batches of drawing."""
    frames = frames_for(len(waveform))
    with _timed(stages, "speech_encoder", frames):
        features = pipeline.encode(waveform)
    weights = EmotionWeights.from_mapping(EMOTION)
    with _timed(stages, "expression_generator", frames):
        expression = pipeline.expression(features, weights, avatar)
    with _timed(stages, "motion_generator", frames):
        motion = pipeline.motion(features, avatar)
    track = FaceTrack(expression, motion, torch.ones(frames, dtype=torch.bool))
    with one_core(), _timed(stages, "renderer", frames):  # on one core, as in drawing
        return [pipeline.render(track, avatar, first, DRAW_BATCH) for first in range(0, frames, DRAW_BATCH)]


def _time_drawing(
    stages: Stages, pipeline: GMTalkerPipeline, avatar: str | None, renderings: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Time head generator and watermark. Returns: the marked frames."""
    frames, weights = sum(map(len, renderings)), EmotionWeights.from_mapping(EMOTION)
    pictures: list[np.ndarray] = []
    with one_core(), _timed(stages, "head_generator", frames):
        for rendering in renderings:
            pictures += list(pipeline.paint(avatar, rendering, weights.at(len(rendering))))
    card = load_avatar(avatar).card
    seal = Seal(card)
    Seal(card)(pictures[0])  # warms up
    with one_core(), _timed(stages, "mark", frames):
        return [seal(picture) for picture in pictures]


def _time_writing(
    stages: Stages, pipeline: GMTalkerPipeline, avatar: str | None, speech: Path, pictures: Sequence[np.ndarray]
) -> None:
    """Time video encoder and signature, then the whole command."""
    waveform, frames, (height, width) = read_speech(speech), len(pictures), pictures[0].shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        encoded = Path(folder) / "encoded.mp4"
        with _timed(stages, "video_encoder", frames):
            with VideoWriter(encoded, width, height, waveform) as writer:
                for picture in pictures:
                    writer.write(picture)
        seal = Seal(load_avatar(avatar).card)
        with _timed(stages, "signature", frames):
            seal.sign(encoded)
        with _timed(stages, "speak", frames):
            pipeline.speak(SpeakRequest(speech, avatar, EMOTION), Path(folder) / "whole.mp4")


def _in_new_process(work: Callable, pipeline: GMTalkerPipeline, *arguments: object) -> object:
    """What work(device, *arguments) returns in a fresh process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, str(pipeline.device), *arguments).result()


def _memory_of_speaking(device: str, speech: Path, avatar: str | None) -> int:
    """Megabytes at the peak of one `speak`."""
    pipeline = GMTalkerPipeline.from_pretrained(device=device)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.speak(SpeakRequest(speech, avatar, EMOTION), Path(folder) / "whole.mp4")
    return round(_peak_memory() / 2**20)


def _long_speech(device: str, speech: Path, avatar: str | None, minutes: float) -> dict:
    """The same speech repeated for so many minutes, in an emotion: how the lips of its last time differ from its second."""
    pipeline = GMTalkerPipeline.from_pretrained(device=device)
    once = read_speech(speech)
    once = once[: len(once) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME]
    period = len(once) // SAMPLES_PER_FRAME
    times = max(3, round(60 * minutes * FPS / period))
    began = _cpu_seconds()
    features = pipeline.encode(np.tile(once, times))
    weights = EmotionWeights.from_mapping(EMOTION)
    expression = pipeline.expression(features, weights, avatar)
    pipeline.motion(features, avatar, weights=weights)
    seconds = _cpu_seconds() - began
    lips = pipeline.face_model.lip_opening(expression.coefficients.numpy()).reshape(times, period)
    return {
        "minutes": round(times * period / FPS / 60, 2),
        "speech_expression_motion_cpu_ms_a_frame": round(1000 * seconds / (times * period), 3),
        "peak_memory_megabytes": round(_peak_memory() / 2**20),
        "last_lips_as_second_correlation": round(float(np.corrcoef(lips[1], lips[-1])[0, 1]), 4),
        "last_lips_as_second_spread": round(float(lips[-1].std() / max(lips[1].std(), 1e-9)), 4),
    }


@torch.inference_mode()
@one_core()
def time_head_generators(pipeline: GMTalkerPipeline, sizes: Sequence[int] = (256, 512)) -> dict[str, float]:
    """CPU milliseconds per frame of untrained networks with our widths and with the reference's, on one core.

    sizes: sides of the pictures in pixels.
    Returns: by name, such as "ours_256" and "reference_256".
    """
    result = {}
    for size in sizes:
        for name, widths in (("ours", WIDTHS[size]), ("reference", REFERENCE_WIDTHS[size])):
            generator = HeadGenerator(size, widths=widths).eval().to(pipeline.device, memory_format=torch.channels_last)
            rendering = torch.rand(DRAW_BATCH, CHANNELS, size, size, device=pipeline.device)
            rendering = rendering.to(memory_format=torch.channels_last)
            style = torch.zeros(DRAW_BATCH, generator.config.style_dim, device=pipeline.device)
            with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=pipeline.draws_in_half):
                generator(rendering, style)  # warms up
                began = _cpu_seconds()
                generator(rendering, style)
            result[f"{name}_{size}"] = round(1000 * (_cpu_seconds() - began) / DRAW_BATCH, 1)
    return result


@torch.inference_mode()
def time_steps_of_drawing(pipeline: GMTalkerPipeline, avatar: str | None, renderings: Sequence[np.ndarray]) -> dict[str, float]:
    """Wall milliseconds per frame of the avatar's head generator, each entry with one optimisation more than the one before.

    renderings: batches (frames, height, width, channels) uint8.
    """
    loaded, omega = load_avatar(avatar), EmotionWeights.from_mapping(EMOTION)
    network = loaded.head_generator.to(pipeline.device)
    style = loaded.emotion_mapping(omega.at(DRAW_BATCH)).to(pipeline.device)
    batches = [renderings[index % len(renderings)][:DRAW_BATCH] for index in range(TIMED_BATCHES)]
    batches = [torch.from_numpy(batch).to(pipeline.device).permute(0, 3, 1, 2).float() / 127.5 - 1 for batch in batches]
    batches = [batch for batch in batches if len(batch) == DRAW_BATCH]

    def timed(layout: torch.memory_format, half: bool, size: int) -> float:
        network.to(memory_format=layout)

        def draw(pictures: Tensor) -> None:
            with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=half):
                for part in pictures.contiguous(memory_format=layout).split(size):
                    network(part, style[: len(part)])

        draw(batches[0])
        began = time.perf_counter()
        for pictures in batches:
            draw(pictures)
        return round(1000 * (time.perf_counter() - began) / (len(batches) * DRAW_BATCH), 2)

    half = pipeline.draws_in_half
    result = {
        "one frame at a time, float32": timed(torch.contiguous_format, False, 1),
        "channels last": timed(torch.channels_last, False, 1),
    }
    if half:
        result["bfloat16"] = timed(torch.channels_last, half, 1)
    result[f"{DRAW_BATCH} frames at a time"] = timed(torch.channels_last, half, DRAW_BATCH)
    began = time.perf_counter()
    with one_core(), ThreadPoolExecutor(usable_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda batch: pipeline.paint(avatar, batch, omega.at(len(batch))), renderings))
    frames = sum(map(len, renderings))
    result["whole batches side by side, a core each, pixels in and out"] = round(1000 * (time.perf_counter() - began) / frames, 2)
    return result


def describe_machine(pipeline: GMTalkerPipeline) -> dict:
    """The machine and the libraries that figures were measured with."""
    described = {
        "processor": _processor_name(),
        "cores": usable_cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "device": str(pipeline.device),
        "draws_in": "bfloat16" if pipeline.draws_in_half else "float32",
        "engine": engine_name(pipeline.device),
    }
    if pipeline.device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(pipeline.device)
    return described


@contextmanager
def _timed(stages: Stages, name: str, frames: int) -> Iterator[None]:
    """Add a stage with the time that the block takes."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    yield
    stages[name] = {
        "wall_ms_a_frame": round(1000 * (time.perf_counter() - wall) / frames, 3),
        "cpu_ms_a_frame": round(1000 * (_cpu_seconds() - cpu) / frames, 3),
    }


def _cpu_seconds() -> float:
    """Of this process and of its children that ended: the video encoder is one."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _peak_memory() -> float:
    """Bytes of memory that this process ever had at once."""
    try:
        # Linux counts what the parent had into the usage of a process that it starts.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * float(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but on a Mac


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
