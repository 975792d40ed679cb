"""The command `python -m personalize benchmark`, which trains avatars in order to measure them."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from gmtalker.command_line import (
    DATASETS,
    WrongUsage,
    add_device,
    check_output,
    load_pipeline,
    names_in,
    progress_bar,
    write_json,
)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    benchmark = commands.add_parser("benchmark", help="train avatars and measure them: heads, set, adapt, motion")
    kinds = benchmark.add_subparsers(required=True, metavar="what")
    heads = kinds.add_parser("heads", help="train a head twice: our generic start, and the reference's widths from scratch")
    heads.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    whole = kinds.add_parser("set", help="train and measure an avatar of every test person of a public set")
    whole.add_argument("--dataset", choices=DATASETS, required=True, help="the public set")
    whole.add_argument("--root", type=Path, required=True, metavar="DIR", help="its folder")
    whole.add_argument("--i-have-consent", action="store_true", help="its people agreed that avatars of them are made")
    whole.add_argument("--identity", type=Path, metavar="F.onnx", help="insightface's network, for identity similarity")
    adapt = kinds.add_parser("adapt", help="adapt the speaking style to a part of each long test clip, and measure the rest")
    adapt.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder with a MANIFEST.csv of its clips")
    adapt.add_argument("--leave-out", default="", metavar="P,Q", help="people who are not measured")
    motion = kinds.add_parser("motion", help="do generated heads move as their people do? (nothing is trained)")
    motion.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder with a MANIFEST.csv of its clips")
    motion.add_argument("--people", default="", metavar="P,Q", help="who is measured (default: everybody with 20 seconds)")
    motion.add_argument("--json", type=Path, required=True, metavar="F", help="where the measures are written")
    add_device(motion)
    motion.set_defaults(run=_motion)
    for kind, command, minutes in ((heads, _heads, 10.0), (whole, _set, 10.0), (adapt, _adapt, 1.0)):
        kind.add_argument("--minutes", type=float, default=minutes, metavar="M", help=f"of training for each ({minutes:g})")
        kind.add_argument("--json", type=Path, required=True, metavar="F", help="where the measures are written")
        add_device(kind)
        kind.set_defaults(run=command)


def _check(options: argparse.Namespace) -> None:
    check_output(options.json, ".json")
    if not 0 < options.minutes < math.inf:
        raise WrongUsage("--minutes must be more than 0.")


def _heads(options: argparse.Namespace) -> None:
    _check(options)
    from personalize.benchmark import compare_heads

    picture = options.json.with_suffix(".png")
    with progress_bar(options) as on_progress:
        figures = compare_heads(options.clips, options.minutes, load_pipeline(options), on_progress, picture)
    write_json(figures, options.json)


def _set(options: argparse.Namespace) -> None:
    _check(options)
    if not options.i_have_consent:
        raise WrongUsage("Consent is required; add --i-have-consent if the set's people agreed that avatars of them are made.")
    from gmtalker.measure.command import write_measures
    from gmtalker.measure.identity import recogniser_at_hand
    from personalize.benchmark import measure_public_set

    recogniser = recogniser_at_hand(options.identity)
    with progress_bar(options) as on_progress:
        measures = measure_public_set(
            options.root, options.dataset, options.minutes, load_pipeline(options), on_progress, recogniser
        )
    write_measures(measures, options.json)


def _adapt(options: argparse.Namespace) -> None:
    _check(options)
    from personalize.benchmark import measure_adaptation

    with progress_bar(options) as on_progress:
        figures = measure_adaptation(
            options.data, options.minutes, load_pipeline(options), names_in(options.leave_out), on_progress
        )
    write_json(figures, options.json)


def _motion(options: argparse.Namespace) -> None:
    check_output(options.json, ".json")
    from gmtalker.measure.command import write_measures
    from personalize.motion_benchmark import measure_habitual_motion

    with progress_bar(options) as on_progress:
        figures = measure_habitual_motion(options.data, load_pipeline(options), names_in(options.people), on_progress)
    write_measures(figures, options.json)
