"""The same counts under OpenTelemetry's names for generative AI, in the form that Prometheus has of them.

In a file of its own since these names still move (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics, in
development): attributes become labels with underscores, seconds and ``_total`` go into the name. Owns: which endpoint is which
operation. Must never: count anything; all is read off the cells, whose bounds have those of the conventions among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from fastgw.accel.histograms import Histogram
from fastgw.observe.exposition import HISTOGRAM, Buckets, Family, buckets, labels, part
from fastgw.observe.tallies import TOKENS, Cell

PROVIDER: Final = "fastgw"
OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/api/chat": "chat",
    "/v1/completions": "text_completion",
    "/api/generate": "text_completion",
    "/generate": "text_completion",
    "/generate_stream": "text_completion",
    "/v1/embeddings": "embeddings",
}
DURATION: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


def families(cells: Sequence[Cell]) -> Iterator[Family]:
    """The metrics of those ``cells`` that are operations, endpoints of one operation together."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        operation = OPERATIONS.get(cell.endpoint)
        if operation is not None:
            found.setdefault((operation, cell.model), []).append(cell)
    where = {
        key: labels(("gen_ai_operation_name", key[0]), ("gen_ai_provider_name", PROVIDER), ("gen_ai_request_model", key[1]))
        for key in found
    }
    yield Family(
        "gen_ai_server_request_duration_seconds", "Time to the last byte; error_type: how it failed, where it did.", HISTOGRAM,
        (
            (f'{where[key]},error_type="{error}"' if error else where[key], took)
            for key, same in found.items()
            for error, took in _durations(same)
        ),
    )  # fmt: skip
    yield Family(
        "gen_ai_server_time_to_first_token_seconds", "Time to the first token of a stream.", HISTOGRAM,
        ((where[key], _sum([one.first_token for one in same], FIRST_TOKEN)) for key, same in found.items()),
    )  # fmt: skip
    yield Family(
        "gen_ai_server_time_per_output_token_seconds", "Time for each token after the first of a stream.", HISTOGRAM,
        ((where[key], _sum([one.per_token for one in same], PER_TOKEN)) for key, same in found.items()),
    )  # fmt: skip
    yield Family(
        "gen_ai_client_token_usage", "Tokens of a request: of its prompt, and of its answer.", HISTOGRAM,
        (
            (f'{where[key]},gen_ai_token_type="{word}"', _sum([getattr(one, name) for one in same], TOKENS.values))
            for key, same in found.items()
            for word, name in (("input", "prompt"), ("output", "completion"))
        ),
    )  # fmt: skip


def _durations(cells: Sequence[Cell]) -> Iterator[tuple[str, Buckets]]:
    """Those that went well ("", as the attribute has no value then), and those that failed, by how."""
    failed: dict[str, list[Histogram]] = {}
    for cell in cells:
        for error, one in cell.failed.items():
            failed.setdefault(error, []).append(one)
    every = _sum([cell.duration for cell in cells], DURATION)
    parts = {error: _sum(same, DURATION) for error, same in failed.items()}
    # (Their sum is added up by itself: a difference of two sums may fall, and a counter must not.)
    well = [all_ - sum(some) for all_, *some in zip(every.counts, *(one.counts for one in parts.values()), strict=True)]
    if any(well) or not parts:
        yield "", Buckets(every.bounds, well, sum(cell.well_s for cell in cells))
    yield from parts.items()


def _sum(histograms: Sequence[Histogram], bounds: Sequence[float]) -> Buckets:
    parts = [part(buckets(one), bounds) for one in histograms]
    if len(parts) == 1:
        return parts[0]
    counts = [sum(column) for column in zip(*(one.counts for one in parts), strict=True)]
    return Buckets(bounds, counts, sum(one.total for one in parts))
