"""How much one visitor may ask for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

SPACEFILE = Path(__file__).resolve().parent.parent / "Spacefile"


@dataclass(frozen=True)
class Limits:
    """upload_megabytes: of one file; speech_minutes: of one video; training_minutes: of one training."""

    upload_megabytes: int = 2048
    speech_minutes: float = 120.0
    training_minutes: float = 600.0

    @classmethod
    def of_space(cls) -> Limits:
        """Those of the hosted demo. Errors: ValueError for a limit that is not known or not above 0."""
        given = (yaml.safe_load(SPACEFILE.read_text(encoding="utf-8")) or {}).get("limits", {})
        unknown = set(given) - {field.name for field in fields(cls)}
        if unknown or not all(isinstance(value, (int, float)) and value > 0 for value in given.values()):
            raise ValueError(f"The limits of {SPACEFILE.name} are {', '.join(field.name for field in fields(cls))}, each above 0")
        return cls(**given)
