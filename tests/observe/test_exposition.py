"""Both formats as ``prometheus_client`` reads them: names, labels, buckets, exemplars, and who gets which."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from fastgw.accel.histograms import Bounds, Histogram
from fastgw.observe.exposition import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    LINES,
    MOST_ACCEPTED,
    OPENMETRICS,
    TEXT,
    Family,
    accepted,
    as_openmetrics,
    buckets,
    labels,
    part,
    pieces,
    takes_gzip,
)  # fmt: skip

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def seconds(*values: float, exemplar: float = 0.0) -> Histogram:
    made = Histogram(Bounds((0.01, 1.0, 10.0)))
    for value in values:
        at = made.observe(value)
        if value == exemplar:
            made.exemplify(at, value, 1.5e9, TRACE)
    return made


def families() -> list[Family | None]:
    histogram = seconds(0.005, 0.5, 0.7, 99.0, exemplar=0.7)
    return [
        Family(
            "a_total", 'Says "a",\\ and\nmore.', COUNTER, [(labels(("engine", 'x"\\\n')), 3), (labels(("engine", "y")), 2**53)],
        ),
        None,
        Family("b_seconds", "B.", HISTOGRAM, [(labels(("model", "m")), buckets(histogram)), ("", buckets(seconds()))]),
        Family("c", "C.", GAUGE, [("", 1.5)]),
        Family("c", "C.", GAUGE, [(labels(("of", "two")), -1)]),
        Family("d", "D.", INFO, [(labels(("version", "1")), 1)]),
    ]


@pytest.mark.parametrize(("openmetrics", "parse"), [(False, text_families), (True, openmetrics_families)])
def test_a_parser_reads_what_was_meant(openmetrics: bool, parse: Any) -> None:
    found = {one.name: one for one in parse(b"".join(pieces(families(), openmetrics)).decode())}
    a, b, c = found["a"], found["b_seconds"], found["c"]
    assert [(one.name, one.labels, one.value) for one in a.samples] == [
        ("a_total", {"engine": 'x"\\\n'}, 3), ("a_total", {"engine": "y"}, 2**53),
    ]  # fmt: skip
    assert (a.type, a.documentation) == ("counter", 'Says "a",\\ and\nmore.')
    assert b.type == "histogram"
    of_m = [one for one in b.samples if one.labels.get("model") == "m"]
    assert [(one.labels.get("le"), one.value) for one in of_m] == [
        ("0.01", 1), ("1.0", 3), ("10.0", 3), ("+Inf", 4), (None, pytest.approx(100.205)), (None, 4),
    ]  # fmt: skip
    told = [one.exemplar for one in of_m if one.exemplar]
    expected = [({"trace_id": TRACE}, 0.7, 1.5e9)] if openmetrics else []
    assert [(one.labels, one.value, float(one.timestamp)) for one in told] == expected
    assert [one.value for one in c.samples] == [1.5, -1]
    assert [one.labels for one in found["d" if openmetrics else "d_info"].samples] == [{"version": "1"}]


@given(st.text(st.characters() | st.sampled_from('"\\\n{},= #'), max_size=20))
def test_M2_any_label_parses(text: str) -> None:
    written = b"".join(pieces([Family("a", "A.", GAUGE, [(labels(("x", text)), 1)])], True)).decode()
    (family,) = openmetrics_families(written)
    assert family.samples[0].labels == {"x": text.encode("utf-8", "replace").decode()}


def test_it_comes_in_pieces_and_a_family_says_its_name_once() -> None:
    many = [Family("a", "A.", GAUGE, ((labels(("x", str(number))), number) for number in range(4 * LINES)))]
    found = list(pieces(many))
    assert max(piece.count(b"\n") for piece in found) <= LINES + 2
    assert b"".join(found).count(b"# TYPE") == 1
    assert len(list(pieces([None, None]))) == 3, "after what took a while there is a turn of the loop"


def test_fewer_bounds_hold_the_same_values() -> None:
    whole = buckets(seconds(0.005, 0.5, 5.0, 99.0))
    assert part(whole, (1.0,)) == ((1.0,), [2, 2], whole.total, None)
    assert part(whole, whole.bounds) == (whole.bounds, list(whole.counts), whole.total, None)


def test_what_others_wrote_as_text_is_openmetrics_too() -> None:
    text = b"".join(pieces([one for one in families() if one is None or one.kind != INFO]))
    text += b"# TYPE e untyped\ne 1\n# HELP DCGM_F F.\n# TYPE DCGM_F counter\nDCGM_F 2\n"
    found = list(openmetrics_families((as_openmetrics(text) + b"# EOF\n").decode()))
    kinds = {one.name: one.type for one in found}
    assert kinds == {"a": "counter", "b_seconds": "histogram", "c": "gauge", "e": "unknown", "DCGM_F": "unknown"}


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False), ("*/*", False), ("text/html", False), ("application/openmetrics-text", True),
        # Prometheus 2 and 3, VictoriaMetrics, a browser
        ("application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
         "text/plain;version=0.0.4;q=0.3,*/*;q=0.2", True),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", False), ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("Application/OpenMetrics-Text; q=0.3, text/plain;q=0.5", False), ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False), (",;q=,=" * 9, False),
        ("a," * MOST_ACCEPTED + "application/openmetrics-text", False),
    ],
)  # fmt: skip
def test_who_asks_for_openmetrics_gets_it(accept: str, openmetrics: bool) -> None:
    assert accepted(accept) == (OPENMETRICS if openmetrics else TEXT)


@pytest.mark.parametrize(
    ("said", "takes"),
    [
        ("", False), ("gzip", True), ("deflate, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip; q=0.000", False),
        ("br", False),        ("*", True), ("identity", False), ("gzip;q=", False), ("a," * MOST_ACCEPTED + "gzip", False),
    ],
)  # fmt: skip
def test_gzip_is_sent_to_who_takes_it(said: str, takes: bool) -> None:
    assert takes_gzip(said) is takes
