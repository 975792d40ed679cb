"""Nobody gets at what is somebody else's: every route of the page's server, every way to write a path, other websites and names.

The attacks are made from the routes that the server has and the encodings that JSON has, not from a list.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import gradio as gr
import pytest
from fastapi.routing import APIRoute
from PIL import Image
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.testclient import TestClient

from gmtalker.avatars.on_hub import resolve
from gmtalker.avatars.storage import export_avatar, find_avatar, import_avatar
from gmtalker.avatars.workspace import home as workspace_home
from gmtalker.avatars.workspace import owned_by, owner, private_home
from gmtalker.errors import UnusableAvatar
from gmtalker.files import MEGABYTE, unfinished_prefix
from studio import accounts, deployment, guard
from studio.accounts import Door, add_account, in_own_workspace, remove_account
from studio.avatars import picture_of
from studio.components import refusal, told
from studio.guard import OwnFilesOnly, OwnPagesOnly, Sessions, own_hosts
from studio.uploads import under_its_name

PEOPLE = {"ann": "secret of ann", "bob": "secret of bob"}
FACE = b"a face of bob"
HTTP = "https://testserver"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@pytest.fixture
def server(home: Path, cache: Path):
    """A page with the guards of `--auth`: an event that returns the file it was given, and one that says what it was told."""
    for name, password in PEOPLE.items():
        add_account(name, password)
    with gr.Blocks() as page:
        given, got, text, said = gr.File(), gr.File(), gr.Textbox(), gr.JSON()
        gr.Button().click(lambda path: path, given, got, api_name="back", queue=False)
        gr.Button().click(lambda words: {"path": words.strip()}, text, said, api_name="say", queue=False)
        gr.Button().click(in_own_workspace(whose), None, said, api_name="whose", queue=False)
    door = Door()
    page.auth, page.auth_message, page.max_file_size = door.may_enter, None, None  # as launch sets them
    guards = [Middleware(OwnPagesOnly, {"testserver"}), Middleware(Sessions, door), Middleware(OwnFilesOnly)]
    return gr.routes.App.create_app(page, app_kwargs={"middleware": guards})


def whose(visitor: gr.Request) -> list[str]:
    return [owner()]


def come_in(server, name: str, password: str = "") -> TestClient:
    client = TestClient(server, HTTP)
    answer = client.post("/login", data={"username": name, "password": password or PEOPLE[name]})
    assert answer.status_code == 200, answer.text
    return client


def upload(client: TestClient, data: bytes = FACE) -> str:
    answer = client.post("/gradio_api/upload", files={"files": ("a face.txt", data)})
    assert answer.status_code == 200
    return answer.json()[0]


def file_data(path: str) -> dict:
    return {"path": path, "url": f"{HTTP}/gradio_api/file={path}", "meta": {"_type": "gradio.FileData"}}


# --- Files (L1, L2) ------------------------------------------------------------------------------------------------------------


def test_ones_own_files_are_served_and_taken(server):
    bob = come_in(server, "bob")
    path = upload(bob)
    assert bob.get(f"/gradio_api/file={path}").content == FACE
    answer = bob.post("/gradio_api/run/back", json={"data": [file_data(path)]})
    assert answer.status_code == 200
    returned = answer.json()["data"][0]
    assert bob.get(f"/gradio_api/file={returned['path']}").content == FACE


def all_routes(server) -> list[tuple[list[str], str]]:
    """Methods and path of every route of a server, as its own description names them, and those that it leaves out."""
    described = [([method.upper() for method in methods], path) for path, methods in server.openapi()["paths"].items()]
    return described + [(sorted(route.methods), route.path) for route in server.routes if isinstance(route, APIRoute)]


def test_no_route_of_the_server_gives_a_file_of_somebody_else(server):
    path = upload(come_in(server, "bob"))
    ann = come_in(server, "ann")
    tried = 0
    for methods, route in all_routes(server):
        fields = re.findall(r"{(\w+)[^}]*}", route)
        for method, named in itertools.product(methods, ({}, dict.fromkeys(fields, path), dict.fromkeys(fields, "1"))):
            address = re.sub(r"{(\w+)[^}]*}", lambda field, named=named: named.get(field[1], ""), route)
            if any(part in address for part in ("logout", "heartbeat", "queue/data", "login_check", "dev/reload")):
                continue  # these end the session, or never end
            body = {"data": [file_data(path)], "path": path, "fn_index": 0, "session_hash": "x"}
            options = {"json": body} if method == "POST" else {"params": {"path": path, "file": path}}
            try:
                answer = ann.request(method, address, **options)
            except Exception:  # noqa: BLE001 - a way that fails gives nothing either
                continue
            tried += 1
            assert FACE not in answer.content, (method, address)
    assert tried > 150


def test_no_way_to_write_an_address_gives_a_file_of_somebody_else(server):
    path = upload(come_in(server, "bob"))
    ann = come_in(server, "ann")
    around = f"{Path(path).parent}/../{Path(path).parent.name}/{Path(path).name}"
    written = {
        path,
        around,
        f"/{path}",
        path.replace("/", "//"),
        quote(path),
        quote(path, safe=""),
        quote(quote(path, safe=""), safe=""),
    }
    written |= {
        os.path.relpath(path),
        f"{path}?x",
        f"{path}#x",
        f"{path};x",
        path + "/",
        f"./{os.path.relpath(path)}",
        f"file={path}",
    }
    written |= {f"file://{path}", f"\\{path}", f"{path}%00", f"~/../..{path}"}
    begun = (
        "/gradio_api/file=",
        "/gradio_api/file/",
        "/gradio_api/file",
        "/file=",
        "/file/",
        "/gradio_api/proxy=",
        "//gradio_api/file=",
    )
    for begin, text, method in itertools.product(begun, written, ("GET", "HEAD")):
        with contextlib.suppress(ValueError):
            answer = ann.request(method, f"{begin}{text}", headers={"Range": "bytes=0-"})
            assert FACE not in answer.content and answer.status_code != 206, (begin, text)
            assert method == "GET" or answer.headers.get("content-length") in (None, "0") or answer.status_code >= 400, (
                begin,
                text,
            )


def json_forms(value: object) -> Iterator[bytes]:
    """A request in every form that a parser of JSON takes for the same."""
    text = json.dumps(value, ensure_ascii=False)
    escaped = re.sub(r"/(?=\w)", r"\\/", text)
    letters = "".join(
        f"\\u{ord(letter):04x}" if letter in "/tmpcache" else letter for letter in json.loads(text)["data"][0]["path"]
    )
    for form in (text, escaped, text.replace(value["data"][0]["path"], letters)):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"):
            yield form.encode(encoding)
    yield text.replace('"path"', '"path": "x", "path"', 1).encode()
    yield text.replace('"path"', '"\\u0070ath"', 1).encode()


def test_no_form_of_json_takes_a_file_of_somebody_else(server):
    path = upload(come_in(server, "bob"))
    ann = come_in(server, "ann")
    kinds = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "")
    ways = ("/gradio_api/run/back", "/gradio_api/api/back", "/gradio_api/call/back", "/gradio_api/run/back/")
    for way, body, kind in itertools.product(ways, json_forms({"data": [file_data(path)]}), kinds):
        answer = ann.post(way, content=body, headers={"content-type": kind} if kind else {})
        assert answer.status_code in (400, 403), (way, body, answer.text)
    hidden = {"data": [{"path": "x", "deep": [[[{"orig_name": path}]]]}]}
    assert ann.post(ways[0], json=hidden).status_code == 403
    assert ann.post(ways[0], content=b"[" * 100_000).status_code == 400
    assert ann.post(ways[0], content=b" " * (17 * MEGABYTE)).status_code == 413
    assert ann.post(ways[0], content=b"\xff\xfe\xfd").status_code == 400


def test_an_answer_that_repeats_what_was_asked_tells_no_path(server):
    path = upload(come_in(server, "bob"))
    ann = come_in(server, "ann")
    ann.get("/gradio_api/queue/data", params={"x": path})
    ann.get(f"/gradio_api/call/back/{quote(path, safe='')}")
    ann.post("/gradio_api/run/nothing", json={"data": [path]})
    for spaces in (" ", "\t", "\u00a0"):  # what a handler strips and gives back as its result
        ann.post("/gradio_api/run/say", json={"data": [f"{spaces}{path}"]})
    assert ann.get(f"/gradio_api/file={path}").status_code == 403


def test_no_way_that_takes_files_is_taken_for_one_that_does_not(server):
    path = upload(come_in(server, "bob"))
    ann = come_in(server, "ann")
    body = {"data": [file_data(path)], "fn_index": 0}
    for way in (
        "run/check",
        "run/login",
        "api/check",
        "run/upload",
        "run//gradio_api/upload",
        "run/x/gradio_api/upload",
        "call/check",
    ):
        answer = ann.post(f"/gradio_api/{way}", json=body)
        assert answer.status_code in (403, 404), way
    folder, name = Path(path).parent, Path(path).name
    for twisted in (
        f"{folder.parent}/file=/../{folder.name}/{name}",
        f"/{folder.parent}//file=/../{folder.name}/{name}",
        f"{folder}/file=/../{name}",
        f"file={folder}/file=/../{name}",
        f"http://x/gradio_api/file={folder.parent}/x/../{folder.name}/{name}",
    ):
        assert ann.post("/gradio_api/run/back", json={"data": [file_data(twisted)]}).status_code in (400, 403), twisted
    for elsewhere in ("http://127.0.0.1:9/x", "HTTPS://example.org/x", " http://x/y"):
        assert ann.post("/gradio_api/run/back", json={"data": [{"path": elsewhere}]}).status_code == 400
    assert ann.post("/gradio_api/run/say", content=b'{"data": ["\\ud800"]}').status_code < 500


def test_nobody_and_nothing_large_is_read(server):
    nobody, ann = TestClient(server, HTTP), come_in(server, "ann")
    for way in ("cancel", "reset", "queue/join", "run/say", "mcp/", "upload"):
        assert nobody.post(f"/gradio_api/{way}", json=[{}]).status_code == 401, way
    assert nobody.post("/gradio_api/cancel", content=b"[" + b"{}," * 3_000_000 + b"{}]").status_code in (401, 413)
    assert ann.post("/gradio_api/run/say", content=b" " * (5 * MEGABYTE)).status_code == 413


def test_a_body_without_a_length_is_read_up_to_the_limit_alone():
    async def receive() -> dict:
        return {"type": "http.request", "body": b"x" * MEGABYTE, "more_body": True}

    limited = guard._limited(receive)

    async def kinds() -> list[str]:
        return [(await limited())["type"] for _ in range(6)]

    assert asyncio.run(kinds()) == ["http.request"] * 4 + ["http.disconnect"] * 2


def test_many_long_strings_take_no_time(server, cache):
    ann = come_in(server, "ann")
    for text in ("/a" * 1_000_000, f"{cache}/" + "a/" * 1_000_000, f"{cache}/x\0"):
        began = time.monotonic()
        ann.post("/gradio_api/run/say", json={"data": [text]})
        assert time.monotonic() - began < 5  # it was minutes
    began = time.monotonic()
    assert ann.post("/gradio_api/run/say", json={"data": [f"{cache}/{number}" for number in range(20_000)]}).status_code == 400
    assert time.monotonic() - began < 5


def test_the_programs_own_files_are_neither_linked_beside_nor_deleted(cache, tmp_path):
    own = tmp_path / "english.flac"
    own.touch()
    assert under_its_name(str(own), "by bob.flac") == str(own) and list(tmp_path.glob("*.flac")) == [own]
    sent = cache / "0a1b" / "x.flac"
    sent.parent.mkdir()
    sent.touch()
    assert under_its_name(str(sent), "by bob.flac") == str(sent.parent / "by bob.flac")
    sound = sent.read_bytes()
    sent.unlink()
    sent.write_bytes(sound)  # the same is sent once more: it has its name again, and another file has not
    assert under_its_name(str(sent), "by bob.flac") == str(sent.parent / "by bob.flac")
    sent.unlink()
    sent.write_bytes(sound + b"other")
    assert under_its_name(str(sent), "by bob.flac") == str(sent)


# --- Avatars by name alone -----------------------------------------------------------------------------------------------------


def test_a_name_that_is_a_path_leads_nowhere_from_the_page(tiny_avatar, home, tmp_path):
    folder = find_avatar(tiny_avatar)
    packed = export_avatar(tiny_avatar, tmp_path / "a.zip")
    with owned_by("ann"):
        hers = import_avatar(packed, "Hers")

    @in_own_workspace
    def found(visitor: gr.Request, name: str) -> Path:
        return resolve(name)

    bob = gr.Request(username="bob", headers={})
    for name in (str(hers), str(folder), f"{hers}/", f"{hers}/../{hers.name}", os.path.relpath(hers), "~", ".", "owner/name"):
        assert resolve(str(hers)) == hers  # the command line's
        with pytest.raises(UnusableAvatar):
            found(bob, name)
    with owned_by("bob"):
        trap = import_avatar(packed, "/etc")
    assert found(bob, "/etc") == trap  # the one that bob calls so


def test_a_picture_made_to_be_decoded_for_minutes_is_not(tmp_path):
    picture = tmp_path / "poster.jpg"
    Image.new("RGB", (6000, 6000)).save(picture)
    assert picture_of(picture, (256, 256)) is None
    Image.new("RGB", (600, 600)).save(picture, progressive=True)
    assert picture_of(picture, (256, 256)) is not None
    data = picture.read_bytes()
    at = data.index(b"\xff\xda")
    picture.write_bytes(data[:at] + data[at:-2] * 100 + data[-2:])
    assert picture_of(picture, (256, 256)) is None


def test_an_upload_of_the_same_file_is_each_ones_own(server):
    ann, bob = come_in(server, "ann"), come_in(server, "bob")
    path = upload(bob)
    assert ann.get(f"/gradio_api/file={path}").status_code == 403
    assert upload(ann) == path and ann.get(f"/gradio_api/file={path}").content == FACE


# --- Other websites and names (L3, L8) -----------------------------------------------------------------------------------------


def on_the_page(**options: object) -> TestClient:
    return TestClient(OwnPagesOnly(Response("an answer"), **{"hosts": {"testserver"}} | options), "http://testserver")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://testserver.evil.example"},
        {"origin": "http://testserver:1234"},
        {"origin": "http://eviltestserver"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    ],
)
def test_another_website_reads_and_asks_nothing(headers: dict[str, str]):
    client = on_the_page()
    for address in ("/config", "/gradio_api/file=/x", "/gradio_api/info", "/"):
        answer = client.get(address, headers=headers)
        assert answer.status_code == 403 and answer.text == guard.FROM_ELSEWHERE, address
    assert client.post("/gradio_api/queue/join", json={}, headers=headers).status_code == 403


def test_the_page_itself_programs_and_links_are_answered():
    client = on_the_page()
    own = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for headers in (
        {},
        own,
        {"sec-fetch-site": "none"},
        {"origin": "https://studio.example", "x-forwarded-host": "studio.example"},
    ):
        assert client.get("/config", headers=headers).status_code == 200, headers
    assert client.get("/", headers=link).status_code == 200 and client.get("/config", headers=link).status_code == 403
    framed = link | {"sec-fetch-dest": "iframe"}
    assert client.get("/", headers=framed).status_code == 403
    assert on_the_page(embedded=True).get("/", headers=framed).status_code == 200
    assert on_the_page(anybody=True).get("/config", headers={"origin": "https://blog.example"}).status_code == 200


def test_browsers_are_told_to_keep_the_page_apart():
    headers = on_the_page().get("/").headers
    assert headers["x-frame-options"] == "SAMEORIGIN" and headers["x-content-type-options"] == "nosniff"
    assert (
        headers["content-security-policy"].endswith("frame-ancestors 'self'")
        and "img-src 'self'" in headers["content-security-policy"]
    )
    assert "huggingface.co" in on_the_page(embedded=True).get("/").headers["content-security-policy"].split("frame-ancestors")[1]


def test_cookies_stay_with_the_page(server):
    answer = TestClient(server, HTTP).post("/login", data={"username": "ann", "password": PEOPLE["ann"]})
    cookies = answer.headers.get_list("set-cookie")
    assert len(cookies) == 2 and all(cookie.lower().count("samesite=") == 1 and "SameSite=Lax" in cookie for cookie in cookies)


def test_only_the_pages_own_names_are_answered(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    client = on_the_page(hosts=own_hosts("127.0.0.1", ["studio.example"]))
    for host in ("localhost:7860", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST", "studio.example", "studio.example.:443"):
        assert client.get("/config", headers={"host": host}).status_code == 200, host
    for host in ("evil.example", "evil.example:7860", "localhost.evil.example", "192.168.1.7", "[", ""):
        assert client.get("/config", headers={"host": host}).status_code == 421, host
    open_to_all = on_the_page(hosts=own_hosts("0.0.0.0"), listening="0.0.0.0")
    assert open_to_all.get("/config", headers={"host": "192.168.1.7:7860"}).status_code == 200
    assert open_to_all.get("/config", headers={"host": "evil.example"}).status_code == 421
    assert own_hosts("0.0.0.0", ["*"]) is None


# --- Names in strangers' files (L4) --------------------------------------------------------------------------------------------


def test_what_others_chose_stays_text_in_messages():
    error = refusal("There is no avatar <img src=//evil.example onerror=alert(1)>.")
    assert "<" not in error.message and "&lt;img" in error.message


def test_messages_name_files_and_no_places(home: Path, cache: Path):
    hidden = f"{workspace_home()}/people/ann/{unfinished_prefix()}x1/voice.wav"
    for path in (f"{cache}/0a1b2c/voice.wav", hidden, f"{workspace_home()}/voice.wav", "/tmp/gmtalker-x/voice.wav"):
        sentence = told(f"{path} holds no sound; see {path}.")
        assert sentence.startswith("voice.wav holds no sound; see voice.wav"), sentence
    assert str(home) not in told(f"The workspace {home} can't be used.")
    assert told("Nothing is at https://example.org/tmp/x.") == "Nothing is at https://example.org/tmp/x."


# --- Files at rest (L5, L6) ----------------------------------------------------------------------------------------------------


def test_the_workspace_is_its_owners_alone(home: Path):
    home.mkdir(mode=0o755)
    assert stat.S_IMODE(private_home().stat().st_mode) == 0o700


def test_what_visitors_send_lies_in_the_workspace_and_goes_with_the_page(home: Path, monkeypatch):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    dead = private_home() / re.sub(r"-\d+-$", "-999999999-", unfinished_prefix())
    dead.mkdir()
    (dead / "voice.wav").touch()
    with deployment.own_uploads():
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.is_relative_to(home.resolve()) and not dead.exists()
        (folder / "tmpbroken").touch()
    assert not folder.exists()


def test_what_is_older_than_the_owner_wants_is_deleted(tmp_path: Path):
    for name, age in (("old/voice.wav", 7200), ("tmpbroken", 4000), ("new/voice.wav", 10)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    deployment.delete_older(tmp_path, time.time() - 3600)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == ["new/voice.wav"]


# --- Accounts (L7, L9, U) ------------------------------------------------------------------------------------------------------


def test_another_password_or_a_removed_account_ends_the_session(server):
    ann, bob = come_in(server, "ann"), come_in(server, "bob")
    call = ("/gradio_api/run/whose", {"data": []})
    assert ann.post(call[0], json=call[1]).json()["data"] == [["ann"]]
    add_account("ann", "another secret")
    assert ann.post(call[0], json=call[1]).status_code == 401 and bob.post(call[0], json=call[1]).status_code == 200
    assert come_in(server, "ann", "another secret").post(call[0], json=call[1]).status_code == 200
    remove_account("bob")
    assert bob.post(call[0], json=call[1]).status_code == 401


def test_who_guesses_waits_and_the_others_do_not(server):
    stranger = TestClient(server, HTTP)
    guess = {"username": "nobody", "password": "wrong"}
    for number in range(accounts.ADDRESS_FREE):
        answer = stranger.post("/login", data=guess | {"username": f"nobody{number}"})
        assert answer.status_code == 400
    answer = stranger.post("/login", data=guess)
    assert answer.status_code == 429 and "try again in" in answer.json()["detail"] and int(answer.headers["retry-after"]) >= 1


def test_guesses_at_once_are_many_and_a_password_of_ones_own_earns_none(server):
    async def at_once() -> list[bool]:
        accounts.ADDRESS.set("10.0.0.6")
        return await asyncio.gather(*(many.may_enter(f"nobody {number}", "wrong") for number in range(40)))

    checked: list[str] = []
    many = Door()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "may_enter", lambda name, password: bool(checked.append(name)))
        assert not any(asyncio.run(at_once()))
    assert len(checked) == accounts.ADDRESS_FREE
    door = Door()

    async def in_turn() -> None:
        accounts.ADDRESS.set("10.0.0.7")
        for number in range(accounts.ADDRESS_FREE + 2):
            await door.may_enter("bob", PEOPLE["bob"])
            await door.may_enter(f"nobody {number}", "wrong")

    asyncio.run(in_turn())
    assert door.seconds_shut("10.0.0.7") > 0


def test_who_came_in_before_the_password_changed_is_out_also_without_having_asked_for_anything(server):
    ann = come_in(server, "ann")
    add_account("ann", "another secret")
    assert ann.post("/gradio_api/run/whose", json={"data": []}).status_code == 401


def test_a_name_is_slowed_and_never_shut(home: Path, monkeypatch):
    add_account("ann", PEOPLE["ann"])
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(accounts.asyncio, "sleep", sleep)
    door = Door()

    async def guesses() -> bool:
        for number in range(40):
            accounts.ADDRESS.set(f"10.0.0.{number}")
            assert not await door.may_enter("ann", "wrong")
        return await door.may_enter("ann", PEOPLE["ann"])

    assert asyncio.run(guesses()) and max(waits) == accounts.NAME_WAIT_MAX and len(waits) == 41 - accounts.NAME_FREE


def test_an_address_is_shut_longer_and_longer_and_opened_again(home: Path):
    now = 0.0
    door = Door(lambda: now)

    async def wrong(times: int) -> None:
        nonlocal now
        accounts.ADDRESS.set("10.0.0.1")
        for number in range(times):
            now += door.seconds_shut("10.0.0.1")
            assert not await door.may_enter(f"nobody {number}", "wrong")

    asyncio.run(wrong(accounts.ADDRESS_FREE + 12))
    assert door.seconds_shut("10.0.0.1") == accounts.ADDRESS_WAIT_MAX and door.seconds_shut("10.0.0.2") == 0
    now += accounts.ADDRESS_WAIT_MAX
    assert door.seconds_shut("10.0.0.1") == 0
