"""The rows of CASES G are what they say: the stock client sees of each engine what the row's outcome is made of.

What a gateway makes of them is for the tests of its upstream; here, that a row can be played, and is good HTTP/2 where it is
meant to be.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from fastgw.sim.faults import Faults
from fastgw.sim.h2_seen import Face
from tests.h2cases.upstream import DONE, EVENT, ROWS, Row
from tests.support.h2.peer import Server, Talk

BY_HAND = [row for row in ROWS if row.plays is not None]
FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "e")]


def heard(row: Row) -> list[Event]:
    """What the stock client is told, until it has had enough."""
    machine = H2Connection(H2Configuration(client_side=True))
    machine.initiate_connection()
    events: list[Event] = []

    def feed(data: bytes) -> None:
        with suppress(ProtocolError):  # after its GOAWAY it hears nothing more, as H2's own rows say
            events.extend(machine.receive_data(data))

    talk = Talk(Server(settings=row.first, strict=False), feed, machine.data_to_send, step=1).begins()
    streams = [1 + 2 * at for at in range(row.requests)]
    for stream in streams:
        machine.send_headers(stream, FIELDS, end_stream=True)
    talk.settles()
    assert talk.peer.streams() == streams
    assert row.plays is not None
    talk.says(row.plays(streams))
    return events


@pytest.mark.parametrize("row", BY_HAND, ids=[row.id for row in BY_HAND])
def test_what_a_client_is_told(row: Row) -> None:
    events = heard(row)
    goaway = next((event for event in events if isinstance(event, ConnectionTerminated)), None)
    if goaway is not None or row.id in ("G10/4", "G10/5"):
        return  # the stock client is deaf from there on, or makes a connection's error of a stream's: DESIGN says so
    for stream, outcome in zip(range(1, 2 * row.requests, 2), row.outcomes, strict=True):
        body = b"".join(e.data or b"" for e in events if isinstance(e, DataReceived) and e.stream_id == stream)
        ended = any(isinstance(e, StreamEnded) and e.stream_id == stream for e in events)
        reset = any(isinstance(e, StreamReset) and e.stream_id == stream for e in events)
        match outcome:
            case "whole":
                assert (body, ended) == (EVENT + DONE, True)
            case "again" | "502":
                assert not body
            case "abort":
                assert body == EVENT
                assert reset or not ended or row.id == "G7/6"


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_rows_can_be_played(row: Row) -> None:
    assert row.plays or row.fault or row.face
    Faults(row.fault)
    Face(**row.face)  # type: ignore[arg-type]
    assert len({one.id for one in ROWS}) == len(ROWS)
