"""Where one exchange stands: what may happen to it, and where that leads. One table; nothing else moves an exchange.

    RECEIVING   the head is judged, the body is arriving, filters look at it
    ROUTING     the filters go on, or an engine is chosen, after a wait
    HELD        a filter has it wait
    QUEUED      waits for room at an engine
    MERGING     waits for others to share one call, or shares one
    BACKOFF     waits before it is sent again
    CONNECTING  a connection to an engine is being opened
    WAITING     the request is written (or still being uploaded), no answer yet: no head, or of a stream no event
    RELAYING    the answer is on its way down
    TUNNEL      upgraded: bytes pass both ways until either side closes
    LOCAL       answered here, by a task that may wait
    DONE        terminal: the end ran, exactly once

A move that the table does not have raises :class:`IllegalMove`: it is a bug, and ends the exchange like any other.
"""

from __future__ import annotations

from typing import Final

PHASES: Final = (
    "RECEIVING", "ROUTING", "HELD", "QUEUED", "MERGING", "BACKOFF",
    "CONNECTING", "WAITING", "RELAYING", "TUNNEL", "LOCAL", "DONE",
)  # fmt: skip
RECEIVING, ROUTING, HELD, QUEUED, MERGING, BACKOFF, CONNECTING, WAITING, RELAYING, TUNNEL, LOCAL, DONE = range(len(PHASES))

EVENTS: Final = (
    "is held", "queues", "goes on", "merges", "backs off",
    "dials", "sends", "is answered", "is upgraded", "is served here", "ends",
)  # fmt: skip
IS_HELD, QUEUES, GOES_ON, MERGES, BACKS_OFF, DIALS, SENDS, IS_ANSWERED, IS_UPGRADED, IS_SERVED, ENDS = range(len(EVENTS))

MOVES: Final[dict[int, dict[int, int]]] = {
    RECEIVING: {
        IS_HELD: HELD, QUEUES: QUEUED, MERGES: MERGING, DIALS: CONNECTING, SENDS: WAITING, IS_SERVED: LOCAL, ENDS: DONE,
    },
    ROUTING: {IS_HELD: HELD, QUEUES: QUEUED, MERGES: MERGING, DIALS: CONNECTING, SENDS: WAITING, ENDS: DONE},
    HELD: {GOES_ON: ROUTING, ENDS: DONE},
    QUEUED: {GOES_ON: ROUTING, ENDS: DONE},
    MERGING: {GOES_ON: ROUTING, ENDS: DONE},
    BACKOFF: {GOES_ON: ROUTING, ENDS: DONE},
    # An engine that cannot be reached: the next one, after a pause, or when one has room.
    CONNECTING: {SENDS: WAITING, DIALS: CONNECTING, BACKS_OFF: BACKOFF, QUEUES: QUEUED, ENDS: DONE},
    # A kept connection that was dead: the same again, on a fresh one. An engine that failed: another, after a pause.
    WAITING: {IS_ANSWERED: RELAYING, DIALS: CONNECTING, BACKS_OFF: BACKOFF, ENDS: DONE},
    RELAYING: {IS_UPGRADED: TUNNEL, ENDS: DONE},
    TUNNEL: {ENDS: DONE},
    LOCAL: {ENDS: DONE},
    DONE: {},
}  # fmt: skip

NOWHERE: Final = 255
TABLE: Final = bytes(MOVES[phase].get(event, NOWHERE) for phase in range(len(PHASES)) for event in range(len(EVENTS)))
"""The same, a byte for each phase and event."""

EVENT_COUNT: Final = len(EVENTS)


class IllegalMove(RuntimeError):
    """An exchange was to do what it cannot do where it stands."""


def moved(phase: int, event: int) -> int:
    """Where ``event`` leads from ``phase``. Raises :class:`IllegalMove` where it leads nowhere."""
    found = TABLE[phase * EVENT_COUNT + event]
    if found == NOWHERE:
        raise IllegalMove(f"an exchange that is {PHASES[phase]} {EVENTS[event]}")
    return found
