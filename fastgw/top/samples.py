"""A page of metrics, read: its samples by name and labels, what counters grew by since the page before, and percentiles.

Must never: raise for a page, whatever it holds: a line that is none is passed over, and so is a number that nothing real has:
sums and differences of all others are finite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final

MAX_LINE_CHARS: Final = 4096
MAX_SAMPLES: Final = 200_000
"""Of one page: a thousand engines and a thousand pairs of endpoint and model, with all their buckets, have as many."""

_LARGEST: Final = 1e18

_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([0-9.eE+-]+)(?: \d+)?")
_LABEL: Final = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|$)')
_OURS: Final = ("gateway_", "gpu_", "process_", "fastgw_")
_WORDS: Final = {"n": "\n", "\\": "\\", '"': '"'}

Labels = Mapping[str, str]
Series = tuple[Labels, float]


class Page:
    """What a gateway said ``at`` a time of the clock that goes on (seconds)."""

    __slots__ = ("_rows", "at")

    def __init__(self, text: str, at: float) -> None:
        self.at = at
        self._rows: dict[str, list[Series]] = {}
        count = 0
        for line in text.split("\n"):
            found = _SAMPLE.fullmatch(line) if line.startswith(_OURS) and len(line) <= MAX_LINE_CHARS else None
            value = _number(found[3]) if found is not None else None
            if found is None or value is None or found[1].endswith(("_sum", "_count")):
                continue
            if count == MAX_SAMPLES:
                break
            count += 1
            self._rows.setdefault(found[1], []).append((_labels(found[2] or ""), value))

    def rows(self, name: str, **where: str) -> Iterator[Series]:
        """Samples of a name whose labels are, or begin with (``5*``), what is asked for."""
        for labels, value in self._rows.get(name, ()):
            if all(_is(labels.get(label, ""), wanted) for label, wanted in where.items()):
                yield labels, value

    def total(self, name: str, **where: str) -> float | None:
        """All of them together; None = there are none."""
        values = [value for _, value in self.rows(name, **where)]
        return sum(values) if values else None

    def by(self, label: str, name: str, **where: str) -> dict[str, float]:
        """The same for each value of a label."""
        found: dict[str, float] = {}
        for labels, value in self.rows(name, **where):
            found[labels.get(label, "")] = found.get(labels.get(label, ""), 0.0) + value
        return found


class Growth:
    """What has come between two pages of one gateway. ``before`` None = it is not known."""

    __slots__ = ("_after", "_before", "seconds")

    def __init__(self, before: Page | None, after: Page) -> None:
        self._before = before
        self._after = after
        self.seconds = after.at - before.at if before is not None else 0.0

    def rate(self, name: str, **where: str) -> float | None:
        """A second's growth of all series together."""
        rates = self.rates("", name, **where)
        return sum(rates.values()) if rates else None

    def rates(self, label: str, name: str, **where: str) -> dict[str, float]:
        """The same for each value of a label."""
        if self._before is None or self.seconds <= 0.0:
            return {}
        before = self._before.by(label, name, **where)
        return {
            key: _grown(before.get(key, 0.0), value) / self.seconds
            for key, value in self._after.by(label, name, **where).items()
        }

    def percentile(self, share: float, name: str, **where: str) -> float | None:
        """Of what a histogram has got since, in proportion between the bounds of its bucket, as Prometheus has it; None = it
        has got nothing."""
        if self._before is None:
            return None
        before = self._before.by("le", name + "_bucket", **where)
        after = self._after.by("le", name + "_bucket", **where)
        grown = sorted((_bound(le), _grown(before.get(le, 0.0), value)) for le, value in after.items())
        most = grown[-1][1] if grown else 0.0
        if most <= 0.0:
            return None
        wanted, low, seen = share * most, 0.0, 0.0
        for bound, count in grown:
            if count >= wanted:
                if math.isinf(bound) or count <= seen:
                    return low
                return low + (bound - low) * (wanted - seen) / (count - seen)
            low, seen = bound, count
        return low


def _grown(before: float, after: float) -> float:
    return after - before if after >= before else after  # (it was started again)


def _bound(text: str) -> float:
    value = _number(text)
    return math.inf if value is None else value


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= _LARGEST else None  # (so is no NaN)


def _is(value: str, wanted: str) -> bool:
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted


def _labels(text: str) -> Labels:
    return {
        name: re.sub(r"\\(.)", lambda found: _WORDS.get(found[1], found[0]), value) if "\\" in value else value
        for name, value in _LABEL.findall(text)
    }
