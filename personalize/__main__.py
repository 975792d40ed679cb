"""python -m personalize: from a person's clips to an avatar, on the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from gmtalker.errors import UnusableInput
from personalize import jobs
from personalize.consent import CONSENT_WORDS, Consent

DONE, UNUSABLE, WRONG_USAGE = 0, 1, 2


class WrongUsage(Exception):
    """The command line asks for what can't be; the message says what can."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 the input can't be used, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UnusableInput as error:
        return _fail(options, str(error), UNUSABLE)
    except WrongUsage as error:
        return _fail(options, str(error), WRONG_USAGE)
    except KeyboardInterrupt:
        return _fail(options, jobs.STOPPED, UNUSABLE)
    except Exception as error:  # the last line of defence: a person gets a sentence, a job's log gets the rest
        if getattr(options, "job", None) or os.environ.get("GMTALKER_DEBUG"):
            traceback.print_exc()
        what = f"{type(error).__name__}: {error}".rstrip(".")
        return _fail(options, f"Something went wrong inside this program ({what}); GMTALKER_DEBUG=1 shows where.", UNUSABLE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m personalize", description="Make avatars out of a person's video clips.")
    commands = parser.add_subparsers(required=True, metavar="command")

    check = commands.add_parser("check", help="say what is good and what to fix in clips")
    check.add_argument("clips", nargs="+", type=Path, metavar="F")
    check.add_argument("--json", nargs="?", const="-", metavar="F", help="the reports as JSON, into F or printed")
    check.set_defaults(run=_check)

    train = commands.add_parser("train", help="make an avatar out of clips of one person")
    train.add_argument("clips", nargs="+", type=Path, metavar="F")
    train.add_argument("--name", required=True, help="the avatar's name")
    train.add_argument("--i-have-consent", action="store_true", help=CONSENT_WORDS)
    train.add_argument("--preset", choices=jobs.PRESETS, default="standard")
    train.add_argument("--minutes", type=float, metavar="M", help="train so long instead of as long as the preset does")
    train.add_argument("--size", type=int, choices=jobs.SIZES, default=256, help="pixels of a side that it is drawn at (256)")
    train.add_argument("--emotion", action="append", default=[], metavar="F=happy", help="the emotion a clip shows")
    train.add_argument("--job", help=argparse.SUPPRESS)  # the row of a job that the page has put in the queue
    train.add_argument("--json", action="store_true", help="progress as one JSON object a line")
    train.set_defaults(run=_train)

    for name, run, text in (
        ("status", _status, "say how far a training is"),
        ("stop", _stop, "stop a training; it can be resumed"),
        ("resume", _resume, "go on with a stopped or failed training"),
        ("export", _export, "pack an avatar into one file"),
        ("delete", _delete, "delete an avatar or an unfinished training"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("name", metavar="N")
        command.add_argument("--json", action="store_true")
        command.set_defaults(run=run)
        if name == "export":
            command.add_argument("--output", type=Path, metavar="F.zip", help="default: N.gmtalker.zip")
        if name == "delete":
            command.add_argument("--yes", action="store_true", help="don't ask")

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
    for command, run in ((share, _share), (pull, _pull), (update, _update)):
        command.add_argument("--token", metavar="T", help="of the Hub (default: HF_TOKEN, or that of `hf auth login`)")
        command.add_argument("--json", action="store_true")
        command.set_defaults(run=run)

    listing = commands.add_parser("list", help="show the avatars and the trainings")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=_list)

    space = commands.add_parser("space", help="publish this studio as a Hugging Face Space, as Spacefile describes it")
    actions = space.add_subparsers(required=True, metavar="action")
    for name, run, text in (
        ("check", _space_check, "check Spacefile and show what would be sent"),
        ("publish", _space_publish, "create the Space or update it"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("--avatar", metavar="N", help="with this avatar of yours beside the bundled one")
        action.add_argument("--json", action="store_true")
        action.set_defaults(run=run)
        if name == "publish":
            action.add_argument("--repo", metavar="OWNER/NAME", help="the Space, instead of the one Spacefile names")
            action.add_argument("--token", metavar="T", help="of the Hub; default: the one this machine is logged in with")
            seen = action.add_mutually_exclusive_group()
            seen.add_argument("--public", action="store_true", default=None, help="everybody sees it")
            seen.add_argument("--private", action="store_false", dest="public", default=None, help="only its owner (default)")
    return parser


def _check(options: argparse.Namespace) -> int:
    results = []
    for clip in options.clips:
        results.append(_check_one(clip))
        if options.json != "-":
            _print_report(clip, results[-1])
    if options.json == "-":
        _print_json({"clips": results})
    elif options.json:
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
    if not options.i_have_consent:
        reason = f"Nobody is made into an avatar without consent; add --i-have-consent if this is true: {CONSENT_WORDS}"
        return _fail(options, reason, WRONG_USAGE)
    if options.job:
        return _work(options, jobs.get(options.job))
    emotions = dict(_labelled(text) for text in options.emotion)
    try:
        consent = Consent.given_now(options.name)
        job = jobs.create(
            options.name, options.clips, consent, options.preset, options.minutes, emotions, here=True, size=options.size
        )
    except ValueError as error:
        raise WrongUsage(f"{str(error).rstrip('.')}.") from error
    return _work(options, job)


def _labelled(text: str) -> tuple[Path, str]:
    from gmtalker.tracks import EMOTIONS

    clip, separator, label = text.rpartition("=")
    if not separator or label not in EMOTIONS:
        raise WrongUsage(f"--emotion takes CLIP=EMOTION with one of {', '.join(EMOTIONS)}, not {text!r}.")
    return Path(clip), label


def _work(options: argparse.Namespace, job: jobs.Job) -> int:
    """Check the clips and train, in this process."""
    clips = [Path(clip) for clip in job.clips]
    emotions = {Path(clip): label for clip, label in job.emotions.items()}
    try:
        with jobs.reporting(job) as to_row, _shown(options) as to_person:

            def report(values: Mapping) -> None:
                to_row(values)
                to_person(values)

            report({"stage": "checking the clips", "percent": 0.0})
            if advice := dict.fromkeys(line for clip in clips for line in _warnings(clip)):
                report({"message": " ".join(advice)})
            from personalize.training import train_avatar  # late: torch, diffusers and accelerate take seconds

            consent = Consent(**job.consent)
            folder = train_avatar(clips, job.name, consent, job.preset, job.minutes, emotions, report, size=job.size)
    except UnusableInput:
        if not options.job and job.percent == 0:  # the page shows why it failed; here the sentence is all that should stay
            jobs.forget(jobs.get(job.id))
        raise
    finally:
        jobs.refresh()  # the next in the queue need not wait until somebody looks
    if options.json:
        _print_json({"status": "done", "avatar": str(folder)})
    else:
        print(f"The avatar {job.name} is ready: {folder}")
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


@contextmanager
def _shown(options: argparse.Namespace):
    """Yields what shows a report: JSON lines, a progress bar on a terminal, or a line a stage where there is none."""
    if options.json:
        yield _print_json
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=100, unit="%", bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}{postfix}") as bar:
            yield lambda values: _advance(bar, values)
    else:
        yield _stage_printer()


def _advance(bar, values: Mapping) -> None:
    if values.get("message"):
        bar.write(values["message"])
    bar.set_description_str(str(values.get("stage", bar.desc or "")), refresh=False)
    speed = f"{values['its']:.1f} it/s" if values.get("its") else ""
    left = jobs.time_left(values["seconds_left"]) if values.get("seconds_left") is not None else ""
    bar.set_postfix_str(" · ".join(part for part in (left, speed) if part), refresh=False)
    bar.n = min(100.0, float(values.get("percent", bar.n)))
    bar.refresh()


def _stage_printer() -> Callable[[Mapping], None]:
    shown: list[str] = []

    def show(values: Mapping) -> None:
        if values.get("message"):
            print(values["message"], flush=True)
        stage = values.get("stage")
        if stage and stage not in shown[-1:]:
            shown.append(stage)
            print(f"{stage} ({values.get('percent', 0):.0f} %)", flush=True)

    return show


def _status(options: argparse.Namespace) -> int:
    jobs.refresh()
    job = jobs.find(options.name)
    if options.json:
        _print_json(asdict(job))
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
    from gmtalker.avatar import export_avatar, slug

    output = export_avatar(options.name, options.output or Path(f"{slug(options.name)}.gmtalker.zip"))
    if options.json:
        _print_json({"avatar": options.name, "file": str(output)})
    else:
        print(f"Packed {options.name} into {output}")
    return DONE


def _share(options: argparse.Namespace) -> int:
    from personalize.sharing import share_avatar

    with _usage():
        repo, address = share_avatar(options.name, options.repo, not options.public, options.token, options.license)
    if options.json:
        _print_json({"avatar": options.name, "repo": repo, "address": address})
    else:
        print(f"Shared {options.name} as {repo}, {'for everybody' if options.public else 'private'}: {address}")
    return DONE


def _pull(options: argparse.Namespace) -> int:
    from gmtalker.avatar import read_card
    from gmtalker.hub import pull_avatar

    with _usage():
        folder = pull_avatar(options.repo, options.name, options.revision, options.token)
    name = read_card(folder)["name"]
    if options.json:
        _print_json({"avatar": name, "folder": str(folder)})
    else:
        print(f"Pulled {options.repo} as {name}: {folder}")
    return DONE


def _update(options: argparse.Namespace) -> int:
    from gmtalker.hub import update_avatar

    changed = update_avatar(options.name, options.token)
    if options.json:
        _print_json({"avatar": options.name, "updated": changed})
    else:
        print(f"{options.name} is {'another version now' if changed else 'what the Hub has already'}.")
    return DONE


@contextmanager
def _usage():
    """Inside, a value that can't be is wrong usage."""
    try:
        yield
    except ValueError as error:
        raise WrongUsage(f"{str(error).rstrip('.')}.") from error


def _delete(options: argparse.Namespace) -> int:
    if not options.yes:
        if not sys.stdin.isatty():
            raise WrongUsage("Deleting can't be undone; add --yes if that is meant.")
        if input(f"Delete {options.name} and everything made on the way to it? [y/N] ").strip().lower() not in ("y", "yes"):
            return _fail(options, "Nothing was deleted.", UNUSABLE)
    jobs.refresh()
    jobs.delete(options.name)
    if options.json:
        _print_json({"deleted": options.name})
    else:
        print(f"Deleted {options.name}")
    return DONE


def _list(options: argparse.Namespace) -> int:
    from gmtalker.avatar import list_avatars

    jobs.refresh()
    avatars, trainings = list_avatars(), [job for job in jobs.jobs() if job.status != "done"]
    if options.json:
        shown = [asdict(entry) | {"folder": str(entry.folder)} for entry in avatars]
        _print_json({"avatars": shown, "trainings": [asdict(job) for job in trainings]})
        return DONE
    for entry in avatars:
        print(f"{entry.name}{'  (bundled)' if entry.bundled else ''}  {entry.folder}")
    for job in trainings:
        print(f"{job.name}  in training: {job.summary()}")
    return DONE


def _space_check(options: argparse.Namespace) -> int:
    from personalize.space import front_matter_text, plan

    shown = plan(options.avatar).to_json()
    if options.json:
        _print_json(shown)
    else:
        print(f"Space {shown['repo']}, README.md's front matter:\n{front_matter_text(shown['front_matter'])}")
        print(f"hardware   {shown['hardware']}")
        print(f"storage    {shown['storage'] or 'none'}")
        print(f"variables  {', '.join(f'{name}={value}' for name, value in shown['variables'].items()) or 'none'}")
        print(f"secrets    {', '.join(shown['secrets']) or 'none'}{' (set them by hand)' if shown['secrets'] else ''}")
        print(f"demo       {'yes: nobody trains' if shown['demo'] else 'no'}")
        print(f"login      {'yes' if shown['login'] else 'no'}")
        print(f"\n{len(shown['files'])} files, {shown['bytes'] / 2**20:.1f} MB:")
        for file in shown["files"]:
            print(f"{file['bytes']:>10}  {file['path']}")
    if shown["problem"]:
        print(shown["problem"], file=sys.stderr)
    return UNUSABLE if shown["problem"] else DONE


def _space_publish(options: argparse.Namespace) -> int:
    from personalize.space import plan, publish

    wanted = plan(options.avatar)
    url = publish(wanted, options.repo, options.public, options.token)
    secrets = wanted.spacefile.secrets
    if options.json:
        _print_json({"status": "done", "space": url, "secrets": list(secrets)})
    else:
        print(f"Published: {url}")
        if secrets:
            print(f"Set {', '.join(secrets)} by hand at {url}/settings")
    return DONE


def _say(options: argparse.Namespace, job: jobs.Job) -> int:
    if options.json:
        _print_json(asdict(job))
    else:
        print(f"{job.name}: {job.summary()}")
    return DONE


def _print_json(values: Mapping) -> None:
    print(json.dumps(values, ensure_ascii=False), flush=True)


def _fail(options: argparse.Namespace, sentence: str, code: int) -> int:
    if options.json:
        _print_json({"status": "failed", "error": sentence})
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
