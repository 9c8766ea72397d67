"""What a WebSocket session is beside its exchange: which model it asked for, and what its engine has said of it until now."""

from __future__ import annotations

from fastgw.accel.heads import ResponseHead
from fastgw.protocol.query import Value
from fastgw.protocol.websocket import Frames, accepts


class WebSocketSession:
    """``model``: what it asked for in its query, "" = nothing; ``value``: where that stands. ``key``: the client's own
    Sec-WebSocket-Key, or what was made up because its protocol has none. ``frames`` reads what the engine sends, ``answers``
    counts those that it has ended, and ``estimated`` the tokens of those whose engine did not count."""

    __slots__ = ("answers", "estimated", "frames", "key", "model", "value")

    def __init__(self, model: str, value: Value | None, key: bytes) -> None:
        self.model = model
        self.value = value
        self.key = key
        self.frames = Frames()
        self.answers = 0
        self.estimated = 0

    def agrees(self, head: ResponseHead, connects: bool) -> bool:
        """Whether this answer can be passed on. Who has not seen the key is no server of WebSockets (RFC 6455 §4.1); and where
        the client ``connects``, a 2xx that is no upgrade would look like one."""
        if head.status == 101:
            return accepts(head.forward, self.key)
        return not connects or head.status // 100 != 2
