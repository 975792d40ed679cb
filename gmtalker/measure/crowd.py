"""A crowd on the page: previews and speeches of many at once, whose turn it is, and what memory is left of it."""

from __future__ import annotations

import json
import secrets
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PREVIEWS = 3  # of each visitor
SPEECHES_OF_ONE = 3  # that the first visitor queues, while the second comes
REST_SECONDS = 600  # after which memory is looked at again
ANSWER_SECONDS = 1800


class Visitor:
    """A browser's session on a page: it uploads, starts handlers as the page's own script does, and waits for their results."""

    def __init__(self, address: str) -> None:
        self.address, self.session = address, secrets.token_hex(6)
        self.config = json.loads(self._get("/config"))

    def _get(self, way: str) -> bytes:
        with urllib.request.urlopen(self.address + way, timeout=ANSWER_SECONDS) as answer:
            return answer.read()

    def handler(self, name: str) -> int:
        """The number of a handler, by its function's name."""
        return next(item["id"] for item in self.config["dependencies"] if item.get("api_name") == name)

    def start(self, name: str, values: Sequence[object]) -> str:
        """Start a handler. Returns: the id of the event. Errors: OSError when the page does not answer."""
        body = {"data": list(values), "fn_index": self.handler(name), "session_hash": self.session, "trigger_id": None}
        request = urllib.request.Request(
            f"{self.address}/gradio_api/queue/join", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return json.loads(answer.read())["event_id"]

    def named(self, handler: str, **given: object) -> list[object]:
        """Values of an endpoint for programs in their order: those given by name, and the defaults of the others."""
        inputs = next(item["inputs"] for item in self.config["dependencies"] if item.get("api_name") == handler)
        components = {item["id"]: item["props"] for item in self.config["components"]}
        return [given.get(components[each]["label"], components[each].get("value")) for each in inputs]

    def wait(self, *events: str) -> dict[str, float | None]:
        """When each of the events of this session succeeded, by time.monotonic; None where it did not."""
        ends: dict[str, float | None] = {}
        way = f"{self.address}/gradio_api/queue/data?session_hash={self.session}"
        with urllib.request.urlopen(way, timeout=ANSWER_SECONDS) as stream:
            for line in stream:
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if message.get("event_id") in events and message.get("msg") == "process_completed":
                    ends[message["event_id"]] = time.monotonic() if message.get("success") else None
                if len(ends) == len(events):
                    break
        return dict.fromkeys(events) | ends


def previews(visitor: Visitor, number: int) -> list[bool]:
    """Stills of the bundled avatar, one after the other: whether each came."""
    came = []
    for place in range(number, number + PREVIEWS):
        weights = [0.0] * 7
        weights[place % 7] = round(0.1 + 0.8 * ((place * 37) % 100) / 100, 2)
        event = visitor.start("preview", ["GRID s1", 1.0, *weights])
        came.append(visitor.wait(event)[event] is not None)
    return came


def ask(visitor: Visitor, speech: Path) -> str:
    """Ask for a video. Returns: the id of the event."""
    file = {"path": _upload(visitor, speech), "meta": {"_type": "gradio.FileData"}}
    return visitor.start("speak", visitor.named("speak", avatar="GRID s1", speech=file))


def speak(visitor: Visitor, speech: Path) -> float | None:
    """Seconds until a video is there; None where it never comes."""
    began = time.monotonic()
    event = ask(visitor, speech)
    end = visitor.wait(event)[event]
    return None if end is None else end - began


def _upload(visitor: Visitor, file: Path) -> str:
    border = secrets.token_hex(12)
    head = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{file.name}"\r\n\r\n'
    body = head.encode() + file.read_bytes() + f"\r\n--{border}--\r\n".encode()
    kind = {"content-type": f"multipart/form-data; boundary={border}"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{visitor.address}/gradio_api/upload", body, kind), timeout=300
    ) as answer:
        return json.loads(answer.read())[0]


def crowd_figures(address: str, speech: Path, visitors: int) -> dict[str, object]:
    """Previews and a speech of each of so many visitors, all at once."""
    with ThreadPoolExecutor(2 * visitors) as crowd:
        speeches = [crowd.submit(lambda: speak(Visitor(address), speech)) for _ in range(visitors)]
        stills = [crowd.submit(lambda number=number: previews(Visitor(address), number)) for number in range(visitors)]
        drawn, made = [_result(future) or [] for future in stills], [_result(future) for future in speeches]
    return {
        "visitors": visitors,
        "previews": PREVIEWS * visitors,
        "previews_failed": PREVIEWS * visitors - sum(map(sum, drawn)),
        "speeches": len(made),
        "speeches_failed": made.count(None),
        "slowest_speech_seconds": round(max((seconds for seconds in made if seconds), default=0.0), 1),
    }


def turn_figures(address: str, speech: Path) -> dict[str, object]:
    """One visitor queues several videos, another comes after: how many of them are made before the second's?"""
    first, second = Visitor(address), Visitor(address)
    queued = [ask(first, speech) for _ in range(SPEECHES_OF_ONE)]
    with ThreadPoolExecutor(1) as beside:
        ends = beside.submit(first.wait, *queued)
        began = time.monotonic()
        waited = speak(second, speech)
        done = began + (waited or float("inf"))
        before = sum(end is not None and began < end < done for end in ends.result().values())
    return {"second_waited_seconds": None if waited is None else round(waited, 1), "videos_before_the_second": before}


def _result(future) -> object:
    try:
        return future.result()
    except Exception:  # noqa: BLE001 - whatever it was: this visitor got nothing
        return None
