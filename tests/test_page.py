"""The page, used as a newcomer does: in a real browser, with a real speech, a real clip and a real training.

SCREENSHOTS=docs/screenshots keeps pictures of the walk there (only of people whose licence allows it).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from urllib.parse import unquote

import av
import gradio_client
import numpy as np
import pytest
import soundfile
from firefox import FIREFOX, Firefox
from media import REAL, bundled_clip, ffmpeg, real_clip, write_clip

from gmtalker.assets import SPEECH
from gmtalker.avatars.storage import export_avatar, import_avatar
from gmtalker.avatars.workspace import owned_by, workspace
from gmtalker.media.video import read_frames, read_info
from gmtalker.provenance.verification import verify
from gmtalker.request import SpeakRequest
from personalize import jobs
from personalize.consent import Consent
from personalize.request import TrainRequest
from studio.accounts import add_account
from studio.guard import FROM_ELSEWHERE
from studio.programs import PARAMETERS

PROJECT = Path(__file__).resolve().parent.parent
PICTURE = PROJECT / "assets" / "avatars" / "grid-s1" / "poster.jpg"
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # a folder
BROWSER = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
# No look-ups of other hosts: the test holds that the page makes none, and the browser's own would only fail slowly.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", "--mute-audio"]
QUIET += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a camera, and nobody asks for it
SECOND, MINUTE = 1000, 60_000  # milliseconds
TRAINED_MINUTES = "3" if SCREENSHOTS else "0.4"  # a picture of it should show what a training becomes
NAME = "New <b>one</b>"  # of the avatar: no name may become part of the page

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the browser tests need Playwright: pip install -r requirements-dev.txt"
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="the browser tests need Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A workspace of its own; a training that still runs at the end is stopped."""
    with tempfile.TemporaryDirectory(prefix="gmtalker home ") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GMTALKER_HOME", folder)
        yield Path(folder)
        for job in jobs.jobs():
            if job.status in jobs.OPEN:
                jobs.stop(job)


class Server:
    """`python app.py` in a process, that can be ended and started again."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home, self.options = home, options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / "server.log"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py", "--port", str(self.port), *self.options],
                cwd=PROJECT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"GMTALKER_HOME": str(self.home)},
            )
        end = time.time() + 300  # a busy machine takes minutes to import torch
        while time.time() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except OSError:
                time.sleep(0.3)
        raise AssertionError(f"the page did not start: {self.log.read_text()}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    server = Server(home)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, server: Server):
    """The page, freshly opened; at the end, no request may have gone to another host and no script may have failed."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    foreign, broken = [], []
    tab.on("request", lambda request: foreign.append(request.url) if not _is_own(request.url, server.url) else None)
    tab.on("pageerror", lambda error: broken.append(str(error)))
    tab.goto(server.url)
    tab.wait_for_selector("#create")
    yield tab
    tab.close()
    assert (foreign, broken) == ([], [])


def _is_own(url: str, own: str) -> bool:
    return url.startswith((own, "data:", "blob:", own.replace("http", "ws")))


@pytest.fixture(scope="module")
def speech(home: Path) -> Path:
    """The first two seconds of an example, under an awkward name."""
    samples, rate = soundfile.read(PROJECT / "assets" / "speech" / "english.flac")
    path = home / 'what I\'d "say".wav'
    soundfile.write(path, samples[: 2 * rate], rate)
    return path


@pytest.fixture(scope="module")
def clip(home: Path) -> Path:
    """10 seconds of a real person, an unseen speaker; for pictures of the page 20 of GRID's speaker s1 (CC BY 4.0).

    Without the real clips: the bundled avatar's silent footage, repeated, with an example of speech.
    """
    seconds = 20 if SCREENSHOTS else 10
    path = home / f"me, {seconds} seconds.mp4"
    unseen = REAL / "av" / "andrew1.mp4"
    if not SCREENSHOTS and not unseen.exists():
        inputs = ["-stream_loop", 3, "-i", bundled_clip("idle.mp4"), "-stream_loop", 3, "-i", SPEECH]
        ffmpeg(*inputs, "-map", "0:v", "-map", "1:a", "-t", seconds, path)
        return path
    sources = sorted(real_clip("grid_s1/bbaf2n.mp4").parent.glob("*.mp4"))[:7] if SCREENSHOTS else [unseen]
    inputs = [part for source in sources for part in ("-i", source)]
    streams = "".join(f"[{number}:v][{number}:a]" for number in range(len(sources)))
    joined = f"{streams}concat=n={len(sources)}:v=1:a=1[v][a]"
    ffmpeg(*inputs, "-filter_complex", joined, "-map", "[v]", "-map", "[a]", "-t", seconds, path)
    return path


def screenshot(page, name: str) -> None:
    """Keep a picture of the page, when asked for."""
    if SCREENSHOTS:
        (PROJECT / SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.evaluate("window.scrollTo(0, 0)")  # or the stage, which stays in sight, hangs half-way down
        time.sleep(1)  # transitions end
        page.screenshot(path=PROJECT / SCREENSHOTS / f"{name}.png", full_page=True)


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def set_slider(page, elem_id: str, value: float) -> None:
    field = page.locator(f"#{elem_id} input[type=number]")
    field.fill(str(value))
    field.press("Enter")


def field(page, elem_id: str):
    """Where the text of a Textbox is typed."""
    return page.locator(f"#{elem_id} textarea, #{elem_id} input").first


def say_by(page, source: str) -> None:
    """Choose what is said: Type, Voice or Film."""
    page.locator("#source label", has_text=source).click()


def opened(page, elem_id: str) -> None:
    """Open what is folded away, if it is."""
    button = page.locator(f"#{elem_id} button").first
    if "open" not in (button.get_attribute("class") or "").split():
        button.click()


def slider(elem_id: str, value: float) -> str:
    """For page.wait_for_function: whether a slider has a value."""
    return f"Math.abs(document.querySelector('#{elem_id} input[type=number]')?.value - {value}) < 1e-6"


def use_speech(page, path: Path | None = None) -> None:
    """Upload a speech, or choose the first example."""
    say_by(page, "Voice")
    if path is None:
        page.locator("#speech-examples button, #speech-examples td").first.click()
    else:
        page.locator("#speech input[type=file]").set_input_files(path, timeout=MINUTE)
    page.locator("#speech audio, #speech .waveform-container, #speech #waveform").first.wait_for(state="attached", timeout=MINUTE)


def command_shown(page) -> str:
    """The command line that repeats the video."""
    page.locator("#about-video").wait_for(timeout=MINUTE)
    opened(page, "about-video")
    field(page, "command").wait_for(timeout=MINUTE)
    return field(page, "command").input_value()


def changed(page, picture: str, act) -> None:
    """Do something, and wait until a picture is another one."""
    before = page.locator(picture).get_attribute("src")
    act()
    page.wait_for_function(
        "([picture, before]) => document.querySelector(picture).getAttribute('src') !== before",
        arg=[picture, before],
        timeout=MINUTE,
    )


def preview_changes(page, act, address: bool = False) -> bytes | str:
    """Do something and return the preview's picture, or its address, as soon as it is another one."""
    picture = page.locator("#still img")
    picture.wait_for(state="attached", timeout=MINUTE)  # behind a video it is hidden
    before = picture.get_attribute("src")
    act()
    page.wait_for_function(
        "before => document.querySelector('#still img') && document.querySelector('#still img').src !== before",
        arg=page.evaluate("path => new URL(path, document.baseURI).href", before),
        timeout=MINUTE,
    )
    source = page.evaluate("document.querySelector('#still img').src")
    return source if address else page.request.get(source).body()


def created_video(page, folder: Path, minutes: float = 5) -> tuple[int, float]:
    """Press Create, wait for the video, and return its number of frames and its seconds of sound."""
    page.locator("#create").click()
    page.locator("#video video").wait_for(state="visible", timeout=minutes * MINUTE)
    answer = page.request.get(page.locator("#video video").get_attribute("src"))
    assert answer.ok and answer.headers["content-type"] == "video/mp4"
    path = folder / "from the page.mp4"
    path.write_bytes(answer.body())
    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    with av.open(str(path)) as container:
        sound = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    return frames, sound


def training_shown(page, pattern: str, minutes: float = 15) -> None:
    """Wait until the page says something of the training; fail as soon as the training has."""
    end, shown = time.time() + 60 * minutes, page.locator("#training")
    while not re.search(f"{re.escape(NAME)}: .*{pattern}", shown.inner_text()):
        assert time.time() < end, shown.inner_text()
        for job in jobs.jobs():  # none yet, just after the click
            state = f"{job.status}, {job.message}, {Path(job.log).read_text()[-3000:] if Path(job.log).exists() else ''}"
            assert job.name != NAME or job.status not in ("failed", "stopped"), state
        time.sleep(0.2)


def test_a_newcomer_gets_a_happy_video(page, speech: Path, tmp_path: Path):
    screenshot(page, "create")
    assert page.get_by_text("Drop Image Here").count() == 0  # nothing on the page takes a picture before it is asked for
    page.locator("#still img").wait_for(timeout=MINUTE)
    neutral = page.request.get(page.locator("#still img").get_attribute("src")).body()
    happy = preview_changes(page, lambda: set_slider(page, "emotion-happy", 0.8))
    assert happy != neutral
    page.locator("#mixture").get_by_text("20 %").wait_for(timeout=MINUTE)
    use_speech(page, speech)
    frames, sound = created_video(page, tmp_path)
    assert frames == 50 and abs(sound - 2) < 0.1
    page.wait_for_selector("#progress :text('Done')")
    assert "gmtalker speak" in command_shown(page) and "--emotion happy=0.8" in command_shown(page)
    screenshot(page, "created")
    angry = preview_changes(page, page.locator(".pad-face[data-emotion=angry]").click)
    assert angry != happy and not page.locator("#about-video").is_visible()  # its command is another video's
    page.wait_for_function(slider("emotion-angry", 1))
    assert page.locator("#emotion-happy input[type=number]").input_value() == "0"
    preview_changes(page, page.locator(".pad-face[data-emotion=neutral]").click)
    page.locator("#mixture").get_by_text("100 %").wait_for(timeout=MINUTE)


def test_the_point_of_the_pad_is_dragged_and_moved_with_the_keys(page):
    page.locator("#still img").wait_for(timeout=MINUTE)
    box = page.locator(".emotion_pad").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] + 40, middle[1] + 60)
    page.mouse.down()
    page.mouse.move(middle[0] + 0.3 * 0.43 * box["width"], middle[1] - 0.5 * 0.41 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_function(f"{slider('emotion-surprised', 0.55)} || {slider('emotion-surprised', 0.6)}", timeout=MINUTE)
    page.locator(".pad-dot").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    # All three of them: a slider that is set in between would be the pad's again.
    page.wait_for_function("document.querySelector('#emotion-surprised input[type=number]').value <= 0.3", timeout=MINUTE)
    time.sleep(1)
    set_slider(page, "emotion-sad", 0.9)  # and the point follows the sliders
    page.wait_for_function("Number(document.querySelector('.pad-dot').getAttribute('aria-valuenow')) < 0.2", timeout=MINUTE)
    page.keyboard.press("Home")


def test_what_was_set_and_made_is_there_after_the_page_is_opened_anew(page, tmp_path: Path):
    field(page, "text").fill("Hello.")
    set_slider(page, "emotion-sad", 0.35)
    created_video(page, tmp_path)
    made = page.locator("#video-shelf .card-button", has_text="Hello.").first
    made.wait_for(timeout=MINUTE)
    time.sleep(1)  # the browser is told a moment later
    page.reload()
    page.wait_for_function(slider("emotion-sad", 0.35), timeout=MINUTE)
    assert field(page, "text").input_value() == "Hello."
    made.click()
    page.locator("#video video").wait_for(timeout=MINUTE)
    assert "--text Hello." in command_shown(page)
    page.on("dialog", lambda question: question.accept())
    many = page.locator("#video-shelf .card-button").count()
    page.locator("#video-delete").click()
    page.locator("#still img").wait_for(timeout=MINUTE)
    page.wait_for_function(
        "many => document.querySelectorAll('#video-shelf .card-button').length < many", arg=many, timeout=MINUTE
    )


def test_a_film_leads(page, tmp_path: Path):
    say_by(page, "Film")
    taken = tmp_path / "IMG_0001.MOV"  # as a phone has it
    ffmpeg("-i", bundled_clip("preview.mp4"), "-t", 2, "-c:v", "libx265", "-tag:v", "hvc1", "-c:a", "aac", taken)
    page.locator("#film input[type=file]").set_input_files(taken)
    page.locator("#film").get_by_text(re.compile("KB|MB")).first.wait_for(timeout=MINUTE)
    created_video(page, tmp_path)
    assert "gmtalker reenact" in command_shown(page) and "--video IMG_0001.MOV" in command_shown(page)
    page.locator("#keep-emotion input").uncheck()
    page.locator(".pad-face[data-emotion=sad]").click()
    page.wait_for_function(slider("emotion-sad", 1), timeout=MINUTE)
    page.locator("#video video").wait_for(state="hidden", timeout=MINUTE)
    created_video(page, tmp_path)
    assert "--emotion sad=1" in command_shown(page)


def test_many_videos_are_made_of_a_table(page, speech: Path, tmp_path: Path):
    table = tmp_path / "many.csv"
    rows = ["name,text,speech", "typed,Hello.,", f'said,,"{speech.name.replace(chr(34), chr(34) * 2)}"', "wrong,,/etc/passwd"]
    table.write_text("\n".join(rows) + "\n")
    opened(page, "many")
    page.locator("#many-make").click()
    page.get_by_text("Add one table").first.wait_for(timeout=MINUTE)
    page.locator("#many-files input[type=file]").set_input_files([table, speech])
    page.locator("#many-files .file-preview tr").nth(1).wait_for(timeout=MINUTE)  # both are there
    page.locator("#many-make").click()
    page.locator("#many-result a").first.wait_for(timeout=5 * MINUTE)
    assert "2 of 3 made" in page.locator("#many-progress").inner_text()
    assert "There is no file passwd beside the table" in page.locator("#many-progress").inner_text()
    with page.expect_download() as download:
        page.locator("#many-result a").first.click()
    download.value.save_as(tmp_path / "many.zip")
    with zipfile.ZipFile(tmp_path / "many.zip") as archive:
        assert sorted(archive.namelist()) == ["failed.csv", "said.mp4", "typed.mp4"]
        (tmp_path / "typed.mp4").write_bytes(archive.read("typed.mp4"))
    assert verify(tmp_path / "typed.mp4").credentials == "valid"
    page.locator("#video-shelf .card-button", has_text="Hello.").first.wait_for(timeout=MINUTE)


NAMES = (
    "-speech.ogg",
    "100%20 sure %s #1 ?x=1&y=2.ogg",
    'it\'s "quoted"; `touch x` $(touch y).ogg',
    "new\nline.ogg",
    "长" * 80 + ".ogg",
)


@pytest.mark.parametrize("name", [*NAMES, "NO_EXTENSION", "a film.mp4"])
def test_a_speech_of_any_name_is_spoken_and_named_in_the_command(page, tmp_path: Path, name: str):
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / name
    ffmpeg("-i", bundled_clip("preview.mp4"), "-t", 0.5, tmp_path / "sound.ogg")
    path.write_bytes((bundled_clip("preview.mp4") if name.endswith(".mp4") else tmp_path / "sound.ogg").read_bytes())
    if name.endswith(".ogg"):
        use_speech(page, path)
    else:  # the player of sound does not take it
        say_by(page, "Voice")
        with page.expect_file_chooser() as chooser:
            page.locator("#speech-other").click()
        chooser.value.set_files(path)
        page.locator("#speech .waveform-container, #speech #waveform").first.wait_for(state="attached", timeout=MINUTE)
    created_video(page, tmp_path)
    words = command_shown(page).split("speak ", 1)[1]
    printed = subprocess.run(["sh", "-c", f'printf "%s\\n" {words}'], capture_output=True, text=True, cwd=path.parent)
    assert name in printed.stdout and [file.name for file in path.parent.iterdir()] == [name]


def test_a_video_of_the_visit_comes_back_with_its_settings(page, speech: Path, tmp_path: Path):
    use_speech(page, speech)
    opened(page, "movement")
    set_slider(page, "emotion-sad", 0.6)
    set_slider(page, "amount-head", 0.5)
    created_video(page, tmp_path)
    chosen = "document.querySelector('#video-shelf [aria-checked=true]')?.dataset.id"
    page.wait_for_function(chosen, timeout=MINUTE)
    first = page.evaluate(chosen)
    assert "sad 0.6" in page.locator(f"#video-shelf [data-id='{first}']").inner_text()
    page.locator("#reset").click()
    page.wait_for_function("document.querySelector('#emotion-sad input[type=number]').value == 0")
    page.locator("#lock input").uncheck()
    created_video(page, tmp_path)
    page.wait_for_function(f"first => {chosen} !== first && {chosen}", arg=first, timeout=MINUTE)
    assert page.locator("#seed input").input_value() != "0"  # a new one, as it is not locked
    page.locator(f"#video-shelf [data-id='{first}']").click()
    page.wait_for_function("document.querySelector('#emotion-sad input[type=number]').value == 0.6", timeout=MINUTE)
    page.wait_for_function("document.querySelector('#amount-head input[type=number]').value == 0.5")
    page.wait_for_function("document.querySelector('#seed input').value == 0")


def add_key(page, second: float, act) -> None:
    """Add a keyframe at a second, once the sliders are set."""
    act()
    field(page, "key-time").fill(str(second))
    field(page, "key-time").press("Enter")
    page.locator("#key-add").click()


def drag_key(page, before: float, after: float, seconds: float) -> None:
    """Drag a keyframe in the curves over so many seconds from one time to another."""
    page.locator("#curves img").scroll_into_view_if_needed()
    box = page.locator("#curves img").bounding_box()
    start, end = (box["x"] + box["width"] * (0.05 + 0.93 * second / seconds) for second in (before, after))
    page.mouse.move(start, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(end, box["y"] + 40, steps=3)
    page.mouse.up()


def test_emotion_changes_over_time(page, speech: Path, tmp_path: Path):
    use_speech(page, speech)
    page.locator("#timeline button").first.click()
    add_key(page, 0, lambda: set_slider(page, "emotion-happy", 0.8))
    page.locator("#curves img").wait_for(timeout=MINUTE)
    page.locator(".pad-face[data-emotion=angry]").click()
    page.wait_for_function(slider("emotion-angry", 1))
    changed(page, "#curves img", lambda: add_key(page, 1.5, lambda: None))
    screenshot(page, "timeline")
    changed(page, "#curves img", lambda: drag_key(page, 1.5, 1.2, seconds=2.0))
    page.wait_for_function("Math.abs(document.querySelector('#key-time input').value - 1.2) < 0.11", timeout=MINUTE)
    frames, _ = created_video(page, tmp_path)
    command = command_shown(page)
    assert frames == 50 and "--timeline" in command and "--emotion" not in command
    assert '"time": 1.2' in command  # where the key was dragged to
    page.locator("#reset").click()
    page.locator("#curves img").wait_for(state="hidden", timeout=MINUTE)


def test_a_script_with_tags_becomes_keyframes(page, speech: Path):
    page.locator("#timeline button").first.click()
    field(page, "script").fill("[sad] It rains. [happy 0.6] Now it is over!")
    page.locator("#script-apply").click()
    page.get_by_text("Choose a voice first").first.wait_for(timeout=MINUTE)
    use_speech(page, speech)
    page.locator("#script-apply").click()
    page.locator("#curves img").wait_for(timeout=MINUTE)


def test_a_voice_becomes_keyframes(page):
    page.locator("#timeline button").first.click()
    page.locator("#listen").click()
    page.get_by_text("Choose a voice first: its emotions").first.wait_for(timeout=MINUTE)
    use_speech(page, SPEECH)
    page.locator("#listen").click()
    page.locator("#curves img").wait_for(timeout=MINUTE)
    screenshot(page, "listened")
    page.locator("#reset").click()


def test_three_takes_are_compared(page, speech: Path):
    use_speech(page, speech)
    page.locator("#takes").click()
    page.locator("#takes-video video").wait_for(state="visible", timeout=5 * MINUTE)
    page.locator("#take-2").get_by_text("Use take 2").wait_for(timeout=MINUTE)
    screenshot(page, "takes")
    assert page.locator("#takes-video video").bounding_box()["width"] > 1000  # large enough to tell one from another
    opened(page, "movement")
    page.locator("#take-2").click()
    page.wait_for_function("document.querySelector('#seed input').value == 1")
    page.locator("#takes-group").wait_for(state="hidden", timeout=MINUTE)
    page.locator("#reset").click()
    page.wait_for_function("document.querySelector('#seed input').value == 0")


def test_a_video_can_be_watched_while_it_is_made(page):
    use_speech(page)
    page.locator("#create").click()
    page.locator("#live video").wait_for(state="attached", timeout=MINUTE)
    page.wait_for_function("document.querySelector('#live video').currentTime > 0", timeout=MINUTE)
    assert not page.locator("#video video").is_visible()  # it plays before the whole is there
    page.locator("#stop").click()
    page.locator("#progress").get_by_text("Stopped").wait_for(timeout=MINUTE)
    assert not page.locator("#video video").is_visible()
    page.locator("#create:not([disabled])").wait_for(timeout=MINUTE)


@pytest.mark.parametrize("language,expected", [("zh-CN", "生成视频"), ("en-GB", "Create the video")])
def test_the_page_speaks_the_language_of_the_browser(browser, server: Server, language: str, expected: str):
    context = browser.new_context(locale=language)
    tab = context.new_page()
    tab.goto(server.url)
    tab.locator("#create").get_by_text(expected).wait_for(timeout=MINUTE)
    tab.locator("#create").click()
    tab.get_by_text("请先输入要说的文字" if language == "zh-CN" else "Type what is said first").first.wait_for(timeout=MINUTE)
    context.close()


def test_the_page_is_readable_in_the_dark(browser, server: Server):
    tab = browser.new_context(color_scheme="dark").new_page()
    tab.goto(f"{server.url}/?__theme=dark")
    tab.locator("#still img").wait_for(timeout=MINUTE)
    light = "getComputedStyle(document.querySelector('{0}')).{1}.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    places = (("#heading h1", "color"), ("body", "backgroundColor"))
    words, ground = (np.array(tab.evaluate(light.format(*place))) @ [0.299, 0.587, 0.114] for place in places)
    assert words - ground > 100
    screenshot(tab, "dark")
    tab.context.close()


def test_nothing_is_cut_off_on_a_phone(browser, server: Server):
    context = browser.new_context(viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True, has_touch=True)
    tab = context.new_page()
    tab.goto(server.url)
    tab.locator("#still img").wait_for(timeout=MINUTE)
    for number, name in enumerate(("create", "personalize", "avatars", "check")):
        tab.get_by_role("tab").nth(number).click()
        time.sleep(0.5)
        # Against the screen: a phone's browser widens the window to a page that is too wide.
        assert tab.evaluate("document.documentElement.scrollWidth") <= 391, name
        screenshot(tab, f"phone-{name}")
    context.close()


def test_a_server_that_ends_is_told_and_the_page_is_opened_again(browser, home: Path):
    other = Server(home)
    other.start()
    tab = browser.new_page()
    try:
        tab.goto(other.url)
        tab.locator("#still img").wait_for(timeout=MINUTE)
        other.process.kill()
        other.process.wait()
        tab.locator("#studio-gone").get_by_text("does not answer").wait_for(timeout=MINUTE)
        other.start()
        tab.locator("#studio-gone").get_by_text("started anew").wait_for(timeout=MINUTE)
        tab.get_by_role("button", name="Open the page again").click()
        tab.locator("#still img").wait_for(timeout=2 * MINUTE)
        assert tab.locator("#studio-gone").is_hidden()
    finally:
        tab.close()
        other.stop()


def test_the_first_video_comes_soon(browser, server: Server):
    """What somebody who opens the page waits for; the figures themselves are measured on a quiet machine (pytest -s)."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    began = time.time()
    tab.goto(server.url)
    tab.locator("#still img").wait_for(timeout=MINUTE)
    usable = time.time() - began
    use_speech(tab)
    pressed = time.time()
    tab.keyboard.press("Control+Enter")
    tab.wait_for_function("document.querySelector('#progress').innerText.trim() !== ''", timeout=MINUTE)
    sign = time.time() - pressed
    tab.locator("#video video").wait_for(state="visible", timeout=5 * MINUTE)
    first = time.time() - began
    tab.close()
    print(f"page with a preview {usable:.1f} s, sign of life {sign:.1f} s, video of 9.55 s of speech {first:.1f} s after opening")
    assert usable < 30 and sign < 15 and first < 300


def choose(page, elem_id: str, option: str) -> None:
    """An option of a Dropdown."""
    page.locator(f"#{elem_id} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def test_a_sentence_becomes_a_captioned_film_within_a_minute(browser, server: Server, tmp_path: Path):
    """Typed, upright, a picture behind; how long it takes from opening is measured on a quiet machine (pytest -s)."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    began = time.time()
    tab.goto(server.url)
    tab.locator("#still img").wait_for(timeout=MINUTE)
    field(tab, "text").fill("[happy 0.8] Good morning! What a lovely day.")
    tab.locator("#output button").first.click()
    choose(tab, "canvas", "9:16")
    choose(tab, "background", "Your picture or video")
    tab.locator("#background-file input[type=file]").set_input_files(PICTURE)
    choose(tab, "captions", "Lines")
    tab.locator("#background-file").get_by_text("poster").first.wait_for(timeout=MINUTE)
    screenshot(tab, "typed")
    tab.locator("#create").click()
    tab.locator("#video video").wait_for(state="visible", timeout=5 * MINUTE)
    seconds = time.time() - began
    path = tmp_path / "film.mp4"
    path.write_bytes(tab.request.get(tab.locator("#video video").get_attribute("src")).body())
    info, found, command = read_info(path), verify(path), command_shown(tab)
    screenshot(tab, "typed-and-made")
    print(f"from opening to a captioned film of {info.seconds:.1f} s, 9:16, before a picture: {seconds:.1f} s")
    assert (info.width, info.height) == (720, 1280) and 2 < info.seconds < 5 and seconds < 300
    assert found.marked and found.sound_marked and found.credentials == "valid"
    assert all(words in command for words in ("--text", "--captions=spoken", "--canvas=9:16", "--background=poster.jpg"))
    tab.close()


def test_what_no_browser_plays_is_a_file_and_what_contradicts_itself_is_told(page):
    field(page, "text").fill("Hello.")
    page.locator("#output button").first.click()
    choose(page, "background", "White")
    choose(page, "format", "WebM, transparent")
    page.locator("#create").click()
    page.locator("#progress, .toast-wrap").get_by_text("transparent background").first.wait_for(timeout=MINUTE)
    choose(page, "background", "As filmed")
    created = page.locator("#create:not([disabled])")
    created.click()
    page.wait_for_function("document.querySelector('#video video')?.src.includes('.webm')", timeout=5 * MINUTE)
    choose(page, "format", "ProRes 4444, transparent")
    created.click()
    page.locator("#finished-file a").first.wait_for(timeout=5 * MINUTE)
    assert "mov" in page.locator("#finished-file").inner_text() and not page.locator("#video video").is_visible()


def test_the_preview_follows_the_sliders_within_a_second(page):
    page.locator("#still img").wait_for(timeout=MINUTE)
    times = []

    def move(value: float) -> None:
        set_slider(page, "emotion-surprised", value)
        times.append(time.time())

    for number in range(20):
        preview_changes(page, partial(move, round(0.05 + 0.045 * number, 3)))
        times[-1] = time.time() - times[-1]
    print(f"from slider to preview: median {np.median(times):.2f} s, longest {max(times):.2f} s")
    assert np.median(times) < 5, times  # the figure itself is measured by hand on a quiet machine


def test_what_can_not_be_used_is_said_in_a_sentence(page, tmp_path: Path):
    say_by(page, "Voice")
    page.locator("#create").click()
    page.get_by_text("Choose a voice first").wait_for(timeout=MINUTE)
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(16000), 16000)
    use_speech(page, silence)
    page.locator("#create").click()
    page.locator("#progress").get_by_text(re.compile("sound|silen", re.IGNORECASE)).wait_for(timeout=MINUTE)
    assert "Traceback" not in page.locator("body").inner_text()


def test_a_film_of_the_webcam_is_a_clip(browser, server: Server):
    context = browser.new_context(permissions=["camera", "microphone"])
    tab = context.new_page()
    tab.goto(server.url)
    agree(tab)
    tab.locator("#webcam-group button").first.click()
    for seconds in (2, 3, 0):  # the camera, the film's begin, its end
        tab.locator("#webcam").get_by_role("button").first.click(timeout=MINUTE)
        time.sleep(seconds)
    tab.locator("#clips").get_by_text(re.compile("KB|MB")).first.wait_for(timeout=MINUTE)
    tab.locator("#clip-emotions label", has_text=re.compile("webm|mp4")).first.wait_for(timeout=MINUTE)
    tab.locator("#clip-emotions select").select_option("happy")
    context.close()


def test_nobody_is_trained_without_consent(page, home: Path):
    open_tab(page, "Personalize")
    page.locator("#consent-next").click()
    page.get_by_text("tick the box first").wait_for(timeout=MINUTE)
    assert page.get_by_role("tab", name="Clips").is_disabled() and page.get_by_role("tab", name="Train").is_disabled()
    assert not page.locator("#train").is_visible() and jobs.jobs() == []


def test_a_film_of_the_webcam_leads(browser, server: Server):
    context = browser.new_context(permissions=["camera", "microphone"])
    tab = context.new_page()
    tab.goto(server.url)
    say_by(tab, "Film")
    opened(tab, "film-webcam-group")
    for seconds in (2, 3, 0):  # the camera, the film's begin, its end
        tab.locator("#film-webcam").get_by_role("button").first.click(timeout=MINUTE)
        time.sleep(seconds)
    tab.locator("#film").get_by_text(re.compile("KB|MB")).first.wait_for(timeout=MINUTE)
    tab.locator("#create").click()
    tab.locator("#progress").get_by_text("face").first.wait_for(timeout=MINUTE)  # this camera shows none, and that is said
    context.close()


def test_a_slider_is_one_stop_of_the_tab_key(page):
    page.locator("#still img").wait_for(timeout=MINUTE)
    page.locator(".pad-dot").focus()
    stops = []
    for _ in range(8):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert len(set(stops)) == 8 and all("slider" in stop for stop in stops)


def agree(page) -> None:
    """The first step: consent."""
    open_tab(page, "Personalize")
    field(page, "who").fill("A newcomer")
    page.locator("#consent input").check()
    page.locator("#consent-next").click()
    page.locator("#clips").wait_for(timeout=MINUTE)


def check_clip(page, clip: Path | list[Path]) -> None:
    """Consent, upload a clip or several, and have them checked."""
    agree(page)
    page.locator("#clips input[type=file]").set_input_files(clip)
    page.locator("#clips").get_by_text(re.compile("KB|MB")).first.wait_for(timeout=MINUTE)
    page.locator("#check").click()
    page.locator("#report").get_by_text("Ready to train").wait_for(timeout=2 * MINUTE)
    screenshot(page, "checked")


def start_training(page) -> None:
    page.locator("#clips-next").click()
    opened(page, "minutes-group")
    field(page, "avatar-name").fill(NAME)
    page.locator("#preset input[value=draft]").check()
    page.locator("#minutes input").fill(TRAINED_MINUTES)
    page.locator("#train").click()
    training_shown(page, r"\d+ %")


def restart_server(page, server: Server) -> None:
    """The training outlives its server, and a new page shows it again."""
    server.stop()
    assert jobs.find(NAME).status == "running"
    server.start()
    page.goto(server.url)
    open_tab(page, "Personalize")
    training_shown(page, r"\d+ %")  # at the last step, where it is


def watch_training(page) -> None:
    """Until it ends; on the way truth beside drawing, of footage it never saw, also when asked for."""
    training_shown(page, r" left")
    page.locator("#training-strip img").wait_for(timeout=6 * MINUTE)
    changed(page, "#training-strip img", page.locator("#sample").click)
    page.locator("#training-curve img").wait_for()
    screenshot(page, "training")
    training_shown(page, "The avatar is ready")


def use_new_avatar(page, speech: Path, folder: Path) -> None:
    page.locator("#create-with-it").click(timeout=MINUTE)
    use_speech(page, speech)
    assert page.locator("#avatar-cards [aria-checked=true]").get_attribute("data-id") == NAME
    set_slider(page, "emotion-happy", 0.8)
    frames, sound = created_video(page, folder)
    assert frames == 50 and abs(sound - 2) < 0.1
    screenshot(page, "created-with-it")


def rename_and_export(page, folder: Path) -> Path:
    """Returns: the exported file."""
    open_tab(page, "Avatars")
    page.locator("#shelf .card-button").last.click()
    page.locator("#details").get_by_text("A newcomer").wait_for(timeout=MINUTE)
    field(page, "new-name").fill("Renamed")
    page.locator("#rename").click()
    page.locator("#shelf").get_by_text("Renamed").wait_for(timeout=MINUTE)
    screenshot(page, "avatars")
    page.locator("#export").click()
    page.locator("#exported a").first.wait_for(timeout=MINUTE)
    with page.expect_download() as download:
        page.locator("#exported a").first.click()
    download.value.save_as(folder / "renamed.zip")
    return folder / "renamed.zip"


def import_avatar_file(page, exported: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#import").click()
    chooser.value.set_files(exported)
    page.locator("#shelf").get_by_text("Renamed").wait_for(timeout=MINUTE)


def delete_chosen_avatar(page) -> None:
    page.locator("#delete").click()
    page.locator("#confirm-delete").click()
    page.locator("#nobody").wait_for(timeout=MINUTE)


def test_of_several_rooms_one_is_chosen(page, home: Path, tmp_path: Path):
    """The look is asked for once, that of most film is chosen before, and the answer reaches the trainer."""
    dim = write_clip(tmp_path / "evening.mp4", [frame // 2 for frame in read_frames(bundled_clip("idle.mp4"))][:80])
    check_clip(page, [bundled_clip("preview.mp4"), dim])
    look = page.locator("#look")
    assert look.get_by_label("preview.mp4").is_checked()
    screenshot(page, "looks")
    look.get_by_label("evening.mp4").check()
    start_training(page)
    job = jobs.find(NAME)
    assert Path(job.look).name.endswith("evening.mp4") and job.look in job.clips and job.size == 0
    page.locator("#stop-training").click()
    page.locator("#resume-training").wait_for(timeout=MINUTE)
    jobs.forget(jobs.get(job.id))


def test_a_newcomer_makes_an_avatar_and_speaks_with_it(
    page, server: Server, home: Path, speech: Path, clip: Path, tmp_path: Path
):
    check_clip(page, clip)
    start_training(page)
    restart_server(page, server)
    watch_training(page)
    use_new_avatar(page, speech, tmp_path)
    exported = rename_and_export(page, tmp_path)
    delete_chosen_avatar(page)
    assert not any((workspace() / "avatars").iterdir()) and jobs.jobs() == []
    import_avatar_file(page, exported)
    delete_chosen_avatar(page)
    assert not list(home.glob("uploads/*")) and not list(home.glob("training/*"))


def test_the_bundled_avatar_can_not_be_deleted(page):
    open_tab(page, "Avatars")
    page.locator("#shelf .card-button").first.click()
    page.wait_for_function("document.querySelector('#shelf video').currentTime > 0", timeout=MINUTE)  # it plays
    page.locator("#details").get_by_text("✓ good").first.wait_for(timeout=MINUTE)
    page.locator("#details").get_by_text("(bundled)").wait_for(timeout=MINUTE)
    assert not page.locator("#delete").is_visible()


def test_only_speaking_is_a_public_endpoint(page, server: Server):
    answer = page.request.get(f"{server.url}/gradio_api/info").json()
    assert sorted(answer["named_endpoints"]) == ["/avatars", "/speak"] and answer["unnamed_endpoints"] == {}
    speak = answer["named_endpoints"]["/speak"]
    parameters = {each["parameter_name"]: each for each in speak["parameters"]}
    assert list(parameters) == list(PARAMETERS) and all(each["parameter_has_default"] for each in parameters.values())
    assert [each["label"] for each in speak["returns"]] == ["video", "seconds", "seed", "request"]
    fields = {field.name: field.default for field in dataclasses.fields(SpeakRequest)}
    for name in ("intensity", "head", "blink", "gaze", "motion", "seed", "full_frame", "label"):
        assert parameters[name]["parameter_default"] == fields[name]


def test_agents_are_offered_typed_and_described_tools(page, server: Server):
    tools = {tool["name"]: tool for tool in page.request.get(f"{server.url}/gradio_api/mcp/schema").json()}
    assert sorted(tools) == ["avatars", "speak"] and "required" not in tools["speak"]["inputSchema"]
    asked = tools["speak"]["inputSchema"]["properties"]
    assert list(asked) == list(PARAMETERS) and all(each["description"] for each in asked.values())
    assert all({"type", "enum"} & set(each) and each.get("enum") != [] for each in asked.values())


def test_an_agent_speaks(server: Server):
    """Through the MCP client itself: the tools are listed, an avatar is found by its name, and a video comes back."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk() -> tuple[str, str, str]:
        async with (
            streamablehttp_client(f"{server.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            names = await session.call_tool("avatars", {})
            said = {"text": "[happy] Hello.", "avatar": "GRID s1", "emotion": {"sad": 0.2}, "timeline": [], "format": "gif"}
            made = await session.call_tool("speak", said | {"canvas": "100x100", "background": "white"})
            wrong = await session.call_tool("speak", {"text": "Hello.", "avatar": "nobody"})
            assert not made.isError and wrong.isError
            return tuple(" ".join(str(part) for part in answer.content) for answer in (names, made, wrong))

    with ThreadPoolExecutor(1) as thread:  # the browser's own loop runs in this one
        names, made, wrong = thread.submit(lambda: asyncio.run(talk())).result(3 * MINUTE / 1000)
    assert "GRID s1" in names and ".gif" in made and "Choose an avatar first" in wrong
    assert "/tmp" not in wrong


def test_a_client_names_what_it_asks_for(server: Server, speech: Path):
    client = gradio_client.Client(server.url, verbose=False)
    assert client.predict(api_name="/avatars") == ["GRID s1"]
    said = {"avatar": "GRID s1", "speech": gradio_client.handle_file(speech), "emotion": {"happy": 0.5}, "seed": 3}
    video, seconds, seed, request = client.predict(**said, api_name="/speak")
    assert round(25 * read_info(Path(video)).seconds) == 50 and seconds == pytest.approx(2, abs=0.1) and seed == 3
    assert request["emotion"]["happy"] == 0.5 and request["avatar"] == "GRID s1" and "/" not in request["speech"]
    typed = {"text": "Hello there.", "captions": True, "canvas": "160x200", "background_file": gradio_client.handle_file(PICTURE)}
    video, seconds, _, request = client.predict(**typed, api_name="/speak")
    assert (read_info(Path(video)).width, request["output"]["captions"]) == (160, "spoken")
    assert seconds == pytest.approx(read_info(Path(video)).seconds, abs=0.05)
    for wrong, sentence in (
        ({"avatar": "nobody"}, "Choose an avatar first"),
        ({"emotion": {"joy": 1.0}}, "emotion is"),
        ({"format": "mpeg"}, "format must be one of"),
        ({"background": "/etc/passwd"}, "background"),
        ({"text": "Both."}, "only one of them"),
    ):
        with pytest.raises(gradio_client.exceptions.AppError, match=sentence):
            client.predict(**said | wrong, api_name="/speak")


def test_a_killed_trainer_is_seen_and_resumed(page, home: Path, clip: Path):
    job = jobs.start(TrainRequest("Killed", [clip], Consent.given_now("A newcomer"), minutes=1.0))
    try:
        open_tab(page, "Personalize")
        page.locator("#to-progress").click()
        page.locator("#training").get_by_text(re.compile(r"Killed: .*\d+ %")).wait_for(timeout=2 * MINUTE)
        while jobs.get(job.id).stage not in ("training the head", "learning the speaking style"):
            time.sleep(0.2)
        os.kill(jobs.get(job.id).pid, signal.SIGKILL)
        began = time.time()
        page.locator("#training .failed").get_by_text("stopped unexpectedly").wait_for(timeout=MINUTE)
        assert time.time() - began < 10 + 2
        page.locator("#resume-training").click()
        page.locator("#training").get_by_text(re.compile(r"Killed: .*\d+ %")).wait_for(timeout=2 * MINUTE)
    finally:
        jobs.stop(jobs.get(job.id))
        jobs.delete("Killed")


# --- Two people on one page ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """A page that asks for a name and a password. people: its workspaces; tabs: of Ann's browser and of Bob's."""

    server: Server
    people: Path
    tabs: dict

    def speak(self, name: str, avatar: str, speech: dict):
        """The answer to a request to the public endpoint."""
        given = {"avatar": avatar, "speech": speech}
        values = [given.get(name, default) for name, (_, default, _) in PARAMETERS.items()]
        return self.tabs[name].request.post(f"{self.server.url}/gradio_api/call/speak", data={"data": values})


def add_people(home: Path) -> None:
    """Ann, who has an avatar and a training, and Bob, who has nothing."""
    subprocess.run(
        [sys.executable, "app.py", "--add-user", "ann"],
        input="secret of ann\n",
        text=True,
        check=True,
        cwd=PROJECT,
        env=os.environ | {"GMTALKER_HOME": str(home)},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GMTALKER_HOME", str(home))
        add_account("bob", "secret of bob")
        with owned_by("ann"):
            import_avatar(export_avatar(None, home / "a.zip"), "Ann's own")
            jobs.create(TrainRequest("Ann's training", [bundled_clip("idle.mp4")], Consent.given_now("ann")), here=True)


def sign_in(browser, server: Server, name: str):
    """A browser of somebody's own, in which they have signed in."""
    tab = browser.new_context().new_page()
    tab.goto(server.url)
    tab.locator("input").nth(0).fill(name)
    tab.locator("input[type=password]").fill(f"secret of {name}")
    tab.get_by_role("button", name="Login").click()
    tab.locator("#create").wait_for(timeout=MINUTE)
    tab.locator("#terms-accept").click()
    tab.locator("#terms").wait_for(state="hidden", timeout=MINUTE)
    return tab


@pytest.fixture(scope="module")
def shared(browser) -> Iterator[Shared]:
    with tempfile.TemporaryDirectory(prefix="gmtalker home of two ") as folder:
        home = Path(folder)
        add_people(home)
        server = Server(home, "--auth")
        try:
            server.start()
            yield Shared(server, home, {name: sign_in(browser, server, name) for name in ("ann", "bob")})
        finally:
            server.stop()


def test_nobody_finds_the_avatars_and_trainings_of_others(shared: Shared):
    ann, bob = shared.tabs["ann"], shared.tabs["bob"]
    ann.locator("#avatar-cards").get_by_text("Ann's own").wait_for(timeout=MINUTE)
    bob.locator("#avatar-cards .card-button").first.wait_for(timeout=MINUTE)
    assert "Ann's own" not in bob.locator("body").inner_text()
    open_tab(ann, "Personalize")
    ann.locator("#training").get_by_text("Ann's training").wait_for(timeout=MINUTE)
    open_tab(bob, "Personalize")
    bob.locator("#to-progress").click()
    bob.locator("#training").get_by_text("No training yet").wait_for(timeout=MINUTE)
    assert (shared.people / "people" / "ann" / "avatars").is_dir() and not (shared.people / "avatars").exists()


def test_the_terms_are_accepted_once_and_bind_programs_too(shared: Shared):
    speech = {"path": str(PROJECT / "assets/speech/english.flac"), "meta": {"_type": "gradio.FileData"}}
    accepted = shared.people / "people" / "bob" / "terms.json"
    kept = accepted.read_text()
    accepted.unlink()
    event = shared.speak("bob", "GRID s1", speech).json()
    address = f"{shared.server.url}/gradio_api/call/speak/{event['event_id']}"
    assert "accept the terms" in shared.tabs["bob"].request.get(address, timeout=3 * MINUTE).text()
    shared.tabs["bob"].reload()
    shared.tabs["bob"].locator("#terms-accept").wait_for(timeout=MINUTE)
    accepted.write_text(kept)
    shared.tabs["bob"].reload()
    shared.tabs["bob"].locator("#create").wait_for(timeout=MINUTE)
    assert not shared.tabs["bob"].locator("#terms-accept").is_visible()


def test_anybody_checks_a_video_without_signing_in(shared: Shared, browser):
    video = {"name": "x.mp4", "mimeType": "video/mp4", "buffer": (PROJECT / "assets/avatars/grid-s1/preview.mp4").read_bytes()}
    answer = browser.new_context().request.post(f"{shared.server.url}/check", multipart={"file": video}, timeout=MINUTE)
    assert answer.ok and answer.json()["verdict"] == "ours"


def test_nobody_is_served_the_files_of_others(shared: Shared, browser):
    ann, bob = shared.tabs["ann"], shared.tabs["bob"]
    for tab in (ann, bob):
        open_tab(tab, "Create")
        tab.locator("#still img").wait_for(timeout=MINUTE)
    assert bob.request.get(bob.evaluate("document.querySelector('#still img').src")).ok  # the same face, as ann has it
    ann.locator("#avatar-cards").get_by_text("Ann's own").click()
    ann.locator("#avatar-cards [aria-checked=true]").get_by_text("Ann's own").wait_for(timeout=MINUTE)
    address = preview_changes(ann, lambda: set_slider(ann, "emotion-happy", 0.77), address=True)
    twisted = address.replace("file=/", "file=//")
    assert ann.request.get(address).ok and bob.request.get(address).status == 403 == bob.request.get(twisted).status
    assert browser.new_context().request.get(address).status == 401
    film = (
        f"{shared.server.url}/{ann.locator('#avatar-cards video').last.evaluate('film => new URL(film.src).pathname.slice(1)')}"
    )
    assert ann.request.get(film).headers["content-type"] == "video/mp4" and bob.request.get(film).status == 404
    assert browser.new_context().request.get(film).status == 401
    picture = {"path": unquote(address.split("file=")[1]), "meta": {"_type": "gradio.FileData"}}
    assert shared.speak("bob", "GRID s1", picture).status == 403


def test_nobody_speaks_with_the_avatars_of_others(shared: Shared):
    hers = next((shared.people / "people" / "ann" / "avatars").iterdir())
    speech = {"path": str(PROJECT / "assets/speech/english.flac"), "meta": {"_type": "gradio.FileData"}}
    for name, avatar, allowed in (("bob", str(hers), False), ("bob", "Ann's own", False), ("ann", "Ann's own", True)):
        event = shared.speak(name, avatar, speech).json()
        address = f"{shared.server.url}/gradio_api/call/speak/{event['event_id']}"
        answer = shared.tabs[name].request.get(address, timeout=3 * MINUTE).text()
        assert ("event: complete" in answer and ".mp4" in answer) == allowed and ("event: error" in answer) != allowed


# --- Another website in the same browser ---------------------------------------------------------------------------------------

# What a website does with the cookies of whoever looks at it; it tells as text what it could read.
ATTACK = """
(async () => {
  const [target, address] = [%r, %r], read = {};
  const ways = {config: '/config', info: '/gradio_api/info', page: '/', file: address, user: '/gradio_api/user'};
  for (const [name, way] of Object.entries(ways)) {
    try {
      const answer = await fetch(target + way, {credentials: 'include'});
      read[name] = answer.status + (await answer.text()).slice(0, 40);
    } catch { read[name] = ''; }
  }
  const form = new FormData();
  form.append('files', new Blob(['planted by a website']), 'planted.txt');
  const planting = {method: 'POST', mode: 'no-cors', credentials: 'include', body: form};
  await fetch(target + '/gradio_api/upload', planting).catch(() => 0);
  await new Promise((seen) => {
    const picture = new Image();
    picture.onload = () => { read.picture = picture.width; seen(); };
    picture.onerror = () => { read.picture = ''; seen(); };
    picture.src = target + address;
  });
  await new Promise((seen) => {
    const frame = document.createElement('iframe');
    frame.onload = seen;
    frame.src = target + '/';
    document.body.append(frame);
    setTimeout(seen, 5000);
  });
  return JSON.stringify(read);
})()
"""


@pytest.fixture
def website() -> Iterator[str]:
    """Another website on this machine: of another origin, and to a browser another site than 127.0.0.1."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>another website</title><body>")

        def log_message(self, *values: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://localhost:{site.server_port}"
        site.shutdown()


def check_attack(shared: Shared, read: str, frames: list[str]) -> None:
    """Nothing was read, shown or planted."""
    assert set(json.loads(read)) == {"config", "info", "page", "file", "user", "picture"}
    assert all(not value or f"403{FROM_ELSEWHERE}".startswith(str(value)) for value in json.loads(read).values()), read
    assert not any(frame.startswith(shared.server.url) for frame in frames), frames
    assert not [path for path in shared.people.rglob("planted*")]


def test_another_website_gets_nothing_from_chromium(shared: Shared, website: str):
    tab = shared.tabs["ann"]
    open_tab(tab, "Create")
    picture = tab.locator("#still img").evaluate("image => image.src").removeprefix(shared.server.url)
    assert tab.request.get(shared.server.url + picture).ok
    evil = tab.context.new_page()
    evil.goto(website)
    check_attack(shared, evil.evaluate(ATTACK % (shared.server.url, picture)), [frame.url for frame in evil.frames[1:]])


@pytest.mark.skipif(FIREFOX is None, reason="needs Firefox: apt-get install firefox-esr")
def test_another_website_gets_nothing_from_firefox(shared: Shared, website: str, tmp_path: Path):
    firefox = Firefox(tmp_path)
    try:
        firefox.open(f"{shared.server.url}/")
        form = "new URLSearchParams({username: 'ann', password: 'secret of ann'})"
        assert "true" in firefox.evaluate(f"fetch('/login', {{method: 'POST', body: {form}}}).then(answer => answer.text())")
        picture = shared.tabs["ann"].locator("#still img").evaluate("image => image.src")
        picture = picture.removeprefix(shared.server.url)
        assert firefox.evaluate(f"fetch({picture!r}).then(answer => String(answer.status))") == "200"
        firefox.open(f"{website}/")
        check_attack(shared, firefox.evaluate(ATTACK % (shared.server.url, picture)), firefox.frames())
    finally:
        firefox.close()
