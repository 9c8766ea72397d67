"""An answer that nobody waits for holds its place until it has ended, or falls silent; then it is told once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastgw.errors import GatewayError
from fastgw.exchange.call import Call
from fastgw.exchange.unread import Unread
from fastgw.net.clock import monotonic
from fastgw.net.upstream import UpstreamStream
from fastgw.protocol.body import source_of
from fastgw.protocol.start import RequestStart
from tests.exchange.calls import Core
from tests.net.talk import Peer, answered, turns, until
from tests.upstream.test_pool import Place, place


class Asked(Call):
    ready = False

    def on_stream(self) -> None:
        self.ready = True


async def asked(here: Place, limit_s: float = 5.0) -> tuple[Unread, Peer, Core]:
    """A request whose client has left when its engine had said nothing yet."""
    here.pool.engine.cancel = False
    core = Core(here.reactor, here.stats)
    core.limit_s = limit_s
    call = Asked(core, here.pool, False)
    call.open(monotonic(), False)
    peer = await here.take()
    await until(lambda: call.ready)
    stream = call.stream
    assert stream is not None
    stream.send(RequestStart(b"GET", b"/", b"x-request-id: "), b"", b"id", 0, b"", b"", 0, monotonic() + 5.0)
    call.sent_at = monotonic()
    call.leave()
    call.leave()  # the place is not its own any more
    [unread] = core.unread
    assert (here.pool.engine.inflight, here.pool.engine.answered_total, core.rooms) == (1, 0, 0)
    return unread, peer, core


@pytest.mark.parametrize(("answer", "more"), [
    (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab", b"cd"),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", b"0\r\n\r\n"),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", b"no chunk\r\n"),
    (b"HTTP/1.1 200 OK\r\n\r\nab", None),
    (b"", b"no head\r\n\r\n"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab", None),
])  # fmt: skip
async def test_its_place_is_free_when_its_answer_has_ended(answer: bytes, more: bytes | None) -> None:
    async with place() as here:
        _, peer, core = await asked(here)
        if answer:
            peer.send(answer)
        await turns()
        assert (core.rooms, here.pool.engine.inflight) == (0, 1)
        if more is None:
            peer.sock.close()
        else:
            peer.send(more)
        await until(lambda: not core.unread)
        await turns()
        assert (core.rooms, here.pool.engine.inflight, here.pool.connections) == (1, 0, 0)
        # (What it says of the engine nobody can tell.)
        assert (here.pool.engine.failures_total, here.pool.engine.breaker.failures) == (0, 0)


async def test_silence_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.exchange.unread.QUIET_S", 0.05)
    async with place() as here:
        _, peer, core = await asked(here)
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab")
        await until(lambda: not core.unread)
        assert here.pool.engine.inflight == 0


async def test_before_the_first_byte_it_has_the_whole_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.exchange.unread.QUIET_S", 0.001)
    async with place() as here:
        begun = monotonic()
        _, _, core = await asked(here, limit_s=0.1)
        await until(lambda: not core.unread)
        assert monotonic() - begun >= 0.09


EMPTY = answered(b"content-length: 0\r\n")
ENDS: dict[str, Callable[[Unread, UpstreamStream], Any]] = {
    "close": lambda unread, _: unread.close(),
    "unreachable": lambda unread, _: unread.on_unreachable("refused", False),
    "error": lambda unread, _: unread.on_error(GatewayError("bad_gateway")),
    "end": lambda unread, _: unread.on_end("fin"),
    "silent": lambda unread, _: unread.on_silent(),
    "data": lambda unread, _: unread.on_data(b"zz"),
    "head": lambda unread, _: unread.on_head(EMPTY, source_of(EMPTY, b"GET"), b""),
}


@pytest.mark.parametrize("first", ["close", "end", "silent", "head"])
async def test_whatever_comes_afterwards_it_ends_once(first: str) -> None:
    async with place() as here:
        unread, _, core = await asked(here)
        stream = unread.stream
        assert stream is not None
        ENDS[first](unread, stream)
        for end in ENDS.values():
            end(unread, stream)
        assert (core.unread, core.rooms, here.pool.engine.inflight, stream.closed) == (set(), 1, 0, True)
        assert here.pool.engine.answered_total == 1
