"""python -m personalize: from a person's clips to an avatar, on the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from gmtalker.avatars.audit import recorded
from gmtalker.clock import SIZES
from gmtalker.command_line import (
    DONE,
    UNUSABLE,
    WrongUsage,
    add_json,
    add_token,
    bad_values_are_wrong_usage,
    check_output,
    done,
    fail,
    for_machines,
    labelled_clip,
    print_json,
    program,
    progress_bar,
    run,
)
from gmtalker.errors import UnusableInput
from gmtalker.files import whole_file
from gmtalker.progress import Progress
from personalize import benchmark_command, jobs
from personalize.consent import CONSENT_WORDS, GROWN_UP, HEIRS, Consent
from personalize.request import PRESETS, TrainRequest


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    arguments: without the program's name; None for those of this process.
    Returns: 0 done, 1 the input can't be used, 2 wrong usage.
    """
    return run(_parser(), arguments, stopped=jobs.STOPPED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("personalize"), description="Make avatars out of a person's video clips.")
    commands = parser.add_subparsers(required=True, metavar="command")
    check = commands.add_parser("check", help="report what is good about clips and what to improve")
    check.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    check.add_argument("--json", nargs="?", const="-", metavar="F", help="write the reports as JSON to F, or print them")
    check.set_defaults(run=_check)
    _add_train(commands.add_parser("train", help="make an avatar from clips of one person"))
    _add_named(commands)
    _add_hub(commands)
    log = commands.add_parser("log", help="what happened to avatars: trained, shared, exported, deleted, refused")
    words = commands.add_parser("consent-words", help="a sentence with three random words, to film a consent with")
    for parser_, command in ((log, _log), (words, _consent_words)):
        add_json(parser_)
        parser_.set_defaults(run=command)
    listing = commands.add_parser("list", help="list avatars and trainings")
    add_json(listing)
    listing.set_defaults(run=_list)
    benchmark_command.add_commands(commands)
    space = commands.add_parser("space")  # where it was in version 0.1; without a help text it is not listed
    space.add_argument("rest", nargs=argparse.REMAINDER)
    space.set_defaults(run=_space)
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    presets = ", ".join(f"{preset} {minutes:g}" for preset, minutes in PRESETS.items())
    train.add_argument("clips", nargs="*", type=Path, metavar="CLIP")
    train.add_argument("--name", help="name of the avatar")
    train.add_argument("--request", type=Path, metavar="F.json", help="a saved request, instead of clips and options")
    train.add_argument("--i-have-consent", action="store_true", help=f"{CONSENT_WORDS} {GROWN_UP}")
    train.add_argument("--consent-of", metavar="PERSON", help="who agrees (default: the avatar's name)")
    train.add_argument("--for", dest="uses", metavar="TEXT", help="what the avatar may be used for, as the person agreed")
    train.add_argument("--where", dest="places", metavar="TEXT", help="where it may be shown")
    train.add_argument("--until", metavar="DATE", help="the last day of the consent, such as 2027-12-31")
    train.add_argument("--heirs", action="store_true", help=HEIRS)
    text = "the person saying the sentence of `personalize consent-words`; its hash is kept, not the film"
    train.add_argument("--consent-film", type=Path, metavar="F", help=text)
    train.add_argument("--preset", choices=PRESETS, default="standard", help=f"minutes of training: {presets} (standard)")
    train.add_argument("--minutes", type=float, metavar="M", help="minutes of training, instead of the preset's")
    train.add_argument(
        "--size", type=int, choices=SIZES, help="side of the picture in pixels (512 where the face is large enough)"
    )
    train.add_argument("--look", type=Path, metavar="CLIP", help="the clip whose room, clothes and light the avatar has")
    train.add_argument("--emotion", action="append", default=[], metavar="CLIP=happy", help="the emotion that a clip shows")
    train.add_argument("--job", help=argparse.SUPPRESS)  # the id of the job that --request belongs to
    train.add_argument("--json", action="store_true", help="progress and result as JSON lines on stdout")
    train.set_defaults(run=_train)


def _add_named(commands: argparse._SubParsersAction) -> None:
    for name, command, text in (
        ("status", _status, "show the progress of a training"),
        ("stop", _stop, "stop a training; it can be resumed"),
        ("resume", _resume, "resume a stopped or failed training"),
        ("habits", _habits, "measure again how an avatar's person moves, on clips of theirs"),
        ("style", _style, "learn again how an avatar's person speaks, from clips of theirs"),
        ("export", _export, "pack an avatar into one file"),
        ("delete", _delete, "delete an avatar or an unfinished training"),
        ("withdraw", _withdraw, "the person agrees no more: delete the avatar, and let nothing be made with it anywhere"),
    ):
        parser = commands.add_parser(name, help=text)
        parser.add_argument("name", metavar="N")
        add_json(parser)
        parser.set_defaults(run=command)
        if name == "habits":
            parser.add_argument("clips", nargs="*", type=Path, metavar="CLIP", help="none: fit them to the generic stages again")
        if name == "style":
            parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
            parser.add_argument("--minutes", type=float, default=1.5, metavar="M", help="of training (1.5)")
        if name == "export":
            parser.add_argument("--output", type=Path, metavar="F.zip", help="default: N.gmtalker.zip")
        if name in ("delete", "withdraw"):
            parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
        if name == "withdraw":
            add_token(parser)


def _add_hub(commands: argparse._SubParsersAction) -> None:
    share = commands.add_parser("share", help="share an avatar on the Hub, privately unless --public")
    share.add_argument("name", metavar="N")
    share.add_argument("--repo", metavar="owner/name", help="default: where it was before, or else yours of its name")
    share.add_argument("--public", action="store_true", help="anybody may see and use it")
    share.add_argument("--license", metavar="L", help="by the Hub's name, such as cc-by-4.0 (default: the consent only)")
    pull = commands.add_parser("pull", help="fetch an avatar from the Hub")
    pull.add_argument("repo", metavar="owner/name")
    pull.add_argument("--name", metavar="N", help="its name in the workspace")
    pull.add_argument("--revision", metavar="R", help="a branch, tag or commit (default: the newest)")
    update = commands.add_parser("update", help="fetch an avatar from the Hub again if it has changed there")
    update.add_argument("name", metavar="N")
    for parser, command in ((share, _share), (pull, _pull), (update, _update)):
        add_token(parser)
        add_json(parser)
        parser.set_defaults(run=command)


def _check(options: argparse.Namespace) -> int:
    if options.json not in (None, "-"):
        check_output(Path(options.json), Path(options.json).suffix.lower())
    from personalize.check import check_clips
    from personalize.check_sound import SynchronyApart

    results = []
    with SynchronyApart() as in_step:
        for clip, report in zip(options.clips, check_clips(options.clips, in_step)):
            results.append(report.to_json() | {"clip": str(clip)})
            if options.json != "-":
                _print_report(clip, results[-1])
    if options.json == "-":
        print_json({"clips": results})
    elif options.json:
        with whole_file(Path(options.json)) as unfinished:
            unfinished.write_text(json.dumps({"clips": results}, ensure_ascii=False, indent=2), encoding="utf-8")
    return UNUSABLE if any(result["failed"] for result in results) else DONE


def _print_report(clip: Path, result: Mapping) -> None:
    print(f"{clip}: {'not usable' if result['failed'] else 'usable'}")
    for line in result["lines"]:
        advice = f": {line['advice']}" if line["advice"] else ""
        print(f"  {line['status']:4}  {line['name']}  {line['value']}{advice}")
    if "error" in result:
        print(f"  fail  {result['error']}")


def _train(options: argparse.Namespace) -> int:
    request = _request_of(options)
    if options.job:
        return _work(options, jobs.get(options.job), request)
    job = jobs.create(request, here=True)
    return _work(options, job, job.request)  # of an unfinished job: that one's clips, which are tracked already


def _request_of(options: argparse.Namespace) -> TrainRequest:
    """The request in the file of --request, or of the options."""
    if options.request is not None:
        if options.clips or options.name:
            raise WrongUsage("--request holds clips, name and options; give it alone.")
        return TrainRequest.load(options.request)
    if not options.i_have_consent:
        raise WrongUsage(f"Consent is required; add --i-have-consent if this is true: {CONSENT_WORDS}")
    if not options.clips or not options.name:
        raise WrongUsage("train takes clips and a name, such as: train me.mp4 --name Ann --i-have-consent.")
    emotions = dict(labelled_clip(text, "--emotion") for text in options.emotion)
    with bad_values_are_wrong_usage():
        consent = _consent_of(options)
        named = options.preset, options.minutes, emotions, options.size, options.look
        return TrainRequest(options.name, options.clips, consent, *named)


def _consent_of(options: argparse.Namespace) -> Consent:
    """The consent that the options tell of. Errors: ValueError, UnusableInput."""
    words = f"{CONSENT_WORDS} {HEIRS if options.heirs else GROWN_UP}"
    bounds = {name: getattr(options, name) or "" for name in ("uses", "places", "until")}
    consent = Consent.given_now(options.consent_of or options.name, words, **bounds)
    if options.consent_film is None:
        return consent
    from personalize.proof import proved  # late: it needs torch

    return proved(consent, options.consent_film, options.clips[0], options.name)


def _work(options: argparse.Namespace, job: jobs.Job, request: TrainRequest) -> int:
    """Check the clips and train, in this process."""
    try:
        with jobs.reporting(job) as to_row, progress_bar(options) as to_person:

            def on_progress(progress: Progress) -> None:
                to_row(progress)
                to_person(progress)

            on_progress(Progress("checking the clips", percent=0.0))
            if advice := dict.fromkeys(_warnings(request.clips)):
                on_progress(Progress(message=" ".join(advice)))
            from personalize.train import train_avatar  # late: torch, diffusers and accelerate take seconds

            folder = train_avatar(request, on_progress)
    except UnusableInput:
        if not options.job and job.percent == 0:  # the page shows why a job failed; here the sentence is enough
            jobs.forget(jobs.get(job.id))
        raise
    finally:
        jobs.refresh()  # starts the next in the queue
    done(options, f"The avatar {request.name} is ready: {folder}", avatar=str(folder))
    return DONE


def _warnings(clips: Sequence[Path]) -> list[str]:
    """The advice of the check on usable clips. Errors: UnusableInput saying why one is not usable."""
    from personalize.check import check_clips
    from personalize.check_sound import SynchronyApart

    advice = []
    with SynchronyApart() as in_step:
        for report in check_clips(clips, in_step):
            if report.error:
                raise UnusableInput(report.error)
            for line in report.lines:
                if line.status == "fail":
                    raise UnusableInput(f"{report.clip} can't be used ({line.name}: {line.value}): {line.advice}")
                if line.status == "warn":
                    advice.append(f"{line.name.capitalize()}: {line.value}. {line.advice}")
    return advice


def _status(options: argparse.Namespace) -> int:
    jobs.refresh()
    job = jobs.find(options.name)
    return _show_job(options, job)


def _stop(options: argparse.Namespace) -> int:
    job = jobs.find(options.name)
    if job.status not in jobs.OPEN:
        raise UnusableInput(f"The training {job.name} is {job.status}; there is nothing to stop.")
    return _show_job(options, jobs.stop(job))


def _resume(options: argparse.Namespace) -> int:
    options.job = None
    jobs.refresh()
    job = jobs.find(options.name)
    if job.status not in ("stopped", "failed"):
        raise UnusableInput(f"The training {job.name} is {job.status}; only a stopped or failed one can be resumed.")
    return _work(options, job, job.request)


def _style(options: argparse.Namespace) -> int:
    from gmtalker.avatars.on_hub import resolve
    from gmtalker.pipeline import GMTalkerPipeline
    from personalize.speaking_style import relearn_style

    with progress_bar(options) as on_progress:
        pipeline = GMTalkerPipeline.from_pretrained()
        report = relearn_style(resolve(options.name), options.clips, pipeline, options.minutes, on_progress)
    return _show(options, {"avatar": options.name} | report.figures(), str(report))


def _habits(options: argparse.Namespace) -> int:
    from gmtalker.avatars.on_hub import resolve
    from gmtalker.pipeline import GMTalkerPipeline
    from personalize.habits import movement_of, relearn_habits

    with progress_bar(options) as on_progress:
        habits = relearn_habits(resolve(options.name), options.clips, GMTalkerPipeline.from_pretrained(), on_progress)
    figures = movement_of(habits)
    sentence = f"{options.name}: " + ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in figures.items())
    return _show(options, {"avatar": options.name} | figures, sentence)


def _export(options: argparse.Namespace) -> int:
    from gmtalker.avatars.on_hub import resolve
    from gmtalker.avatars.storage import export_avatar
    from gmtalker.avatars.workspace import slug

    output = export_avatar(resolve(options.name), options.output or Path(f"{slug(options.name)}.gmtalker.zip"))
    return _show(options, {"avatar": options.name, "file": str(output)}, f"Packed {options.name} into {output}")


def _share(options: argparse.Namespace) -> int:
    from personalize.share import share_avatar

    with bad_values_are_wrong_usage():
        repo, address = share_avatar(options.name, options.repo, not options.public, options.token, options.license)
    sentence = f"Shared {options.name} as {repo}, {'public' if options.public else 'private'}: {address}"
    return _show(options, {"avatar": options.name, "repo": repo, "address": address}, sentence)


def _pull(options: argparse.Namespace) -> int:
    from gmtalker.avatars.avatar import read_card
    from gmtalker.avatars.on_hub import pull_avatar

    with bad_values_are_wrong_usage():
        folder = pull_avatar(options.repo, options.name, options.revision, options.token)
    name = read_card(folder)["name"]
    return _show(options, {"avatar": name, "folder": str(folder)}, f"Pulled {options.repo} as {name}: {folder}")


def _update(options: argparse.Namespace) -> int:
    from gmtalker.avatars.on_hub import update_avatar

    changed = update_avatar(options.name, options.token)
    sentence = f"Updated {options.name}." if changed else f"{options.name} is up to date."
    return _show(options, {"avatar": options.name, "updated": changed}, sentence)


def _is_sure(options: argparse.Namespace, question: str) -> bool:
    """Whether somebody means it. Errors: WrongUsage where nobody can be asked."""
    if options.yes:
        return True
    if not sys.stdin.isatty():
        raise WrongUsage("Deleting can't be undone; add --yes to confirm.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _withdraw(options: argparse.Namespace) -> int:
    from personalize.withdraw import withdraw_avatar

    if not _is_sure(options, f"Delete {options.name}, and let nothing be made with it any more?"):
        return fail(options, "Nothing was withdrawn.", UNUSABLE)
    jobs.refresh()
    left = withdraw_avatar(options.name, options.token)
    if left is not None:
        return fail(options, f"{options.name} is withdrawn and deleted here. {left}", UNUSABLE)
    return _show(options, {"withdrawn": options.name}, f"Withdrawn and deleted: {options.name}")


def _log(options: argparse.Namespace) -> int:
    for line in recorded():
        if for_machines(options):
            print_json(line)
        else:
            rest = {name: value for name, value in line.items() if name not in ("when", "action", "avatar") and value}
            details = ", ".join(f"{name}: {value}" for name, value in rest.items())
            print(f"{line.get('when')}  {line.get('action')}  {line.get('avatar')}  {details}".rstrip())
    return DONE


def _consent_words(options: argparse.Namespace) -> int:
    from personalize.proof import ask

    sentence = ask()
    return _show(options, {"sentence": sentence}, f"Say this in a film, within half an hour: {sentence}")


def _delete(options: argparse.Namespace) -> int:
    if not _is_sure(options, f"Delete {options.name} and everything made on the way to it?"):
        return fail(options, "Nothing was deleted.", UNUSABLE)
    jobs.refresh()
    jobs.delete(options.name)
    return _show(options, {"deleted": options.name}, f"Deleted {options.name}")


def _list(options: argparse.Namespace) -> int:
    from gmtalker.avatars.storage import list_avatars

    jobs.refresh()
    avatars, trainings = list_avatars(), [job for job in jobs.jobs() if job.status != "done"]
    if for_machines(options):
        entries = [asdict(entry) | {"folder": str(entry.folder)} for entry in avatars]
        print_json({"avatars": entries, "trainings": [asdict(job) for job in trainings]})
        return DONE
    for entry in avatars:
        print(f"{entry.name}{'  (bundled)' if entry.bundled else ''}  {entry.folder}")
    for job in trainings:
        print(f"{job.name}  in training: {job.summary()}")
    return DONE


def _space(options: argparse.Namespace) -> int:
    raise WrongUsage(f"This command has moved: python -m studio space {' '.join(options.rest)}".strip() + ".")


def _show_job(options: argparse.Namespace, job: jobs.Job) -> int:
    return _show(options, asdict(job), f"{job.name}: {job.summary()}")


def _show(options: argparse.Namespace, values: Mapping, sentence: str) -> int:
    """Print the values with --json, else the sentence."""
    if for_machines(options):
        print_json(values)
    else:
        print(sentence)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
