"""A stream between its place and its request: its connection may go meanwhile."""

from __future__ import annotations

from fastgw.net.upstream import LEFT_OVER
from fastgw.protocol.start import RequestStart
from tests.conversations.h2_row import h2
from tests.net.talk import HeardCarrier
from tests.support.requests import chat


def test_a_place_whose_connection_goes_before_the_request_is_sent() -> None:
    """Nothing was sent: the same may be asked again."""
    with h2() as say:
        client = say.talk.client().says(chat())
        say.last.answers()
        client.sees(200)
        for goes in (lambda: say.peer.goes(1), lambda: say.peer.closes("reset")):
            say.talk.client().says(chat())
            say.last.answers()
            carrier = HeardCarrier()
            stream = say.engine.open(carrier, say.talk.loop.now)
            assert stream.connected
            goes()
            stream.send(RequestStart(b"POST", b"/", b"x-request-id: "), b"", b"id", 2, b"", b"{}", 0, say.talk.loop.now + 5)
            say.talk.loop.settle()
            assert carrier.heard == [("end", LEFT_OVER)]
            stream.cancel()
            say.talk.loop.settle()
