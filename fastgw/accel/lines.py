"""The few lines that are written for every request: ids, lengths, the usual answer's head, the access record.

Nothing here looks at what it is given: callers pass clean bytes.
"""

from __future__ import annotations


def serial_id(prefix: bytes, number: int) -> bytes:
    """``prefix`` and ``number`` in eight hexadecimal digits (more when it needs them)."""
    return b"%b%08x" % (prefix, number)


def chunk(payload: bytes) -> bytes:
    """``payload`` as one chunk (RFC 9112 §7.1); nothing for nothing, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def request_start(line: bytes, block: bytes, trace: bytes, fields: bytes, request_id: bytes, length: int) -> bytes:
    """A request's head: its first line, the engine's own fields, those of its ``trace``, the other fields up to the value of
    ``x-request-id``, that value, and the ``length`` of a body to come."""
    return b"%b%b%b%b%b\r\ncontent-length: %d\r\n\r\n" % (line, block, trace, fields, request_id, length)


def plain_answer(status_line: bytes, forward: bytes, request_id: bytes, extra: bytes, body: bytes) -> bytes:
    """The usual answer: the engine's status and fields, the body's length, our id, ``extra`` whole lines, and the body."""
    return b"%b%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
        status_line, forward, len(body), request_id, extra, body,
    )  # fmt: skip


def limit_lines(before: bytes, unit: bytes, limit: int, left: int, reset_us: int) -> bytes:
    """The lines ``before``, and what is left of a limit, in the fields that OpenAI's clients read; ``unit`` is ``requests`` or
    ``tokens``.

    ``reset_us`` is the time until all of it is there again, written as ``6m0s``, ``1s`` or ``12ms``, rounded up.
    """
    return b"%bx-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n" % (
        before, unit, limit, unit, left, unit, duration(reset_us),
    )  # fmt: skip


def budget_lines(before: bytes, fixed: bytes, percent: int, left: int) -> bytes:
    """The lines ``before``, those of a budget that never change, and how much of it is ``left``, in millionths.

    ``percent``: the line that was crossed last, which is told as well; 0 = none."""
    warning = b"x-budget-warning: %d\r\n" % percent if percent else b""
    return b"%b%b%bx-budget-remaining: %d.%06d\r\n" % (before, warning, fixed, left // 1_000_000, left % 1_000_000)


def trace_lines(trace_id: bytes, span_id: bytes, sampled: bool, state: bytes) -> bytes:
    """The lines that tell an engine which span is its parent (W3C Trace Context); ``state``: its ``tracestate``, b"" = none."""
    told = b"traceparent: 00-%b-%b-0%d\r\n" % (trace_id, span_id, sampled)
    return b"%btracestate: %b\r\n" % (told, state) if state else told


def append(to: bytearray, line: bytes) -> None:
    """Put ``line`` at the end of what ``to`` holds."""
    to += line


def duration(us: int) -> bytes:
    """A wait as OpenAI's ``x-ratelimit-reset-*`` fields have it: ``0s``, ``12ms``, ``1s``, ``6m0s``, ``1h2m3s``.

    Rounded up, below one second to milliseconds, above to seconds: whoever waits that long has waited long enough. Source:
    "Rate limits in headers" in https://platform.openai.com/docs/guides/rate-limits (``1s``, ``6m0s``) and answers quoted in
    https://community.openai.com/t/1268905 (``12ms``); the notation is that of Go's ``time.Duration``, with which clients
    read it.
    """
    if us <= 0:
        return b"0s"
    if us <= 999_000:
        return b"%dms" % ((us + 999) // 1000)
    seconds = (us + 999_999) // 1_000_000
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, seconds)
    return b"%dm%ds" % (minutes, seconds) if minutes else b"%ds" % seconds


def microseconds(seconds: float) -> int:
    """Rounded as the access records have it: half up."""
    return int(seconds * 1e6 + 0.5)


def access_line(
    stamp: bytes,
    milli: int,
    request_id: bytes,
    common: bytes,
    bytes_in: int,
    bytes_out: int,
    duration_s: float,
    ttft_s: float,
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int,
    reasoning_tokens: int,
    trace_id: bytes,
    end: bytes,
) -> bytes:
    """One access record in JSON, and its ``end``: the closing brace, or nothing where more is to follow.

    ``stamp`` is the time to the second and ``milli`` the thousandths; ``common`` is the members that a caller's requests
    have in common, encoded. ``ttft_s`` and the counts are left out when negative, ``trace_id`` when it is empty.
    """
    micro = microseconds(duration_s)
    line = (
        b'{"timestamp":"%b.%03dZ","level":"info","message":"request","request_id":"%b",%b,"bytes_in":%d,"bytes_out":%d,'
        b'"duration_ms":%d.%03d'
        % (stamp, milli, request_id, common, bytes_in, bytes_out, micro // 1000, micro % 1000)
    )
    if ttft_s >= 0:
        micro = microseconds(ttft_s)
        line += b',"ttft_ms":%d.%03d' % (micro // 1000, micro % 1000)
    if prompt_tokens >= 0:
        line += b',"prompt_tokens":%d' % prompt_tokens
    if completion_tokens >= 0:
        line += b',"completion_tokens":%d' % completion_tokens
    if cached_tokens >= 0:
        line += b',"cached_tokens":%d' % cached_tokens
    if reasoning_tokens >= 0:
        line += b',"reasoning_tokens":%d' % reasoning_tokens
    if trace_id:
        line += b',"trace_id":"%b"' % trace_id
    return line + end
