"""The consent that every avatar requires; it is kept in avatar.json."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

CONSENT_WORDS = (
    "I am the person in these clips, or I have that person's permission. I agree that an avatar of this person is made, "
    "which can be made to say anything."
)


@dataclass(frozen=True)
class Consent:
    """Who agreed to what, and when.

    who: the person's name.
    when: ISO 8601 with time zone.
    words: the sentence that was agreed to.
    Errors: ValueError when who or words are empty, or `when` is not a time.
    """

    who: str
    when: str
    words: str

    def __post_init__(self) -> None:
        if not self.who.strip() or not self.words.strip():
            raise ValueError("Consent needs the name of the person and the words that were agreed to")
        datetime.fromisoformat(self.when)

    @classmethod
    def given_now(cls, who: str, words: str = CONSENT_WORDS) -> Consent:
        """The consent of somebody who agrees at this moment."""
        return cls(who.strip(), datetime.now(timezone.utc).isoformat(timespec="seconds"), words)
