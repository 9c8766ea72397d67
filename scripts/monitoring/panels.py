"""What the dashboards show: one row for each panel. One dashboard for each who looks: at clients, at engines, at GPUs.

Every expression is run by a test against a Prometheus that has scraped a real gateway, and has to find series there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

OVER: Final = "[$__rate_interval]"
MODEL: Final = 'model=~"$model"'
ENGINE: Final = 'engine=~"$engine"'
GPU: Final = 'gpu=~"$gpu"'
ONE_GPU: Final = "{{gpu}} {{card}}"  # every machine has a GPU 0


class Panel(NamedTuple):
    """``queries``: what a series is called, and its expression. ``unit``: Grafana's. ``stat``: its last value in figures."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    help: str = ""
    stat: bool = False


class Dashboard(NamedTuple):
    """``variables``: the name of each, and the metric and label that it has its values of."""

    uid: str
    title: str
    variables: tuple[tuple[str, str], ...]
    sections: tuple[tuple[str, tuple[Panel, ...]], ...]


def rate(metric: str, where: str = "", by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{f'{{{where}}}' if where else ''}{OVER}))"


def hourly(metric: str, where: str = "", by: str = "") -> str:
    return f"3600 * {rate(metric, where, by)}"


def share(part: str, whole: str, where: str = "", which: str = "") -> str:
    """How much of one counter's growth another's is; ``which`` of its own. A counter with labels is not there until it counts:
    that is none."""
    all_of_it = rate(whole, where)
    return f"({rate(part, ','.join(filter(None, (where, which))))} or 0 * {all_of_it}) / {all_of_it}"


def percentiles(metric: str, where: str = "") -> tuple[tuple[str, str], ...]:
    buckets = rate(f"{metric}_bucket", where, "le")
    return tuple((f"p{share}", f"histogram_quantile(0.{share}, {buckets})") for share in (50, 95, 99))


def of(metric: str, where: str, label: str, labels: str = "") -> tuple[tuple[str, str], ...]:
    """A gauge as it is, a series for each label."""
    return ((labels or f"{{{{{label}}}}}", f"{metric}{{{where}}}"),)


def once(metric: str, where: str = GPU, labels: str = "") -> str:
    """Of each GPU once, whoever tells of it: a gateway may read those of its machine beside the exporter."""
    return f"max by (gpu, uuid{labels and ', ' + labels}) ({metric}{{{where}}})"


def card(expression: str) -> str:
    """With the beginning of its UUID as a label, by which it is told from those of other machines."""
    return f'label_replace({expression}, "card", "$1", "uuid", "(GPU-.{{8}}).*")'


def of_gpu(metric: str, labels: str = "", where: str = GPU) -> tuple[tuple[str, str], ...]:
    """A gauge of each GPU, a series for each of the ``labels``."""
    name = " ".join([ONE_GPU, *(f"{{{{{label}}}}}" for label in labels.split(", ") if label)])
    return ((name, card(once(metric, where, labels))),)


TRAFFIC: Final = Dashboard("fastgw-traffic", "fastgw: traffic", (("model", "gateway_requests_total"),), (
    ("At a glance", (
        Panel("Requests", "reqps", (("all", rate("gateway_requests_total", MODEL)),), stat=True),
        Panel("Answered 5xx", "percentunit", (
            ("share", share("gateway_requests_total", "gateway_requests_total", MODEL, 'status_code=~"5.."')),
        ), "The share of requests that the gateway or an engine could not answer.", stat=True),
        Panel("Under way", "short", (("all", "gateway_active_requests"),), stat=True),
        Panel("Waiting", "short", (("all", "sum(gateway_queue_waiting)"),), "For room at an engine.", stat=True),
    )),
    ("Requests", (
        Panel("By status", "reqps", (("{{status_code}}", rate("gateway_requests_total", MODEL, "status_code")),),
              "499: the client left first."),
        Panel("By endpoint", "reqps", (("{{endpoint}}", rate("gateway_requests_total", MODEL, "endpoint")),)),
        Panel("By model", "reqps", (("{{model}}", rate("gateway_requests_total", MODEL, "model")),)),
        Panel("Not ended well", "reqps", (("{{outcome}}", rate("gateway_requests_unfinished_total", by="outcome")),),
              "By what ended them."),
        Panel("Why", "reqps", (("{{error}}", rate("gateway_errors_total", by="error")),),
              "What was wrong, by the names of docs/errors.md; engine: an engine answered so itself."),
        Panel("Refused", "reqps", (
            ("limit: {{limit}}", rate("gateway_rate_limited_total", by="limit")),
            ("quota: {{action}}", rate("gateway_quota_exceeded_total", by="action")),
            ("budget: {{action}}", rate("gateway_budget_exceeded_total", by="action")),
            ("key", rate("gateway_auth_failures_total")),
        ), "By limits, quotas and budgets, and for want of a key."),
        Panel("By caller", "reqps", (("{{caller}}", rate("gateway_caller_requests_total", by="caller")),),
              "With metrics_by."),
    )),
    ("Time", (
        Panel("To the first token", "s", percentiles("gateway_time_to_first_token_seconds", MODEL),
              "Of streams, from a request's first byte."),
        Panel("Between tokens", "s", percentiles("gateway_inter_token_latency_seconds", MODEL)),
        Panel("Whole requests", "s", percentiles("gateway_request_duration_seconds", MODEL)),
        Panel("In the queue", "s", percentiles("gateway_queue_time_seconds", MODEL), "Of those that waited."),
        Panel("The gateway's own", "s", percentiles("gateway_overhead_seconds", MODEL),
              "From a request's last byte, or its leave from the queue, until it went to an engine."),
        Panel("Waiting by class", "short", (("{{priority}}", "sum by (priority) (gateway_queue_waiting)"),)),
    )),
    ("Tokens", (
        Panel("By type", "short", (("{{type}}", rate("gateway_model_tokens_total", MODEL, "type")),),
              "A second's. cached: of the prompt; reasoning: of the completion; estimated: what no engine counted."),
        Panel("Generated by model", "short", (
            ("{{model}}", rate("gateway_model_tokens_total", MODEL + ',type="completion"', "model")),
        )),
        Panel("By caller", "short", (("{{caller}}", rate("gateway_caller_tokens_total", by="caller")),), "With metrics_by."),
    )),
    ("Money", (
        Panel("Cost by model", "short", (
            ("{{model}} {{currency}}", hourly("gateway_model_cost_total", MODEL, "model, currency")),
        ), "An hour's."),
        Panel("Cost by caller", "short", (
            ("{{caller}} {{currency}}", hourly("gateway_caller_cost_total", by="caller, currency")),
        ), "An hour's, with metrics_by."),
        Panel("Left of budgets", "percentunit", (
            ("{{caller}}", "gateway_caller_budget_remaining / (gateway_caller_budget_limit > 0)"),
        ), "Of callers that have one, with metrics_by."),
    )),
    ("The gateway", (
        Panel("How late the loop is", "s", percentiles("gateway_loop_lag_seconds"), "For what it does four times a second."),
        Panel("Memory", "bytes", (
            ("resident", "process_resident_memory_bytes"), ("bodies", "gateway_body_bytes"), ("queue", "gateway_queue_bytes"),
        )),
        Panel("CPU", "percentunit", (("of one core", "rate(process_cpu_seconds_total" + OVER + ")"),)),
        Panel("Connections", "short", (
            ("clients", "gateway_connections_open"), ("engines", "gateway_upstream_connections_open"),
        )),
        Panel("Turned away or short", "short", (
            ("connections refused", rate("gateway_connections_refused_total")), ("shortages", rate("gateway_shortages_total")),
            ("log lines dropped", rate("gateway_log_lines_dropped_total")),
            ("traces lost: {{why}}", rate("gateway_traces_lost_total", by="why")),
        ), "A second's: connections over a cap, sockets for want of files or memory, lines and traces that nobody took."),
        Panel("Kept", "short", (
            ("store: 1 = written", "gateway_store_up"), ("1 = settings wait for a restart", "gateway_restart_pending"),
        )),
    )),
))  # fmt: skip

ENGINES: Final = Dashboard("fastgw-engines", "fastgw: engines", (("engine", "gateway_engine_inflight"),), (
    ("At a glance", (
        Panel("Well", "short", (("well", f"sum(gateway_engine_healthy{{{ENGINE}}})"),
                                ("of", f"count(gateway_engine_inflight{{{ENGINE}}})")), stat=True),
        Panel("Breakers open", "short", (("open", f"sum(gateway_circuit_breaker_state{{{ENGINE}}} > bool 0)"),), stat=True),
        Panel("Failed", "percentunit", (
            ("share", share("gateway_upstream_errors_total", "gateway_upstream_requests_total", ENGINE)),
        ), stat=True),
        Panel("Load imbalance", "short", (("busiest by mean", "gateway_engine_load_imbalance"),), "1 = all alike.", stat=True),
    )),
    ("State", (
        Panel("Well", "short", of("gateway_engine_healthy", ENGINE, "engine"), "1 = it is, 0 = it is not."),
        Panel("Breaker", "short", of("gateway_circuit_breaker_state", ENGINE, "engine"), "0 closed, 1 open, 2 half-open."),
        Panel("Held back", "short", (
            ("{{engine}} ejected", f"gateway_engine_ejected{{{ENGINE}}}"),
            ("{{engine}} resting", f"gateway_engine_resting{{{ENGINE}}}"),
        ), "It does worse than its like, or has asked for rest."),
    )),
    ("Requests", (
        Panel("By engine", "reqps", (("{{engine}}", rate("gateway_upstream_requests_total", ENGINE, "engine")),)),
        Panel("Failures by engine", "reqps", (("{{engine}}", rate("gateway_upstream_errors_total", ENGINE, "engine")),)),
        Panel("Failures by kind", "reqps", (("{{kind}}", rate("gateway_upstream_failures_total", by="kind")),)),
        Panel("Truncated answers", "reqps", (("{{engine}}", rate("gateway_upstream_truncations_total", ENGINE, "engine")),)),
        Panel("Sent again", "reqps", (
            ("retries", rate("gateway_retries_total")), ("another engine", rate("gateway_failovers_total")),
            ("another model", rate("gateway_fallbacks_total")), ("dead connection", rate("gateway_replays_total")),
        )),
        Panel("Out of the queue", "reqps", (("timed out", rate("gateway_queue_timeouts_total")),)),
    )),
    ("Load", (
        Panel("Under way", "short", (
            ("{{engine}}", f"gateway_engine_inflight{{{ENGINE}}}"), ("{{engine}} may", f"gateway_engine_slots{{{ENGINE}}} > 0"),
        )),
        Panel("In its batch and its queue", "short", (
            ("{{engine}} runs", f"gateway_engine_requests_running{{{ENGINE}}}"),
            ("{{engine}} waits", f"gateway_engine_requests_waiting{{{ENGINE}}}"),
        ), "As it says itself, under scheduler = auto."),
        Panel("KV cache in use", "percentunit", of("gateway_engine_kv_cache_usage_ratio", ENGINE, "engine"),
              "As it says itself, under scheduler = auto."),
        Panel("Prompts at hand", "percentunit", (
            ("expected", share("gateway_prefix_hit_tokens_total", "gateway_prefix_tokens_total")),
        ), "Of requests that are routed by their prompts, the share of tokens that their engine has."),
    )),
    ("Connections", (
        Panel("Idle", "short", of("gateway_engine_idle_connections", ENGINE, "engine")),
        Panel("Made and used again", "reqps", (
            ("made", rate("gateway_upstream_connections_total")), ("used again", rate("gateway_upstream_reused_total")),
            ("given up in time", rate("gateway_upstream_stale_avoided_total")),
        )),
        Panel("Runners", "short", (("dialled in", "gateway_runners"),)),
    )),
))  # fmt: skip

GPUS: Final = Dashboard("fastgw-gpus", "fastgw: GPUs", (("gpu", "gpu_up"),), (
    ("At a glance", (
        Panel("There", "short", (("there", f"sum({once('gpu_up')})"), ("of", f"count({once('gpu_up')})")), stat=True),
        Panel("Driver answers", "short", (("1 = it does", "gpu_exporter_up"),), stat=True),
        Panel("Power", "watt", (("all", f"sum({once('gpu_power_watts')})"),), stat=True),
        Panel("Memory", "percentunit", (
            ("in use", f"sum({once('gpu_memory_used_gb')}) / sum({once('gpu_memory_total_gb')})"),
        ), stat=True),
    )),
    ("Work", (
        Panel("Busy", "percent", of_gpu("gpu_utilization_percent"), "How much of the time a kernel ran."),
        Panel("Memory in use", "gbytes", of_gpu("gpu_memory_used_gb"), "In GiB."),
        Panel("Memory read or written", "percent", of_gpu("gpu_memory_utilization_percent")),
        Panel("PCIe", "Bps", of_gpu("gpu_pcie_bytes_per_second", "direction")),
        Panel("Clock", "hertz", of_gpu("gpu_clock_hertz", where=GPU + ',clock="sm"'), "Of its processors."),
        Panel("Processes", "short", of_gpu("gpu_processes")),
    )),
    ("Heat and power", (
        Panel("Temperature", "celsius", of_gpu("gpu_temperature_celsius")),
        Panel("Power", "watt", (
            (ONE_GPU, card(once("gpu_power_watts"))), (ONE_GPU + " may", card(once("gpu_power_enforced_limit_watts"))),
        )),
        Panel("Slowed down", "short", of_gpu("gpu_throttle_reason", "reason"),
              "1 = its clocks are lower for this reason."),
    )),
    ("Energy", (
        Panel("What for", "watt", (("{{state}}", rate("gateway_energy_joules_total", by="state")),),
              "Of GPUs that a gateway knows the engines of: for requests, idle, or for what came to nothing."),
        Panel("By model", "watt", (("{{model}}", rate("gateway_energy_joules_total", 'state="active"', "model")),)),
        Panel("Of a generated token", "joule", ((
            "{{model}}", rate("gateway_energy_joules_total", 'state="active"', "model") + " / "
            + rate("gateway_model_tokens_total", 'type="completion"', "model"),
        ),)),
        Panel("By caller", "watt", (("{{caller}}", rate("gateway_caller_energy_joules_total", by="caller")),),
              "With metrics_by."),
    )),
    ("Faults", (
        Panel("Answers", "short", of("gpu_up", GPU, "gpu", "{{instance}} {{gpu}} {{uuid}}"),
              "0 = it did, and is lost; on which machine each is. Whoever reads it has a line of its own."),
        Panel("Memory errors", "short", of_gpu("gpu_ecc_errors_total", "error", GPU + ',count="volatile"'),
              "Since the driver was loaded."),
        Panel("Sent again over PCIe", "short", (
            (ONE_GPU, card(f"max by (gpu, uuid) (rate(gpu_pcie_replays_total{{{GPU}}}{OVER}))")),
        )),
        Panel("How old the figures are", "s", (("driver", "gpu_exporter_reading_age_seconds"),)),
    )),
))  # fmt: skip

DASHBOARDS: Final = {"traffic.json": TRAFFIC, "engines.json": ENGINES, "gpus.json": GPUS}
