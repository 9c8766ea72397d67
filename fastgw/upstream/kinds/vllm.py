"""``vllm``: vLLM's OpenAI-compatible server. Gauges: its page "Production Metrics" (``gpu_cache_usage_perc`` before 0.10)."""

from __future__ import annotations

from typing import Final

from fastgw.protocol.gauges import Names
from fastgw.upstream.kinds.kind import Kind

KIND: Final = Kind(
    "vllm",
    owned_by="vllm",
    gauges=Names(
        b"vllm:",
        b"vllm:num_requests_running",
        b"vllm:num_requests_waiting",
        (b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc"),
    ),
    knows_completion_tokens=True,
    rank_header=b"X-data-parallel-rank",
    loads_adapters=True,
    h2c=False,
)
