"""How the gateway says no, or that it is over: an answer of its own, or the event that ends a stream.

Owns which words and lines an error comes to, by the gateway's profile (``errors`` has the table) and by the shape that the
client speaks. Must never say an error's detail: that is for the log.
"""

from __future__ import annotations

from math import ceil
from time import time

from fastgw import errors
from fastgw.errors import ErrorKind, GatewayError
from fastgw.exchange.context import Asking
from fastgw.exchange.exchange import NOT_ALLOWED, OK
from fastgw.net.client import MAX_REFUSALS
from fastgw.protocol.anthropic import speaks
from fastgw.protocol.coding import codings
from fastgw.protocol.endings import cut_event
from fastgw.protocol.http1.writer import WEBSOCKETS
from fastgw.protocol.websocket import FAILED, GOING_AWAY, SPENT, close_frame


def answer(profile: str, error: GatewayError, exchange: Asking, extra: bytes) -> int:
    """Answer with ``error`` and the lines ``extra``, or by its event where a head has gone down; ends the request. Returns the
    status."""
    session = exchange.session
    if session is not None and session.accepted:
        exchange.client.pass_on(session.last_words(exchange.gateway, error))
        exchange.client.hang_up()
        return 101
    kind = errors.lookup(error.kind.name, profile)
    # The profile's message says what the profile's users expect; the request's own message knows more.
    message = error.message if kind is error.kind else None
    body = errors.body(kind, message, error.param)
    if _is_anthropic(exchange):
        body = errors.anthropic_body(kind, message)
    client = exchange.client
    if client.sent:  # (a heartbeat has brought a head, which was a good one)
        client.conclude(_event(exchange, body))
        return OK
    close = kind.close or (error.kind.status in NOT_ALLOWED and client.refusals >= MAX_REFUSALS)
    lines = b"x-request-id: %b\r\n%b%b" % (exchange.request_id, extra, _lines(kind, error, exchange.endpoint.auth))
    client.refuse(kind.status, body, lines, close)
    return kind.status


def _lines(kind: ErrorKind, error: GatewayError, keyed: bool) -> bytes:
    """What is to be done, for programs; ``keyed``: another key would have been told something else."""
    lines = b"cache-control: no-store\r\n" if keyed else b""
    if kind.status == 401:
        lines += b"www-authenticate: Bearer\r\n"
    elif error.kind.name == "unsupported_encoding":
        lines += b"accept-encoding: %b\r\n" % codings().encode()
    elif kind.status == 426:
        lines += WEBSOCKETS
    if error.retry_after_s is not None:
        # (In milliseconds too, for clients that read that: a limit may be over in a few.)
        lines += b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (
            max(1, ceil(error.retry_after_s)), max(1, ceil(error.retry_after_s * 1e3)),
        )  # fmt: skip
    if kind.hopeless:
        lines += b"x-should-retry: false\r\n"
    if error.allow is not None:
        lines += b"allow: %b\r\n" % error.allow.encode()
    return lines


def error_event(profile: str, name: str, exchange: Asking) -> bytes:
    """The typed event that ends a broken stream."""
    kind = errors.lookup(name, profile)
    return _event(exchange, errors.anthropic_body(kind) if _is_anthropic(exchange) else errors.body(kind))


def _event(exchange: Asking, body: bytes) -> bytes:
    return b"%bdata: %b\n\n" % (b"event: error\n" if _is_anthropic(exchange) else b"", body)


def close(profile: str, name: str) -> bytes:
    """The frame that ends a WebSocket session."""
    code = GOING_AWAY if name == "draining" else SPENT if errors.KINDS[name].status < 500 else FAILED
    return close_frame(code, errors.lookup(name, profile).message)


def final_event(profile: str, name: str, exchange: Asking, tokens: int) -> bytes:
    """What ends a stream whose tokens are spent: its shape's own last event, cut for length, with the reason.

    Nothing where its shape has no such event.
    """
    kind = errors.lookup(name, profile)
    facts = exchange.facts
    return cut_event(
        exchange.endpoint.label,
        exchange.model,
        exchange.request_id,
        facts.choices if facts is not None else 1,
        tokens,
        {"message": kind.message, "type": kind.type, "param": None, "code": kind.code},
        int(time()),
    )


def _is_anthropic(exchange: Asking) -> bool:
    label = exchange.endpoint.label
    return label.startswith("/v1/messages") or (label.startswith("/v1/models") and speaks(exchange.head.forward))
