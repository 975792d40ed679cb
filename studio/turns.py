"""Whose video is made next, where many ask at once: everybody has a turn before anybody has the next."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import gradio as gr

from studio.accounts import name_of
from studio.components import Updates, progress_bar, refusal
from studio.generation import Stops
from studio.translations import say

WAITING_MAX = 3  # videos of one person that wait or are made
TOLD_EVERY = 1.0  # seconds


@dataclass(eq=False)
class _Ticket:
    """A video that somebody asked for."""

    person: str
    turn: asyncio.Event = field(default_factory=asyncio.Event)


class Turns:
    """The videos that wait, one made at a time. For one event loop."""

    def __init__(self) -> None:
        self._waiting: list[_Ticket] = []
        self._served: dict[str, float] = {}
        self._now: _Ticket | None = None

    @contextmanager
    def ticket(self, visitor: gr.Request) -> Iterator[_Ticket]:
        """A place in the line, given up at the end of the block.

        Errors: gr.Error when this person has too many already.
        """
        person = name_of(visitor) or visitor.session_hash or ""
        theirs = [ticket for ticket in (*self._waiting, self._now) if ticket is not None and ticket.person == person]
        if len(theirs) >= WAITING_MAX:
            raise refusal(say(visitor, "too_many_waiting", number=WAITING_MAX))
        ticket = _Ticket(person)
        self._waiting.append(ticket)
        self._next()
        try:
            yield ticket
        finally:
            if self._now is ticket:
                self._now = None
                self._served[person] = time.monotonic()
            else:
                self._waiting.remove(ticket)
            self._next()

    def ahead(self, ticket: _Ticket) -> int:
        """How many videos, of anybody, come before one that waits."""
        order = self._order()
        return order.index(ticket) + (self._now is not None) if ticket in order else 0

    def _next(self) -> None:
        if self._now is None and self._waiting:
            self._now = self._order()[0]
            self._waiting.remove(self._now)
            self._now.turn.set()
        if not self._waiting and self._now is None:
            self._served.clear()  # nobody waits: nobody was before anybody

    def _order(self) -> list[_Ticket]:
        """Those that wait: the first of each person, who was served longest ago before others, then the second of each."""
        rounds: dict[str, int] = {}
        places = []
        for number, ticket in enumerate(self._waiting):
            rounds[ticket.person] = rounds.get(ticket.person, -1) + 1
            places.append(((rounds[ticket.person], self._last(ticket.person), number), ticket))
        return [ticket for _, ticket in sorted(places, key=lambda place: place[0])]

    def _last(self, person: str) -> float:
        served = self._served.get(person, 0.0)
        return time.monotonic() if self._now is not None and self._now.person == person else served


def in_turn(turns: Turns, stops: Stops, shown: gr.blocks.Block) -> Callable[[Callable], Callable]:
    """Let a handler of the page wait for its turn, and tell how many are before it.

    stops: who stops while they wait need not wait on.
    shown: where it is told.
    Returns: a decorator for generator functions that take the visitor first.
    """

    def decorate(handler: Callable) -> Callable:
        @functools.wraps(handler)
        async def waiting(visitor: gr.Request, *values: object, **named: object) -> AsyncIterator[Updates]:
            stopping = stops.of(visitor.session_hash or "")
            with turns.ticket(visitor) as ticket:
                while not ticket.turn.is_set() and not stopping.is_set():
                    yield {shown: progress_bar(say(visitor, "videos_before", number=turns.ahead(ticket)))}
                    await at_most(ticket.turn, TOLD_EVERY)
                steps, end = handler(visitor, *values, **named), object()
                try:
                    while (step := await asyncio.to_thread(next, steps, end)) is not end:
                        yield step
                finally:
                    await asyncio.to_thread(steps.close)

        return waiting

    return decorate


async def at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but no longer than so many seconds."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        pass
