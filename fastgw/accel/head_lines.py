"""The lines of HTTP/1.1 heads, classified once each: what the Python twins of ``heads`` and ``judges`` know of a line.

It is quick because the same lines come again and again: one that was met before is found by one dictionary look-up. The
invariant: lines that may carry a secret, or that differ in each request, are never remembered; and all memories are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from fastgw.accel.fields import (
    BEARER,
    CODING,
    CONNECTION,
    CONTENT_TYPE,
    EXPECT,
    HOST,
    KEEP,
    LENGTH,
    METHODS,
    PATH,
    QUERY,
    TEXT,
    TOKEN,
    media_flags,
    request_kind,
    response_kind,
    response_status,
    valid_host,
)

_MEMO_ENTRIES: Final = 4096
_MEMO_BYTES: Final = 256

# KEEP, or kind, name and value of a field that is more. Its name in lower case; of `Connection` the value in lower case
# stands there. The value without blanks around it; None = it is no value that such a field can have.
Action = int | tuple[int, bytes, bytes | None]

_REQUEST_LINE: Final = re.compile(
    rb"(%b) ((/[%b]*)(?:\?([%b]*))?) HTTP/1\.([01])" % (b"|".join(METHODS), re.escape(PATH), re.escape(QUERY))
).fullmatch
# Interim responses are rare, and 101 has rules of its own: they take the complete path.
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([2-5][0-9][0-9])(?: ([%b]*))?" % re.escape(TEXT)).fullmatch
# Names whose values are secret, or new in each message: remembering them would leak, or only churn the memo.
_FICKLE: Final = re.compile(
    rb"auth|key|token|secret|cookie|session|passw|signature|credential|content-length|request-id|trace|forwarded|real-ip"
    rb"|correlation|baggage|idempot|timeout|etag|last-modified|remaining|websocket"
).search

FICKLE: Final = 64  # beside a name's kind
NEW: Final = 128
LENGTH_NAME: Final = LENGTH | FICKLE
BEARER_NAME: Final = BEARER | FICKLE

request_lines: dict[bytes, tuple[bytes, bytes, bytes, bytes, int]] = {}
request_fields: dict[bytes, Action] = {}
request_names: dict[bytes, int] = {}
status_lines: dict[bytes, tuple[int, int, bytes]] = {}
response_fields: dict[bytes, Action] = {}
response_names: dict[bytes, int] = {}
# The look-ups, as functions: of a name that was imported CPython takes no short way to a method.
known_request_line: Final = request_lines.get
known_request_field: Final = request_fields.get
known_request_name: Final = request_names.get
known_status_line: Final = status_lines.get
known_response_field: Final = response_fields.get
known_response_name: Final = response_names.get


def _remember(memo: dict[bytes, Action], line: bytes, action: Action) -> Action:
    if len(line) <= _MEMO_BYTES:
        if len(memo) >= _MEMO_ENTRIES:
            memo.clear()
        memo[line] = action
    return action


def _learn_name(names: dict[bytes, int], name: bytes, kind_of: Callable[[bytes], int]) -> int:
    """The kind of a field name that is new, or was so far; -1 = it is no name.

    It is remembered under the spelling that came; with FICKLE, when its lines are not to be, or with NEW: of a name that comes
    only once it is not worth asking.
    """
    known = names.get(name)
    if known is None and (not name or name.translate(None, TOKEN)):
        return -1
    lower = name.lower()
    kind = kind_of(lower)
    if known is None and kind == KEEP:
        kind = NEW
    elif _FICKLE(lower):
        kind |= FICKLE
    if len(name) <= 64:
        if len(names) >= _MEMO_ENTRIES:
            names.clear()
        names[name] = kind
    return kind


def learn(line: bytes, name: bytes, colon: bytes, rest: bytes) -> Action | None:
    """Classify a request's field line that is not remembered, by its parts; ``None`` = it is malformed."""
    kind = known_request_name(name, NEW)
    if kind == NEW:
        kind = _learn_name(request_names, name, request_kind)
    if kind < 0 or not colon or rest.translate(None, TEXT):
        return None
    if kind == NEW:
        return KEEP
    if kind == KEEP:
        return _remember(request_fields, line, KEEP)
    fickle = kind & FICKLE
    kind ^= fickle
    if not kind:
        return KEEP
    lower = name.lower()
    value: bytes | None = rest.strip(b" \t")
    assert value is not None
    if kind == CONNECTION:
        lower = value.lower()
    elif kind == CODING:
        # llhttp takes no tab after a coding: neither do we.
        value = rest.lstrip(b" \t").rstrip(b" ").lower()
    elif kind == EXPECT:
        value = value.lower()
    elif kind == HOST and not valid_host(value):
        value = None
    action = (kind, lower, value)
    return action if fickle else _remember(request_fields, line, action)


def learn_response(line: bytes, name: bytes, colon: bytes, rest: bytes) -> Action | None:
    """Classify a response's field line that is not remembered, by its parts; ``None`` = it is malformed."""
    kind = known_response_name(name, NEW)
    if kind == NEW:
        kind = _learn_name(response_names, name, response_kind)
    if kind < 0 or not colon or rest.translate(None, TEXT):
        return None
    if kind == NEW:
        return KEEP
    if kind == KEEP:
        return _remember(response_fields, line, KEEP)
    fickle = kind & FICKLE
    kind ^= fickle
    if not kind:
        return KEEP
    value = rest.strip(b" \t")
    lower = name.lower()
    if kind == CONNECTION:
        lower = value.lower()
    elif kind == CONTENT_TYPE:
        sse, json = media_flags(value)
        value = b"sse" if sse else b"json" if json else b""
    elif kind == CODING:
        value = rest.lstrip(b" \t").rstrip(b" ").lower()
    action = (kind, lower, value)
    return action if fickle else _remember(response_fields, line, action)


def learn_request_line(line: bytes) -> tuple[bytes, bytes, bytes, bytes, int] | None:
    """Method, target, path, query and minor version; ``None`` = it is for the complete path."""
    match = _REQUEST_LINE(line)
    if match is None:
        return None
    method, target, path, query, minor = match.groups()
    first = (method, target, path, query or b"", int(minor))
    # A query may carry a key: only plain paths are remembered.
    if query is None and len(line) <= _MEMO_BYTES:
        if len(request_lines) >= _MEMO_ENTRIES:
            request_lines.clear()
        request_lines[line] = first
    return first


def learn_status_line(line: bytes) -> tuple[int, int, bytes] | None:
    """Status, minor version and what is sent on of both; ``None`` = it is for the complete path."""
    match = _STATUS_LINE(line)
    if match is None:
        return None
    status = int(match[2])
    first = (status, int(match[1]), response_status(status, match[3] or b""))
    if len(line) <= _MEMO_BYTES:
        if len(status_lines) >= _MEMO_ENTRIES:
            status_lines.clear()
        status_lines[line] = first
    return first
