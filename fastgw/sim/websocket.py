"""The engine's end of a WebSocket: RFC 6455, and of the Realtime API (``/v1/realtime``), or the Responses API
(``/v1/responses``), as much as it takes to be asked for text.

``response.create`` is answered with events, the last of which says what it used. Of Realtime ``conversation.item.create`` adds
to the prompt; of Responses ``previous_response_id`` does, of the last that this connection has made. All other frames come back
unmasked with their FIN bit and opcode, pings are answered, close is returned. Must never: buffer more than one frame of
``FRAME_LIMIT_BYTES``; anything the protocol forbids closes with its status code.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any, Final, Protocol

import msgspec

from fastgw.sim import text
from fastgw.sim.config import SimConfig
from fastgw.sim.heads import Head, MalformedError

FRAME_LIMIT_BYTES: Final = 1024 * 1024
PATHS: Final = ("/v1/realtime", "/v1/responses")
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_CLOSE, _PING, _PONG = 8, 9, 10


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept of a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


class Out(Protocol):
    """Where it writes: a connection's transport, or an HTTP/2 stream."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class WebSocketEngine:
    """The engine's end of one WebSocket."""

    __slots__ = ("_answers", "_buffer", "_closing", "_config", "_kept", "_said", "_transport", "_turns")

    def __init__(self, transport: Out, config: SimConfig, path: str) -> None:
        self._turns = path == "/v1/responses"
        self._kept: dict[str, str] = {}  # all texts of the last response, by its id
        self._transport = transport
        self._config = config
        self._said = ""  # all texts of the conversation
        self._answers = 0
        self._buffer = bytearray()
        self._closing = False

    def handshake(self, head: Head) -> bytes:
        """The 101 answer. MalformedError when the request is no opening handshake."""
        key = head.fields.get(b"sec-websocket-key", b"")
        if head.method != "GET" or len(key) != 24 or head.fields.get(b"sec-websocket-version") != b"13":
            raise MalformedError("not a WebSocket handshake")
        answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        offered = head.fields.get(b"sec-websocket-protocol")
        if offered:
            answer += b"sec-websocket-protocol: " + offered.split(b",")[0].strip() + b"\r\n"
        return answer + b"sec-websocket-accept: " + accept_key(key) + b"\r\n\r\n"

    def feed(self, data: bytes) -> None:
        if self._closing:
            return
        self._buffer += data
        while not self._closing and self._take_frame():
            pass

    def _take_frame(self) -> bool:
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        size, at = buffer[1] & 0x7F, 2
        if size >= 126:
            wide = ">H" if size == 126 else ">Q"
            if len(buffer) < at + struct.calcsize(wide):
                return False
            (size,) = struct.unpack_from(wide, buffer, at)
            at += struct.calcsize(wide)
        opcode = buffer[0] & 0x0F
        if buffer[0] & 0x70 or not buffer[1] & 0x80 or (opcode >= 8 and (size > 125 or not buffer[0] & 0x80)):
            self._close(1002)
            return False
        if size > FRAME_LIMIT_BYTES:
            self._close(1009)
            return False
        if len(buffer) < at + 4 + size:
            return False
        mask = bytes(buffer[at : at + 4])
        payload = _unmask(bytes(buffer[at + 4 : at + 4 + size]), mask)
        first = buffer[0]
        del buffer[: at + 4 + size]
        if opcode == _CLOSE:
            self._send(0x88, payload[:125])
            self._closing = True
            self._transport.close()
        elif opcode == _PING:
            self._send(0x80 | _PONG, payload)
        elif opcode in (0, 1, 2):
            if first != 0x81 or not self._asked(payload):
                self._send(first, payload)
        elif opcode != _PONG:
            self._close(1002)
        return True

    # --- the Realtime API
    def _asked(self, message: bytes) -> bool:
        """Whether ``message`` was an event that is answered."""
        try:
            event = msgspec.json.decode(message)
        except (ValueError, RecursionError):
            return False
        kind = event.get("type") if isinstance(event, dict) else None
        if kind == "conversation.item.create":
            self._said += "".join(_texts(event.get("item")))
            self._tell("conversation.item.created", item=event.get("item"))
        elif kind == "response.create":
            asked = event if self._turns else event.get("response")
            self._answer(asked if isinstance(asked, dict) else {})
        else:
            return False
        return True

    def _answer(self, asked: dict[str, Any]) -> None:
        most = asked.get("max_output_tokens")
        count = most if isinstance(most, int) and most > 0 else self._config.output_tokens
        if self._turns:
            before = asked.get("previous_response_id")
            if before and before not in self._kept:
                error = {"code": "previous_response_not_found", "message": "No such response.", "param": "previous_response_id"}
                self._tell("error", status=400, error=error)
                return
            given = asked.get("input")
            items = given if isinstance(given, list) else []
            text_given = given if isinstance(given, str) else "".join([part for item in items for part in _texts(item)])
            self._said = self._kept.get(str(before), "") + text_given
        prompt = str(asked.get("instructions") or "") + self._said
        writer = text.Writer(self._config.seed, prompt.encode())
        self._answers += 1
        kind = "response" if self._turns else "realtime.response"
        told = f"resp_{id(self):x}_{self._answers}" if self._turns else f"resp_{self._answers}"
        response: dict[str, Any] = {"object": kind, "id": told, "output": []}
        if self._turns:
            response["model"] = asked.get("model")
        self._tell("response.created", response={**response, "status": "in_progress", "usage": None})
        for at in range(count):
            self._tell("response.output_text.delta", response_id=response["id"], delta=writer.token(at).decode())
        whole = writer.text(count).decode()
        self._tell("response.output_text.done", response_id=response["id"], text=whole)
        known = self._kept.get(str(asked.get("previous_response_id")), "") if self._turns else self._said
        cached = text.count_tokens(known) if self._answers > 1 and known else 0  # it was read before
        used = text.count_tokens(prompt)
        usage = {
            "total_tokens": used + count,
            "input_tokens": used,
            "output_tokens": count,
            "input_token_details": {"text_tokens": used, "audio_tokens": 0, "cached_tokens": cached},
            "output_token_details": {"text_tokens": count, "audio_tokens": 0},
        }
        if self._turns:
            usage = {name.replace("_token_", "_tokens_"): value for name, value in usage.items()}
        content = [{"type": "output_text", "text": whole}]
        output = [{"type": "message", "role": "assistant", "status": "completed", "content": content}]
        last = "response.completed" if self._turns else "response.done"
        self._tell(last, response={**response, "status": "completed", "output": output, "usage": usage})
        self._said += whole
        self._kept = {told: self._said}

    def _tell(self, kind: str, **fields: Any) -> None:
        self._send(0x81, msgspec.json.encode({"type": kind, "event_id": "event_0", **fields}))

    def _send(self, first: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = bytes((first, size))
        elif size < 65536:
            head = struct.pack(">BBH", first, 126, size)
        else:
            head = struct.pack(">BBQ", first, 127, size)
        self._transport.write(head + payload)

    def _close(self, code: int) -> None:
        self._send(0x88, struct.pack(">H", code))
        self._closing = True
        self._transport.close()


def _texts(item: Any) -> list[str]:
    content = item.get("content") if isinstance(item, dict) else None
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]


def _unmask(payload: bytes, mask: bytes) -> bytes:
    if not payload:
        return b""
    size = len(payload)
    whole = int.from_bytes(payload, "big") ^ int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return whole.to_bytes(size, "big")
