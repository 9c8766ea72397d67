"""The settings of what the gateway tells: its log, its metrics, this machine's GPUs. Sections of the table (``table.py``),
beside its file.

Owns: rows, as that.
"""

# (No annotations from the future here: rows stand in them, and are read when the module is loaded.)
# fmt: off

from collections.abc import Sequence
from typing import Annotated

from fastgw.config import grammar
from fastgw.config.names import LogFormat, LogLevel, MetricsBy
from fastgw.config.row import RESTART, row, seconds, within
from fastgw.config.timeouts import Timeouts
from fastgw.twins import Mode


class Reporting(Timeouts, frozen=True, kw_only=True):
    """What it tells."""

    server_timing: Annotated[bool, row("add a Server-Timing field that says where a request's time went")] = False
    log_level: Annotated[LogLevel, row(
        "what to log; of RUST_LOG, the first directive counts",
        "LOG_LEVEL", "RUST_LOG",
    )] = "info"
    log_format: Annotated[LogFormat, row("lines of JSON or of text; auto = text on a terminal")] = "auto"
    access_log: Annotated[bool, row("one log record for each exchange")] = True
    log_flood_rate: Annotated[int, within(1, 1_000_000,
        "log lines in a second of one kind of what gets to no engine (refusals, health, OPTIONS, requests that the client "
        "ended before), or of one event; the rest is counted, and told in one line",
        zero="all are written",
    )] = 100
    native: Annotated[Mode, row(
        "use the compiled twins: 1 = or refuse to start, 0 = never, auto = if they are there", reload=RESTART,
    )] = "auto"


class Metrics(Reporting, frozen=True, kw_only=True):
    """What it shows to Prometheus."""

    metrics_public: Annotated[bool, row(
        "answer `GET /metrics` at host and port too, to anybody and without a key ([metrics.md](metrics.md)); control_listen "
        "shows them in any case",
    )] = False
    metrics_cache_s: Annotated[float, seconds(
        "time for which the metrics are shown as they were read", zero="read for each who asks", low=0.0,
    )] = 1.0
    metrics_by: Annotated[MetricsBy, row(
        "count requests, tokens and money of each key, or tenant, as well, by its id; empty = not", reload=RESTART,
    )] = ""
    metrics_genai: Annotated[bool, row(
        "show durations and tokens under the names of OpenTelemetry's conventions for generative AI as well",
    )] = False


class Gpus(Metrics, frozen=True, kw_only=True):
    """The GPUs of this machine."""

    gpu: Annotated[bool, row(
        "show the GPUs of this machine among the metrics of control_listen ([gpu.md](gpu.md))", reload=RESTART,
    )] = False
    gpu_names: Annotated[Sequence[str], row(
        "how the series of GPUs are named: seed, dcgm, nvidia_smi, or several of them; empty = seed",
        check=grammar.gpu_names, reload=RESTART,
    )] = ()
    gpu_processes: Annotated[int, within(1, 1024,
        "processes told for each GPU, those with most memory", zero="none", reload=RESTART,
    )] = 32
    gpu_exporter_host: Annotated[str, row(
        "the address where `fastgw gpu-exporter`, a program of its own, listens",
        "GPU_EXPORTER_HOST", check=grammar.address, reload=RESTART,
    )] = "127.0.0.1"
    gpu_exporter_port: Annotated[int, within(0, 65535,
        "the port of `fastgw gpu-exporter`; 0 = any that is free", "GPU_EXPORTER_PORT", reload=RESTART,
    )] = 9101
