"""evaluate, emotions, voice, lips, bench, measure endurance: the sub-parsers of python -m gmtalker that measure."""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from gmtalker.command_line import (
    DATASETS,
    WrongUsage,
    add_avatar,
    add_device,
    bad_values_are_wrong_usage,
    check_output,
    finite,
    labelled_clip,
    load_pipeline,
    names_in,
    need_package,
    progress_bar,
    write_json,
)
from gmtalker.measure.table import write_table
from gmtalker.progress import OnProgress, Progress

if TYPE_CHECKING:
    from gmtalker.avatars.avatar import Avatar
    from gmtalker.measure.avatar import HeldOut
    from gmtalker.measure.emotion_classifier import EmotionClassifier
    from gmtalker.pipeline import GMTalkerPipeline

MOVED = "{} is `python -m personalize benchmark {}` now: it trains avatars in order to measure them."
LIPS_MOVED = "emotions --speech is `python -m gmtalker lips --speeches` now."
SMALL_DISK_MAX = 500 * 2**20  # bytes; a disk with more room is somebody's own
HIDDEN = {"help": argparse.SUPPRESS}  # options of what has moved: they are only there to say so


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `evaluate`, `emotions`, `voice`, `lips`, `bench` and `measure`."""
    _add_evaluate(commands.add_parser("evaluate", help="measure an avatar on held-out videos of its person"))
    _add_emotions(commands.add_parser("emotions", help="measure the generic stages: emotions and head motion"))
    _add_voice(commands.add_parser("voice", help="measure how well emotions are heard in voices"))
    _add_lips(commands.add_parser("lips", help="measure lips: closures, noise, no speaker, unseen speakers, any speech"))
    _add_bench(commands.add_parser("bench", help="speed and memory on this machine, stage by stage"))
    measure = commands.add_parser("measure", help="measure what takes long: endurance")
    endurance = "accidents and load: programs killed, an hour of speech, many visitors, a full disk"
    _add_endurance(measure.add_subparsers(required=True, metavar="what").add_parser("endurance", help=endurance))


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    add_avatar(evaluate)
    evaluate.add_argument("--video", type=Path, nargs="+", metavar="F")
    evaluate.add_argument("--dataset", choices=DATASETS, help="instead of --video: the test clips of a public set...")
    evaluate.add_argument("--root", type=Path, metavar="DIR", help="...in its own layout")
    evaluate.add_argument("--person", metavar="P", help="whose clips of the set (default: the avatar's name)")
    evaluate.add_argument("--everybody", action="store_true", **HIDDEN)
    evaluate.add_argument("--minutes", type=float, **HIDDEN)
    evaluate.add_argument("--i-have-consent", action="store_true", **HIDDEN)
    evaluate.add_argument("--start", type=float, default=0.0, metavar="S", help="from second S of each video (default 0)")
    evaluate.add_argument("--json", type=Path, required=True, metavar="F", help="where the measures are written")
    evaluate.add_argument(
        "--judge", type=Path, metavar="F.pt", help="a TorchScript classifier: is the requested emotion recognised?"
    )
    evaluate.add_argument(
        "--labelled", action="append", default=[], metavar="F=happy", help="a real clip for --judge and --emotions"
    )
    evaluate.add_argument("--emotions", action="store_true", help="is what the track asks for in each emotion drawn?")
    evaluate.add_argument(
        "--speeches", type=Path, nargs="+", metavar="F", help="what is said for --judge (default: the bundled one)"
    )
    evaluate.add_argument("--seeds", type=int, default=1, metavar="N", help="takes of each speech for --judge (1)")
    evaluate.add_argument("--intensities", type=float, nargs="+", default=(1.0,), metavar="X", help="of the emotions (1)")
    evaluate.add_argument("--identity", type=Path, metavar="F.onnx", help="insightface's network: is it still the same person?")
    evaluate.add_argument("--lpips", type=Path, metavar="F.pt", help="a TorchScript perceptual distance: does it look the same?")
    evaluate.add_argument("--full-frame", action="store_true", help="is the head that was filmed gone from the full frame?")
    evaluate.add_argument("--pictures", type=Path, metavar="DIR", help="a folder for the traces of the lips")
    add_device(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_emotions(emotions: argparse.ArgumentParser) -> None:
    emotions.add_argument("--json", type=Path, required=True, metavar="F", help="where the measures are written")
    emotions.add_argument("--generic", metavar="DIR", help="the generic stages (default: the bundled ones)")
    emotions.add_argument("--baseline", type=Path, metavar="DIR", help="also measure `pretrain expression --baseline`'s result")
    emotions.add_argument("--data", type=Path, metavar="DIR", help="also compare with the test clips of a MANIFEST.csv")
    emotions.add_argument("--leave-out", default="", metavar="P,Q", help="people of --data that are not compared with")
    emotions.add_argument("--adapt", type=float, **HIDDEN)
    emotions.add_argument("--speech", nargs="+", **HIDDEN)
    emotions.add_argument("--pictures", type=Path, metavar="DIR", help="a folder for pictures of the mixture and the motion")
    add_device(emotions)
    emotions.set_defaults(run=_emotions)


def _add_voice(voice: argparse.ArgumentParser) -> None:
    voice.add_argument("--json", type=Path, required=True, metavar="F", help="where the measures are written")
    voice.add_argument("--data", type=Path, metavar="DIR", help="name the emotions of the test rows of a MANIFEST.csv")
    voice.add_argument("--speeches", type=Path, nargs="+", default=(), metavar="F", help="speech of anybody")
    voice.set_defaults(run=_voice)


def _add_lips(lips: argparse.ArgumentParser) -> None:
    add_avatar(lips)
    lips.add_argument("--json", type=Path, required=True, metavar="F", help="where the measures are written")
    lips.add_argument("--generic", metavar="DIR", help="the generic stages (default: the bundled ones)")
    lips.add_argument("--speech", type=Path, metavar="F", help="a speech whose phones are known: do lips close at m, b, p...")
    lips.add_argument("--phones", type=Path, metavar="F.txt", help='...and its phones with their ends: "pau:0.19 b:0.22 ..."')
    lips.add_argument("--hum", type=Path, metavar="F", help='a hummed "mmm": are lips closed?')
    lips.add_argument("--no-speech", type=Path, nargs="+", default=(), metavar="F", help="sounds without speech: do lips rest?")
    lips.add_argument("--music", type=Path, metavar="F", help="music to be heard behind the bundled speech")
    lips.add_argument("--speeches", type=Path, nargs="+", default=(), metavar="F", help="speech of anybody, in any language")
    lips.add_argument("--data", type=Path, metavar="DIR", help="compare with the lips of the test clips of a MANIFEST.csv")
    lips.add_argument("--leave-out", default="", metavar="P,Q", help="people of --data that are not compared with")
    lips.add_argument("--pictures", type=Path, metavar="DIR", help="a folder for pictures of the mouth at each m, b, p")
    lips.add_argument("--tracks-only", action="store_true", help="do not draw: quick, but nothing is seen as it is drawn")
    lips.add_argument("--speeds", type=float, nargs="+", metavar="X", help="of --speech: 1 0.5 2 unless said")
    add_device(lips)
    lips.set_defaults(run=_lips)


def _add_bench(bench: argparse.ArgumentParser) -> None:
    add_avatar(bench)
    bench.add_argument("--json", type=Path, required=True, metavar="F", help="where the figures are written")
    bench.add_argument(
        "--long", type=float, nargs="*", default=(), metavar="M", help="also M minutes of speech: memory and drift"
    )
    bench.add_argument("--heads", type=Path, nargs="+", **HIDDEN)
    bench.add_argument("--minutes", type=float, **HIDDEN)
    bench.add_argument(
        "--marks", type=Path, nargs="+", metavar="CLIP", help="instead: does the mark survive, and no CLIP hold one?"
    )
    add_device(bench)
    bench.set_defaults(run=_bench)


def _add_endurance(endurance: argparse.ArgumentParser) -> None:
    endurance.add_argument("--json", type=Path, required=True, metavar="F", help="where the figures are written")
    endurance.add_argument("--parts", default="", metavar="P,Q", help="only these (default: all)")
    endurance.add_argument("--clip", type=Path, metavar="CLIP", help="of a person, for trainings (default: none)")
    endurance.add_argument("--kills", type=int, default=20, metavar="N", help="of each program (20)")
    endurance.add_argument("--minutes", type=float, default=60.0, metavar="M", help="of the long speech (60)")
    endurance.add_argument("--visitors", type=int, default=50, metavar="N", help="at once on the page (50)")
    endurance.add_argument("--videos", type=int, default=200, metavar="N", help="in the page's queue (200)")
    endurance.add_argument(
        "--small-disk", type=Path, metavar="DIR", help="on a disk of 50 to 500 MB, to be filled up (default: none)"
    )
    endurance.set_defaults(run=_endurance)


def _evaluate(options: argparse.Namespace) -> None:
    if options.everybody or options.i_have_consent or options.minutes is not None:
        raise WrongUsage(MOVED.format("evaluate --everybody", "set"))
    check_output(options.json, ".json")
    if not options.start >= 0:
        raise WrongUsage("--start must be 0 or more seconds.")
    if bool(options.video) == bool(options.dataset) or bool(options.dataset) != bool(options.root):
        raise WrongUsage("Say what to measure on: --video F..., or --dataset mead --root DIR.")
    if options.labelled and not (options.judge or options.emotions):
        raise WrongUsage("--labelled clips need --judge F.pt, which classifies them, or --emotions, which redraws them.")
    for text in options.labelled:
        labelled_clip(text, "--labelled")
    if options.seeds < 1 or not all(0 <= intensity <= 2 for intensity in options.intensities):
        raise WrongUsage("--seeds takes 1 or more, --intensities numbers from 0 to 2.")

    # Late: wrong usage should not wait for the networks' libraries.
    from gmtalker.avatars.ready import load_avatar
    from gmtalker.measure.avatar import evaluate_avatar
    from gmtalker.measure.emotion_classifier import EmotionClassifier
    from gmtalker.measure.identity import recogniser_at_hand
    from gmtalker.measure.perceptual import PerceptualDistance

    avatar = load_avatar(options.avatar)
    held_out = _held_out(options, avatar.name)
    # Before the long part: a wrong file should not cost it.
    classifier = None if options.judge is None else EmotionClassifier(options.judge)
    recogniser = recogniser_at_hand(options.identity)
    perceptual = None if options.lpips is None else PerceptualDistance(options.lpips)
    pipeline = load_pipeline(options)
    with progress_bar(options) as on_progress:
        measures = evaluate_avatar(avatar, held_out, pipeline, on_progress, options.pictures, recogniser, perceptual)
        measures |= _further_measures(options, classifier, pipeline, avatar, on_progress)
    write_measures(measures, options.json)


def _further_measures(
    options: argparse.Namespace,
    classifier: EmotionClassifier | None,
    pipeline: GMTalkerPipeline,
    avatar: Avatar,
    on_progress: OnProgress,
) -> dict:
    """What --full-frame, --judge and --emotions ask for."""
    from gmtalker.assets import SPEECH
    from gmtalker.measure.emotion_classifier import Asked, emotion_accuracy
    from gmtalker.measure.emotion_drawn import look_drawn, movement_drawn
    from gmtalker.measure.outline import full_frame_measures

    labelled = dict(labelled_clip(text, "--labelled") for text in options.labelled)
    measures: dict = {}
    if options.full_frame:
        on_progress(Progress("measuring full frames"))
        measures["full_frame"] = full_frame_measures(avatar, pipeline, SPEECH)
    if classifier is not None:
        on_progress(Progress("classifying emotions"))
        asked = Asked(options.speeches or (SPEECH,), range(options.seeds), options.intensities)
        measures |= emotion_accuracy(classifier, pipeline, avatar, asked, labelled)
    if options.emotions:
        on_progress(Progress("measuring emotions"))
        measures["emotion_movement_drawn"] = movement_drawn(avatar, pipeline, SPEECH)
        neutral = [clip for clip, emotion in labelled.items() if emotion == "neutral"]
        shown = {clip: emotion for clip, emotion in labelled.items() if emotion != "neutral"}
        if neutral and shown:
            measures["emotion_look_drawn"] = look_drawn(avatar, pipeline, shown, neutral)
    return measures


def _held_out(options: argparse.Namespace, name: str) -> HeldOut:
    """What --video or --dataset names; name: the avatar's. Errors: UnusableInput when the set has no test clip of the person."""
    from gmtalker.measure.avatar import HeldOut
    from gmtalker.pretrain.datasets import clips_to_measure

    if options.video:
        return HeldOut(tuple(options.video), options.start)
    rows, start = clips_to_measure(options.root, options.dataset, options.person or name)
    sounds = {row.path: row.heard_in for row in rows}
    return HeldOut(tuple(row.path for row in rows), max(start, options.start), sounds)


def _emotions(options: argparse.Namespace) -> None:
    if options.adapt is not None:
        raise WrongUsage(MOVED.format("emotions --adapt", "adapt"))
    if options.speech is not None:
        raise WrongUsage(LIPS_MOVED)
    check_output(options.json, ".json")
    need_package("librosa")
    from gmtalker.measure.generic import GenericMeasures, measure_generic
    from gmtalker.models.expression_generator import ExpressionGenerator
    from gmtalker.models.weights import load_strict

    pipeline = load_pipeline(options)
    baseline = None if options.baseline is None else load_strict(ExpressionGenerator, options.baseline).to(pipeline.device)
    wanted = GenericMeasures(baseline, options.data, names_in(options.leave_out), options.pictures)
    with progress_bar(options) as on_progress:
        measures = measure_generic(pipeline, wanted, on_progress)
    write_measures(measures, options.json)


def _voice(options: argparse.Namespace) -> None:
    check_output(options.json, ".json")
    if options.data is None and not options.speeches:
        raise WrongUsage("Say what to listen to: --data DIR, or --speeches F...")
    from gmtalker.measure.voice import measure_voice

    with progress_bar(options) as on_progress:
        measures = measure_voice(options.data, options.speeches, on_progress=on_progress)
    write_measures(measures, options.json)


def _lips(options: argparse.Namespace) -> None:
    check_output(options.json, ".json")
    if (options.speech is None) != (options.phones is None):
        raise WrongUsage("--speech F needs --phones F.txt, which says where its sounds are.")
    if options.pictures is not None and (options.speech is None or options.tracks_only):
        raise WrongUsage("--pictures shows what is drawn at the sounds of --speech.")
    if not all(0.5 <= speed <= 2 for speed in options.speeds or ()):
        raise WrongUsage("--speeds takes numbers from 0.5 to 2.")

    # Late: wrong usage should not wait for the networks' libraries.
    from gmtalker.measure.lips import SPEEDS, LipMeasures, measure_lips

    wanted = LipMeasures(
        spelled=None if options.speech is None else (options.speech, options.phones),
        hum=options.hum,
        no_speech=options.no_speech,
        music=options.music,
        speeches=options.speeches,
        data=options.data,
        leave_out=names_in(options.leave_out),
        pictures=options.pictures,
        drawn=not options.tracks_only,
        speeds=options.speeds or SPEEDS,
    )
    pipeline = load_pipeline(options)
    with progress_bar(options) as on_progress:
        measures = measure_lips(pipeline, pipeline.avatars.get(options.avatar), wanted, on_progress)
    write_measures(measures, options.json)


def _bench(options: argparse.Namespace) -> None:
    if options.heads or options.minutes is not None:
        raise WrongUsage(MOVED.format("bench --heads", "heads"))
    check_output(options.json, ".json")
    if not all(0 < minutes < math.inf for minutes in options.long):
        raise WrongUsage("--long takes minutes.")
    from gmtalker.measure.speed import measure_speed
    from gmtalker.measure.watermark import measure_mark, measure_sound_mark

    pipeline = load_pipeline(options)
    with progress_bar(options) as on_progress:
        if options.marks:
            figures = measure_mark(pipeline, options.marks, on_progress)
            figures |= {"sound": measure_sound_mark(options.marks, on_progress)}
        else:
            figures = measure_speed(pipeline, options.avatar, long=options.long)
    write_json(figures, options.json)


def _endurance(options: argparse.Namespace) -> None:
    check_output(options.json, ".json")
    for package in ("psutil", "gradio"):
        need_package(package)
    if options.small_disk is not None and shutil.disk_usage(options.small_disk).free > SMALL_DISK_MAX:
        raise WrongUsage(f"{options.small_disk} is on a large disk; --small-disk fills it up.")
    from gmtalker.measure.endurance import Ordeal, measure_endurance

    given = options.clip, options.kills, options.minutes, options.visitors, options.videos, options.small_disk
    with bad_values_are_wrong_usage(), progress_bar(options) as on_progress:
        figures = measure_endurance(Ordeal(*given), names_in(options.parts), on_progress)
    write_json(figures, options.json)


def write_measures(measures: dict, path: Path) -> None:
    """Write measures as JSON, and as a Markdown table of the same name beside it. Errors: OSError when they can't be written."""
    write_json(measures, path)
    write_table(finite(measures), path)
