"""How much strangers may make a log say."""

from __future__ import annotations

from fastgw.observe.flood import MAX_KINDS, Flood


def test_so_many_of_a_kind_in_a_second_and_then_a_number() -> None:
    flood = Flood(3)
    assert [flood.admits("401", 10.0 + turn / 10) for turn in range(9)] == [True] * 3 + [False] * 6
    assert flood.admits("429", 10.5), "another kind has room of its own"
    assert flood.due(10.95) == {}, "the second is not over"
    assert flood.waits()
    assert flood.admits("401", 11.0)
    assert flood.due(11.0) == {"401": 6}
    assert flood.due(11.0) == {}
    assert not flood.waits()


def test_a_flood_that_stops_is_told_too() -> None:
    flood = Flood(1)
    assert [flood.admits("x", 5.0) for _ in range(4)] == [True, False, False, False]
    assert flood.due(6.2) == {"x": 3}


def test_nothing_is_lost_however_many_kinds_there_are() -> None:
    flood = Flood(1)
    for turn in range(10 * MAX_KINDS):
        flood.admits(f"kind {turn}", 1.0)
        flood.admits(f"kind {turn}", 1.0)
    told = flood.due(3.0)
    assert len(told) <= MAX_KINDS + 1
    written = MAX_KINDS + 1  # one of each that had room, and one of the rest together
    assert sum(told.values()) == 20 * MAX_KINDS - written


def test_zero_lets_all_through() -> None:
    flood = Flood(0)
    assert all(flood.admits("x", 1.0) for _ in range(1000))
    assert not flood.waits()
