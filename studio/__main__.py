"""python -m studio space: check and publish this studio as a Hugging Face Space."""

from __future__ import annotations

import argparse
import sys

from gmtalker.command_line import DONE, UNUSABLE, add_json, add_token, for_machines, missing_extra, print_json, program, run


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns: 0 done, 1 the input can't be used, 2 wrong usage (command_line.run).
    """
    return run(_parser(), arguments)


def open_page() -> int:
    """The page, as the installed command gmtalker-studio opens it. Returns 0, or 1 when it can't be opened."""
    try:
        from studio.page import main as page
    except ModuleNotFoundError as error:
        if sentence := missing_extra(error):
            print(sentence, file=sys.stderr)
            return UNUSABLE
        raise
    return page()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("studio"), description="The page's own commands; python app.py opens it.")
    commands = parser.add_subparsers(required=True, metavar="command")
    space = commands.add_parser("space", help="publish this studio as a Hugging Face Space, as Spacefile describes it")
    actions = space.add_subparsers(required=True, metavar="action")
    for name, command, text in (
        ("check", _check, "check Spacefile and show what would be sent"),
        ("publish", _publish, "create the Space or update it"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("--avatar", metavar="N", help="with this avatar of yours beside the bundled one")
        add_json(action)
        action.set_defaults(run=command)
        if name == "publish":
            action.add_argument("--repo", metavar="OWNER/NAME", help="the Space, instead of the one Spacefile names")
            add_token(action)
            visibility = action.add_mutually_exclusive_group()
            visibility.add_argument("--public", action="store_true", default=None, help="everybody sees it")
            visibility.add_argument(
                "--private", action="store_false", dest="public", default=None, help="only its owner (default)"
            )
    return parser


def _check(options: argparse.Namespace) -> int:
    from studio.publish import plan

    planned = plan(options.avatar)
    values = planned.to_json()
    if for_machines(options):
        print_json(values)
    else:
        print(planned.description())
    if values["problem"]:
        print(values["problem"], file=sys.stderr)
    return UNUSABLE if values["problem"] else DONE


def _publish(options: argparse.Namespace) -> int:
    from studio.publish import plan, publish

    planned = plan(options.avatar)
    url = publish(planned, options.repo, options.public, options.token)
    secrets = planned.spacefile.secrets
    if for_machines(options):
        print_json({"status": "done", "space": url, "secrets": list(secrets)})
    else:
        print(f"Published: {url}")
        if secrets:
            print(f"Set {', '.join(secrets)} by hand at {url}/settings")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
