"""``sglang``: SGLang's server. Gauges: its ``production_metrics.md``."""

from __future__ import annotations

from typing import Final

from fastgw.protocol.gauges import Names
from fastgw.upstream.kinds.kind import Kind

KIND: Final = Kind(
    "sglang",
    owned_by="sglang",
    asked=(b"/get_server_info", "model_path"),
    gauges=Names(b"sglang:", b"sglang:num_running_reqs", b"sglang:num_queue_reqs", (b"sglang:token_usage",)),
    knows_completion_tokens=True,
    rank_header=b"X-data-parallel-rank",
)
