"""python -m gmtalker: make an avatar speak or reenact, verify a video, measure, pretrain the generic stages."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gmtalker.clock import EMOTIONS, LABEL_LANGUAGES, LABELS, MOTIONS
from gmtalker.command_line import (
    DONE,
    UNUSABLE,
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
from gmtalker.emotion_words import EXAMPLE, parse_emotion
from gmtalker.errors import UnusableInput
from gmtalker.measure import command as measure
from gmtalker.media.formats import FORMATS
from gmtalker.pretrain import command as pretrain
from gmtalker.provenance.signing import TIME_STAMP_AUTHORITY

if TYPE_CHECKING:
    from gmtalker.request import SpeakRequest
    from gmtalker.tracks import EmotionKey

# Options of speak that are fields of a SpeakRequest, and those from which its emotion is read.
FIELDS = ("avatar", "intensity", "seed", "head", "blink", "gaze", "motion", "full_frame", "label", "label_language", "voice")
OUTPUT_FIELDS = ("format", "fps", "background", "canvas", "place", "size", "shape")  # of OutputOptions
CAPTION_FIELDS = ("captions", "caption_style", "caption_place", "caption_size", "subtitles")
EMOTION_OPTIONS = ("emotion", "timeline", "script")
CHANGED, NOTHING_FOUND = 4, 3  # what verify returns, beside DONE for a video that is ours and whole
SUFFIXES = {format.suffix: name for name, format in reversed(FORMATS.items())}  # of each the usual format
PROCESSES_MAX = 64
FULL_FRAME = "in the person's own footage, at its size"
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
    speech.add_argument("--text", metavar="T", help='what a synthetic voice says: "[happy 0.8] What a day!"')
    speech.add_argument("--text-file", type=Path, metavar="F.txt", help="a file with that text, UTF-8")
    speech.add_argument("--batch", type=Path, metavar="F.csv", help="many: a table, .csv or .jsonl, with one row a video")
    speech.add_argument("--request", type=Path, metavar="F.json", help="repeat a video: the .request.json saved beside it")
    speak.add_argument("--voice", metavar="V", help="of the text (default heart)")
    speak.add_argument(
        "--output", type=Path, required=True, metavar="F.mp4", help="its suffix is that of the format; a folder for --batch"
    )
    speak.add_argument(
        "--processes", type=int, default=1, metavar="N", help="for --batch: that many videos at a time (default 1)"
    )
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
    speak.add_argument("--full-frame", action="store_true", default=None, help=FULL_FRAME)
    _add_label(speak)
    _add_output(speak)
    speak.add_argument("--tracks", type=Path, metavar="F.safetensors", help="also save what the face does in each frame")
    add_device(speak)
    add_json(speak)
    speak.set_defaults(run=_speak)


def _add_reenact(reenact: argparse.ArgumentParser) -> None:
    add_avatar(reenact)
    reenact.add_argument("--video", type=Path, required=True, metavar="F")
    reenact.add_argument("--output", type=Path, required=True, metavar="F.mp4")
    emotion = reenact.add_mutually_exclusive_group()
    emotion.add_argument("--emotion", metavar="E", help=f"in the place of the film's own: {EXAMPLE} of {', '.join(EMOTIONS)}")
    emotion.add_argument("--timeline", metavar="F.json", help="in the place of the film's own, as for speak")
    reenact.add_argument("--full-frame", action="store_true", default=None, help=FULL_FRAME)
    _add_label(reenact)
    _add_output(reenact)
    add_device(reenact)
    add_json(reenact)
    reenact.set_defaults(run=_reenact)


def _add_output(parser: argparse.ArgumentParser) -> None:
    """The options of OutputOptions; their values are checked there."""
    group = parser.add_argument_group("how the video is written")
    group.add_argument("--format", metavar="X", help=f"one of {', '.join(FORMATS)} (default: by the suffix)")
    group.add_argument("--fps", metavar="N", help="frames a second: 24, 25 (default), 29.97, 30, 50 or 60")
    group.add_argument("--background", metavar="B", help='behind the person: a colour as "#00b140", a picture, a video, or blur')
    group.add_argument("--canvas", metavar="C", help="16:9, 9:16, 1:1, 4:5, or 1080x1920 in pixels")
    places = "center, left, right, bottom-left, bottom-right, top-left or top-right"
    group.add_argument("--place", metavar="P", help=f"where the person stands in the canvas: {places}")
    group.add_argument(
        "--size", type=float, metavar="X", help="how large the person is: 1 as the canvas's shorter side (default)"
    )
    group.add_argument("--shape", metavar="S", help="what is put there: person (cut out, default), square or circle")
    group.add_argument("--captions", metavar="F", help="in the picture: spoken (of a text), or an .srt or .vtt file")
    group.add_argument("--caption-style", metavar="S", help="lines (default), or words, one at a time")
    group.add_argument("--caption-place", metavar="P", help="bottom (default), middle or top")
    group.add_argument("--caption-size", metavar="S", help="small, medium (default) or large")
    group.add_argument("--subtitles", metavar="X", help="what is said of a text, in a file beside the video: srt or vtt")


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

    text = read_text(path)
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
    with bad_values_are_wrong_usage():
        emotion = None if options.emotion in (None, AUTO) else parse_emotion(options.emotion)
    timeline = None if options.timeline is None else read_timeline(options.timeline)
    if options.speech is None and (options.script is not None or options.emotion == AUTO):
        raise WrongUsage("A text holds its tags itself, and no voice to listen to: leave out --script and --emotion auto.")
    _check_outputs(options)
    if options.script is not None:
        timeline = read_script(options.script, options.speech)
    if options.emotion == AUTO:
        timeline = hear_emotions(options.speech)
    text = options.text if options.text_file is None else read_text(options.text_file)

    from gmtalker.output import OutputOptions  # late: wrong usage should not wait for the networks' libraries
    from gmtalker.request import SpeakRequest

    with bad_values_are_wrong_usage():
        return SpeakRequest(
            options.speech,
            emotion=emotion,
            timeline=timeline,
            text=text,
            output=OutputOptions(**_output_of(options)),
            **_given(options, FIELDS),
        )


def _given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, object]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _output_of(options: argparse.Namespace) -> dict[str, object]:
    """The options of the output; a format that is not named is that of the output's suffix."""
    given = _given(options, (*OUTPUT_FIELDS, *CAPTION_FIELDS))
    return {"format": SUFFIXES.get(options.output.suffix.lower(), "mp4")} | given


def read_text(path: Path) -> str:
    """A text file, UTF-8. Errors: UnusableInput when it can't be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UnusableInput(f"{path.name} can't be read as text.") from error


def _saved_request(options: argparse.Namespace) -> SpeakRequest:
    every = (*FIELDS, *EMOTION_OPTIONS, *OUTPUT_FIELDS, *CAPTION_FIELDS)
    beside = [name for name in every if getattr(options, name) is not None]
    if beside:
        raise WrongUsage(f"--request says all of that already; leave out --{beside[0].replace('_', '-')}.")
    from gmtalker.request import SpeakRequest  # late, as above

    if options.tracks is not None:
        check_output(options.tracks, ".safetensors")
    request = SpeakRequest.load(options.request)
    check_output(options.output, request.output.file.suffix)
    return request


def _check_format(options: argparse.Namespace) -> None:
    format = _output_of(options)["format"]
    if format not in FORMATS:
        raise WrongUsage(f"format must be one of {', '.join(FORMATS)}, not {format!r}.")
    check_output(options.output, FORMATS[format].suffix)


def _check_outputs(options: argparse.Namespace) -> None:
    _check_format(options)
    if options.tracks is not None:
        check_output(options.tracks, ".safetensors")


# --- Commands ------------------------------------------------------------------------------------------------------------------


def _speak(options: argparse.Namespace) -> int | None:
    _set_tsa(options)
    if options.batch is not None:
        return _speak_batch(options)
    request = request_of(options)
    if request.is_over_full():
        print("The emotion weights sum to more than 1; they are scaled to 1.", file=sys.stderr)
    pipeline = load_pipeline(options)
    with progress_bar(options) as on_progress:
        pipeline.speak(request, options.output, on_progress, tracks=options.tracks)
    tracks = {"tracks": str(options.tracks)} if options.tracks else {}
    done(options, str(options.output), output=str(options.output), **tracks)
    return None


def _speak_batch(options: argparse.Namespace) -> int:
    """Returns: 1 when a row could not be made."""
    if beside := [name for name in (*EMOTION_OPTIONS, "tracks") if getattr(options, name) is not None]:
        raise WrongUsage(f"Every row of a table has its own; leave out --{beside[0]}.")
    if not 1 <= options.processes <= PROCESSES_MAX:
        raise WrongUsage(f"--processes must be between 1 and {PROCESSES_MAX}, not {options.processes}.")
    if options.output.exists() and not options.output.is_dir():
        raise WrongUsage(f"{options.output} is a file; the videos of a table are made in a folder.")
    from gmtalker.batch import make_batch, read_table  # late: they need the networks' libraries

    rows = read_table(options.batch, _given(options, (*FIELDS, *OUTPUT_FIELDS, *CAPTION_FIELDS)))
    with progress_bar(options) as on_progress:
        load = partial(load_pipeline, argparse.Namespace(device=options.device))
        result = make_batch(rows, options.output, load, options.processes, on_progress)
    for row in result.failed:
        print(f"Row {row.number} ({row.name}): {row.error}", file=sys.stderr)
    made = f"{len(result.made)} videos made in {options.output}, {len(result.kept)} kept, {len(result.failed)} failed."
    done(options, made, **result.to_json())
    return UNUSABLE if result.failed else DONE


def _reenact(options: argparse.Namespace) -> None:
    _set_tsa(options)
    _check_format(options)
    with bad_values_are_wrong_usage():
        emotion = None if options.emotion is None else parse_emotion(options.emotion)
    timeline = None if options.timeline is None else read_timeline(options.timeline)

    from gmtalker.output import OutputOptions  # late: wrong usage should not wait for the networks' libraries
    from gmtalker.request import SpeakRequest

    with bad_values_are_wrong_usage():
        given = _given(options, ("avatar", "full_frame", "label", "label_language"))
        written = OutputOptions(**_output_of(options))
        request = SpeakRequest(video=options.video, emotion=emotion, timeline=timeline, output=written, **given)
    pipeline = load_pipeline(options)
    with progress_bar(options) as on_progress:
        pipeline.speak(request, options.output, on_progress)
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
