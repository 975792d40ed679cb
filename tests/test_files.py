"""A file is written whole or not at all, and nothing is left beside it."""

from __future__ import annotations

import pytest

from gmtalker.files import whole_file


def test_the_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "two words.json"
    with whole_file(path) as unfinished:
        unfinished.write_text("half", encoding="utf-8")
        assert not path.exists()
        assert unfinished.parent == tmp_path and unfinished.suffix == ".json" and unfinished.name.startswith(".")
        unfinished.write_text("whole", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_is_replaced(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"before")
    with whole_file(str(path)) as unfinished:
        unfinished.write_bytes(b"now")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"now"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"before")
    with pytest.raises(error), whole_file(path) as unfinished:
        unfinished.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_an_error_before_anything_is_written_is_the_one_that_is_raised(tmp_path):
    with pytest.raises(ValueError), whole_file(tmp_path / "file.bin"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_and_a_name_that_is_taken_are_errors(tmp_path):
    with pytest.raises(OSError), whole_file(tmp_path / "missing" / "file.bin") as unfinished:
        unfinished.write_bytes(b"whole")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError), whole_file(tmp_path / "taken") as unfinished:
        unfinished.write_bytes(b"whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]
