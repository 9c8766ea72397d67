"""What HTTP/2 connections begin with, and what the engine has seen of each.

Owns: the SETTINGS of real servers as profiles, the face that connections to come are met with, one record per connection.
Must never: speak; ``h2`` does.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

import msgspec
from h2.settings import SettingCodes

from fastgw.sim.config import H2_PREFACES, H2_PROFILES, SimConfig
from fastgw.sim.wire import Lived, Owner

_S: Final = SettingCodes
_STREAMS, _WINDOW, _FRAME, _LIST = (
    *(_S.MAX_CONCURRENT_STREAMS, _S.INITIAL_WINDOW_SIZE, _S.MAX_FRAME_SIZE),
    _S.MAX_HEADER_LIST_SIZE,
)

# Read off the wire of nginx 1.22.1, nghttpd 1.52, haproxy 2.6, hypercorn 0.18 and granian 2.8, each as it comes; and what their
# first WINDOW_UPDATE adds to the connection's window.
PROFILES: Final[dict[str, tuple[dict[int, int], int]]] = {
    "plain": ({_STREAMS: 100}, 0),
    "nginx": ({_STREAMS: 128, _WINDOW: 65_536, _FRAME: 16_777_215}, 2_147_418_112),
    "nghttpd": ({_STREAMS: 100}, 0),
    "haproxy": ({_S.ENABLE_CONNECT_PROTOCOL: 1, _STREAMS: 100}, 0),
    "hypercorn": (
        {
            _S.HEADER_TABLE_SIZE: 4096, _S.ENABLE_PUSH: 0, _WINDOW: 65_535, _FRAME: 16_384, _S.ENABLE_CONNECT_PROTOCOL: 1,
            _STREAMS: 100, _LIST: 65_536,
        },
        0,
    ),
    "granian": ({_STREAMS: 200, _WINDOW: 1_048_576, _FRAME: 16_384, _LIST: 16_777_216}, 983_041),
}  # fmt: skip

_RECORDS: Final = 256
_EVENTS: Final = 1024


class Face(msgspec.Struct, omit_defaults=True):
    """How connections to come are met; None: as the configuration says. ``/debug/h2`` changes it."""

    profile: str = ""
    preface: str = ""
    max_streams: int = -1
    window_bytes: int = -1

    def __post_init__(self) -> None:
        """ValueError, in words, for what makes no sense."""
        if self.profile not in ("", *H2_PROFILES):
            raise ValueError(f"profile: {', '.join(H2_PROFILES)}")
        if self.preface not in ("", *H2_PREFACES):
            raise ValueError(f"preface: {', '.join(H2_PREFACES)}")
        if not -1 <= self.max_streams < 1 << 32 or not -1 <= self.window_bytes < 1 << 31:
            raise ValueError("max_streams, window_bytes: as in SETTINGS, or -1")

    def over(self, config: SimConfig) -> Face:
        """With what it leaves open taken from the configuration."""
        return Face(
            self.profile or config.h2_profile,
            self.preface or config.h2_preface,
            config.h2_max_streams if self.max_streams < 0 else self.max_streams,
            config.h2_window_bytes if self.window_bytes < 0 else self.window_bytes,
        )

    def settings(self) -> tuple[dict[int, int], int]:
        """What the first SETTINGS say, and the increment of the first WINDOW_UPDATE (0: there is none)."""
        values, increment = PROFILES[self.profile]
        values = dict(values)
        if self.max_streams >= 0:
            values[_STREAMS] = self.max_streams
        if self.window_bytes >= 0:
            values[_WINDOW] = self.window_bytes
        return values, increment


class ConnectionSeen(msgspec.Struct):
    """One connection: the streams in the order of their HEADERS, the client's resets as ``[stream, code]``, and what it said
    of itself. ``most_streams``: at once. ``error``: what the stock machine found wrong with it.

    ``ended``: open, fin (the client closed), reset (it reset), error (closed for the error), idle, fault, closed (by us).
    """

    number: int
    streams: list[int] = []
    most_streams: int = 0
    refused: list[int] = []
    unprocessed: list[int] = []
    resets: list[tuple[int, str]] = []
    settings: dict[str, int] = {}
    settings_frames: int = 0
    pings: int = 0
    ping_acks: int = 0
    window_updates: int = 0
    goaway: str = ""
    error: str = ""
    ended: str = "open"

    def reset(self, stream: int, code: str) -> None:
        if len(self.resets) < _EVENTS:
            self.resets.append((stream, code))

    def opened(self, stream: int) -> None:
        if len(self.streams) < _EVENTS:
            self.streams.append(stream)


class H2Owner(Owner, Protocol):
    """The simulated engine that a connection belongs to."""

    seen: Seen
    face: Face

    def begun(self, connection: Lived) -> None: ...
    def told(self, connection: Lived) -> None: ...


class Seen:
    """The last connections, and counters over all of them."""

    __slots__ = ("connections", "connections_total", "most_streams", "refused", "resets", "streams_open", "streams_total")

    def __init__(self) -> None:
        self.connections: deque[ConnectionSeen] = deque(maxlen=_RECORDS)
        self.connections_total = 0
        self.streams_total = 0
        self.streams_open = 0
        self.most_streams = 0
        self.refused = 0
        self.resets: dict[str, int] = {}

    def connection(self, number: int) -> ConnectionSeen:
        self.connections_total += 1
        seen = ConnectionSeen(number)
        self.connections.append(seen)
        return seen

    def opened(self, seen: ConnectionSeen, stream: int, at_once: int) -> None:
        """A stream has begun, one of ``at_once`` on its connection."""
        self.streams_total += 1
        self.streams_open += 1
        seen.opened(stream)
        seen.most_streams = max(seen.most_streams, at_once)
        self.most_streams = max(self.most_streams, self.streams_open)

    def was_reset(self, seen: ConnectionSeen, stream: int, code: str) -> None:
        """The client has reset a stream."""
        seen.reset(stream, code)
        self.resets[code] = self.resets.get(code, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """``most_streams`` is over all connections at once."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "connections"}
