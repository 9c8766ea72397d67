"""Retries by policy (S2): what is never sent twice, what is once more, and what is carried no further; over sockets. (More
of it in ``tests/conversations/test_retries.py``.)"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from tests.e2e.engine_row import BACK_PRESSURE, fleet, status
from tests.e2e.engines import EVENT, QUIET, SSE_HEAD, Play, ask, chunk, fine, ok, pool_engine, posts, scripted
from tests.e2e.test_cases_e_upstream import probed
from tests.support.client import RawClient, request
from tests.support.gateway import running


async def kills(conn: ScriptedConnection, _: RawRequest) -> None:
    """The request crashes the process that serves it."""
    conn.reset()


class TestNeverTwice:
    """What may have reached a client, or has gone out of our hands, is not repeated, whatever is configured."""

    SETTINGS: ClassVar[dict[str, Any]] = {
        "retry_statuses": BACK_PRESSURE,
        "retry_fresh": True,
        "max_retries": 5,
        "quarantine_after": 0,
    }

    @pytest.mark.parametrize("clean", [True, False])
    async def test_S2_nothing_after_the_first_byte_of_a_stream(self, clean: bool) -> None:
        async def broken(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(SSE_HEAD + chunk(EVENT))
            if clean:
                conn.close()
            else:
                conn.reset()

        async with fleet(broken, fine, **self.SETTINGS) as it:
            answer = await it.ask(stream=True)
            assert answer.status == 200
            assert not answer.complete
            assert b"[DONE]" not in answer.body
            assert it.asked == [1, 0]

    async def test_S2_nothing_after_half_a_head(self) -> None:
        async def half(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-ty")
            conn.close()

        async with fleet(half, fine, **self.SETTINGS) as it:
            answer = await it.ask()
            assert (answer.status, answer.error["code"]) == (502, "bad_gateway")
            assert it.asked == [1, 0]

    @pytest.mark.parametrize("failure", [status(503), kills])
    async def test_S2_no_upload_that_has_begun(self, failure: Play) -> None:
        head, part, rest = upload()
        early = asyncio.Event()

        async def handler(conn: ScriptedConnection) -> None:
            first = await conn.read_until(b"\r\n\r\n")
            if first.startswith(b"GET"):
                await conn.send(ok(b"{}", b"connection: close"))
                return
            await conn.read_some()
            early.set()
            await failure(conn, RawRequest(first, b""))

        async with ScriptedEngine(handler) as first, scripted(fine) as second:
            urls = [first.url, second.url]
            async with running(urls, policy="ordered", cb_failure_threshold=0, **self.SETTINGS, **QUIET) as gw:
                await probed(gw)
                async with RawClient.connect("127.0.0.1", gw.port) as client:
                    await client.send(head + part)
                    await early.wait()
                    answer = await client.read_response()
                assert answer.status == (502 if failure is kills else 503)
                assert rest
                assert posts(second) == []
                assert gw.stats.retries_total == 0

    async def test_S2_an_upload_that_is_all_here_goes_again_as_it_came(self) -> None:
        head, part, rest = upload()
        async with fleet(status(503), fine, **self.SETTINGS) as it, RawClient.connect("127.0.0.1", it.gw.port) as client:
            await client.send(head + part + rest)
            assert (await client.read_response()).status == 200
            first, second = (posts(engine)[0] for engine in it.engines)
            assert first.body == second.body == part + rest


def upload() -> tuple[bytes, bytes, bytes]:
    """(head, the first part with the model, the file) of a transcription."""
    part = b'--xx\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--xx\r\n'
    rest = (
        b'content-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n'
        + bytes(range(256)) * 8
        + b"\r\n--xx--\r\n"
    )
    whole = request(
        "POST",
        "/v1/audio/transcriptions",
        headers=[("Content-Type", "multipart/form-data; boundary=xx")],
        body=part + rest,
    )
    return whole[: -len(part + rest)], part, rest


class TestFresh:
    """``retry_fresh``: a connection that died, or stayed silent, under the whole request."""

    async def test_S2_it_goes_to_the_next_engine(self) -> None:
        async with fleet(kills, fine, retry_fresh=True) as it:
            assert (await it.ask()).status == 200
            assert it.asked == [1, 1]


class TestQuarantine:
    """A request that kills the engine that serves it is not carried from one to the next."""

    SETTINGS: ClassVar[dict[str, Any]] = {"retry_fresh": True, "max_retries": 5}

    async def test_S2_an_idle_connection_that_was_dead_already_is_no_kill(self) -> None:
        """The engine tidies up between two requests: the second is replayed, and no verdict falls."""

        async def once(conn: ScriptedConnection, seen: RawRequest) -> None:
            if conn.received.count(b"POST ") > 1:
                conn.reset()
            else:
                await conn.send(ok())

        async with fleet(once, quarantine_after=1, retry_fresh=True) as it:
            async with RawClient.connect("127.0.0.1", it.gw.port) as client:
                assert [(await ask(client)).status for _ in range(4)] == [200] * 4
            assert it.gw.stats.replays_total >= 1
            assert (it.gw.stats.quarantined, pool_engine(it.gw).failures_total) == (0, 0)
