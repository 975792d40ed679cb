"""Measures as a Markdown table, with published figures and notes on protocol differences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gmtalker.files import whole_file

# As their authors report them on MEAD: one network for all people, driven by another pose, 256 px.
YARDSTICKS = {
    "psnr": "EAT 21.8",
    "ssim": "DreamTalk 0.86, FlowVQTalker 0.69, EAT 0.68",
    "mouth_landmark_distance": "FlowVQTalker 1.9, EAT 2.2, DreamTalk 2.9",
    "face_landmark_distance": "DreamTalk 1.9, FlowVQTalker 2.1, EAT 2.4",
    "emotion_accuracy": "EAT 75 %, FlowVQTalker 72 %, EAMM 50 %",
}
PROTOCOL = (
    "The published figures are measured on MEAD with one network for all people; ours on held-out video of the avatar's own "
    "person, drawn with that video's own pose and expression (picture and landmark measures) or from its sound alone (lips). "
    "They stand side by side to show the scale, not to be compared."
)


def write_table(measures: Mapping, path: Path) -> None:
    """Write measures as Markdown: a table of the plain ones, and one under a heading for each group.

    path: of the JSON file that has them; the table gets the same name, ending in .md.
    Errors: OSError when it can't be written.
    """
    lines = [f"# {Path(path).stem}", ""]
    plain = {name: value for name, value in measures.items() if not isinstance(value, Mapping)}
    lines += _table(plain)
    for name, value in measures.items():
        if isinstance(value, Mapping):
            lines += ["", f"## {_words(name)}", "", *_table(_flat(value))]
    if any(name in YARDSTICKS for name in measures):
        lines += ["", PROTOCOL]
    with whole_file(Path(path).with_suffix(".md")) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(values: Mapping) -> list[str]:
    if not values:
        return []
    known = any(name in YARDSTICKS for name in values)
    head = ["| measure | ours | published |", "|---|---|---|"] if known else ["| measure | ours |", "|---|---|"]
    rows = [
        f"| {_words(name)} | {value} |" + (f" {YARDSTICKS.get(name, '')} |" if known else "") for name, value in values.items()
    ]
    return head + rows


def _flat(values: Mapping, before: str = "") -> dict:
    """Nested measures under one name each: {"a": {"b": 1}} -> {"a, b": 1}."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{before}{name}, ") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return flat


def _words(name: str) -> str:
    return name.replace("_", " ")
