"""The hosted demo: Spacefile says what a Hugging Face Space of this studio is, and publish makes it so."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import yaml

from gmtalker.errors import UnusableAvatar, UnusableInput

ROOT = Path(__file__).resolve().parent.parent
NAME = "Spacefile"
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")  # all that the Hub knows
REPO_ID = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
VARIABLE = re.compile(r"[A-Za-z_]\w*")
TOKEN = re.compile(r"hf_\w{20,}")
STORAGE_PATH = "/data"  # where a Space finds what it keeps
# What a Space is made of: these files and, of these folders, what is neither hidden nor left behind by Python.
FILES = ("app.py", "requirements.txt", "packages.txt", "README.md", NAME)
FOLDERS = ("gmtalker", "personalize", "studio", "assets")
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


# --- README.md -----------------------------------------------------------------------------------------------------------------


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


# --- What is sent --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a Space is made of. files: path in the Space -> the file here."""

    spacefile: Spacefile
    files: Mapping[str, Path]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, as it is here."""
        return {path: file.stat().st_size for path, file in self.files.items()}

    def to_json(self) -> dict:
        sizes, spacefile = self.sizes(), self.spacefile
        return {
            "repo": spacefile.repo,
            "front_matter": spacefile.front_matter(),
            "variables": dict(spacefile.variables),
            "secrets": list(spacefile.secrets),
            "hardware": spacefile.hardware,
            "storage": spacefile.storage,
            "demo": spacefile.demo,
            "login": spacefile.login,
            "files": [{"path": path, "bytes": size} for path, size in sizes.items()],
            "bytes": sum(sizes.values()),
            "problem": disagreement(spacefile),
        }

    def stage(self, folder: Path, repo: str) -> None:
        """Lay the files out as they are sent: README.md with the Spacefile's front matter, the Spacefile with the Space's id."""
        for path, file in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / path)
        for card in (folder / "assets" / "avatars").glob("*/avatar.json"):
            told = json.loads(card.read_text(encoding="utf-8"))
            if told.pop("hub", None) is not None:  # in which repo it is, is its owner's to tell
                card.write_text(json.dumps(told, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        readme, described = folder / "README.md", folder / NAME
        _, body = split_readme(readme.read_text(encoding="utf-8"))
        readme.write_text(f"---\n{front_matter_text(self.spacefile.front_matter())}---\n\n{body}", encoding="utf-8")
        others = re.sub(r"(?m)^repo:.*\n?", "", described.read_text(encoding="utf-8"))
        described.write_text(f"{others.rstrip()}\nrepo: {repo}\n", encoding="utf-8")


def plan(avatar: str | None = None) -> Plan:
    """What would be sent, with one avatar of the workspace where it is named.

    Errors: UnusableInput for a Spacefile that can't be used; UnusableAvatar for an avatar that is broken or without consent.
    """
    spacefile = Spacefile.read(ROOT / NAME)
    pinned = re.search(r"(?m)^gradio(?:\[.*\])?==(\S+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"))
    if not pinned or pinned[1] != spacefile.sdk_version:
        wanted = pinned[1] if pinned else "none"
        raise UnusableInput(f"sdk_version in {NAME} is gradio's in requirements.txt, {wanted}, not {spacefile.sdk_version}.")
    files = {name: ROOT / name for name in FILES if (ROOT / name).is_file()}
    for name in FOLDERS:
        files |= {path.relative_to(ROOT).as_posix(): path for path in _shown(ROOT / name)}
    if avatar is not None:
        files |= _avatar_files(avatar, files)
    return Plan(spacefile, dict(sorted(files.items())))


def _shown(folder: Path) -> Iterator[Path]:
    """The files of a folder, without what is hidden (.env, .DS_Store), what Python leaves behind, and links out of it."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not path.is_symlink() and path.suffix != ".pyc":
            if not any(part.startswith(".") or part == "__pycache__" for part in parts):
                yield path


def _avatar_files(name: str, sent: Mapping[str, Path]) -> dict[str, Path]:
    from gmtalker.avatar import BUNDLED, data_files, load_avatar
    from gmtalker.hub import check_consent

    avatar = load_avatar(name)
    check_consent(avatar.card)
    folder = avatar.folder.resolve()
    if folder.parent == BUNDLED:
        return {}  # it is sent already
    place = f"assets/avatars/{folder.name}"
    if f"{place}/avatar.json" in sent:
        raise UnusableAvatar(f"A bundled avatar has the same folder as {avatar.name}; rename yours first.")
    return {f"{place}/{path}": file for path, file in data_files(folder).items()}


# --- Sending it ----------------------------------------------------------------------------------------------------------------


def publish(wanted: Plan, repo: str | None = None, public: bool | None = None, token: str | None = None) -> str:
    """Make the Space, or make it again, as planned; returns its address.

    A new Space is private unless public. One that is there stays as it is when public is None, except that nothing is sent to
    one that everybody sees.
    Errors: UnusableInput, one sentence: no token or a wrong one, no right to write, no network, what the Hub refuses.
    """
    from gmtalker.hub import as_sentence, client_of

    spacefile = wanted.spacefile
    repo = check_repo_id(repo or spacefile.repo, "The Space's name")
    api = client_of(token)
    with as_sentence(api, repo), _payment_said(repo):
        repo = repo if "/" in repo else f"{api.whoami()['name']}/{repo}"
        made = {"space_sdk": spacefile.sdk, "space_hardware": spacefile.hardware}
        url = api.create_repo(repo, repo_type="space", private=True, exist_ok=True, **made)
        private = api.space_info(repo).private
        if not private and public is None:
            raise UnusableInput(f"Everybody sees {repo} already: say --public to send it there, or --private to hide it first.")
        if not private and not public:
            api.update_repo_settings(repo, repo_type="space", private=True)
        _settle(api, repo, spacefile)
        with tempfile.TemporaryDirectory(prefix="gmtalker-") as folder:
            wanted.stage(Path(folder), repo)
            what = {"commit_message": "GMTalker Studio", "delete_patterns": "*"}  # what is here no more leaves the Space too
            api.upload_folder(repo_id=repo, repo_type="space", folder_path=folder, **what)
        if private and public:  # last: nobody sees half a Space
            api.update_repo_settings(repo, repo_type="space", private=False)
    return str(url)


def _settle(api, repo: str, spacefile: Spacefile) -> None:
    """Variables, storage and hardware; only what is otherwise, as each change restarts the Space."""
    from huggingface_hub import Volume

    known = {name: variable.value for name, variable in api.get_space_variables(repo).items()}
    for name, value in spacefile.variables.items():
        if known.get(name) != value:
            api.add_space_variable(repo, name, value)
    runtime = api.get_space_runtime(repo)
    if spacefile.storage:
        bucket = spacefile.storage if "/" in spacefile.storage else f"{repo.split('/')[0]}/{spacefile.storage}"
        mounted = {volume.mount_path: volume for volume in runtime.volumes or []}
        if STORAGE_PATH not in mounted or mounted[STORAGE_PATH].source != bucket:
            api.create_bucket(bucket, private=True, exist_ok=True)
            mounted[STORAGE_PATH] = Volume(type="bucket", source=bucket, mount_path=STORAGE_PATH)
            api.set_space_volumes(repo, list(mounted.values()))
    if (runtime.requested_hardware or runtime.hardware) != spacefile.hardware:
        api.request_space_hardware(repo, spacefile.hardware)


@contextmanager
def _payment_said(repo: str) -> Iterator[None]:
    """Spaces, unlike models, may cost something."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code != 402:
            raise
        said = (error.server_message or "402").strip().splitlines()[0].rstrip(".")
        raise UnusableInput(f"The Hub wants a subscription or a means of payment for {repo} ({said}).") from error
