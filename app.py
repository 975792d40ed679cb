"""The page: python app.py [--host H] [--port P]. It only translates; the work is done by gmtalker and personalize."""

from __future__ import annotations

import argparse
import os
import sys

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: faces and voices stay on this machine

import gradio as gr  # noqa: E402

from gmtalker.errors import UnusableInput  # noqa: E402
from gmtalker.pipeline import GMTalkerPipeline  # noqa: E402
from studio.avatars import avatars_tab, portraits  # noqa: E402
from studio.create import EXAMPLES, create_tab  # noqa: E402
from studio.live import LiveVideos  # noqa: E402
from studio.look import CSS, THEME  # noqa: E402
from studio.personalize import personalize_tab  # noqa: E402
from studio.words import TRANSLATIONS, word  # noqa: E402

HOUR = 3600


def build(pipeline: GMTalkerPipeline, live: LiveVideos) -> gr.Blocks:
    """The three tabs around one pipeline."""
    gr.set_static_paths([str(EXAMPLES)])
    private = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="GMTalker Studio", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as page:
        gr.Markdown(word("heading"), elem_id="heading")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(word("tab_create"), id="create") as creating:
                create = create_tab(pipeline, live)
            with gr.Tab(word("tab_personalize"), id="personalize"):
                personalize = personalize_tab(pipeline)
            with gr.Tab(word("tab_avatars"), id="avatars") as keeping:
                shelf = avatars_tab()

        offered = [create.gallery, create.avatar]
        gr.on([page.load, creating.select], create.offer, create.avatar, offered, **private)
        for change in shelf.changed:
            change.success(create.offer, create.avatar, offered, **private)
        keeping.select(portraits, None, shelf.gallery, **private)
        personalize.create_with_it.click(
            lambda name: (gr.Tabs(selected="create"), *create.offer(name)), personalize.done, [tabs, *offered], **private
        )
    return page


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C. Returns 0, or 1 when the generic stages can't be loaded."""
    parser = argparse.ArgumentParser(description="GMTalker Studio, the page.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others on the network in (default: this machine only)")
    parser.add_argument("--port", type=int, default=None, help="default: the first free one from 7860 on")
    options = parser.parse_args(arguments)
    try:
        pipeline = GMTalkerPipeline.from_pretrained()
    except UnusableInput as error:
        print(error, file=sys.stderr)
        return 1
    live = LiveVideos()
    page = build(pipeline, live)
    server, _, _ = page.launch(
        server_name=options.host,
        server_port=options.port,
        theme=THEME,
        css=CSS,
        share=False,
        run_history=False,  # it would keep faces and voices
        footer_links=["api"],
        ssr_mode=False,
        max_file_size="2gb",
        i18n=TRANSLATIONS,
        prevent_thread_lock=True,
    )
    live.serve(server)
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
