"""Many videos from a table: one row a video, resumable, in several processes; what can't be made is told, the rest is made."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from gmtalker.emotion_words import parse_emotion
from gmtalker.errors import UnusableInput
from gmtalker.files import NAME_BYTES_MAX, load_request
from gmtalker.output import SPOKEN, OutputOptions
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress
from gmtalker.request import SpeakRequest, request_file

ROWS_MAX, FILE_BYTES_MAX = 10_000, 20_000_000
NAME = "name"  # the column of the video's file, without its suffix
LOCK = ".batch.lock"
OUTPUT_FIELDS = tuple(field.name for field in fields(OutputOptions))
REQUEST_FIELDS = tuple(field.name for field in fields(SpeakRequest) if field.name != "output")
NUMBERS = {"intensity": float, "head": float, "blink": float, "gaze": float, "size": float, "seed": int}
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True)
class Row:
    """One row of a table.

    number: of the row, from 1.
    name: of its video, without suffix.
    request: what is asked for; None where the row can't be read.
    error: why it can't be; empty where it can.
    """

    number: int
    name: str
    request: SpeakRequest | None = None
    error: str = ""

    def video(self, folder: Path) -> Path:
        """Where its video is made."""
        assert self.request is not None
        return folder / f"{self.name}{self.request.output.file.suffix}"


@dataclass(frozen=True)
class BatchResult:
    """What became of a table.

    made, kept: videos that were made, and that were there already.
    failed: rows with their errors.
    """

    made: tuple[Path, ...]
    kept: tuple[Path, ...]
    failed: tuple[Row, ...]

    def to_json(self) -> dict[str, object]:
        """Ready for json.dumps."""
        failed = [{"row": row.number, "name": row.name, "error": row.error} for row in self.failed]
        return {"made": [*map(str, self.made)], "kept": [*map(str, self.kept)], "failed": failed}


def read_table(path: Path, defaults: Mapping[str, object] | None = None, inside: bool = False) -> list[Row]:
    """The rows of a .csv, or of a .jsonl with an object a line.

    A column is a field of SpeakRequest or of OutputOptions, or "name", the video's. Paths are relative to the table.

    defaults: values of fields that a row leaves out.
    inside: whether a row may name only files of the table's own folder, as a stranger's may.
    Errors: UnusableInput when the table can't be read; what is wrong with one row stands in that row.
    """
    path = Path(path)
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise UnusableInput(f"{path.name} is too large; {ROWS_MAX:,} rows are made at once.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UnusableInput(f"The table {path.name} can't be read as text.") from error
    is_csv = path.suffix.lower() == ".csv"
    if not is_csv and path.suffix.lower() != ".jsonl":
        raise UnusableInput(f"{path.name} is no table; give a .csv, or a .jsonl with one object a line.")
    values = list(_csv_rows(text) if is_csv else _json_rows(text))
    if not values or len(values) > ROWS_MAX:
        raise UnusableInput(f"{path.name} has {'no rows' if not values else 'too many rows'}; one row is one video.")
    rows, names = [], set()
    for number, row in enumerate(values, start=1):
        read = _row(number, row, path.parent, defaults or {})
        if inside and read.request is not None and (foreign := _foreign(read.request, path.parent)):
            read = Row(number, read.name, error=f"There is no file {foreign} beside the table.")
        if read.name.casefold() in names:
            read = Row(number, read.name, error=f"The name {read.name} is another row's already.")
        names.add(read.name.casefold())
        rows.append(read)
    return rows


def _foreign(request: SpeakRequest, folder: Path) -> str:
    """The first file of a request that is not one of a folder; empty where all are."""
    output = request.output
    captions = None if output.captions in (None, SPOKEN) else output.captions
    for named in filter(None, (request.speech, request.video, output.background and output.backdrop, captions)):
        path = Path(str(named))
        if path.parent.resolve() != folder.resolve() or path.is_symlink() or not path.is_file():
            return path.name
    return ""


def _csv_rows(text: str) -> Iterator[dict[str, object] | str]:
    for row in csv.DictReader(io.StringIO(text), strict=True):
        if None in row or None in row.values():
            yield "It has another number of cells than the first line."
        else:
            yield {name.strip(): cell.strip() for name, cell in row.items() if cell.strip()}


def _json_rows(text: str) -> Iterator[dict[str, object] | str]:
    for line in filter(str.strip, text.splitlines()):
        try:
            row = json.loads(line)
            yield row if isinstance(row, dict) else "It is no object in braces."
        except (ValueError, RecursionError):
            yield "It can't be read as JSON."


def _row(number: int, values: Mapping[str, object] | str, folder: Path, defaults: Mapping[str, object]) -> Row:
    name = f"{number:04}"
    if isinstance(values, str):
        return Row(number, name, error=values)
    try:
        name = _name(values.get(NAME, name))
        return Row(number, name, _request({**defaults, **values}, folder))
    except (ValueError, TypeError) as error:
        return Row(number, name, error=f"{str(error).rstrip('.')}.")


def _name(given: object) -> str:
    name = str(given)
    if not name.isprintable() or name in ("", ".", "..") or any(sign in name for sign in "/\\:") or name.startswith("."):
        raise ValueError(f"{name!r} can't be the name of a video")
    if len(name.encode()) > NAME_BYTES_MAX - len(".request.json"):
        raise ValueError(f"The name {name[:40]}... is too long for a file")
    return name


def _request(values: Mapping[str, object], folder: Path) -> SpeakRequest:
    """Errors: ValueError, TypeError naming what can't be used."""
    given = {name: value for name, value in values.items() if name != NAME}
    if unknown := set(given) - {*REQUEST_FIELDS, *OUTPUT_FIELDS}:
        raise ValueError(
            f"There is no column {min(unknown)!r}; a column is one of {', '.join((NAME, *REQUEST_FIELDS, *OUTPUT_FIELDS))}"
        )
    read = {name: _value(name, value) for name, value in given.items()}
    output = {name: read.pop(name) for name in OUTPUT_FIELDS if name in read}
    for source in ("speech", "video"):
        if read.get(source) is not None:
            read[source] = str(folder / str(read[source]))
    if output.get("captions") not in (None, SPOKEN):
        output["captions"] = str(folder / str(output["captions"]))
    if (behind := output.get("background")) and (folder / str(behind)).is_file():
        output["background"] = str(folder / str(behind))
    return SpeakRequest.from_json({"request": "speak", "output": output} | read)


def _value(name: str, value: object) -> object:
    """A cell as the field takes it: cells of a .csv are all text."""
    if not isinstance(value, str):
        return value
    if name == "emotion":
        return parse_emotion(value)
    if name == "timeline":
        return json.loads(value)
    if name == "full_frame":
        if value.lower() not in (*TRUE, *FALSE):
            raise ValueError(f"full_frame must be yes or no, not {value!r}")
        return value.lower() in TRUE
    if name in NUMBERS:
        try:
            return NUMBERS[name](value)
        except ValueError:
            raise ValueError(f"{name} must be a number, not {value!r}") from None
    return value


# --- Making ---------------------------------------------------------------------------------------------------------------------


def make_batch(
    rows: Sequence[Row],
    folder: Path,
    pipeline: Callable[[], GMTalkerPipeline],
    processes: int = 1,
    on_progress: OnProgress | None = None,
) -> BatchResult:
    """Make the videos of a table; those that are there already, of the very same request, are kept.

    folder: where they are made; it is made when it is missing.
    pipeline: loads one, in each process.
    on_progress: gets the stage "videos", and what is to be told of a row.
    Errors: UnusableInput when the folder can't be used, or another process makes a batch there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UnusableInput(f"Another program makes videos in {folder} already.") from error
    except OSError as error:
        raise UnusableInput(f"Nothing can be written to {folder}: {error.strerror}.") from error
    try:
        failed = [row for row in rows if row.request is None]
        kept = [row for row in rows if row.request is not None and _is_made(row, folder)]
        wanted = [row for row in rows if row not in failed and row not in kept]
        made = []
        with closing(_made(wanted, folder, pipeline, processes)) as results:
            for done, (row, error, sentences) in enumerate(results, start=1):
                (failed if error else made).append(Row(row.number, row.name, row.request, error))
                if on_progress is not None:
                    for sentence in sentences:
                        on_progress(Progress(message=f"Row {row.number} ({row.name}): {sentence}"))
                    on_progress(Progress("videos", done, len(wanted)))
        videos = [[row.video(folder) for row in some] for some in (made, kept)]
        return BatchResult(*map(tuple, videos), tuple(sorted(failed, key=lambda row: row.number)))
    finally:
        lock.release()
        (folder / LOCK).unlink(missing_ok=True)


def _is_made(row: Row, folder: Path) -> bool:
    video = row.video(folder)
    try:
        return video.is_file() and load_request(request_file(video), dict) == row.request.to_json()
    except UnusableInput:
        return False


def _made(
    rows: Sequence[Row], folder: Path, pipeline: Callable[[], GMTalkerPipeline], processes: int
) -> Iterator[tuple[Row, str, list[str]]]:
    """Yields: rows as they end, each with what _make returns."""
    if not rows:
        return
    if processes == 1:
        loaded = pipeline()
        yield from ((row, *_make(row, folder, loaded)) for row in rows)
        return
    context = multiprocessing.get_context("spawn")  # networks and threads don't survive a fork
    with ProcessPoolExecutor(processes, mp_context=context, initializer=partial(_load, pipeline)) as pool:
        waiting = {pool.submit(_make, row, folder): row for row in rows}
        try:
            for future in as_completed(waiting):
                yield waiting[future], *future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_loaded: GMTalkerPipeline | None = None  # of this process


def _load(pipeline: Callable[[], GMTalkerPipeline]) -> None:
    global _loaded
    _loaded = pipeline()


def _make(row: Row, folder: Path, pipeline: GMTalkerPipeline | None = None) -> tuple[str, list[str]]:
    """Make one video. Returns: the sentence why not, or an empty one; and what is to be told of it."""
    pipeline, told = pipeline or _loaded, []
    assert pipeline is not None and row.request is not None

    def hear(progress: Progress) -> None:
        if progress.message:
            told.append(progress.message)

    try:
        pipeline.speak(row.request, row.video(folder), hear)
    except (UnusableInput, ValueError, OSError) as error:  # whatever one row asks for, the others are made
        return str(error), told
    return "", told
