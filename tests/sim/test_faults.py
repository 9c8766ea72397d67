"""Each fault does on the wire exactly what its name says, on streams and on plain answers."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest

from fastgw.sim import FaultError, SimConfig, Simulator
from fastgw.sim.faults import TABLE, FaultChooser, Faults
from tests.sim.client import CHAT, chat, connect, read_one, read_to_end, request, send, until

FAST = SimConfig(debug=True)


@pytest.fixture
def play(run):
    """Sends one chat request with a fault; gives the reply and the simulator's state."""

    def player(fault: str, timeout_s: float = 5.0, config: SimConfig = FAST, **fields):
        async def main():
            async with Simulator(config) as sim:
                reply = await send(sim.url, chat(fault, **fields), timeout_s)
                await until(lambda: sim.state.running == 0)
                return reply, sim.state

        return run(main)

    return player


def plain(run, **fields):
    """The same request without a fault, as reference."""

    async def main():
        async with Simulator(FAST) as sim:
            return await send(sim.url, chat(**fields))

    return run(main)


@pytest.mark.parametrize("stream", [True, False])
def test_close_ends_the_connection_without_a_byte(play, stream):
    reply, state = play("close", stream=stream)
    assert (reply.raw, reply.end) == (b"", "fin")
    assert (state.faulted, state.served, state.cancelled) == (1, 0, 0)


def test_reset_is_an_rst_without_a_byte(play):
    reply, _ = play("reset")
    assert (reply.raw, reply.end) == (b"", "rst")


def test_stall_before_sends_nothing_and_sees_the_client_leave(play):
    reply, state = play("stall-before", timeout_s=0.2)
    assert (reply.raw, reply.end) == (b"", "timeout")
    assert state.cancelled == 1


def test_garbage_is_not_http(play):
    reply, _ = play("garbage")
    assert reply.raw
    assert not reply.raw.startswith(b"HTTP/")


def test_raw_sends_exactly_the_given_bytes(play):
    given = b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\npartial"
    reply, _ = play("raw=" + base64.b64encode(given).decode())
    assert (reply.raw, reply.end) == (given, "fin")


def test_unsolicited_101(play):
    reply, _ = play("unsolicited-101", timeout_s=0.2)
    assert reply.status == 101


def test_status_with_retry_after(play):
    reply, _ = play("status=503,retry-after=7", stream=True)
    assert (reply.status, reply.field("retry-after")) == (503, "7")
    assert reply.json["error"]["code"] == 503
    assert reply.complete


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502])
def test_status_alone(play, status):
    reply, _ = play(f"status={status}")
    assert reply.status == status
    assert reply.field("retry-after") is None


def test_redirect(play):
    reply, _ = play("redirect=http://10.0.0.1/admin")
    assert (reply.status, reply.field("location")) == (307, "http://10.0.0.1/admin")


def test_stall_head_sends_the_head_and_no_more(play):
    reply, state = play("stall-head", timeout_s=0.2, stream=True)
    assert reply.raw.endswith(b"\r\n\r\n")
    assert (reply.end, state.cancelled) == ("timeout", 1)


def test_slow_head_takes_its_time_per_byte(play):
    before = time.monotonic()
    reply, _ = play("slow-head=2")
    assert time.monotonic() - before >= 0.001 * len(reply.head)
    assert reply.complete


def test_close_in_head(play):
    reply, _ = play("close-in-head=9")
    assert (reply.raw, reply.end) == (b"HTTP/1.1 ", "fin")


def test_huge_head_and_many_headers(play):
    reply, _ = play("head=70000")
    assert 70000 <= len(reply.head) + 4 <= 70200
    reply, _ = play("many-headers=500")
    assert reply.head.count(b"\r\nx-sim-") == 500


def test_endless_head_goes_on_until_the_client_leaves(play):
    reply, state = play("endless-head", timeout_s=0.3)
    assert len(reply.raw) > 100_000
    assert b"\r\n\r\n" not in reply.raw
    assert state.cancelled == 1


def test_status_line_and_injected_header_are_raw(play):
    reply, _ = play("status-line=HTTP/1.1%20999%20What,header=X-One:a%0D%0AX-Two:b%00,header=X-Three:c%2C%20d")
    assert reply.raw.startswith(b"HTTP/1.1 999 What\r\nX-One:a\r\nX-Two:b\x00\r\nX-Three:c, d\r\n")


def test_informational_answers_come_first(play):
    reply, _ = play("1xx=3")
    assert reply.raw.count(b"HTTP/1.1 103 Early Hints\r\n") == 3
    assert b"HTTP/1.1 200 OK\r\n" in reply.raw


@pytest.mark.parametrize("stream", [True, False])
def test_http10_is_ended_by_the_close(play, run, stream):
    reply, _ = play("http10", stream=stream)
    assert reply.raw.startswith(b"HTTP/1.0 200 OK")
    assert reply.end == "fin"
    assert reply.field("transfer-encoding") is None
    assert reply.body == plain(run, stream=stream).body


def test_sse_with_content_length(play, run):
    reply, _ = play("sse-content-length", stream=True)
    assert reply.field("transfer-encoding") is None
    assert reply.complete
    assert reply.body == plain(run, stream=True).body


@pytest.mark.parametrize("stream", [True, False])
def test_lengths_that_are_wrong(play, run, stream):
    whole = plain(run, stream=stream).body
    reply, _ = play("wrong-length=50", stream=stream)
    assert (int(reply.field("content-length")), reply.wire_body, reply.end) == (len(whole) + 50, whole, "fin")
    reply, _ = play("short-length=10", stream=stream)
    assert (int(reply.field("content-length")), reply.wire_body) == (len(whole) - 10, whole)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("fault", "end"), [("reset-after", "rst"), ("close-after", "fin"), ("stall-after", "timeout")])
@pytest.mark.parametrize("count", [0, 1, 37])
def test_byte_faults_cut_at_exactly_that_byte(run, stream, fault, end, count):
    whole = plain(run, stream=stream).wire_body

    async def main():
        async with Simulator(FAST) as sim:
            reader, writer = await connect(sim.url)
            writer.write(chat(f"{fault}={count}", stream=stream))
            reply = await read_to_end(reader, 0.3)
            writer.close()
            return reply.raw, reply.end

    raw, ended = run(main)
    assert ended == end
    if end != "rst":  # an RST may overtake bytes that nobody has read yet
        assert raw.split(b"\r\n\r\n", 1)[1] == whole[:count]


def test_reset_after_more_bytes_than_there_are_changes_nothing(play, run):
    reply, state = play("reset-after=1000000", stream=True)
    assert reply.body == plain(run, stream=True).body
    assert (reply.complete, state.served) == (True, 1)


@pytest.mark.parametrize(
    ("fault", "end"),
    [("close-after-events=3", "fin"), ("stall-after-events=3", "timeout"), ("end-after-events=3", "fin")],
)
def test_event_faults_cut_between_events(play, run, fault, end):
    reply, _ = play(fault, timeout_s=0.5, stream=True)
    assert reply.data == plain(run, stream=True).data[:3]
    assert reply.end == end
    assert reply.complete == fault.startswith("end-")
    assert "[DONE]" not in reply.data


def test_reset_after_events_delivers_the_events_first(run):
    async def main():
        async with Simulator(SimConfig(itl_ms=20)) as sim:
            return await send(sim.url, chat("reset-after-events=3", stream=True))

    reply = run(main)
    assert reply.end == "rst"
    assert len(reply.data) == 3


def test_chunk_faults_break_the_framing(play, run):
    whole = plain(run, stream=True)
    reply, _ = play("truncate-chunk,after-events=2", stream=True)
    assert (reply.complete, reply.end) == (False, "fin")
    assert reply.body == whole.body[: len(reply.body)]
    assert len(reply.data) == 3
    reply, _ = play("half-chunk,after-events=2", stream=True)
    assert len(reply.data) == 2
    assert whole.body.startswith(reply.body)
    reply, _ = play("bad-chunk,after-events=0", timeout_s=0.2, stream=True)
    assert reply.wire_body.startswith(b"xyz\r\n")
    assert reply.end == "timeout"
    reply, _ = play("bad-chunk,after-events=2", timeout_s=0.2, stream=True)
    assert b"\r\nxyz\r\n" in reply.wire_body


def test_chunk_faults_hit_plain_answers_too(play, run):
    whole = plain(run).body
    reply, _ = play("half-chunk")
    assert reply.field("transfer-encoding") == "chunked"
    assert reply.body == whole[: len(whole) // 2]
    reply, _ = play("no-terminator")
    assert (reply.body, reply.complete) == (whole, False)


def test_no_terminator_sends_all_but_the_last_chunk(play, run):
    reply, _ = play("no-terminator", stream=True)
    whole = plain(run, stream=True)
    assert reply.wire_body == whole.wire_body.removesuffix(b"0\r\n\r\n")
    assert reply.end == "fin"


def test_half_event(play, run):
    whole = plain(run, stream=True).body
    for fault, complete in (("half-event,after-events=2", False), ("half-event,after-events=2,clean-end", True)):
        reply, _ = play(fault, stream=True)
        assert whole.startswith(reply.body)
        assert len(reply.data) == 2
        assert not reply.body.endswith(b"\n\n")
        assert reply.complete == complete


def test_error_event_is_the_engines_own(play):
    reply, state = play("error-event,after-events=2", stream=True)
    assert reply.complete
    assert '"error"' in reply.data[2]
    assert reply.data[3] == "[DONE]"
    assert state.served == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["one-byte-chunks", "split=5", "gather=400"])
def test_reframing_keeps_every_byte(play, run, fault, stream):
    reply, _ = play(fault, stream=stream)
    assert reply.complete
    assert reply.body == plain(run, stream=stream).body
    if fault == "one-byte-chunks":
        assert reply.wire_body.count(b"\r\n") == 2 * len(reply.body) + 2


def test_burst_makes_big_events(play):
    reply, _ = play("burst=100000,tokens=3", stream=True)
    assert len(reply.words) > 300_000
    assert reply.complete


def test_close_after_answer_does_not_announce_itself(run):
    async def main():
        async with Simulator(FAST) as sim:
            return await send(sim.url, chat("close-after-answer", close=False))

    reply = run(main)
    assert (reply.complete, reply.end) == (True, "fin")
    assert reply.field("connection") is None


def test_close_on_reuse_serves_once_per_connection(run):
    async def main():
        async with Simulator(FAST) as sim:
            reader, writer = await connect(sim.url)
            writer.write(chat("close-on-reuse", close=False))
            assert (await read_one(reader)).status == 200
            writer.write(chat(close=False))
            second = await read_to_end(reader)
            writer.close()
            again = await send(sim.url, chat("close-on-reuse"))
            return second, again, sim.requests[1].outcome

    second, again, outcome = run(main)
    assert second.raw == b""
    assert again.status == 200
    assert outcome == "faulted"


def test_early_answers_before_the_body_is_there(run):
    async def main():
        async with Simulator(FAST) as sim:
            reader, writer = await connect(sim.url)
            writer.write(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: e\r\nContent-Length: 100000\r\n"
                b"x-sim-fault: early,status=413\r\n\r\nonly the beginning"
            )
            reply = await read_to_end(reader)
            writer.close()
            return reply

    reply = run(main)
    assert (reply.status, reply.complete) == (413, True)


def test_no_read_closes_the_window(run):
    async def main():
        async with Simulator(FAST) as sim:
            reader, writer = await connect(sim.url)
            writer.write(b"POST /v1/x HTTP/1.1\r\nHost: e\r\nContent-Length: 50000000\r\nx-sim-fault: no-read\r\n\r\n")
            writer.write(b"u" * 50_000_000)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await writer.drain()
            assert writer.transport.get_write_buffer_size() > 10_000_000
            writer.transport.abort()
            assert not await reader.read()
            return sim.requests[0].body_length

    assert run(main) < 1_000_000


def test_a_fault_waits_for_its_times_and_for_reuse(run):
    async def main():
        async with Simulator(FAST) as sim:
            first = [(await send(sim.url, chat("status=500,times=2,key=a"))).status for _ in range(3)]
            other = (await send(sim.url, chat("status=500,times=2,key=b"))).status
            reader, writer = await connect(sim.url)
            on_reuse = []
            for _ in range(2):
                writer.write(chat("status=502,on-reuse", close=False))
                on_reuse.append((await read_one(reader)).status)
            writer.close()
            return first, other, on_reuse

    assert run(main) == ([500, 500, 200], 500, [200, 502])


def test_configured_faults_hit_the_api_at_their_rate_and_spare_the_rest(run):
    async def main():
        async with Simulator(SimConfig(fault="status=500", fault_rate=0.5, seed=3)) as sim:
            statuses = [(await send(sim.url, chat())).status for _ in range(40)]
            spared = [(await send(sim.url, request("GET", path))).status for path in ("/health", "/metrics", "/v1/models")]
            unharmed = (await send(sim.url, chat("none"))).status
            return statuses, spared, unharmed

    statuses, spared, unharmed = run(main)
    assert 10 <= statuses.count(500) <= 30
    assert (spared, unharmed) == ([200, 200, 200], 200)
    assert run(main)[0] == statuses


def test_an_unknown_fault_is_refused_loudly(play):
    cases = {"rest": "rest", "status": "needs a value", "head=many": "whole number", "close=1": "takes no value"}
    for fault, word in cases.items():
        reply, _ = play(fault)
        assert reply.status == 400
        assert word in reply.json["error"]["message"]
    with pytest.raises(FaultError, match="nonsense"):
        Simulator(SimConfig(fault="nonsense"))


def test_pace_faults_change_one_request(run):
    async def main():
        async with Simulator(SimConfig(ttft_ms=2000)) as sim:
            before = time.monotonic()
            reply = await send(sim.url, chat("ttft-ms=50,itl-ms=10,tokens=6", stream=True))
            return reply, time.monotonic() - before

    reply, took_s = run(main)
    assert 0.09 <= took_s < 1.0
    assert reply.words.count(" ") == 5


def test_the_chooser_and_the_table_agree():
    chooser = FaultChooser("", 1.0, 0)
    assert chooser.choose(None, "POST", CHAT, 1) is None
    assert chooser.choose(b" none ", "POST", CHAT, 1) is None
    for row in TABLE.values():
        values = {"count": "1", "real": "1", "bytes": "x:y", "base64": "QQ==", "flag": "", "code": "CANCEL", "word": "zero"}
        value = values[row.kind]
        assert row.name in Faults(f"{row.name}={value}" if value else row.name)
