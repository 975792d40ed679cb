"""How fast this machine makes a video, stage by stage, and how much memory it takes."""

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
from gmtalker.avatars.ready import load_avatar
from gmtalker.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, frames_for
from gmtalker.device import one_core, usable_cores
from gmtalker.face.renderer import CHANNELS
from gmtalker.media.audio import read_speech
from gmtalker.media.video_writer import VideoWriter
from gmtalker.models.head_generator import REFERENCE_WIDTHS, WIDTHS, HeadGenerator
from gmtalker.pipeline import DRAW_BATCH, GMTalkerPipeline
from gmtalker.provenance.credentials import Seal
from gmtalker.request import SpeakRequest
from gmtalker.tracks import EmotionWeights, FaceTrack

STEPS_TIMED = 6  # batches
EMOTION = {"happy": 0.6, "surprised": 0.2}


def measure_speed(
    pipeline: GMTalkerPipeline, avatar: str | None = None, speech: Path = SPEECH, long: Sequence[float] = ()
) -> dict:
    """Wall and CPU milliseconds a frame of every stage, one after the other, and of the whole command, where they overlap.

    After one warm-up; start-up is apart. Memory is that of a process which does nothing else. long: minutes of speech that the
    stages before the picture are given too, to see whether memory and lips stay what they are.
    """
    waveform = read_speech(speech)
    frames = frames_for(len(waveform))
    began = time.perf_counter()
    pipeline.still(avatar)  # loads the avatar and warms every network up
    seconds_to_first_still = time.perf_counter() - began
    stages: dict[str, dict[str, float]] = {}

    with _timed(stages, "speech_encoder", frames):
        features = pipeline.encode(waveform)
    weights = EmotionWeights.from_mapping(EMOTION)
    with _timed(stages, "expression_generator", frames):
        expression = pipeline.expression(features, weights, avatar)
    with _timed(stages, "motion_generator", frames):
        motion = pipeline.motion(features, avatar)
    track = FaceTrack(expression, motion, torch.ones(frames, dtype=torch.bool))
    firsts = range(0, frames, DRAW_BATCH)  # in the batches, and on the one core, of drawing
    with one_core(), _timed(stages, "renderer", frames):
        renderings = [pipeline.render(track, avatar, first, DRAW_BATCH) for first in firsts]
    drawn, omega = [], weights.at(frames)
    with one_core(), _timed(stages, "head_generator", frames):
        for first, rendering in zip(firsts, renderings):
            drawn += list(pipeline.paint(avatar, rendering, omega[first : first + DRAW_BATCH]))

    card = load_avatar(avatar).card
    seal = Seal(card)
    Seal(card)(drawn[0])  # warms up
    with one_core(), _timed(stages, "mark", frames):
        drawn = [seal(frame) for frame in drawn]

    with tempfile.TemporaryDirectory() as folder:
        with _timed(stages, "video_encoder", frames):
            with VideoWriter(Path(folder) / "encoded.mp4", drawn[0].shape[1], drawn[0].shape[0], waveform) as writer:
                for frame in drawn:
                    writer.write(frame)
        with _timed(stages, "signature", frames):
            seal.sign(Path(folder) / "encoded.mp4")
        with _timed(stages, "speak", frames):
            pipeline.speak(SpeakRequest(speech, avatar, EMOTION), Path(folder) / "whole.mp4")

    speech_seconds = len(waveform) / SAMPLE_RATE
    speak_seconds = stages["speak"]["wall_ms_a_frame"] * frames / 1000
    return {
        "machine": describe_machine(pipeline),
        "picture": list(drawn[0].shape[:2]),
        "frames": frames,
        "speech_seconds": round(speech_seconds, 2),
        "speak_seconds": round(speak_seconds, 2),
        "times_speech_length": round(speak_seconds / speech_seconds, 3),
        "seconds_to_first_still": round(seconds_to_first_still, 2),
        "speak_peak_memory_megabytes": _apart(_memory_of_speaking, pipeline, speech, avatar),
        "stages": stages,
        "head_generators_cpu_ms_a_frame": time_head_generators(pipeline),
        "steps_of_drawing_ms_a_frame": time_steps_of_drawing(pipeline, avatar, renderings),
        "long_speech": [_apart(_long_speech, pipeline, speech, avatar, minutes) for minutes in long],
    }


def _apart(work: Callable, pipeline: GMTalkerPipeline, *given: object) -> object:
    """What work(device, *given) returns in a fresh process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, str(pipeline.device), *given).result()


def _memory_of_speaking(device: str, speech: Path, avatar: str | None) -> int:
    pipeline = GMTalkerPipeline.from_pretrained(device=device)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.speak(SpeakRequest(speech, avatar, EMOTION), Path(folder) / "whole.mp4")
    return round(_peak_memory() / 2**20)


def _long_speech(device: str, speech: Path, avatar: str | None, minutes: float) -> dict:
    """The same speech said again and again for so long, in an emotion: how its last time differs from its second."""
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
    """One frame on one core by untrained networks of our widths and of the reference's, in the batches and numbers of drawing."""
    result = {}
    for size in sizes:
        for name, widths in (("ours", WIDTHS[size]), ("reference", REFERENCE_WIDTHS[size])):
            generator = HeadGenerator(size, widths=widths).eval().to(pipeline.device, memory_format=torch.channels_last)
            rendering = torch.rand(DRAW_BATCH, CHANNELS, size, size, device=pipeline.device).to(memory_format=torch.channels_last)
            style = torch.zeros(DRAW_BATCH, generator.config.style_dim, device=pipeline.device)
            with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=pipeline.draws_in_half):
                generator(rendering, style)  # warms up
                began = _cpu_seconds()
                generator(rendering, style)
            result[f"{name}_{size}"] = round(1000 * (_cpu_seconds() - began) / DRAW_BATCH, 1)
    return result


@torch.inference_mode()
def time_steps_of_drawing(pipeline: GMTalkerPipeline, avatar: str | None, renderings: Sequence[np.ndarray]) -> dict[str, float]:
    """Wall milliseconds a frame of the avatar's head generator, each line with one thing more than the line above it."""
    loaded, omega = load_avatar(avatar), EmotionWeights.from_mapping(EMOTION)
    network = loaded.head_generator.to(pipeline.device)
    style = loaded.emotion_mapping(omega.at(DRAW_BATCH)).to(pipeline.device)
    batches = [renderings[index % len(renderings)][:DRAW_BATCH] for index in range(STEPS_TIMED)]
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
    """What the figures were measured on."""
    described = {
        "processor": _processor_name(),
        "cores": usable_cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "device": str(pipeline.device),
        "draws_in": "bfloat16" if pipeline.draws_in_half else "float32",
    }
    if pipeline.device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(pipeline.device)
    return described


@contextmanager
def _timed(stages: dict, name: str, frames: int) -> Iterator[None]:
    wall, cpu = time.perf_counter(), _cpu_seconds()
    yield
    stages[name] = {
        "wall_ms_a_frame": round(1000 * (time.perf_counter() - wall) / frames, 3),
        "cpu_ms_a_frame": round(1000 * (_cpu_seconds() - cpu) / frames, 3),
    }


def _cpu_seconds() -> float:
    """Of this process and of the ones it started and that ended: the video encoder is one."""
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
