"""The table of phases against its picture: what it says of every pair, and that no exchange is moved beside it."""

from __future__ import annotations

import ast
from itertools import product

import pytest

from fastgw.exchange import phases
from fastgw.exchange.phases import (
    CONNECTING,
    DONE,
    ENDS,
    EVENT_COUNT,
    EVENTS,
    GOES_ON,
    MOVES,
    NOWHERE,
    PHASES,
    QUEUED,
    RECEIVING,
    TABLE,
    TUNNEL,
    WAITING,
    IllegalMove,
    moved,
)  # fmt: skip
from tests.architecture.sources import modules

ALL = range(len(PHASES))


def test_every_phase_is_drawn_and_no_other() -> None:
    text = phases.__doc__ or ""
    assert tuple(line.split()[0] for line in text.splitlines() if line.startswith("    ")) == PHASES


def test_the_bytes_are_the_table() -> None:
    for phase, event in product(ALL, range(EVENT_COUNT)):
        assert TABLE[phase * EVENT_COUNT + event] == MOVES[phase].get(event, NOWHERE)
    assert len(TABLE) == len(PHASES) * len(EVENTS)
    assert len(PHASES) <= NOWHERE


def test_every_phase_is_reached_and_every_event_happens() -> None:
    reached = {RECEIVING}
    while True:
        more = reached | {there for phase in reached for there in MOVES[phase].values()}
        if more == reached:
            break
        reached = more
    assert reached == set(ALL)
    assert {event for moves in MOVES.values() for event in moves} == set(range(EVENT_COUNT))


def test_the_end_comes_from_everywhere_and_is_final() -> None:
    assert [phase for phase in ALL if MOVES[phase].get(ENDS) != DONE] == [DONE]
    assert MOVES[DONE] == {}


@pytest.mark.parametrize("phase", ALL, ids=PHASES)
def test_what_the_table_does_not_have_raises(phase: int) -> None:
    for event in range(EVENT_COUNT):
        if event in MOVES[phase]:
            assert moved(phase, event) == MOVES[phase][event]
        else:
            with pytest.raises(IllegalMove, match=f"an exchange that is {PHASES[phase]} {EVENTS[event]}$"):
                moved(phase, event)


def test_nothing_is_sent_twice_without_a_new_connection_or_a_pause() -> None:
    """What has been sent gets back to WAITING only over CONNECTING, or over a wait; a tunnel leads to its end alone."""
    assert set(MOVES[WAITING].values()) & {WAITING, RECEIVING, QUEUED} == set()
    assert CONNECTING in MOVES[WAITING].values()
    assert set(MOVES[TUNNEL]) == {ENDS}
    waits = [phase for phase in ALL if GOES_ON in MOVES[phase]]
    assert all(set(MOVES[phase]) == {GOES_ON, ENDS} for phase in waits)


@pytest.mark.once
def test_one_place_moves_an_exchange() -> None:
    movers = [
        f"{name}:{node.lineno}"
        for name, tree in modules("fastgw").items()
        if name.startswith(("fastgw.exchange.", "fastgw.policy.")) or name == "fastgw.app"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "phase" and isinstance(node.ctx, ast.Store)
    ]
    # (The first one that it has, and its moves.)
    assert [place.partition(":")[0] for place in movers] == ["fastgw.exchange.state"] * 2, movers
