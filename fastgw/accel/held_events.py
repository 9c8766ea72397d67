"""What is held back of a stream of events, and until when: what may be the extra usage chunk, and the event before it.

Part of the Python twin of ``sse``; the compiled one has it in its own file. An event is held until it is whole: no reader of
events sees it before. One that says why its answer ends is held until the next one is there: that may be the extra chunk, of
which it is given what does not belong to usage. Must never hold a comment. Invariant: what goes out is the same however the
bytes were split.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.accel.event_notes import CLOSING, EXTRA, PLAIN, EventNotes
from fastgw.accel.usage_chunk import is_another, is_silent, spliced, takes_more

_ONE_LINE: Final = re.compile(rb"[^\r\n]*+(\r\n|\n|\r)?+").match


class HeldEvents(EventNotes):
    """What :class:`~fastgw.accel.sse.SseScanner` has of a stream that it has not forwarded, or not whole."""

    __slots__ = (
        "_amid_comment",
        "_candidate",
        "_drop_lf",
        "_first",
        "_given",
        "_overlong",
        "_scanned",
        "_sent",
        "_strip",
        "_tail",
        "last",
        "mid_event",
    )

    def __init__(self, strip_usage: bool) -> None:
        super().__init__()
        self._strip = strip_usage
        self.mid_event = False
        self._first = True  # nothing has come yet: a byte order mark may
        self._tail = bytearray()  # the unfinished event
        self._sent = 0  # how many bytes of the tail have been forwarded
        self._scanned = 0  # how many bytes of the tail have been searched for its end
        self._overlong = False  # the unfinished event is too long to be looked into: its last bytes are there, or it is held
        self._candidate = False  # and it may be the extra chunk
        self._amid_comment = False  # a comment's line has begun, and not ended
        self._drop_lf = False  # an event that was taken out or is held ended with CR; a LF belongs to it
        self.last = b""
        self._given = False  # one was given what an extra chunk said: there is one in a stream

    def _comment_end(self, text: bytes | bytearray, pos: int) -> int:
        """Behind a comment's line, or what there is of it: it is of no event, but there to arrive in time."""
        match = _ONE_LINE(text, pos)
        assert match is not None
        self._amid_comment = match[1] is None
        self._first = False
        return match.end()

    def _sifted(self, text: bytes | bytearray, pos: int, event: bytes, what: int, sent: int, out: list[bytes]) -> int:
        """Take the ``event`` at ``pos`` out, or hold it, or let go what is held before it; how much of ``text`` is in ``out``
        then, or forwarded, or taken out."""
        end = pos + len(event)
        out.append(bytes(text[sent:pos]))
        last, self.last = self.last, b""
        if sent <= pos and (what == EXTRA or (last and what == PLAIN and is_silent(event))):
            out.append(spliced(last, event) if last else b"")
            self._given = self._given or last != b""
        else:
            out.append(last)
            if what != CLOSING or sent > pos or self._given or not takes_more(event):
                return max(sent, pos)
            self.last = event
        self._drop_lf = end == len(text) and event[-1] == 13
        return end

    def _let_go(self) -> bytes:
        """The event that is held, where it goes on as it came. (A comment before it has a line of its own.)"""
        last, self.last = self.last, b""
        return b"\n" + last if last and self._amid_comment else last

    def let_go(self) -> bytes:
        """The event that is held: the next one is waited for no longer."""
        last = self._let_go()
        self._amid_comment = False
        self.mid_event = bool(self._tail)
        return last

    def release(self) -> bytes:
        """What is held, but for the beginning of what may be the extra chunk: nothing more goes on. (More may be read.)"""
        if not (self._tail or self.last):
            return b""
        half = bytes(self._tail[self._sent :])
        if not self._sent and not is_another(half):
            half = b""
        else:
            self._sent = len(self._tail)
        self.mid_event = bool(self._tail) or self._amid_comment
        return self._let_go() + half
