"""The card of the generic stages: what each was trained on, how, for how long, and under which terms."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Mapping, Sequence

import torch

from gmtalker.assets import GENERIC
from gmtalker.pretrain.datasets import MANIFEST, WHOLE, Row
from gmtalker.stages import FRONT_MATTER, INDEX
from gmtalker.training.checkpoints import TrainState

TITLE = f"""{FRONT_MATTER}# GMTalker Studio, generic stages

The parts that all avatars share, trained by this project with its own code; after the method of
[GMTalker](https://arxiv.org/abs/2312.07669), without any weight or number of its authors.

**Research demo, not for commercial use**: some of the clips behind these weights may be used for research only. No frame and no
recording of anybody is in them. Numbers below are watched during training; measures on held-out test clips are in the project's
README.
"""


def write_section(
    card: Path,
    stage: str,
    command: str,
    state: TrainState,
    rows: Sequence[Row],
    figures: Mapping[str, float | None],
    parameters: int,
) -> None:
    """Writes or replaces the section of one stage in the card, and leaves the other stages' as they are."""
    text = card.read_text(encoding="utf-8") if card.is_file() else TITLE
    sets: dict[str, Counter] = {}
    for row in rows:
        # A speaker of a large set or a person of a loose clip: the folder is the set.
        name = Path(row.file).parts[0] if row.dataset == MANIFEST else row.dataset
        whole = row.train_seconds == WHOLE
        sets.setdefault(name, Counter()).update(files=1, seconds=0 if whole else round(row.train_seconds), whole=whole)
    work = f"{state.step} steps of training" if state.step else "solved for"
    lines = [
        f"## {stage}",
        "",
        f"{parameters / 1e6:.2f} M parameters, {work} in {state.seconds / 60:.1f} minutes on {_machine()}.",
        "",
        f"    {command}",
        "",
        "| training rows of | files | minutes |",
        "|---|---|---|",
        *(
            f"| {name} | {count['files']} | {'all' if count['whole'] else round(count['seconds'] / 60, 1)} |"
            for name, count in sorted(sets.items())
        ),
        "",
        *(f"- {name}: {value}" for name, value in figures.items() if value is not None),
    ]
    section = "\n".join(lines).rstrip() + "\n"
    kept = re.split(r"(?m)^(?=## )", text)
    others = [part.rstrip() + "\n" for part in kept if not part.startswith(f"## {stage}\n")]
    card.parent.mkdir(parents=True, exist_ok=True)
    card.write_text("\n".join([*others, section]), encoding="utf-8")
    index = card.parent / INDEX
    if not index.exists():  # what was trained can be used as generic stages as soon as all of them are there
        shutil.copy(GENERIC / INDEX, index)


def _machine() -> str:
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return "one CPU core" if threads == 1 else f"{threads} CPU cores"
