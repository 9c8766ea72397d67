"""The rows of the benchmark: what each loads a proxy with, what its CPU time is divided by, and how its figures are called.

Owns: the list of loads, and which of them ``--rows`` means. One more load is one more row here, and its figures' labels in
`report`. What is no load of the generator's (many streams, the start) has a name here and its work in a module of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

_PACED = 1.25
"""The paced streams run so much longer than the other phases: a stream alone takes two thirds of a second."""
_PACED_CROWD = 2.5
"""And a crowd of them still longer: what opening and leaving them costs is to be a small part."""
_BODY_CLIENTS = 16
"""Long bodies come from few clients: engine and generator have no more to do than with many, and 64 of 800 kB would measure
how much memory a proxy holds them in."""


@dataclass(frozen=True, slots=True)
class Row:
    """One load. ``cpu`` and ``rate`` are its figures' keys: CPU time per request or event, and how many there were a second.

    ``clients``: at once; None for as many as ``--connections`` says. ``share``: of ``--seconds``. ``crowd``: the same load
    comes once unmeasured before it, so that what opening so many connections costs is not in a steady load's figure.
    ``dials``: the connections made to the engine meanwhile are counted under this key, as a share of the requests.
    ``latency``: what its percentiles are called by, of the first event and of each event.
    """

    key: str
    group: str
    name: str
    cpu: str
    rate: str
    clients: int | None = None
    share: float = 1.0
    events: bool = False
    load: dict[str, Any] = field(default_factory=dict)
    crowd: bool = False
    dials: str = ""
    latency: str | None = None

    @property
    def usual(self) -> bool:
        """Whether it is one that every proxy takes, be it a thousand times slower."""
        return self.clients is None and self.group in ("plain", "unpaced", "paced")

    @property
    def counted(self) -> str:
        return "events_total" if self.events else "requests_total"


def _crowd(clients: int) -> Row:
    cpu, rate, dials = f"cpu_plain_{clients}_us", f"rps_{clients}", f"dials_{clients}_percent"
    return Row(f"crowd-{clients}", "crowd", f"plain, {clients:,} clients", cpu, rate, clients, crowd=True, dials=dials)


def _body(kilobytes: int) -> Row:
    cpu, rate = f"cpu_body_{kilobytes}k_us", f"rps_body_{kilobytes}k"
    load = {"body_bytes": kilobytes * 1000}
    return Row(f"body-{kilobytes}k", "bodies", f"bodies of {kilobytes} kB", cpu, rate, _BODY_CLIENTS, load=load)


_STREAM = {"stream": True}
ROWS = (
    Row("plain", "plain", "plain", "cpu_plain_us", "rps", dials="dials_percent"),
    _crowd(512),
    _crowd(1000),
    Row("unpaced", "unpaced", "unpaced streams", "cpu_flood_us", "flood_per_s", events=True, load=_STREAM | {"unpaced": True}),
    Row("paced", "paced", "paced streams", "cpu_event_us", "events_per_s", None, _PACED, True, _STREAM, latency=""),
    Row(
        *("paced-512", "paced", "512 paced streams", "cpu_event_512_us", "events_512_per_s", 512, _PACED_CROWD, True, _STREAM),
        latency="_512",
    ),
    *(_body(kilobytes) for kilobytes in (2, 20, 200, 800)),
    Row("connections", "connections", "a connection each", "cpu_close_us", "rps_close", load={"close": True}),
)
APART = ("streams", "start")
"""What `streams` and `start` measure: thousands of streams at a slow pace, and starts in turns with an interpreter's."""
GROUPS = (*dict.fromkeys(row.group for row in ROWS), *APART)
USUAL = tuple(name for name in GROUPS if name != "streams")
"""Without ``--rows``: what takes minutes."""


class UnknownRow(Exception):
    """``--rows`` names one that is not in the list."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one run measures: loads, in the order of the list, and what is measured apart."""

    rows: tuple[Row, ...]
    streams: bool = False
    start: bool = False

    def names(self) -> list[str]:
        return [row.key for row in self.rows] + [name for name in APART if getattr(self, name)]


def choose(names: Iterable[str]) -> Chosen:
    """By group or by row; ``all`` is all. Raises `UnknownRow`."""
    wanted = {name.strip() for name in names if name.strip()}
    known = {*GROUPS, *(row.key for row in ROWS), "all"}
    if unknown := sorted(wanted - known):
        raise UnknownRow(f"unknown row {', '.join(unknown)}; known are all, {', '.join(GROUPS)}, {', '.join(_single())}")
    every = "all" in wanted
    rows = tuple(row for row in ROWS if every or wanted & {row.group, row.key})
    return Chosen(rows, *(every or name in wanted for name in APART))


def _single() -> Sequence[str]:
    """The names that mean one row of a group that has several."""
    return [row.key for row in ROWS if row.key not in GROUPS]
