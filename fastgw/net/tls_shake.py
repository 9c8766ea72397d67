"""The first half of a wire with TLS on it (``net/tls.py``): its handshake, and what TLS itself has to say.

The holder is told of the handshake as of a dial, at both ends; until then nothing is read or written. A peer may send no more
in it than ``MAX_HANDSHAKE_BYTES``; how long it may take is the holder's to say. What TLS sends of its own
accord (the handshake, alerts, tickets, new keys) waits like all else where the kernel does not take it, bounded for a peer that
asks for it and does not read.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections import deque
from errno import EPROTO
from typing import Any, Final

from fastgw.accel.sockets import recv, send, send_last
from fastgw.net.descriptors import dial_error
from fastgw.net.poller import READ, WRITE, Reactor
from fastgw.net.tls_end import MAX_HANDSHAKE_BYTES, RECORD_BYTES, End
from fastgw.net.tls_words import told
from fastgw.net.wire import QUEUED, Address, Wire

MAX_REPLIES_BYTES: Final = 1 << 17  # of TLS's own, and records before it, that wait for a peer who does not read

GOING: Final = 0
CLOSED: Final = 1  # by the peer's close_notify
CUT: Final = 2  # without it, or by bytes that are no TLS


class ShakingWire(Wire):
    """See the head of this file. ``version`` is TLS's, as "1.3", and ``certificate`` the one (DER) that was verified, both of a
    client; ``protocol`` is what was agreed on by ALPN, ``trouble`` why there is no connection."""

    __slots__ = (
        "_accepts",  # the peer has dialled
        "_again",  # a call of ``_more`` is to come
        "_cipher",  # what the kernel did not take of the last records,
        "_cipher_sent",  # and how far it did
        "_congested",  # the holder was told so
        "_end",
        "_ended",
        "_finishing",  # our side is closed as soon as the residue is gone
        "_first",  # nothing has been read since the handshake
        "_incoming",
        "_inner",  # what ``_tls`` passes calls on to, by the same names
        "_outgoing",
        "_plain",  # opened, not told yet
        "_shaken_bytes",
        "_shaking",
        "_tls",
        "certificate",
        "protocol",
        "trouble",
        "version",
    )

    def __init__(self, reactor: Reactor, end: End, fd: int = -1) -> None:
        Wire._set_up(self, reactor, fd)
        self._end = end
        self._accepts = end.accepts
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._tls: ssl.SSLObject | None = None
        self._inner: Any = None
        self._incoming: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None
        self._again = self._congested = self._finishing = self._shaking = False
        self._first = True
        self._cipher = self._plain = b""
        self._cipher_sent = self._shaken_bytes = 0
        self._ended = GOING
        self.certificate = b""
        self.protocol = self.trouble = self.version = ""

    def why(self, code: int) -> str:
        return self.trouble or os.strerror(code)

    def for_h2(self) -> bool:
        return self.protocol == "h2"

    def resumed(self) -> bool:
        """Whether the handshake went on from an earlier session."""
        inner = self._inner
        return inner is not None and bool(inner.session_reused)

    # --- the handshake
    def accept(self) -> None:
        """Begin, on a socket that is connected. ``holder.on_dialled`` is told how that went."""
        self._open_session()
        self.poller.watch(self, READ)

    def dial(self, address: Address) -> int:
        self._begin_anew()
        return Wire.dial(self, address)

    def _open_session(self) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = tls = self._end.session(self._incoming, self._outgoing)
        # (Past ``SSLObject``, each of whose methods is a call of the interpreter's; by it, where there is none inside.)
        self._inner = getattr(tls, "_sslobj", tls)
        self._shaking = True

    def _connected(self) -> None:
        """The dial has succeeded: our side speaks first."""
        try:
            self._open_session()
            self.poller.watch(self, READ)
        except (OSError, ValueError) as error:  # (a name that no certificate could have)
            self._failed(told(error))
            return
        self._shake()

    def _shake_on(self) -> None:
        """Something has come."""
        try:
            # (A record's worth: the buffer stays as large as it has been once, and what follows a handshake may be long.)
            data = recv(self.fd, RECORD_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._failed(told(error))
            return
        if not data:
            self._failed("closed within the TLS handshake")
            return
        if not self._shaken_bytes and self._accepts and data[0] != 22:
            # No handshake record. (A letter: whoever means `http://`.)
            if 65 <= data[0] <= 90:
                with contextlib.suppress(OSError):
                    send(self.fd, self._end.misspoken())
                self._failed("HTTP without TLS")
            else:
                self._failed("not TLS")
            return
        self._shaken_bytes += len(data)
        assert self._incoming is not None
        self._incoming.write(data)
        self._shake()

    def _shake(self) -> None:
        inner = self._inner
        done = False
        failed: Exception | None = None
        try:
            inner.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass  # (An empty one: in the compiled twin any other notes down where it was met.)
        except (OSError, ValueError) as error:
            failed = error
        try:
            self._reply()  # (an alert says to the peer why)
        except OSError as error:
            # (The handshake of a client who left before its tickets came is good all the same: what it has sent may be read
            # yet, and its leaving is told behind that. OpenSSL does so where the socket is its own.)
            if not done or not error.errno or not self._accepts:
                failed = failed or error
        if failed is not None:
            self._failed(told(failed))
        elif done:
            self._shaken()
        elif self._shaken_bytes > MAX_HANDSHAKE_BYTES:
            self._failed("a TLS handshake that is too long")

    def _shaken(self) -> None:
        tls, inner = self._tls, self._inner
        assert tls is not None
        assert self._incoming is not None
        self._shaking = False
        # (All that is to be known of the handshake: what is read next may end the connection.)
        self.protocol = inner.selected_alpn_protocol() or ""
        if self._accepts:
            self.version = (inner.version() or "").removeprefix("TLSv")
            if self._end.asks:
                self.certificate = tls.getpeercert(True) or b""
        if self._incoming.pending:
            # The first request came with the end of the handshake.
            self._plain = self._opened()
        holder = self.holder
        holder.on_dialled(0)
        if not self.reading and not self.closed:
            # (Only now: whoever reads from here on, as a client's connection does, is watched already.)
            self.poller.watch(self, self.interest & ~READ)

    def _failed(self, why: str) -> None:
        self._shaking = False
        self.trouble = why
        self._drop_queue()
        self.poller.watch(self, 0)
        holder = self.holder
        holder.on_dialled(EPROTO)

    # --- the poller
    def _readable(self) -> None:
        if self.closed:
            return
        if self._shaking:
            self._shake_on()
            return
        holder = self.holder
        holder.on_readable()

    def _writable(self) -> None:
        if self.closed:
            return
        if self._dialling:
            self._dialling = False
            self.poller.watch(self, 0)
            code = dial_error(self.fd)
            if code:
                holder = self.holder
                holder.on_dialled(code)
            else:
                self._connected()
            return
        self._flush()

    def _flush(self) -> None:
        """There is room for what waits."""
        raise NotImplementedError

    def _opened(self) -> bytes:
        """What the whole records in the buffer hold."""
        raise NotImplementedError

    # --- what waits
    def _await(self, cipher: bytes, sent: int) -> int:
        """The kernel did not take all of it."""
        if self._queue is None:
            self._queue = deque()
        self._cipher = cipher
        self._cipher_sent = sent
        self.queued_bytes += len(cipher) - sent
        self.poller.watch(self, self.interest | WRITE)
        if not self._congested and not self._shaking:
            self._congested = True
            holder = self.holder
            holder.on_congested()
        return QUEUED

    def _reply(self, last: bool = False) -> None:
        """Send what TLS itself has to say; ``last``: our end follows at once. Raises OSError where the socket is broken, or the
        peer asks and does not read."""
        outgoing = self._outgoing
        assert outgoing is not None
        cipher = outgoing.read()
        if not cipher:
            return
        sent = 0
        if not self.queued_bytes:
            try:
                sent = send_last(self.fd, cipher) if last else send(self.fd, cipher)
            except (BlockingIOError, InterruptedError):
                sent = 0
            if sent == len(cipher):
                return
        left = self._cipher[self._cipher_sent :] + cipher[sent:]
        if len(left) > MAX_REPLIES_BYTES:
            raise ConnectionResetError("the peer asks for replies and does not read them")
        if self._queue is None:
            self._queue = deque()
        self._cipher = left
        self._cipher_sent = 0
        self.queued_bytes += len(cipher) - sent
        self.poller.watch(self, self.interest | WRITE)

    def _drop_queue(self) -> None:
        self._cipher = b""
        self._cipher_sent = 0
        self._congested = False
        Wire._drop_queue(self)
