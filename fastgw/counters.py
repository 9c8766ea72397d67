"""What a gateway counts: each counter is written once, here, as one annotated field.

Owns: the counters' names, and the metric that each is shown as. ``stats.Stats`` has one integer for each, to which the hot
path adds; its compiled twin lists the names once more, for C, and a test holds the lists together. Must never: make a label
of anything that a client sends. Names as https://prometheus.io/docs/practices/naming has them.
"""

# (No annotations from the future here: rows stand in them, and are read when the module is loaded.)
# fmt: off

from typing import Annotated, Final

import msgspec


class Counter(msgspec.Struct, frozen=True):
    """How a counter is shown: the metric's name and help, and a label where several counters share one metric.

    What ends in ``_open`` is a gauge: it goes down again, to 0 when a gateway has stopped.
    """

    metric: str
    help: str
    label: str = ""
    value: str = ""


def _limited(value: str) -> Counter:
    return Counter("gateway_rate_limited_total", "Requests refused by a limit.", "limit", value)


def _budget(value: str) -> Counter:
    return Counter("gateway_budget_exceeded_total", "Requests refused, or streams cut, by a budget.", "action", value)


def _crossed(value: str) -> Counter:
    return Counter("gateway_budgets_crossed_total", "Budgets of which so many percent were spent.", "percent", value)


def _quota(value: str) -> Counter:
    return Counter("gateway_quota_exceeded_total", "Requests refused, or streams cut, by a daily quota.", "action", value)


def _reloaded(value: str) -> Counter:
    return Counter("gateway_reloads_total", "How often the configuration was read again.", "result", value)


def _untraced(value: str) -> Counter:
    return Counter("gateway_traces_lost_total", "Sampled requests whose traces nobody has.", "why", value)


def _webhook(value: str) -> Counter:
    return Counter("gateway_webhook_events_total", "Events for the webhook: taken, tries that failed, lost.", "outcome", value)


UNTOLD: Final = Counter("", "")
"""For tests and programs that embed a gateway: no metric."""


class Counters:
    """The counters, in the order in which metrics show them."""

    __slots__ = ()

    exchanges_open: Annotated[int, Counter("gateway_active_requests", "Requests under way, streams until their last byte.")]
    body_bytes_open: Annotated[int, Counter("gateway_body_bytes", "Bytes of request bodies that are held.")]
    connections_open: Annotated[int, Counter("gateway_connections_open", "Client connections open.")]
    upstream_open: Annotated[int, Counter("gateway_upstream_connections_open", "Connections to engines open.")]
    queue_waiting_open: Annotated[int, UNTOLD]  # (gateway_queue_waiting tells it by priority)
    exchanges_total: Annotated[int, UNTOLD]  # (gateway_requests_total tells those that have ended by what they were)
    auth_failures: Annotated[int, Counter("gateway_auth_failures_total", "Requests refused for want of a valid API key.")]
    queue_timeouts: Annotated[int, Counter(
        "gateway_queue_timeouts_total", "Requests that waited in the queue until their time was over.")]
    retries_total: Annotated[int, Counter("gateway_retries_total", "Requests sent again under the retry policy.")]
    retries_refused: Annotated[int, Counter(
        "gateway_retries_refused_total", "Retries that the retry budget did not allow.")]
    replays_total: Annotated[int, Counter(
        "gateway_replays_total", "Requests sent again because a kept connection was dead.")]
    failovers_total: Annotated[int, Counter("gateway_failovers_total", "Requests that went on to another engine.")]
    fallbacks_total: Annotated[int, Counter(
        "gateway_fallbacks_total", "Requests that went on to another model because their own did not answer, or had no room.")]
    mirrored_total: Annotated[int, Counter("gateway_mirrored_total", "Copies of requests sent to mirrors.")]
    mirrors_skipped: Annotated[int, Counter(
        "gateway_mirrors_skipped_total", "Copies that were not sent, because there was no room for them.")]
    mirrors_open: Annotated[int, Counter("gateway_mirrors_open", "Copies of requests under way at mirrors.")]
    quarantined: Annotated[int, Counter(
        "gateway_quarantined_total", "Requests barred because each engine that got them failed.")]
    store_failures: Annotated[int, Counter(
        "gateway_store_write_failures_total", "Batches of usage that failed to be written; they are repeated.")]
    tokens_prompted: Annotated[int, Counter("gateway_tokens_prompted_total", "Prompt tokens charged.")]
    tokens_generated: Annotated[int, Counter("gateway_tokens_generated_total", "Completion tokens charged.")]
    tokens_cached: Annotated[int, Counter(
        "gateway_tokens_cached_total", "Of the prompt tokens charged, those that the engine had at hand.")]
    tokens_reasoning: Annotated[int, Counter(
        "gateway_tokens_reasoning_total", "Of the completion tokens charged, those that nobody sees.")]
    tokens_estimated: Annotated[int, Counter(
        "gateway_tokens_estimated_total", "Of the tokens charged, those that no engine counted.")]
    prefix_tokens: Annotated[int, Counter(
        "gateway_prefix_tokens_total", "Prompt tokens, as estimated, of requests that were routed by their prompts.")]
    prefix_hit_tokens: Annotated[int, Counter(
        "gateway_prefix_hit_tokens_total", "Of those, the ones that their engine was expected to have at hand.")]
    prefix_hits: Annotated[int, Counter(
        "gateway_prefix_hits_total", "Requests that went to an engine for what it has at hand.")]
    prefix_moved: Annotated[int, Counter(
        "gateway_prefix_moved_total", "Requests that did not, since it had too much to do.")]
    merged_requests: Annotated[int, Counter(
        "gateway_merged_requests_total", "Embedding requests that were answered from a shared call.")]
    merged_calls: Annotated[int, Counter("gateway_merged_calls_total", "Calls that carried several embedding requests.")]
    cancelled: Annotated[int, Counter("gateway_client_disconnects_total", "Requests whose client left before their end.")]
    connections_total: Annotated[int, Counter("gateway_connections_total", "Client connections accepted.")]
    connections_refused: Annotated[int, Counter(
        "gateway_connections_refused_total", "Client connections refused over a cap.")]
    handshakes_total: Annotated[int, Counter("gateway_tls_handshakes_total", "TLS handshakes with clients that succeeded.")]
    handshakes_resumed: Annotated[int, Counter(
        "gateway_tls_handshakes_resumed_total", "Of those, the ones that went on from an earlier session.")]
    handshakes_failed: Annotated[int, Counter(
        "gateway_tls_handshakes_failed_total", "TLS handshakes with clients that failed.")]
    dials_total: Annotated[int, Counter("gateway_upstream_connections_total", "Connections opened to engines.")]
    dials_warm: Annotated[int, Counter(
        "gateway_upstream_connections_warmed_total", "Of those, the ones that were opened before anybody needed them.")]
    reused_total: Annotated[int, Counter(
        "gateway_upstream_reused_total", "Requests that went over a connection to their engine that was there.")]
    stale_avoided: Annotated[int, Counter(
        "gateway_upstream_stale_avoided_total", "Connections given up before a request met their end.")]
    bytes_down: Annotated[int, Counter("gateway_sent_bytes_total", "Bytes sent to clients.")]
    shortages: Annotated[int, Counter(
        "gateway_shortages_total", "Sockets that could not be made or watched for want of open files, memory or room.")]
    access_dropped: Annotated[int, Counter(
        "gateway_log_lines_dropped_total", "Log lines dropped because nobody took them.")]
    traces_exported: Annotated[int, Counter("gateway_traces_exported_total", "Requests whose traces the collector has taken.")]
    traces_dropped: Annotated[int, _untraced("queue")]
    traces_failed: Annotated[int, _untraced("collector")]
    limited_ip: Annotated[int, _limited("ip")]
    limited_requests: Annotated[int, _limited("requests")]
    limited_tokens: Annotated[int, _limited("tokens")]
    limited_concurrency: Annotated[int, _limited("concurrency")]
    limited_queue: Annotated[int, _limited("queue")]
    limited_memory: Annotated[int, _limited("memory")]
    limited_tenant: Annotated[int, _limited("tenant")]
    limited_model: Annotated[int, _limited("model")]
    quota_refused: Annotated[int, _quota("refused")]
    quota_cut: Annotated[int, _quota("cut")]
    budget_refused: Annotated[int, _budget("refused")]
    budget_cut: Annotated[int, _budget("cut")]
    budgets_warned: Annotated[int, _crossed("80")]
    budgets_spent: Annotated[int, _crossed("100")]
    webhooks_taken: Annotated[int, _webhook("taken")]
    webhooks_failed: Annotated[int, _webhook("failed")]
    webhooks_lost: Annotated[int, _webhook("lost")]
    reloads_ok: Annotated[int, _reloaded("ok")]
    reloads_failed: Annotated[int, _reloaded("failed")]
    events_total: Annotated[int, UNTOLD]
    refused_total: Annotated[int, UNTOLD]
    stalled: Annotated[int, UNTOLD]
    truncations_total: Annotated[int, UNTOLD]  # (gateway_upstream_truncations_total tells it by engine)


COUNTERS: Final[dict[str, Counter]] = {
    name: declared.__metadata__[0] for name, declared in Counters.__annotations__.items()
}
