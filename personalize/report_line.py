"""One line of the report on a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class ReportLine:
    """One line of a report.

    name: what was examined.
    value: what was found.
    advice: how to do better; empty on a pass.
    """

    name: str
    status: Status
    value: str
    advice: str = ""
