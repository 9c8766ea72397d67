"""The Responses API over a WebSocket: which engine a client is led to stands in the first message that he sends.

So he is accepted before one is known, and what he says is read, message by message: each is judged as the body of a request is,
before an engine sees it. The first (``response.create``) is routed as that request would be. Then the engine is asked for a
session, gets the message, and what it says goes down as it is. Every later message goes up to that engine alone, as it gets
bodies (its own name for the model): so none may name another model, nor a response that is another key's.

Owns: what a message may say and how much of it is held; how errors are told where there is no answer to tell them by; which
engines have shown that they cannot be asked so. Must never: pass a byte of a message on that has not been judged whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from fastgw.accel.bodies import BodyFacts
from fastgw.accel.fields import value_in
from fastgw.accel.heads import ResponseHead
from fastgw.accel.masks import framed
from fastgw.accel.members import PEERED, TooMany, folded, members, misnamed
from fastgw.errors import GatewayError, Source, lookup
from fastgw.exchange.context import Context
from fastgw.exchange.endpoints import MAX_ID_BYTES
from fastgw.exchange.engine_error import NOT_IMPLEMENTED
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.phases import DONE, TUNNEL
from fastgw.exchange.request import rewritten
from fastgw.exchange.session import WebSocketSession
from fastgw.net.clock import monotonic
from fastgw.net.timers import NEVER
from fastgw.net.wire import DEAD, SENT
from fastgw.protocol.messages import (
    CLOSE,
    FIN,
    NO_STATUS,
    NO_TEXT,
    PING,
    PONG,
    TEXT,
    TOO_LONG,
    Event,
    MessageError,
    MessageReader,
)
from fastgw.protocol.openai import refuse_other_models, refuse_peers, scan_body
from fastgw.protocol.query import Value
from fastgw.protocol.websocket import AGAIN, FAILED, GOING_AWAY, SPENT, Counts, accept_of, close_frame, switching
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine

UNABLE_S: Final = 600.0  # an engine that takes no such session is asked again after this: it may be another version then
MOST_UNABLE: Final = 4096  # of them are remembered
MOST_PINGS: Final = 256  # are answered here, where there is no engine yet
_NONE_THERE: Final = frozenset((200, 403, 404, 405, 426, NOT_IMPLEMENTED))
"""What engines say of a WebSocket at a path that has none (403: FastAPI)."""
MOST_UNDER_WAY: Final = 64
"""Turns of a session whose prompts are known until they end."""
_CREATE: Final = "response.create"
_JUDGED: Final = frozenset(("type", "response"))
_decode_string: Final = msgspec.json.Decoder(str).decode
# (Within a text of JSON the quotes would be escaped.)
_CREATED: Final = b'"response.created"'
_PIECE: Final = b'.delta"'
# (As a whole message, not within what is told again of a request.)
_REFUSED: Final = re.compile(rb'(?<![:,\[\s])\{\s*"type"\s*:\s*"error"|"sequence_number":\d+,"type":"error"\}').search
_RESPONSE: Final = b'{"response":{"id":"resp_'
# (Or where its type stands last, as Pydantic has it: not within another value.)
_MADE: Final = re.compile(
    rb'(?s)(?:%b.{0,512}?"id"\s*:\s*"|(?<![:,\[\s])\{"response":\{"id":")(resp_[^"\\]{1,%d})"'
    % (re.escape(_CREATED), MAX_ID_BYTES)
).finditer
_HEARD: Final = 1024  # bytes of what an engine has said that are looked at again with the next


class Unable:
    """The engines that have refused such a session, for a while."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: dict[tuple[str, str, int, str], float] = {}

    def learn(self, engine: Engine) -> None:
        if len(self._until) >= MOST_UNABLE:
            self._until.clear()
        self._until[_place(engine)] = monotonic() + UNABLE_S

    def forget(self, engine: Engine) -> None:
        self._until.pop(_place(engine), None)

    def all(self, pools: Iterable[Pool]) -> bool:
        """Whether there are engines, and each is one of them."""
        now = monotonic()
        found = [self._until.get(_place(pool.engine), 0.0) > now for pool in pools]
        return bool(found) and all(found)


def _place(engine: Engine) -> tuple[str, str, int, str]:
    return engine.name, engine.host, engine.port, engine.unix_path


class Turns(WebSocketSession):
    """Such a session. ``lines``: the fields of its 101 beside the accept. ``most_bytes``: of one message. ``value``: of a model
    in its query, which some engines that are gateways go by."""

    __slots__ = (
        "_asked", "_code", "_ended", "_heard", "_held", "_later", "_lines", "_pieces", "_pings", "_reader", "_unable",
        "_under_way", "_unread",
    )  # fmt: skip

    def __init__(self, key: bytes, lines: bytes, most_bytes: int, unable: Unable, value: Value | None) -> None:
        super().__init__("", value, key)
        self._lines = lines
        self._reader = MessageReader(True, most_bytes)
        self._unable = unable
        self._held = 0  # bytes of a message that is not whole
        self._pings = 0
        self._code = 0  # of its close, 0 = as the error says
        self._asked = False  # an engine is being found, or has been
        self._later: list[Event] = []  # what the client has said meanwhile,
        self._unread = b""  # and what of that has not been read
        self._under_way: list[int] = []  # turns that have not ended: the tokens that each may read
        self._pieces = 0  # of an answer have passed since one has ended
        self._ended = 0  # answers, as far as these two know
        self._heard = b""  # the last of what the engine has said: a response's id may come in two reads

    # --- the client
    def greets(self, exchange: Exchange) -> bool:
        if self.accepted:
            return False
        self.accepted = True
        exchange.status = 101
        client = exchange.client
        lines = b"sec-websocket-accept: %b\r\n%b" % (accept_of(self.key), self._lines)
        if client.upgrade(switching(lines, False), exchange.request_id, b"") == DEAD:
            exchange.client_broke()
            return True
        client.due(monotonic() + exchange.gateway.between_bytes_timeout_s)
        early = client.early()
        if early:
            exchange.on_tunnel_data(early)
        return True

    def take(self, exchange: Exchange, data: bytes) -> None:
        if self._asked and exchange.phase != TUNNEL:
            self._unread += data  # (he is not read, and this was on its way)
            return
        reader = self._reader
        if reader.closed >= 0:
            return  # (he has said his last)
        try:
            if reader.feed(data):
                raise MessageError(NO_TEXT, "what is said here are texts")
            events, reader.events = reader.events, []
            self._hold(exchange, self._kept(exchange) + sum([len(payload) for _, payload in events]))
            self._go_on(exchange, events)
            self._hold(exchange, self._kept(exchange))
        except MessageError as error:
            self._code = error.code
            long = error.code == TOO_LONG
            exchange.fail(GatewayError("body_too_large" if long else "bad_request", None if long else f"No message: {error}."))
        except GatewayError as error:
            exchange.fail(error)

    def _kept(self, exchange: Exchange) -> int:
        """Bytes of messages that are here: of one that is not whole, of the first, of what the engine has not taken."""
        call = exchange.call
        queued = call.stream.queued() if exchange.phase == TUNNEL and call is not None and call.stream is not None else 0
        return self._reader.held() + len(exchange.body) + queued

    def _hold(self, exchange: Exchange, held: int) -> None:
        """So many are kept now. Raises GatewayError where there is no room for them."""
        if exchange.phase == DONE:
            return
        before, self._held = self._held, held
        if held > before:
            exchange.hold(held - before)
        else:
            exchange.let_go(before - held)

    def _go_on(self, exchange: Exchange, events: list[Event]) -> None:
        """What has come, in order; behind the first message it waits for the engine. Raises GatewayError."""
        for at, (kind, payload) in enumerate(events):
            if exchange.phase == DONE:
                return
            if self._asked and exchange.phase != TUNNEL:
                self._later = events[at:]
                break
            if kind == TEXT and self._asked:
                self._say(exchange, payload)
            elif kind == TEXT:
                self._ask(exchange, payload)
            elif self._asked:
                self._up(exchange, kind, payload)
            elif kind == PING:
                self._answer(exchange, payload)
        if self._reader.closed >= 0 and exchange.phase != DONE:
            self._close(exchange)

    def _answer(self, exchange: Exchange, payload: bytes) -> None:
        """A ping, and nobody else is there to answer it."""
        self._pings += 1
        if self._pings > MOST_PINGS:
            raise GatewayError("bad_request", "Too many pings before the first message.")
        if exchange.client.pass_on(framed(FIN | PONG, payload, 0, len(payload), b"")) == DEAD:
            exchange.client_broke()

    def _close(self, exchange: Exchange) -> None:
        """The client has said his close."""
        code = self._reader.closed
        payload = b"" if code == NO_STATUS else code.to_bytes(2, "big") + self._reader.reason
        if exchange.phase == TUNNEL:
            self._up(exchange, CLOSE, payload)
            return
        exchange.client.pass_on(framed(FIN | CLOSE, payload, 0, len(payload), b""))
        exchange.client.hang_up()
        if self._asked:
            exchange.on_gone("fin")
        else:
            exchange.end("ok", False)

    def _ask(self, exchange: Exchange, payload: bytes) -> None:
        """The first message: an engine is found for it as for a request. Raises GatewayError."""
        gateway = exchange.gateway
        if gateway.draining:
            raise _draining()
        if _kind_of(payload, gateway.max_json_members) != _CREATE:
            self._facts(exchange, payload)  # (it may be no JSON)
            raise GatewayError("invalid_parameter", f"The first message must be of the type `{_CREATE}`.", param="type")
        if self.value is not None and self._facts(exchange, payload).model != self.value.text:
            raise GatewayError("invalid_parameter", "The query names another model than the message.", param="model")
        self._asked = True
        limit_s = gateway.time_limit(exchange.timeout_s, gateway.request_timeout_s)
        exchange.client.due(monotonic() + limit_s if limit_s else NEVER)
        exchange.client.pause()
        exchange.whole(payload)

    # --- the engine
    def refused(self, exchange: Exchange, status: int) -> GatewayError | None:
        if status in (429, 503):
            return GatewayError("engines_unavailable", source=Source.UPSTREAM, retry_after_s=exchange.gateway.retry_after_s)
        # (500: servers say so of what they have not expected. Agents try this first, and would have it spared by all.)
        if (status >= 429 and status not in (500, NOT_IMPLEMENTED)) or status in (101, 401, 408):
            return None
        assert exchange.call is not None
        # (It may be this client alone who is refused, for what his head says, or for the page that he comes from.)
        if status in _NONE_THERE and (status != 403 or value_in(exchange.head.forward, b"origin") is None):
            self._unable.learn(exchange.call.pool.engine)
        return GatewayError("http_only", source=Source.UPSTREAM)

    def agrees(self, head: ResponseHead, connects: bool) -> bool:
        return head.status == 101 and super().agrees(head, connects)

    def opens(self, exchange: Exchange, head: ResponseHead, down: bytes) -> int:
        assert exchange.call is not None
        self._unable.forget(exchange.call.pool.engine)
        exchange.client.due(NEVER)
        return exchange.client.pass_on(down) if down else SENT

    def early(self, exchange: Exchange) -> bytes:
        payload = exchange.body
        self._converses(exchange)
        exchange.let_body_go()
        self._held = 0
        later, self._later = self._later, []
        unread, self._unread = self._unread, b""
        try:
            self._send(exchange, payload, True)
            self._go_on(exchange, later)
            self._hold(exchange, self._kept(exchange))
        except GatewayError as error:
            exchange.fail(error)
        if unread and exchange.phase == TUNNEL:
            self.take(exchange, unread)
        return b""

    def _say(self, exchange: Exchange, payload: bytes) -> None:
        """A later message, for the same engine. Raises GatewayError."""
        gateway, account, first = exchange.gateway, exchange.account, exchange.facts
        assert first is not None
        facts = self._facts(exchange, payload)
        if facts.uncounted & PEERED and not gateway.allow_kv_transfer:
            refuse_peers(payload)
        kind = _kind_of(payload, gateway.max_json_members)
        if not kind:
            raise GatewayError("invalid_parameter", "A message has a `type`.", param="type")
        if facts.model != first.model and (facts.model or kind == _CREATE):
            message = "A session has the model of its first message: open another WebSocket for another."
            raise GatewayError("invalid_parameter", message, param="model")
        if account is not None and account.models is not None:
            refuse_other_models(payload, account.models)
        lines = exchange.extra_head
        exchange.facts, exchange.body = facts, payload
        try:
            if kind == _CREATE:
                self._ends()
                if gateway.draining and not self._under_way:
                    raise _draining()  # (what is under way may end; nothing new begins)
                exchange.at = monotonic()
                for hook in gateway.on_turn:
                    hook(exchange)
            if gateway.responses is not None:
                gateway.responses.refuse_others(exchange)
                self._converses(exchange)
            self._send(exchange, payload, kind == _CREATE)
        finally:
            exchange.facts, exchange.body, exchange.extra_head = first, b"", lines  # (there is no head to add to)

    @staticmethod
    def _converses(exchange: Exchange) -> None:
        """The conversation that a message names is its key's from now on."""
        responses = exchange.gateway.responses
        if responses is not None:
            responses.converses(exchange)

    @staticmethod
    def _facts(exchange: Exchange, payload: bytes) -> BodyFacts:
        gateway = exchange.gateway
        return scan_body(payload, gateway.max_json_depth, gateway.max_json_members, gateway.bytes_per_token)

    def _send(self, exchange: Exchange, payload: bytes, turn: bool) -> None:
        """``turn``: an answer is asked for."""
        call = exchange.call
        assert call is not None
        self._ends()
        if turn and exchange.facts is not None and len(self._under_way) < MOST_UNDER_WAY:
            self._under_way.append(exchange.facts.prompt_tokens)
        body = payload
        for rewrite in exchange.gateway.rewriters:
            body = rewritten(rewrite(exchange, call.pool.engine, body))
        self._up(exchange, TEXT, body)

    @staticmethod
    def _up(exchange: Exchange, kind: int, payload: bytes) -> None:
        if exchange.call is not None:
            exchange.call.from_client(framed(FIN | kind, payload, 0, len(payload), os.urandom(4)))

    def drained(self, exchange: Exchange) -> None:
        self._hold(exchange, self._kept(exchange))

    def hears(self, exchange: Exchange, data: bytes) -> None:
        self._ends()
        self._pieces += data.count(_PIECE)
        if _REFUSED(data) is not None and self._under_way:
            self._under_way.pop(0)
        responses = exchange.gateway.responses
        if responses is None:
            return
        heard = self._heard + data
        end = 0
        if _CREATED in heard or _RESPONSE in heard:
            for found in _MADE(heard):
                responses.made(exchange, found[1])
                end = found.end()
        self._heard = heard[max(end, len(heard) - _HEARD) :]

    def _ends(self) -> None:
        while self._ended < self.answers:
            self._ended += 1
            self._pieces = 0
            if self._under_way:
                self._under_way.pop(0)

    def cut_off(self, exchange: Exchange) -> Counts | None:
        self._ends()
        if exchange.error_kind == "bad_gateway" and not self._pieces:
            return None  # (the engine was lost, and has done nothing that anybody has seen)
        prompt = self._under_way[0] if self._under_way else 0
        return (prompt, self._pieces, -1, -1, -1) if prompt or self._pieces else None

    def last_words(self, gateway: Context, error: GatewayError) -> bytes:
        """The API's own event, where the engine is not within a message, and a close."""
        name, status = error.kind.name, error.kind.status
        self._ends()
        if name == "upstream_timeout" and self.answers and not self._under_way:
            return close_frame(GOING_AWAY, "Nothing has been said for too long.")  # (and nobody has waited for anything)
        kind = lookup(name, gateway.config.compat)
        message = (error.message if kind is error.kind else None) or kind.message
        told = {"message": message, "type": kind.type, "param": error.param, "code": kind.code}
        event = msgspec.json.encode({"type": "error", "status": kind.status, "error": told})
        code = GOING_AWAY if name == "draining" else SPENT if status < 500 else FAILED
        if code != GOING_AWAY and status in (429, 503) and not kind.hopeless:
            code = AGAIN
        told_so = b"" if self.frames.mid_message() else framed(FIN | TEXT, event, 0, len(event), b"")
        return told_so + close_frame(self._code or code, kind.message)


def _draining() -> GatewayError:
    return GatewayError("draining", source=Source.GATEWAY, retry_after_s=1.0)


def _kind_of(payload: bytes, most: int) -> str:
    """The ``type`` of a message, "" = it has none, or is none: that is for whoever reads all of it. Raises GatewayError where
    readers would differ in what it is, or in what is asked for."""
    try:
        names, values = members(payload, most)
    except (msgspec.DecodeError, RecursionError, TooMany, ValueError):
        return ""
    judged = [name for name in names if folded(name) in _JUDGED]
    wrong = misnamed(judged, _JUDGED)
    if wrong is not None:
        raise GatewayError("duplicate_member", f"`{wrong[1]}` may be given once, and in lower case.", param=wrong[1])
    found = dict(zip(names, values, strict=True))
    try:
        kind = _decode_string(found["type"]) if "type" in found else ""
    except (msgspec.DecodeError, ValueError):
        return ""
    if kind == _CREATE and "response" in found:
        # (Who reads what stands there, as the Realtime API does, would read another model.)
        raise GatewayError("invalid_parameter", "What is asked for stands beside `type`, not in `response`.", param="response")
    return kind
