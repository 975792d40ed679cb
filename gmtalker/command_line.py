"""What every command line of the project shares: exit codes, user-facing errors, the progress bar, checks of outputs."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gmtalker.avatars.workspace import home
from gmtalker.clock import EMOTIONS
from gmtalker.errors import UnusableInput
from gmtalker.files import NAME_BYTES_MAX, whole_file
from gmtalker.progress import OnProgress, Progress

if TYPE_CHECKING:
    from gmtalker.pipeline import GMTalkerPipeline

DONE, UNUSABLE, WRONG_USAGE = 0, 1, 2
DATASETS = ("mead", "cremad", "lsp", "hdtf", "voxceleb2")
# How the stages of the pipeline are called for people; other stages have names that people read already.
TITLES = {
    "listening": "reading the speech",
    "following": "following the face",
    "videos": "making the videos",
    "expression": "generating the expression",
    "drawing": "drawing the frames",
}


# Packages that the base install does not bring, and the extra that does.
EXTRAS = {
    **dict.fromkeys(("accelerate", "matplotlib", "mediapipe", "psutil", "skimage", "sklearn"), "train"),
    **dict.fromkeys(("fastapi", "gradio", "moviepy", "starlette", "yaml", "werkzeug", "pydantic"), "page"),
    "librosa": "measure",
    "hibari": "voice",
    "py3langid": "voice",
    "onnx": "voice",
    "onnxruntime": "voice",
    **dict.fromkeys(("PIL", "fontTools", "webvtt"), "captions"),
    "insightface": "identity",
    "transformers": "encoders",
}


class WrongUsage(Exception):
    """The command line asks for something that does not exist; the message names what does."""


def run(parser: argparse.ArgumentParser, arguments: list[str] | None, stopped: str = "Stopped.") -> int:
    """Run the command that the arguments name: the function that its sub-parser has as `run`.

    arguments: without the program's name; None is those of this process.
    stopped: what is said after Ctrl-C.
    Returns: what the command returns, 0 when that is nothing; 1 when the input can't be used, 2 for wrong usage. Then one
        sentence says why, on stderr, and with --json as {"status": "failed", "error": sentence} on stdout, too.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows ASCII alone gets escapes, not an error
            stream.reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args([f"./{word}" if _is_dashed_file(word) else word for word in given])
    try:
        return options.run(options) or DONE
    except UnusableInput as error:
        return fail(options, str(error), UNUSABLE)
    except WrongUsage as error:
        return fail(options, str(error), WRONG_USAGE)
    except KeyboardInterrupt:
        return fail(options, stopped, UNUSABLE)
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNUSABLE
    except OSError as error:
        if os.environ.get("GMTALKER_DEBUG") or getattr(options, "job", None):
            traceback.print_exc()
        return fail(options, place_sentence(error), UNUSABLE)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person gets a sentence, a job's log gets the rest
        if os.environ.get("GMTALKER_DEBUG") or getattr(options, "job", None):
            traceback.print_exc()
        if sentence := missing_extra(error):
            return fail(options, sentence, UNUSABLE)
        what = f"{type(error).__name__}: {error}".rstrip(".")
        return fail(options, f"Something went wrong inside this program ({what}); GMTALKER_DEBUG=1 shows where.", UNUSABLE)


def _is_dashed_file(word: str) -> bool:
    """Whether a word is the name of a file that begins as an option does."""
    return (
        word.startswith("-")
        and "." in word
        and "=" not in word
        and len(os.fsencode(word)) < NAME_BYTES_MAX
        and Path(word).is_file()
    )


def add_token(parser: argparse.ArgumentParser) -> None:
    """Add --token-file to a parser, and --token, which others on the machine see in the list of processes."""
    text = "a file that holds a token of the Hub, - for stdin (default: HF_TOKEN, or that of `hf auth login`)"
    parser.add_argument("--token-file", dest="token", type=_token_in, metavar="F", help=text)
    parser.add_argument("--token", type=_seen_token, metavar="T", help="the token itself; others see it in the list of processes")


def _token_in(path: str) -> str:
    try:
        token = sys.stdin.readline() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path} can't be read") from error
    if not token.strip() or len(token.split()) > 1:
        raise argparse.ArgumentTypeError(f"{path} holds no token")
    return token.strip()


def _seen_token(token: str) -> str:
    print("A token on the command line is seen by others on this machine; --token-file or HF_TOKEN is not.", file=sys.stderr)
    return token


def place_sentence(error: OSError) -> str:
    """What to say when a place can't be read or written."""
    what = error.strerror or str(error)
    if error.filename is None:
        return f"The system refused: {what}."
    place = Path(os.fsdecode(error.filename))
    if place.is_relative_to(home()):
        return f"The workspace {home()} can't be used ({what}); please set GMTALKER_HOME to a folder of yours."
    return f"{place} can't be read or written: {what}."


def missing_extra(error: Exception) -> str | None:
    """What to say when a package that only some commands need is not installed; None for any other error."""
    package = str(error.name).split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in EXTRAS:
        return None
    return f"This needs {package}, which is not installed: python -m pip install 'gmtalker-studio[{EXTRAS[package]}]'."


def need_package(package: str) -> None:
    """Before long work that needs it at its end. Errors: ModuleNotFoundError when it is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def program(module: str) -> str:
    """How the program was started, for its help: as an installed script, or as `python -m module`."""
    script = Path(sys.argv[0]).stem
    return script if script.startswith("gmtalker") else f"python -m {module}"


def fail(options: argparse.Namespace, sentence: str, code: int) -> int:
    """Say why a command failed, in one line. Returns: code."""
    if for_machines(options):
        print_json({"status": "failed", "error": sentence})
    print(" ".join(sentence.split()), file=sys.stderr)
    return code


def for_machines(options: argparse.Namespace) -> bool:
    """Whether --json asks for JSON on stdout: not where a command has none, or where it names a file."""
    return getattr(options, "json", None) in (True, "-")


def done(options: argparse.Namespace, sentence: str, **result: object) -> None:
    """Say what came of a command: the sentence for people, or {"status": "done", "done": true, ...result} with --json."""
    if for_machines(options):
        print_json({"status": "done", "done": True} | result)
    else:
        print(sentence)


def print_json(values: Mapping) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(values, ensure_ascii=False), flush=True)


@contextmanager
def bad_values_are_wrong_usage() -> Iterator[None]:
    """Inside, a ValueError becomes WrongUsage with the same sentence."""
    try:
        yield
    except ValueError as error:
        raise WrongUsage(f"{str(error).rstrip('.')}.") from error


# --- Options that several commands have ----------------------------------------------------------------------------------------


def add_avatar(command: argparse.ArgumentParser) -> None:
    """--avatar A."""
    command.add_argument("--avatar", metavar="A", help="a name in the workspace, a folder or a Hub id (default: the bundled one)")


def add_device(command: argparse.ArgumentParser) -> None:
    """--device D."""
    command.add_argument("--device", metavar="D", help="cpu, cuda or mps (default: cuda where there is one)")


def add_json(command: argparse.ArgumentParser) -> None:
    """--json, for progress and result on stdout."""
    command.add_argument("--json", action="store_true", help="progress and result as JSON lines on stdout")


def load_pipeline(options: argparse.Namespace) -> GMTalkerPipeline:
    """The pipeline on --device, of --generic where a command has it. Errors: WrongUsage, UnusableInput."""
    from gmtalker.device import choose_device
    from gmtalker.pipeline import GMTalkerPipeline  # late: wrong usage should not wait for the networks' libraries

    with bad_values_are_wrong_usage():
        device = choose_device(options.device)
    return GMTalkerPipeline.from_pretrained(getattr(options, "generic", None), device=device)


def labelled_clip(text: str, option: str) -> tuple[Path, str]:
    """ "clip.mp4=happy" -> the clip and its emotion. Errors: WrongUsage."""
    clip, equals, emotion = text.rpartition("=")
    if not equals or emotion not in EMOTIONS:
        raise WrongUsage(f"{option} takes CLIP=EMOTION with one of {', '.join(EMOTIONS)}, not {text!r}.")
    return Path(clip), emotion


def names_in(listed: str) -> tuple[str, ...]:
    """ "a,b" -> ("a", "b")."""
    return tuple(filter(None, listed.split(",")))


# --- Outputs -------------------------------------------------------------------------------------------------------------------


def check_output(path: Path, suffix: str) -> None:
    """Before the work: can its result be written there? Errors: WrongUsage for another suffix, UnusableInput for a bad place."""
    if path.suffix.lower() != suffix:
        raise WrongUsage(f"The output {path.name} must be named with {suffix}.")
    if len(os.fsencode(path.name)) > NAME_BYTES_MAX - len(".request.json"):  # what is written beside it has a longer one
        raise UnusableInput(f"The name {path.name[:40]}... is too long for a file; please give a shorter one.")
    if path.is_dir():
        raise UnusableInput(f"{path} is a folder; give a file to write.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UnusableInput(f"The folder {path.parent} does not exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise UnusableInput(f"Nothing can be written to {path.parent}; choose another folder.")


def write_json(figures: Mapping, path: Path) -> None:
    """Write figures as JSON, and print them. A number that is not finite becomes null."""
    text = json.dumps(finite(figures), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    print(text, end="")


def finite(value: object) -> object:
    """A measure that could not be taken is null: JSON has no "not a number"."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- Progress ------------------------------------------------------------------------------------------------------------------


@contextmanager
def progress_bar(options: argparse.Namespace) -> Iterator[OnProgress]:
    """Show the progress of a command: as JSON lines with --json, as a bar on a terminal, else as a line a stage.

    Yields: what takes the reports.
    """
    if for_machines(options):
        yield _JsonLines()
    elif sys.stderr.isatty():
        bar = _Bar()
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield _StageLines()


class _JsonLines:
    """For machines: a line for every stage, every whole percent and every message, and all figures."""

    def __init__(self) -> None:
        self.last: tuple[str, int | None] | None = None

    def __call__(self, progress: Progress) -> None:
        percent = progress.shown_percent
        now = (progress.stage, None if percent is None else int(percent))  # a line a frame would be more than anybody reads
        if now == self.last and not progress.message and not progress.figures:
            return
        self.last = now
        print_json(progress.to_json())


class _StageLines:
    """For log files: a line for every stage and every message."""

    def __init__(self) -> None:
        self.stage = ""

    def __call__(self, progress: Progress) -> None:
        if progress.message:
            print(progress.message, file=sys.stderr, flush=True)
        if progress.stage and progress.stage != self.stage:
            self.stage = progress.stage
            whole = "" if progress.percent is None else f" ({progress.percent:.0f} %)"
            print(f"{TITLES.get(progress.stage, progress.stage)}{whole}", file=sys.stderr, flush=True)


class _Bar:
    """For people at a terminal: one bar of the whole work, or of each stage where stages are not weighed against each other."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=100, bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}{postfix}", leave=False)

    def __call__(self, progress: Progress) -> None:
        if progress.message:
            self.bar.write(progress.message, file=sys.stderr)
        if progress.stage:
            title = TITLES.get(progress.stage, progress.stage)
            self.bar.set_description_str(title[:1].upper() + title[1:], refresh=False)
        if progress.shown_percent is not None:
            self.bar.n = min(100.0, progress.shown_percent)
        self.bar.set_postfix_str(progress.details(), refresh=False)
        self.bar.refresh()

    def close(self) -> None:
        """Take the bar off the terminal."""
        self.bar.close()
