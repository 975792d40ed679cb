"""The studio published as a Hugging Face Space."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import metadata_save
from huggingface_hub.utils import yaml_dump

from gmtalker.assets import ASSETS, BUNDLED
from gmtalker.avatars.avatar import card_json, data_files
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.files import temporary_folder
from studio.spacefile import INSTALLED, NAME, ROOT, STORAGE_PATH, Spacefile, check_repo_id, disagreement

# What a Space is made of: these files and, of these folders, what is neither hidden nor left behind by Python or an installation.
FILES = ("app.py", "requirements.txt", "packages.txt", "README.md", "TERMS.md", NAME)
FOLDERS = ("gmtalker", "personalize", "studio", "assets")
LEFT_BEHIND = ("__pycache__", "_assets", INSTALLED)


@dataclass(frozen=True)
class Plan:
    """What a Space is made of.

    files: path in the Space to the file here.
    """

    spacefile: Spacefile
    files: Mapping[str, Path]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, as it is here."""
        return {path: file.stat().st_size for path, file in self.files.items()}

    def to_json(self) -> dict:
        """What would be sent, ready for json.dumps; problem: one sentence, null where there is none."""
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
            "problem": disagreement(spacefile, ROOT / "README.md"),
        }

    def description(self) -> str:
        """What would be sent, for people to read."""
        values = self.to_json()
        secrets = f"{', '.join(values['secrets'])} (set them by hand)" if values["secrets"] else "none"
        lines = [
            f"Space {values['repo']}, README.md's front matter:\n{yaml_dump(values['front_matter'], sort_keys=False)}",
            f"hardware   {values['hardware']}",
            f"storage    {values['storage'] or 'none'}",
            f"variables  {', '.join(f'{name}={value}' for name, value in values['variables'].items()) or 'none'}",
            f"secrets    {secrets}",
            f"demo       {'yes: nobody trains' if values['demo'] else 'no'}",
            f"login      {'yes' if values['login'] else 'no'}",
            f"\n{len(values['files'])} files, {values['bytes'] / 2**20:.1f} MB:",
            *(f"{file['bytes']:>10}  {file['path']}" for file in values["files"]),
        ]
        return "\n".join(lines)

    def stage(self, folder: Path, repo: str) -> None:
        """Lay the files out as they are sent: README.md with the Spacefile's front matter, the Spacefile with the Space's id."""
        for path, file in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / path)
        for path in (folder / "assets" / "avatars").glob("*/avatar.json"):
            card = json.loads(path.read_text(encoding="utf-8"))
            if card.pop("hub", None) is not None:  # in which repo it is, is its owner's to tell
                path.write_text(card_json(card), encoding="utf-8")
        metadata_save(folder / "README.md", self.spacefile.front_matter())
        spacefile = folder / NAME
        others = re.sub(r"(?m)^repo:.*\n?", "", spacefile.read_text(encoding="utf-8"))
        spacefile.write_text(f"{others.rstrip()}\nrepo: {repo}\n", encoding="utf-8")


def plan(avatar: str | None = None) -> Plan:
    """What would be sent.

    avatar: one of the workspace that goes along.
    Errors: UnusableInput for a Spacefile that can't be used; UnusableAvatar for an avatar that is broken or without consent.
    """
    spacefile = Spacefile.read(ROOT / NAME)
    pinned = re.search(r"(?m)^gradio(?:\[.*\])?==(\S+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"))
    if not pinned or pinned[1] != spacefile.sdk_version:
        wanted = pinned[1] if pinned else "none"
        raise UnusableInput(f"sdk_version in {NAME} is gradio's in requirements.txt, {wanted}, not {spacefile.sdk_version}.")
    files = {name: ROOT / name for name in FILES if (ROOT / name).is_file()}
    for name in FOLDERS:
        folder = _program_folder(name)
        files |= {f"{name}/{path.relative_to(folder).as_posix()}": path for path in _program_files(folder)}
    if avatar is not None:
        files |= _avatar_files(avatar, files)
    return Plan(spacefile, dict(sorted(files.items())))


def _program_folder(name: str) -> Path:
    """Where a folder of the program is: at the top level of a checkout, or where the packages are installed."""
    if ROOT.name != INSTALLED:
        return ROOT / name
    return ASSETS if name == "assets" else ROOT.parents[1] / name


def _program_files(folder: Path) -> Iterator[Path]:
    """The files of a folder, without what is hidden (.env, .DS_Store), LEFT_BEHIND, and links out of it."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not path.is_symlink() and path.suffix != ".pyc":
            if not any(part.startswith(".") or part in LEFT_BEHIND for part in parts):
                yield path


def _avatar_files(name: str, sent: Mapping[str, Path]) -> dict[str, Path]:
    from gmtalker.avatars.on_hub import check_consent
    from gmtalker.avatars.ready import load_avatar

    avatar = load_avatar(name)
    check_consent(avatar.card)
    folder = avatar.folder.resolve()
    if folder.parent == BUNDLED:
        return {}  # it is sent already
    place = f"assets/avatars/{folder.name}"
    if f"{place}/avatar.json" in sent:
        raise UnusableAvatar(f"A bundled avatar has the same folder as {avatar.name}; rename yours first.")
    return {f"{place}/{path}": file for path, file in data_files(folder).items()}


def publish(planned: Plan, repo: str | None = None, public: bool | None = None, token: str | None = None) -> str:
    """Make the Space, or make it again, as planned.

    repo: the Space, None for the one the Spacefile names.
    public: a new Space is private unless True. One that is there stays as it is with None, except that nothing is sent to one
        that everybody sees.
    token: of the Hub, None for the one this machine is logged in with.
    Returns: its address.
    Errors: UnusableInput, one sentence: no token or a wrong one, no right to write, no network, what the Hub refuses.
    """
    from gmtalker.hub import as_sentence, client_of

    spacefile = planned.spacefile
    repo = check_repo_id(repo or spacefile.repo, "The Space's name")
    api = client_of(token)
    with as_sentence(api, repo), _payment_as_sentence(repo):
        repo = repo if "/" in repo else f"{api.whoami()['name']}/{repo}"
        made = {"space_sdk": spacefile.sdk, "space_hardware": spacefile.hardware}
        url = api.create_repo(repo, repo_type="space", private=True, exist_ok=True, **made)
        private = api.space_info(repo).private
        if not private and public is None:
            raise UnusableInput(f"Everybody sees {repo} already: say --public to send it there, or --private to hide it first.")
        if not private and not public:
            api.update_repo_settings(repo, repo_type="space", private=True)
        _configure(api, repo, spacefile)
        with temporary_folder() as folder:
            planned.stage(folder, repo)
            what = {"commit_message": "GMTalker Studio", "delete_patterns": "*"}  # what is here no more leaves the Space too
            api.upload_folder(repo_id=repo, repo_type="space", folder_path=folder, **what)
        if private and public:  # last: nobody sees half a Space
            api.update_repo_settings(repo, repo_type="space", private=False)
    return str(url)


def _configure(api, repo: str, spacefile: Spacefile) -> None:
    """Set variables, storage and hardware; only what is otherwise, as each change restarts the Space."""
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
def _payment_as_sentence(repo: str) -> Iterator[None]:
    """Spaces, unlike models, may cost something: the Hub's 402 becomes a sentence."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code != 402:
            raise
        reason = (error.server_message or "402").strip().splitlines()[0].rstrip(".")
        raise UnusableInput(f"The Hub wants a subscription or a means of payment for {repo} ({reason}).") from error
