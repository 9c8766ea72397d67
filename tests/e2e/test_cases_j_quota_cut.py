"""``on_exhausted = "cut"`` over real sockets (J2): a live stream ends where the key's tokens end, as one that was complete.

In common to all: the client's last event is of its own API's shape, says ``length`` and why; the message ends as messages do
and the connection serves the next request; the engine has stopped; and a stream that ends by itself in time is the engine's
own, byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from fastgw.sim.scripted import ScriptedConnection
from tests.e2e.front import front
from tests.e2e.metered import KEY, ask, assert_limited, estimate, metered, once, prompt_tokens, say, settled, usage_of
from tests.e2e.quota_cut import CODE, CUT, documents, record_of, text_of
from tests.support.client import RawClient, request


def counted(events: list[Any]) -> int:
    """The tokens of them: one in each, or one for four bytes where it is longer than one is."""
    sizes = [len(json.dumps(text_of([event]))) - 2 for event in events]
    return sum((1 if size <= 32 else -(-size // 4)) for size in sizes if size)


def assert_error(error: dict[str, Any]) -> None:
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("rate_limit_error", CODE)


class TestCut:
    """A live stream at the end of its key's tokens."""

    @pytest.mark.parametrize(("path", "kind"), [
        ("/v1/chat/completions", "chat.completion.chunk"), ("/v1/completions", "text_completion"),
    ])  # fmt: skip
    async def test_J2_cut_ends_a_stream_as_one_that_reached_its_length(self, path: str, kind: str) -> None:
        quota = estimate(path=path) + 35
        async with metered({"itl_ms": 1.0}, daily_token_quota=quota, **CUT) as (gw, sim, client):
            answer = await ask(client, say(path=path, stream=True, fault="tokens=3000"))
            assert (answer.status, answer.complete, answer.how_ended) == (200, True, "terminal-chunk")
            *events, last, done = documents(answer)
            assert done == "[DONE]"
            assert last["object"] == kind
            assert last["model"] == "sim"
            assert isinstance(last["created"], int)
            assert [(one["index"], one["finish_reason"]) for one in last["choices"]] == [(0, "length")]
            assert_error(last["error"])
            assert all(one["choices"][0]["finish_reason"] is None and "error" not in one for one in events)
            tokens = len([one for one in events if text_of([one])])
            await gw.until("the engine has stopped", lambda: sim.state.running == 0)
            assert sim.state.cancelled == 1
            # The connection is as good as new; the key is spent.
            assert (await ask(client, request("GET", "/v1/models", key=KEY))).status == 200
            assert_limited(await ask(client, say(1, stream=True)), CODE)
            await gw.idle()
            found = await usage_of(gw)
            record = record_of(gw)
        assert gw.stats.quota_cut == 1
        assert (record["status"], record["outcome"], record["error"]) == (200, "quota", "daily_quota_exceeded")
        assert (found["prompt_tokens"], found["completion_tokens"]) == (estimate(path=path), tokens)
        assert (found["quota_remaining"], found["quota_reserved"], found["requests"]) == (0, 0, 1)
        assert found["total_tokens"] == quota
        assert found["estimated_tokens"] == found["total_tokens"], "an engine that was stopped reports nothing"

    async def test_J2_cut_of_a_messages_stream(self) -> None:
        """Anthropic's shape: the block is closed, ``max_tokens`` is the reason, and the message stops."""
        async with metered({"itl_ms": 1.0}, daily_token_quota=estimate() + 25, **CUT) as (gw, sim, client):
            answer = await ask(client, say(path="/v1/messages", stream=True, fault="tokens=3000"))
            assert answer.complete
            events = documents(answer)
            assert [one["type"] for one in events[:2]] == ["message_start", "content_block_start"]
            assert [one["type"] for one in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
            assert events[-2]["delta"]["stop_reason"] == "max_tokens"
            assert_error(events[-2]["error"])
            deltas = [one for one in events if one["type"] == "content_block_delta"]
            assert len(events) == len(deltas) + 5
            assert events[-2]["usage"]["output_tokens"] == len(deltas)
            assert answer.body.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
            await gw.until("the engine has stopped", lambda: sim.state.running == 0)
            assert (await ask(client, request("GET", "/v1/models", key=KEY))).status == 200
            await gw.idle()
            assert (await usage_of(gw))["completion_tokens"] == len(deltas)
        # Its first event tells of the prompt, and what that does not take is the answer's.
        assert len(deltas) == 25 + estimate() - prompt_tokens(path="/v1/messages")

    async def test_J2_cut_of_a_responses_stream(self) -> None:
        async with metered({"itl_ms": 1.0}, daily_token_quota=estimate() + 25, **CUT) as (gw, sim, client):
            data = say(3000, path="/v1/responses", stream=True)
            answer = await ask(client, data)
            assert answer.complete
            last = documents(answer)[-1]
            assert last["type"] == "response.incomplete"
            assert last["response"]["status"] == "incomplete"
            assert_error(last["response"]["error"])
            await gw.until("the engine has stopped", lambda: sim.state.running == 0)
            assert gw.stats.quota_cut == 1

    async def test_J2_cut_ends_every_choice(self) -> None:
        """``n`` > 1: the tokens of all choices count, and each gets its end."""
        stopped = asyncio.Event()

        async def engine(conn: ScriptedConnection, head: bytes) -> None:
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            try:
                for turn in range(300):
                    choice = {"index": turn % 3, "delta": {"content": f"word {turn} "}, "finish_reason": None}
                    event = b"data: %b\n\n" % json.dumps({"id": "c", "choices": [choice]}).encode()
                    await conn.send(b"%x\r\n%b\r\n" % (len(event), event))
                    await asyncio.sleep(0.002)
            except ConnectionError:
                pass
            await conn.wait_closed()
            stopped.set()

        async with front(engine, api_keys=(KEY,), daily_token_quota=estimate() + 30, **CUT) as one:
            answer = await once(one.gw, say(20, n=3, stream=True))
            *events, last, done = documents(answer)
            assert (answer.complete, done) == (True, "[DONE]")
            assert [(each["index"], each["finish_reason"]) for each in last["choices"]] == [
                (0, "length"), (1, "length"), (2, "length"),
            ]  # fmt: skip
            assert len(events) == 30
            await asyncio.wait_for(stopped.wait(), 2.0)

    @pytest.mark.parametrize("fault", ["split=7", "split=1", "gather=900", "burst=3000"])
    async def test_J2_cut_falls_between_events_however_they_come(self, fault: str) -> None:
        async with metered({"itl_ms": 0.5}, daily_token_quota=estimate() + 20, **CUT) as (gw, _, client):
            answer = await ask(client, say(stream=True, fault=f"tokens=400,{fault}"))
            assert answer.complete
            *events, last, done = documents(answer)
            assert done == "[DONE]"
            assert_error(last["error"])
            assert counted(events[:-1]) < 20 <= counted(events)
            assert (await ask(client, request("GET", "/v1/models", key=KEY))).status == 200
            assert gw.stats.quota_cut == 1

    async def test_J2_cut_for_a_client_that_reads_slowly(self) -> None:
        """What it was owed comes first, then the end."""
        async with metered({"itl_ms": 0.2}, daily_token_quota=estimate() + 300_000, **CUT) as (gw, sim, _):
            async with RawClient.connect("127.0.0.1", gw.port, rcvbuf=4096) as client:
                await client.send(say(stream=True, fault="tokens=3000,burst=30000"))
                answer = await client.read_head()
                await asyncio.sleep(0.3)
                await client.read_body(answer, 15.0)
                assert answer.complete
                *events, last, done = documents(answer)
                assert done == "[DONE]"
                assert_error(last["error"])
                assert counted(events[:-1]) < 300_000 <= counted(events)
            await gw.until("the engine has stopped", lambda: sim.state.running == 0)

    async def test_J2_cut_for_an_http_10_client_ends_with_the_connection(self) -> None:
        async with metered({"itl_ms": 1.0}, daily_token_quota=estimate() + 20, **CUT) as (_, _, client):
            await client.send(say(stream=True, fault="tokens=400").replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            raw, how = await client.read_until_closed()
            assert how == "fin"
            assert raw.endswith(b"data: [DONE]\n\n")
            assert CODE.encode() in raw.split(b"\n\n")[-3]

    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
    @pytest.mark.parametrize("beyond", [2, 60])
    async def test_J2_cut_of_a_stream_that_announced_its_length(self, beyond: int, version: str) -> None:
        """Its end has been told: it ends in chunks instead, or breaks off; half of it never looks like the whole."""
        events = [b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'] * (20 + beyond)

        async def engine(conn: ScriptedConnection, head: bytes) -> None:
            size = sum(map(len, events))
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % size)
            with contextlib.suppress(ConnectionError):
                for event in events:
                    await conn.send(event)
                    await asyncio.sleep(0.002)
            await conn.wait_closed()

        async with front(engine, api_keys=(KEY,), daily_token_quota=estimate() + 20, **CUT) as one:
            async with RawClient.connect(one.gw.url) as client:
                data = say(stream=True, stream_options={"include_usage": True})
                await client.send(data.replace(b"HTTP/1.1", version.encode(), 1))
                answer = await client.read_response()
            if answer.complete:
                assert answer.how_ended in ("terminal-chunk", "eof")
                *came, last, done = documents(answer)
                assert (done, len(came)) == ("[DONE]", 20)
                assert_error(last["error"])
            assert one.gw.stats.quota_cut == 1

    async def test_J2_cut_of_an_engine_that_goes_on_beyond_its_maximum(self) -> None:
        async with metered({"itl_ms": 1.0}, daily_token_quota=estimate() + 20, **CUT) as (gw, sim, client):
            answer = await ask(client, say(20, stream=True, fault="tokens=900"))
            *events, last, done = documents(answer)
            assert (answer.complete, done) == (True, "[DONE]")
            assert_error(last["error"])
            assert 20 <= len([one for one in events if text_of([one])]) <= 21, "one more shows that it does not end itself"
            await gw.until("the engine has stopped", lambda: sim.state.running == 0)

    async def test_J2_cut_of_a_stream_that_comes_in_a_flood(self) -> None:
        """Reads that end anywhere, within an event as a rule: the cut comes after the one in which the tokens ran out."""
        events = [b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word %d "}}]}\n\n' % at for at in range(20_000)]
        flood = b"".join(events)
        sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces(flood, 1013))

        async def engine(conn: ScriptedConnection, head: bytes) -> None:
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await conn.send(sent + b"0\r\n\r\n")
            await conn.wait_closed()

        async with front(engine, api_keys=(KEY,), daily_token_quota=estimate() + 50, **CUT) as one:
            answer = await once(one.gw, say(stream=True))
            *came, last, done = documents(answer)
            assert (answer.complete, done) == (True, "[DONE]")
            assert_error(last["error"])
            assert flood.startswith(answer.body[: answer.body.rindex(b'data: {"id":"chatcmpl-')])
            assert len(came) == 50
            assert one.gw.stats.quota_cut == 1


    @pytest.mark.parametrize("step", [90, 10**6])
    @pytest.mark.parametrize("shape", ["long texts", "choices", "tool call"])
    async def test_J2_cut_of_events_that_bring_many_tokens(self, shape: str, step: int) -> None:
        """It ends behind the event with the last of them, whatever an engine puts into one."""
        one: dict[str, Any] = {
            "long texts": {"choices": [{"index": 0, "delta": {"content": "word " * 20}}]},
            "choices": {"choices": [{"index": at, "delta": {"content": "word"}} for at in range(25)]},
            "tool call": {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": "x" * 100}}]}}]},
        }[shape]
        body = b"data: %b\n\n" % json.dumps(one).encode() * 40

        async def engine(conn: ScriptedConnection, head: bytes) -> None:
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await conn.send(b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces(body, step)))
            await conn.wait_closed()

        async with front(engine, api_keys=(KEY,), daily_token_quota=estimate() + 260, **CUT) as one_gw:
            answer = await once(one_gw.gw, say(stream=True))
            *came, last, done = documents(answer)
            found = await settled(one_gw.gw)
        assert (answer.complete, done) == (True, "[DONE]")
        assert_error(last["error"])
        assert (len(came), found["completion_tokens"]) == (11, 275)

    @pytest.mark.parametrize(("said", "tokens"), [(-50, 90), (4, 36), (39, 1), (900, 1), (None, 40)])
    @pytest.mark.parametrize("step", [40, 10**6])
    async def test_J2_cut_follows_what_the_engine_says_of_the_prompt(self, said: int | None, tokens: int, step: int) -> None:
        """What the quota has is the answer's but for the prompt: an estimate until the engine has told it, ``said`` more."""
        expected = estimate(path="/v1/messages")
        prompt = 0 if said is None else expected + said
        events: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": {"input_tokens": prompt}}}]
        events += [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}] * 200
        body = b"".join(b"event: %b\ndata: %b\n\n" % (str(one["type"]).encode(), json.dumps(one).encode()) for one in events)

        async def engine(conn: ScriptedConnection, head: bytes) -> None:
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await conn.send(b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces(body, step)))
            await conn.wait_closed()

        async with front(engine, api_keys=(KEY,), daily_token_quota=expected + 40, **CUT) as one_gw:
            answer = await once(one_gw.gw, say(stream=True, path="/v1/messages"))
            assert answer.complete
            found = await settled(one_gw.gw)
        assert (found["prompt_tokens"], found["completion_tokens"]) == (prompt or expected, tokens)

    async def test_J2_a_stream_is_not_cut_for_a_prompt_that_is_told_behind_its_end(self) -> None:
        events = [b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'] * 5
        events += [b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n']
        events += [b'data: {"choices":[],"usage":{"prompt_tokens":900,"completion_tokens":5}}\n\n', b"data: [DONE]\n\n"]

        async def engine(conn: ScriptedConnection, head: bytes) -> None:
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for event in events:
                await conn.send(b"%x\r\n%b\r\n" % (len(event), event))
            await conn.send(b"0\r\n\r\n")

        async with front(engine, api_keys=(KEY,), daily_token_quota=estimate() + 30, **CUT) as one:
            answer = await once(one.gw, say(stream=True, stream_options={"include_usage": True}))
            found = await settled(one.gw)
        assert answer.body == b"".join(events)
        assert (found["prompt_tokens"], found["completion_tokens"], one.gw.stats.quota_cut) == (900, 5, 0)

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
    @pytest.mark.parametrize("quota", [1, 3, 30])
    async def test_J2_cut_holds_at_any_speed_of_the_engine(self, path: str, quota: int) -> None:
        """An engine without a pause writes many events at once: charged is what passed, and that is the quota."""
        async with metered(daily_token_quota=estimate(path=path) + quota, **CUT) as (gw, _, client):
            answer = await ask(client, say(path=path, stream=True, fault="tokens=3000"))
            assert answer.complete
            found = await settled(gw)
            assert gw.stats.quota_cut == 1
        told = path == "/v1/messages"  # its first event tells of the prompt
        assert found["prompt_tokens"] == (prompt_tokens(path=path) if told else estimate(path=path))
        assert found["total_tokens"] == estimate(path=path) + quota

    @pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
    @pytest.mark.parametrize("framing", ["chunked", "one chunk each", "close"])
    @pytest.mark.parametrize("step", [37])
    async def test_J2_cut_in_the_middle_of_a_read(self, end: bytes, framing: str, step: int) -> None:
        events = [b'data: {"choices":[{"index":0,"delta":{"content":"word %d "}}]}%b' % (at, end) for at in range(60)]
        body = b": hello" + end + b"".join(events)
        sent = events if framing == "one chunk each" else pieces(body, step)
        if framing != "close":
            sent = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in sent] + [b"0\r\n\r\n"]
        coding = b"" if framing == "close" else b"transfer-encoding: chunked\r\n"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n" + coding + b"\r\n"

        async def engine(conn: ScriptedConnection, _: bytes) -> None:
            with contextlib.suppress(ConnectionError):
                await conn.send(head + b"".join(sent))
                conn.close()

        async with front(engine, api_keys=(KEY,), daily_token_quota=estimate() + 25, **CUT) as one:
            answer = await once(one.gw, say(stream=True))
            assert answer.complete
            assert [turn for turn in range(60) if b'"word %d "' % turn in answer.body] == list(range(25))
            assert answer.body.endswith(b"data: [DONE]\n\n")
            found = await settled(one.gw)
        assert found["total_tokens"] == estimate() + 25


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
