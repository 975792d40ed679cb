"""python -m gmtalker: make an avatar speak or reenact, verify a video, measure, pretrain the generic stages."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gmtalker.clock import EMOTIONS, LABEL_LANGUAGES, LABELS, MOTIONS
from gmtalker.command_line import (
    DONE,
    WrongUsage,
    add_avatar,
    add_device,
    add_json,
    bad_values_are_wrong_usage,
    check_output,
    done,
    for_machines,
    load_pipeline,
    print_json,
    program,
    progress_bar,
    run,
)
from gmtalker.errors import UnusableInput
from gmtalker.measure import command as measure
from gmtalker.pretrain import command as pretrain
from gmtalker.provenance.signing import TIME_STAMP_AUTHORITY

if TYPE_CHECKING:
    from gmtalker.request import SpeakRequest
    from gmtalker.tracks import EmotionKey

# Options of speak that are fields of a SpeakRequest, and those from which its emotion is read.
FIELDS = ("avatar", "intensity", "seed", "head", "blink", "gaze", "motion", "full_frame", "label", "label_language")
EMOTION_OPTIONS = ("emotion", "timeline", "script")
EXAMPLE = "happy=0.7,sad=0.1"
CHANGED, NOTHING_FOUND = 4, 3  # what verify returns, beside DONE for a video that is ours and whole
AUTO = "auto"  # for --emotion: as the voice sounds


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns: 0 done, 1 the input can't be used, 2 wrong usage (command_line.run); of verify also 3 nothing found, 4 changed.
    """
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("gmtalker"), description="Make an avatar speak, and measure it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_speak(commands.add_parser("speak", help="make a video of an avatar that says a speech"))
    _add_reenact(commands.add_parser("reenact", help="make a video of an avatar that does what the person in a video does"))
    verify = commands.add_parser("verify", help="say whether a video was made by this program, and changed since")
    verify.add_argument("video", type=Path, metavar="F")
    verify.add_argument("--json", action="store_true", help="what was found as JSON on stdout")
    verify.set_defaults(run=_verify)
    measure.add_commands(commands)
    pretrain.add_commands(commands)
    return parser


def _add_speak(speak: argparse.ArgumentParser) -> None:
    add_avatar(speak)
    speech = speak.add_mutually_exclusive_group(required=True)
    speech.add_argument("--speech", type=Path, metavar="F", help="a sound file, or a video with sound")
    speech.add_argument("--request", type=Path, metavar="F.json", help="repeat a video: the .request.json saved beside it")
    speak.add_argument("--output", type=Path, required=True, metavar="F.mp4")
    emotion = speak.add_mutually_exclusive_group()
    emotion.add_argument("--emotion", metavar="E", help=f"auto, as the voice sounds; or {EXAMPLE} of {', '.join(EMOTIONS)}")
    emotion.add_argument("--timeline", metavar="F.json", help='a file, or itself: [{"time": 0.0, "emotion": {"happy": 0.8}}]')
    emotion.add_argument("--script", type=Path, metavar="F.txt", help='what is said, with tags: "[happy 0.8] What a day!"')
    # No defaults: those of SpeakRequest count, and what is given beside --request is to be seen.
    speak.add_argument("--intensity", type=float, metavar="X", help="0 neutral, 1 as given (default), 2 exaggerated")
    speak.add_argument("--seed", type=int, metavar="N", help="another take of the same speech (default 0)")
    for part in ("head", "blink", "gaze"):
        speak.add_argument(f"--{part}", type=float, metavar="X", help=f"how much {part} movement (default 1)")
    speak.add_argument("--motion", choices=MOTIONS, help="how the head moves: as the person's own (default), still, or lively")
    text = "in the person's own footage, at its size"
    speak.add_argument("--full-frame", action="store_true", default=None, help=text)
    _add_label(speak)
    speak.add_argument("--tracks", type=Path, metavar="F.safetensors", help="also save what the face does in each frame")
    add_device(speak)
    add_json(speak)
    speak.set_defaults(run=_speak)


def _add_reenact(reenact: argparse.ArgumentParser) -> None:
    add_avatar(reenact)
    reenact.add_argument("--video", type=Path, required=True, metavar="F")
    reenact.add_argument("--output", type=Path, required=True, metavar="F.mp4")
    _add_label(reenact)
    add_device(reenact)
    add_json(reenact)
    reenact.set_defaults(run=_reenact)


def _add_label(parser: argparse.ArgumentParser) -> None:
    text = "say in the picture that it is AI-generated: the whole time (default), or in intervals"
    parser.add_argument("--label", nargs="?", const=LABELS[1], choices=LABELS, help=text)
    parser.add_argument("--label-language", choices=LABEL_LANGUAGES, help=f"of the label (default {LABEL_LANGUAGES[0]})")
    text = f"a time-stamp authority (RFC 3161) that stamps the signature; default: ${TIME_STAMP_AUTHORITY}, or none"
    parser.add_argument("--tsa", metavar="URL", help=text)


def _set_tsa(options: argparse.Namespace) -> None:
    """One setting for all that signs: the environment variable; the option sets it."""
    if options.tsa:
        os.environ[TIME_STAMP_AUTHORITY] = options.tsa


# --- The request -------------------------------------------------------------------------------------------------------------


def parse_emotion(text: str) -> dict[str, float]:
    """Weights by name from "happy=0.7,sad=0.1"; a name alone is 1. Errors: WrongUsage."""
    emotion: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, weight = part.partition("=")
        name = name.strip()
        if name not in EMOTIONS:
            raise WrongUsage(f"There is no emotion {name!r}; choose from {', '.join(EMOTIONS)}.")
        if name in emotion:
            raise WrongUsage(f"{name} is given twice.")
        try:
            emotion[name] = float(weight) if equals else 1.0
        except ValueError as error:
            raise WrongUsage(f"The weight of {name} must be a number, as in {name}=0.7, not {weight.strip()!r}.") from error
    if not emotion:
        raise WrongUsage("--emotion needs weights, as in happy=0.7,sad=0.1.")
    return emotion


def read_timeline(given: str) -> list[dict]:
    """The keys of a timeline, not yet checked.

    given: a file, or its JSON itself.
    Errors: UnusableInput when it can't be read.
    """
    is_json = given.lstrip().startswith("[")
    if not is_json and not os.path.exists(given):
        raise UnusableInput(f"There is no file {given}; please check the name.")
    try:
        return json.loads(given if is_json else Path(given).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        name = "The timeline" if is_json else Path(given).name
        raise UnusableInput(f"{name} is not a timeline: it can't be read as JSON.") from error


def read_script(path: Path, speech: Path) -> list[EmotionKey]:
    """The keys of a script with emotion tags.

    path: the script, UTF-8.
    speech: the sound or video file in which it is said.
    Errors: UnusableInput when one of them can't be read, or when the script has no tags.
    """
    from gmtalker.clock import frames_for
    from gmtalker.emotion_script import timeline_of_script
    from gmtalker.media.audio import read_speech, silent_frames

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UnusableInput(f"{path.name} can't be read as text.") from error
    waveform = read_speech(speech)
    try:
        return timeline_of_script(text, silent_frames(waveform, frames_for(len(waveform))))
    except ValueError as error:
        raise UnusableInput(f"{error}.") from error


def hear_emotions(speech: Path) -> list[EmotionKey]:
    """The keys of a timeline, as the voice in a sound or video file sounds. Errors: UnusableInput when it can't be read."""
    from gmtalker.emotion_of_voice import timeline_of_voice
    from gmtalker.media.audio import read_speech

    return timeline_of_voice(read_speech(speech))


def request_of(options: argparse.Namespace) -> SpeakRequest:
    """What the options of speak ask for: a request of their own, or the saved one of --request.

    Errors: WrongUsage, UnusableInput.
    """
    if options.request is not None:
        return _saved_request(options)
    emotion = None if options.emotion in (None, AUTO) else parse_emotion(options.emotion)
    timeline = None if options.timeline is None else read_timeline(options.timeline)
    _check_outputs(options)
    if options.script is not None:
        timeline = read_script(options.script, options.speech)
    if options.emotion == AUTO:
        timeline = hear_emotions(options.speech)

    from gmtalker.request import SpeakRequest  # late: wrong usage should not wait for the networks' libraries

    given = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    with bad_values_are_wrong_usage():
        return SpeakRequest(options.speech, emotion=emotion, timeline=timeline, **given)


def _saved_request(options: argparse.Namespace) -> SpeakRequest:
    beside = [name for name in (*FIELDS, *EMOTION_OPTIONS) if getattr(options, name) is not None]
    if beside:
        raise WrongUsage(f"--request says all of that already; leave out --{beside[0].replace('_', '-')}.")
    _check_outputs(options)

    from gmtalker.request import SpeakRequest  # late, as above

    return SpeakRequest.load(options.request)


def _check_outputs(options: argparse.Namespace) -> None:
    check_output(options.output, ".mp4")
    if options.tracks is not None:
        check_output(options.tracks, ".safetensors")


# --- Commands ------------------------------------------------------------------------------------------------------------------


def _speak(options: argparse.Namespace) -> None:
    _set_tsa(options)
    request = request_of(options)
    if request.is_over_full():
        print("The emotion weights sum to more than 1; they are scaled to 1.", file=sys.stderr)
    pipeline = load_pipeline(options)
    with progress_bar(options) as on_progress:
        pipeline.speak(request, options.output, on_progress, tracks=options.tracks)
    tracks = {"tracks": str(options.tracks)} if options.tracks else {}
    done(options, str(options.output), output=str(options.output), **tracks)


def _reenact(options: argparse.Namespace) -> None:
    _set_tsa(options)
    check_output(options.output, ".mp4")
    from gmtalker.face.tracking import track_video
    from gmtalker.media.audio import read_sound_or_none
    from gmtalker.provenance.label import Label

    pipeline = load_pipeline(options)
    sound, heard = read_sound_or_none(options.video), options.video
    with progress_bar(options) as on_progress:
        track = track_video(options.video, pipeline.face_model)
        performance = pipeline.reenact(track, options.avatar, speech=sound)
        performance = replace(performance, inputs=(options.video,), led=True)
        label = None if options.label in (None, LABELS[0]) else Label(options.label, options.label_language or LABEL_LANGUAGES[0])
        pipeline.film(performance, options.output, on_progress, sound=None if sound is None else heard, label=label)
    done(options, str(options.output), output=str(options.output))


def _verify(options: argparse.Namespace) -> int:
    from gmtalker.provenance.verification import verify

    findings = verify(options.video)
    if for_machines(options):
        print_json(findings.to_json())
    else:
        print(findings.sentence())
    if findings.is_ours and findings.is_whole:
        return DONE
    return CHANGED if findings.is_ours or findings.credentials == "broken" else NOTHING_FOUND


if __name__ == "__main__":
    sys.exit(main())
