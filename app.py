"""The page: python app.py [--host H] [--port P]. It only translates; the work is done by gmtalker and personalize."""

from __future__ import annotations

import argparse
import getpass
import os
import sys

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: faces and voices stay on this machine

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from gmtalker.errors import UnusableInput  # noqa: E402
from gmtalker.pipeline import GMTalkerPipeline  # noqa: E402
from studio.avatars import avatars_tab, portraits  # noqa: E402
from studio.create import EXAMPLES, create_tab  # noqa: E402
from studio.limits import Limits  # noqa: E402
from studio.live import LiveVideos  # noqa: E402
from studio.look import CSS, THEME  # noqa: E402
from studio.people import FilesApart, add_person, anybody_known, may_enter, of_reader  # noqa: E402
from studio.personalize import personalize_tab  # noqa: E402
from studio.words import TRANSLATIONS, word  # noqa: E402

HOUR = 3600
STRANGER = "Ask the owner of this page for a name and a password."


def build(pipeline: GMTalkerPipeline, live: LiveVideos, limits: Limits) -> gr.Blocks:
    """The three tabs around one pipeline."""
    gr.set_static_paths([str(EXAMPLES)])
    private = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="GMTalker Studio", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as page:
        gr.Markdown(word("heading"), elem_id="heading")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(word("tab_create"), id="create") as creating:
                create = create_tab(pipeline, live, limits)
            with gr.Tab(word("tab_personalize"), id="personalize"):
                personalize = personalize_tab(pipeline, limits)
            with gr.Tab(word("tab_avatars"), id="avatars") as keeping:
                shelf = avatars_tab()

        offered = [create.gallery, create.avatar]
        @of_reader
        def offer(request: gr.Request, chosen: str | None):
            return create.offer(chosen)

        @of_reader
        def offer_on_stage(request: gr.Request, chosen: str | None):
            return gr.Tabs(selected="create"), *create.offer(chosen)

        @of_reader
        def shelved(request: gr.Request):
            return portraits()

        gr.on([page.load, creating.select], offer, create.avatar, offered, **private)
        for change in shelf.changed:
            change.success(offer, create.avatar, offered, **private)
        keeping.select(shelved, None, shelf.gallery, **private)
        personalize.create_with_it.click(offer_on_stage, personalize.done, [tabs, *offered], **private)
    return page


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C. Returns 0, or 1 when the generic stages can't be loaded."""
    parser = argparse.ArgumentParser(description="GMTalker Studio, the page.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others on the network in (default: this machine only)")
    parser.add_argument("--port", type=int, default=None, help="default: the first free one from 7860 on")
    parser.add_argument("--auth", action="store_true", help="ask for a name and a password; each sees only what is theirs")
    parser.add_argument("--add-user", metavar="NAME", help="let somebody in: asks for a password, and ends")
    options = parser.parse_args(arguments)
    if options.add_user:
        return _add_user(options.add_user)
    if options.auth and not anybody_known():
        print("Nobody can come in yet: python app.py --add-user NAME lets somebody in.", file=sys.stderr)
        return 1
    limits = Limits.of_space() if "SPACE_ID" in os.environ else Limits()
    try:
        pipeline = GMTalkerPipeline.from_pretrained()
    except UnusableInput as error:
        print(error, file=sys.stderr)
        return 1
    live = LiveVideos()
    build(pipeline, live, limits).launch(
        server_name=options.host,
        server_port=options.port,
        theme=THEME,
        css=CSS,
        share=False,
        run_history=False,  # it would keep faces and voices
        footer_links=["api"],
        ssr_mode=False,
        mcp_server=True,
        max_file_size=f"{limits.upload_megabytes}mb",
        i18n=TRANSLATIONS,
        auth=may_enter if options.auth else None,
        auth_message=STRANGER if options.auth else None,
        app_kwargs={"routes": [live.route()], "middleware": [Middleware(FilesApart)] if options.auth else []},
    )
    return 0


def _add_user(name: str) -> int:
    password = getpass.getpass(f"Password for {name}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    try:
        add_person(name, password)
    except ValueError as error:
        print(f"{error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
