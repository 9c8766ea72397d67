"""An engine's answer that is an error: whether it goes down, or an engine is asked again in its place, this one or another.

Owns: what is read off such an answer. Nothing of it has gone down; what may be repeated, and how often, is the plan's.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.exchange.state import NO_LIMIT, ExchangeState

MAX_RETRY_AFTER_S: Final = 60.0  # an engine that asks for more is asked again all the same
ERROR_BYTES: Final = 8192

_RETRY_AFTER: Final = re.compile(rb"(?im)^retry-after:[ \t]*([0-9]{1,6})[ \t]*\r$").search
# OpenAI's code, which vLLM and SGLang have too in one version or another, and what vLLM, SGLang, llama.cpp, TGI and
# Anthropic's API say in words.
_TOO_LONG: Final = re.compile(
    rb"context_length_exceeded|maximum context length|exceed_context_size_error|longer than the model's context length"
    rb"|exceeds? the available context size|`inputs` (?:tokens \+|must have less than)|prompt is too long"
).search


def asks_again(exchange: ExchangeState, head: ResponseHead, rest: bytes) -> bool:
    """Whether an engine is asked again instead of passing on the answer with this ``head``, of which ``rest`` has come too."""
    status = head.status
    call = exchange.call
    assert call is not None
    if status < 429:
        if status != 400 and status != 413 and status != 422:
            return False
        if status != 413 and exchange.bound != NO_LIMIT and exchange.asks_for_less():
            return True
        return bool(exchange.gateway.on_lost) and too_long(rest) and exchange.asks_another(status, -1.0)
    if (status == 429 or status >= 500) and exchange.asks_another(status, asks_to_wait(head)):
        return True
    if status == 429 or status == 503:
        # "Not now": back-pressure, not a fault.
        call.released()
    elif status >= 500:
        call.faulty = True
    return False


def asks_to_wait(head: ResponseHead) -> float:
    """How long the engine asks to be left alone, -1.0 = it does not."""
    found = _RETRY_AFTER(head.forward)
    return min(float(found[1]), MAX_RETRY_AFTER_S) if found is not None else -1.0


def too_long(body: bytes) -> bool:
    """Whether an error, as far as it has come, says that the prompt is too long for its engine."""
    return _TOO_LONG(body[:ERROR_BYTES]) is not None
