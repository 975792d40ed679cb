"""The tab that shows the avatars there are, and deletes them."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from PIL import Image, UnidentifiedImageError

from gmtalker.avatar import AvatarEntry, list_avatars
from gmtalker.errors import UnusableInput
from personalize import jobs
from studio.look import note, refusal, table

NOBODY = note("Click an avatar to see what it was made from and how good it is.")


@dataclass(frozen=True)
class AvatarsTab:
    """What other tabs change here: the gallery; and what tells them that an avatar is gone."""

    gallery: gr.Gallery
    deleted: gr.events.Dependency


def entries() -> list[AvatarEntry]:
    """Every avatar once: of two with one name, the person's own, which is the one that speaks."""
    return list({entry.name: entry for entry in list_avatars()}.values())


def names() -> list[str]:
    return [entry.name for entry in entries()]


def portraits() -> list[tuple[Image.Image, str]]:
    """Poster and name of each avatar, in the order of `names`."""
    return [(_poster(entry), entry.name) for entry in entries()]


def _poster(entry: AvatarEntry) -> Image.Image:
    try:
        with Image.open(entry.folder / "poster.jpg", formats=["JPEG"]) as picture:
            picture.thumbnail((256, 256))
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return Image.new("RGB", (256, 256), "lightgray")


def avatars_tab() -> AvatarsTab:
    """Lay the tab out."""
    private = {"api_visibility": "private"}
    chosen = gr.State(None)
    gr.Markdown("### Your avatars\nAll of them are folders on this machine; nothing is shared unless you do it.")
    with gr.Row():
        with gr.Column(scale=3):
            gallery = gr.Gallery(
                label="Avatars",
                show_label=False,
                columns=4,
                height=420,
                fit_columns=False,
                allow_preview=False,
                interactive=False,
                buttons=[],
                object_fit="cover",
                elem_id="shelf",
            )
        with gr.Column(scale=2):
            details = gr.HTML(NOBODY, elem_id="details")
            delete = gr.Button("Delete this avatar", variant="stop", visible=False, elem_id="delete")
            with gr.Group(visible=False, elem_id="confirm-group") as confirm:
                question = gr.Markdown(container=True)
                with gr.Row():
                    yes = gr.Button("Yes, delete it for good", variant="stop", elem_id="confirm-delete")
                    no = gr.Button("Keep it", elem_id="keep")

    def show(event: gr.SelectData):
        entry = entries()[event.index]
        return entry.name, _details(entry), gr.Button(visible=not entry.bundled), gr.Group(visible=False)

    def ask(name: str):
        return gr.Group(visible=True), f"**Delete {_plain(name)}?** Its pictures, its networks and its training are removed."

    def remove(name: str):
        try:
            jobs.delete(name)
        except UnusableInput as error:
            raise refusal(str(error)) from error
        return portraits(), None, NOBODY, gr.Button(visible=False), gr.Group(visible=False)

    gallery.select(show, None, [chosen, details, delete, confirm], show_progress="hidden", **private)
    delete.click(ask, chosen, [confirm, question], show_progress="hidden", **private)
    no.click(lambda: gr.Group(visible=False), None, confirm, show_progress="hidden", **private)
    deleted = yes.click(remove, chosen, [gallery, chosen, details, delete, confirm], show_progress="hidden", **private)
    return AvatarsTab(gallery, deleted)


def _plain(name: str) -> str:
    """A name with nothing in it that Markdown or HTML would take for its own."""
    return "".join(letter if letter.isalnum() or letter in " -" else f"&#{ord(letter)};" for letter in name)


def _details(entry: AvatarEntry) -> str:
    card, consent = entry.card, entry.card["consent"]
    rows = [
        ("name", f"{entry.name} (bundled)" if entry.bundled else entry.name),
        ("consent of", consent["who"]),
        ("given", consent["when"]),
        ("words", consent["words"]),
    ]
    for part in ("source", "measures"):
        rows += [
            (key.replace("_", " "), _value(value)) for key, value in card.get(part, {}).items() if not isinstance(value, dict)
        ]
    return table(("About", ""), rows)


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
