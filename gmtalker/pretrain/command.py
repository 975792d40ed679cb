"""pretrain: the sub-parser of python -m gmtalker that trains the generic stages."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from gmtalker.clock import SIZES
from gmtalker.command_line import DATASETS, WrongUsage, add_device, names_in, progress_bar

STAGES = (
    "speech",
    "expression",
    "motion",
    "sync",
    "head",
    "ratio",
    "offsets",
    "voice",
    "face",
)  # each trained by the module of its name
COUNTED = ("expression", "sync")  # which may be trained for a number of steps
STARTED = ("speech", "expression")  # which may go on from weights


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `pretrain`."""
    pretrain = commands.add_parser("pretrain", help="train a generic stage on a set of clips")
    pretrain.add_argument("stage", choices=STAGES)
    add_dataset(pretrain)  # pretrain speech --speech-encoder needs none
    pretrain.add_argument("--output", type=Path, required=True, metavar="DIR")
    pretrain.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes of training; the same command resumes")
    pretrain.add_argument("--steps", type=int, metavar="N", help="expression and sync only: N steps instead of --minutes")
    pretrain.add_argument("--speech-encoder", metavar="H", help="speech only: use this Whisper, HuBERT or WavLM as it is")
    pretrain.add_argument(
        "--teacher", metavar="H", help="speech only: the Whisper, HuBERT or WavLM to learn from (folder or Hub name)"
    )
    pretrain.add_argument(
        "--extra-speech", type=Path, action="append", default=[], metavar="DIR", help="speech only: more recordings"
    )
    pretrain.add_argument("--noises", type=Path, metavar="DIR", help="sounds without speech, to train among")
    pretrain.add_argument("--start", type=Path, metavar="DIR", help="speech and expression: go on from these weights")
    pretrain.add_argument(
        "--articulation-only", action="store_true", help="speech only, with --start: leave all features but the articulation"
    )
    pretrain.add_argument("--baseline", action="store_true", help="expression only: without the mixture, for comparison")
    pretrain.add_argument("--leave-out", default="", metavar="P,Q", help="head only: people not to train on")
    pretrain.add_argument("--size", type=int, choices=SIZES, default=256, help="head only: side of the pictures in pixels (256)")
    add_device(pretrain)
    pretrain.set_defaults(run=_pretrain)


def add_dataset(command: argparse.ArgumentParser) -> None:
    """--data DIR, or --root DIR with --dataset NAME."""
    where = command.add_mutually_exclusive_group()
    where.add_argument("--data", type=Path, metavar="DIR", help="a folder whose clips a MANIFEST.csv describes")
    where.add_argument("--root", type=Path, metavar="DIR", help="a public set in its own layout; --dataset names it")
    command.add_argument("--dataset", choices=DATASETS, help="the public set in --root")


def dataset_of(options: argparse.Namespace) -> tuple[Path, str]:
    """The folder of the clips and the name of their set. Errors: WrongUsage when the options do not say."""
    if options.data is None and options.root is None:
        raise WrongUsage("Say where the clips are: --data DIR, or --root DIR with --dataset.")
    if (options.root is None) != (options.dataset is None):
        raise WrongUsage("--root and --dataset belong together: --dataset mead --root DIR.")
    return (options.data, "manifest") if options.root is None else (options.root, options.dataset)


def _check(options: argparse.Namespace) -> None:
    """Errors: WrongUsage for a bad value, or an option that the stage does not have."""
    if options.minutes is not None and not options.minutes > 0:
        raise WrongUsage("--minutes must be more than 0.")
    if options.steps is not None and (options.stage not in COUNTED or options.steps < 1 or options.minutes is not None):
        raise WrongUsage("--steps takes a number of steps of pretrain expression or sync, instead of --minutes.")
    if options.speech_encoder and options.stage != "speech":
        raise WrongUsage("--speech-encoder says what pretrain speech takes: pretrain speech --speech-encoder NAME.")
    if (options.teacher or options.extra_speech) and options.stage != "speech":
        raise WrongUsage("--teacher and --extra-speech say what pretrain speech learns from.")
    if options.start and options.stage not in STARTED:
        raise WrongUsage(f"--start is for pretrain {' and '.join(STARTED)}.")
    if options.articulation_only and not options.start:
        raise WrongUsage("--articulation-only keeps the features of an encoder: say of which, with --start DIR.")
    if options.baseline and options.stage != "expression":
        raise WrongUsage("--baseline is another expression generator: pretrain expression --baseline.")


def _pretrain(options: argparse.Namespace) -> None:
    _check(options)
    stage = importlib.import_module(f"gmtalker.pretrain.{options.stage}")  # late: torch and accelerate take seconds to import
    from gmtalker.pretrain.datasets import training_rows
    from gmtalker.pretrain.samples import PretrainOptions

    given = options.data or options.root or not options.speech_encoder  # an encoder may bring a head that was trained before
    rows = training_rows(*dataset_of(options)) if given else []
    for folder in options.extra_speech:
        rows += training_rows(folder)
    pretrain_options = PretrainOptions(
        minutes=options.minutes,
        steps=options.steps,
        device=options.device,
        by_label=options.baseline,
        leave_out=names_in(options.leave_out),
        size=options.size,
        teacher=options.teacher,
        noises=options.noises,
        start=options.start,
        articulation_only=options.articulation_only,
    )
    with progress_bar(options) as on_progress:
        if options.speech_encoder:
            stage.adopt_speech_encoder(options.speech_encoder, rows, options.output, pretrain_options, on_progress)
            return
        getattr(stage, f"pretrain_{options.stage}")(rows, options.output, pretrain_options, on_progress)
