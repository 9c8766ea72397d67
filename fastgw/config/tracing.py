"""The settings of traces: a section of the table (``table.py``), beside its file.

Owns: rows, as that; where OpenTelemetry has a variable for one, its row has it. ``docs/traces.md`` says what each comes to.
"""

# (No annotations from the future here: rows stand in them, and are read when the module is loaded.)
# fmt: off

from typing import Annotated

from fastgw.config.names import OtlpCompression, OtlpProtocol, TraceSampler
from fastgw.config.paying import Paying
from fastgw.config.row import RESTART, row, within


class Tracing(Paying, frozen=True, kw_only=True):
    """Traces of requests."""

    enable_otlp_tracing: Annotated[bool, row(
        "send traces to otlp_endpoint ([traces.md](traces.md)); needs the extra `otel`",
        "ENABLE_OTLP_TRACING", reload=RESTART,
    )] = False
    otel_sdk_disabled: Annotated[bool, row(
        "send no traces whatever else is set: OpenTelemetry's own word for all that it has in a program",
        "OTEL_SDK_DISABLED", reload=RESTART,
    )] = False
    otlp_endpoint: Annotated[str, row(
        "the collector: http://host:port or https://host:port; over HTTP /v1/traces is added where it does not end so; empty = "
        "http://localhost, at 4318 or for gRPC 4317",
        "OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", reload=RESTART,
    )] = ""
    otlp_traces_endpoint: Annotated[str, row(
        "the same for traces alone: before otlp_endpoint, and over HTTP with its path as it stands",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", reload=RESTART,
    )] = ""
    otlp_protocol: Annotated[OtlpProtocol, row(
        "how the collector is spoken to; empty = grpc where its port is 4317, else http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL", reload=RESTART,
    )] = ""
    otlp_headers: Annotated[str, row(
        "fields that the collector gets with each call, its key for instance: name=value,other=value, percent-encoded",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS", secret=True, reload=RESTART,
    )] = ""
    otlp_timeout_ms: Annotated[int, within(1, 3_600_000,
        "milliseconds for which the collector may take to answer, tries again included; then those traces are lost",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT", reload=RESTART,
    )] = 10_000
    otlp_compression: Annotated[OtlpCompression, row(
        "how what it is sent is compressed; deflate over HTTP alone",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION", reload=RESTART,
    )] = "none"
    otel_service_name: Annotated[str, row(
        "the service that the spans are said to be of; empty = as otel_resource_attributes say, or fastgw",
        "OTEL_SERVICE_NAME", reload=RESTART,
    )] = ""
    otel_resource_attributes: Annotated[str, row(
        "what else is said of it: name=value,other=value, percent-encoded", "OTEL_RESOURCE_ATTRIBUTES", reload=RESTART,
    )] = ""
    trace_sampler: Annotated[TraceSampler, row(
        "which requests are traced: all, none, or the share trace_ratio; parentbased = those with a traceparent as that says, "
        "of the others all, none or that share",
        "OTEL_TRACES_SAMPLER",
    )] = "parentbased_traceidratio"
    trace_ratio: Annotated[float, within(0, 1,
        "the share of requests that are traced, by their trace ids, where trace_sampler goes by a ratio",
        "OTEL_TRACES_SAMPLER_ARG",
    )] = 1.0
    trace_queue_size: Annotated[int, within(1, 65536,
        "requests whose traces wait to be sent at most; those beyond it are left out, and counted",
        "OTEL_BSP_MAX_QUEUE_SIZE",
    )] = 2048
    trace_contents: Annotated[bool, row(
        "put prompts and answers into traces, up to 64 KiB of each: whoever reads the collector reads them",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
    )] = False
