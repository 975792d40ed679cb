"""python -m personalize: from a person's clips to an avatar, on the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from gmtalker.clock import SIZES
from gmtalker.command_line import (
    DONE,
    UNUSABLE,
    WrongUsage,
    add_json,
    bad_values_are_wrong_usage,
    done,
    fail,
    for_machines,
    labelled_clip,
    print_json,
    progress_bar,
    run,
)
from gmtalker.errors import UnusableInput
from gmtalker.progress import Progress
from personalize import benchmark_command, jobs
from personalize.consent import CONSENT_WORDS, Consent
from personalize.request import PRESETS, TrainRequest


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0 done, 1 the input can't be used, 2 wrong usage (command_line.run)."""
    return run(_parser(), arguments, stopped=jobs.STOPPED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m personalize", description="Make avatars out of a person's video clips.")
    commands = parser.add_subparsers(required=True, metavar="command")
    check = commands.add_parser("check", help="say what is good and what to fix in clips")
    check.add_argument("clips", nargs="+", type=Path, metavar="F")
    check.add_argument("--json", nargs="?", const="-", metavar="F", help="the reports as JSON, into F or printed")
    check.set_defaults(run=_check)
    _add_train(commands.add_parser("train", help="make an avatar out of clips of one person"))
    _add_named(commands)
    _add_hub(commands)
    listing = commands.add_parser("list", help="show the avatars and the trainings")
    add_json(listing)
    listing.set_defaults(run=_list)
    benchmark_command.add_commands(commands)
    space = commands.add_parser("space")  # no help: it is not listed
    space.add_argument("rest", nargs=argparse.REMAINDER)
    space.set_defaults(run=_space)
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("clips", nargs="*", type=Path, metavar="F")
    train.add_argument("--name", help="the avatar's name")
    train.add_argument("--request", type=Path, metavar="F.json", help="in the place of clips and options: a saved request")
    train.add_argument("--i-have-consent", action="store_true", help=CONSENT_WORDS)
    train.add_argument("--preset", choices=PRESETS, default="standard")
    train.add_argument("--minutes", type=float, metavar="M", help="train so long instead of as long as the preset does")
    train.add_argument("--size", type=int, choices=SIZES, default=256, help="pixels of a side that it is drawn at (256)")
    train.add_argument("--emotion", action="append", default=[], metavar="F=happy", help="the emotion a clip shows")
    train.add_argument("--job", help=argparse.SUPPRESS)  # the row of a job that the page has put in the queue
    train.add_argument("--json", action="store_true", help="progress as one JSON object a line")
    train.set_defaults(run=_train)


def _add_named(commands: argparse._SubParsersAction) -> None:
    for name, command, text in (
        ("status", _status, "say how far a training is"),
        ("stop", _stop, "stop a training; it can be resumed"),
        ("resume", _resume, "go on with a stopped or failed training"),
        ("export", _export, "pack an avatar into one file"),
        ("delete", _delete, "delete an avatar or an unfinished training"),
    ):
        parser = commands.add_parser(name, help=text)
        parser.add_argument("name", metavar="N")
        add_json(parser)
        parser.set_defaults(run=command)
        if name == "export":
            parser.add_argument("--output", type=Path, metavar="F.zip", help="default: N.gmtalker.zip")
        if name == "delete":
            parser.add_argument("--yes", action="store_true", help="don't ask")


def _add_hub(commands: argparse._SubParsersAction) -> None:
    share = commands.add_parser("share", help="put an avatar onto the Hub, for nobody else to see unless --public")
    share.add_argument("name", metavar="N")
    share.add_argument("--repo", metavar="owner/name", help="default: where it was before, or your own of its name")
    share.add_argument("--public", action="store_true", help="for everybody to see and to use")
    share.add_argument("--license", metavar="L", help="as the Hub calls it, such as cc-by-4.0 (default: the consent alone)")
    pull = commands.add_parser("pull", help="fetch an avatar from the Hub")
    pull.add_argument("repo", metavar="owner/name")
    pull.add_argument("--name", metavar="N", help="what it is called here")
    pull.add_argument("--revision", metavar="R", help="a branch, a tag or a commit instead of the newest")
    update = commands.add_parser("update", help="fetch an avatar from the Hub again, if it has changed there")
    update.add_argument("name", metavar="N")
    for parser, command in ((share, _share), (pull, _pull), (update, _update)):
        parser.add_argument("--token", metavar="T", help="of the Hub (default: HF_TOKEN, or that of `hf auth login`)")
        add_json(parser)
        parser.set_defaults(run=command)


def _check(options: argparse.Namespace) -> int:
    results = []
    for clip in options.clips:
        results.append(_check_one(clip))
        if options.json != "-":
            _print_report(clip, results[-1])
    if options.json == "-":
        print_json({"clips": results})
    elif for_machines(options):
        Path(options.json).write_text(json.dumps({"clips": results}, ensure_ascii=False, indent=2), encoding="utf-8")
    return UNUSABLE if any(result["failed"] for result in results) else DONE


def _check_one(clip: Path) -> dict:
    from personalize.check import check_clip

    try:
        return check_clip(clip).to_json() | {"clip": str(clip)}
    except UnusableInput as error:
        return {"clip": str(clip), "failed": True, "error": str(error), "lines": []}


def _print_report(clip: Path, result: Mapping) -> None:
    print(f"{clip}: {'not usable' if result['failed'] else 'usable'}")
    for line in result["lines"]:
        advice = f": {line['advice']}" if line["advice"] else ""
        print(f"  {line['status']:4}  {line['name']}  {line['value']}{advice}")
    if "error" in result:
        print(f"  fail  {result['error']}")


def _train(options: argparse.Namespace) -> int:
    request = _request_of(options)
    job = jobs.get(options.job) if options.job else jobs.create(request, here=True)
    return _work(options, job)


def _request_of(options: argparse.Namespace) -> TrainRequest:
    """The request that the options, or the file of --request, describe. Errors: WrongUsage, UnusableInput."""
    if options.request is not None:
        if options.clips or options.name:
            raise WrongUsage("--request names clips and everything else: give it alone.")
        return TrainRequest.load(options.request)
    if not options.i_have_consent:
        raise WrongUsage(f"Consent is required; add --i-have-consent if this is true: {CONSENT_WORDS}")
    if not options.clips or not options.name:
        raise WrongUsage("train takes clips and a name: train me.mp4 --name Ann --i-have-consent.")
    emotions = dict(labelled_clip(text, "--emotion") for text in options.emotion)
    with bad_values_are_wrong_usage():
        consent = Consent.given_now(options.name)
        return TrainRequest(options.name, options.clips, consent, options.preset, options.minutes, emotions, options.size)


def _work(options: argparse.Namespace, job: jobs.Job) -> int:
    """Check the clips and train, in this process."""
    request = job.request
    try:
        with jobs.reporting(job) as to_row, progress_bar(options) as to_person:

            def on_progress(progress: Progress) -> None:
                to_row(progress)
                to_person(progress)

            on_progress(Progress("checking the clips", percent=0.0))
            if advice := dict.fromkeys(line for clip in request.clips for line in _warnings(clip)):
                on_progress(Progress(message=" ".join(advice)))
            from personalize.train import train_avatar  # late: torch, diffusers and accelerate take seconds

            folder = train_avatar(request, on_progress)
    except UnusableInput:
        if not options.job and job.percent == 0:  # the page shows why it failed; here the sentence is all that should stay
            jobs.forget(jobs.get(job.id))
        raise
    finally:
        jobs.refresh()  # the next in the queue need not wait until somebody looks
    done(options, f"The avatar {request.name} is ready: {folder}", avatar=str(folder))
    return DONE


def _warnings(clip: Path) -> list[str]:
    """What the check advises on a usable clip. Errors: UnusableInput with what stands against an unusable one."""
    result = _check_one(clip)
    if "error" in result:
        raise UnusableInput(result["error"])
    for line in result["lines"]:
        if line["status"] == "fail":
            raise UnusableInput(f"{clip.name} can't be used ({line['name']}: {line['value']}): {line['advice']}")
    return [line["advice"] for line in result["lines"] if line["status"] == "warn"]


def _status(options: argparse.Namespace) -> int:
    jobs.refresh()
    job = jobs.find(options.name)
    if for_machines(options):
        print_json(asdict(job))
    else:
        print(f"{job.name}: {job.summary()}")
    return DONE


def _stop(options: argparse.Namespace) -> int:
    job = jobs.find(options.name)
    if job.status not in jobs.OPEN:
        raise UnusableInput(f"The training {job.name} is {job.status}; there is nothing to stop.")
    return _say(options, jobs.stop(job))


def _resume(options: argparse.Namespace) -> int:
    options.job = None
    jobs.refresh()
    job = jobs.find(options.name)
    if job.status not in ("stopped", "failed"):
        raise UnusableInput(f"The training {job.name} is {job.status}; only a stopped or failed one can be resumed.")
    return _work(options, job)


def _export(options: argparse.Namespace) -> int:
    from gmtalker.avatars.storage import export_avatar
    from gmtalker.avatars.workspace import slug

    output = export_avatar(options.name, options.output or Path(f"{slug(options.name)}.gmtalker.zip"))
    if for_machines(options):
        print_json({"avatar": options.name, "file": str(output)})
    else:
        print(f"Packed {options.name} into {output}")
    return DONE


def _share(options: argparse.Namespace) -> int:
    from personalize.share import share_avatar

    with bad_values_are_wrong_usage():
        repo, address = share_avatar(options.name, options.repo, not options.public, options.token, options.license)
    if for_machines(options):
        print_json({"avatar": options.name, "repo": repo, "address": address})
    else:
        print(f"Shared {options.name} as {repo}, {'for everybody' if options.public else 'private'}: {address}")
    return DONE


def _pull(options: argparse.Namespace) -> int:
    from gmtalker.avatars.avatar import read_card
    from gmtalker.avatars.on_hub import pull_avatar

    with bad_values_are_wrong_usage():
        folder = pull_avatar(options.repo, options.name, options.revision, options.token)
    name = read_card(folder)["name"]
    if for_machines(options):
        print_json({"avatar": name, "folder": str(folder)})
    else:
        print(f"Pulled {options.repo} as {name}: {folder}")
    return DONE


def _update(options: argparse.Namespace) -> int:
    from gmtalker.avatars.on_hub import update_avatar

    changed = update_avatar(options.name, options.token)
    if for_machines(options):
        print_json({"avatar": options.name, "updated": changed})
    else:
        print(f"{options.name} is {'another version now' if changed else 'what the Hub has already'}.")
    return DONE


def _delete(options: argparse.Namespace) -> int:
    if not options.yes:
        if not sys.stdin.isatty():
            raise WrongUsage("Deleting can't be undone; add --yes if that is meant.")
        if input(f"Delete {options.name} and everything made on the way to it? [y/N] ").strip().lower() not in ("y", "yes"):
            return fail(options, "Nothing was deleted.", UNUSABLE)
    jobs.refresh()
    jobs.delete(options.name)
    if for_machines(options):
        print_json({"deleted": options.name})
    else:
        print(f"Deleted {options.name}")
    return DONE


def _list(options: argparse.Namespace) -> int:
    from gmtalker.avatars.storage import list_avatars

    jobs.refresh()
    avatars, trainings = list_avatars(), [job for job in jobs.jobs() if job.status != "done"]
    if for_machines(options):
        shown = [asdict(entry) | {"folder": str(entry.folder)} for entry in avatars]
        print_json({"avatars": shown, "trainings": [asdict(job) for job in trainings]})
        return DONE
    for entry in avatars:
        print(f"{entry.name}{'  (bundled)' if entry.bundled else ''}  {entry.folder}")
    for job in trainings:
        print(f"{job.name}  in training: {job.summary()}")
    return DONE


def _space(options: argparse.Namespace) -> int:
    raise WrongUsage(f"Publishing is a command of the page now: python -m studio space {' '.join(options.rest)}".strip() + ".")


def _say(options: argparse.Namespace, job: jobs.Job) -> int:
    if for_machines(options):
        print_json(asdict(job))
    else:
        print(f"{job.name}: {job.summary()}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
