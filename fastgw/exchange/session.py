"""What a WebSocket session is beside its exchange: which model it asked for, and what its engine has said of it until now."""

from __future__ import annotations

from fastgw.protocol.query import Value
from fastgw.protocol.websocket import Frames


class WebSocketSession:
    """``model``: what it asked for in its query, "" = nothing; ``value``: where that stands. ``frames`` reads what the engine
    sends, and ``answers`` counts those that it has ended."""

    __slots__ = ("answers", "frames", "model", "value")

    def __init__(self, model: str, value: Value | None) -> None:
        self.model = model
        self.value = value
        self.frames = Frames()
        self.answers = 0
