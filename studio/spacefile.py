"""The hosted demo: Spacefile says what a Hugging Face Space of this studio is, and publish makes it so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import yaml

from gmtalker.errors import UnusableInput

ROOT = Path(__file__).resolve().parent.parent
NAME = "Spacefile"
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")  # all that the Hub knows
REPO_ID = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
VARIABLE = re.compile(r"[A-Za-z_]\w*")
TOKEN = re.compile(r"hf_\w{20,}")
STORAGE_PATH = "/data"  # where a Space finds what it keeps


# What README.md says to the Hub; the rest of a Spacefile is told through its API, or read by app.py.
FRONT_MATTER = ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file")


# How a value of the file is to look, by the type of its field.
KINDS = {
    "str": ("text, in quotes where it looks like a number", lambda value: isinstance(value, str)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "float": ("a number above 0", lambda value: not isinstance(value, bool) and isinstance(value, (int, float)) and value > 0),
    "tuple[str, ...]": ("a list of texts", lambda value: isinstance(value, tuple) and all(map(_is_text, value))),
    "Mapping[str, str]": (
        "names and values, both text in quotes where it looks like a number",
        lambda value: isinstance(value, Mapping) and all(map(_is_text, [*value, *value.values()])),
    ),
    "Limits": ("names and values", lambda value: isinstance(value, Limits)),
}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _checked_kinds(part: Limits | Spacefile) -> None:
    for item in fields(part):
        wanted, fits = KINDS[item.type]
        if not fits(getattr(part, item.name)):
            raise UnusableInput(f"{item.name} in {NAME} is {wanted}, not {getattr(part, item.name)!r}.")


def _filled(kind: type, given: object, where: str) -> dict:
    """What a YAML mapping says, for the fields of a class. Errors: UnusableInput for what is no field, or is missing."""
    if not isinstance(given, dict):
        raise UnusableInput(f"{where} holds names and values, not {given!r}.")
    names = [item.name for item in fields(kind)]
    if unknown := [str(name) for name in given if name not in names]:
        raise UnusableInput(f"{where} knows no {', '.join(unknown)}; it knows {', '.join(names)}.")
    needed = [item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING]
    if missing := [name for name in needed if name not in given]:
        raise UnusableInput(f"{where} lacks {', '.join(missing)}.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


@dataclass(frozen=True)
class Limits:
    """How much one visitor may ask for. upload_megabytes: of one file; speech_minutes: of one video; training_minutes: of one
    training. Errors: UnusableInput for what is not above 0."""

    upload_megabytes: float = 2048
    speech_minutes: float = 120
    training_minutes: float = 600

    def __post_init__(self) -> None:
        _checked_kinds(self)


@dataclass(frozen=True)
class Spacefile:
    """The one description of the hosted demo; names as the Hub spells them.

    repo: owner/name of the Space; without an owner, of whoever publishes it. storage: the bucket that is mounted at /data, made
    when it is missing; empty: what visitors make is lost when the Space restarts. models: of the Hub, fetched when the Space is
    built. secrets: names only; their values are set by hand. demo: nobody trains, and whoever wants to duplicates the Space.
    login: visitors sign in with Hugging Face, and each finds only what is theirs.
    Errors: UnusableInput, one sentence that names the valid choices.
    """

    title: str
    emoji: str
    colorFrom: str
    colorTo: str
    sdk_version: str
    python_version: str
    hardware: str
    sdk: str = "gradio"
    app_file: str = "app.py"
    repo: str = "gmtalker-studio"
    storage: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    demo: bool = False
    login: bool = False
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        from huggingface_hub import SpaceHardware

        _checked_kinds(self)
        if not self.title.strip():
            raise UnusableInput(f"title in {NAME} is empty.")
        if not self.emoji or any(letter.isascii() or letter.isalnum() for letter in self.emoji):
            raise UnusableInput(f"emoji in {NAME} is one emoji, not {self.emoji!r}.")
        choices = {"colorFrom": COLORS, "colorTo": COLORS, "sdk": ("gradio",), "app_file": ("app.py",)}
        choices["hardware"] = tuple(hardware.value for hardware in SpaceHardware)
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UnusableInput(f"{name} in {NAME} is one of {', '.join(known)}, not {getattr(self, name)!r}.")
        if not re.fullmatch(r"3\.\d+(\.\d+)?", self.python_version):
            raise UnusableInput(f'python_version in {NAME} is one such as "3.11", not {self.python_version!r}.')
        check_repo_id(self.repo, f"repo in {NAME}")
        if self.storage:
            check_repo_id(self.storage, f"storage in {NAME}")
        for model in self.models:
            if "/" not in check_repo_id(model, f"models in {NAME}"):
                raise UnusableInput(f"models in {NAME} are written owner/name, not {model!r}.")
        for name in [*self.variables, *self.secrets]:
            if not VARIABLE.fullmatch(name):
                raise UnusableInput(f"{name!r} in {NAME} can't name a variable; letters, digits and _ can.")
        if both := sorted(set(self.variables) & set(self.secrets)):
            raise UnusableInput(f"{', '.join(both)} in {NAME} is either a variable, which everybody reads, or a secret.")
        if open_ := [name for name, value in self.variables.items() if TOKEN.search(value)]:
            raise UnusableInput(f"{', '.join(open_)} in {NAME} holds a token, and everybody reads variables; name it in secrets.")

    @classmethod
    def read(cls, path: Path = ROOT / NAME) -> Spacefile:
        """Errors: UnusableInput."""
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UnusableInput(f"{NAME} can't be read ({' '.join(str(error).split())}).") from error
        values = _filled(cls, given, NAME)
        if "limits" in values:
            values["limits"] = Limits(**_filled(Limits, values["limits"], f"limits in {NAME}"))
        return cls(**values)

    def front_matter(self) -> dict[str, object]:
        """What the Hub reads at the top of README.md."""
        said: dict[str, object] = {name: getattr(self, name) for name in FRONT_MATTER}
        said["suggested_hardware"] = self.hardware  # of duplicates; this Space's own is asked for
        if self.login:
            said["hf_oauth"] = True
        if self.models:
            said |= {"models": list(self.models), "preload_from_hub": list(self.models)}
        return said

    def is_demo(self, space_id: str) -> bool:
        """Whether nobody trains in that Space. A duplicate, which brings this file along under another id, is no demo."""
        return self.demo and ("/" not in self.repo or self.repo.casefold() == space_id.casefold())


def check_repo_id(repo: str, what: str) -> str:
    """The id as it is. Errors: UnusableInput when it can't be one of the Hub's."""
    if not REPO_ID.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith((".git", ".", "-")):
        raise UnusableInput(f"{what} is owner/name or name, of letters, digits, - and single dots, not {repo!r}.")
    return repo


def front_matter_text(values: Mapping[str, object]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def split_readme(text: str) -> tuple[dict | None, str]:
    """Front matter and the rest. Errors: UnusableInput when the front matter is no YAML."""
    found = re.match(r"---\n(.*?\n)---\n+", text, re.DOTALL)
    if not found:
        return None, text
    try:
        return yaml.safe_load(found[1]), text[found.end() :]
    except yaml.YAMLError as error:
        raise UnusableInput(f"The front matter of README.md can't be read ({' '.join(str(error).split())}).") from error


def disagreement(spacefile: Spacefile) -> str | None:
    """One sentence on how README.md and the Spacefile disagree."""
    wanted, said = spacefile.front_matter(), split_readme((ROOT / "README.md").read_text(encoding="utf-8"))[0] or {}
    other = sorted(name for name in wanted.keys() | said.keys() if wanted.get(name) != said.get(name))
    if not other:
        return None
    return f"README.md and {NAME} disagree on {', '.join(other)}; put the front matter shown here at the top of README.md."
