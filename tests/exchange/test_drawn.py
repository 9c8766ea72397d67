"""The page of phases is what the table has, and its picture can be drawn."""

from __future__ import annotations

import re
from pathlib import Path

from fastgw.exchange.drawn import diagram, phases_markdown
from fastgw.exchange.phases import DONE, ENDS, EVENTS, MOVES, PHASES

PAGE = Path(__file__).parents[2] / "docs/phases.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == phases_markdown(), "run `make docs`"


def test_each_move_is_in_its_row_and_no_other() -> None:
    rows = dict(re.findall(r"^\| ([A-Z]+) \| [^|]{5,} \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert list(rows) == list(PHASES)
    for phase, moves in MOVES.items():
        told = re.findall(r"\*([\w ]+)\* → ([A-Z]+)", rows[PHASES[phase]])
        assert told == [(EVENTS[event], PHASES[to]) for event, to in moves.items()]


def test_each_move_is_in_the_picture_but_the_end_which_may_come_everywhere() -> None:
    first, begin, *ways = diagram().splitlines()
    assert (first, begin.strip()) == ("stateDiagram-v2", "[*] --> RECEIVING")
    drawn = set()
    for way in ways:
        found = re.fullmatch(r"    ([A-Z]+) --> ([A-Z]+) : ([\w ,]+)", way)
        assert found, way
        drawn |= {(found[1], event, found[2]) for event in found[3].split(", ")}
    moves = {(PHASES[phase], EVENTS[event], PHASES[to]) for phase, to_of in MOVES.items() for event, to in to_of.items()}
    assert moves - drawn == {(name, EVENTS[ENDS], PHASES[DONE]) for name in PHASES if name != PHASES[DONE]}
    assert drawn < moves
