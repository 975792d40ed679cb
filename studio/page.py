"""The page: python app.py [--host H] [--port P]. It only translates; the work is done by gmtalker and personalize."""

from __future__ import annotations

import argparse
import getpass
import os
import signal
import sys
import threading
from dataclasses import replace
from functools import partial

from studio import deployment

deployment.prepare()  # before gradio and torch are imported

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from gmtalker.assets import SPEECHES  # noqa: E402
from gmtalker.command_line import place_sentence  # noqa: E402
from gmtalker.errors import UnusableInput  # noqa: E402
from studio.accounts import Door, add_account, has_accounts, remove_account  # noqa: E402
from studio.avatars import avatars_tab, connect_avatars, preview_route  # noqa: E402
from studio.check_video import check_route, check_tab  # noqa: E402
from studio.components import HIDDEN, Updates  # noqa: E402
from studio.create import create_tab  # noqa: E402
from studio.create_connections import connect_create  # noqa: E402
from studio.create_handlers import CreateHandlers  # noqa: E402
from studio.generation import keep_memory_together  # noqa: E402
from studio.guard import OwnFilesOnly, OwnPagesOnly, Sessions, SignIn, own_hosts, signed_in  # noqa: E402
from studio.live_video import LiveVideos  # noqa: E402
from studio.loading import PipelineLoader, PipelineSource, bundled_stages  # noqa: E402
from studio.personalize import personalize_tab  # noqa: E402
from studio.personalize_handlers import connect_personalize  # noqa: E402
from studio.programs import offer_to_programs  # noqa: E402
from studio.terms import terms_card  # noqa: E402
from studio.theme import CSS, OPEN, THEME  # noqa: E402
from studio.translations import TRANSLATIONS, word  # noqa: E402
from studio.zero_gpu import is_lent  # noqa: E402

HOUR = 3600
SIGN_IN_MESSAGE = "Ask the owner of this page for a name and a password."


def build(pipeline: PipelineSource, live: LiveVideos, place: deployment.Deployment, keep_hours: float = 24.0) -> gr.Blocks:
    """The page around one pipeline. A shared demo has no training and keeps no avatars.

    pipeline: a function that returns the pipeline, and waits until it is loaded.
    keep_hours: how long files that visitors send and get are kept.
    """
    gr.set_static_paths([str(SPEECHES)])
    with gr.Blocks(title="GMTalker Studio", analytics_enabled=False, delete_cache=(HOUR, max(1, int(keep_hours * HOUR)))) as page:
        gr.Markdown(word("heading"), elem_id="heading")
        if place.login:
            gr.LoginButton(logout_value="👤 {} ⏻", size="sm", elem_id="sign-out")  # gradio compares its words: they stay plain
        terms_card(page)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(word("tab_create"), id="create") as header:
                create = connect_create(create_tab(), pipeline, live, place, page)
                offer_to_programs(create)
            header.select(create.offer, create.tab.avatar.avatar, create.offered, **HIDDEN)
            if place.demo:
                with gr.Tab(word("tab_personalize"), id="personalize"):
                    gr.Markdown(word("demo_about"), elem_id="demo")
                    gr.DuplicateButton(word("duplicate"), size="lg", elem_id="duplicate")
            else:
                _own_tabs(page, tabs, create, pipeline, place)
            with gr.Tab(word("tab_check"), id="check"):
                check_tab()
    return page


def _own_tabs(
    page: gr.Blocks, tabs: gr.Tabs, create: CreateHandlers, pipeline: PipelineSource, place: deployment.Deployment
) -> None:
    """The tabs of what is a visitor's own: their trainings and their avatars."""
    with gr.Tab(word("tab_personalize"), id="personalize"):
        personalize = personalize_tab()
        connect_personalize(personalize, pipeline, place.limits, page)
    with gr.Tab(word("tab_avatars"), id="avatars") as header:
        avatars = connect_avatars(avatars_tab(), pipeline)

    def use(visitor: gr.Request, chosen: str | None) -> Updates:
        return {tabs: gr.Tabs(selected="create")} | create.offer(visitor, chosen)

    for change in avatars.changes:
        change.success(create.offer, [create.tab.avatar.avatar, avatars.tab.renamed], create.offered, **HIDDEN)
    stage, visit = create.tab.stage, create.tab.visit
    avatars.renamed.success(create.open_shelf, visit.videos, [visit.videos, stage.shelf], **HIDDEN)
    header.select(avatars.refresh, create.tab.avatar.avatar, [avatars.tab.gallery, *avatars.tab.shown], **HIDDEN)
    personalize.progress.use.click(use, personalize.done, [tabs, *create.offered], **HIDDEN)
    avatars.tab.use.click(use, avatars.tab.chosen, [tabs, *create.offered], **HIDDEN)


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C.

    Returns: 0, or 1 when the generic stages can't be loaded, or when nobody could come in.
    """
    options = _parser().parse_args(arguments)
    keep_memory_together()
    os.umask(0o077)  # all that the page and its trainings write are faces and voices
    try:
        if options.add_user or options.remove_user:
            return _change_accounts(options)
        if options.auth and not has_accounts():
            print("Nobody can come in yet: python app.py --add-user NAME lets somebody in.", file=sys.stderr)
            return 1
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: what visitors sent is deleted
        with deployment.own_uploads(options.keep_hours * HOUR):
            return _serve(options)
    except UnusableInput as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(place_sentence(error), file=sys.stderr)
        return 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _serve(options: argparse.Namespace) -> int:
    """As `main` says, of a page that people can come into."""
    try:
        place = deployment.Deployment.here()
        page, pipeline = _launch(options, place)
    except OSError:  # gradio's own words name environment variables
        where = f"Port {options.port} is taken" if options.port else "No port from 7860 on is free"
        print(f"{where}, or this address can't be used; choose another with --port N or --host H.", file=sys.stderr)
        return 1
    try:
        pipeline.load()
        page.block_thread()
    except KeyboardInterrupt:  # while it loads; later block_thread takes it
        return 0
    finally:
        page.close(verbose=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="GMTalker Studio, the page.")
    parser.add_argument("--host", help="0.0.0.0 lets others on the network in (default: this machine only; on a Space everybody)")
    parser.add_argument("--port", type=int, default=None, help="default: the first free one from 7860 on")
    parser.add_argument("--auth", action="store_true", help="ask for a name and a password; each sees only what is theirs")
    parser.add_argument("--add-user", metavar="NAME", help="let somebody in: asks for a password, and ends")
    parser.add_argument("--remove-user", metavar="NAME", help="let somebody in no more, and end; what they made stays")
    parser.add_argument("--with-files", action="store_true", help="with --remove-user: what they made is deleted, too")
    parser.add_argument(
        "--allow-host", metavar="NAME", action="append", default=[], help="another name by which the page is asked for"
    )
    parser.add_argument(
        "--keep-hours", metavar="H", type=_hours, default=24.0, help="how long what visitors send and get is kept (24)"
    )
    return parser


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 < hours < 1e5:
        raise argparse.ArgumentTypeError("a number of hours above 0")
    return hours


def _launch(options: argparse.Namespace, place: deployment.Deployment) -> tuple[gr.Blocks, PipelineLoader]:
    """Open the page. Returns: it, and its pipeline, which is to be loaded."""
    deployment.reach_itself(options.host or place.host)
    # ZeroGPU has a GPU for a speech only: previews are drawn without.
    pipeline, live = PipelineLoader(partial(bundled_stages, "cpu" if is_lent() else None)), LiveVideos()
    sign_in, door = place.login and not options.auth, Door()
    middleware = _guards(options, replace(place, login=sign_in), door)
    page = build(pipeline, live, replace(place, login=sign_in), options.keep_hours)
    routes = [live.route(), preview_route(), check_route(place.limits.upload_megabytes)]
    page.launch(
        server_name=options.host or place.host,
        server_port=options.port,
        theme=THEME,
        css=CSS,
        js=OPEN,
        share=False,
        run_history=False,  # it would keep faces and voices
        footer_links=["api"],
        ssr_mode=False,
        mcp_server=True,
        max_file_size=int(place.limits.upload_megabytes * 2**20),
        i18n=TRANSLATIONS,
        auth=door.may_enter if options.auth else None,
        auth_message=SIGN_IN_MESSAGE if options.auth else None,
        auth_dependency=signed_in if sign_in else None,
        app_kwargs={"routes": routes, "middleware": middleware},
        prevent_thread_lock=True,
    )
    return page, pipeline


def _guards(options: argparse.Namespace, place: deployment.Deployment, door: Door) -> list[Middleware]:
    """What every request passes, from the outside to the inside."""
    host, on_space = options.host or place.host, "SPACE_ID" in os.environ
    guards = [Middleware(OwnPagesOnly, own_hosts(host, options.allow_host), host, on_space, place.demo)]
    if options.auth:
        guards.append(Middleware(Sessions, door))
    elif place.login:
        guards.append(Middleware(SignIn))
    return guards + [Middleware(OwnFilesOnly)] * (place.login or options.auth)


def _change_accounts(options: argparse.Namespace) -> int:
    """--add-user and --remove-user."""
    if options.remove_user:
        folder = remove_account(options.remove_user, options.with_files)
        if folder.exists():
            print(f"What {options.remove_user} made is still in {folder}.")
        return 0
    name = options.add_user
    password = getpass.getpass(f"Password for {name}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    try:
        add_account(name, password)
    except ValueError as error:
        print(f"{error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
