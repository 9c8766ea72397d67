"""Whoever sends a gateway's traces, where its settings ask for them."""

from __future__ import annotations

from typing import Final

from fastgw.config import Config
from fastgw.exchange.tracing import Tracing
from fastgw.stats import EventLog, Stats

EXTRA: Final = "enable_otlp_tracing needs the OpenTelemetry SDK: pip install 'fastgw[otel]'"


def tracer_for(config: Config, stats: Stats, log: EventLog) -> Tracing | None:
    """None where none are asked for. Raises ImportError, which says what to install, and ValueError where one of the SDK's own
    variables cannot be used."""
    if not config.enable_otlp_tracing or config.otel_sdk_disabled:
        return None
    # (Imported here: the SDK takes a fifth of a second, and is not there where nobody wants it.)
    try:
        from fastgw.observe.trace import tracer_of
    except ImportError as error:
        raise ImportError(EXTRA) from error
    return Tracing(config, tracer_of(config, stats, log))
