"""The replay rule, as one pure function (RFC 9110 §9.2.2: a proxy must not repeat a POST that may have been acted on).

Repeated without asking: a dial that failed (nothing was sent), and a *reused* idle connection that died without one
response byte (the engine closed it while the request was on its way; it goes again once, on a fresh connection).
Repeated only by policy (``retry_fresh``; on under ``ordered``, whose users expect it), once per request: a fresh
connection that died, or timed out, after the whole request was sent. Never: anything after a response byte.
"""

from __future__ import annotations

import enum


class Failure(enum.Enum):
    """How an attempt ended without a response."""

    CONNECT = "connect"  # nothing was sent
    CONNECT_TIMEOUT = "connect_timeout"
    LOST = "lost"  # the connection died after bytes of the request were sent
    SILENT = "silent"  # no byte within the first-byte limit


class Verdict(enum.Enum):
    SAME_FRESH = "same_fresh"  # again, on a new connection to the same engine
    NEXT_ENGINE = "next_engine"
    FAIL = "fail"


def judge(
    failure: Failure,
    *,
    reused: bool,
    response_begun: bool,
    body_at_hand: bool,
    replayed: bool,
    retried: bool,
    retry_fresh: bool,
) -> Verdict:
    """What to do after a failed attempt.

    ``body_at_hand``: the whole request can be sent again. ``replayed``: the free replay of a reused connection has
    been used. ``retried``: the one retry by policy has been used.
    """
    if response_begun or not body_at_hand:
        return Verdict.FAIL
    if failure is Failure.CONNECT or failure is Failure.CONNECT_TIMEOUT:
        return Verdict.NEXT_ENGINE
    if failure is Failure.LOST and reused and not replayed:
        return Verdict.SAME_FRESH
    if retry_fresh and not retried:
        return Verdict.NEXT_ENGINE
    return Verdict.FAIL
