"""Two looks at one gateway, ten seconds apart."""

from __future__ import annotations

from fastgw.top.samples import Page
from fastgw.top.view import EngineTold, EventTold, Percentiles, Reading, reading

STARTED = 1_700_000_000.0
AT = STARTED + 93_784.0  # a day, two hours and three minutes
WHERE = 'endpoint="/v1/chat/completions",model="llama"'


def text(turn: int) -> str:
    """``turn`` 0: before, 1: after."""
    return f"""\
# HELP fastgw_info What runs.
fastgw_info{{version="1.2.3",native="yes"}} 1
process_start_time_seconds {STARTED}
process_resident_memory_bytes 123456789
gateway_requests_total{{method="POST",{WHERE},status_code="200"}} {1000 + 1200 * turn}
gateway_requests_total{{method="POST",{WHERE},status_code="502"}} {10 + 5 * turn}
gateway_requests_total{{method="POST",endpoint="/v1/embeddings",model="b\\"\\\\\\n\x1b[2J",status_code="500"}} {2 * turn}
gateway_requests_total{{method="GET",endpoint="unknown",model="",status_code="404"}} {40 * turn}
gateway_time_to_first_token_seconds_bucket{{{WHERE},le="0.1"}} {100 + 60 * turn}
gateway_time_to_first_token_seconds_bucket{{{WHERE},le="0.2"}} {150 + 100 * turn}
gateway_time_to_first_token_seconds_bucket{{{WHERE},le="+Inf"}} {151 + 100 * turn}
gateway_model_tokens_total{{{WHERE},type="completion"}} {5000 + 20000 * turn}
gateway_tokens_generated_total {5000 + 20000 * turn}
gateway_caller_requests_total{{caller="key_1"}} {10 + 900 * turn}
gateway_caller_requests_total{{caller="key_2"}} {10 + 300 * turn}
gateway_caller_requests_total{{caller="key_3"}} 7
gateway_caller_tokens_total{{caller="key_1",type="prompt"}} {50 + 1000 * turn}
gateway_caller_tokens_total{{caller="key_1",type="completion"}} {50 + 1000 * turn}
gateway_caller_tokens_total{{caller="key_2",type="completion"}} {50 + 18000 * turn}
gateway_errors_total{{error="queue_timeout"}} {1 + 50 * turn}
gateway_errors_total{{error="bad_gateway"}} {1 + 20 * turn}
gateway_errors_total{{error="invalid_api_key"}} 70
gateway_rate_limited_total{{limit="requests"}} {30 * turn}
gateway_active_requests 43
gateway_queue_waiting{{priority="high"}} 1
gateway_queue_waiting{{priority="normal"}} 2
gateway_store_up {1 - turn}
gateway_restart_pending {turn}
gateway_engine_healthy{{engine="a"}} 1
gateway_engine_healthy{{engine="b"}} 1
gateway_engine_healthy{{engine="c"}} 0
gateway_engine_inflight{{engine="a"}} 3
gateway_engine_inflight{{engine="b"}} 40
gateway_engine_inflight{{engine="c"}} 0
gateway_engine_inflight{{engine="d"}} 0
gateway_engine_slots{{engine="b"}} 64
gateway_engine_kv_cache_usage_ratio{{engine="b"}} 0.425
gateway_circuit_breaker_state{{engine="a"}} {turn}
gateway_upstream_requests_total{{engine="b"}} {100 + 900 * turn}
gateway_upstream_errors_total{{engine="b"}} 7
gateway_budget_exceeded_total{{action="refused"}} {10 * turn}
gateway_requests_unfinished_total{{outcome="error"}} {7 * turn}
gateway_requests_unfinished_total{{outcome="engine_error"}} {5 * turn}
gateway_requests_unfinished_total{{outcome="truncated"}} {15 * turn}
gpu_exporter_up {1 - turn}
gpu_exporter_info{{state="ok"}} 1
gpu_up{{gpu="0",uuid="GPU-1"}} 1
gpu_up{{gpu="0",uuid="GPU-2"}} 0
gpu_utilization_percent{{gpu="0",uuid="GPU-1"}} 97
gpu_memory_used_gb{{gpu="0",uuid="GPU-1"}} 71.5
gpu_memory_total_gb{{gpu="0",uuid="GPU-1"}} 79.6
gpu_temperature_celsius{{gpu="0",uuid="GPU-1"}} 64
gpu_power_watts{{gpu="0",uuid="GPU-1"}} 411.25
"""


def looked(most: int = 20) -> Reading:
    times = Percentiles(0.12, 0.4567, 12.5)
    engines = [EngineTold(name="b", draining=True, ttft_s=times, itl_s=Percentiles(0.0214, 0.03, 0.0406))]
    events = [EventTold(at=AT, what="breaker_open", engine="a\r", detail="x" * 200)]
    return reading(Page(text(0), 50.0), Page(text(1), 60.0), AT, most, engines, events)
