"""Uploads under the names that people gave them: gradio keeps files under names of its own, which commands would then name."""

from __future__ import annotations

import filecmp
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.utils import get_upload_folder

from gmtalker.files import NAME_BYTES_MAX

Upload = TypeVar("Upload", gr.Audio, gr.File, gr.UploadButton)


def keeping_names(upload: Upload) -> Upload:
    """A component for uploads, whose handlers get the files under the names that they had where they came from.

    It is changed, not derived from: gradio writes a file beside the source of every class of components.
    """
    received = upload.preprocess

    def preprocess(payload: Any) -> Any:
        paths, files = received(payload), getattr(payload, "root", payload)
        if isinstance(paths, list):
            return [under_its_name(str(path), file.orig_name) for path, file in zip(paths, files)]
        return under_its_name(paths, payload.orig_name) if isinstance(paths, str) else paths

    upload.preprocess = preprocess  # type: ignore[method-assign]
    return upload


def is_upload(path: str) -> bool:
    """Whether a file lies in the folder of what visitors send and get: anybody can name any file that the page serves."""
    return Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve())


def under_its_name(path: str, original: str | None) -> str:
    """A second name for an upload, beside gradio's, in the folder that it has for itself.

    path: of the file as gradio keeps it.
    original: the name it had; anybody can send any.
    Returns: the path with that name, or as it is where no file can be called so.
    """
    name = Path(original or "").name
    if not is_upload(path):  # an example of the program's own
        return path
    if not name or name in (Path(path).name, ".", "..") or "\0" in name or len(os.fsencode(name)) > NAME_BYTES_MAX:
        return path
    named = Path(path).with_name(name)
    try:
        if not named.exists():
            os.link(path, named)
        elif not named.samefile(path) and not filecmp.cmp(named, path, shallow=False):  # else the same was sent twice
            return path
    except (OSError, ValueError):  # a file system without links, or one on which no name has such letters
        return path
    return str(named)


def lent(path: str, beside: str | None = None) -> str:
    """A second name for a file of the workspace, in the folder of what visitors send and get: gradio serves no other.

    beside: another one that is to lie in the same folder.
    Errors: OSError when it can't be read.
    """
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    for source in map(Path, filter(None, (path, beside))):
        second_name(source, folder / source.name)
        os.utime(folder / source.name)  # or it would be deleted as one of long ago
    return str(folder / Path(path).name)


def second_name(source: Path, target: Path) -> None:
    """A second name for a file where the file system has such, else a copy.

    Errors: OSError; FileNotFoundError for a file that is gone.
    """
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another disk
        shutil.copyfile(source, target)
