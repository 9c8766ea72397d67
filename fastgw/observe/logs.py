"""Logs: events and access records, as JSON lines or, on a terminal, as text.

The data plane's record is encoded at once (a microsecond and a half) and appended to a buffer. One thread writes, in
batches, so that a slow disk or a stopped reader of the pipe never holds a request; what does not fit the bounded buffer
is dropped and counted. Of what costs its sender nothing (refusals, health, OPTIONS), and of each event, so many lines are
written in a second; the rest is counted, and told in one. Keys and prompts are never given to this module.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from datetime import UTC, datetime
from math import inf
from queue import SimpleQueue
from time import time
from typing import Any, Final

import msgspec

from fastgw.accel.lines import access_line, append, microseconds
from fastgw.config.names import LogFormat, LogLevel
from fastgw.errors import code_of
from fastgw.exchange.endpoints import LOCAL
from fastgw.exchange.record import AccessLog, AccessRecord, record_of, shown_model, shown_path, streamed, traced
from fastgw.exchange.state import ExchangeState, model_of
from fastgw.net.clock import monotonic
from fastgw.observe.flood import Flood
from fastgw.observe.log_file import turn_of
from fastgw.stats import Stats

FLUSH_S: Final = 0.2
FLUSH_BYTES: Final = 131_072  # handed over at once: the buffer stays in the cache
MAX_BATCHES: Final = 32  # waiting for the writer
MAX_PENDING_BYTES: Final = 1 << 20  # kept beyond that, when the writer is stuck; then lines are dropped and counted
MAX_ESCAPED: Final = 4096
MAX_TEXT: Final = 512  # characters of any one text from outside

# (Nothing is logged as critical: as a threshold it is silence.)
LEVELS: Final[dict[LogLevel, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_flush_bytes: Final = FLUSH_BYTES  # (the compiled twin has it as a C number)
_ENCODER: Final = msgspec.json.Encoder()


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


def access_fields(record: AccessRecord) -> dict[str, object]:
    """An access record as it is logged; what is unknown or does not apply is left out."""
    fields: dict[str, object] = {
        "timestamp": _stamp(time() - (monotonic() - record.at)),
        "level": "info",
        "message": "request",
        "request_id": record.request_id.decode("latin-1"),
        "client": record.client,
        "method": record.method.decode("latin-1"),
        "path": _clip(record.path.decode("latin-1")),
        "endpoint": record.endpoint,
        "status": record.status,
        "outcome": record.outcome,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "duration_ms": microseconds(record.duration_s) / 1e3,
    }
    if record.protocol:
        fields["protocol"] = record.protocol
    if record.tls:
        fields["tls"] = record.tls
    if record.key_id:
        fields["key_id"] = record.key_id
    if record.model:
        fields["model"] = _clip(record.model)
    if record.served_model:
        fields["served_model"] = _clip(record.served_model)
    if record.engine:
        fields["engine"] = record.engine
    if record.stream:
        fields["stream"] = True
    if record.prompt_tokens >= 0:
        fields["prompt_tokens"] = record.prompt_tokens
    if record.completion_tokens >= 0:
        fields["completion_tokens"] = record.completion_tokens
    if record.cached_tokens >= 0:
        fields["cached_tokens"] = record.cached_tokens
    if record.reasoning_tokens >= 0:
        fields["reasoning_tokens"] = record.reasoning_tokens
    if record.ttft_s >= 0:
        fields["ttft_ms"] = microseconds(record.ttft_s) / 1e3
    if record.estimated:
        fields["estimated"] = True
    if record.queued_s >= 0:
        fields["queued_ms"] = microseconds(record.queued_s) / 1e3
    if record.trace_id:
        fields["trace_id"] = record.trace_id
    if record.error:
        fields["error"] = record.error
    if record.detail:
        fields["detail"] = _clip(record.detail)
    return fields


class AccessJson:
    """Access records as JSON lines, quickly: what a caller's requests have in common is escaped once.

    The lines say what ``access_fields`` says, which is the specification; a test holds the two together.
    """

    __slots__ = ("_common", "_offset", "_second", "_stamp")

    def __init__(self) -> None:
        self._common: dict[tuple[Any, ...], bytes] = {}
        self._second = -1
        self._stamp = b""
        self._offset = 0.0

    def set_clock(self) -> None:
        """Compare the clocks anew (wall time may jump); called once per batch."""
        self._offset = time() - monotonic()

    def __call__(self, record: AccessRecord) -> bytes:
        at = record.at + self._offset
        second = int(at)
        if second != self._second:
            self._second = second
            self._stamp = _stamp(second)[:-5].encode()
        who = (
            record.path, record.model, record.engine, record.key_id, record.client, record.method, record.endpoint,
            record.status, record.stream, record.outcome, record.protocol, record.tls,
        )  # fmt: skip
        common = self._common.get(who)
        if common is None:
            common = self._learn(who)
        # Request ids need no escaping: ours are hexadecimal, and a client's was checked before it was taken over.
        line = access_line(
            self._stamp, int((at - second) * 1e3), record.request_id, common, record.bytes_in, record.bytes_out,
            record.duration_s, record.ttft_s, record.prompt_tokens, record.completion_tokens, record.cached_tokens,
            record.reasoning_tokens, b"", b"",
        )  # fmt: skip
        return self._with_rest(
            line, record.error, record.detail, record.queued_s, record.estimated, record.served_model, record.trace_id
        )

    def of(self, exchange: ExchangeState, outcome: str, now: float) -> bytes:
        """The line of an exchange that ends at ``now``, without a record in between."""
        call = exchange.call
        engine = call.pool.engine.name if call is not None else ""
        stream = streamed(exchange)
        model = model_of(exchange)
        client = exchange.client
        spoken = client.spoken
        known = client.known
        if known is not None and known.head is not exchange.head:
            known = None
        if (
            known is not None
            and known.told_status == exchange.status
            and known.told_model == model
            and known.told_engine == engine
            and known.told_outcome == outcome
            and known.told_streamed == stream
            and known.told_spoken is spoken
        ):
            # A connection's requests have nearly everything in common.
            common = known.told
        else:
            # (By what is shown of them: what is a key in one request may be none in the next, and is not remembered for it.)
            who = (
                shown_path(exchange), shown_model(exchange), engine, exchange.key_id, exchange.client_ip, exchange.head.method,
                exchange.endpoint.label, exchange.status, stream, outcome, spoken.protocol, spoken.tls,
            )  # fmt: skip
            common = self._common.get(who)
            if common is None:
                common = self._learn(who)
            if known is not None:
                known.told = common
                known.told_status = exchange.status
                known.told_model = model
                known.told_engine = engine
                known.told_outcome = outcome
                known.told_streamed = stream
                known.told_spoken = spoken
        at = now + self._offset
        second = int(at)
        if second != self._second:
            self._second = second
            self._stamp = _stamp(second)[:-5].encode()
        started = exchange.started_at
        more = bool(
            exchange.error_kind or exchange.detail or exchange.substitute or exchange.estimated or exchange.queued_s >= 0
        )
        trace = exchange.trace
        trace_id = trace.trace_id if trace is not None and not more else b""
        line = access_line(
            self._stamp, int((at - second) * 1e3), exchange.request_id, common, exchange.bytes_in, exchange.bytes_out,
            now - started, exchange.token_at - started if exchange.token_at else -1.0, exchange.prompt_tokens,
            exchange.completion_tokens, exchange.cached_tokens, exchange.reasoning_tokens, trace_id, b"" if more else b"}\n",
        )  # fmt: skip
        if more:
            return self._with_rest(
                line, code_of(exchange.error_kind), exchange.detail, exchange.queued_s, exchange.estimated, exchange.substitute,
                traced(exchange),
            )  # fmt: skip
        return line

    @staticmethod
    def _with_rest(
        line: bytes, error: str, detail: str, queued: float, estimated: bool, served: str, trace_id: str
    ) -> bytes:
        if served:
            line += b',"served_model":%b' % _ENCODER.encode(_clip(served))
        if estimated:
            line += b',"estimated":true'
        if queued >= 0:
            micro = microseconds(queued)
            line += b',"queued_ms":%d.%03d' % (micro // 1000, micro % 1000)
        if trace_id:
            line += b',"trace_id":"%b"' % trace_id.encode()
        if error:
            line += b',"error":%b' % _ENCODER.encode(error)
        if detail:
            line += b',"detail":%b' % _ENCODER.encode(_clip(detail))
        return line + b"}\n"

    def _learn(self, who: tuple[Any, ...]) -> bytes:
        path, model, engine, key_id, client, method, endpoint, status, stream, outcome, protocol, tls = who
        fields: dict[str, object] = {
            "client": client,
            "method": method.decode("latin-1"),
            "path": _clip(path.decode("latin-1")),
            "endpoint": endpoint,
            "status": status,
            "outcome": outcome,
        }
        if protocol:
            fields["protocol"] = protocol
        if tls:
            fields["tls"] = tls
        if key_id:
            fields["key_id"] = key_id
        if model:
            fields["model"] = _clip(model)
        if engine:
            fields["engine"] = engine
        if stream:
            fields["stream"] = True
        found = _ENCODER.encode(fields)[1:-1]
        if len(self._common) >= MAX_ESCAPED:
            self._common.clear()
        # Long paths and names come from strangers: not worth remembering.
        if len(found) <= MAX_TEXT:
            self._common[who] = found
        return found


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_json(fields: dict[str, object]) -> bytes:
    try:
        return _ENCODER.encode(fields) + b"\n"
    except UnicodeEncodeError:
        # A path of the system's may be any bytes, and what of it is no text stands in it as lone surrogates.
        return _ENCODER.encode({name: _written(value) for name, value in fields.items()}) + b"\n"


def _written(value: object) -> object:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _printable(text: str) -> str:
    """Control characters would let a request write on the operator's terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def as_text(fields: dict[str, object]) -> bytes:
    """One line for people: time, level, message, then the rest as ``name=value``."""
    rest = {name: value for name, value in fields.items() if name not in ("timestamp", "level", "message")}
    stamp = str(fields["timestamp"])[11:23]
    if fields["message"] == "request":
        took = f"{rest.pop('duration_ms')} ms"
        parts = [str(rest.pop("method")), str(rest.pop("path")), str(rest.pop("status")), took]
        rest.pop("endpoint", None)
    else:
        parts = [str(fields["message"])]
    parts += [f"{name}={value}" for name, value in rest.items()]
    return _printable(f"{stamp} {str(fields['level']).upper():<7} {' '.join(parts)}").encode() + b"\n"


class LogWriter(AccessLog):
    """Takes events and access records from the loop, writes them from a thread. Also the loop's ``EventLog``."""

    def __init__(
        self, fd: int, *, level: LogLevel = "info", json: bool = True, stats: Stats | None = None, flood_rate: int = 0
    ) -> None:
        self._fd = fd
        self._flood = Flood(flood_rate)
        self._level = LEVELS[level]
        self._json = json
        self._access = AccessJson()
        self._access.set_clock()
        self._stats = stats or Stats()
        self._pending = bytearray()
        self._lines = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._batches: SimpleQueue[tuple[bytearray, int] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._also: dict[str, object] = {}
        self._turns = -1

    def share(self, worker: int, turns: int) -> None:
        """Several processes write here: events say which ``worker`` has, and who writes has his turn by a lock on the file
        ``turns`` (fcntl(2); more than a pipe takes at once would be mixed with another's)."""
        self._also = {"worker": worker}
        self._turns = turns

    def change(self, *, level: LogLevel, json: bool, flood_rate: int) -> None:
        """Other settings for lines from now on."""
        self._level = LEVELS[level]
        self._json = json
        self._flood.change(flood_rate)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to write; what was logged before is kept until now."""
        self._loop = loop
        self._thread = threading.Thread(target=self._write, name="fastgw-log", daemon=True)
        self._thread.start()
        if self._pending:
            self._timer = loop.call_later(0, self._flush)

    # --- the loop's side
    def ended(self, exchange: ExchangeState, outcome: str, now: float) -> None:
        """One access record (the hot path's only call)."""
        if exchange.call is None:
            kind = self._cheap(exchange)
            if kind and not self._passes(kind):
                return
        # Encoded here, in the loop: a writer thread that encodes holds the interpreter for milliseconds at a time.
        if self._json:
            self._add(self._access.of(exchange, outcome, now))
        else:
            self._add(as_text(access_fields(record_of(exchange, outcome, now))))

    def append(self, record: AccessRecord) -> None:
        """The record of what never became an exchange."""
        if not self._passes(f"{record.status} {record.error}"):
            return
        self._add(self._access(record) if self._json else as_text(access_fields(record)))

    @staticmethod
    def _cheap(exchange: ExchangeState) -> str:
        """The kind of a request that got to no engine and costs whoever sent it nothing: one that was refused, that the client
        itself ended, or that is answered to anybody as often as he asks. Empty for others."""
        if exchange.error_kind:
            return f"{exchange.status} {code_of(exchange.error_kind)}"
        endpoint = exchange.endpoint
        if endpoint.mode is LOCAL and not endpoint.auth:
            return f"{exchange.status} {endpoint.label}"
        return f"{exchange.status} OPTIONS" if exchange.head.method == b"OPTIONS" else ""

    def _passes(self, kind: str) -> bool:
        if self._flood.admits(kind, monotonic()):
            return True
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(FLUSH_S, self._flush)
        return False

    def _tell_left_out(self, now: float) -> None:
        left_out = self._flood.due(now)
        if left_out:
            kinds = ", ".join([f"{kind}: {count}" for kind, count in sorted(left_out.items())])
            line = {
                "timestamp": _stamp(time()), "level": "warning", "message": "lines left out", "count": sum(left_out.values()),
                "kinds": _clip(kinds),
            }  # fmt: skip
            self._keep(as_json(line) if self._json else as_text(line))

    def _add(self, line: bytes) -> None:
        pending = self._pending
        if self._timer is None or len(pending) >= _flush_bytes:
            self._keep(line)
            return
        append(pending, line)
        self._lines += 1

    def _keep(self, line: bytes) -> None:
        pending = self._pending
        size = len(pending)
        if size >= FLUSH_BYTES:
            if size >= MAX_PENDING_BYTES:
                self._stats.access_dropped += 1
                return
            self._hand_over()
            pending = self._pending
        pending += line
        self._lines += 1
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._access.set_clock()
        self._tell_left_out(monotonic())
        stuck = bool(self._pending) and not self._hand_over()
        if (stuck or self._flood.waits()) and self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(FLUSH_S, self._flush)

    def _hand_over(self) -> bool:
        """Give what is pending to the writer; False when it is stuck: then lines are kept while there is room."""
        if self._batches.qsize() >= MAX_BATCHES:
            return False
        self._batches.put((self._pending, self._lines))
        self._pending = bytearray()
        self._lines = 0
        return True

    def _event(self, level: LogLevel, message: str, fields: dict[str, object]) -> None:
        if LEVELS[level] < self._level or not self._passes(message):
            return
        line: dict[str, object] = {"timestamp": _stamp(time()), "level": level, "message": message}
        for name, value in (fields | self._also).items():
            line[name] = value if isinstance(value, int | float) else _clip(str(value))
        self._keep(as_json(line) if self._json else as_text(line))

    def debug(self, message: str, **fields: object) -> None:
        self._event("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        self._event("info", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        self._event("warning", message, fields)

    def error(self, message: str, **fields: object) -> None:
        self._event("error", message, fields)

    def close(self, wait_s: float = 1.0) -> None:
        """Write what is pending, waiting for a stuck reader no longer than ``wait_s``."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tell_left_out(inf)
        thread = self._thread
        if thread is None:
            self._emit(self._pending, self._lines)
        else:
            self._batches.put((self._pending, self._lines))
            self._batches.put(None)
            thread.join(wait_s)
            self._thread = None
        self._pending = bytearray()
        self._lines = 0

    # --- the thread's side
    def _write(self) -> None:
        whole = True
        while (batch := self._batches.get()) is not None:
            whole = self._emit(*batch, whole)

    def _emit(self, batch: bytearray, lines: int, whole: bool = True) -> bool:
        """Whether what has been written ends with a line. Where it did not (``whole``), what comes next begins with its end."""
        data = memoryview(batch if whole else b"\n" + batch)
        try:
            with turn_of(self._turns):
                while data:
                    written = os.write(self._fd, data)
                    whole, data = data[written - 1] == 10, data[written:]  # (the end of a line)
        except OSError:
            # Nobody reads the logs any more, or there is no room for them; traffic goes on.
            self._stats.access_dropped += lines
        return whole


def to_stderr(level: LogLevel, log_format: LogFormat, stats: Stats, flood_rate: int = 0) -> LogWriter:
    """The log of ``fastgw serve``: JSON lines, or text when standard error is a terminal."""
    return LogWriter(
        sys.stderr.fileno(), level=level, json=is_json(log_format), stats=stats, flood_rate=flood_rate
    )


def is_json(log_format: LogFormat) -> bool:
    """Whether lines to standard error are JSON."""
    return log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())


__all__ = ["LogWriter", "access_fields", "as_json", "as_text", "is_json", "to_stderr"]
