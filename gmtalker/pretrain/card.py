"""The model card of the generic stages: what each was trained on, how, for how long, and under which terms."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import ModelCard

from gmtalker.assets import GENERIC
from gmtalker.files import whole_file
from gmtalker.pretrain.datasets import MANIFEST, WHOLE, Row
from gmtalker.stages import CARD, FRONT_MATTER, INDEX
from gmtalker.training.checkpoints import TrainState

TITLE = f"""{FRONT_MATTER}# GMTalker Studio, generic stages

The parts that all avatars share, trained by this project with its own code; after the method of
[GMTalker](https://arxiv.org/abs/2312.07669), without any weight or number of its authors.

**Research demo, not for commercial use**: some of the clips behind these weights may be used for research only. No frame and no
recording of anybody is in them. Numbers below are watched during training; measures on held-out test clips are in the project's
`docs/results`.
"""


@dataclass(frozen=True)
class StageSection:
    """What the card says of one stage.

    stage: its name, the heading.
    command: the command line that trained it.
    state: how long it took.
    rows: the clips it was trained on.
    figures: numbers taken during training, by name; one that is None is left out.
    parameters: how many numbers its weights have.
    """

    stage: str
    command: str
    state: TrainState
    rows: Sequence[Row]
    figures: Mapping[str, object]
    parameters: int

    def to_markdown(self) -> str:
        """The section with its heading."""
        work = f"{self.state.step} steps of training" if self.state.step else "solved for"
        figures = [f"- {name}: {value}" for name, value in self.figures.items() if value is not None]
        lines = [
            f"## {self.stage}",
            "",
            f"{self.parameters / 1e6:.2f} M parameters, {work} in {self.state.seconds / 60:.1f} minutes on {_machine()}.",
            "",
            f"    {self.command}",
            "",
            *_table_of_sets(self.rows),
            "",
            *figures,
        ]
        return "\n".join(lines).rstrip() + "\n"


def write_section(output: Path, section: StageSection) -> None:
    """Write or replace the section of one stage in the card of a folder of stages; the other sections stay as they are.

    output: the folder; what is missing of it, its card and its index, is made.
    Errors: OSError when it can't be written.
    """
    path, index = Path(output) / CARD, Path(output) / INDEX
    card = ModelCard.load(path) if path.is_file() else ModelCard(TITLE)
    parts = re.split(r"(?m)^(?=## )", card.text)
    others = [part.rstrip() + "\n" for part in parts if not part.startswith(f"## {section.stage}\n")]
    card.text = "\n".join([*others, section.to_markdown()])
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        card.save(unfinished)
    if not index.exists():  # what was trained can be used as generic stages as soon as all of them are there
        shutil.copy(GENERIC / INDEX, index)


def _table_of_sets(rows: Sequence[Row]) -> list[str]:
    """Files and minutes of each set, as a Markdown table."""
    sets: dict[str, Counter] = {}
    for row in rows:
        # A speaker of a large set or a person of a loose clip: the folder is the set.
        parts = Path(row.file).parts
        name = row.dataset if row.dataset != MANIFEST else parts[0] if len(parts) > 1 else row.path.parent.name
        whole = row.train_seconds == WHOLE
        sets.setdefault(name, Counter()).update(files=1, seconds=0 if whole else round(row.train_seconds), whole=whole)
    table = [
        f"| {name} | {count['files']} | {'all' if count['whole'] else round(count['seconds'] / 60, 1)} |"
        for name, count in sorted(sets.items())
    ]
    return ["| training rows of | files | minutes |", "|---|---|---|", *table]


def _machine() -> str:
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return "one CPU core" if threads == 1 else f"{threads} CPU cores"
