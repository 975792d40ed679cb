"""The hosted demo: Spacefile says what a Hugging Face Space of this studio is, and publish makes it so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from huggingface_hub import SpaceHardware
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError, model_validator

from gmtalker.errors import UnusableInput

INSTALLED = "_space"  # where Spacefile, README.md and app.py are in an installed package; a checkout has them at its top level
_HERE = Path(__file__).resolve().parent
ROOT = _HERE / INSTALLED if (_HERE / INSTALLED).is_dir() else _HERE.parent
NAME = "Spacefile"
REPO_ID = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
VARIABLE = re.compile(r"[A-Za-z_]\w*")
TOKEN = re.compile(r"hf_\w{20,}")
STORAGE_PATH = "/data"  # where a Space finds what it keeps
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")  # all that the Hub knows
HARDWARE = tuple(hardware.value for hardware in SpaceHardware)
# What README.md says to the Hub; the rest of a Spacefile is set through its API, or read by the page.
FRONT_MATTER = ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file")

# The description of a type is what a sentence says of a value that does not fit it: "demo in Spacefile is true or false, ...".
NAMES_AND_VALUES = "names and values, both text in quotes where it looks like a number"
Text = Annotated[StrictStr, Field(description="text, in quotes where it looks like a number")]
Flag = Annotated[StrictBool, Field(description="true or false")]
Amount = Annotated[float, Field(gt=0, strict=True, description="a number above 0")]
_Filled = Annotated[StrictStr, Field(pattern=r"\S")]
Texts = Annotated[tuple[_Filled, ...], Field(description="a list of texts")]
Variables = Annotated[dict[_Filled, _Filled], Field(description=NAMES_AND_VALUES)]


class Limits(BaseModel):
    """How much one visitor may ask for.

    upload_megabytes: of one file.
    speech_minutes: of one video.
    training_minutes: of one training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    upload_megabytes: Amount = 2048
    speech_minutes: Amount = 120
    training_minutes: Amount = 600


class Spacefile(BaseModel):
    """The one description of the hosted demo; names as the Hub spells them.

    repo: owner/name of the Space; without an owner, of whoever publishes it.
    storage: the bucket that is mounted at /data, made when it is missing; with none, what visitors make is lost when the Space
        restarts.
    models: of the Hub, fetched when the Space is built.
    secrets: names only; their values are set by hand.
    demo: nobody trains, and whoever wants to duplicates the Space.
    login: visitors sign in with Hugging Face, and each finds only what is theirs.
    Errors: UnusableInput, one sentence that names the valid choices; pydantic's ValidationError for a value of the wrong type.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Text
    emoji: Text
    colorFrom: Text
    colorTo: Text
    sdk_version: Text
    python_version: Text
    hardware: Text
    sdk: Text = "gradio"
    app_file: Text = "app.py"
    repo: Text = "gmtalker-studio"
    storage: Text = ""
    variables: Variables = {}
    secrets: Texts = ()
    models: Texts = ()
    demo: Flag = False
    login: Flag = False
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _check_values(self) -> Spacefile:
        if not self.title.strip():
            raise UnusableInput(f"title in {NAME} is empty.")
        if not self.emoji or any(letter.isascii() or letter.isalnum() for letter in self.emoji):
            raise UnusableInput(f"emoji in {NAME} is one emoji, not {self.emoji!r}.")
        choices = {"colorFrom": COLORS, "colorTo": COLORS, "sdk": ("gradio",), "app_file": ("app.py",), "hardware": HARDWARE}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UnusableInput(f"{name} in {NAME} is one of {', '.join(known)}, not {getattr(self, name)!r}.")
        if not re.fullmatch(r"3\.\d+(\.\d+)?", self.python_version):
            raise UnusableInput(f'python_version in {NAME} is one such as "3.11", not {self.python_version!r}.')
        return self

    @model_validator(mode="after")
    def _check_names(self) -> Spacefile:
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
        if leaked := [name for name, value in self.variables.items() if TOKEN.search(value)]:
            raise UnusableInput(
                f"{', '.join(leaked)} in {NAME} holds a token, and everybody reads variables; name it in secrets."
            )
        return self

    @classmethod
    def read(cls, path: Path = ROOT / NAME) -> Spacefile:
        """Read the description from its file. Errors: UnusableInput, one sentence on the first thing that is wrong with it."""
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UnusableInput(f"{NAME} can't be read ({' '.join(str(error).split())}).") from error
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise UnusableInput(_sentence(error, given)) from error

    def front_matter(self) -> dict[str, object]:
        """What the Hub reads at the top of README.md."""
        values: dict[str, object] = {name: getattr(self, name) for name in FRONT_MATTER}
        values["suggested_hardware"] = self.hardware  # of duplicates; this Space's own is asked for
        if self.login:
            values["hf_oauth"] = True
        if self.models:
            values |= {"models": list(self.models), "preload_from_hub": list(self.models)}
        return values

    def is_demo(self, space_id: str) -> bool:
        """Whether nobody trains in that Space. A duplicate, which brings this file along under another id, is no demo."""
        return self.demo and ("/" not in self.repo or self.repo.casefold() == space_id.casefold())


def _sentence(error: ValidationError, given: object) -> str:
    """The first of pydantic's errors in words: unknown names before missing ones, and those before values that don't fit."""
    errors = error.errors()
    rank = {"extra_forbidden": 0, "invalid_key": 0, "missing": 1}
    kind, place = min(((item["type"], item["loc"]) for item in errors), key=lambda item: rank.get(item[0], 2))
    in_limits = place[:1] == ("limits",)
    model, where = (Limits, f"limits in {NAME}") if in_limits else (Spacefile, NAME)
    if kind == "model_type":
        return f"{where} holds names and values, not {given['limits'] if in_limits else given!r}."
    if rank.get(kind) is not None:
        names = ", ".join(str(item["loc"][-1]) for item in errors if item["type"] == kind and item["loc"][:-1] == place[:-1])
        return f"{where} lacks {names}." if kind == "missing" else f"{where} knows no {names}; it knows {_fields(model)}."
    name = place[1] if in_limits else place[0]
    value = given["limits"][name] if in_limits else given[name]
    return f"{name} in {NAME} is {model.model_fields[name].description}, not {value!r}."


def _fields(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def check_repo_id(repo: str, what: str) -> str:
    """The id as it is.

    what: whose it is, for the sentence.
    Errors: UnusableInput when it can't be one of the Hub's.
    """
    if not REPO_ID.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith((".git", ".", "-")):
        raise UnusableInput(f"{what} is owner/name or name, of letters, digits, - and single dots, not {repo!r}.")
    return repo


def readme_front_matter(readme: Path) -> Mapping[str, object]:
    """The front matter of a README.md, empty where it has none. Errors: UnusableInput when it can't be read."""
    from huggingface_hub import metadata_load

    try:
        return metadata_load(readme) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise UnusableInput(f"The front matter of {readme.name} can't be read ({' '.join(str(error).split())}).") from error


def disagreement(spacefile: Spacefile, readme: Path = ROOT / "README.md") -> str | None:
    """One sentence on how README.md and the Spacefile disagree; None when they don't."""
    wanted, found = spacefile.front_matter(), readme_front_matter(readme)
    other = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if not other:
        return None
    return f"README.md and {NAME} disagree on {', '.join(other)}; put the front matter shown here at the top of README.md."
