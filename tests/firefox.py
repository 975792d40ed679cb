"""Firefox, driven by WebDriver BiDi, which it speaks itself: as much of it as the tests need."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from shutil import which

FIREFOX = next(filter(None, map(which, ("firefox", "firefox-esr"))), None)


class Firefox:
    """A window of a Firefox of its own. Errors: AssertionError for what it can't do."""

    def __init__(self, profile: Path) -> None:
        from websockets.sync.client import connect  # late: only where the tests' requirements are installed

        command = [FIREFOX, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        address = next(found[1] for line in self._process.stderr if (found := re.search(r"BiDi listening on (ws://\S+)", line)))
        self._socket, self._numbers = connect(f"{address}/session", max_size=None, proxy=None), itertools.count(1)
        self._ask("session.new", capabilities={})
        self.window = self._ask("browsingContext.getTree")["contexts"][0]["context"]

    def _ask(self, method: str, **values: object) -> dict:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": values}))
        while True:
            answer = json.loads(self._socket.recv(120))
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self._ask("browsingContext.navigate", context=self.window, url=url, wait="complete")

    def evaluate(self, expression: str, frame: str = "") -> str:
        """What a script that gives a string says, also later."""
        given = {"expression": expression, "awaitPromise": True, "target": {"context": frame or self.window}}
        return self._ask("script.evaluate", **given)["result"]["value"]

    def frames(self) -> list[str]:
        """Addresses of the pages that are shown inside this one; a refused one's is that of the browser's own."""
        tree = self._ask("browsingContext.getTree", root=self.window)
        return [self.evaluate("document.documentURI", frame["context"]) for frame in tree["contexts"][0]["children"]]

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._process.stderr.close()
