"""Where the page runs: on a person's own machine, or as a Space. Imported before gradio and torch:
it sets environment variables that they read at import.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gmtalker.avatars.workspace import private_home
from gmtalker.clock import LABELS
from gmtalker.files import temporary_folder
from studio.spacefile import STORAGE_PATH, Limits, Spacefile

STORAGE = Path(STORAGE_PATH)
KEEP_SECONDS = 24 * 3600.0  # of what visitors send and get
LOOK_SECONDS = 600.0  # between two looks for what is older


def prepare() -> None:
    """Set the workspace, and what gradio and torch read when they are imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # faces and voices stay on this machine
    if "SPACE_ID" not in os.environ:
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # nobody says for others from where they come, unless the owner names it
        return
    if cores := os.environ.get("CPU_CORES"):  # torch would count those of the whole host, and its threads wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(float(cores)))))
    if not os.environ.get("GMTALKER_HOME") and STORAGE.is_dir() and os.access(STORAGE, os.W_OK):
        os.environ["GMTALKER_HOME"] = str(STORAGE)


def reach_itself(host: str | None) -> None:
    """See to it that the page asks itself whether it has started, not a proxy: gradio does, by its address."""
    own = ["localhost", "127.0.0.1", "::1", *([host] if host else [])]
    for name in ("NO_PROXY", "no_proxy"):
        known = [entry for entry in os.environ.get(name, "").split(",") if entry]
        os.environ[name] = ",".join(dict.fromkeys([*known, *own]))


@contextmanager
def own_uploads(keep_seconds: float = KEEP_SECONDS) -> Iterator[None]:
    """A folder of this page alone, in the workspace, for what its visitors send and get: deleted at its end, or where the page
    was killed at the start of the next; the variable GRADIO_TEMP_DIR names another.

    gradio names a file in it by what it holds, and deletes its own at its end: of two pages with one folder, the first
    to end would take the other's.

    keep_seconds: after which a file is deleted, also one whose upload broke off.
    Errors: OSError when the workspace can't be written to.
    """
    if os.environ.get("GRADIO_TEMP_DIR"):
        yield
        return
    with temporary_folder(private_home()) as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder.resolve())
        ended = threading.Event()
        threading.Thread(target=_delete_old, args=(folder, keep_seconds, ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            del os.environ["GRADIO_TEMP_DIR"]


def _delete_old(folder: Path, keep_seconds: float, ended: threading.Event) -> None:
    while not ended.wait(min(keep_seconds, LOOK_SECONDS)):
        delete_older(folder, time.time() - keep_seconds)


def delete_older(folder: Path, moment: float) -> None:
    """Delete the files below a folder that were written before a moment, in seconds since 1970."""
    for path in folder.rglob("*"):
        with suppress(OSError):  # another thread was first
            if not path.is_dir() and path.lstat().st_mtime < moment:
                path.unlink()


@dataclass(frozen=True)
class Deployment:
    """What the page may do where it runs.

    limits: how much one visitor may ask for.
    demo: nobody trains.
    login: visitors sign in with Hugging Face.
    host: the address it listens at; "0.0.0.0" lets everybody in.
    """

    limits: Limits = Limits()
    demo: bool = False
    login: bool = False
    host: str = "127.0.0.1"

    @property
    def default_label(self) -> str:
        """Of the visible label: on where strangers see the videos."""
        return LABELS[1] if self.demo or "SPACE_ID" in os.environ else LABELS[0]

    @classmethod
    def here(cls) -> Deployment:
        """This machine's; on a Space as its Spacefile says. Errors: UnusableInput for a Spacefile that can't be used."""
        if "SPACE_ID" not in os.environ:
            return cls()
        spacefile = Spacefile.read()
        return cls(spacefile.limits, spacefile.is_demo(os.environ["SPACE_ID"]), spacefile.login, "0.0.0.0")
