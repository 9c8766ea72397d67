"""Every setting of the simulator, in one frozen struct; the command line is generated from it.

Must never read the environment. Names are the flags' names (``ttft_ms`` is ``--ttft-ms``), units in the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

H2_PROFILES: Final = ("plain", "nginx", "nghttpd", "haproxy", "hypercorn", "granian")
"""Whose SETTINGS a connection begins with: ``h2_seen.PROFILES`` has them."""
H2_PREFACES: Final = ("answer", "silent", "400", "close", "reset")
"""What becomes of a client's preface."""


class SimConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one simulated engine is and how it behaves. Zero means "no delay" for times and "no limit" for counts.

    ``h2_max_streams`` and ``h2_window_bytes`` are what its SETTINGS say; -1 is what the profile says.
    """

    host: str = "127.0.0.1"
    port: int = 0
    unix: str = ""

    models: Sequence[str] = ("sim",)
    any_model: bool = False
    api_key: str = ""
    max_model_len: int = 131_072

    seed: int = 0
    output_tokens: int = 64
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    stream_interval: int = 1
    prefill_us: float = 0.0
    prefill_tokens_per_s: float = 0.0
    prefix_cache_tokens: int = 0
    slots: int = 256
    max_waiting: int = 4096
    kv_tokens: int = 262_144
    metrics_kind: str = "vllm"
    plays: str = ""
    embedding_size: int = 16

    h2: bool = False
    h2_profile: str = "plain"
    h2_preface: str = "answer"
    h2_max_streams: int = -1
    h2_window_bytes: int = -1

    keep_alive_s: float = 5.0
    max_requests: int = 0
    close_after_stream: bool = False
    max_body_bytes: int = 64 * 1024 * 1024

    sep: str = "lf"
    done: bool = True
    first_chunk: str = "vllm"
    early_head: bool = False
    ping_s: float = 0.0

    fault: str = ""
    fault_rate: float = 1.0
    refuse_s: float = 0.0

    debug: bool = False
    record: int = 256

    def __post_init__(self) -> None:
        """ValueError, in words, for a value that makes no sense."""
        checks = (
            (bool(self.models) and all(self.models), "models: at least one, none empty"),
            (0 <= self.port <= 65535, "port: 0 to 65535"),
            (self.sep in ("lf", "crlf"), "sep: lf or crlf"),
            (self.first_chunk in ("vllm", "llamacpp", "none"), "first_chunk: vllm, llamacpp or none"),
            (
                self.metrics_kind in ("vllm", "sglang", "tgi", "llamacpp", "none"),
                "metrics_kind: vllm, sglang, tgi, llamacpp or none",
            ),
            (
                self.plays in ("", "vllm", "sglang", "tgi", "llamacpp", "ollama", "lmstudio"),
                "plays: vllm, sglang, tgi, llamacpp, ollama or lmstudio",
            ),
            (self.h2_profile in H2_PROFILES, f"h2_profile: {', '.join(H2_PROFILES)}"),
            (self.h2_preface in H2_PREFACES, f"h2_preface: {', '.join(H2_PREFACES)}"),
            (-1 <= self.h2_max_streams < 1 << 32, "h2_max_streams: 0 to 4294967295, or -1"),
            (-1 <= self.h2_window_bytes < 1 << 31, "h2_window_bytes: 0 to 2147483647, or -1"),
            (0.0 <= self.fault_rate <= 1.0, "fault_rate: 0 to 1"),
            (self.output_tokens >= 1 and self.max_model_len >= 2, "output_tokens, max_model_len: at least 1 and 2"),
            (self.embedding_size >= 1 and self.kv_tokens >= 1, "embedding_size, kv_tokens: at least 1"),
            (
                min(self.ttft_ms, self.itl_ms, self.prefill_us, self.keep_alive_s, self.ping_s, self.refuse_s) >= 0,
                "times: not negative",
            ),
            (
                min(self.slots, self.max_waiting, self.max_requests, self.record, self.max_body_bytes) >= 0,
                "counts: not negative",
            ),
            (self.stream_interval >= 1, "stream_interval: at least 1"),
            (
                min(self.prefill_tokens_per_s, self.prefix_cache_tokens) >= 0,
                "prefill_tokens_per_s, prefix_cache_tokens: not negative",
            ),
        )
        for good, message in checks:
            if not good:
                raise ValueError(message)
