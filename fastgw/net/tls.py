"""A wire with TLS on it: what its holder writes goes out in records, and what comes in is opened before it is told.

OpenSSL never sees the socket: it works on two buffers in memory, and this file moves bytes between them and the kernel. So one
read of the kernel may bring many records, many records leave with one send, and the residue is bounded as a plain wire's is
(decision 27 has what was measured). A holder sees no difference to ``PlainWire``, but for the
handshake (``net/tls_shake.py``).

Bytes that have been read from the kernel and are not told yet are unknown to the poller. Whoever reads is told of them in a
call of its own (``_more``), as often as the kernel would tell of them.

An end without the peer's ``close_notify`` is told as a reset: whoever can cut a connection must not be able to make a shortened
answer look whole (RFC 8446 §6.1). What is written waits as it is, and becomes records only when the kernel takes them: of what
is queued there are never more than :data:`AHEAD_BYTES` twice.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import deque
from typing import Final

from fastgw.accel.landing import Landing
from fastgw.accel.sockets import keep, recv, send, send_from, unread
from fastgw.net.descriptors import finish
from fastgw.net.poller import WRITE
from fastgw.net.tls_end import RECORD_BYTES
from fastgw.net.tls_shake import CLOSED, CUT, ShakingWire
from fastgw.net.tls_words import told
from fastgw.net.wire import DEAD, QUEUED, RECV_BYTES, SENT, Wire

OVERHEAD_BYTES: Final = 512  # what a read of the kernel's is longer than what is to come out of it
AHEAD_BYTES: Final = 65536  # are encrypted before the kernel is asked to take them
TURN_BYTES: Final = 1 << 19  # are encrypted in one turn: a millisecond at most; the rest of a long body waits for the next


class TlsWire(ShakingWire):
    """See the head of this file."""

    __slots__ = ()

    # --- the read side
    def recv(self, size: int) -> bytes:
        plain = self._plain or self._pull(size)
        if len(plain) > size:
            self._plain = plain[size:]
            plain = plain[:size]
            self._call_again()
        else:
            self._plain = b""
            if plain and self._ended:
                self._call_again()
        return plain

    def land(self, landing: Landing) -> int:
        plain = self._plain or self._pull(RECV_BYTES)
        room = landing.length - landing.got
        if len(plain) > room:
            self._plain = plain[room:]
            plain = plain[:room]
            self._call_again()
        else:
            self._plain = b""
            if plain and self._ended:
                self._call_again()
        if plain:
            landing.put(plain)
        return len(plain)

    def _pull(self, size: int) -> bytes:
        """What one read of the kernel comes to, b"" at the end; raises as ``recv``."""
        if not self._ended:
            # (A little more than what is wanted: else each record of that size would take two reads.)
            wanted = size + OVERHEAD_BYTES
            try:
                data = recv(self.fd, wanted if wanted < RECV_BYTES else RECV_BYTES)
            except (BlockingIOError, InterruptedError):
                raise
            except OSError:
                self._ended = CUT  # (nobody is there to be told of our end)
                raise
            if data:
                plain = self._unlocked(data)
                if plain:
                    return plain
                if not self._ended:
                    raise BlockingIOError
            else:
                self._ended = CUT
        if self._ended == CUT:
            raise ConnectionResetError(self.trouble or "the TLS connection was cut")
        return b""

    def _unlocked(self, data: bytes) -> bytes:
        """What the records in ``data`` hold, with what had come of the first before."""
        incoming = self._incoming
        assert incoming is not None
        size = len(data)
        if size <= RECORD_BYTES:
            incoming.write(data)
            return self._opened()
        # (In pieces: the buffer stays as large as it has been once.)
        pieces = []
        view = memoryview(data)
        at = 0
        while at < size and not self._ended:
            incoming.write(view[at : at + RECORD_BYTES])
            pieces.append(self._opened())
            at += RECORD_BYTES
        return b"".join(pieces)

    def _opened(self) -> bytes:
        """What the whole records in the buffer hold."""
        inner, incoming, outgoing = self._inner, self._incoming, self._outgoing
        assert incoming is not None
        assert outgoing is not None
        first = b""
        more: list[bytes] | None = None
        while True:
            piece = b""
            try:
                piece = inner.read(RECORD_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                pass
            except OSError as error:
                self._ended = CUT
                self.trouble = told(error)
                break
            if not piece:
                self._ended = CLOSED
                break
            if not first:
                first = piece
            elif more is None:
                more = [first, piece]
            else:
                more.append(piece)
            if not incoming.pending:
                break
        if outgoing.pending:
            try:
                self._reply()
            except OSError:
                self._ended = CUT
        if self._first and first:
            self._first = False
            tls = self._tls
            if tls is not None and not self._accepts:
                self._end.spoken(tls)
        return first if more is None else b"".join(more)

    def _call_again(self) -> None:
        """There is more than was asked for, which the poller knows nothing of."""
        if self.reading and not self._again:
            self._again = True
            self.poller.soon(self._more)

    def _more(self) -> None:
        self._again = False
        if self.reading and not self.closed and (self._plain or self._ended):
            holder = self.holder
            holder.on_readable()

    def resume(self) -> None:
        if not self.reading and not self.closed:
            Wire.resume(self)
            if self._plain or self._ended:
                self._call_again()

    def unread(self) -> bool:
        """Whether the peer has sent bytes that are not told yet, or its end. (What is TLS's own business is read here.)"""
        if self._plain or self._ended:
            return True
        if not unread(self.fd):
            return False
        try:
            self._plain = self._pull(RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        self._call_again()
        return True

    def silent_since(self, turn: int) -> bool:
        return not self._plain and not self._ended and self.poller.silent_since(self, turn)

    # --- the write side
    def write(self, data: bytes) -> int:
        if self.queued_bytes:
            return self._put_behind(data)
        inner, outgoing = self._inner, self._outgoing
        if self.closed or outgoing is None:
            return DEAD
        size = len(data)
        if size > RECORD_BYTES:
            return self._write_long(data, 0)
        if not size:
            return SENT
        try:
            inner.write(data)
        except OSError:
            return DEAD
        return self._deliver(outgoing.read())

    def write_both(self, head: bytes, body: bytes, start: int) -> int:
        if self.queued_bytes:
            self._put_behind(head)
            return self._put_behind(keep(body, start))
        if len(head) + len(body) - start <= RECORD_BYTES:
            return self.write(head + body[start:])
        inner = self._inner
        if self.closed or inner is None:
            return DEAD
        try:
            inner.write(head)  # its record goes out with the first of the body
        except OSError:
            return DEAD
        return self._write_long(body, start)

    def _deliver(self, cipher: bytes) -> int:
        """Hand whole records to the kernel; what it does not take waits."""
        try:
            sent = send(self.fd, cipher)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return DEAD
        return SENT if sent == len(cipher) else self._await(cipher, sent)

    def _write_long(self, data: bytes, start: int) -> int:
        """``data[start:]``, some records at a time, for as long as the kernel takes them, and no longer than a turn."""
        size = len(data)
        stop = start + TURN_BYTES
        while start < size:
            try:
                cipher, start = self._sealed(data, start)
            except OSError:
                return DEAD
            try:
                sent = send(self.fd, cipher)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                return DEAD
            if sent < len(cipher) or (start >= stop and start < size):
                if start < size:
                    if size - start < RECORD_BYTES:
                        data = keep(data, start)
                        start = 0
                    self._queue = deque([data])
                    self._taken = start
                    self.queued_bytes = len(data) - start
                return self._await(cipher, sent)
        return SENT

    def _sealed(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Records of some of ``data[start:]``, and where the rest of it begins."""
        inner, outgoing = self._inner, self._outgoing
        assert outgoing is not None
        size = len(data)
        end = start + AHEAD_BYTES
        if end > size:
            end = size
        view = memoryview(data)
        pieces = []
        while start < end:
            to = start + RECORD_BYTES
            if to > end:
                to = end
            inner.write(view[start:to])
            # (One after another: the buffer stays as large as it has been once.)
            pieces.append(outgoing.read())
            start = to
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), start

    def _put_behind(self, data: bytes) -> int:
        assert self._queue is not None
        self._queue.append(keep(data))
        self.queued_bytes += len(data)
        if not self._congested:
            self._congested = True
            holder = self.holder
            holder.on_congested()
        return QUEUED

    def _flush(self) -> None:
        holder = self.holder
        try:
            if not self._drain():
                return
        except OSError:
            self._drop_queue()
            holder.on_broken()
            return
        self.poller.watch(self, self.interest & ~WRITE)
        if self._finishing:
            with contextlib.suppress(OSError):
                finish(self.fd)
        if self._congested:
            self._congested = False
            holder.on_written()

    def _drain(self) -> bool:
        """Whether the residue is gone. Raises OSError where the socket is broken."""
        queue = self._queue
        turn = 0
        while True:
            if self._cipher:
                try:
                    sent = send_from(self.fd, self._cipher, self._cipher_sent)
                except (BlockingIOError, InterruptedError):
                    break
                self.queued_bytes -= sent
                self._cipher_sent += sent
                turn += sent
                if self._cipher_sent < len(self._cipher):
                    break
                self._cipher = b""
                self._cipher_sent = 0
            if not queue:
                return True
            if turn >= TURN_BYTES:
                break
            data = queue[0]
            cipher, start = self._sealed(data, self._taken)
            self.queued_bytes += len(cipher) - (start - self._taken)
            self._cipher = cipher
            self._taken = start
            if start == len(data):
                queue.popleft()
                self._taken = 0
        if turn and self._congested:
            holder = self.holder
            holder.on_progressed()
        return False

    # --- the end
    def shutdown(self) -> None:
        if not self._finishing:
            self._say_end()
            self._finishing = True
        if not self.queued_bytes:
            finish(self.fd)

    def _say_end(self) -> None:
        """Send close_notify. Raises OSError where the socket is broken."""
        tls = self._tls
        if tls is not None and not self._shaking:
            try:  # noqa: SIM105 - ``suppress`` would be an object and three calls for each connection
                tls.unwrap()
            except ssl.SSLError:  # (it wants the peer's own, which is nobody's to wait for)
                pass
            self._reply(True)

    def _farewell(self, reset: bool) -> None:
        tls = self._tls
        if tls is not None and not self._shaking and not self.trouble:
            if not self._accepts:
                self._end.spoken(tls)
            if not reset and not self.queued_bytes and not self._finishing and self._ended != CUT:
                try:
                    self._say_end()
                except OSError:
                    self._ended = CUT
        self._tls = self._inner = None
        self._incoming = self._outgoing = None
        self._plain = b""
