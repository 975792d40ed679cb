"""The tab that shows the avatars there are, renames, exports, imports, shares and deletes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr
from PIL import Image, UnidentifiedImageError
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from gmtalker.avatars.avatar import data_files
from gmtalker.avatars.storage import AvatarEntry, export_avatar, import_avatar, list_avatars
from gmtalker.avatars.workspace import owned_by, slug
from gmtalker.files import temporary_folder
from gmtalker.hub import Token
from personalize import jobs
from studio import shelf
from studio.accounts import in_own_workspace, name_of
from studio.components import HIDDEN, PRIVATE, Status, Updates, cards, folded, or_sentence, table, told
from studio.emotion_pad import data_url
from studio.guard import is_closed, visitor_name
from studio.loading import PipelineSource
from studio.terms import check_terms
from studio.translations import say, word

UNITS = {"psnr": " dB", "landmark_distance": " px", "sharpness": " × real frames", "flicker": " × real clip"}
ACRONYMS = ("psnr", "ssim")  # among the measures
# What of an avatar is judged, by which of its measures, and from where it is good and fair: our choice.
LIKENESS = 30.0, 27.0  # dB
VERDICTS = (
    ("likeness", ("psnr",), *LIKENESS),
    ("lips", ("lips_follow_in_own_style", "lips_follow_in_general_style"), 0.8, 0.6),
    ("sharpness", ("eye_sharpness",), 0.85, 0.65),
    ("steadiness", ("flicker",), 1.15, 1.5),
)
SEEN_SHARE = 0.02  # of the film, from which an emotion was seen in it
POSTER_SIZE = (192, 192)
PREVIEW, PREVIEW_ROUTE = "preview.mp4", "/avatar-preview"
# A stranger's picture may be made to be decoded for minutes: of more pixels, or in more passes, than ours ever have.
PIXELS_MAX, SCANS_MAX, SCAN = 20_000_000, 64, b"\xff\xda"


def entries() -> list[AvatarEntry]:
    """Every avatar once: of two with one name, the visitor's own, which is the one that speaks."""
    return list({entry.name: entry for entry in list_avatars()}.values())


def names() -> list[str]:
    """The name of every avatar."""
    return [entry.name for entry in entries()]


def avatar_items() -> list[dict[str, str]]:
    """A card for every avatar (static/cards.js), in the order of `names`."""
    return [_item(entry) for entry in entries()]


def _item(entry: AvatarEntry) -> dict[str, str]:
    poster = picture_of(entry.folder / "poster.jpg", POSTER_SIZE)
    has_film = (entry.folder / PREVIEW).is_file()
    return {
        "id": entry.name,
        "title": entry.name,
        "poster": "" if poster is None else data_url(poster),
        "video": f"{PREVIEW_ROUTE[1:]}/{quote(entry.name, safe='')}" if has_film else "",
    }


def preview_route() -> Route:
    """The route of the page's server that plays the avatars of whoever asks."""

    def play(request: Request) -> Response:
        name = visitor_name(request)
        if name is None and is_closed(request):
            return Response(status_code=401)
        with owned_by(name or ""):
            found = next((entry for entry in entries() if entry.name == request.path_params["name"]), None)
        film = found and found.folder / PREVIEW
        if not film or not film.is_file():
            return Response(status_code=404)
        kept = {"Cache-Control": "private, max-age=60", "X-Content-Type-Options": "nosniff"}
        return FileResponse(film, media_type="video/mp4", headers=kept)

    return Route(f"{PREVIEW_ROUTE}/{{name:path}}", play)


def picture_of(path: Path, size: tuple[int, int]) -> Image.Image | None:
    """A JPEG picture of an avatar, no larger than size (width, height); None where there is none that can be read."""
    try:
        if path.read_bytes().count(SCAN) > SCANS_MAX:
            return None
        with Image.open(path, formats=["JPEG"]) as picture:
            if picture.width * picture.height > PIXELS_MAX:
                return None
            picture.thumbnail(size)
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


# --- Layout --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnAvatar:
    """What can be done with an avatar that was made or imported here: it gets another name, or is deleted."""

    group: gr.Group
    new_name: gr.Textbox
    rename: gr.Button
    delete: gr.Button
    withdraw: gr.Button
    withdrawing: gr.State
    confirm: gr.Group
    question: gr.Markdown
    yes: gr.Button
    no: gr.Button


@dataclass(frozen=True)
class Sharing:
    """Pushing an avatar to the Hub."""

    group: gr.Accordion
    repo: gr.Textbox
    token: gr.Textbox
    public: gr.Checkbox
    card: gr.Markdown
    share: gr.Button


@dataclass(frozen=True)
class Pulling:
    """Fetching an avatar from the Hub."""

    repo: gr.Textbox
    token: gr.Textbox
    pull: gr.Button


@dataclass(frozen=True)
class AvatarsTab:
    """The tab's components.

    nobody: shown while no avatar is chosen.
    chosen: the chosen avatar's name.
    renamed: the new name of one by its old one, after it got another.
    """

    gallery: gr.HTML
    nobody: gr.Markdown
    chosen: gr.State
    renamed: gr.State
    details: gr.HTML
    use: gr.Button
    export: gr.Button
    exported: gr.File
    own: OwnAvatar
    sharing: Sharing
    pulling: Pulling
    bring: gr.UploadButton

    @property
    def shown(self) -> list[gr.blocks.Block]:
        """What changes with the chosen avatar."""
        own = [self.own.group, self.own.new_name, self.own.delete, self.own.withdraw, self.own.confirm]
        sharing = [self.sharing.group, self.sharing.card]
        return [self.nobody, self.chosen, self.details, self.use, self.export, self.exported, *own, *sharing]


def avatars_tab() -> AvatarsTab:
    """Lay the tab out."""
    chosen, renamed = gr.State(None), gr.State({})
    gr.Markdown(word("avatars_about"))
    with gr.Row():
        with gr.Column(scale=3):
            gallery = cards("avatars", "avatars_none", playing=True, elem_id="shelf")
            with gr.Row():
                bring = gr.UploadButton(word("import"), file_types=[".zip"], elem_id="import", size="sm")
            pulling = _pulling()
        with gr.Column(scale=2, elem_classes="card"):
            nobody = gr.Markdown(word("avatars_nobody"), elem_id="nobody")
            use = gr.Button(word("create_with_it"), variant="primary", visible=False, elem_id="use-avatar")
            details = gr.HTML(elem_id="details")
            with gr.Group(visible=False) as group:
                with gr.Row(equal_height=True):
                    new_name = gr.Textbox(label=word("new_name"), elem_id="new-name", scale=3)
                    rename = gr.Button(word("rename"), elem_id="rename", scale=1, min_width=90)
            export = gr.Button(word("export"), visible=False, elem_id="export")
            exported = gr.File(show_label=False, interactive=False, visible=False, elem_id="exported")
            with gr.Row():
                delete = gr.Button(word("delete"), variant="stop", visible=False, elem_id="delete")
                withdraw = gr.Button(word("withdraw"), variant="stop", visible=False, elem_id="withdraw")
            withdrawing = gr.State(False)
            with gr.Group(visible=False, elem_id="confirm-group") as confirm:
                question = gr.Markdown(container=True)
                with gr.Row():
                    yes = gr.Button(word("delete_yes"), variant="stop", elem_id="confirm-delete")
                    no = gr.Button(word("delete_no"), elem_id="keep")
            sharing = _sharing()
    own = OwnAvatar(group, new_name, rename, delete, withdraw, withdrawing, confirm, question, yes, no)
    return AvatarsTab(gallery, nobody, chosen, renamed, details, use, export, exported, own, sharing, pulling, bring)


def _sharing() -> Sharing:
    with gr.Accordion(word("share_title"), open=False, visible=False, elem_id="share-group") as group:
        gr.Markdown(word("share_about"), elem_classes="note")
        repo = gr.Textbox(label=word("repo"), info=word("repo_info"), elem_id="share-repo")
        token = gr.Textbox(label=word("token"), info=word("token_info"), type="password", elem_id="share-token")
        public = gr.Checkbox(False, label=word("public"), elem_id="share-public")
        with gr.Accordion(word("card_preview"), open=False):
            card = gr.Markdown(elem_id="card-preview")
        share = gr.Button(word("share"), elem_id="share")
    return Sharing(group, repo, token, public, card, share)


def _pulling() -> Pulling:
    with gr.Accordion(word("pull_title"), open=False, elem_id="pull-group"):
        repo = gr.Textbox(label=word("repo"), info=word("pull_repo_info"), elem_id="pull-repo")
        token = gr.Textbox(label=word("token"), info=word("pull_token_info"), type="password", elem_id="pull-token")
        pull = gr.Button(word("pull"), elem_id="pull")
    return Pulling(repo, token, pull)


# --- Handlers ------------------------------------------------------------------------------------------------------------------


class AvatarHandlers:
    """What the controls of the tab do.

    pipeline: what needs its libraries waits for it.
    changes: the events after which there are other avatars; renamed is one of them.
    """

    def __init__(self, tab: AvatarsTab, pipeline: PipelineSource) -> None:
        self.tab, self.pipeline = tab, pipeline
        self.changes: list[gr.events.Dependency] = []
        self.renamed: gr.events.Dependency

    @in_own_workspace
    def refresh(self, visitor: gr.Request, chosen: str | None) -> Updates:
        """The cards there are now, with the one that speaks shown, or the first."""
        found = [entry for entry in entries() if entry.name == chosen] or entries()
        entry = next(iter(found), None)
        return {self.tab.gallery: gr.HTML(entry and entry.name, items=avatar_items())} | self._view(entry, visitor)

    @in_own_workspace
    def choose(self, visitor: gr.Request, name: str | None) -> Updates:
        """Show the avatar whose card was clicked."""
        return self._view(next((entry for entry in entries() if entry.name == name), None), visitor)

    @in_own_workspace
    def rename(self, visitor: gr.Request, name: str, new_name: str) -> Updates:
        """Give an avatar another name; its videos and the tab Create follow."""
        updates = self._changed(visitor, or_sentence(jobs.rename, name, new_name))
        now = str(updates[self.tab.chosen])
        shelf.rename_avatar(name, now)
        return updates | {self.tab.renamed: {name: now}}

    @in_own_workspace
    def export(self, visitor: gr.Request, name: str) -> Iterator[gr.File]:
        """Pack an avatar into a file to download."""
        with temporary_folder() as folder:  # gradio keeps a copy of what it is given
            yield gr.File(str(or_sentence(export_avatar, name, folder / f"{slug(name)}.gmtalker.zip")), visible=True)

    @in_own_workspace
    def bring(self, visitor: gr.Request, archive: str) -> Updates:
        """Import an avatar from a file."""
        check_terms(visitor)
        self.pipeline()  # loading it, to check it, needs torch
        return self._imported(visitor, or_sentence(import_avatar, Path(archive)))

    @in_own_workspace
    def pull(self, visitor: gr.Request, repo: str, token: str) -> Updates:
        """Import an avatar from the Hub, and forget the token."""
        check_terms(visitor)
        self.pipeline()
        from gmtalker.avatars.on_hub import pull_avatar  # late: it needs torch

        folder = or_sentence(pull_avatar, repo.strip(), token=_token(visitor, token))
        return self._imported(visitor, folder) | {self.tab.pulling.token: ""}

    @in_own_workspace
    def share(self, visitor: gr.Request, name: str, repo: str, token: str, public: bool) -> None:
        """Push an avatar to the Hub."""
        check_terms(visitor)
        self.pipeline()
        from personalize.share import share_avatar  # late: it needs torch

        _, address = or_sentence(share_avatar, name, repo.strip() or None, not public, _token(visitor, token))
        gr.Info(say(visitor, "shared", name=_plain(name), address=escape(address)))

    def ask_to_delete(self, visitor: gr.Request, name: str) -> Updates:
        """Ask whether an avatar is to be deleted."""
        return self._asked("delete_question", visitor, name, withdrawing=False)

    def ask_to_withdraw(self, visitor: gr.Request, name: str) -> Updates:
        """Ask whether the consent to an avatar is withdrawn."""
        return self._asked("withdraw_question", visitor, name, withdrawing=True)

    def _asked(self, question: str, visitor: gr.Request, name: str, withdrawing: bool) -> Updates:
        own = self.tab.own
        told = say(visitor, question, name=_plain(name))
        return {own.confirm: gr.Group(visible=True), own.question: told, own.withdrawing: withdrawing}

    @in_own_workspace
    def delete(self, visitor: gr.Request, name: str, withdrawing: bool = False) -> Updates:
        """Delete an avatar, also because its person agrees no more."""
        if withdrawing:
            self.pipeline()
            from personalize.withdraw import withdraw_avatar  # late: it needs torch

            if left := or_sentence(withdraw_avatar, name, _token(visitor, "")):
                gr.Warning(told(left), duration=None)
        else:
            or_sentence(jobs.delete, name)
        return {self.tab.gallery: gr.HTML(None, items=avatar_items())} | self._view(None, visitor)

    def _imported(self, visitor: gr.Request, folder: Path) -> Updates:
        updates = self._changed(visitor, folder)
        gr.Info(say(visitor, "imported", name=_plain(str(updates[self.tab.chosen]))))
        return updates

    def _changed(self, visitor: gr.Request, folder: Path) -> Updates:
        """The gallery, and the avatar that stands in a folder now."""
        entry = next(entry for entry in entries() if entry.folder.resolve() == folder.resolve())
        return {self.tab.gallery: gr.HTML(entry.name, items=avatar_items())} | self._view(entry, visitor)

    def _view(self, entry: AvatarEntry | None, visitor: gr.Request) -> Updates:
        """Updates of AvatarsTab.shown for an avatar, or for none."""
        tab, own = self.tab, entry is not None and not entry.bundled
        return {
            tab.nobody: gr.Markdown(visible=entry is None),
            tab.chosen: entry.name if entry else None,
            tab.details: _details(entry, visitor) if entry else "",
            tab.use: gr.Button(visible=entry is not None),
            tab.export: gr.Button(visible=entry is not None),
            tab.exported: gr.File(None, visible=False),
            tab.own.group: gr.Group(visible=own),
            tab.own.new_name: entry.name if entry else "",
            tab.own.delete: gr.Button(visible=own),
            tab.own.withdraw: gr.Button(visible=own),
            tab.own.confirm: gr.Group(visible=False),
            tab.sharing.group: gr.Accordion(visible=entry is not None),
            tab.sharing.card: self._card(entry) if entry else "",
        }

    def _card(self, entry: AvatarEntry) -> str:
        """The model card that an avatar is shared with, without its front matter."""
        self.pipeline()
        from personalize.card import card_text  # late: it needs torch

        return card_text(entry.card, data_files(entry.folder)).split("---\n", 2)[-1]


def _token(visitor: gr.Request, token: str) -> Token:
    """The token for the Hub: the one given, else this machine's, which is nobody's who came in by name."""
    return token.strip() or (False if name_of(visitor) else None)


def _plain(name: str) -> str:
    """A name with nothing in it that Markdown or HTML would take for its own."""
    return "".join(letter if letter.isalnum() or letter in " -" else f"&#{ord(letter)};" for letter in name)


def _details(entry: AvatarEntry, visitor: gr.Request) -> str:
    """What an avatar's card says, as tables: how good it is, who agreed to what, and folded all figures."""
    card, consent = entry.card, entry.card["consent"]
    rows = [
        (say(visitor, "name"), f"{entry.name} {say(visitor, 'bundled')}" if entry.bundled else entry.name),
        (say(visitor, "consent_of"), consent["who"]),
        (say(visitor, "given"), str(consent["when"])[:10]),
        (say(visitor, "consent_words"), consent["words"]),
    ]
    bounds = [key for key in ("uses", "places", "until") if consent.get(key)]
    rows += [(say(visitor, f"consent_{key}"), str(consent[key])) for key in bounds]
    figures = [
        (_title(key), _value(key, value))
        for part in ("source", "measures")
        for key, value in card.get(part, {}).items()
        if value not in (None, []) and not isinstance(value, dict)
    ]
    numbers = folded(say(visitor, "all_figures"), table((say(visitor, "figure"), ""), figures)) if figures else ""
    return _verdict(card, visitor) + table((say(visitor, "about"), ""), rows) + numbers


def _verdict(card: Mapping[str, dict], visitor: gr.Request) -> str:
    """How good an avatar is, in words; nothing where nothing was measured."""
    rows = []
    for name, keys, good, fair in VERDICTS:
        value = next(
            (card.get("measures", {})[key] for key in keys if isinstance(card.get("measures", {}).get(key), float)), None
        )
        if value is None:
            continue
        status = verdict_of(value, good, fair)
        advice = "" if status == "pass" else say(visitor, f"advice_{name}")
        rows.append((say(visitor, f"quality_{name}"), Status(status, say(visitor, f"verdict_{status}")), advice))
    seen = card.get("source", {}).get("emotions_seen") or {}
    shown = [say(visitor, name) for name, share in seen.items() if isinstance(share, (int, float)) and share >= SEEN_SHARE]
    if shown:
        rows.append((say(visitor, "quality_emotions"), "", ", ".join(shown)))
    return table((say(visitor, "quality"), "", ""), rows) if rows else ""


def verdict_of(value: float, good: float, fair: float) -> str:
    """Whether a measure is good ("pass"), fair ("warn") or neither ("fail"); less is better where good is below fair."""
    sign = 1 if good > fair else -1
    return "pass" if sign * value >= sign * good else "warn" if sign * value >= sign * fair else "fail"


def _title(key: str) -> str:
    """The name of a value of the card."""
    return key.upper() if key in ACRONYMS else key.replace("_", " ").capitalize()


def _value(key: str, value: object) -> str:
    """A value of the card with its unit."""
    if isinstance(value, list):
        return " × ".join(map(str, value)) if key == "picture" else ", ".join(map(str, value))
    unit = next((unit for end, unit in UNITS.items() if key.endswith(end)), "")
    return f"{value:.3g}{unit}" if isinstance(value, float) else f"{value}{unit}"


# --- Connections ---------------------------------------------------------------------------------------------------------------


def connect_avatars(tab: AvatarsTab, pipeline: PipelineSource) -> AvatarHandlers:
    """Connect the tab's controls. Returns: the handlers, for other tabs."""
    handlers, own, sharing, pulling = AvatarHandlers(tab, pipeline), tab.own, tab.sharing, tab.pulling
    changed = [tab.gallery, *tab.shown]
    tab.gallery.input(handlers.choose, tab.gallery, tab.shown, **HIDDEN)
    tab.export.click(handlers.export, tab.chosen, tab.exported, **HIDDEN)
    shared = [tab.chosen, sharing.repo, sharing.token, sharing.public]
    sharing.share.click(handlers.share, shared, None, **PRIVATE).then(lambda: "", None, sharing.token, **HIDDEN)
    asked = [own.confirm, own.question, own.withdrawing]
    own.delete.click(handlers.ask_to_delete, tab.chosen, asked, **HIDDEN)
    own.withdraw.click(handlers.ask_to_withdraw, tab.chosen, asked, **HIDDEN)
    own.no.click(lambda: gr.Group(visible=False), None, own.confirm, **HIDDEN)
    renaming = [tab.chosen, own.new_name]
    handlers.renamed = own.rename.click(handlers.rename, renaming, [*changed, tab.renamed], **HIDDEN)
    handlers.changes = [
        handlers.renamed,
        tab.bring.upload(handlers.bring, tab.bring, changed, **HIDDEN),
        pulling.pull.click(handlers.pull, [pulling.repo, pulling.token], [*changed, pulling.token], **PRIVATE),
        own.yes.click(handlers.delete, [tab.chosen, own.withdrawing], changed, **HIDDEN),
    ]
    return handlers
