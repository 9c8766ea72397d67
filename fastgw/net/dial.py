"""A connection to an engine that is being made: its addresses in their order, all within one time limit, with whatever its
holder has to hear before it is of use (a handshake, SETTINGS).

Its holder is told from the loop (``on_dialled``, ``expired``), never from within.
"""

from __future__ import annotations

from fastgw.net.clock import monotonic
from fastgw.net.poller import Reactor
from fastgw.net.shortage import LACKING
from fastgw.net.wire import Address, Holder, Wire


class DialError:
    """Why one did not come about. ``lacking``: this process is short of something, which says nothing about the engine."""

    __slots__ = ("detail", "lacking", "timed_out")

    def __init__(self, detail: str, *, timed_out: bool = False, lacking: bool = False) -> None:
        self.detail = detail
        self.timed_out = timed_out
        self.lacking = lacking


class Dial:
    """See the head of this file."""

    __slots__ = ("_code", "_deadline", "_reactor", "_rest", "_wire")

    def __init__(self, reactor: Reactor, wire: Wire, addresses: tuple[Address, ...], timeout_s: float) -> None:
        """Start to connect; :meth:`begin` follows. Raises OSError when no socket can be made."""
        self._reactor = reactor
        self._wire = wire
        self._rest = addresses[1:]
        self._code = wire.dial(addresses[0])
        self._deadline = monotonic() + timeout_s

    def begin(self, holder: Holder) -> None:
        """From now on ``holder`` is told."""
        self._reactor.wheel.arm(holder, self._deadline)
        code = self._code
        if code:  # (it failed at once: whoever dials is not told before the dial has returned)
            self._reactor.poller.soon(lambda: holder.on_dialled(code))

    def failed(self, holder: Holder, code: int) -> DialError | None:
        """``holder`` was told that ``code``. None: the next address is tried; else why the connection does not come about."""
        if not self._rest or code in LACKING:
            return DialError(self._wire.why(code), lacking=code in LACKING)
        address = self._rest[0]
        self._rest = self._rest[1:]
        try:
            self._code = self._wire.dial(address)
        except OSError as error:
            return DialError(str(error), lacking=error.errno in LACKING)
        self.begin(holder)
        return None
