"""OpenTelemetry's names: the operations of the conventions, with their bounds, off the same counts."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from fastgw.config import EngineConfig
from fastgw.observe import genai, tallies
from fastgw.observe.exposition import pieces
from fastgw.observe.tallies import MOST_ERRORS, OTHER_ERROR, Cell
from tests.support.conversation import conversation
from tests.support.requests import chat
from tests.support.scripts import SSE_HEAD, chunk, ok

M = EngineConfig(url="http://127.0.0.1:9", models=["m"], warm_connections=0)
TEXT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
FAULT = b'data: {"error":{"message":"no memory","code":500}}\n\n'


def durations(cells: Iterable[Cell], ending: str = "_count") -> dict[str, float]:
    """How many requests took how long, by ``error_type``, of all operations and models together."""
    told = b"".join(pieces(genai.families(list(cells)))).decode()
    (family,) = [one for one in text_string_to_metric_families(told) if one.name == "gen_ai_server_request_duration_seconds"]
    found: dict[str, float] = {}
    for one in family.samples:
        if one.name.endswith(ending):
            error = one.labels.get("error_type", "")
            found[error] = found.get(error, 0) + one.value
    return found


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


def test_what_failed_is_told_by_how_and_what_went_well_has_no_error() -> None:
    """An ``error.type`` is required where an operation ended in error, and stands on nothing else."""
    with conversation([M], retry_fresh=False, cb_failure_threshold=0) as talk:
        for says, how in (
            ((ok(b'{"choices":[{"message":{"content":"a"}}]}'),), ""),
            ((b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",), ""),
            ((b"HTTP/1.1 418 No\r\ncontent-length: 0\r\n\r\n",), ""),
            ((SSE_HEAD, chunk(TEXT)), "reset"),
            ((SSE_HEAD, chunk(TEXT + FAULT) + b"0\r\n\r\n"), ""),
        ):
            talk.client().says(chat("m", stream=len(says) > 1))
            talk.passes(0.5)
            asked = talk.engines[0].last
            asked.says(*says)
            if how:
                asked.closes(how)
            talk.passes(0.1)
        talk.client().says(chat("strange"))
        left = talk.client().says(chat("m"))
        left.leaves()
        talk.passes(0.1)
        cells = talk.tallies.cells()
        assert durations(cells) == {
            "": 1, "503": 1, "418": 1, "bad_gateway": 1, "engine_error": 1, "model_not_found": 1, "client_closed": 1,
        }  # fmt: skip
        assert 0.5 <= durations(cells, "_sum")[""] < 0.7


def test_the_kinds_of_error_have_an_end() -> None:
    cell = Cell("/v1/chat/completions", "m")
    for number in range(2 * MOST_ERRORS):
        for _ in range(2):
            cell.duration.observe(0.1)
            cell.fail(str(400 + number), 0.1)
    found = durations([cell])
    assert len(found) == MOST_ERRORS + 1
    assert (found["400"], found[OTHER_ERROR], sum(found.values())) == (2, 2 * MOST_ERRORS, 4 * MOST_ERRORS)
