"""What a byte costs each reader of a peer's bytes, beside what it costs in an ordinary input of the same size.

Owns: the table of readers, and the measuring. A cost is the least of several runs, and only compared with another of the
same run: the machine may be busy, and some do not run alike from one minute to the next. What seems too dear is measured
again, and so is the ordinary input beside it. The bound is the project's promise, for whatever input, refusals included.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from fastgw.accel.chunks import ChunkScanner
from fastgw.accel.sse import SseScanner
from fastgw.accel.usage import UsageScanner, usage_in
from fastgw.errors import GatewayError
from fastgw.exchange.dialects import OLLAMA, TGI, learn, told
from fastgw.protocol import gauges
from fastgw.protocol.coding import FREE_BYTES, decoder
from fastgw.protocol.embeddings import parts, split
from fastgw.protocol.h2.hpack import Decoder
from fastgw.protocol.http1.client import ResponseReader
from fastgw.protocol.http1.framing import RequestChunks
from fastgw.protocol.http1.server import RequestReader
from fastgw.protocol.multipart import ModelField
from fastgw.protocol.openai import parse_models, scan_body, with_bound, with_model, with_usage
from fastgw.protocol.query import parameter
from fastgw.upstream.kinds.registry import GAUGES, kind_of
from tests.support import ordinary, shapes, upload_shapes, wire_shapes

VLLM = kind_of("vllm").gauges

BOUND = 10.0
GROWTH = 1.5
"""How much dearer a byte may be in twice as much of the same: what is quadratic costs twice as much."""

RATIO = 100  # the default of max_decompression_ratio
READ_BYTES = 2048
SAMPLE_S = 0.0002
TRIES = 6  # what is dear is so each time; what another program made so is not
TURNS = 8

Reads = list[bytes]
Named = Iterator[tuple[str, Reads]]


@dataclass(frozen=True)
class Reader:
    """``read`` takes the reads of one input, of whatever verdict. ``sizes`` are those at which such inputs occur: two for the
    suite, more for who has time. ``turns``: how many of that size come one after another. ``holds`` is how many bytes it may
    take for one of the input while it reads. ``bytes_of``: what of an input counts, where that is not what came. ``bound``: how
    many times as dear as an ordinary one."""

    name: str
    read: Callable[[Reads], object]
    plain: Callable[[int], Reads]
    made_up: Callable[[int], Named]
    sizes: tuple[int, ...]
    turns: int = 1
    holds: int = 12
    bytes_of: Callable[[Reads], int] = lambda reads: total(reads)
    bound: float = BOUND
    known: dict[int, float] = field(default_factory=dict)
    made: dict[int, dict[str, Reads]] = field(default_factory=dict)

    def cost(self, reads: Reads, samples: int = 2) -> float:
        """Seconds for one byte: the least of some samples, none of them too short for the clock."""
        best = float("inf")
        times = 1
        for _ in range(samples):
            while True:
                begin = time.thread_time()  # (what others take of the processor meanwhile is no cost of ours)
                for _ in range(times):
                    self.read(reads)
                spent = time.thread_time() - begin
                if spent >= SAMPLE_S or times >= 4096:
                    break
                times *= 4
            best = min(best, spent / times)
        return best / self.bytes_of(reads)

    def plain_cost(self, size: int, samples: int = 0) -> float:
        """The same of an ordinary input of about ``size`` bytes; with ``samples``, measured anew."""
        at = size.bit_length()
        if samples or at not in self.known:
            cost = self.cost(self.plain(size), samples or 7)
            self.known[at] = min(cost, self.known.get(at, cost))
        return self.known[at]

    def ratio(self, reads: Reads, cost: float = 0.0) -> float:
        """How many times as dear a byte of ``reads`` is as an ordinary one. ``cost``: what it cost, if that is known."""
        size = total(reads) // self.turns
        ratio = (cost or self.cost(reads)) / self.plain_cost(size)
        for _ in range(3):
            if ratio <= 0.9 * self.bound:
                break
            # (In the worst case something else was running.)
            self.known.pop(size.bit_length(), None)
            ratio = min(ratio, self.cost(reads, 7) / self.plain_cost(size, 9))
        return ratio

    def growth(self, shape: str, size: int) -> float:
        """How many times as dear a byte is in twice as much of a shape: once more doubled, where that is not in proportion.

        (The processor learns the order of what is short; what costs more the more there is of it does so each time.)
        """
        growth = float("inf")
        for less, more in ((size, 2 * size), (2 * size, 4 * size)):
            some, twice = self.of(less, shape), self.of(more, shape)
            if total(twice) < 1.5 * total(some):  # some shapes end with a limit
                return 0.0 if growth == float("inf") else growth
            growth = min(growth, self.cost(twice) / self.cost(some), self.cost(twice, 7) / self.cost(some, 7))
            if growth <= GROWTH:
                break
        return growth

    def of(self, size: int, shape: str) -> Reads:
        if size not in self.made:
            self.made[size] = dict(self.made_up(size))
        return self.made[size][shape]

    def faults(self, less: int, more: int) -> dict[str, tuple[float, ...]]:
        """The made-up inputs of these sizes that cost too much: beside ordinary ones, or beside half of the same."""
        found: dict[str, tuple[float, ...]] = {}
        seen = 0
        for (shape, few), (_, many) in zip(self.made_up(less), self.made_up(more), strict=True):
            seen += 1
            for _ in range(TRIES):
                costs = self.cost(few), self.cost(many)
                figures = [self.ratio(few, costs[0]), self.ratio(many, costs[1])]
                if costs[1] > GROWTH * costs[0] and total(many) > 1.5 * total(few):
                    figures.append(self.growth(shape, more))
                if max(figures[:2]) <= self.bound and max(figures[2:], default=0) <= GROWTH:
                    break
            else:
                found[shape] = tuple(round(figure, 2) for figure in figures)
        self.made.clear()
        assert seen > 10
        return found


def total(reads: Reads) -> int:
    return sum(map(len, reads))


# --- how inputs come
def one(make: Callable[[int], bytes]) -> Callable[[int], Reads]:
    return lambda size: [make(size)]


def each(make: Callable[[int], shapes.Shapes]) -> Callable[[int], Named]:
    return lambda size: ((name, [data]) for name, data in make(size))


def cut(data: bytes, step: int) -> Reads:
    return [data[at : at + step] for at in range(0, len(data), step)]


def in_reads(make: Callable[[int], bytes], step: int = READ_BYTES) -> Callable[[int], Reads]:
    return lambda size: cut(make(size), step)


def each_in_reads(make: Callable[[int], shapes.Shapes], step: int = READ_BYTES) -> Callable[[int], Named]:
    return lambda size: ((name, cut(data, step)) for name, data in make(size))


def turns(make: Callable[[int, int], bytes]) -> Callable[[int], Reads]:
    """What one connection brings, one after another."""
    return lambda size: [make(size, turn) for turn in range(TURNS)]


def each_turns(make: Callable[[int, int], shapes.Shapes]) -> Callable[[int], Named]:
    def made(size: int) -> Named:
        several = [dict(make(size, turn)) for turn in range(TURNS)]
        return ((name, [one[name] for one in several]) for name in several[0])

    return made


def chunked(data: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut(data, READ_BYTES)) + b"0\r\n\r\n"


def streams(size: int) -> shapes.Shapes:
    """Answers in chunks: odd events in ordinary chunks, and an ordinary stream in odd ones."""
    for name, data in wire_shapes.events(size):
        yield name, chunked(data)
    yield from wire_shapes.chunks(size)


# --- the readers
def running() -> Any:
    """Those of the twin that this process runs."""
    return SimpleNamespace(
        scan_body=scan_body, with_usage=with_usage, with_model=with_model, with_bound=with_bound, RequestReader=RequestReader,
        ResponseReader=ResponseReader, RequestChunks=RequestChunks, ChunkScanner=ChunkScanner, SseScanner=SseScanner,
        usage_in=usage_in, UsageScanner=UsageScanner, parse_models=parse_models, Decoder=Decoder,
    )  # fmt: skip


class Readings:
    """How what a peer sends is read by one twin: ``side`` has by name what is compiled, or built upon such."""

    def __init__(self, side: Any) -> None:
        self.side = side

    def body(self, reads: Reads) -> None:
        data = reads[0]
        with suppress(GatewayError):
            facts = self.side.scan_body(data)
            self.side.with_bound(data, ("max_tokens",), 99, 2)
            data = self.side.with_usage(data, facts)
            self.side.with_model(data, facts, "another")

    def own(self, reads: Reads) -> None:
        data = reads[0]
        with suppress(GatewayError):
            facts = self.side.scan_body(data, 64)
            said = learn(facts, data, TGI if data[:7] == b'{"text"' else OLLAMA, 4096, 4)
            told(self.side.with_bound(data, (), 99, 2), said.places, 99)

    @staticmethod
    def heads(make: Callable[[], Any]) -> Callable[[Reads], object]:
        def read(reads: Reads) -> None:
            reader = make()
            for data in reads:
                try:
                    reader.feed(data)
                except GatewayError:
                    reader = make()  # a refused head ends its connection

        return read

    def slowly(self, reads: Reads) -> None:
        reader = self.side.RequestReader()
        with suppress(GatewayError):
            for data in reads:
                reader.feed(data)

    def stream(self, reads: Reads) -> None:
        # Both, as they are read: there is nothing behind a chunk's frame that another does not read on.
        chunks, events = self.side.ChunkScanner(), self.side.SseScanner(True)
        with suppress(ValueError):
            for data in reads:
                payload = chunks.feed(data)
                if payload:
                    events.feed(payload)
        events.flush()

    def blocks(self, reads: Reads) -> None:
        decoder = self.side.Decoder()
        for data in reads:
            try:
                decoder.fields(data)
            except ValueError:
                decoder = self.side.Decoder()  # its connection has ended

    def upload(self, reads: Reads) -> None:
        body = self.side.RequestChunks()
        with suppress(GatewayError):
            for data in reads:
                body.feed(data)

    @staticmethod
    def first(read: Callable[[bytes], object]) -> Callable[[Reads], object]:
        return lambda reads: read(reads[0])

    def scanned(self, reads: Reads) -> None:
        scanner = self.side.UsageScanner()
        for data in reads:
            scanner.feed(data)

    @staticmethod
    def vectors_of(reads: Reads) -> None:
        eight = [1] * 8
        split(reads[0], eight, eight)

    def query(self, reads: Reads) -> None:
        # With the head that it comes in, which is read in any case.
        with suppress(GatewayError, ValueError):
            head = self.side.RequestReader().feed(b"GET /v1/realtime?%b HTTP/1.1\r\nHost: a\r\n\r\n" % reads[0])
            parameter(head.query, "model")

    @staticmethod
    def form(reads: Reads) -> None:
        field = ModelField(upload_shapes.FORM, upload_shapes.PARTS)
        with suppress(GatewayError):
            field.feed(reads[0])
            field.finish()

    @staticmethod
    def packed(reads: Reads) -> None:
        coding = decoder(b"gzip", RATIO)
        assert coding is not None
        with suppress(GatewayError):
            coding.take(reads[0], True)
            while coding.pending:
                coding.step(65536, 10 << 20)

    @staticmethod
    def came_out(reads: Reads) -> int:
        """What came, and what came out before it broke or was too much: that is the next reader's to count again."""
        coding = zlib.decompressobj(wbits=31)
        left, out = reads[0], 0
        with suppress(zlib.error):
            while left and out < max(FREE_BYTES, RATIO * len(reads[0])):
                piece = coding.decompress(left, 1024)
                out += len(piece)
                left = coding.unconsumed_tail
                if coding.eof:
                    left, coding = coding.unused_data, zlib.decompressobj(wbits=31)
        return total(reads) + out


def readers(side: Any) -> list[Reader]:
    """All that read what a peer sends, of one twin; as :class:`Readings`."""
    by = Readings(side)
    requests, responses = by.heads(side.RequestReader), by.heads(side.ResponseReader)
    lists = (16384, 65536, 8 << 20)
    asked, answered = (400, 2000, 16000, 32000), (400, 2000, 60000)
    pages = (65536, 262144)
    chunks, packings = each_in_reads(wire_shapes.chunks, 1), each(upload_shapes.packings)
    # (Of a stream one event at most, of 64 KiB, is looked into at a time; of models ten thousand names at most are kept.)
    dear_ones = each_turns(wire_shapes.responses)
    return [
        Reader("body", by.body, one(ordinary.chat), each(shapes.bodies), (4096, 16384, 10 << 20)),
        Reader("body in an engine's own API", by.own, one(ordinary.chat), each(shapes.own_bodies), (4096, 16384, 10 << 20)),
        Reader("request head", requests, turns(ordinary.head), each_turns(wire_shapes.heads), asked, TURNS),
        # (An ordinary one has few fields, and is a fifth of a nanosecond a byte; what is not has one in every twelve bytes.)
        Reader("response head", responses, turns(ordinary.response), dear_ones, answered, TURNS, bound=13.0),
        Reader("head byte by byte", by.slowly, in_reads(ordinary.head, 1), each_in_reads(wire_shapes.heads, 1), (400, 1600)),
        Reader("stream", by.stream, in_reads(ordinary.chunked), each_in_reads(streams), (4096, 16384, 131072, 4 << 20)),
        Reader("stream byte by byte", by.stream, in_reads(ordinary.chunked, 1), each_in_reads(streams, 1), (200, 500, 70_000)),
        Reader("upload byte by byte", by.upload, in_reads(ordinary.chunked, 1), chunks, (900, 3600)),
        Reader("field block", by.blocks, turns(ordinary.blocks), each_turns(wire_shapes.blocks), asked, TURNS),
        Reader("query", by.query, one(ordinary.query), each(wire_shapes.queries), (1000, 4000, 16000, 32000)),
        Reader("form", by.form, one(upload_shapes.form), each(upload_shapes.forms), (4096, 16384, 1 << 20)),
        Reader("packed body", by.packed, one(upload_shapes.packed), packings, (4096, 16384), 1, 300, by.came_out),
        Reader("answer", by.first(side.usage_in), one(ordinary.answer), each(shapes.answers), (4096, 65536)),
        Reader("answer in reads", by.scanned, in_reads(ordinary.answer), each_in_reads(shapes.answers), (4096, 65536)),
        Reader("models", by.first(side.parse_models), one(ordinary.models), each(shapes.model_lists), lists, holds=16),
        Reader("embedding", by.first(parts), one(ordinary.embedding), each(shapes.embeddings), (4096, 65536, 1 << 20)),
        Reader("vectors", by.vectors_of, one(ordinary.embedded), each(shapes.vectors), lists),
        Reader("metrics", by.first(partial(gauges.read, None, among=GAUGES)), one(ordinary.page), each(wire_shapes.pages),
               pages),
        Reader("vLLM's metrics", by.first(partial(gauges.read, VLLM)), one(ordinary.page), each(wire_shapes.pages), pages),
    ]
