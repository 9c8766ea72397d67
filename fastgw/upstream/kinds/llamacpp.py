"""``llamacpp``: llama.cpp's server. Gauges: ``tools/server/README.md`` (the cache's share was dropped in 2025).

It counts in ``timings`` in any case, and asked for a stream's usage would move those into the extra chunk: so it is not asked.
What it says of several answers to one request are the figures of one. Each connection to it, an idle one too, has one of its
threads, and they are few.
"""

from __future__ import annotations

from typing import Final

from fastgw.protocol.gauges import Names
from fastgw.upstream.kinds.kind import Kind
from fastgw.upstream.models import by_props

KIND: Final = Kind(
    "llamacpp",
    owned_by="llamacpp",
    asked=(b"/props", "total_slots"),
    more=(b"/props", by_props),
    gauges=Names(
        b"llamacpp:",
        b"llamacpp:requests_processing",
        b"llamacpp:requests_deferred",
        (b"llamacpp:kv_cache_usage_ratio",),
    ),
    asks_usage=False,
    counts_one_answer=True,
    h2c=False,
    max_idle=4,
)
