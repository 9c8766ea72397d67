"""A row of a table of cases, and how it is played: steps, each frames that the peer sends or what it waits for.

A step is bytes, or a tuple of rows (``peer.Seen.is_a``) of which one has to come: the first that does ends the step. ``CLOSED``
in it stands for the end of the connection. What a test asserts is the last step, or any before it.

Errors are judged in two ways. As h2spec does: the frame with the right code, or the end of the connection, whatever was said
before it. Strictly (``strict=True``): the frame with the right code has to come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from tests.support.h2 import frames as f
from tests.support.h2.peer import Peer, Seen

CLOSED: Final = "closed"
LENIENT: Final = "closed, without a word"
"""The end of the connection in place of an error's frame: right for h2spec, and not for who judges strictly."""
WAIT_S: Final = 2.0
_SLICE: Final = 65_536
_ALIVE: Final = b"alive?!?"

Rows = tuple[str, ...]
Step = bytes | Rows


@dataclass(frozen=True, slots=True)
class Case:
    """``id``: h2spec's number, or that of CASES.md. ``section``: of which RFC, or which CVE. ``says``: what the peer does.

    ``begin``: how it begins: ``settings`` (the prefaces go both ways), or ``raw`` (the steps are all there is). ``first``: its
    SETTINGS. ``most``: so many streams of it may reach an engine.
    """

    id: str
    section: str
    says: str
    steps: tuple[Step, ...]
    begin: str = "settings"
    first: bytes = f.settings()
    most: int = -1


class Line(Protocol):
    """A peer with somebody at the other end: ``Talk`` (nothing waits) or ``OverSocket``."""

    peer: Peer

    def says(self, *pieces: bytes) -> object: ...
    def hears_for(self, seconds: float) -> object: ...


# --- what is waited for
def connection_error(*codes: str) -> Rows:
    """GOAWAY with one of these codes (RFC 9113 section 5.4.1)."""
    return (f"GOAWAY code={'|'.join(codes)}", LENIENT)


def stream_error(stream: int, *codes: str) -> Rows:
    """RST_STREAM with one of these codes, or a connection error of it, which section 5.4.2 lets a receiver make of it."""
    return (f"RST_STREAM {stream} code={'|'.join(codes)}", f"GOAWAY code={'|'.join(codes)}", LENIENT)


def answered(stream: int) -> tuple[Step, ...]:
    """A head, and the stream's end (in HEADERS, in DATA)."""
    return ((f"HEADERS {stream} :status=200|404|405|401|400|501|411",), (f"HEADERS|DATA {stream} end", f"ended {stream}"))


def lives() -> tuple[Step, ...]:
    """The connection does what it did."""
    return (f.ping(_ALIVE), (f"PING ack opaque={_ALIVE.hex()}",))


# --- playing
def play(line: Line, case: Case, strict: bool = False, wait_s: float = WAIT_S) -> None:
    """All steps but the beginning, which is who plays it. AssertionError says which step failed, and what came in its place."""
    peer = line.peer
    for number, step in enumerate(case.steps):
        if isinstance(step, bytes):
            _say(line, step)
        else:
            rows = [row for row in step if not (strict and row == LENIENT)]
            assert await_any(line, rows, wait_s), (
                f"{case.id} ({case.section}): {case.says}: step {number}, none of {rows} came; "
                f"unread: {peer.told()[-20:]}, {peer.ended or 'open'}"
            )


def _say(line: Line, data: bytes) -> None:
    """Long ones in slices, and what comes meanwhile is heard: a flood ends where the other side ends it."""
    for at in range(0, len(data), _SLICE):
        if line.peer.ended:
            return
        line.says(data[at : at + _SLICE])
        if len(data) > _SLICE:
            line.hears_for(0.001)


def await_any(line: Line, rows: list[str], wait_s: float) -> bool:
    """Whether one of the rows came, or the end of the connection where ``CLOSED`` is among them, before the time was up."""
    waited = 0.0
    while True:
        if _found(line.peer, rows):
            return True
        if line.peer.ended or waited >= wait_s:
            return bool(line.peer.ended) and (CLOSED in rows or LENIENT in rows)
        line.hears_for(0.01)
        waited += 0.01


def _found(peer: Peer, rows: list[str]) -> Seen | bool:
    for row in rows:
        if row.startswith("ended "):  # it was read with the row before
            stream = int(row.split()[1])
            if any(frame.ends and frame.stream == stream for frame in peer.seen):
                return True
        elif row not in (CLOSED, LENIENT) and (frame := peer.found(row)) is not None:
            return frame
    return False
