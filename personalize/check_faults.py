"""Lines that stand in the report on a clip only where something is wrong with its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gmtalker.assets import GENERIC
from gmtalker.clock import FPS
from gmtalker.face.lips import lip_opening
from gmtalker.face.model import FaceModel
from personalize.examined import THUMBNAIL, Examined, FaceLook, Sample, face_difference, runs
from personalize.report_line import ReportLine

RATE_MIN = 14.0  # pictures a second that differ, below which lips are not seen to close
EQUAL = 0.06  # of 255: the mean change between two frames that are one picture
STANDS_STILL = 0.02  # share of the frames that differ from the one before, below which the picture hardly ever changes
FROZEN_SECONDS = 1.0
ROOM_MIN = 0.2  # face heights above the forehead; 70 real clips that hold the whole hair have 0.27 or more
SATURATION_MIN = 8.0  # of 255
SIDES_MIN = 0.65  # brightness of the darker half of the face over the other
PUMPING = 0.3  # of the median brightness of the face, by which it changes within one take
COVERED_SHARE, COVERED_SOME = 0.5, 0.08  # of the samples, whose mouth is covered: not usable; told
LETTERS_MIN = 8  # side by side: words
BEHIND_MOVES = 4.0  # of 255, by which what is beside the person changes in a second; before a camera on a stand under 1
BEHIND_ROWS, BEHIND_COLUMNS = 20, 4  # of a thumbnail, from its top and from its sides, which show what is behind
TILT_MAX = 20.0  # degrees
BLINKS_MAX = 60.0  # a minute
BLINK_SECONDS_MAX = 0.6  # that lids stay closed, usually
TEETH = 0.1  # opening of the lips, in eye distances, at which teeth are seen
# Of face_difference: in one take's light it is the better known. A cut to another room may be refused wrongly; then the takes can
# be given as clips of their own.
ANOTHER_AFTER_CUT, ANOTHER_IN_CLIP, PERHAPS_IN_CLIP = -0.002, 0.004, 0.001
SAMPLES_MIN = 2  # of a part of a clip, that its face may be compared


def faults(clip: Examined) -> list[ReportLine]:
    """What is wrong with the picture of a clip; nothing where all is well."""
    tried: tuple[Callable[[Examined], ReportLine | None], ...] = (
        _another_person, _covered, _rate, _frozen, _tilted, _room, _grey, _one_sided, _pumping, _words, _moving, _slow, _lids,
        _teeth,
    )  # fmt: skip
    return [line for line in (look(clip) for look in tried) if line is not None]


def another_person_between(first_clip: str, first: Sequence[FaceLook], other: Sequence[FaceLook]) -> ReportLine:
    """Whether another clip shows the person of the first one."""
    difference = face_difference(first, other, _model())
    advice = f"The face differs from that in {first_clip}. Please upload clips of one person, who agreed to it."
    if difference > ANOTHER_IN_CLIP:
        return ReportLine("same person", "fail", "another person", advice)
    if difference > PERHAPS_IN_CLIP:
        return ReportLine("same person", "warn", "perhaps another person, or another light", advice)
    return ReportLine("same person", "pass", "the same face")


def _model() -> FaceModel:
    return FaceModel.load(GENERIC / "face_model")


def _seconds(samples: Sequence[Sample]) -> str:
    """Where something was seen, for a sentence."""
    some = sorted({round(sample.second) for sample in samples})
    return f"second {some[0]}" if len(some) == 1 else f"seconds {some[0]} to {some[-1]}"


def _another_person(clip: Examined) -> ReportLine | None:
    takes = [(start, [sample.look for sample in samples]) for start, samples in clip.takes() if len(samples) >= SAMPLES_MIN]
    for start, part in takes[1:]:
        if face_difference(takes[0][1], part, _model()) > ANOTHER_AFTER_CUT:
            advice = "Please give a clip of one person, who agreed to it; of one person in several rooms give several clips."
            return ReportLine("same person", "fail", f"another person from second {start:.0f} on", advice)
    return None


def _covered(clip: Examined) -> ReportLine | None:
    covered = [sample for sample in clip.looks if sample.look.is_covered]
    share = len(covered) / len(clip.looks)
    if share > COVERED_SHARE:
        return ReportLine(
            "mouth", "fail", f"covered in {share:.0%} of the frames", "Please film without a mask, the whole face in view."
        )
    if share > COVERED_SOME:
        advice = "Something is before the mouth there; keep hands, cups and microphones away from it."
        return ReportLine("mouth", "warn", f"covered in {_seconds(covered)}", advice)
    return None


def _rate(clip: Examined) -> ReportLine | None:
    differ = float((clip.steps > EQUAL).mean()) if len(clip.steps) else 1.0
    rate = min(clip.info.fps, FPS * differ)
    if rate >= RATE_MIN or differ < STANDS_STILL:
        return None
    advice = "So few pictures teach no lips; film at 25 a second or more, in more light."
    return ReportLine("pictures a second", "warn", f"{rate:.0f}", advice)


def _frozen(clip: Examined) -> ReportLine | None:
    frozen = [(first, last) for first, last in runs(clip.steps <= EQUAL) if last - first >= FROZEN_SECONDS * FPS]
    if not frozen:
        return None
    seconds, first = sum(last - start for start, last in frozen) / FPS, frozen[0][0] / FPS
    advice = f"From second {first:.0f} on one picture stands still; cut that out, or film again."
    whole = seconds > 0.8 * len(clip.steps) / FPS
    return ReportLine("movement", "fail" if whole else "warn", f"frozen for {seconds:.1f} seconds", advice)


def _tilted(clip: Examined) -> ReportLine | None:
    rolls = [float(_roll(sample.look.points)) for sample in clip.looks]
    roll = float(np.median(rolls))
    if abs(roll) > TILT_MAX:
        return ReportLine(
            "upright", "warn", f"the face is tilted by {abs(roll):.0f}°", "Please turn the picture, or hold the camera straight."
        )
    if clip.view.turns:
        return ReportLine(
            "upright",
            "warn",
            f"turned by {90 * clip.view.turns}° to the left",
            "The face did not stand upright; the program turned it.",
        )
    return None


def _roll(points: np.ndarray) -> float:
    across, down = (points[263] - points[33])[:2]
    return float(np.degrees(np.arctan2(down, across)))


def _room(clip: Examined) -> ReportLine | None:
    if np.median([sample.look.room for sample in clip.looks]) >= ROOM_MIN:
        return None
    return ReportLine(
        "framing", "warn", "the hair is cut off", "Too close: leave room above the head, or the avatar has no forehead and hair."
    )


def _grey(clip: Examined) -> ReportLine | None:
    if np.median([sample.look.saturation for sample in clip.looks]) >= SATURATION_MIN:
        return None
    return ReportLine("colour", "warn", "grey", "The film has no colour; the avatar will be grey, too.")


def _one_sided(clip: Examined) -> ReportLine | None:
    sides = float(np.median([sample.look.sides for sample in clip.looks]))
    if sides >= SIDES_MIN:
        return None
    value = f"one half of the face has {sides:.0%} of the light of the other"
    return ReportLine(
        "light from one side", "warn", value, "Half of the face lies in the dark; turn to the window, or light the other side."
    )


def _pumping(clip: Examined) -> ReportLine | None:
    for _, samples in clip.takes():
        light = np.array([sample.brightness for sample in samples])
        if len(light) >= 8 and np.ptp(np.quantile(light, (0.05, 0.95))) > PUMPING * np.median(light):
            value = f"changes by {np.ptp(np.quantile(light, (0.05, 0.95))) / np.median(light):.0%}"
            return ReportLine(
                "changing light", "warn", value, "Switch off automatic exposure, or sit where the light stays the same."
            )
    return None


def _words(clip: Examined) -> ReportLine | None:
    read = [sample for sample in clip.looks if sample.words is not None]
    found = [sample for sample in read if sample.words >= LETTERS_MIN]
    if len(found) <= 0.3 * len(read):
        return None
    advice = "The avatar would wear them; please give the film without subtitles, logos or other writing near the head."
    return ReportLine("words in the picture", "warn", f"in {_seconds(found)}", advice)


def _moving(clip: Examined) -> ReportLine | None:
    beside = np.concatenate(
        [clip.thumbnails[:, :BEHIND_ROWS, :BEHIND_COLUMNS], clip.thumbnails[:, :BEHIND_ROWS, THUMBNAIL - BEHIND_COLUMNS :]], 2
    )
    if len(beside) <= FPS or np.median(np.abs(beside[FPS:] - beside[:-FPS]).mean((1, 2, 3))) < BEHIND_MOVES:
        return None
    advice = "Put the camera on a stand, before a wall: hair gets soft edges, and videos show head and shoulders only."
    return ReportLine("camera and background", "warn", "they move", advice)


def _closed_lids(clip: Examined) -> np.ndarray:
    """Seconds that the eyes stay closed, each time."""
    if clip.stretch.track is None:
        return np.zeros(0)
    closed = clip.stretch.track.motion.blink.mean(1).numpy() > 0.5
    return np.array([last - first for first, last in runs(closed)]) / FPS


def _slow(clip: Examined) -> ReportLine | None:
    lasts = _closed_lids(clip)
    if clip.info.fps > 90 or len(lasts) >= 2 and np.median(lasts) > BLINK_SECONDS_MAX:
        advice = "Please film at normal speed: an avatar learns its pace from the clip."
        return ReportLine("speed", "warn", "it looks like slow motion", advice)
    return None


def _lids(clip: Examined) -> ReportLine | None:
    rate = 60 * FPS * len(_closed_lids(clip)) / max(len(clip.stretch.points), 1)
    if rate <= BLINKS_MAX:
        return None
    advice = "The eyes are seen badly: film in even light, without reflections on glasses, and look ahead."
    return ReportLine("eyes", "warn", f"they seem to close {rate:.0f} times a minute", advice)


def _teeth(clip: Examined) -> ReportLine | None:
    stretch = clip.stretch
    if not stretch.found.any() or np.quantile(lip_opening(stretch.points[stretch.found]), 0.99) >= TEETH:
        return None
    return ReportLine(
        "teeth", "warn", "never seen", "Open the mouth now and then, talk and smile: teeth that are never seen can't be learned."
    )
