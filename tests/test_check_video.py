"""Anybody may ask whether a video was made here: on the page and at an address without sign-in, and nothing is kept."""

from __future__ import annotations

import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import gradio as gr
import pytest
from conftest import write_speech
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gmtalker.assets import BUNDLED
from gmtalker.avatars.consent import avatar_id
from gmtalker.avatars.ready import load_avatar
from gmtalker.errors import UnusableVideo
from gmtalker.request import SpeakRequest
from studio.check_video import WAITING_MAX, _checked, check_route, find

VIDEO = next(BUNDLED.glob("*/preview.mp4"))


def client(**options) -> TestClient:
    return TestClient(Starlette(routes=[check_route(**{"upload_megabytes": 10} | options)]))


def test_anybody_is_told_and_nothing_is_kept(home, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = client().post("/check", files={"file": ("a <b>vidéo</b>.mp4", VIDEO.read_bytes())})
    assert answer.status_code == 200
    told = answer.json()
    assert told["verdict"] == "ours" and told["avatar_id"] == avatar_id(load_avatar().card) and "AI-generated" in told["sentence"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nobody_learns_the_names_of_others_avatars(tiny_pipeline, tiny_avatar, home, tmp_path):
    speech = write_speech(tmp_path / "speech.wav", 1.0)
    made = tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "made.mp4")
    assert find(made)["avatar"] == tiny_avatar and tiny_avatar not in find(made, names=False)["sentence"]


def test_a_browser_gets_a_page_in_its_language(home):
    page = client().get("/check", headers={"accept-language": "zh"})
    assert 'enctype="multipart/form-data"' in page.text and "要检查的视频" in page.text
    headers = {"accept": "text/html", "accept-language": "en"}
    found = client().post("/check", files={"file": ("x.mp4", VIDEO.read_bytes())}, headers=headers)
    assert "<table" in found.text and "AI-generated" in found.text
    refused = client().post("/check", files={"file": ("<img src=x>.mp4", b"no video")}, headers=headers)
    assert "<img" not in refused.text and "&lt;img" in refused.text


@pytest.mark.parametrize(
    "files,data,status",
    [
        ({"file": ("../../x.mp4", b"no video")}, None, 422),
        ({"other": ("x.mp4", b"x")}, None, 400),
        ({"file": ("x.mp4", b"x" * 2_000_000)}, None, 413),
        (None, {"file": "text"}, 400),
        (None, None, 400),
    ],
)
def test_what_is_no_video_is_one_sentence(home, files, data, status):
    answer = client(upload_megabytes=1).post(
        "/check", files=files, data=data, headers={"content-length": "0"} if not files and not data else {}
    )
    assert answer.status_code == status and answer.json()["error"].count(".") >= 1 and "/" not in answer.json()["error"]


def test_without_a_length_nothing_is_read(home):
    def pieces():
        yield b"x"

    assert (
        client().post("/check", content=pieces(), headers={"content-type": "multipart/form-data; boundary=x"}).status_code == 411
    )


def test_the_page_deletes_what_it_looked_at_and_nothing_else(home, tmp_path, monkeypatch):
    assert "AI-generated" in [*_checked(gr.Request(headers={}), str(VIDEO))][-1] and VIDEO.exists()  # the program's own
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    video = Path(shutil.copy(VIDEO, tmp_path / "up.mp4"))
    *_, found = _checked(gr.Request(headers={}), str(video))
    assert "AI-generated" in found and not video.exists()
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with pytest.raises(gr.Error):
        list(_checked(gr.Request(headers={}), str(tmp_path / "none.mp4")))
    assert not (tmp_path / "none.mp4").exists()


def test_too_many_at_once_are_asked_to_wait(home):
    go = threading.Event()

    def look(path: Path) -> dict:
        go.wait(20)
        raise UnusableVideo("It can't be read.")

    with client(look=look) as server, ThreadPoolExecutor(WAITING_MAX + 4) as crowd:
        asked = [crowd.submit(server.post, "/check", files={"file": ("x.mp4", b"x")}) for _ in range(WAITING_MAX + 4)]
        done = [future.result().status_code for future in islice(as_completed(asked, timeout=60), 4)]
        go.set()
        assert done == [503] * 4 and sorted({future.result().status_code for future in asked}) == [422, 503]
