"""What a WebSocket session is beside its exchange: which model it asked for, and what its engine has said of it until now.

As it is here it is the engine's to accept, and all that its client says goes up as it came. (``turns`` has the other.)
"""

from __future__ import annotations

from typing import Any

from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError
from fastgw.exchange.context import Context
from fastgw.protocol.query import Value
from fastgw.protocol.websocket import Counts, Frames, accepts


class WebSocketSession:
    """``model``: what it asked for in its query, "" = nothing; ``value``: where that stands. ``key``: the client's own
    Sec-WebSocket-Key, or what was made up because its protocol has none. ``frames`` reads what the engine sends, ``answers``
    counts those that it has ended, and ``estimated`` the tokens of those whose engine did not count. ``accepted``: the client
    has his 101 before there is an engine."""

    __slots__ = ("accepted", "answers", "estimated", "frames", "key", "model", "value")

    def __init__(self, model: str, value: Value | None, key: bytes) -> None:
        self.model = model
        self.value = value
        self.key = key
        self.frames = Frames()
        self.answers = 0
        self.estimated = 0
        self.accepted = False

    def agrees(self, head: ResponseHead, connects: bool) -> bool:
        """Whether this answer can be passed on. Who has not seen the key is no server of WebSockets (RFC 6455 §4.1); and where
        the client ``connects``, a 2xx that is no upgrade would look like one."""
        if head.status == 101:
            return accepts(head.forward, self.key)
        return not connects or head.status // 100 != 2

    # --- what its exchange asks of it (Any: it is the exchange's own, which knows of it)
    def greets(self, exchange: Any) -> bool:
        """The request is whole: whether its client is accepted now, and an engine asked when he has spoken."""
        return False

    def take(self, exchange: Any, data: bytes) -> None:
        """The client has sent this."""
        if exchange.call is not None:
            exchange.call.from_client(data)

    def refused(self, exchange: Any, status: int) -> GatewayError | None:
        """The engine has answered ``status`` in place of a session, which cannot go down: what the client is told if no other
        opens one; None = this engine's answer is no good."""
        return None

    def opens(self, exchange: Any, head: ResponseHead, down: bytes) -> int:
        """The engine has accepted, and said ``down``: it goes to the client. Returns as ``write``."""
        return exchange.client.upgrade(head, exchange.request_id, down)  # type: ignore[no-any-return]

    def early(self, exchange: Any) -> bytes:
        """What the client had said before that, for the engine; he is read from now on."""
        return exchange.client.early()  # type: ignore[no-any-return]

    def drained(self, exchange: Any) -> None:
        """The engine has taken all that the client has said."""

    def hears(self, exchange: Any, data: bytes) -> None:
        """The engine has said ``data``."""

    def cut_off(self, exchange: Any) -> Counts | None:
        """What the answer may have used that was under way as the session ended; None = there was none, or nobody knows."""
        return None

    def last_words(self, gateway: Context, error: GatewayError) -> bytes:
        """What tells the client that it ends for ``error``."""
        return gateway.close_frame(error.kind.name)
