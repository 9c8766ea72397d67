"""A request that passes as it is, on a runner's side of a tunnel: how it ends when its engine, or its client, does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastgw.errors import GatewayError
from fastgw.exchange.passage import Passage
from fastgw.exchange.tally import UNCOUNTED
from fastgw.net.client import ClientStream
from fastgw.protocol.start import RequestStart
from fastgw.stats import Stats
from tests.conversations.h2_row import REFUSED_STREAM, h2
from tests.support.conversation import Conversation, conversation

START = RequestStart(b"POST", b"/", b"x-request-id: ")


def passing(pool: Any, talk: Conversation, stats: Stats, told: list[int]) -> Passage:
    """``told``: with what its client's stream was reset."""
    client = ClientStream(talk.reactor.wheel, talk.core, "", True, b"")
    return Passage(pool, stats, UNCOUNTED, lambda _, code: told.append(code), client, START, b"id")


@pytest.mark.parametrize("end", [
    lambda one: one.on_gone("reset"), lambda one: one.on_stalled(), lambda one: one.on_error(GatewayError("bad_request")),
])  # fmt: skip
@pytest.mark.parametrize("whole", [False, True])
def test_what_ends_before_its_engine_is_asked_or_amid_its_answer_is_open_no_more(
    end: Callable[[Passage], None], whole: bool
) -> None:
    stats = Stats()
    with conversation() as talk:
        one = passing(talk.engines[0], talk, stats, [])
        one.on_body(b"{}", whole)
        talk.passes(0.01)
        assert (stats.exchanges_open, talk.asked) == (1, [whole])
        for _ in range(2):
            end(one)
        assert (stats.exchanges_open, stats.exchanges_total) == (0, 1)
        talk.engines[0].engine.answered_total += whole  # (a runner's gateway counts it)


def test_what_an_engine_of_http2_did_not_look_at_is_asked_again_and_then_told_so() -> None:
    """Whatever else it has looked at meanwhile."""
    with h2() as say:
        told: list[int] = []
        first = passing(say.engine, say.talk, Stats(), [])
        second = passing(say.engine, say.talk, Stats(), told)
        first.on_body(b"{}", True)
        second.on_body(b"{}", True)
        say.talk.passes(0.01)
        say.peer.goes(1)
        say.talk.passes(0.01)
        assert ([one.body for one in say.asked], told) == ([b"{}"] * 3, [])
        say.last.resets(REFUSED_STREAM)
        assert told == [REFUSED_STREAM]
        first.on_gone("reset")
        say.talk.passes(0.01)
        say.engine.engine.answered_total += len(say.asked)  # (a runner's gateway counts them)
