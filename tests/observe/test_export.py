"""Where traces go, by the rules that OpenTelemetry has for it. (That they come, ``e2e/test_traces.py`` shows.)"""

from __future__ import annotations

import pytest

from fastgw import Config
from fastgw.config.load import load
from fastgw.observe.export import exporter_of, target_of

BASE, OWN, PROTOCOL = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"
HTTP, GRPC = "http/protobuf", "grpc"


@pytest.mark.parametrize(
    ("variables", "target"),
    [
        ({}, (HTTP, "http://localhost:4318/v1/traces")),
        ({PROTOCOL: GRPC}, (GRPC, "http://localhost:4317")),
        ({BASE: "http://a:4318"}, (HTTP, "http://a:4318/v1/traces")),
        ({BASE: "https://a/otlp/"}, (HTTP, "https://a/otlp/v1/traces")),
        ({BASE: "http://a:4318/v1/traces"}, (HTTP, "http://a:4318/v1/traces")),
        ({OWN: "http://a:4318/mine", BASE: "http://b:4318"}, (HTTP, "http://a:4318/mine")),
        ({"OTLP_ENDPOINT": "http://a:4317", BASE: "http://b:4318"}, (GRPC, "http://a:4317")),
        ({BASE: "http://a:4317", PROTOCOL: HTTP}, (HTTP, "http://a:4317/v1/traces")),
        ({BASE: "https://a:9", PROTOCOL: HTTP, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": GRPC}, (GRPC, "https://a:9")),
    ],
)
def test_where_traces_go(variables: dict[str, str], target: tuple[str, str]) -> None:
    assert target_of(load({}, variables, "/nowhere")) == target


def test_what_grpc_has_not() -> None:
    with pytest.raises(ValueError, match="otlp_compression must be gzip or none"):
        exporter_of(Config(enable_otlp_tracing=True, otlp_protocol="grpc", otlp_compression="deflate"))
