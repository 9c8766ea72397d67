"""Pacing, slots, queue, cancellation and back-pressure: what makes the simulator behave like an engine."""

from __future__ import annotations

import asyncio
import time

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.sim.client import CHAT, HELLO, chat, connect, read_one, read_to_end, request, send, until


@pytest.mark.quiet
def test_prefill_ttft_and_inter_token_time(run):
    async def main():
        prompt = [{"role": "user", "content": "x" * 394}]  # 400 bytes with "user: ", so 100 tokens
        async with Simulator(SimConfig(ttft_ms=40, prefill_us=1000, itl_ms=20)) as sim:
            reader, writer = await connect(sim.url)
            start = time.monotonic()
            writer.write(chat(messages=prompt, max_tokens=6, stream=True))
            await reader.readuntil(b'"delta":{"content":')
            first_s = time.monotonic() - start
            await read_to_end(reader)
            whole_s = time.monotonic() - start
            writer.close()
            before = time.monotonic()
            await send(sim.url, chat(messages=prompt, max_tokens=6))
            return first_s, whole_s, time.monotonic() - before

    first_s, whole_s, plain_s = run(main)
    assert 0.13 <= first_s < 0.25
    assert 0.23 <= whole_s < 0.4
    assert 0.23 <= plain_s < 0.4


def test_slots_are_filled_and_the_rest_wait_in_order(run):
    async def main():
        async with Simulator(SimConfig(slots=2, ttft_ms=120, debug=True)) as sim:
            finished: list[int] = []

            async def one(number: int) -> None:
                await send(sim.url, chat(messages=[{"role": "user", "content": str(number)}]))
                finished.append(number)

            tasks = []
            for number in range(6):
                tasks.append(asyncio.create_task(one(number)))
                await until(lambda count=number: sim.state.received == count + 1)
            seen = (sim.state.running, sim.state.waiting)
            page = (await send(sim.url, request("GET", "/metrics"))).body.decode()
            await asyncio.gather(*tasks)
            return seen, page, finished, sim.state

    seen, page, finished, state = run(main)
    assert seen == (2, 4)
    assert 'vllm:num_requests_running{model_name="sim"} 2.0' in page
    assert 'vllm:num_requests_waiting{model_name="sim"} 4.0' in page
    assert [number // 2 for number in finished] == [0, 0, 1, 1, 2, 2]
    assert (state.running, state.waiting, state.served, state.kv_tokens_used) == (0, 0, 7, 0)


def test_a_full_queue_answers_503(run):
    async def main():
        async with Simulator(SimConfig(slots=1, max_waiting=1, ttft_ms=80)) as sim:
            replies = await asyncio.gather(*[send(sim.url, chat()) for _ in range(4)])
            return sorted(reply.status for reply in replies)

    assert run(main) == [200, 200, 503, 503]


def test_leaving_frees_the_slot_at_once_wherever_the_request_is(run):
    async def main():
        async with Simulator(SimConfig(slots=1, ttft_ms=60, itl_ms=5000)) as sim:
            _, decoding = await connect(sim.url)
            decoding.write(chat(stream=True))
            await until(lambda: sim.state.events_sent >= 2)
            _, queued = await connect(sim.url)
            queued.write(chat(stream=True))
            await until(lambda: sim.state.waiting == 1)
            queued.transport.abort()
            await until(lambda: sim.state.waiting == 0)
            _, third = await connect(sim.url)
            third.write(chat())
            await until(lambda: sim.state.waiting == 1)
            left_s = time.monotonic()
            decoding.close()
            await until(lambda: sim.state.cancelled == 2)
            took_s = time.monotonic() - left_s
            assert sim.state.running == 1  # the third has the slot now, before its first token
            third.write_eof()  # a half-close is leaving, too
            await until(lambda: sim.state.cancelled == 3)
            third.close()
            assert [record.outcome for record in sim.requests] == ["cancelled"] * 3
            assert (sim.state.running, sim.state.waiting, sim.state.kv_tokens_used) == (0, 0, 0)
            return took_s

    assert run(main) < 0.05


def test_a_client_that_does_not_read_pauses_its_own_stream_only(run):
    async def main():
        async with Simulator(SimConfig()) as sim:
            reader, slow = await connect(sim.url)
            slow.transport.pause_reading()
            slow.write(chat("", stream=True, max_tokens=100_000))
            await until(lambda: sim.state.paused == 1)
            stopped_at = sim.state.events_sent
            other = await send(sim.url, chat(stream=True))
            assert other.complete
            assert sim.state.events_sent == stopped_at + len(other.data)
            assert sim.requests[0].events < 100_000
            slow.transport.resume_reading()
            await until(lambda: len(reader._buffer) > 0)
            while not (await reader.read(1 << 20)).endswith(b"0\r\n\r\n"):
                pass
            slow.close()
            assert sim.state.paused == 0
            return sim.requests[0].events

    assert run(main) == 100_003


def test_hundreds_of_streams_at_once_all_arrive_whole(run):
    async def main():
        async with Simulator(SimConfig(slots=0, itl_ms=50, record=0)) as sim:
            one = (await send(sim.url, chat(max_tokens=8, stream=True))).body
            replies = await asyncio.gather(*[send(sim.url, chat(max_tokens=8, stream=True), 30) for _ in range(400)])
            return one, replies, sim.state

    one, replies, state = run(main)
    assert all(reply.complete and reply.body == one for reply in replies)
    assert state.served == 401


@pytest.mark.quiet
def test_early_head_and_pings(run):
    async def main():
        async with Simulator(SimConfig(ttft_ms=150, ping_s=0.03, early_head=True)) as sim:
            reader, writer = await connect(sim.url)
            start = time.monotonic()
            writer.write(chat(stream=True))
            await reader.readuntil(b"\r\n\r\n")
            head_s = time.monotonic() - start
            rest = await read_to_end(reader)
            writer.close()
        async with Simulator(SimConfig(ttft_ms=100, ping_s=0.03)) as sim:
            return head_s, rest.raw, await send(sim.url, chat(stream=True))

    head_s, rest, late = run(main)
    assert head_s < 0.1
    assert rest.count(b": ping\n\n") >= 3
    assert late.complete
    assert late.body.startswith(b": ping\n\n")


@pytest.mark.quiet
def test_keep_alive_and_its_end(run):
    async def main():
        async with Simulator(SimConfig(keep_alive_s=0.15, max_requests=3)) as sim:
            reader, writer = await connect(sim.url)
            fields = []
            for _ in range(3):
                writer.write(chat(close=False))
                fields.append((await read_one(reader)).field("connection"))
            assert await reader.read() == b""
            writer.close()
            reader, writer = await connect(sim.url)
            writer.write(chat(close=False))
            await read_one(reader)
            start = time.monotonic()
            assert await reader.read() == b""
            idle_s = time.monotonic() - start
            writer.close()
            return fields, idle_s, sim.state.requests_per_connection

    fields, idle_s, counts = run(main)
    assert fields == [None, None, "close"]
    assert 0.13 < idle_s < 0.4
    assert counts == {1: 3, 2: 1}


def test_close_after_stream_is_silent(run):
    async def main():
        async with Simulator(SimConfig(close_after_stream=True)) as sim:
            return await send(sim.url, chat(close=False, stream=True))

    reply = run(main)
    assert (reply.complete, reply.end, reply.field("connection")) == (True, "fin", None)


def test_pipelined_requests_are_answered_in_order(run):
    async def main():
        async with Simulator(SimConfig(ttft_ms=5)) as sim:
            return await send(sim.url, chat(close=False, max_tokens=1) + chat(close=False, max_tokens=2) + chat(max_tokens=3))

    raw = run(main).raw
    assert [raw.index(b'"completion_tokens":%d' % count) for count in (1, 2, 3)] == sorted(
        raw.index(b'"completion_tokens":%d' % count) for count in (1, 2, 3)
    )


def test_http10_clients_get_a_close_delimited_stream(run):
    async def main():
        async with Simulator(SimConfig()) as sim:
            new = await send(sim.url, chat(stream=True))
            old = await send(sim.url, chat(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0"))
            return new, old

    new, old = run(main)
    assert old.field("transfer-encoding") is None
    assert old.wire_body == new.body


def test_expect_continue_and_chunked_bodies(run):
    async def main():
        async with Simulator(SimConfig()) as sim:
            reader, writer = await connect(sim.url)
            writer.write(
                f"POST {CHAT} HTTP/1.1\r\nHost: e\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            body = b'{"messages":[{"role":"user","content":"%s"}]}' % HELLO[0]["content"].encode()
            for at in range(0, len(body), 7):
                writer.write(b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]))
                await asyncio.sleep(0)
            writer.write(b"0\r\nx-sum: 1\r\n\r\n")
            reply = await read_to_end(reader)
            writer.close()
            return reply, sim.requests[0], body

    reply, record, body = run(main)
    assert reply.status == 200
    assert record.body == body
    assert record.trailers == ((b"x-sum", b"1"),)


def test_malformed_requests_are_refused_and_counted(run):
    good = b"Host: e\r\nContent-Length: 0\r\n\r\n"
    cases = {
        "two lengths": b"POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "length and chunks": b"POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "bare LF": b"GET / HTTP/1.1\nHost: e\n\n",
        "mixed line ends": b"GET / HTTP/1.1\r\nHost: e\nX: y\r\n\r\n",
        "continuation": b"GET / HTTP/1.1\r\nHost: e\r\nX: y\r\n z\r\n\r\n",
        "no host": b"GET / HTTP/1.1\r\n\r\n",
        "chunks on 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "bad chunk": b"POST / HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "empty line first": b"\r\nGET / HTTP/1.1\r\n" + good,
        "NUL": b"GET / HTTP/1.1\r\nX: \x00\r\n" + good,
    }

    async def main():
        async with Simulator(SimConfig()) as sim:
            replies = {name: await send(sim.url, data) for name, data in cases.items()}
            return replies, sim.state

    replies, state = run(main)
    assert {name: reply.status for name, reply in replies.items()} == dict.fromkeys(cases, 400)
    assert state.malformed == len(cases)
    assert state.last_malformed


def test_a_body_that_is_too_long_is_refused_before_it_comes(run):
    async def main():
        async with Simulator(SimConfig(max_body_bytes=100)) as sim:
            return await send(sim.url, f"POST {CHAT} HTTP/1.1\r\nHost: e\r\nContent-Length: 101\r\n\r\n".encode())

    assert run(main).status == 413


def test_many_jobs_that_end_at_once_do_not_grow_the_stack(run):
    async def main():
        async with Simulator(SimConfig(slots=1, record=0)) as sim:
            _, first = await connect(sim.url)
            first.write(chat("ttft-ms=60000"))
            await until(lambda: sim.state.running == 1)
            waiting = [asyncio.create_task(send(sim.url, chat())) for _ in range(500)]
            await until(lambda: sim.state.waiting == 500)
            first.close()
            return {(await task).status for task in waiting}

    assert run(main) == {200}


def test_tokens_may_leave_together_and_say_the_same(run):
    async def main():
        found = []
        for interval in (1, 4):
            async with Simulator(SimConfig(stream_interval=interval, first_chunk="none", done=False)) as sim:
                reply = await send(sim.url, chat(stream=True, max_tokens=10))
                found.append((reply.body, sim.requests[0].events, sim.state.generation_tokens))
        return found

    alone, together = run(main)
    assert together[0] == alone[0]
    assert (alone[1], together[1]) == (10 + 1, 4 + 1)  # 1, 4, 4 and 1 tokens, and the end
    assert alone[2] == together[2] == 10
