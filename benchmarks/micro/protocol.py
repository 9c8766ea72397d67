"""Nanoseconds per operation of the sans-I/O layers: ``python -m benchmarks.micro.protocol``.

The best of several rounds: what is asked is what the code costs, not what else the machine was doing.
"""

from __future__ import annotations

import random
import timeit
from collections.abc import Callable

from fastgw.accel.chunks import ChunkScanner
from fastgw.accel.heads import scan_request, scan_response
from fastgw.accel.sse import SseScanner
from fastgw.protocol.http1.client import parse_response
from fastgw.protocol.http1.server import RequestReader, parse_request
from fastgw.protocol.http1.writer import request_head, request_line, simple_response
from fastgw.protocol.multipart import ModelField
from fastgw.protocol.openai import scan_body, with_model, with_usage
from fastgw.protocol.start import RequestStart

REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: bench/1.0\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAuthorization: Bearer sk-1234567890abcdef1234567890abcdef\r\n"
    b"Content-Type: application/json\r\nX-Stainless-Lang: python\r\nContent-Length: 131"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 13:00:00 GMT\r\nserver: uvicorn\r\ncontent-length: 200\r\n"
    b"content-type: application/json"
)
EVENT = (
    b'data: {"id":"chatcmpl-1234567890abcdef","object":"chat.completion.chunk","created":1731999999,"model":"org/model-8b",'
    b'"choices":[{"index":0,"delta":{"content":" hello"},"logprobs":null,"finish_reason":null}]}\n\n'
)
BODY = (
    b'{"model":"org/model-8b-instruct","messages":[{"role":"user","content":"Hello there, how are you?"}],'
    b'"max_tokens":64,"stream":true}'
)
FORM_TYPE = b"multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW"
FORM = (
    b'------WebKitFormBoundary7MA4YWxkTrZu0gW\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'------WebKitFormBoundary7MA4YWxkTrZu0gW\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\nRIFF"
)


def form() -> ModelField:
    reader = ModelField(FORM_TYPE, 128)
    reader.feed(FORM)
    return reader


def measure(work: Callable[[], object], rounds: int = 7, calls: int = 50_000) -> int:
    """Nanoseconds per call, the best of ``rounds``."""
    work()
    return round(min(timeit.repeat(work, number=calls, repeat=rounds)) / calls * 1e9)


def main() -> None:
    chunk = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
    scanner, events, reader, facts = ChunkScanner(), SseScanner(True), RequestReader(), scan_body(BODY)
    general = EVENT + EVENT
    head = REQUEST + b"\r\n\r\n"
    start = RequestStart(b"POST", b"/v1/x", RESPONSE + b"\r\nx-request-id: ")
    start.line = request_line(start.method, start.target)
    upload, file = form(), random.Random(1).randbytes(65536)
    table: list[tuple[str, Callable[[], object]]] = [
        ("request head, 9 fields, fast path", lambda: scan_request(REQUEST)),
        ("request head, complete path", lambda: parse_request(REQUEST)),
        ("request head through a connection's reader", lambda: reader.feed(head)),
        ("response head, 4 fields, fast path", lambda: scan_response(RESPONSE)),
        ("response head, complete path", lambda: parse_response(RESPONSE)),
        ("one chunk", lambda: scanner.feed(chunk)),
        ("one event", lambda: events.feed(EVENT)),
        ("two events in one read", lambda: events.feed(general)),
        ("body of a chat request", lambda: scan_body(BODY)),
        ("asking for usage", lambda: with_usage(BODY, facts)),
        ("another model name", lambda: with_model(BODY, facts, "other")),
        ("a form up to its file (a known boundary)", form),
        ("64 KiB of a form's file", lambda: upload.feed(file)),
        ("head of a request to an engine", lambda: request_head(start, b"Host: e:1\r\n", b"", b"id", 131)),
        ("a whole small response", lambda: simple_response(200, b"", b"text/plain", b"ok")),
    ]
    for name, work in table:
        print(f"{name:45}{measure(work):8} ns")


if __name__ == "__main__":
    main()
