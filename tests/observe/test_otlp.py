"""What is written by hand is what the protocol's own classes read, and write."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from fastgw.observe import otlp

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
TIMES = st.integers(0, (1 << 64) - 1)
PLAIN: Any = st.one_of(NAMES, st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(allow_nan=False))
ABOUT = st.dictionaries(NAMES, st.one_of(PLAIN, st.lists(PLAIN, max_size=3).map(tuple)), max_size=5)


def told(value: Any) -> AnyValue:
    if isinstance(value, tuple):
        return AnyValue(array_value=ArrayValue(values=[told(one) for one in value]))
    return AnyValue(**{{str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}[type(value)]: value})


def pairs(about: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=name, value=told(value)) for name, value in about.items()]


@given(
    st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.sampled_from([b"", b"parent-8"]),
    st.sampled_from(["", "a=1,b=2"]), NAMES, TIMES, TIMES, ABOUT, st.sampled_from(["", "why", "é" * 400]), st.booleans(), ABOUT,
)  # fmt: skip
def test_a_span_is_as_the_protocol_has_it(
    trace_id: bytes, own: bytes, parent: bytes, state: str, name: str, start: int, end: int, about: dict[str, Any], why: str,
    remote: bool, of: dict[str, Any],
) -> None:  # fmt: skip
    whose = otlp.identity(trace_id, state.encode())
    failed = otlp.status(why) if why else b""
    one = otlp.span(whose, own, parent, name, otlp.CLIENT, start, end, otlp.attributes(about), failed, remote)
    written = otlp.Source(of, "https://a.example/schema", "it", "1").request([one, one])
    span = Span(
        trace_id=trace_id, span_id=own, parent_span_id=parent, trace_state=state, name=name, kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=start, end_time_unix_nano=end, attributes=pairs(about), flags=0x300 if remote else 0x100,
        status=Status(code=Status.STATUS_CODE_ERROR, message=why) if why else None,
    )  # fmt: skip
    meant = ExportTraceServiceRequest()
    resource = meant.resource_spans.add(schema_url="https://a.example/schema")
    resource.resource.attributes.extend(pairs(of))
    scope = resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "it", "1"
    scope.spans.extend([span, span])
    assert ExportTraceServiceRequest.FromString(written) == meant
