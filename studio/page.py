"""The page: python app.py [--host H] [--port P]. It only translates; the work is done by gmtalker and personalize."""

from __future__ import annotations

import argparse
import getpass
import sys
from dataclasses import replace

from studio import deployment as space

space.prepare()  # before gradio and torch are imported

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from gmtalker.errors import UnusableInput  # noqa: E402
from gmtalker.pipeline import GMTalkerPipeline  # noqa: E402
from studio.accounts import FilesApart, SignIn, add_person, anybody_known, may_enter, of_reader, signed_in  # noqa: E402
from studio.avatars import avatars_tab, portraits  # noqa: E402
from studio.create import EXAMPLES, create_tab  # noqa: E402
from studio.live_video import LiveVideos  # noqa: E402
from studio.personalize import personalize_tab  # noqa: E402
from studio.theme import CSS, SHORTCUT, THEME  # noqa: E402
from studio.translations import TRANSLATIONS, word  # noqa: E402
from studio.zero_gpu import is_lent  # noqa: E402

HOUR = 3600
STRANGER = "Ask the owner of this page for a name and a password."


def build(pipeline: GMTalkerPipeline, live: LiveVideos, place: space.Deployment) -> gr.Blocks:
    """The three tabs around one pipeline; in a demo, which everybody shares, nothing of anybody's is kept."""
    gr.set_static_paths([str(EXAMPLES)])
    private = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="GMTalker Studio", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as page:
        gr.Markdown(word("heading"), elem_id="heading")
        if place.login:
            gr.LoginButton(logout_value="👤 {} ⏻", size="sm", elem_id="sign-out")  # gradio compares its words: they stay plain
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(word("tab_create"), id="create") as creating:
                create = create_tab(pipeline, live, place.limits)
            with gr.Tab(word("tab_personalize"), id="personalize"):
                if place.demo:
                    gr.Markdown(word("demo_about"), elem_id="demo")
                    gr.DuplicateButton(word("duplicate"), size="lg", elem_id="duplicate")
                else:
                    personalize = personalize_tab(pipeline, place.limits)
            if not place.demo:
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
        if place.demo:
            return page
        for change in shelf.changed:
            change.success(offer, create.avatar, offered, **private)
        keeping.select(shelved, None, shelf.gallery, **private)
        personalize.create_with_it.click(offer_on_stage, personalize.done, [tabs, *offered], **private)
    return page


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C. Returns 0, or 1 when the generic stages can't be loaded."""
    parser = argparse.ArgumentParser(description="GMTalker Studio, the page.")
    parser.add_argument("--host", help="0.0.0.0 lets others on the network in (default: this machine only; on a Space everybody)")
    parser.add_argument("--port", type=int, default=None, help="default: the first free one from 7860 on")
    parser.add_argument("--auth", action="store_true", help="ask for a name and a password; each sees only what is theirs")
    parser.add_argument("--add-user", metavar="NAME", help="let somebody in: asks for a password, and ends")
    options = parser.parse_args(arguments)
    if options.add_user:
        return _add_user(options.add_user)
    if options.auth and not anybody_known():
        print("Nobody can come in yet: python app.py --add-user NAME lets somebody in.", file=sys.stderr)
        return 1
    try:
        place = space.Deployment.here()
        # ZeroGPU has a GPU for a speech only: previews are drawn without.
        pipeline = GMTalkerPipeline.from_pretrained(device="cpu" if is_lent() else None)
    except UnusableInput as error:
        print(error, file=sys.stderr)
        return 1
    live = LiveVideos()
    sign_in = place.login and not options.auth
    apart = [Middleware(SignIn)] * sign_in + [Middleware(FilesApart)] * (sign_in or options.auth)
    build(pipeline, live, replace(place, login=sign_in)).launch(
        server_name=options.host or place.host,
        server_port=options.port,
        theme=THEME,
        css=CSS,
        js=SHORTCUT,
        share=False,
        run_history=False,  # it would keep faces and voices
        footer_links=["api"],
        ssr_mode=False,
        mcp_server=True,
        max_file_size=int(place.limits.upload_megabytes * 2**20),
        i18n=TRANSLATIONS,
        auth=may_enter if options.auth else None,
        auth_message=STRANGER if options.auth else None,
        auth_dependency=signed_in if sign_in else None,
        app_kwargs={"routes": [live.route()], "middleware": apart},
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
