"""Plain-integer statistics, and the two sinks that lower layers report to.

Owns: the counters that the hot path adds to (an attribute add costs 20 ns; a metrics library's counter ten times that)
and the protocols of the event log and the access log, which are implemented in ``observe`` and injected by ``app``.
Must never: know who reads it. Counters of live things (``*_open``) return to zero when a gateway has stopped.
"""

from __future__ import annotations

from typing import Protocol


class Stats:
    """What one gateway has done since it started; live counters end in ``_open``."""

    __slots__ = (
        "access_dropped",
        "auth_failures",
        "body_bytes_open",
        "bytes_down",
        "cancelled",
        "connections_open",
        "connections_refused",
        "connections_total",
        "dials_total",
        "events_total",
        "exchanges_open",
        "exchanges_total",
        "failovers_total",
        "limited_concurrency",
        "limited_ip",
        "limited_memory",
        "limited_queue",
        "limited_requests",
        "limited_tokens",
        "merged_calls",
        "merged_requests",
        "quarantined",
        "queue_timeouts",
        "queue_waiting_open",
        "quota_cut",
        "quota_refused",
        "refused_total",
        "replays_total",
        "retries_refused",
        "retries_total",
        "stalled",
        "store_failures",
        "tokens_cached",
        "tokens_estimated",
        "tokens_generated",
        "tokens_prompted",
        "tokens_reasoning",
        "truncations_total",
        "upstream_open",
    )

    def __init__(self) -> None:
        self.access_dropped = 0
        self.auth_failures = 0
        self.body_bytes_open = 0
        self.bytes_down = 0
        self.cancelled = 0
        self.connections_open = 0
        self.connections_refused = 0
        self.connections_total = 0
        self.dials_total = 0
        self.events_total = 0
        self.exchanges_open = 0
        self.exchanges_total = 0
        self.failovers_total = 0
        self.limited_concurrency = 0
        self.limited_ip = 0
        self.limited_memory = 0
        self.limited_queue = 0
        self.limited_requests = 0
        self.limited_tokens = 0
        self.merged_calls = 0
        self.merged_requests = 0
        self.quarantined = 0
        self.queue_timeouts = 0
        self.queue_waiting_open = 0
        self.quota_cut = 0
        self.quota_refused = 0
        self.refused_total = 0
        self.replays_total = 0
        self.retries_refused = 0
        self.retries_total = 0
        self.stalled = 0
        self.store_failures = 0
        self.tokens_cached = 0
        self.tokens_estimated = 0
        self.tokens_generated = 0
        self.tokens_prompted = 0
        self.tokens_reasoning = 0
        self.truncations_total = 0
        self.upstream_open = 0

    def live(self) -> dict[str, int]:
        """The counters that must be zero when nothing is under way."""
        return {name: getattr(self, name) for name in self.__slots__ if name.endswith("_open")}

    def snapshot(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


class EventLog(Protocol):
    """Where rare events go. ``fields`` must hold no key and no prompt."""

    def debug(self, message: str, **fields: object) -> None: ...
    def info(self, message: str, **fields: object) -> None: ...
    def warning(self, message: str, **fields: object) -> None: ...
    def error(self, message: str, **fields: object) -> None: ...


class NullLog:
    """An event log that keeps nothing; for embedding without logs, and for tests of single classes."""

    def debug(self, message: str, **fields: object) -> None: ...
    def info(self, message: str, **fields: object) -> None: ...
    def warning(self, message: str, **fields: object) -> None: ...
    def error(self, message: str, **fields: object) -> None: ...
