"""The opening handshake of a WebSocket, as a client says it (RFC 6455 §4.2.1) and as an engine is to answer it (§4.1).

Owns: what of it must be so for there to be a session at all, and what an engine is told of it. Over HTTP/2 (RFC 8441) a client
has said it by an extended CONNECT, which comes here as HTTP/1 has it, without a key. Must never: let a client's key leave, or
ask an engine for what is no handshake.
"""

from __future__ import annotations

import os
from typing import Final

from fastgw.accel.fields import value_in
from fastgw.accel.hashing import digest
from fastgw.accel.heads import RequestHead
from fastgw.errors import GatewayError
from fastgw.exchange.declined import is_his
from fastgw.exchange.endpoints import TURNS
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.session import WebSocketSession
from fastgw.exchange.turns import Turns, Unable
from fastgw.protocol.headers import handshake_lines
from fastgw.protocol.openai import check_model
from fastgw.protocol.query import parameter
from fastgw.protocol.websocket import is_key, new_key

VERSION: Final = b"13"
PROTOCOLS: Final = b"sec-websocket-protocol"


def check_handshake(head: RequestHead, connects: bool) -> None:
    """``connects``: it came over HTTP/2. Raises GatewayError for what is no handshake, or one of another version."""
    own = head.own or {}
    if own.get(b"upgrade", b"").lower() != b"websocket" or head.chunked or head.content_length > 0:
        raise GatewayError("bad_request", "This endpoint speaks WebSocket: send `Upgrade: websocket`, and no body.")
    if b"upgrade" not in [option.strip(b" \t").lower() for option in own.get(b"connection", b"").split(b",")]:
        raise GatewayError("bad_request", "A WebSocket's handshake says `Connection: Upgrade`.")
    if not connects and head.minor == 0:  # (RFC 9110 §7.8: there is no Upgrade)
        raise GatewayError("bad_request", "A WebSocket's handshake is HTTP/1.1.")
    if own.get(b"sec-websocket-version") != VERSION:
        raise GatewayError("websocket_version")
    if not connects and not is_key(own.get(b"sec-websocket-key", b"")):
        raise GatewayError("bad_request", "A WebSocket's handshake has one Sec-WebSocket-Key, of 16 bytes in Base64.")


def begin_session(core: GatewayCore, unable: Unable | None, exchange: Exchange) -> None:
    """A handshake goes to an engine, on a connection of its own. ``unable``: which engines take none for the Responses API;
    None = whoever asks reads what its clients say."""
    head = exchange.head
    connects = exchange.client.connects
    check_handshake(head, connects)
    own = head.own
    assert own is not None
    try:
        asked = parameter(head.query, "model")
    except ValueError as error:
        raise GatewayError("invalid_parameter", str(error), param="model") from None
    model = check_model(asked.text) if asked is not None and asked.text else ""
    if connects:
        # (Over HTTP/2 there is none, RFC 8441 §5; an engine of HTTP/1 gets one all the same.)
        own[b"sec-websocket-key"] = new_key(os.urandom(16))
    # The client's key never leaves.
    lines = handshake_lines(own, lambda text: core.accounts.find(digest(text)) is not None)
    value = asked if model else None
    if exchange.endpoint.label != TURNS or unable is None:
        head.forward += lines
        exchange.session = WebSocketSession(model, value, own[b"sec-websocket-key"])
        return
    if unable.all(pool for pool in core.table.pools if is_his(pool.engine, exchange)):
        raise GatewayError("http_only")
    # He is accepted before his engine is known, which is offered what he has been told.
    offered = value_in(lines, PROTOCOLS)
    chosen = b"" if offered is None else b"%b: %b\r\n" % (PROTOCOLS, offered.partition(b",")[0].strip(b" \t"))
    head.forward += b"".join([line for line in lines.splitlines(True) if not line.startswith(PROTOCOLS)]) + chosen
    exchange.session = Turns(own[b"sec-websocket-key"], chosen, core.max_body_bytes, unable, value)
