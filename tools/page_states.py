"""Pictures of every tab and state of the page: wide, narrow and on a phone, light and dark, English and Chinese.

python tools/page_states.py FOLDER [--clip me.mp4]: serves the page from a workspace of its own, walks through it in twelve
browsers, and writes a sheet for every state. A clip adds the steps of a training.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

PROJECT = Path(__file__).resolve().parent.parent
SIZES = ((1440, 900), (1024, 768), (390, 844))
LOOKS = (("light", "en-GB"), ("dark", "en-GB"), ("light", "zh-CN"), ("dark", "zh-CN"))
MINUTE = 60_000  # milliseconds
SHEET_WIDTHS = {1440: 760, 1024: 540, 390: 210}  # pixels of a picture on its sheet
LONGEST = 2.4  # times the window's height: a picture is cut there, unless it is a phone's
TRAINED_MINUTES = "0.5"


@dataclass(frozen=True)
class State:
    """A state of the page. reach: leads there from the one before."""

    name: str
    reach: Callable[[Page], None]


def _typed(page: Page) -> None:
    page.locator("#text textarea").fill("[happy 0.8] Good morning! What a lovely day.")
    page.locator(".pad-face[data-emotion=happy]").click()
    page.wait_for_timeout(2500)


def _made(page: Page) -> None:
    page.locator("#create").click()
    page.locator("#video video").wait_for(state="visible", timeout=3 * MINUTE)
    page.locator("#video-shelf .card-button").first.wait_for(timeout=MINUTE)
    page.locator("#about-video button").first.click()
    page.wait_for_timeout(1500)


def _source(number: int) -> Callable[[Page], None]:
    def reach(page: Page) -> None:
        page.locator("#source label").nth(number).click()
        page.wait_for_timeout(1200)

    return reach


def _output(page: Page) -> None:
    page.locator("#source label").nth(0).click()
    _fold(page, "about-video", "output")
    _choose(page, "canvas", 2)
    _choose(page, "captions", 1)


def _choose(page: Page, elem_id: str, number: int) -> None:
    page.locator(f"#{elem_id} input").click()
    page.get_by_role("option").nth(number).click()
    page.wait_for_timeout(500)


def _fold(page: Page, *elem_ids: str) -> None:
    """Open or close what is folded away."""
    for elem_id in elem_ids:
        page.locator(f"#{elem_id} button").first.click()
        page.wait_for_timeout(500)


def _movement(page: Page) -> None:
    _choose(page, "canvas", 0)
    _choose(page, "captions", 0)
    _fold(page, "output", "movement")


def _timeline(page: Page) -> None:
    _fold(page, "movement", "timeline")
    page.locator("#key-add").click()
    page.locator(".pad-face[data-emotion=sad]").click()
    page.wait_for_timeout(1500)
    page.locator("#key-time input").fill("2")
    page.locator("#key-time input").press("Enter")
    page.locator("#key-add").click()
    page.locator("#curves img").wait_for(timeout=MINUTE)
    page.wait_for_timeout(1000)


def _many(page: Page) -> None:
    _fold(page, "timeline", "many")


def _takes(page: Page) -> None:
    _fold(page, "many")
    page.locator("#reset").click()
    page.locator("#takes").click()
    page.locator("#takes-video video").wait_for(state="visible", timeout=3 * MINUTE)
    page.wait_for_timeout(2500)


def _tab(number: int, ready: str) -> Callable[[Page], None]:
    def reach(page: Page) -> None:
        page.get_by_role("tab").nth(number).click()
        page.locator(ready).first.wait_for(timeout=MINUTE)
        page.wait_for_timeout(1500)

    return reach


def _nothing_yet(page: Page) -> None:
    page.locator("#create").click()
    page.wait_for_timeout(1500)


def _checked(page: Page) -> None:
    page.locator("#check-video input[type=file]").set_input_files(PROJECT / "assets/avatars/grid-s1/preview.mp4")
    page.locator("#check-found table").wait_for(timeout=MINUTE)
    page.wait_for_timeout(800)


STATES = (
    State("create", lambda page: None),
    State("create-refused", _nothing_yet),
    State("create-typed", _typed),
    State("create-made", _made),
    State("create-voice", _source(1)),
    State("create-film", _source(2)),
    State("create-picture", _output),
    State("create-movement", _movement),
    State("create-timeline", _timeline),
    State("create-many", _many),
    State("create-takes", _takes),
    State("avatars", _tab(2, "#details table")),
    State("check", _tab(3, "#check-video")),
    State("check-found", _checked),
    State("personalize-consent", _tab(1, "#consent-next")),
)


def _agreed(page: Page) -> None:
    page.locator("#who textarea, #who input").first.fill("Ann")
    page.locator("#consent input").check()
    page.locator("#consent-next").click()
    page.locator("#clips").wait_for(timeout=MINUTE)
    page.wait_for_timeout(800)


def _with_clip(clip: Path) -> tuple[State, ...]:
    def checked(page: Page) -> None:
        page.locator("#clips input[type=file]").set_input_files(clip)
        page.locator("#clip-emotions label").first.wait_for(timeout=MINUTE)
        page.wait_for_timeout(1500)
        page.locator("#check").click()
        page.locator("#clips-next").wait_for(timeout=3 * MINUTE)
        page.wait_for_timeout(1500)

    def ready(page: Page) -> None:
        page.locator("#clips-next").click()
        page.locator("#avatar-name textarea, #avatar-name input").first.fill("Me")
        page.wait_for_timeout(1500)

    def training(page: Page) -> None:
        page.locator('#path [role="tab"]').first.click()
        page.locator("#to-progress").click()
        page.locator("#training").get_by_text("Me").first.wait_for(timeout=MINUTE)
        page.wait_for_timeout(1500)

    return (
        State("personalize-clips", _agreed),
        State("personalize-checked", checked),
        State("personalize-train", ready),
        State("personalize-avatar", training),
    )


@contextmanager
def _served(home: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {"GMTALKER_HOME": str(home)}
    server = subprocess.Popen([sys.executable, "app.py", "--port", str(port)], cwd=PROJECT, env=environment)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def _train(clip: Path, home: Path) -> None:
    command = [sys.executable, "-m", "personalize", "train", str(clip), "--name", "Me", "--i-have-consent", "--consent-of", "Ann"]
    subprocess.run(
        [*command, "--minutes", TRAINED_MINUTES], cwd=PROJECT, env=os.environ | {"GMTALKER_HOME": str(home)}, check=True
    )


def _walk(
    browser: Browser, address: str, size: tuple[int, int], look: tuple[str, str], states: tuple[State, ...], folder: Path
) -> None:
    theme, language = look
    phone = size[0] < 600
    context = browser.new_context(
        viewport=dict(zip(("width", "height"), size)),
        color_scheme="dark" if theme == "dark" else "light",
        locale=language,
        is_mobile=phone,
        has_touch=phone,
    )
    page = context.new_page()
    page.goto(address)
    page.locator("#still img").wait_for(timeout=3 * MINUTE)
    page.wait_for_timeout(2000)
    for state in states:
        try:
            state.reach(page)
        except Exception as error:  # the picture shows why
            print(f"{state.name}, {size}, {look}: {str(error).splitlines()[0]}", file=sys.stderr)
        page.evaluate("scrollTo(0, 0)")
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > size[0] + 1:
            print(f"{state.name}, {size}, {look}: {wide} pixels wide", file=sys.stderr)
        page.wait_for_timeout(300)
        page.screenshot(path=folder / f"{state.name}-{size[0]}-{theme}-{language[:2]}.png", full_page=True)
    context.close()


def _sheet(state: str, folder: Path, output: Path) -> None:
    """All pictures of a state on one sheet: a row for each size."""
    rows = []
    for width, height in SIZES:
        pictures = []
        for theme, language in LOOKS:
            with Image.open(folder / f"{state}-{width}-{theme}-{language[:2]}.png") as picture:
                cut = picture.convert("RGB").crop((0, 0, picture.width, min(picture.height, round(LONGEST * max(height, 900)))))
            small = SHEET_WIDTHS[width]
            pictures.append(cut.resize((small, round(cut.height * small / cut.width)), Image.Resampling.LANCZOS))
        rows.append(pictures)
    phones = rows.pop()
    wide = [row[:2] + row[2:] for row in rows]
    total = max(sum(picture.width + 8 for picture in row) for row in wide)
    heights = [max(picture.height for picture in row) + 8 for row in (*wide, phones)]
    sheet = Image.new("RGB", (total, sum(heights)), "#94a3b8")
    top = 0
    for row, height in zip((*wide, phones), heights):
        left = 0
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width + 8
        top += height
    sheet.save(output / f"{state}.webp", quality=60, method=6)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clip", type=Path, help="of a person who may be shown")
    parser.add_argument("--raw", type=Path, help="keep each picture there, too")
    options = parser.parse_args()
    browser = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
    states = STATES + (_with_clip(options.clip.resolve()) if options.clip else ())
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as driver:
        home, raw = Path(temporary) / "home", options.raw or Path(temporary) / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        if options.clip:
            _train(options.clip.resolve(), home)
        with _served(home) as address:
            chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--mute-audio"])
            for size in SIZES:
                for look in LOOKS:
                    _walk(chromium, address, size, look, states, raw)
            chromium.close()
        for state in states:
            _sheet(state.name, raw, options.folder)
    lines = [f"![{state.name.replace('-', ', ')}]({state.name}.webp)" for state in states]
    text = "# Every tab and state of the page\n\nEach wide, narrow and on a phone, light and dark, English and Chinese "
    text += "(`python tools/page_states.py`).\n\n" + "\n\n".join(lines) + "\n"
    (options.folder / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
