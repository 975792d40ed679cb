"""The consent that every avatar requires; it is kept in avatar.json."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any

from gmtalker.avatars.consent import end_of

CONSENT_WORDS = (
    "I am the person in these clips, or I have that person's permission. I agree that an avatar of this person is made, "
    "which can be made to say anything."
)
GROWN_UP = "The person is of age."
HEIRS = "The person is no longer living, and their heirs agree."
WITHDRAWING = "At any time: `personalize withdraw`, or whoever keeps the avatar is asked to delete it."
TEXT_MAX = 500  # characters of what somebody writes


@dataclass(frozen=True)
class Consent:
    """Who agreed to what, when, and within which bounds. Empty bounds are none.

    who: the person's name.
    when: ISO 8601 with time zone.
    words: the sentence that was agreed to.
    uses: what for, such as "lessons of our school".
    places: where it is shown, such as "our own website".
    until: the last day, ISO 8601 (2027-12-31); after it nothing is made with the avatar any more.
    withdrawal: how it is withdrawn.
    proof: what a film of the consent showed (proof.Proof); None for none.
    Errors: ValueError when who or words are empty, when `when` or `until` is no time, or for a text that is too long.
    """

    who: str
    when: str
    words: str
    uses: str = ""
    places: str = ""
    until: str = ""
    withdrawal: str = WITHDRAWING
    proof: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.who.strip() or not self.words.strip():
            raise ValueError("Consent needs the name of the person and the words that were agreed to")
        datetime.fromisoformat(self.when)
        for name in ("uses", "places", "withdrawal"):
            if len(getattr(self, name)) > TEXT_MAX:
                raise ValueError(f"The {name} of a consent have up to {TEXT_MAX} characters")
        try:
            end_of({"until": self.until})
        except ValueError as error:
            raise ValueError(f"The last day of a consent is a date such as 2027-12-31, not {self.until!r}") from error

    @classmethod
    def given_now(cls, who: str, words: str = CONSENT_WORDS, **bounds: Any) -> Consent:
        """The consent of somebody who agrees at this moment.

        bounds: uses, places, until, proof.
        Errors: ValueError as above, and when the last day is over.
        """
        stripped = {name: value.strip() if isinstance(value, str) else value for name, value in bounds.items()}
        given = cls(who.strip(), datetime.now(timezone.utc).isoformat(timespec="seconds"), words, **stripped)
        given.check_lasts()
        return given

    def check_lasts(self) -> None:
        """Errors: ValueError when its last day is over."""
        end = end_of({"until": self.until})
        if end is not None and end < date.today():
            raise ValueError(f"{self.who} agreed until {end}, which is over; ask them again")
