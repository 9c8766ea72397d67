"""What has come of a body over HTTP/2 while nobody takes it, of either end: it was on its way when its stream was held.

Invariant: never more than its stream's window, whatever the size of its pieces; and of a client's body, whoever takes it knows
how much waits here (``Sink.hold``), for that is of the memory that all have together.
"""

from __future__ import annotations

from fastgw.net.client import Sink
from fastgw.net.wire import RECV_BYTES


class Held:
    """One buffer: a list of what may be single bytes would be many times their size."""

    __slots__ = ("_counted", "data")

    def __init__(self, pieces: list[bytes]) -> None:
        self.data = bytearray().join(pieces)
        self._counted = 0

    def count(self, sink: Sink) -> None:
        """Tell the sink how much waits. Raises GatewayError where there is no room for it, and nothing counts any more."""
        more = len(self.data) - self._counted
        if more > 0:
            try:
                sink.hold(more)
            except BaseException:
                self._let_go(sink, self._counted)
                raise
            self._counted += more

    def take(self, sink: Sink) -> bytes:
        """The next of it, no more than one read brings: whoever takes it may not count it."""
        data = bytes(self.data[:RECV_BYTES])
        del self.data[:RECV_BYTES]
        self._let_go(sink, min(len(data), self._counted))
        return data

    def rest(self, sink: Sink | None) -> bytes:
        """All of it, for whoever counts it no more."""
        if sink is not None:
            self._let_go(sink, self._counted)
        return bytes(self.data)

    def _let_go(self, sink: Sink, size: int) -> None:
        if size:
            self._counted -= size
            sink.let_go(size)
