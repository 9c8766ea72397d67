"""Each fault does on an HTTP/2 stream what its name says: those of HTTP/1.1 that have a meaning there, and its own."""

from __future__ import annotations

import asyncio
import base64
from time import monotonic

import pytest

from fastgw.sim import FaultError, SimConfig, Simulator
from fastgw.sim.faults import H1_ONLY, TABLE, Faults
from tests.sim.client import chat, send, until
from tests.sim.test_h2 import asks, talking
from tests.support.h2 import frames as f

H2 = SimConfig(debug=True, h2=True)


@pytest.fixture
def play(run):
    """One faulted request on stream 1 (and ``more``, of the client); waits for the rows; gives the peer and the simulator.

    A row ``fin`` or ``reset`` waits for the end of the connection.
    """

    def player(fault: str, *rows: str, more: tuple[bytes, ...] = (), settings: dict[str, int] | None = None, **fields):
        async def main():
            async with Simulator(H2) as sim:
                async with talking(sim, **(settings or {})) as peer:
                    peer.says(asks(1, fault, **fields), *more)
                    for row in rows:
                        if row in ("fin", "reset"):
                            assert await peer.ended() == row
                        else:
                            await peer.sees(row)
                    await peer.quiet()
                await until(lambda: sim.state.running == sim.state.connections_open == 0)
                return peer.peer, sim

        return run(main)

    return player


STREAM = {"stream": True}
# Fault, what comes for it (in rows, an end among them), and of how many requests of this one what came.
ROWS = [
    ("close", ("fin",), {}, "faulted"),
    ("reset", ("reset",), {}, "faulted"),
    ("garbage", ("fin",), {}, "faulted"),
    ("status=503,retry-after=7", ("HEADERS 1 :status=503 retry-after=7", "DATA 1 end"), {}, "served"),
    ("redirect=http://x/", ("HEADERS 1 :status=307 location=http://x/", "DATA 1 end",), {}, "served"),
    ("1xx=3", ("HEADERS 1 :status=103 !end",) * 3 + ("HEADERS 1 :status=200", "DATA 1 end"), {}, "served"),
    ("many-headers=50", ("HEADERS 1 x-sim-49=49",), {}, "served"),
    ("head=70000", ("HEADERS 1 :status=200", "DATA 1 end"), {}, "served"),
    ("header=x-odd:a%00b", ("HEADERS 1 x-odd=a%00b",), {}, "served"),
    ("wrong-length=10", ("HEADERS 1 :status=200", "DATA 1 end"), {}, "served"),
    ("sse-content-length", ("HEADERS 1 !content-length=0", "DATA 1 end"), STREAM, "served"),
    ("end-after-events=2", ("HEADERS 1", "DATA 1 !end", "DATA 1 !end", "DATA 1 end length=0"), STREAM, "served"),
    ("error-event,after-events=1", ("DATA 1", "DATA 1", "DATA 1 end"), STREAM, "served"),
    ("close-after-events=1", ("DATA 1", "fin"), STREAM, "faulted"),
    ("reset-after-events=1", ("reset",), STREAM, "faulted"),
    ("close-after=20", ("DATA 1 length=20", "fin"), STREAM, "faulted"),
    ("one-byte-chunks", ("DATA 1 length=1",) * 20, STREAM, "served"),
    ("split=9", ("DATA 1 length=9",) * 5, STREAM, "served"),
    ("close-after-answer", ("DATA 1 end", "fin"), STREAM, "served"),
    ("rst", ("RST_STREAM 1 code=INTERNAL_ERROR",), {}, "faulted"),
    ("rst=REFUSED_STREAM", ("RST_STREAM 1 code=REFUSED_STREAM",), STREAM, "faulted"),
    ("rst=INTERNAL_ERROR,after-events=2", ("DATA 1", "DATA 1", "RST_STREAM 1 code=INTERNAL_ERROR"), STREAM, "faulted"),
    ("trailer=x-sum:1,trailer=x-b:2", ("DATA 1 !end", "HEADERS 1 end x-sum=1 x-b=2 !:status"), STREAM, "served"),
    ("trailer=x-sum:1", ("DATA 1 !end", "HEADERS 1 end x-sum=1"), {}, "served"),
    ("continuation=4", ("HEADERS 1 frames=5 :status=200", "DATA 1 end"), STREAM, "served"),
    ("continuation=200", ("HEADERS 1 frames=201 :status=200", "DATA 1 end"), {}, "served"),
    ("empty-data=20", ("DATA 1 length=0 !end",) * 20 + ("DATA 1 end",), STREAM, "served"),
    ("ping-flood=300", ("PING opaque=000000000000012b", "DATA 1 end"), STREAM, "served"),
    ("settings-flood=300", ("DATA 1 end",), STREAM, "served"),
    ("pad=7", ("DATA 1 !end", "DATA 1 end"), STREAM, "served"),
    ("max-streams=1", ("SETTINGS MAX_CONCURRENT_STREAMS=1", "DATA 1 end"), STREAM, "served"),
    ("window=5", ("SETTINGS INITIAL_WINDOW_SIZE=5", "DATA 1 end"), STREAM, "served"),
    ("goaway", ("GOAWAY last=1 code=NO_ERROR", "DATA 1 end", "fin"), STREAM, "served"),
    ("goaway=graceful,after-events=2", ("DATA 1", "DATA 1", "GOAWAY last=1", "DATA 1 end", "fin"), STREAM, "served"),
    ("goaway=double", ("GOAWAY last=2147483647 code=NO_ERROR", "GOAWAY last=1", "fin"), STREAM, "served"),
    ("goaway=zero", ("GOAWAY last=0 code=NO_ERROR", "fin"), STREAM, "faulted"),
    ("goaway=zero,goaway-code=ENHANCE_YOUR_CALM", ("GOAWAY last=0 code=ENHANCE_YOUR_CALM", "fin"), {}, "faulted"),
    ("frames=" + base64.b64encode(f.ping(b"iamafram")).decode(), ("PING opaque=69616d616672616d", "DATA 1 end"), {}, "served"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "rows", "fields", "outcome"), ROWS, ids=[f"{row[0]}-{bool(row[2])}" for row in ROWS])
def test_faults(play, fault, rows, fields, outcome):
    if fault == "garbage":
        with pytest.raises(AssertionError, match="a frame of"):
            play(fault, *rows, **fields)
        return
    peer, sim = play(fault, *rows, **fields)
    assert [request.outcome for request in sim.requests] == [outcome]
    assert sim.state.malformed == 0
    if fault == "head=70000":
        assert sum(len(n) + len(v) for n, v in next(one for one in peer.seen if one.kind == "HEADERS").fields) > 60_000
    if fault == "wrong-length=10":
        head = next(one for one in peer.seen if one.kind == "HEADERS")
        assert int(head.value(b"content-length") or 0) == len(peer.body(1)) + 10


@pytest.mark.parametrize("fault", ["stall-before", "stall-head", "stall-after-events=1", "stall-after=5", "no-read"])
def test_silence_ends_with_the_clients_reset(run, fault):
    async def main():
        async with Simulator(H2) as sim, talking(sim) as peer:
            peer.says(asks(1, fault, stream=True))
            if fault.startswith("stall-a"):
                await peer.sees("DATA 1")
            elif fault == "stall-head":
                await peer.sees("HEADERS 1")
            await peer.quiet()
            before = peer.peer.count("DATA"), peer.peer.count("WINDOW_UPDATE 1")
            peer.says(f.rst(1), asks(3))
            await peer.sees("DATA 3 end")
            await until(lambda: sim.state.cancelled == 1)
            return before, sim.requests[0].reset_code

    before, code = run(main)
    assert before[0] <= 1
    assert code == "CANCEL"


def test_an_early_answer_ends_with_a_reset_without_an_error(play):
    """RFC 9113 section 8.1: the rest of the request is not wanted."""
    peer, sim = play(
        "early,status=413", "RST_STREAM 5 code=NO_ERROR", more=(f.headers(5, (*f.POST, (b"x-sim-fault", b"early,status=413"))),)
    )
    peer.sees("HEADERS 5 :status=413", "DATA 5 end")
    assert [request.outcome for request in sim.requests] == ["served", "served"]


def test_a_complete_answer_and_a_reset(play):
    peer, _ = play("rst-after-answer", "DATA 1 end", "RST_STREAM 1 code=NO_ERROR", stream=True)
    assert peer.body(1).endswith(b"data: [DONE]\n\n")


def test_after_goaway_below_only_what_was_before_is_finished(run):
    async def main():
        async with Simulator(H2) as sim, talking(sim) as peer:
            peer.says(asks(1, "ttft-ms=30"), asks(3, "goaway=below"), asks(5))
            await peer.sees("GOAWAY last=1", "DATA 1 end")
            await peer.ended()
            return peer.peer.streams(), sim.seen.connections[0].unprocessed

    assert run(main) == ([1], [3, 5])


def test_max_streams_holds_when_it_is_acknowledged(run):
    async def main():
        async with Simulator(H2) as sim, talking(sim) as peer:
            peer.peer.acks = False
            peer.says(asks(1, "max-streams=1,stall-before"))
            await peer.sees("SETTINGS MAX_CONCURRENT_STREAMS=1")
            peer.says(asks(3), f.settings_ack(), asks(5))
            await peer.sees("DATA 3 end")
            await peer.sees("RST_STREAM 5 code=REFUSED_STREAM") if not peer.peer.count("DATA 5") else None
            return peer.peer.count("RST_STREAM 5 code=REFUSED_STREAM"), sim.seen.connections[0].refused

    assert run(main) == (1, [5])


def test_no_credit_for_a_while(run):
    async def main():
        async with Simulator(H2) as sim, talking(sim) as peer:
            began = monotonic()
            peer.says(asks(1, "no-credit=80"))
            await peer.sees("DATA 1 end")
            peer.says(f.headers(3, (*f.POST, (b"content-type", b"audio/x"))), *[f.data(3, b"x" * 16_000)] * 4)
            await peer.sees("WINDOW_UPDATE 0", "WINDOW_UPDATE 3")
            return monotonic() - began

    assert run(main) >= 0.08


@pytest.mark.parametrize(
    ("fault", "what"),
    [("continuation-flood=500", b"x-sim"), ("hpack-bomb=8000", b"bbbb")],
)  # fmt: skip
def test_blocks_that_do_not_end_or_explode(run, fault, what):
    async def main():
        async with Simulator(H2) as sim, talking(sim) as peer:
            peer.peer.reader.strict = False
            peer.says(asks(1, fault))
            try:
                async with asyncio.timeout(5):
                    while peer.peer.reader.bytes_seen < 10_000:
                        await peer.quiet(1)
            except AssertionError as error:
                return str(error)
            return bytes(peer.peer.reader._open.payload)

    said = run(main)
    if fault.startswith("hpack"):
        assert "cannot be decoded" in said
        assert "OversizedHeaderListError" in said
    else:
        assert said.count(what) == 500


def test_a_fault_of_the_other_protocol_is_refused(run):
    async def main():
        async with Simulator(H2) as sim:
            plain = [(await send(sim.url, chat(fault))).status for fault in ("rst", "goaway", "trailer=a:b")]
            async with talking(sim) as peer:
                peer.says(*[asks(2 * at + 1, "truncate-chunk" if not at else name) for at, name in enumerate(H1)])
                for at in range(len(H1)):
                    await peer.sees(f"HEADERS {2 * at + 1} :status=400")
            return plain

    assert run(main) == [400, 400, 400]


H1 = [name + ("=x" if TABLE[name].default is None else "") for name in H1_ONLY]


@pytest.mark.parametrize("text", ["rst=NOBODY", "goaway=never", "goaway-code=x", "max-streams=-1", "trailer", "frames=%%%"])
def test_what_is_not_understood(text):
    with pytest.raises(FaultError):
        Faults(text)


def test_configured_faults_hit_streams_too(run):
    async def main():
        async with Simulator(SimConfig(h2=True, fault="rst=REFUSED_STREAM,times=1")) as sim, talking(sim) as peer:
            peer.says(asks(1), asks(3))
            await peer.sees("RST_STREAM 1 code=REFUSED_STREAM", "DATA 3 end")

    run(main)
