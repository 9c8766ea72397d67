"""What one exchange is to its two connections: the calls that they make on it.

The layers above say what follows from each; here is only who is told, and when. Calls come from the loop, one at a time,
and none of them may wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgw.errors import GatewayError

if TYPE_CHECKING:
    from fastgw.accel.heads import ResponseHead
    from fastgw.net.upstream_conn import UpstreamConn


class Session:
    """Base of whatever sits between a client's connection and an engine's. A subclass defines the calls that it can get."""

    __slots__ = ("upgrade",)

    def __init__(self) -> None:
        self.upgrade = False  # a 101 is an answer to this request

    # --- from the client's connection
    def on_body(self, data: bytes, last: bool) -> None:
        """Bytes of the request body, decoded; ``last`` comes exactly once."""
        raise NotImplementedError

    def on_client_gone(self, how: str) -> None:
        """The client left (``"fin"`` or ``"reset"``)."""
        raise NotImplementedError

    def on_client_drained(self) -> None:
        """What the client's socket would not take at once has gone out."""
        raise NotImplementedError

    def on_client_stalled(self) -> None:
        """The client does not read; its connection is closed already."""
        raise NotImplementedError

    def on_request_error(self, error: GatewayError) -> None:
        """The request's body cannot be read on."""
        raise NotImplementedError

    def on_total_timeout(self) -> None:
        """The limit for the whole exchange has passed."""
        raise NotImplementedError

    def on_tunnel_data(self, data: bytes) -> None:
        """Bytes of an upgraded protocol, from the client."""
        raise NotImplementedError

    # --- from the engine's connection
    def on_connected(self, conn: UpstreamConn) -> None:
        """The dial succeeded: write the request."""
        raise NotImplementedError

    def on_connect_failed(self, detail: str, timed_out: bool) -> None:
        """The dial failed; the connection is closed already."""
        raise NotImplementedError

    def on_response_head(self, head: ResponseHead, rest: bytes) -> None:
        """The final response's head, and the bytes of its body that came with it."""
        raise NotImplementedError

    def on_response_error(self, error: GatewayError) -> None:
        """What came is no response head, or this process was too short of something to dial (``Source.GATEWAY``); the
        connection is closed already."""
        raise NotImplementedError

    def on_response_data(self, data: bytes) -> None:
        """One read of the response's body, frames and all."""
        raise NotImplementedError

    def on_response_eof(self, how: str) -> None:
        """The engine closed (``"fin"`` or ``"reset"``)."""
        raise NotImplementedError

    def on_upstream_drained(self) -> None:
        """What the engine's socket would not take at once has gone out."""
        raise NotImplementedError

    def on_upstream_timeout(self) -> None:
        """Nothing came from the engine until the connection's deadline."""
        raise NotImplementedError
