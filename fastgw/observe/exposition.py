"""How metrics are written for a scraper: families of samples, as Prometheus's text format or as OpenMetrics.

Written by hand, since a line of a library's costs ten times as much, and a fleet has a hundred thousand. Must never: raise for
a name or a label, whatever is in it. Prometheus's text format is 0.0.4, OpenMetrics 1.0.0
(https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md); both name a family once, and OpenMetrics
without what its samples end in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from fastgw.accel.histograms import Exemplar, Histogram

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
LINES: Final = 250  # that are made before others get their turn: a fifth of a millisecond
COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"
INFO: Final = "info"

Value = int | float


class Buckets(NamedTuple):
    """A histogram as it stood. ``counts`` has one more than ``bounds``: what is above all of them."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float
    exemplars: dict[int, Exemplar] | None = None


class Family(NamedTuple):
    """One metric: ``name`` as its samples have it (a histogram's and an info's without their endings), and its samples by their
    labels (see :func:`labels`). Several in a row of one name are one family."""

    name: str
    help: str
    kind: str
    samples: Iterable[tuple[str, Value | Buckets]]


def labels(*pairs: tuple[str, str]) -> str:
    """``name="value",...`` as a sample has it in its braces."""
    return ",".join([f'{name}="{escaped(value)}"' for name, value in pairs])


def escaped(value: str) -> str:
    """A label's value between its quotes."""
    if "\\" in value or '"' in value or "\n" in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value


def buckets(histogram: Histogram) -> Buckets:
    """What ``histogram`` holds now."""
    return Buckets(histogram.bounds.values, histogram.counts(), histogram.total, histogram.exemplars)


def part(whole: Buckets, bounds: Sequence[float]) -> Buckets:
    """The same values between fewer ``bounds``, each of which is one of ``whole``'s."""
    counts: list[int] = []
    seen = 0
    for bound, count in zip(whole.bounds, whole.counts, strict=False):
        seen += count
        if bound in bounds:
            counts.append(seen)
            seen = 0
    return Buckets(bounds, [*counts, seen + whole.counts[-1]], whole.total)


def pieces(families: Iterable[Family | None], openmetrics: bool = False) -> Iterator[bytes]:
    """The text, some :data:`LINES` at a time, after each of which whoever asks from a loop gives it its turn. None among the
    families = they took a while."""
    lines: list[str] = []
    last = ""
    for family in families:
        if family is not None:
            if family.name != last:
                last = family.name
                lines += _head(family, openmetrics)
            for where, value in family.samples:
                if isinstance(value, Buckets):
                    lines += _of_buckets(family.name, where, value, openmetrics)
                else:
                    name = family.name if family.kind != INFO else family.name + "_info"
                    lines.append(f"{name}{{{where}}} {value}\n" if where else f"{name} {value}\n")
                if len(lines) >= LINES:
                    yield "".join(lines).encode("utf-8", "replace")
                    lines.clear()
        elif not lines:
            yield b""
        else:
            yield "".join(lines).encode("utf-8", "replace")
            lines.clear()
    if openmetrics:
        lines.append("# EOF\n")
    yield "".join(lines).encode("utf-8", "replace")


def _head(family: Family, openmetrics: bool) -> tuple[str, str]:
    name, kind = family.name, family.kind
    text = family.help.replace("\\", "\\\\").replace("\n", "\\n")
    if openmetrics:
        name = name.removesuffix("_total") if kind == COUNTER else name
        text = text.replace('"', '\\"')
    elif kind == INFO:
        name, kind = name + "_info", GAUGE
    return f"# HELP {name} {text}\n", f"# TYPE {name} {kind}\n"


def _of_buckets(name: str, where: str, found: Buckets, openmetrics: bool) -> list[str]:
    lines = []
    seen = 0
    comma = "," if where else ""
    exemplars = found.exemplars if openmetrics and found.exemplars else None
    for at, count in enumerate(found.counts):
        seen += count
        bound = str(float(found.bounds[at])) if at < len(found.bounds) else "+Inf"
        told = _exemplar(exemplars.get(at)) if exemplars is not None else ""
        lines.append(f'{name}_bucket{{{where}{comma}le="{bound}"}} {seen}{told}\n')
    of = f"{{{where}}}" if where else ""
    lines.append(f"{name}_sum{of} {found.total}\n")
    lines.append(f"{name}_count{of} {seen}\n")
    return lines


def _exemplar(found: Exemplar | None) -> str:
    if found is None:
        return ""
    value, when, trace = found
    return f' # {{trace_id="{escaped(trace)}"}} {value} {when:.3f}'


def as_openmetrics(text: bytes) -> bytes:
    """Metrics that are written in the text format, without their end, as OpenMetrics has them."""
    lines = text.split(b"\n")
    for at, line in enumerate(lines):
        if line.startswith(b"# TYPE ") and line.endswith(b"_total counter"):
            name = line.split(b" ")[2]
            lines[at] = b"# TYPE %b counter" % name.removesuffix(b"_total")
            if at and lines[at - 1].startswith(b"# HELP %b " % name):
                lines[at - 1] = lines[at - 1].replace(name, name.removesuffix(b"_total"), 1)
        elif line.startswith(b"# TYPE ") and line.endswith((b" untyped", b" counter")):
            # (A counter that does not end so, as DCGM's do not, is none there.)
            lines[at] = line.rpartition(b" ")[0] + b" unknown"
    return b"\n".join(lines)


def accepted(accept: str) -> str:
    """The media type that is sent to whoever takes ``accept`` (RFC 9110 §12.5.1): OpenMetrics where it is named, and no less
    wanted than the text format."""
    wanted = {"application/openmetrics-text": 0.0, "text/plain": 0.0, "*/*": 0.0, "text/*": 0.0}
    for one in accept.lower().split(",")[:MOST_ACCEPTED]:
        name, *parameters = [word.strip() for word in one.split(";")]
        if name in wanted and parameters.count("version=2.0.0") == 0:
            weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
            wanted[name] = max(wanted[name], _weight(weight))
    openmetrics = wanted.pop("application/openmetrics-text")
    return OPENMETRICS if openmetrics > 0.0 and openmetrics >= wanted["text/plain"] else TEXT


def takes_gzip(accept_encoding: str) -> bool:
    """Whether gzip may be sent (RFC 9110 §12.5.3)."""
    for one in accept_encoding.lower().split(",")[:MOST_ACCEPTED]:
        name, *parameters = [word.strip() for word in one.split(";")]
        if name in ("gzip", "x-gzip", "*"):
            return all(_weight(word[2:]) > 0.0 for word in parameters if word.startswith("q="))
    return False


MOST_ACCEPTED: Final = 32  # words of a field that are looked at


def _weight(text: str) -> float:
    return float(text) if text.replace(".", "", 1).isdecimal() and text.isascii() and len(text) <= 5 else 0.0
