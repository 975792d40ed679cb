"""The page, used as a newcomer does: in a real browser, with a real speech, a real clip and a real training.

SCREENSHOTS=1 keeps pictures of the walk in docs/screenshots (only of people whose licence allows it).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import which

import av
import numpy as np
import pytest
import soundfile
from media import REAL, ffmpeg, real_clip

from gmtalker.avatars.storage import export_avatar, import_avatar
from gmtalker.avatars.workspace import owned_by, workspace
from personalize import jobs
from personalize.consent import Consent

PROJECT = Path(__file__).resolve().parent.parent
SCREENSHOTS = PROJECT / "docs" / "screenshots"
BROWSER = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
# No look-ups of other hosts: the test holds that the page makes none, and the browser's own would only fail slowly.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", "--mute-audio"]
QUIET += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a camera, and nobody asks for it
SECOND, MINUTE = 1000, 60_000  # milliseconds
TRAINED_MINUTES = "0.5"
NAME = "New <b>one</b>"  # of the avatar: no name may become part of the page

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the browser tests need Playwright: pip install -r requirements-dev.txt"
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
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
    """20 seconds of a real person: GRID's speaker s1 where pictures are kept (CC BY 4.0), an unseen speaker otherwise."""
    path = home / "me, 20 seconds.mp4"
    if "SCREENSHOTS" in os.environ:
        real_clip("grid_s1/bbaf2n.mp4")
        sources = sorted((REAL / "grid_s1").glob("*.mp4"))[:7]
    else:
        sources = [real_clip("av/andrew1.mp4")]
    inputs = [part for source in sources for part in ("-i", source)]
    streams = "".join(f"[{number}:v][{number}:a]" for number in range(len(sources)))
    joined = f"{streams}concat=n={len(sources)}:v=1:a=1[v][a]"
    ffmpeg(*inputs, "-filter_complex", joined, "-map", "[v]", "-map", "[a]", "-t", 20, path)
    return path


def seen(page, name: str) -> None:
    """Keep a picture of the page, when asked for."""
    if "SCREENSHOTS" in os.environ:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.evaluate("window.scrollTo(0, 0)")  # or the stage, which stays in sight, hangs half-way down
        time.sleep(1)  # transitions end
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def set_slider(page, elem_id: str, value: float) -> None:
    field = page.locator(f"#{elem_id} input[type=number]")
    field.fill(str(value))
    field.press("Enter")


def preview_changes(page, act, address: bool = False) -> bytes | str:
    """Do something and return the preview's picture, or its address, as soon as it is another one."""
    picture = page.locator("#still img")
    picture.wait_for(timeout=MINUTE)
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
            said = f"{job.status}, {job.message}, {Path(job.log).read_text()[-3000:] if Path(job.log).exists() else ''}"
            assert job.name != NAME or job.status not in ("failed", "stopped"), said
        time.sleep(0.2)


def test_a_newcomer_gets_a_happy_video(page, speech: Path, tmp_path: Path):
    seen(page, "create")
    calm = page.request.get(page.locator("#still img").get_attribute("src")).body()
    happy = preview_changes(page, lambda: set_slider(page, "emotion-happy", 0.8))
    assert happy != calm
    page.wait_for_function("Math.abs(document.querySelector('#emotion-neutral input[type=number]').value - 0.2) < 1e-6")
    page.locator("#speech input[type=file]").set_input_files(speech)
    page.locator("#speech audio, #speech .waveform-container, #speech #waveform").first.wait_for(state="attached", timeout=MINUTE)
    frames, sound = created_video(page, tmp_path)
    assert frames == 50 and abs(sound - 2) < 0.1
    page.wait_for_selector("#progress :text('Done')")
    command = page.locator("#command textarea, #command input").first
    command.wait_for(timeout=MINUTE)
    assert "gmtalker speak" in command.input_value() and "--emotion happy=0.8" in command.input_value()
    seen(page, "created")
    furious = preview_changes(page, page.locator("#preset-furious").click)
    assert furious != happy and page.locator("#emotion-angry input[type=number]").input_value() == "0.8"
    assert page.locator("#emotion-happy input[type=number]").input_value() == "0"
    preview_changes(page, page.locator("#preset-neutral").click)
    page.wait_for_function("document.querySelector('#emotion-neutral input[type=number]').value == 1")


def test_emotion_changes_over_time_and_takes_are_compared(page, speech: Path, tmp_path: Path):
    page.locator("#speech input[type=file]").set_input_files(speech)
    page.locator("#speech audio, #speech .waveform-container, #speech #waveform").first.wait_for(state="attached", timeout=MINUTE)
    page.locator("#timeline button").first.click()
    set_slider(page, "emotion-happy", 0.8)
    page.locator("#key-add").click()
    page.locator("#curves img").wait_for(timeout=MINUTE)
    first = page.locator("#curves img").get_attribute("src")
    page.locator("#preset-furious").click()
    page.wait_for_function("document.querySelector('#emotion-angry input[type=number]').value == 0.8")
    page.locator("#key-time input").fill("1.5")
    page.locator("#key-time input").press("Enter")
    page.locator("#key-add").click()
    page.wait_for_function(
        "before => document.querySelector('#curves img').getAttribute('src') !== before", arg=first, timeout=MINUTE
    )
    seen(page, "timeline")
    page.locator("#curves img").scroll_into_view_if_needed()
    picture, first = page.locator("#curves img").bounding_box(), page.locator("#curves img").get_attribute("src")
    before, after = (picture["x"] + picture["width"] * (0.05 + 0.93 * second / 2.0) for second in (1.5, 1.2))
    page.mouse.move(before, picture["y"] + 40)
    page.mouse.down()
    page.mouse.move(after, picture["y"] + 40, steps=3)
    page.mouse.up()
    page.wait_for_function("Math.abs(document.querySelector('#key-time input').value - 1.2) < 0.11", timeout=MINUTE)
    page.wait_for_function(
        "before => document.querySelector('#curves img').getAttribute('src') !== before", arg=first, timeout=MINUTE
    )
    frames, _ = created_video(page, tmp_path)
    command = page.locator("#command textarea, #command input").first
    command.wait_for(timeout=MINUTE)
    assert frames == 50 and "--timeline" in command.input_value() and "--emotion" not in command.input_value()
    assert '"time": 1.2' in command.input_value()  # where the key was dragged to

    page.locator("#takes").click()
    page.locator("#takes-video video").wait_for(state="visible", timeout=5 * MINUTE)
    page.locator("#take-2").get_by_text("Take 1").wait_for(timeout=MINUTE)
    seen(page, "takes")
    page.locator("#take-2").click()
    page.wait_for_function("document.querySelector('#seed input').value == 1")
    page.locator("#reset").click()
    page.wait_for_function("document.querySelector('#seed input').value == 0")
    page.locator("#curves img").wait_for(state="hidden", timeout=MINUTE)
    page.locator("#script textarea").fill("[sad] It rains. [happy 0.6] Now it is over!")
    page.locator("#script-apply").click()
    page.locator("#curves img").wait_for(timeout=MINUTE)


def test_a_video_can_be_watched_while_it_is_made(page):
    page.locator("#speech-examples button, #speech-examples td").first.click()
    page.locator("#speech audio, #speech .waveform-container, #speech #waveform").first.wait_for(state="attached", timeout=MINUTE)
    page.locator("#create").click()
    page.locator("#live video").wait_for(state="attached", timeout=MINUTE)
    page.wait_for_function("document.querySelector('#live video').currentTime > 0", timeout=MINUTE)
    assert not page.locator("#video video").is_visible()  # it plays before the whole is there
    page.locator("#stop").click()
    page.locator("#progress").get_by_text("Stopped").wait_for(timeout=MINUTE)
    assert not page.locator("#video video").is_visible() and page.locator("#create").is_enabled()


@pytest.mark.parametrize("language,said", [("zh-CN", "生成视频"), ("en-GB", "Create the video")])
def test_the_page_speaks_the_language_of_the_browser(browser, server: Server, language: str, said: str):
    context = browser.new_context(locale=language)
    tab = context.new_page()
    tab.goto(server.url)
    tab.locator("#create").get_by_text(said).wait_for(timeout=MINUTE)
    tab.locator("#create").click()
    tab.get_by_text("请先选择语音" if language == "zh-CN" else "Choose a speech first").first.wait_for(timeout=MINUTE)
    context.close()


def test_the_page_is_readable_in_the_dark(browser, server: Server):
    tab = browser.new_context(color_scheme="dark").new_page()
    tab.goto(f"{server.url}/?__theme=dark")
    tab.locator("#still img").wait_for(timeout=MINUTE)
    light = "getComputedStyle(document.querySelector('{0}')).{1}.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    places = (("#heading h1", "color"), ("body", "backgroundColor"))
    words, ground = (np.array(tab.evaluate(light.format(*place))) @ [0.299, 0.587, 0.114] for place in places)
    assert words - ground > 100
    seen(tab, "dark")
    tab.context.close()


def test_nothing_is_cut_off_on_a_phone(browser, server: Server):
    context = browser.new_context(viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True, has_touch=True)
    tab = context.new_page()
    tab.goto(server.url)
    tab.locator("#still img").wait_for(timeout=MINUTE)
    for number, name in enumerate(("create", "personalize", "avatars")):
        tab.get_by_role("tab").nth(number).click()
        time.sleep(0.5)
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), name
        seen(tab, f"phone-{name}")
    context.close()


def test_the_first_video_comes_soon(browser, server: Server):
    """What somebody who opens the page waits for; the figures themselves are measured on a quiet machine (pytest -s)."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    began = time.time()
    tab.goto(server.url)
    tab.locator("#still img").wait_for(timeout=MINUTE)
    usable = time.time() - began
    tab.locator("#speech-examples button, #speech-examples td").first.click()
    tab.locator("#speech audio, #speech .waveform-container, #speech #waveform").first.wait_for(state="attached", timeout=MINUTE)
    pressed = time.time()
    tab.keyboard.press("Control+Enter")
    tab.wait_for_function("document.querySelector('#progress').innerText.trim() !== ''", timeout=MINUTE)
    sign = time.time() - pressed
    tab.locator("#video video").wait_for(state="visible", timeout=5 * MINUTE)
    first = time.time() - began
    tab.close()
    print(f"page with a preview {usable:.1f} s, sign of life {sign:.1f} s, video of 9.55 s of speech {first:.1f} s after opening")
    assert usable < 30 and sign < 15 and first < 300


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
    page.locator("#create").click()
    page.get_by_text("Choose a speech first").wait_for(timeout=MINUTE)
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(16000), 16000)
    page.locator("#speech input[type=file]").set_input_files(silence)
    page.locator("#speech audio, #speech .waveform-container, #speech #waveform").first.wait_for(state="attached", timeout=MINUTE)
    page.locator("#create").click()
    page.locator("#progress").get_by_text(re.compile("sound|silen", re.IGNORECASE)).wait_for(timeout=MINUTE)
    assert "Traceback" not in page.locator("body").inner_text()


def test_a_film_of_the_webcam_is_a_clip(browser, server: Server):
    context = browser.new_context(permissions=["camera", "microphone"])
    tab = context.new_page()
    tab.goto(server.url)
    open_tab(tab, "Personalize")
    tab.locator("#webcam-group button").first.click()
    for seconds in (2, 3, 0):  # the camera, the film's begin, its end
        tab.locator("#webcam").get_by_role("button").first.click(timeout=MINUTE)
        time.sleep(seconds)
    tab.locator("#clips").get_by_text(re.compile("KB|MB")).first.wait_for(timeout=MINUTE)
    tab.locator("#clip-emotions").get_by_text(re.compile("webm|mp4")).first.wait_for(state="attached", timeout=MINUTE)
    context.close()


def test_nobody_is_trained_without_consent(page, home: Path):
    open_tab(page, "Personalize")
    page.locator("#check").click()
    page.get_by_text("tick the box first").wait_for(timeout=MINUTE)
    assert page.locator("#train").is_disabled() and jobs.jobs() == []


def test_a_newcomer_makes_an_avatar_and_speaks_with_it(
    page, server: Server, home: Path, speech: Path, clip: Path, tmp_path: Path
):
    open_tab(page, "Personalize")
    page.locator("#who input, #who textarea").fill("A newcomer")
    page.locator("#consent input").check()
    page.locator("#clips input[type=file]").set_input_files(clip)
    page.locator("#clips").get_by_text(re.compile("KB|MB")).first.wait_for(timeout=MINUTE)
    page.locator("#check").click()
    page.locator("#report").get_by_text("Ready to train").wait_for(timeout=2 * MINUTE)
    seen(page, "checked")

    page.locator("#avatar-name input, #avatar-name textarea").fill(NAME)
    page.locator("#preset input[value=draft]").check()
    page.locator("#minutes input").fill(TRAINED_MINUTES)
    page.locator("#train").click()
    training_shown(page, r"\d+ %")

    server.stop()  # the training outlives its server ...
    assert jobs.find(NAME).status == "running"
    server.start()
    page.goto(server.url)
    open_tab(page, "Personalize")  # ... and a new page shows it again
    training_shown(page, r"\d+ %")
    training_shown(page, r" left")
    page.locator("#training-strip img").wait_for(timeout=2 * MINUTE)  # truth beside drawing, of seconds it never saw
    before = page.locator("#training-strip img").get_attribute("src")
    page.locator("#sample").click()
    page.wait_for_function(
        "before => document.querySelector('#training-strip img').getAttribute('src') !== before", arg=before, timeout=MINUTE
    )
    page.locator("#training-curve img").wait_for()
    seen(page, "training")
    training_shown(page, "The avatar is ready")

    page.locator("#create-with-it").click(timeout=MINUTE)
    page.locator("#speech input[type=file]").set_input_files(speech, timeout=MINUTE)
    page.locator("#speech audio, #speech .waveform-container, #speech #waveform").first.wait_for(state="attached", timeout=MINUTE)
    assert page.locator("#avatar input").input_value() == NAME
    set_slider(page, "emotion-happy", 0.8)
    frames, sound = created_video(page, tmp_path)
    assert frames == 50 and abs(sound - 2) < 0.1
    seen(page, "created-with-it")

    open_tab(page, "Avatars")
    page.locator("#shelf img").last.click()
    page.locator("#details").get_by_text("A newcomer").wait_for(timeout=MINUTE)
    page.locator("#new-name input, #new-name textarea").fill("Renamed")
    page.locator("#rename").click()
    page.locator("#shelf").get_by_text("Renamed").wait_for(timeout=MINUTE)
    seen(page, "avatars")
    page.locator("#export").click()
    page.locator("#exported a").first.wait_for(timeout=MINUTE)
    with page.expect_download() as download:
        page.locator("#exported a").first.click()
    exported = tmp_path / "renamed.zip"
    download.value.save_as(exported)
    page.locator("#delete").click()
    page.locator("#confirm-delete").click()
    page.locator("#nobody").wait_for(timeout=MINUTE)
    assert not any((workspace() / "avatars").iterdir()) and jobs.jobs() == []
    with page.expect_file_chooser() as chooser:
        page.locator("#import").click()
    chooser.value.set_files(exported)
    page.locator("#shelf").get_by_text("Renamed").wait_for(timeout=MINUTE)
    page.locator("#delete").click()
    page.locator("#confirm-delete").click()
    page.locator("#nobody").wait_for(timeout=MINUTE)
    assert not list(home.glob("uploads/*")) and not list(home.glob("training/*"))


def test_the_bundled_avatar_can_not_be_deleted(page):
    open_tab(page, "Avatars")
    page.locator("#shelf img").first.click()
    page.locator("#details").get_by_text("(bundled)").wait_for(timeout=MINUTE)
    assert not page.locator("#delete").is_visible()


def test_only_speaking_is_a_public_endpoint(page, server: Server):
    answer = page.request.get(f"{server.url}/gradio_api/info").json()
    assert list(answer["named_endpoints"]) == ["/speak"] and answer["unnamed_endpoints"] == {}
    parameters = [parameter["parameter_name"] for parameter in answer["named_endpoints"]["/speak"]["parameters"]]
    assert parameters[:2] == ["avatar", "speech"] and {"happy", "head", "blink", "gaze", "seed", "full_frame"} <= set(parameters)


def test_a_killed_trainer_is_seen_and_resumed(page, home: Path, clip: Path):
    job = jobs.start("Killed", [clip], Consent.given_now("A newcomer"), minutes=1.0)
    try:
        open_tab(page, "Personalize")
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


def test_two_people_see_only_what_is_theirs(browser, tmp_path: Path, speech: Path):
    """Two browsers: neither finds the other's avatars, trainings or files."""
    ours = tmp_path / "home of two"
    for name in ("ann", "bob"):
        subprocess.run(
            [sys.executable, "app.py", "--add-user", name],
            input=f"secret of {name}\n",
            text=True,
            check=True,
            cwd=PROJECT,
            env=os.environ | {"GMTALKER_HOME": str(ours)},
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GMTALKER_HOME", str(ours))
        with owned_by("ann"):
            import_avatar(export_avatar(None, tmp_path / "a.zip"), "Ann's own")
            jobs.create("Ann's training", [real_clip("av/vrt2.mp4")], Consent.given_now("ann"), here=True)
    server = Server(ours, "--auth")
    server.start()
    try:
        tabs = {}
        for name in ("ann", "bob"):
            tabs[name] = browser.new_context().new_page()
            tabs[name].goto(server.url)
            tabs[name].locator("input").nth(0).fill(name)
            tabs[name].locator("input[type=password]").fill(f"secret of {name}")
            tabs[name].get_by_role("button", name="Login").click()
            tabs[name].locator("#create").wait_for(timeout=MINUTE)
        ann, bob = tabs["ann"], tabs["bob"]
        ann.locator("#avatar-gallery").get_by_text("Ann's own").wait_for(timeout=MINUTE)
        bob.locator("#avatar-gallery img").first.wait_for(timeout=MINUTE)
        assert "Ann's own" not in bob.locator("body").inner_text()
        open_tab(ann, "Personalize")
        ann.locator("#training").get_by_text("Ann's training").wait_for(timeout=MINUTE)
        open_tab(bob, "Personalize")
        bob.locator("#training").get_by_text("No training yet").wait_for(timeout=MINUTE)

        open_tab(ann, "Create")
        ann.locator("#still img").wait_for(timeout=MINUTE)
        assert bob.request.get(bob.evaluate("document.querySelector('#still img').src")).ok  # the same face, as ann has it
        ann.locator("#avatar-gallery").get_by_text("Ann's own").click()
        ann.wait_for_function("document.querySelector('#avatar input').value.startsWith('Ann')")
        address = preview_changes(ann, lambda: set_slider(ann, "emotion-happy", 0.77), address=True)
        twisted = address.replace("file=/", "file=//")
        assert ann.request.get(address).ok and bob.request.get(address).status == 403 == bob.request.get(twisted).status
        assert browser.new_context().request.get(address).status == 401
        picture = {"path": address.split("file=")[1], "meta": {"_type": "gradio.FileData"}}
        stolen = {"data": ["GRID s1", picture, *[0.0] * 7, 1, 1, 1, 1, 0, False, [], False]}
        assert bob.request.post(f"{server.url}/gradio_api/call/speak", data=stolen).status == 403
        hers = next((ours / "people" / "ann" / "avatars").iterdir())
        said = {"path": str(PROJECT / "assets/speech/english.flac"), "meta": {"_type": "gradio.FileData"}}
        call = f"{server.url}/gradio_api/call/speak"
        for who, wanted, allowed in ((bob, str(hers), False), (bob, "Ann's own", False), (ann, "Ann's own", True)):
            event = who.request.post(call, data={"data": [wanted, said, *[0.0] * 7, 1, 1, 1, 1, 0, False, [], False]}).json()
            answer = who.request.get(f"{call}/{event['event_id']}", timeout=3 * MINUTE).text()
            assert ("event: complete" in answer and ".mp4" in answer) == allowed and ("event: error" in answer) != allowed
        assert (ours / "people" / "ann" / "avatars").is_dir() and not (ours / "avatars").exists()
    finally:
        server.stop()
