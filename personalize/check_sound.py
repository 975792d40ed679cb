"""Lines of the report on a clip about its sound, beside how loud it is: where there is none, and whether it is this mouth's."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np
import torch

from gmtalker.clock import EMOTIONS, FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from gmtalker.device import one_core
from gmtalker.media.audio import silent_frames
from gmtalker.media.sound_track import SILENCE
from personalize.examined import Stretch, runs
from personalize.report_line import ReportLine
from personalize.sound_sync import SpokenFootage, footage_sync, is_another_voice, sound_lag

if TYPE_CHECKING:  # for types alone: diffusers and its libraries take seconds, which a check need not wait for
    from gmtalker.stages import GenericStages

LAG_MAX = 1.5  # frames by which sound and picture may be apart
MUTED_SECONDS = 2.0  # without any sound: no pause has less than the noise of a room
DRIFT_MAX = 3.0  # frames by which the lag may change from the begin to the end
InStep = Callable[[Stretch, np.ndarray], list[ReportLine]]


class SynchronyApart:
    """`synchrony` in a process of its own, which loads the networks while this one looks at the pictures.

    Their libraries take longer than a check does. `with SynchronyApart() as in_step: check_clip(path, in_step=in_step)`.
    """

    def __enter__(self) -> InStep:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        return self._ask

    def _ask(self, stretch: Stretch, sound: np.ndarray) -> list[ReportLine]:
        self._ours.send((replace(stretch, frames=[]), sound))  # of the pictures only what was found in them is needed
        lines: list[ReportLine] = self._ours.recv()
        return lines

    def __exit__(self, *error: object) -> None:
        self._ours.close()
        self._process.kill()
        self._process.join()


def _answer(requests: Connection) -> None:
    """The process of SynchronyApart."""
    for package in ("peft", "transformers"):  # for training and other encoders; without them diffusers is there seconds sooner
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]
    from gmtalker.stages import load_stages

    torch.set_num_threads(1)
    stages = load_stages()
    while True:
        try:
            requests.send(synchrony(*requests.recv(), stages))
        except EOFError:
            return


def muted_seconds(sound: np.ndarray, seconds: float) -> list[ReportLine]:
    """Whether parts of a clip hold no sound at all.

    sound: (samples,) at 16 kHz.
    seconds: of the clip.
    """
    frames = round(seconds * FPS)
    padded = np.pad(sound, (0, max(0, frames * SAMPLES_PER_FRAME - len(sound))))[: frames * SAMPLES_PER_FRAME]
    quiet = padded.reshape(frames, SAMPLES_PER_FRAME).std(1) < SILENCE
    muted = sum(last - first for first, last in runs(quiet) if last - first >= MUTED_SECONDS * FPS) / FPS
    if not muted:
        return []
    value = f"{muted:.0f} of {seconds:.0f} seconds hold no sound"
    return [ReportLine("muted parts", "warn", value, "The speaking style is learned from the rest alone.")]


def synchrony(stretch: Stretch, sound: np.ndarray, stages: GenericStages) -> list[ReportLine]:
    """Whether sound and lips are together: yes, by so much apart, or nobody can tell."""
    whole = _spoken(stretch, sound, stages, (True, True))
    sync = footage_sync(whole, stages.face_model)
    if is_another_voice(sync):
        advice = "The lips say something else: the voice is dubbed, or somebody out of the picture speaks. Use its own sound."
        return [ReportLine("sound with lips", "warn", f"the sound is not this mouth's (agreement {sync.confidence:.1f})", advice)]
    if sync is not None and not sync.is_sure:
        advice = "Too little is said in the seconds that were examined, or the lips are hard to see; the sound is taken as it is."
        return [
            ReportLine("sound with lips", "warn", f"nobody can tell (agreement {sync.confidence:.1f}; 2 would be sure)", advice)
        ]
    lag = sound_lag(stages.expression_generator, whole, stages.face_model)
    value = f"sound {abs(1000 * lag / FPS):.0f} ms {'late' if lag > 0 else 'early'}" if abs(lag) >= 0.5 else "together"
    lines = _drift(stretch, sound, stages)
    if abs(lag) > LAG_MAX and not lines:
        return [ReportLine("sound with lips", "warn", value, "The training corrects it.")]
    return lines or [ReportLine("sound with lips", "pass", value)]


def _drift(stretch: Stretch, sound: np.ndarray, stages: GenericStages) -> list[ReportLine]:
    """A lag that is another at the end of the clip."""
    from gmtalker.measure.sync import CONFIDENCE_MIN  # late: diffusers takes seconds

    # The voice is known to be this mouth's: a lag further out need not be surer than a near one.
    ends = (_spoken(stretch, sound, stages, of) for of in ((True, False), (False, True)))
    parts = [footage_sync(end, stages.face_model, CONFIDENCE_MIN) for end in ends]
    if any(part is None or not part.is_sure for part in parts) or abs(parts[0].lag_frames - parts[1].lag_frames) <= DRIFT_MAX:
        return []
    begin, end = (f"{part.lag_ms:+.0f} ms" for part in parts)
    advice = "Sound and picture run at different speeds; convert the film again, with a constant frame rate."
    return [ReportLine("sound with lips", "warn", f"{begin} at the start, {end} at the end", advice)]


def _spoken(stretch: Stretch, sound: np.ndarray, stages: GenericStages, parts: tuple[bool, bool]) -> SpokenFootage:
    """What is seen and heard at the begin and at the end of a clip, those parts that are wanted."""
    track, silent = stretch.track, silent_frames(sound, max(len(sound) // SAMPLES_PER_FRAME, 1))
    coefficients, features, usable, starts = [], [], [], [0]
    places = ((0, stretch.end, 0), (stretch.end, len(stretch.found), stretch.end_frame))
    for wanted, (first, last, frame) in zip(parts, places):
        heard = sound[frame * SAMPLES_PER_FRAME : (frame + last - first) * SAMPLES_PER_FRAME]
        if not wanted or len(heard) < SAMPLE_RATE // 2 or first == last:
            continue
        encoded = _encoded(stages, heard)
        count = min(last - first, len(encoded), len(silent) - frame)
        coefficients.append(track.expression.coefficients[first : first + count])
        features.append(encoded[:count])
        usable.append(stretch.found[first : first + count] & ~silent[frame : frame + count])
        starts.append(starts[-1] + count)
    if not features:
        nothing = torch.zeros(0, track.expression.coefficients.shape[1])
        return SpokenFootage(
            nothing, _encoded(stages, np.zeros(SAMPLES_PER_FRAME, np.float32))[:0], np.zeros(0, bool), torch.zeros(0, 8), [0]
        )
    emotion = torch.eye(len(EMOTIONS))[:1].expand(starts[-1], -1)
    return SpokenFootage(torch.cat(coefficients), torch.cat(features), np.concatenate(usable), emotion, starts[:-1])


def _encoded(stages: GenericStages, sound: np.ndarray) -> torch.Tensor:
    """(frames, d) features of (samples,) at 16 kHz."""
    with one_core():
        return stages.speech_encoder.encode(torch.from_numpy(np.ascontiguousarray(sound)).to(stages.speech_encoder.device)).cpu()
