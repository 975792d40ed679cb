"""Many videos from a table: the card of the tab Create that takes it, and gives a zip."""

from __future__ import annotations

import asyncio
import csv
import io
import shutil
import zipfile
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import gradio as gr

from gmtalker.errors import UnusableInput
from gmtalker.files import temporary_folder
from gmtalker.progress import Progress, Stopped
from studio.accounts import in_own_workspace
from studio.avatars import names
from studio.components import PRIVATE, Updates, or_sentence, progress_bar, refusal, table, without_places
from studio.generation import Stops
from studio.terms import check_terms
from studio.translations import say, word
from studio.turns import at_most
from studio.uploads import keeping_names

if TYPE_CHECKING:
    from gmtalker.batch import Row
    from studio.create_handlers import CreateHandlers

TABLES = (".csv", ".jsonl")
ROWS_MAX = 200  # of a table; the command line takes more
FAILED = "failed.csv"  # in the zip
TOLD_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class ManyCard:
    """Many videos at once. files: a table, and the recordings and pictures that it names."""

    files: gr.File
    make: gr.Button
    stop: gr.Button
    progress: gr.HTML
    result: gr.File


def many_card() -> ManyCard:
    """Lay the card out."""
    with gr.Accordion(word("many_title"), open=False, elem_id="many"):
        gr.Markdown(word("many_about"))
        files = keeping_names(gr.File(label=word("many_files"), file_count="multiple", elem_id="many-files", height=120))
        with gr.Row():
            make = gr.Button(word("many_make"), elem_id="many-make")
            stop = gr.Button(word("stop"), variant="stop", visible=False, elem_id="many-stop")
        progress = gr.HTML(elem_id="many-progress")
        result = gr.File(label=word("many_result"), visible=False, interactive=False, elem_id="many-result")
    return ManyCard(files, make, stop, progress, result)


class ManyHandlers:
    """What the card does: each row waits for its turn, as a video of the page does."""

    def __init__(self, card: ManyCard, create: CreateHandlers) -> None:
        self.card, self.create, self.stops = card, create, Stops()

    async def make(self, visitor: gr.Request, files: Sequence[str] | None) -> AsyncIterator[Updates]:
        """Make the videos of a table. Yields: how many there are; in the end a zip of them, with what failed."""
        session = visitor.session_hash or ""
        stopping = self.stops.begin(session)
        failed: list[tuple[int, str, str]] = []
        made: list[Path] = []
        try:
            with temporary_folder() as folder:
                rows = await asyncio.to_thread(self._rows, visitor, files, folder)
                for row in rows:
                    if not row.error and not stopping.is_set():
                        async for text in self._in_turn(visitor, row, folder, stopping, made, failed):
                            yield {self.card.progress: _told(visitor, text, len(made), failed, len(rows))}
                    if row.error:
                        failed.append((row.number, row.name, without_places(row.error)))
                shown = say(visitor, "stopped") if stopping.is_set() else say(visitor, "job_done")
                html = _told(visitor, shown, len(made), failed, len(rows))
                packed = await asyncio.to_thread(_packed, made, failed, folder / "videos.zip")
                yield {self.card.progress: html, self.card.result: gr.File(str(packed), visible=True)}
        finally:
            stopping.set()  # also for the thread of a visitor who closed the page
            self.stops.end(session)

    def stop(self, visitor: gr.Request) -> None:
        """Stop after what is made by then; it is in the zip."""
        self.stops.stop(visitor.session_hash or "")

    async def _in_turn(
        self, visitor: gr.Request, row: Row, folder: Path, stopping: Event, made: list[Path], failed: list
    ) -> AsyncIterator[str]:
        """Make the video of one row. Yields: what happens meanwhile."""
        shown: deque[float] = deque([0.0], maxlen=1)
        with self.create.turns.ticket(visitor) as ticket:
            while not ticket.turn.is_set() and not stopping.is_set():
                yield say(visitor, "videos_before", number=self.create.turns.ahead(ticket))
                await at_most(ticket.turn, TOLD_EVERY)
            work = asyncio.ensure_future(asyncio.to_thread(self._made, visitor, row, folder, stopping, shown))
            while not work.done():
                yield f"{row.name} · {shown[0]:.0f} %"
                await asyncio.wait([work], timeout=TOLD_EVERY)
        try:
            made.append(work.result())
        except Stopped:
            pass
        except (UnusableInput, ValueError, OSError, gr.Error) as error:  # whatever one row asks for, the others are made
            failed.append((row.number, row.name, without_places(getattr(error, "message", None) or str(error))))

    @in_own_workspace
    def _rows(self, visitor: gr.Request, files: Sequence[str] | None, folder: Path) -> list[Row]:
        check_terms(visitor)
        tables = [Path(file) for file in files or [] if Path(file).suffix.lower() in TABLES]
        if len(tables) != 1:
            raise refusal(say(visitor, "many_table_first"))
        or_sentence(self.create.pipeline)
        from gmtalker.batch import read_table  # late: it needs torch

        given = folder / "given"
        given.mkdir()
        for file in map(Path, files or []):
            shutil.copyfile(file, given / file.name)
        rows = or_sentence(read_table, given / tables[0].name, {"avatar": next(iter(names()), None)}, True)
        if len(rows) > ROWS_MAX:
            raise refusal(say(visitor, "many_too_many", number=ROWS_MAX))
        return rows

    @in_own_workspace
    def _made(self, visitor: gr.Request, row: Row, folder: Path, stopping: Event, shown: deque[float]) -> Path:
        assert row.request is not None
        self.create.check_avatar(visitor, row.request.avatar)
        self.create.check_length(visitor, row.request)

        def hear(progress: Progress) -> None:
            if progress.stage == "drawing":
                shown.append(100 * progress.done / max(progress.total, 1))

        output = row.video(folder)
        self.create.speaker(row.request, output, hear, stopping.is_set)
        self.create.shelve(visitor, output, row.request)
        return output


def _told(visitor: gr.Request, text: str, made: int, failed: Sequence[tuple[int, str, str]], rows: int) -> str:
    counted = say(visitor, "many_done", made=made, rows=rows)
    bar = progress_bar(f"{counted} · {text}", 100 * (made + len(failed)) / rows)
    lines = [(str(number), name, error) for number, name, error in failed]
    return bar + (table((say(visitor, "many_row"), say(visitor, "name"), say(visitor, "many_failed")), lines) if failed else "")


def _packed(made: Sequence[Path], failed: Sequence[tuple[int, str, str]], path: Path) -> Path:
    """A zip of the videos, of the files beside them, and of what failed."""
    with zipfile.ZipFile(path, "w") as archive:  # videos don't get smaller
        for video in made:
            for file in sorted(video.parent.glob(f"{video.stem}.*")):
                if file.suffix != ".json":  # the request names files of this machine
                    archive.write(file, file.name)
        if failed:
            text = io.StringIO()
            csv.writer(text).writerows([("row", "name", "error"), *failed])
            archive.writestr(FAILED, text.getvalue())
    return path


def connect_many(card: ManyCard, create: CreateHandlers) -> gr.events.Dependency:
    """Connect the card. Returns: what ends when the videos are made."""
    handlers = ManyHandlers(card, create)
    begun = lambda: (gr.Button(visible=False), gr.Button(visible=True), gr.File(visible=False))  # noqa: E731
    ended = lambda: (gr.Button(visible=True), gr.Button(visible=False))  # noqa: E731
    begins = card.make.click(begun, None, [card.make, card.stop, card.result], queue=False, **PRIVATE)
    shown = {"show_progress": "hidden", "concurrency_limit": None, **PRIVATE}
    made = begins.then(handlers.make, card.files, [card.progress, card.result], **shown)
    for event in (made.then, made.failure):
        event(ended, None, [card.make, card.stop], queue=False, **PRIVATE)
    card.stop.click(handlers.stop, None, None, queue=False, **PRIVATE)
    return made
