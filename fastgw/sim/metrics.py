"""The Prometheus page, with the names that an engine uses, so that dashboards and load-aware routers read it unchanged.

Owns: the rows that each kind of engine has for the same state. vLLM's page is the whole one; under the others' names
there is what they tell of their load. The simulator's own rows stand on each.
"""

from __future__ import annotations

from typing import Final

from fastgw.sim.config import SimConfig
from fastgw.sim.engine import State

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

KINDS: Final = ("vllm", "sglang", "tgi", "llamacpp", "none")
"""Whose page it is; ``none`` has no page at all."""

_GAUGES: Final = {
    "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
    "sglang": ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"),
    "tgi": ("tgi_batch_current_size", "tgi_queue_size", ""),
    "llamacpp": ("llamacpp:requests_processing", "llamacpp:requests_deferred", ""),
}
# Of the tokens of prompts that were looked up in the prefix cache, and of those that were there.
_CACHED: Final = {
    "vllm": ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"),
    "sglang": ("", "sglang:cached_tokens_total"),
}
_TOKENS: Final = {
    "vllm": ("vllm:prompt_tokens_total", "vllm:generation_tokens_total"),
    "sglang": ("sglang:prompt_tokens_total", "sglang:generation_tokens_total"),
    "tgi": ("tgi_request_input_length_sum", "tgi_request_generated_tokens_sum"),
    "llamacpp": ("llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total"),
}


def render(config: SimConfig, state: State) -> bytes:
    """The whole page. Gauges are the engine's, under its first model name, as with one vLLM process.

    ``config.metrics_kind`` is one of :data:`KINDS`, and not ``none``. TGI and llama.cpp put no labels on theirs.
    """
    kind = config.metrics_kind
    name = config.models[0].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    label = f'model_name="{name}"'
    own = label if kind in ("vllm", "sglang") else ""
    lines: list[str] = []

    def series(metric: str, kind: str, help_text: str, *rows: tuple[str, float]) -> None:
        lines.append(f"# HELP {metric} {help_text}")
        lines.append(f"# TYPE {metric} {kind}")
        lines.extend(f"{metric}{{{labels}}} {float(value)}" if labels else f"{metric} {value}" for labels, value in rows)

    running, waiting, used = _GAUGES[kind]
    series(running, "gauge", "Requests in a batch slot.", (own, state.running))
    series(waiting, "gauge", "Requests waiting for a batch slot.", (own, state.waiting))
    if used:
        share = min(1.0, state.kv_tokens_used / config.kv_tokens)
        series(used, "gauge", "KV cache in use; 1 is all of it.", (own, share))
    prompt, generated = _TOKENS[kind]
    series(prompt, "counter", "Prompt tokens processed.", (own, state.prompt_tokens))
    series(generated, "counter", "Tokens generated.", (own, state.generation_tokens))
    looked_up, found = _CACHED.get(kind, ("", ""))
    if looked_up:
        series(looked_up, "counter", "Prompt tokens looked up in the prefix cache.", (own, state.read_tokens))
    if found:
        series(found, "counter", "Prompt tokens found in the prefix cache.", (own, state.cached_tokens))
    if kind == "vllm":
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
