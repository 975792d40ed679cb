"""The tab that shows the avatars there are, renames, exports, imports and deletes them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from PIL import Image, UnidentifiedImageError

from gmtalker.avatars.avatar import data_files
from gmtalker.avatars.on_hub import pull_avatar
from gmtalker.avatars.storage import AvatarEntry, export_avatar, import_avatar, list_avatars
from gmtalker.avatars.workspace import slug
from personalize import jobs
from personalize.card import card_text
from personalize.share import share_avatar
from studio.accounts import of_reader
from studio.components import or_sentence, table
from studio.translations import say, word

UNITS = {"psnr": " dB", "landmark_distance": " px", "sharpness": " of the real frames'", "flicker": " × the real clip's"}


@dataclass(frozen=True)
class AvatarsTab:
    """What other tabs change here: the gallery; and what tells them that there are other avatars now."""

    gallery: gr.Gallery
    changed: Sequence[gr.events.Dependency]


def entries() -> list[AvatarEntry]:
    """Every avatar once: of two with one name, the person's own, which is the one that speaks."""
    return list({entry.name: entry for entry in list_avatars()}.values())


def names() -> list[str]:
    return [entry.name for entry in entries()]


def portraits() -> list[tuple[Image.Image, str]]:
    """Poster and name of each avatar, in the order of `names`."""
    return [(_poster(entry), entry.name) for entry in entries()]


def _poster(entry: AvatarEntry) -> Image.Image:
    return picture_of(entry.folder / "poster.jpg", (256, 256)) or Image.new("RGB", (256, 256), "lightgray")


def picture_of(path: Path, size: tuple[int, int]) -> Image.Image | None:
    """A JPEG picture of an avatar, no larger than size (width, height); None where there is none that can be read."""
    try:
        with Image.open(path, formats=["JPEG"]) as picture:
            picture.thumbnail(size)
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def avatars_tab() -> AvatarsTab:
    """Lay the tab out."""
    hidden = {"api_visibility": "private", "show_progress": "hidden"}
    chosen = gr.State(None)
    gr.Markdown(word("avatars_about"))
    with gr.Row():
        with gr.Column(scale=3):
            gallery = gr.Gallery(
                label=word("avatars"),
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
            nobody = gr.Markdown(word("avatars_nobody"), elem_id="nobody")
            details = gr.HTML(elem_id="details")
            with gr.Group(visible=False) as own:
                with gr.Row(equal_height=True):
                    new_name = gr.Textbox(label=word("new_name"), elem_id="new-name", scale=3)
                    rename = gr.Button(word("rename"), elem_id="rename", scale=1, min_width=90)
            export = gr.Button(word("export"), visible=False, elem_id="export")
            exported = gr.File(show_label=False, interactive=False, visible=False, elem_id="exported")
            delete = gr.Button(word("delete"), variant="stop", visible=False, elem_id="delete")
            with gr.Group(visible=False, elem_id="confirm-group") as confirm:
                question = gr.Markdown(container=True)
                with gr.Row():
                    yes = gr.Button(word("delete_yes"), variant="stop", elem_id="confirm-delete")
                    no = gr.Button(word("delete_no"), elem_id="keep")
            with gr.Accordion(word("share_title"), open=False, visible=False, elem_id="share-group") as sharing:
                gr.Markdown(word("share_about"), elem_classes="note")
                repo = gr.Textbox(label=word("repo"), info=word("repo_info"), elem_id="share-repo")
                token = gr.Textbox(label=word("token"), info=word("token_info"), type="password", elem_id="share-token")
                public = gr.Checkbox(False, label=word("public"), elem_id="share-public")
                with gr.Accordion(word("card_preview"), open=False):
                    preview = gr.Markdown(elem_id="card-preview")
                share = gr.Button(word("share"), elem_id="share")
            with gr.Accordion(word("pull_title"), open=False, elem_id="pull-group"):
                wanted = gr.Textbox(label=word("repo"), info=word("pull_repo_info"), elem_id="pull-repo")
                key = gr.Textbox(label=word("token"), info=word("pull_token_info"), type="password", elem_id="pull-token")
                pull = gr.Button(word("pull"), elem_id="pull")
            bring = gr.UploadButton(word("import"), file_types=[".zip"], elem_id="import")
    shown = [nobody, chosen, details, own, new_name, export, exported, delete, confirm, sharing, preview]

    def view(entry: AvatarEntry | None, request: gr.Request) -> list:
        """Updates of `shown` for an avatar, or for none."""
        own = entry is not None and not entry.bundled
        return [
            gr.Markdown(visible=entry is None),
            entry.name if entry else None,
            _details(entry, request) if entry else "",
            gr.Group(visible=own),
            entry.name if entry else "",
            gr.Button(visible=entry is not None),
            gr.File(None, visible=False),
            gr.Button(visible=own),
            gr.Group(visible=False),
            gr.Accordion(visible=entry is not None),
            card_text(entry.card, data_files(entry.folder)).split("---\n", 2)[-1] if entry else "",
        ]

    @of_reader
    def show(request: gr.Request, event: gr.SelectData) -> list:
        return view(entries()[event.index], request)

    @of_reader
    def renamed(request: gr.Request, name: str, new: str) -> list:
        folder = or_sentence(jobs.rename, name, new)
        entry = next(entry for entry in entries() if entry.folder.resolve() == folder.resolve())
        return [portraits(), *view(entry, request)]

    @of_reader
    def packed(request: gr.Request, name: str) -> Iterator[gr.File]:
        with tempfile.TemporaryDirectory(prefix="gmtalker-") as folder:  # gradio keeps a copy of what it is given
            yield gr.File(str(or_sentence(export_avatar, name, Path(folder) / f"{slug(name)}.gmtalker.zip")), visible=True)

    @of_reader
    def imported(request: gr.Request, archive: str) -> list:
        folder = or_sentence(import_avatar, Path(archive))
        entry = next(entry for entry in entries() if entry.folder.resolve() == folder.resolve())
        gr.Info(say(request, "imported", name=entry.name))
        return [portraits(), *view(entry, request)]

    @of_reader
    def pushed(request: gr.Request, name: str, repo: str, token: str, public: bool) -> None:
        _, address = or_sentence(share_avatar, name, repo.strip() or None, not public, token.strip() or None)
        gr.Info(say(request, "shared", name=_plain(name), address=address))

    @of_reader
    def pulled(request: gr.Request, repo: str, token: str) -> list:
        folder = or_sentence(pull_avatar, repo.strip(), token=token.strip() or None)
        entry = next(entry for entry in entries() if entry.folder.resolve() == folder.resolve())
        gr.Info(say(request, "imported", name=entry.name))
        return [portraits(), *view(entry, request), ""]

    def ask(request: gr.Request, name: str):
        return gr.Group(visible=True), say(request, "delete_question", name=_plain(name))

    @of_reader
    def remove(request: gr.Request, name: str) -> list:
        or_sentence(jobs.delete, name)
        return [portraits(), *view(None, request)]

    gallery.select(show, None, shown, **hidden)
    export.click(packed, chosen, exported, **hidden)
    renaming = rename.click(renamed, [chosen, new_name], [gallery, *shown], **hidden)
    importing = bring.upload(imported, bring, [gallery, *shown], **hidden)
    share.click(pushed, [chosen, repo, token, public], None, api_visibility="private").then(lambda: "", None, token, **hidden)
    pulling = pull.click(pulled, [wanted, key], [gallery, *shown, key], api_visibility="private")
    delete.click(ask, chosen, [confirm, question], **hidden)
    no.click(lambda: gr.Group(visible=False), None, confirm, **hidden)
    deleting = yes.click(remove, chosen, [gallery, *shown], **hidden)
    return AvatarsTab(gallery, (renaming, importing, pulling, deleting))


def _plain(name: str) -> str:
    """A name with nothing in it that Markdown or HTML would take for its own."""
    return "".join(letter if letter.isalnum() or letter in " -" else f"&#{ord(letter)};" for letter in name)


def _details(entry: AvatarEntry, request: gr.Request) -> str:
    card, consent = entry.card, entry.card["consent"]
    rows = [
        (say(request, "name"), f"{entry.name} {say(request, 'bundled')}" if entry.bundled else entry.name),
        (say(request, "consent_of"), consent["who"]),
        (say(request, "given"), consent["when"]),
        (say(request, "consent_words"), consent["words"]),
    ]
    for part in ("source", "measures"):
        rows += [
            (key.replace("_", " "), _value(key, value))
            for key, value in card.get(part, {}).items()
            if value not in (None, []) and not isinstance(value, dict)
        ]
    return table((say(request, "about"), ""), rows)


def _value(key: str, value: object) -> str:
    """A number of the card with its unit."""
    if isinstance(value, list):
        return " × ".join(map(str, value)) if key == "picture" else ", ".join(map(str, value))
    unit = next((unit for end, unit in UNITS.items() if key.endswith(end)), "")
    return f"{value:.3g}{unit}" if isinstance(value, float) else f"{value}{unit}"
