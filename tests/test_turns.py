"""Many ask for videos at once: nobody waits for more than one of another's, and nobody fills the line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import gradio as gr
import pytest

from studio.generation import Stops
from studio.turns import WAITING_MAX, Turns, in_turn


def visitor(name: str) -> gr.Request:
    return gr.Request(username=name, session_hash=f"session of {name}", headers={})


def served(asked: str, turns: Turns) -> str:
    """In which order the videos are made that these people ask for, a letter each, all before the first is finished."""
    order = ""
    with ExitStack() as stack:
        blocks = []
        for person in asked:
            block = turns.ticket(visitor(person))
            blocks.append((person, block, stack.enter_context(block)))
        while blocks:
            now = [place for place, (_, _, ticket) in enumerate(blocks) if ticket.turn.is_set()]
            assert len(now) == 1  # one at a time
            person, block, _ = blocks.pop(now[0])
            order += person
            block.__exit__(None, None, None)
            stack.pop_all() if not blocks else None
    return order


@pytest.mark.parametrize(
    "asked,order",
    [("aaa", "aaa"), ("aaab", "abaa"), ("aaabbb", "ababab"), ("aaabc", "abcaa"), ("abab", "abab"), ("aabbcc", "abcabc")],
)
def test_everybody_has_a_turn_before_anybody_has_the_next(asked: str, order: str):
    assert served(asked, Turns()) == order


def test_who_comes_later_waits_for_one_video_at_most():
    turns = Turns()
    with turns.ticket(visitor("a")), turns.ticket(visitor("a")), turns.ticket(visitor("a")), turns.ticket(visitor("b")) as ticket:
        assert turns.ahead(ticket) == 1


def test_nobody_has_more_than_a_few_in_the_line():
    turns = Turns()
    with ExitStack() as stack:
        for _ in range(WAITING_MAX):
            stack.enter_context(turns.ticket(visitor("a")))
        with pytest.raises(gr.Error, match=f"You have {WAITING_MAX} videos waiting"):
            stack.enter_context(turns.ticket(visitor("a")))
        stack.enter_context(turns.ticket(visitor("b")))
    with turns.ticket(visitor("a")) as ticket:
        assert ticket.turn.is_set()  # all gave their places up


def test_who_goes_while_waiting_or_in_the_middle_gives_the_place_up():
    ended: list[str] = []
    turns, stops, shown = Turns(), Stops(), gr.HTML()

    def speak(request: gr.Request, words: str) -> Iterator[dict]:
        try:
            for number in range(3):
                yield {shown: f"{words} {number}"}
        finally:
            ended.append(words)

    async def people() -> tuple[list, list]:
        handler = in_turn(turns, stops, shown)(speak)
        first, second, third = handler(visitor("a"), "one"), handler(visitor("b"), "two"), handler(visitor("c"), "three")
        assert (await anext(first))[shown] == "one 0"
        assert "1" in (await anext(second))[shown] and "2" in (await anext(third))[shown]
        await second.aclose()  # gone while waiting
        await first.aclose()  # gone in the middle
        return [step[shown] async for step in third][-3:], ended

    steps, ended = asyncio.run(people())
    assert steps == ["three 0", "three 1", "three 2"] and ended == ["one", "three"]


def test_stop_ends_the_waiting():
    turns, stops, shown = Turns(), Stops(), gr.HTML()

    def speak(request: gr.Request) -> Iterator[dict]:
        yield {shown: "stopped" if stops.of(request.session_hash).is_set() else "made"}

    async def people() -> list[str]:
        handler = in_turn(turns, stops, shown)(speak)
        with turns.ticket(visitor("a")):
            stops.begin("session of b")
            waiting = handler(visitor("b"))
            await anext(waiting)
            stops.stop("session of b")
            return [step[shown] async for step in waiting]

    assert asyncio.run(people()) == ["stopped"]
