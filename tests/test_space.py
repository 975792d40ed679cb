"""The Space: one Spacefile, what is sent, a Hub that takes it, a clone that runs, and the page as a Space shows it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import gradio as gr
import itsdangerous
import numpy as np
import pytest
import yaml
from conftest import ROOT, write_speech
from fastapi.testclient import TestClient
from gradio.utils import get_upload_folder
from hub_server import UNPAID, Hub
from huggingface_hub import HfApi
from starlette.middleware import Middleware

import studio.deployment
import studio.zero_gpu
from gmtalker.avatars.workspace import owner
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.media.video import read_frames
from gmtalker.progress import Stopped
from gmtalker.request import SpeakRequest
from personalize.__main__ import main as personalize_main
from studio.__main__ import main
from studio.accounts import in_own_workspace
from studio.deployment import Deployment
from studio.guard import OwnFilesOnly, SignIn, signed_in
from studio.live_video import LiveVideos
from studio.page import build
from studio.publish import FILES, FOLDERS, plan, publish
from studio.spacefile import Limits, Spacefile, disagreement, readme_front_matter

WHOLE = {
    "title": "A title",
    "emoji": "🗣️",
    "colorFrom": "indigo",
    "colorTo": "pink",
    "sdk_version": "6.31.0",
    "python_version": "3.11",
    "hardware": "cpu-basic",
}


# --- Spacefile -----------------------------------------------------------------------------------------------------------------


def test_the_spacefile_is_valid_and_readme_says_the_same():
    described = Spacefile.read()
    assert disagreement(described) is None
    assert readme_front_matter(ROOT / "README.md") == described.front_matter()


def test_what_is_left_out_is_the_usual():
    described = Spacefile(**WHOLE)
    assert (described.demo, described.login, described.storage, described.limits) == (False, False, "", Limits())
    said = Spacefile(**WHOLE, login=True, models=("ann/face",)).front_matter()
    assert said["hf_oauth"] is True and said["preload_from_hub"] == ["ann/face"] == said["models"]


@pytest.mark.parametrize(
    "changed,expected",
    [
        ({"colour": "red"}, "knows no colour; it knows title, emoji, colorFrom"),
        ({"title": None}, "title in Spacefile is text"),
        ({"title": " "}, "title in Spacefile is empty"),
        ({"emoji": "talk"}, "one emoji"),
        ({"colorTo": "mauve"}, "one of red, yellow, green, blue, indigo, purple, pink, gray, not 'mauve'"),
        ({"hardware": "h9000"}, "hardware in Spacefile is one of cpu-basic, cpu-upgrade, zero-a10g"),
        ({"sdk": "docker"}, "sdk in Spacefile is one of gradio"),
        ({"app_file": "main.py"}, "app_file in Spacefile is one of app.py"),
        ({"python_version": 3.11}, "python_version in Spacefile is text, in quotes where it looks like a number, not 3.11"),
        ({"python_version": "2.7"}, 'such as "3.11"'),
        ({"demo": "yes"}, "demo in Spacefile is true or false"),
        ({"login": 1}, "login in Spacefile is true or false"),
        ({"secrets": "HF_TOKEN"}, "secrets in Spacefile is a list of texts"),
        ({"secrets": ["HF TOKEN"]}, "letters, digits and _ can"),
        ({"variables": {"A": 1}}, "variables in Spacefile is names and values, both text"),
        ({"variables": {"A": "1"}, "secrets": ["A"]}, "A in Spacefile is either a variable"),
        ({"variables": {"A": "hf_" + 30 * "x"}}, "A in Spacefile holds a token"),
        ({"models": ["face"]}, "written owner/name, not 'face'"),
        ({"models": ["../face"]}, "models in Spacefile is owner/name"),
        ({"repo": "a/b/c"}, "repo in Spacefile is owner/name"),
        ({"storage": "my bucket"}, "storage in Spacefile is owner/name"),
        ({"limits": 3}, "limits in Spacefile holds names and values"),
        ({"limits": {"minutes": 3}}, "knows no minutes; it knows upload_megabytes, speech_minutes, training_minutes"),
        ({"limits": {"speech_minutes": 0}}, "speech_minutes in Spacefile is a number above 0"),
        ({"limits": {"speech_minutes": True}}, "speech_minutes in Spacefile is a number above 0"),
    ],
)
def test_what_is_wrong_in_a_spacefile_is_said_in_a_sentence(tmp_path: Path, changed: dict, expected: str):
    path = tmp_path / "Spacefile"
    path.write_text(yaml.safe_dump(WHOLE | changed, allow_unicode=True), encoding="utf-8")
    with pytest.raises(UnusableInput) as raised:
        Spacefile.read(path)
    assert expected in str(raised.value) and str(raised.value).endswith(".") and "\n" not in str(raised.value)


@pytest.mark.parametrize("text,expected", [("a: [", "can't be read"), ("- a", "names and values"), ("title: a", "lacks emoji")])
def test_what_is_no_spacefile_is_said_in_a_sentence(tmp_path: Path, text: str, expected: str):
    path = tmp_path / "Spacefile"
    path.write_text(text, encoding="utf-8")
    for place in (path, tmp_path / "none"):
        with pytest.raises(UnusableInput, match=expected if place is path else "can't be read") as raised:
            Spacefile.read(place)
        assert "\n" not in str(raised.value)


def test_a_duplicate_of_a_demo_is_none():
    published = Spacefile(**WHOLE, demo=True, repo="ann/studio")
    assert published.is_demo("Ann/Studio") and not published.is_demo("bob/studio")
    assert Spacefile(**WHOLE, demo=True).is_demo("ann/studio") and not Spacefile(**WHOLE).is_demo("ann/studio")


# --- What is sent --------------------------------------------------------------------------------------------------------------


def test_the_program_is_sent_and_nothing_else():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("what belongs to the program is known from git")
    known = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *FILES, *FOLDERS]
    names = subprocess.run(known, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    assert list(plan().files) == sorted(name for name in names if (ROOT / name).is_file())


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    """A program of a few files, with all that may lie beside one."""
    folder = tmp_path / "the program"
    described = {**WHOLE, "repo": "studio", "variables": {"A": "1"}, "secrets": ["HF_TOKEN"]}
    front = yaml.safe_dump(Spacefile(**described).front_matter(), sort_keys=False, allow_unicode=True)
    files = {
        "Spacefile": yaml.safe_dump(described, allow_unicode=True),
        "README.md": f"---\n{front}---\n\n# A program\n",
        "requirements.txt": "fsspec==1\ngradio[mcp,oauth]==6.31.0\n",
        "app.py": "import gmtalker",
        "gmtalker/audio.py": "pass",
        "assets/speech/hello.flac": "sound",
        ".env": "HF_TOKEN=hf_secret",
        ".git/config": "secret",
        "build/old.mp4": "old",
        "tests/test_audio.py": "pass",
        "gmtalker/.env": "HF_TOKEN=hf_secret",
        "gmtalker/__pycache__/audio.cpython-311.pyc": "",
        "gmtalker/audio.pyc": "",
        "assets/.cache/huggingface/token": "hf_secret",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (tmp_path / "secret.txt").write_text("hf_secret")
    (folder / "assets" / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr("studio.publish.ROOT", folder)
    return folder


SENT = ["README.md", "Spacefile", "app.py", "assets/speech/hello.flac", "gmtalker/audio.py", "requirements.txt"]


def test_secrets_and_leftovers_stay_here(project: Path):
    assert list(plan().files) == SENT
    (project / "packages.txt").write_text("libgl1\n")
    assert "packages.txt" in plan().files


def test_an_installed_package_sends_the_same(project: Path, tmp_path: Path, monkeypatch):
    """The wheel's places: packages beside each other, the assets and what stands beside the packages inside them."""
    site = tmp_path / "site-packages"
    shutil.copytree(project / "gmtalker", site / "gmtalker")
    shutil.copytree(project / "assets", site / "gmtalker" / "_assets", symlinks=True)
    (site / "studio" / "_space").mkdir(parents=True)
    for name in ("Spacefile", "README.md", "requirements.txt", "app.py"):
        shutil.copy(project / name, site / "studio" / "_space")
    monkeypatch.setattr("studio.publish.ROOT", site / "studio" / "_space")
    monkeypatch.setattr("studio.publish.ASSETS", site / "gmtalker" / "_assets")
    planned = plan()
    assert list(planned.files) == SENT and all(file.is_file() for file in planned.files.values())


def test_where_publishing_was_before_says_where_it_is(capsys):
    assert personalize_main(["space", "check"]) == 2
    assert "python -m studio space check" in capsys.readouterr().err


def test_check_shows_what_would_be_sent(project: Path, capsys):
    assert main(["space", "check"]) == 0
    shown = capsys.readouterr().out
    for part in ("colorFrom: indigo", "cpu-basic", "A=1", "HF_TOKEN (set them by hand)", "6 files", "gmtalker/audio.py", "none"):
        assert part in shown
    assert main(["space", "check", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [file["path"] for file in planned["files"]] == SENT and planned["problem"] is None
    assert planned["bytes"] == sum((project / name).stat().st_size for name in SENT)


def test_check_says_where_readme_and_spacefile_disagree(project: Path, capsys):
    readme = project / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").replace("indigo", "blue").replace("pink", "gray"), encoding="utf-8")
    assert main(["space", "check"]) == 1
    said = capsys.readouterr().err.strip()
    assert "disagree on colorFrom, colorTo;" in said and "\n" not in said
    readme.write_text("# A program\n")
    assert main(["space", "check", "--json"]) == 1
    assert "sdk_version" in json.loads(capsys.readouterr().out)["problem"]
    readme.write_text("---\na: [\n---\n")
    assert main(["space", "check"]) == 1 and "front matter" in capsys.readouterr().err


def test_the_sdk_is_the_gradio_that_is_installed(project: Path):
    (project / "requirements.txt").write_text("gradio==6.30.0\n")
    with pytest.raises(UnusableInput, match="6.30.0, not 6.31.0"):
        plan()


def test_an_avatar_goes_along_only_with_consent_and_only_when_it_loads(project: Path, home: Path, tiny_avatar: str):
    folder = home / "avatars" / tiny_avatar
    (folder / ".DS_Store").write_text("hidden")
    added = set(plan(tiny_avatar).files) - set(SENT)
    assert {"assets/avatars/tiny/avatar.json", "assets/avatars/tiny/face.safetensors"} < added
    assert all(name.startswith("assets/avatars/tiny/") and "DS_Store" not in name for name in added)
    card = json.loads((folder / "avatar.json").read_text())
    for key in ("who", "words"):
        (folder / "avatar.json").write_text(json.dumps(card | {"consent": card["consent"] | {key: " "}}))
        with pytest.raises(UnusableAvatar, match="consent"):
            plan(tiny_avatar)
    (folder / "avatar.json").write_text(json.dumps(card))
    (folder / "extra.pkl").write_bytes(b"code")
    with pytest.raises(UnusableAvatar, match="extra.pkl"):
        plan(tiny_avatar)


def test_a_bundled_avatar_is_sent_already(home: Path, tiny_avatar: str, monkeypatch):
    assert plan("GRID s1").files == plan().files
    (home / "avatars" / "tiny").rename(home / "avatars" / "grid-s1")
    with pytest.raises(UnusableAvatar, match="rename yours"):
        plan(tiny_avatar)


# --- Publishing ----------------------------------------------------------------------------------------------------------------


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["space", "publish", *arguments])
    said = capsys.readouterr()
    return status, said.out.strip(), said.err.strip().rpartition("\n")[2]


def test_publish_makes_the_space(project: Path, hub: Hub, capsys):
    status, said, _ = run(capsys, "--token", "hf_ann")
    url = f"{hub.endpoint}/spaces/ann/studio"
    assert status == 0 and said.splitlines() == [f"Published: {url}", f"Set HF_TOKEN by hand at {url}/settings"]
    made = hub.repos["space", "ann/studio"]
    assert made.private and made.settings == {"sdk": "gradio", "hardware": "cpu-basic", "variables": {"A": "1"}}
    assert sorted(made.files) == [".gitattributes", *SENT]
    _, front, body = made.files["README.md"].decode().split("---\n")
    assert yaml.safe_load(front) == Spacefile.read(project / "Spacefile").front_matter() and body == "\n# A program\n"
    assert yaml.safe_load(made.files["Spacefile"])["repo"] == "ann/studio"


def test_publish_again_changes_only_what_is_otherwise(project: Path, hub: Hub, capsys):
    assert run(capsys, "--token", "hf_ann")[0] == 0
    hub.requests.clear()
    assert run(capsys, "--token", "hf_ann", "--json")[0] == 0
    assert not [asked for asked in hub.requests if "variables" in asked and "POST" in asked or "hardware" in asked]

    described = yaml.safe_load((project / "Spacefile").read_text(encoding="utf-8"))
    described |= {"hardware": "zero-a10g", "storage": "kept", "variables": {"A": "2", "B": "3"}}
    (project / "Spacefile").write_text(yaml.safe_dump(described, allow_unicode=True), encoding="utf-8")
    (project / "gmtalker" / "audio.py").rename(project / "gmtalker" / "sound.py")
    made = hub.repos["space", "ann/studio"]
    made.settings["volumes"] = [{"type": "model", "source": "ann/face", "mountPath": "/face"}]
    assert run(capsys, "--token", "hf_ann", "--repo", "ann/studio")[0] == 0
    assert made.settings["hardware"] == "zero-a10g" and made.settings["variables"] == {"A": "2", "B": "3"}
    bucket = {"type": "bucket", "source": "ann/kept", "mountPath": "/data"}
    assert made.settings["volumes"] == [{"type": "model", "source": "ann/face", "mountPath": "/face"}, bucket]
    assert hub.repos["bucket", "ann/kept"].private
    assert "gmtalker/sound.py" in made.files and "gmtalker/audio.py" not in made.files
    assert "\nsuggested_hardware: zero-a10g\n" in made.files["README.md"].decode()


def test_nothing_is_sent_where_everybody_sees_it_unless_that_is_said(project: Path, hub: Hub, capsys):
    token = ("--token", "hf_ann")
    assert run(capsys, *token, "--public")[0] == 0
    made = hub.repos["space", "ann/studio"]
    assert not made.private and len(made.commits) == 2
    status, _, said = run(capsys, *token)
    assert status == 1 and "--public" in said and len(made.commits) == 2
    assert run(capsys, *token, "--private")[0] == 0 and made.private
    assert run(capsys, *token)[0] == 0 and made.private
    assert run(capsys, *token, "--public")[0] == 0 and not made.private


def test_what_the_hub_does_not_take_is_said_in_a_sentence(project: Path, hub: Hub, capsys, monkeypatch):
    def refused(*arguments: str) -> str:
        status, _, said = run(capsys, *arguments)
        assert status == 1 and said.endswith(".") and "Traceback" not in said
        return said

    assert "token" in refused() and "token" in refused("--token", "hf_nobody", "--repo", "ann/studio")
    assert "rights to write to bob" in refused("--token", "hf_ann", "--repo", "bob/studio")
    assert "owner/name" in refused("--token", "hf_ann", "--repo", "a studio")
    hub.faults.add(UNPAID)
    assert "PRO subscription" in refused("--token", "hf_ann")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert "network" in refused("--token", "hf_ann")
    assert ("space", "ann/studio") not in hub.repos


def test_the_published_space_runs_from_a_clone(hub: Hub, tmp_path: Path):
    """Everything that app.py needs was sent; as a Space it listens to everybody, and as a demo trains nobody."""
    publish(plan(), "ann/studio", token="hf_ann")
    clone = tmp_path / "clone"
    ann = HfApi(endpoint=hub.endpoint, token="hf_ann")
    ann.snapshot_download("ann/studio", repo_type="space", local_dir=clone)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "GMTALKER_HOME")}
    environment |= {"SPACE_ID": "ann/studio", "SYSTEM": "spaces", "CPU_CORES": "1", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import app, sys; sys.exit(app.main(sys.argv[1:]))", "--port", str(port)]
    with open(log, "wb") as said:
        page = subprocess.Popen(command, cwd=clone, env=environment, stdout=said, stderr=subprocess.STDOUT)
    try:
        shown, end = None, time.time() + 300
        while shown is None and time.time() < end:
            assert page.poll() is None, log.read_text()
            try:
                shown = urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=5).read().decode()
            except OSError:
                time.sleep(0.3)
        assert shown is not None, log.read_text()
    finally:
        page.terminate()
        page.wait(20)
    parts = {part["props"].get("elem_id") for part in json.loads(shown)["components"]}
    assert {"create", "duplicate", "demo"} <= parts and not parts & {"train", "check", "shelf", "import"}
    assert "0.0.0.0" in log.read_text()


# --- The page on a Space -------------------------------------------------------------------------------------------------------


def test_a_space_keeps_what_is_made_where_it_outlives_a_restart(tmp_path: Path, monkeypatch):
    environment = {"SPACE_ID": "ann/studio", "CPU_CORES": "2.0"}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(studio.deployment, "STORAGE", tmp_path / "data")
    studio.deployment.prepare()
    assert "GMTALKER_HOME" not in environment and environment["OMP_NUM_THREADS"] == "2"
    (tmp_path / "data").mkdir()
    studio.deployment.prepare()
    assert environment.pop("GMTALKER_HOME") == str(tmp_path / "data")
    monkeypatch.setattr(os, "environ", environment | {"GMTALKER_HOME": "/elsewhere"})
    studio.deployment.prepare()
    assert os.environ["GMTALKER_HOME"] == "/elsewhere"
    monkeypatch.setattr(os, "environ", {})
    studio.deployment.prepare()
    assert set(os.environ) == {"GRADIO_ANALYTICS_ENABLED", "FORWARDED_ALLOW_IPS"}


def test_every_page_has_a_folder_of_its_own_for_what_visitors_send(monkeypatch):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    folders = []
    for _ in range(2):
        with studio.deployment.own_uploads():
            folders.append(Path(get_upload_folder()))
            assert folders[-1].stat().st_mode & 0o077 == 0  # faces and voices are nobody else's on this machine
            (folders[-1] / "speech.wav").touch()
    assert folders[0] != folders[1] and not any(folder.exists() for folder in folders)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/elsewhere")
    with studio.deployment.own_uploads():
        assert get_upload_folder() == "/elsewhere"


def test_limits_demo_and_login_are_those_of_the_spacefile_on_a_space_alone(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert Deployment.here() == Deployment(Limits(), False, False, "127.0.0.1")
    monkeypatch.setenv("SPACE_ID", "ann/studio")
    described = Spacefile.read()
    assert Deployment.here() == Deployment(described.limits, described.demo, described.login, "0.0.0.0")


@pytest.fixture
def on_a_space(monkeypatch) -> None:
    """What gradio looks for on a Space where visitors sign in."""
    for name, value in (("SYSTEM", "spaces"), ("SPACE_ID", "ann/studio")):
        monkeypatch.setenv(name, value)
    oauth = {"OAUTH_CLIENT_ID": "id", "OAUTH_CLIENT_SECRET": "secret", "OAUTH_SCOPES": "openid profile"}
    for name, value in (oauth | {"OPENID_PROVIDER_URL": "https://localhost"}).items():
        monkeypatch.setattr(gr.oauth, name, value)


@pytest.mark.parametrize(
    "place,shown",
    [
        (Deployment(), {"create", "train", "shelf", "import"}),
        (Deployment(demo=True), {"create", "demo", "duplicate"}),
        (Deployment(login=True), {"create", "train", "shelf", "import", "sign-out"}),
    ],
)
def test_the_page_offers_what_its_place_allows(tiny_pipeline, on_a_space, place: Deployment, shown: set[str]):
    parts = build(lambda: tiny_pipeline, LiveVideos(), place).config["components"]
    there = {part["props"].get("elem_id") for part in parts}
    assert there & {"create", "train", "shelf", "import", "demo", "duplicate", "sign-out"} == shown


def test_only_who_has_signed_in_comes_in_and_works_in_a_workspace_of_their_own(on_a_space):
    @in_own_workspace
    def whose(visitor: gr.Request) -> str:
        return owner()

    with gr.Blocks() as page:
        gr.LoginButton()
        said = gr.Textbox()
        gr.Button().click(whose, None, said, api_name="whose", queue=False)
    apart = {"middleware": [Middleware(SignIn), Middleware(OwnFilesOnly)]}
    server = gr.routes.App.create_app(page, app_kwargs=apart, auth_dependency=signed_in)

    def visitor(**session) -> TestClient:
        """Somebody whose browser brings the cookie that gradio's session sets."""
        signer = itsdangerous.TimestampSigner(hashlib.sha256(b"secret-v4").hexdigest())
        cookie = signer.sign(base64.b64encode(json.dumps(session).encode())).decode()
        return TestClient(server, "https://testserver", cookies={"session": cookie})

    def who(name: str, seconds: float = 60) -> dict:
        return {"oauth_info": {"userinfo": {"preferred_username": name}, "expires_at": time.time() + seconds}}

    call = ("/gradio_api/run/whose", {"data": []})
    for stranger in (visitor(), visitor(**who("ann", -1))):
        door = stranger.get("/", headers={"accept-language": "zh"})
        assert 'href="/login/huggingface" target="_blank"' in door.text and "登录" in door.text and "gradio" not in door.text
        assert stranger.post(call[0], json=call[1]).status_code == 401 == stranger.get("/config").status_code
        assert stranger.get("/gradio_api/startup-events").status_code == 200
    ann = visitor(**who("ann"))
    assert ann.get("/config").status_code == 200 and ann.post(call[0], json=call[1]).json()["data"] == ["ann"]
    assert visitor(**who("bob")).post(call[0], json=call[1]).json()["data"] == ["bob"]


# --- ZeroGPU -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def loans(tiny_pipeline, monkeypatch) -> list[float]:
    """The seconds that a ZeroGPU was asked for: a `spaces` package that hands on only what can be pickled, as the real one."""
    seconds: list[float] = []
    line = multiprocessing.SimpleQueue()

    def handed_on(value):
        line.put(value)
        return line.get()

    def lend(duration):
        def decorate(function):
            def call(*values):
                seconds.append(duration(*values))
                for step in function(*handed_on(values)):
                    yield handed_on(step)

            return call

        return decorate

    package = ModuleType("spaces")
    package.__spec__, package.GPU = ModuleSpec("spaces", None), lend
    monkeypatch.setitem(sys.modules, "spaces", package)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setattr(studio.zero_gpu, "_on_gpu", lambda: tiny_pipeline)
    return seconds


def spoken(speak, folder: Path, stop=lambda: False, avatar: str = "tiny", seconds: float = 1.0) -> tuple[np.ndarray, list]:
    progress: list = []
    request = SpeakRequest(write_speech(folder / "speech.wav", seconds), avatar)
    video = speak(request, folder / "video.mp4", progress.append, stop, live=folder / "live.mp4")
    return np.stack([*read_frames(video)]), progress


def test_a_gpu_is_lent_for_as_long_as_the_speech_needs(loans, tiny_pipeline, tmp_path: Path):
    usual, _ = spoken(tiny_pipeline.speak, tmp_path)
    made, progress = spoken(studio.zero_gpu.speaker(lambda: tiny_pipeline), tmp_path, seconds=1.0)
    assert np.array_equal(made, usual) and progress[0].stage == "listening" and progress[-1].done == progress[-1].total == 25
    spoken(studio.zero_gpu.speaker(lambda: tiny_pipeline), tmp_path, seconds=2.0)
    assert loans == [math.ceil(studio.zero_gpu.START_SECONDS + studio.zero_gpu.SECONDS_OF_LOAN * length) for length in (1, 2)]


def test_stop_and_errors_come_through_a_loan(loans, tiny_pipeline, tmp_path: Path):
    speak = studio.zero_gpu.speaker(lambda: tiny_pipeline)
    with pytest.raises(Stopped):
        spoken(speak, tmp_path, stop=lambda: True)
    with pytest.raises(UnusableAvatar, match="There is no avatar 'nobody'"):
        spoken(speak, tmp_path, avatar="nobody")
    assert not list(tmp_path.glob("*.mp4"))


def test_a_speech_that_outlasts_the_longest_loan_is_spoken_without_one(loans, tiny_pipeline, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(studio.zero_gpu, "LONGEST_LOAN", 15)
    made, _ = spoken(studio.zero_gpu.speaker(lambda: tiny_pipeline), tmp_path)
    assert len(made) == 25 and loans == []


@pytest.mark.parametrize("missing", ["package", "variable"])
def test_without_zero_gpu_the_pipeline_speaks_itself(loans, tiny_pipeline, tmp_path: Path, monkeypatch, missing: str):
    if missing == "package":
        monkeypatch.delitem(sys.modules, "spaces")
    else:
        monkeypatch.delenv("SPACES_ZERO_GPU")
    made, _ = spoken(studio.zero_gpu.speaker(lambda: tiny_pipeline), tmp_path)
    assert len(made) == 25 and loans == []
    assert studio.zero_gpu.lent(loans.append, len) == loans.append
