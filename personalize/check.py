"""The report on a clip: whether one face is well in view, talks and moves, and what to film better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from gmtalker.clock import FPS, SAMPLES_PER_FRAME
from gmtalker.errors import UnusableInput, UnusableVideo
from gmtalker.face.lips import lip_opening
from gmtalker.media.audio import read_sound_or_none
from gmtalker.media.sound_track import sound_track
from gmtalker.tracks import count_blinks
from personalize.check_faults import another_person_between, faults
from personalize.check_sound import InStep, muted_seconds
from personalize.examined import Detector, Examined, FaceLook, Sample, Stretch, examine
from personalize.looks import LookPicture
from personalize.report_line import ReportLine
from personalize.request import HELD_OUT_SECONDS_MAX, HELD_OUT_SHARE, PRESETS, size_for

if TYPE_CHECKING:
    from gmtalker.media.video import VideoInfo

# Below the first limit of a pair the clip fails, below the second the report warns.
SECONDS_MIN, SECONDS_GOOD = 3.0, 50.0  # seconds
SIDE_MIN, SIDE_GOOD = 128, 256  # pixels of the picture's shorter side
FACE_MIN, FACE_GOOD = 60, 110  # pixels from the forehead to the chin
FOUND_MIN, FOUND_GOOD = 0.5, 0.9  # share of the sampled frames that show a face
SECOND_FACE_SHARE = 0.1  # of the sampled frames that may show a second face
SECOND_FACE_HEIGHT = 0.4  # of the first one's; smaller ones are posters, or errors of the detector
# Real clips of faces measured 0.03 to 0.5, the same clips blurred by a fiftieth of the face's height 0.003 to 0.013.
SHARPNESS_MIN = 0.02
BRIGHTNESS_MIN, BRIGHTNESS_MAX = 60, 215  # of 255, mean of the face
ROTATION_DEVIATION_MIN, ROTATION_MAX = 0.8, 35.0  # degrees of yaw and pitch
LIP_DEVIATION_MIN = 0.012  # of the lip opening in eye distances, below which nobody talks
BLINKS_MIN = 3  # a minute
LOUDNESS_MIN, SIGNAL_TO_NOISE_MIN = -38.0, 12.0  # dB: speech below full scale; speech above the noise of the room


@dataclass(frozen=True)
class Report:
    """The report on one clip.

    clip: file name.
    seconds: length of the clip.
    reading_seconds: that finding the face in all of it will take on this machine.
    overlay: (h, w, 3) uint8, a few frames with the points that the tracker found; None where it found no face.
    face_height: from the forehead to the chin, in pixels; 0 where no face was found.
    look: what is around the face, by which clips of other rooms are told; None where no face was found.
    faces: some looks at the face, by which clips of other people are told.
    error: why the clip can't be read; then there are no lines.
    """

    clip: str
    lines: list[ReportLine]
    seconds: float = 0.0
    reading_seconds: float = 0.0
    overlay: np.ndarray | None = None
    face_height: float = 0.0
    look: LookPicture | None = None
    faces: Sequence[FaceLook] = ()
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether the clip can't be trained on."""
        return bool(self.error) or any(line.status == "fail" for line in self.lines)

    def to_json(self) -> dict:
        """{"clip", "failed", "lines": [{"name", "status", "value", "advice"}]}, and "error" if there is one, for json.dumps."""
        error = {"error": self.error} if self.error else {}
        return {"clip": self.clip, "failed": self.failed} | error | {"lines": [asdict(line) for line in self.lines]}


def check_clip(path: Path, detect: Detector | None = None, in_step: InStep | None = None) -> Report:
    """Examine two frames a second, 60 at most, the first and last seconds frame by frame, and the sound.

    detect: finds the faces in a frame; None for MediaPipe.
    in_step: tells whether sound and picture are together, such as SynchronyApart; None leaves that line out.
    Errors: UnusableVideo when the clip can't be read to its end.
    """
    path = Path(path)
    sound = read_sound_or_none(path)
    clip = examine(path, detect)
    info, samples, stretch = clip.info, clip.samples, clip.stretch
    lines = [ReportLine("readable", "pass", f"{info.fps:.4g} frames per second"), _length(info), _size(clip), _found(samples)]
    if not any(sample.heights for sample in samples):
        return Report(path.name, [*lines, _sound(sound is not None)], info.seconds)
    lines += [_one_person(samples), _face_size(samples), _sharpness(samples), _light(samples)]
    if stretch.found.any():
        lines += [_pose(stretch), _blinks(stretch), _lips(stretch)]
    if clip.looks:
        lines += [_cuts(clip), *faults(clip)]
    lines.append(_sound(sound is not None))
    if sound is not None:
        lines += [*_loudness(sound, path), *muted_seconds(sound, info.seconds)]
        lines += in_step(stretch, sound) if in_step is not None and stretch.found.any() else []
    lines.append(_used(info, samples))
    reading = info.seconds * FPS * stretch.seconds / max(len(stretch.frames), 1)
    first = int(stretch.found.argmax())
    look = LookPicture.of(stretch.frames[first], stretch.points[first]) if stretch.found.any() else None
    faces = [sample.look for sample in clip.looks]
    return Report(path.name, lines, info.seconds, reading, _overlay(stretch), _height(samples), look, faces)


def check_clips(paths: Sequence[Path], in_step: InStep | None = None) -> Iterator[Report]:
    """Examine clips that are to become one avatar: each by itself, and whether it shows the person of the first one.

    in_step: as in check_clip.
    Yields: a report for each, in their order; of a clip that can't be read one with an error.
    """
    first: Report | None = None
    for path in paths:
        try:
            report = check_clip(path, in_step=in_step)
        except UnusableInput as error:
            yield Report(Path(path).name, [], error=str(error))
            continue
        if first is None and report.faces:
            first = report
        elif first is not None and report.faces:
            report = replace(report, lines=[*report.lines, another_person_between(first.clip, first.faces, report.faces)])
        yield report


def _length(info: VideoInfo) -> ReportLine:
    value = f"{info.seconds:.1f} seconds"
    if info.seconds < SECONDS_MIN:
        advice = f"Film at least {SECONDS_MIN:.0f} seconds; 2 to 5 minutes of talking are best."
        return ReportLine("length", "fail", value, advice)
    if info.seconds < SECONDS_GOOD:
        return ReportLine("length", "warn", value, "A short clip shows few mouth shapes; 2 to 5 minutes of talking are best.")
    return ReportLine("length", "pass", value)


def _size(clip: Examined) -> ReportLine:
    width, height = (clip.info.width, clip.info.height)[:: -1 if clip.view.turns % 2 else 1]
    value, side = f"{width} x {height} pixels", min(width, height)
    if side < SIDE_MIN:
        return ReportLine("size", "fail", value, f"Film with at least {SIDE_GOOD} pixels on the shorter side.")
    if side < SIDE_GOOD:
        return ReportLine("size", "warn", value, f"The avatar will look soft; film with {SIDE_GOOD} pixels on the shorter side.")
    return ReportLine("size", "pass", value)


def _found(samples: list[Sample]) -> ReportLine:
    share = sum(bool(sample.heights) for sample in samples) / len(samples)
    missing = next((sample.second for sample in samples if not sample.heights), 0.0)
    value = f"in {share:.0%} of the frames"
    if share < FOUND_MIN:
        return ReportLine("face found", "fail", value, "Film the face close and from the front, in good light.")
    if share < FOUND_GOOD:
        advice = f"Second {missing:.0f} shows no face; such frames are left out of the training."
        return ReportLine("face found", "warn", value, advice)
    return ReportLine("face found", "pass", value)


def _one_person(samples: list[Sample]) -> ReportLine:
    two = [s for s in samples if len(s.heights) > 1 and s.heights[1] >= SECOND_FACE_HEIGHT * s.heights[0]]
    share = len(two) / len(samples)
    if share > SECOND_FACE_SHARE:
        advice = f"Second {two[0].second:.0f} shows 2 faces. Please film exactly one person."
        return ReportLine("one person", "fail", f"2 faces in {share:.0%} of the frames", advice)
    return ReportLine("one person", "pass", "1 face")


def _height(samples: list[Sample]) -> float:
    """Of the largest face, in pixels."""
    return float(np.median([sample.heights[0] for sample in samples if sample.heights]))


def _face_size(samples: list[Sample]) -> ReportLine:
    height = _height(samples)
    value = f"{height:.0f} pixels high"
    if height < FACE_MIN:
        return ReportLine("face size", "fail", value, f"Come closer: the face should be at least {FACE_GOOD} pixels high.")
    if height < FACE_GOOD:
        return ReportLine("face size", "warn", value, f"The avatar will look soft; come closer, to {FACE_GOOD} pixels or more.")
    size = size_for(height, PRESETS["standard"])
    return ReportLine("face size", "pass", f"{value}: drawn at {size} pixels" + (", 256 as a draft" if size > 256 else ""))


def _sharpness(samples: list[Sample]) -> ReportLine:
    sharpness = float(np.median([sample.sharpness for sample in samples if sample.heights]))
    if sharpness < SHARPNESS_MIN:
        advice = "The face is blurred; wipe the lens, add light, keep the camera still."
        return ReportLine("sharpness", "warn", f"{sharpness:.3f}", advice)
    return ReportLine("sharpness", "pass", f"{sharpness:.3f}")


def _sound(audible: bool) -> ReportLine:
    if audible:
        return ReportLine("sound", "pass", "speech can be heard")
    return ReportLine("sound", "warn", "none", "Silent clip: the picture will be trained, not the speaking style.")


def _used(info: VideoInfo, samples: list[Sample]) -> ReportLine:
    """How much is trained on: the frames with a face, without the last part, on which the avatar is measured."""
    found = info.seconds * sum(bool(sample.heights) for sample in samples) / len(samples)
    held_out = min(HELD_OUT_SHARE * info.seconds, HELD_OUT_SECONDS_MAX)
    value = f"{max(found - held_out, 0):.0f} seconds to learn from, {held_out:.0f} to measure with"
    return ReportLine("used", "pass", value)


def _light(samples: list[Sample]) -> ReportLine:
    light = float(np.median([sample.brightness for sample in samples if sample.heights]))
    value = f"{light / 255:.0%} bright"
    if light < BRIGHTNESS_MIN:
        return ReportLine("light", "warn", value, "The face is dark; turn to a window or a lamp.")
    if light > BRIGHTNESS_MAX:
        return ReportLine("light", "warn", value, "The face is overexposed; move away from the lamp or lower the exposure.")
    return ReportLine("light", "pass", value)


def _pose(stretch: Stretch) -> ReportLine:
    rotation = np.degrees(stretch.track.motion.rotation.numpy()[stretch.found, :2])
    spread, farthest = rotation.std(0), float(np.abs(rotation).max())
    value = f"turns by {spread[0]:.1f}° and nods by {spread[1]:.1f}°"
    if farthest > ROTATION_MAX:
        return ReportLine("head", "warn", value, "The head turns far to the side at times; look towards the camera.")
    if max(spread) < ROTATION_DEVIATION_MIN:
        return ReportLine("head", "warn", value, "The head hardly moves; talk as you do with a friend, and the avatar moves too.")
    return ReportLine("head", "pass", value)


def _blinks(stretch: Stretch) -> ReportLine:
    rate = 60 * FPS * count_blinks(stretch.track.motion.blink.mean(1).numpy()) / len(stretch.points)
    value = f"{rate:.0f} a minute" if rate else "none found"
    if rate < BLINKS_MIN:
        return ReportLine("blinks", "warn", value, "Blink as usual, or the avatar can't learn how closed eyes look.")
    return ReportLine("blinks", "pass", value)


def _lips(stretch: Stretch) -> ReportLine:
    spread = float(lip_opening(stretch.points[stretch.found]).std())
    value = f"opening varies by {100 * spread:.0f} % of the distance between the eyes"
    if spread < LIP_DEVIATION_MIN:
        return ReportLine("lips", "warn", value, "The lips hardly move; talk clearly, without long pauses.")
    return ReportLine("lips", "pass", value)


def _cuts(clip: Examined) -> ReportLine:
    if not clip.cuts:
        return ReportLine("cuts", "pass", "none")
    places = ", ".join(f"{second:.0f}" for second in clip.cuts[:5])
    value = f"{len(clip.cuts)}, at second {places}" + (" and later" if len(clip.cuts) > 5 else "")
    return ReportLine("cuts", "warn", value, "Movement is learned best from one take without cuts.")


def _loudness(sound: np.ndarray, path: Path) -> list[ReportLine]:
    """How loud the speech is as it was recorded, and how far above the noise of the room."""
    whole = len(sound) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
    energy = np.square(sound[:whole].reshape(-1, SAMPLES_PER_FRAME)).mean(1)
    if not len(energy):
        return []
    silent, heard = (float(value) for value in 10 * np.log10(np.maximum(np.quantile(energy, (0.1, 0.9)), 1e-10)))
    loud = sound_track(path, UnusableVideo).level
    value = f"{loud:.0f} dB"
    if loud < LOUDNESS_MIN:
        lines = [ReportLine("loudness", "warn", value, "The voice is too quiet; come closer to the microphone.")]
    else:
        lines = [ReportLine("loudness", "pass", value)]
    above = f"speech {heard - silent:.0f} dB above the room"
    if heard - silent < SIGNAL_TO_NOISE_MIN:
        return [*lines, ReportLine("noise", "warn", above, "The room is noisy; film in a quieter one, or close the window.")]
    return [*lines, ReportLine("noise", "pass", above)]


def _overlay(stretch: Stretch, pictures: int = 4, height: int = 180) -> np.ndarray | None:
    """A few frames side by side, with the points that the tracker found in them."""
    detected = np.flatnonzero(stretch.found)
    if not len(detected):
        return None
    drawn = []
    for index in detected[np.linspace(0, len(detected) - 1, min(pictures, len(detected))).astype(int)]:
        frame = stretch.frames[index]
        zoom = height / frame.shape[0]
        small = cv2.resize(frame, (max(1, round(frame.shape[1] * zoom)), height), interpolation=cv2.INTER_AREA)
        for x, y in stretch.points[index, :, :2] * zoom:
            cv2.circle(small, (int(x), int(y)), 1, (45, 212, 191), -1)
        drawn.append(small)
    return np.concatenate(drawn, axis=1)
