"""OpenTelemetry's names: the operations of the conventions, with their bounds, off the same counts."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from fastgw.observe import genai, tallies
from fastgw.observe.exposition import pieces
from fastgw.observe.tallies import Cell


def test_the_bounds_are_among_those_that_are_counted_by() -> None:
    for some, of in (
        (genai.DURATION, tallies.DURATION), (genai.FIRST_TOKEN, tallies.FIRST_TOKEN), (genai.PER_TOKEN, tallies.PER_TOKEN)
    ):
        assert set(some) <= set(of.values)


def test_endpoints_of_one_operation_are_one_series() -> None:
    cells = [
        Cell(endpoint, "m")
        for endpoint in ("/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/models", "/v1/completions")
    ]
    for cell in cells:
        for value in (0.002, 0.03, 700.0):
            cell.duration.observe(value)
        cell.prompt.observe(100)
    told = b"".join(pieces(genai.families(cells))).decode()
    found = {one.name: one for one in text_string_to_metric_families(told)}
    assert found.keys() == {
        "gen_ai_server_request_duration_seconds", "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_server_time_per_output_token_seconds", "gen_ai_client_token_usage",
    }  # fmt: skip
    durations = found["gen_ai_server_request_duration_seconds"].samples
    counts = {one.labels["gen_ai_operation_name"]: one.value for one in durations if one.name.endswith("_count")}
    assert counts == {"chat": 6, "embeddings": 3, "text_completion": 3}
    chat = [one for one in durations if one.labels["gen_ai_operation_name"] == "chat"]
    assert {one.labels["gen_ai_provider_name"] for one in chat} == {"fastgw"}
    by_bound = {one.labels["le"]: one.value for one in chat if "le" in one.labels}
    assert (len(by_bound), by_bound["0.01"], by_bound["0.04"], by_bound["81.92"], by_bound["+Inf"]) == (15, 2, 4, 4, 6)
    usage = [one for one in found["gen_ai_client_token_usage"].samples if one.name.endswith("_sum")]
    assert {(one.labels["gen_ai_operation_name"], one.labels["gen_ai_token_type"], one.value) for one in usage} >= {
        ("chat", "input", 200), ("chat", "output", 0)
    }  # fmt: skip
