"""The rows, the bars, and the section of ``benchmarks/README.md`` that shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ssl import TLSVersion
from typing import Any

from benchmarks.tls import loads
from benchmarks.tls.fronts import PLAIN, Front
from benchmarks.wire import report
from benchmarks.wire.report import Bar, Metric

FEW, MANY = 64, 512


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: on a front with which certificate it is taken, and how. ``most``: its bar, beside nginx or by itself."""

    key: str
    group: str
    label: str
    kind: str
    take: Callable[[Front, loads.Run], float]
    most: float = 0.0
    alone: bool = False
    fresh: bool = False

    @property
    def start(self) -> tuple[str, str]:
        """What is taken on one start: all of a certificate, or a row alone, where others leave memory behind."""
        return self.kind, self.key if self.fresh else ""


def _requests(clients: int, share: float, **how: Any) -> Callable[[Front, loads.Run], float]:
    """``share``: of ``--seconds`` on a front that takes 20,000 requests a second."""
    return lambda front, run: loads.per_request(front, run, clients, max(2, int(run.seconds * share * 20_000 / clients)), **how)


def _paced(clients: int, each: int) -> Callable[[Front, loads.Run], float]:
    """Streams of each client: enough for what its handshake costs, and is taken off, to be the small part."""
    return lambda front, run: loads.per_request(front, run, clients, each, stream=True, paced=True)


def _idle(front: Front, run: loads.Run) -> float:
    return loads.per_idle(front)


def _idle_h2(front: Front, run: loads.Run) -> float:
    return loads.per_idle(front, h2=True)


def _shaken(version: TLSVersion, resumed: bool = False) -> Callable[[Front, loads.Run], float]:
    return lambda front, run: loads.per_handshake(front, run, version, resumed)


_12, _13 = TLSVersion.TLSv1_2, TLSVersion.TLSv1_3
_H2 = {"h2": True, "at_once": 8}
_events_h2 = _requests(FEW, 1 / 8, stream=True, **_H2)
ROWS = (
    Row("cpu_tls_us", "requests", "TLS: CPU per request, µs", "ec", _requests(FEW, 1), 1.15),
    Row("cpu_tls_512_us", "requests", "TLS: CPU per request, 512 clients, µs", "ec", _requests(MANY, 3), 1.15),
    Row("cpu_tls_flood_us", "events", "TLS: CPU per event, unpaced, µs", "ec", _requests(FEW, 1 / 16, stream=True), 1.15),
    Row("cpu_tls_event_us", "events", "TLS: CPU per event, 64 paced streams, µs", "ec", _paced(FEW, 6), 1.15),
    Row("cpu_tls_event_512_us", "events", "TLS: CPU per event, 512 paced streams, µs", "ec", _paced(MANY, 2), 1.15),
    Row("first_byte_us", "latency", "TLS: to the first byte of an answer, p50, µs", "ec", loads.to_first_byte),
    Row("cpu_new_ec_us", "handshakes", "CPU per new handshake, EC P-256, TLS 1.3, µs", "ec", _shaken(_13), 1.25),
    Row("cpu_new_ec_12_us", "handshakes", "CPU per new handshake, EC P-256, TLS 1.2, µs", "ec", _shaken(_12), 1.25),
    Row("cpu_new_rsa_us", "handshakes", "CPU per new handshake, RSA 2048, TLS 1.3, µs", "rsa", _shaken(_13), 1.25),
    Row("cpu_resumed_us", "handshakes", "CPU per resumed handshake, TLS 1.2, µs", "ec", _shaken(_12, True), 1.25),
    Row("cpu_resumed_13_us", "handshakes", "CPU per resumed handshake, TLS 1.3, µs", "ec", _shaken(_13, True), 1.25),
    Row("idle_kib", "idle", "memory of an idle TLS connection, KiB", "ec", _idle, 40, True, True),
    Row("idle_h2_kib", "idle", "memory of an idle HTTP/2 connection over TLS, KiB", "ec", _idle_h2, fresh=True),
    Row("cpu_h2_tls_us", "h2", "HTTP/2 over TLS: CPU per request, µs", "ec", _requests(FEW, 5, **_H2), 1.3),
    Row("cpu_h2_us", "h2", "HTTP/2 with prior knowledge: CPU per request, µs", PLAIN, _requests(FEW, 5, **_H2), 1.3),
    Row("cpu_h2_event_us", "h2", "HTTP/2 over TLS: CPU per event, unpaced, µs", "ec", _events_h2),
)
METRICS = tuple(Metric(row.key, row.label) for row in ROWS)
GROUPS = tuple(dict.fromkeys(row.group for row in ROWS))
PANELS = (
    ("cpu_tls_us", "TLS, per request"),
    ("cpu_tls_event_us", "TLS, per paced event"),
    ("cpu_h2_tls_us", "HTTP/2 and TLS, per request"),
)


def _bar(row: Row) -> Bar:
    if row.alone:
        return Bar(row.label.removesuffix(", KiB"), row.key, row.most, " KiB")
    return Bar(f"{row.label.removesuffix(', µs')}, fastgw/nginx", row.key, row.most, per="nginx")


BARS = tuple(_bar(row) for row in ROWS if row.most)


def section(results: Mapping[str, Any], name: str) -> str:
    """For the page; ``name``: the results' file in ``benchmarks/results``, without its ending."""
    about, settings = results["machine"], results["settings"]
    measured: dict[str, dict[str, dict[str, float]]] = {n: one["summary"] for n, one in results["proxies"].items()}
    dirty = ", with changes that were not committed" if about["git_dirty"] else ""
    out = [
        f"`python -m benchmarks.tls --seconds {settings['seconds']:g}`, {settings['rounds']} rounds, {about['date'][:10]}, "
        f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel'].partition('-')[0]}, Python {about['python']}, "
        f"{about['openssl']}, commit {about['git_commit'][:12] or 'none'}{dirty}; median (least..greatest) of the rounds, all "
        f"of them in [`results/{name}.json`](results/{name}.json).",
        "",
        f"![CPU time behind TLS and HTTP/2, one row per proxy](results/{name}.svg)",
        "",
        "| | " + " | ".join(measured) + " | fastgw/nginx |",
        "|---" * (len(measured) + 2) + "|",
    ]
    for row in ROWS:
        cells = [report.cell(summary.get(row.key), 1) for summary in measured.values()]
        if any(cell != "-" for cell in cells):
            share = results["ratios"].get(row.key)
            out.append(f"| {row.label} | " + " | ".join(cells) + f" | {report.cell(share, 2) if share else ''} |")
    versions = [one["version"] for one in results["proxies"].values() if one["version"]]
    out += ["", f"Versions: {', '.join(versions)}.", "", "The bars:", ""]
    out += [f"- **{report.word(bar['met'])}**: {report.bar_line(bar)}" for bar in results["bars"]]
    return "\n".join(out)


def chosen(names: Sequence[str]) -> list[Row]:
    """By group or by key. Raises ValueError for a name that is neither."""
    known = {*GROUPS, *(row.key for row in ROWS)}
    if unknown := sorted({*names} - known):
        single = ", ".join(row.key for row in ROWS)
        raise ValueError(f"unknown row {', '.join(unknown)}; known are {', '.join(GROUPS)}, {single}")
    return [row for row in ROWS if row.group in names or row.key in names]
