"""The settings of what may fail, and of how long things may take: two sections of the table (``table.py``), beside its file.

Owns: rows, as that.
"""

# (No annotations from the future here: rows stand in them, and are read when the module is loaded.)
# fmt: off

from collections.abc import Sequence
from typing import Annotated

from fastgw.config import grammar
from fastgw.config.row import row, seconds, within
from fastgw.config.tracing import Tracing


class Failures(Tracing, frozen=True, kw_only=True):
    """What engines may do wrong."""

    cb_failure_threshold: Annotated[int, within(1, 1_000_000,
        "failures in a row that open an engine's circuit breaker",
        "CB_FAILURE_THRESHOLD", zero="never opens",
    )] = 5
    cb_recovery_timeout_s: Annotated[float, seconds(
        "time until an open breaker lets one request try",
        "CB_RECOVERY_TIMEOUT",
    )] = 30.0
    max_retries: Annotated[int, within(0, 15,
        "times that a request is sent again where retrying is allowed (retry_fresh, retry_statuses)",
    )] = 1
    retry_statuses: Annotated[Sequence[str], row(
        "answers of an engine after which another engine is asked (429, 500, 502, 503, 504); empty = they are passed on",
        check=grammar.statuses,
    )] = ()
    retry_budget_percent: Annotated[int, within(0, 1000, "retries as a share of the requests of the last 10 s")] = 10
    quarantine_after: Annotated[int, within(1, 100,
        "engine connections that one request may break before it is answered 422 instead of being sent to another engine",
        zero="never",
    )] = 2


class Timeouts(Failures, frozen=True, kw_only=True):
    """How long things may take."""

    head_timeout_s: Annotated[float, seconds("time from the first byte of a request to the end of its head")] = 10.0
    body_timeout_s: Annotated[float, seconds(
        "time within which a request body brings 256 bytes or its end; one that stops, or drips more slowly, is answered 408",
    )] = 30.0
    keepalive_timeout_s: Annotated[float, seconds("idle time after which a client's connection is closed")] = 75.0
    write_timeout_s: Annotated[float, seconds("time a client may take no byte of an answer that waits for it")] = 60.0
    connect_timeout_s: Annotated[float, seconds(
        "time to connect to an engine",
        "CONNECT_TIMEOUT_SECONDS", "MINISGL_GATEWAY_TIMEOUT_MS",
    )] = 5.0
    first_byte_timeout_s: Annotated[float, seconds(
        "time an engine has until the first byte of its answer",
        "MINISGL_GATEWAY_TIMEOUT_MS", zero="no limit",
    )] = 600.0
    between_bytes_timeout_s: Annotated[float, seconds(
        "silence allowed within an engine's answer, and between its head and a stream's first event", zero="no limit",
    )] = 300.0
    sse_heartbeat_s: Annotated[float, seconds(
        "time after which who waits for a stream gets a comment (`: waiting`), and each time that it passes again; the first "
        "brings the answer's head, and an error behind it is an event",
        zero="none",
    )] = 0.0
    request_timeout_s: Annotated[float, seconds(
        "time for a whole exchange, streams included, WebSocket sessions not",
        "REQUEST_TIMEOUT_SECONDS", zero="no limit",
    )] = 0.0
    max_request_timeout_s: Annotated[float, seconds(
        "the most that a client may ask for in x-request-timeout-ms",
        zero="as request_timeout_s, or a day",
    )] = 0.0
    drain_delay_s: Annotated[float, seconds(
        "time after SIGTERM in which requests are taken as before, while /ready says no: whoever sends them here is to notice "
        "(under Kubernetes about 5)",
        zero="none",
    )] = 0.0
    drain_timeout_s: Annotated[float, seconds(
        "time that running exchanges have to end after SIGTERM, behind drain_delay_s; new ones are answered 503",
        zero="none: abort at once",
    )] = 30.0
    upgrade_timeout_s: Annotated[float, seconds(
        "time that exchanges have to end which are under way when another process takes this one's place (SIGUSR2)",
        zero="none: abort at once",
    )] = 3600.0
