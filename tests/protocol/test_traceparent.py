"""What is read of ``traceparent`` and ``tracestate``. (Which values are a ``traceparent`` at all, ``e2e`` shows: D12.)"""

from __future__ import annotations

import pytest

from fastgw.accel.lines import trace_lines
from fastgw.protocol.traceparent import MAX_STATE_BYTES, MAX_STATE_MEMBERS, parent_of, state_of, without

TRACE_ID, SPAN_ID = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"


@pytest.mark.parametrize(("version", "flags", "sampled"), [(0, 0, False), (0, 1, True), (0, 2, False), (254, 0xFF, True)])
def test_whose_trace_it_is(version: int, flags: int, sampled: bool) -> None:
    """A later version is read by what this one knows of it."""
    more = b"-and-more" if version else b""
    line = b"TraceParent:  %02x-%b-%b-%02x%b\r\n" % (version, TRACE_ID, SPAN_ID, flags, more)
    assert parent_of(b"accept: */*\r\n" + line) == (TRACE_ID, SPAN_ID, sampled)
    assert parent_of(b"accept: */*\r\nx-traceparent: 00\r\n") is None


LONG = b"v=" + b"x" * 254
STATES = [
    ((b"a=1",), b"a=1"),
    ((b"a=1 ,\tb=2,,", b"c@d=e f"), b"a=1,b=2,c@d=e f"),
    ((b"",), b""),
    ((b"a=1,B=2",), b""),
    ((b"a=1,no-value",), b""),
    ((b"a=1=2",), b""),
    ((b"a=\xe9",), b""),
    ((b"a=" + b"x" * 257,), b""),
    ((b"a" * 257 + b"=1",), b""),
    ((LONG + b"," + LONG.replace(b"v", b"w"),), LONG),
    ((b",".join(b"k%d=1" % at for at in range(40)),), b",".join(b"k%d=1" % at for at in range(MAX_STATE_MEMBERS))),
    ((b",".join(b"k%d=1" % at for at in range(80)),), b",".join(b"k%d=1" % at for at in range(MAX_STATE_MEMBERS))),
    ((b"," * 80 + b"a=1",), b""),
]


@pytest.mark.parametrize(("values", "kept"), STATES, ids=range(len(STATES)))
def test_what_is_passed_on_of_a_state(values: tuple[bytes, ...], kept: bytes) -> None:
    lines = b"accept: */*\r\n" + b"".join(b"tracestate: %b\r\n" % value for value in values)
    assert state_of(lines) == kept
    assert len(kept) <= MAX_STATE_BYTES


def test_the_lines_that_an_engine_gets_are_ours() -> None:
    theirs = b"Traceparent: 00-x\r\naccept: */*\r\ntracestate: a=1\r\nTraceState: b=2\r\nx-tracestate: c=3\r\n"
    assert without(b"", theirs) == b"accept: */*\r\nx-tracestate: c=3\r\n"
    told = trace_lines(TRACE_ID, SPAN_ID, True, b"a=1")
    assert told == b"traceparent: 00-%b-%b-01\r\ntracestate: a=1\r\n" % (TRACE_ID, SPAN_ID)
    assert parent_of(told) == (TRACE_ID, SPAN_ID, True)
    assert trace_lines(TRACE_ID, SPAN_ID, False, b"") == b"traceparent: 00-%b-%b-00\r\n" % (TRACE_ID, SPAN_ID)
