"""Accounts of a page that several people share: who may come in, and whose workspace a handler works in."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import gradio as gr
import pytest

from gmtalker.avatars.workspace import owner
from gmtalker.errors import UnusableInput
from studio import page
from studio.accounts import add_account, has_accounts, in_own_workspace, may_enter
from studio.guard import OwnFilesOnly, _noted

# As the first version wrote it, with hashlib's scrypt, for "secret of ann".
FIRST_FORM = {
    "salt": "6c7e287b7e881bacaa8de1daa825f6dc",
    "key": "e616c5a537aa255c658da30b31f6bc31d333efcc446804e4f09d3001f69941ac"
    "d8ffe43043b527abd69d0c5f83747366c434b73cece2286b830772cb9c585c0d",
}


def test_only_the_right_password_lets_in(home: Path):
    assert not has_accounts() and not may_enter("ann", "secret of ann")
    add_account("ann", "secret of ann")
    assert has_accounts() and may_enter("ann", "secret of ann")
    assert not may_enter("ann", "secret of bob") and not may_enter("bob", "secret of ann") and not may_enter("ann", "")
    add_account("ann", "another secret")
    assert may_enter("ann", "another secret") and not may_enter("ann", "secret of ann")


def test_the_file_tells_no_password_and_is_its_owners_alone(home: Path):
    add_account("ann", "secret of ann")
    add_account("bob", "secret of ann")
    file = home / "people.json"
    accounts = json.loads(file.read_text())
    assert "secret" not in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert accounts["ann"]["password"].startswith("scrypt:") and accounts["ann"] != accounts["bob"]  # salted


def test_accounts_of_the_first_version_still_let_in(home: Path):
    home.mkdir()
    (home / "people.json").write_text(json.dumps({"ann": FIRST_FORM}))
    assert may_enter("ann", "secret of ann") and not may_enter("ann", "secret of bob")
    add_account("bob", "secret of bob")
    assert may_enter("ann", "secret of ann") and may_enter("bob", "secret of bob")
    assert json.loads((home / "people.json").read_text())["ann"] == FIRST_FORM


@pytest.mark.parametrize(
    "name,password",
    [("", "long enough"), (" ", "long enough"), ("a\x00b", "long enough"), ("a" * 81, "long enough"), ("ann", "short")],
)
def test_an_account_needs_a_name_and_a_password(home: Path, name: str, password: str):
    with pytest.raises(ValueError, match="at least 8 letters|1 to 80 printable"):
        add_account(name, password)
    assert not has_accounts()


def test_the_page_asks_for_a_name_only_where_somebody_has_one(home: Path, capsys):
    assert page.main(["--auth"]) == 1
    assert "--add-user" in capsys.readouterr().err


def test_one_name_however_it_is_written_is_one_account(home: Path):
    add_account("A  B", "secret of ab")
    add_account("Ame\u0301lie", "secret of amelie")
    assert (
        may_enter("A B", "secret of ab") and may_enter("Am\u00e9lie", "secret of amelie") and may_enter(" A B ", "secret of ab")
    )
    add_account("A B", "another secret")
    assert not may_enter("A  B", "secret of ab") and len(json.loads((home / "people.json").read_text())) == 2
    assert not may_enter("x" * 81, "secret of ab")


def test_of_two_old_accounts_of_one_name_the_first_lets_in(home: Path):
    home.mkdir()
    add_account("A B", "secret of ab")
    accounts = json.loads((home / "people.json").read_text())
    (home / "people.json").write_text(json.dumps({"A  B": FIRST_FORM} | accounts))
    assert may_enter("A B", "secret of ann") and not may_enter("A B", "secret of ab")


def test_somebody_is_removed_with_or_without_what_they_made(home: Path, capsys):
    add_account("ann", "secret of ann")
    theirs = home / "people" / "ann" / "avatars"
    theirs.mkdir(parents=True)
    assert page.main(["--remove-user", "ann"]) == 0 and str(theirs.parent) in capsys.readouterr().out
    assert theirs.is_dir() and not may_enter("ann", "secret of ann")
    assert page.main(["--remove-user", "ann"]) == 1 and "no account ann" in capsys.readouterr().err
    add_account("ann", "secret of ann")
    assert page.main(["--remove-user", "ann", "--with-files"]) == 0 and not theirs.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"ann": 1}', '{"ann": {}}', '{"ann": {"salt": "x", "key": "y"}}', '{"ann": {"password": 1}}']
)
def test_broken_accounts_are_told_in_one_sentence(home: Path, capsys, text: str):
    home.mkdir()
    (home / "people.json").write_text(text)
    for options in (["--auth"], ["--remove-user", "ann"]):
        assert page.main(options) == 1
        assert "holds no accounts" in capsys.readouterr().err
    with pytest.raises(UnusableInput, match="holds no accounts"):
        add_account("bob", "secret of bob")
    assert (home / "people.json").read_text() == text  # nothing of theirs is lost


def visitor(name: str | None) -> gr.Request:
    return gr.Request(username=name, session_hash="session")


def test_a_handler_works_in_the_workspace_of_who_calls_it():
    @in_own_workspace
    def whose(request: gr.Request, first: int, *, second: int) -> tuple[str, int, int]:
        return owner(), first, second

    assert whose(visitor("ann"), 1, second=2) == ("ann", 1, 2) and whose(visitor(None), 1, second=2)[0] == "" == owner()


def test_each_step_of_a_handler_does_and_so_does_its_end():
    ends = []

    class Handlers:
        @in_own_workspace
        def steps(self, request: gr.Request, **values: int):
            try:
                for name in values:
                    yield owner(), name
            finally:
                ends.append(owner())

    whole = Handlers().steps(visitor("ann"), first=1, second=2)
    assert next(whole) == ("ann", "first") and owner() == ""
    assert list(whole) == [("ann", "second")] and ends == ["ann"]
    left = Handlers().steps(visitor("bob"), first=1, second=2)
    next(left)
    left.close()
    assert ends == ["ann", "bob"] and owner() == ""


def noted_files(files: OwnFilesOnly, body: bytes, length: int) -> set[str]:
    """The files noted in the results of an event, in a response that comes in pieces of some length."""
    sent: list[bytes] = []
    theirs: set[str] = set()

    async def send(message: dict) -> None:
        sent.append(message.get("body", b""))

    noting = _noted(send, files._noter("GET", "queue/data", theirs))
    asyncio.run(noting({"type": "http.response.start", "status": 200}))
    for start in range(0, len(body), length):
        asyncio.run(noting({"type": "http.response.body", "body": body[start : start + length], "more_body": True}))
    assert b"".join(sent) == body
    return theirs


@pytest.mark.parametrize("length", [61, 997, 4096, 9999])
def test_a_file_is_noted_wherever_the_response_is_cut(length: int):
    files = OwnFilesOnly(lambda: None)
    path = f"{files.cache}/ab12/image.jpeg"
    for before in range(4070, 4110):
        events = [{"text": "x" * before}, {"path": path, "url": None, "meta": {"_type": "gradio.FileData"}}]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
        assert noted_files(files, body, length) == {path}
