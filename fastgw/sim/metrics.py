"""The Prometheus page, with the names vLLM uses, so that dashboards and load-aware routers read it unchanged."""

from __future__ import annotations

from typing import Final

from fastgw.sim.config import SimConfig
from fastgw.sim.engine import State

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


def render(config: SimConfig, state: State) -> bytes:
    """The whole page. Gauges are the engine's, under its first model name, as with one vLLM process."""
    name = config.models[0].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    label = f'model_name="{name}"'
    lines: list[str] = []

    def series(metric: str, kind: str, help_text: str, *rows: tuple[str, float]) -> None:
        lines.append(f"# HELP {metric} {help_text}")
        lines.append(f"# TYPE {metric} {kind}")
        lines.extend(f"{metric}{{{labels}}} {float(value)}" for labels, value in rows)

    used = min(1.0, state.kv_tokens_used / config.kv_tokens)
    series("vllm:num_requests_running", "gauge", "Requests in a batch slot.", (label, state.running))
    series("vllm:num_requests_waiting", "gauge", "Requests waiting for a batch slot.", (label, state.waiting))
    series("vllm:kv_cache_usage_perc", "gauge", "KV cache in use; 1 is all of it.", (label, used))
    series("vllm:prompt_tokens_total", "counter", "Prompt tokens processed.", (label, state.prompt_tokens))
    series("vllm:generation_tokens_total", "counter", "Tokens generated.", (label, state.generation_tokens))
    reasons = [(f'{label},finished_reason="{reason}"', count) for reason, count in state.finish_reasons.items()]
    series("vllm:request_success_total", "counter", "Requests finished.", *reasons)
    series("sim:requests_received_total", "counter", "Requests received.", (label, state.received))
    series("sim:requests_served_total", "counter", "Requests answered whole.", (label, state.served))
    series("sim:requests_cancelled_total", "counter", "Requests whose client left first.", (label, state.cancelled))
    series("sim:requests_faulted_total", "counter", "Requests ended by a fault.", (label, state.faulted))
    series("sim:requests_malformed_total", "counter", "Requests refused as malformed.", (label, state.malformed))
    series("sim:connections_open", "gauge", "Connections open now.", (label, state.connections_open))
    series("sim:connections_total", "counter", "Connections accepted.", (label, state.connections_total))
    return ("\n".join(lines) + "\n").encode()
