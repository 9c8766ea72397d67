"""``docs/metrics.md`` names the metrics that there are, and each that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

from fastgw.observe.exposition import HISTOGRAM
from fastgw.observe.metrics import GatewayCollector
from fastgw.observe.money import Budget
from fastgw.observe.tallies import Caller
from tests.observe.test_metrics import Source

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_S2_11_the_page_names_what_there_is() -> None:
    source = Source(genai=True)
    caller = source.tallies.callers["key_1"] = Caller()
    caller.cost = 1
    source.budgets["key_1"] = Budget(2, 1, 1)
    source.energy.idle = 1
    families = [one for one in GatewayCollector(source).families() if one is not None]
    there = {one.name for one in families} | {"fastgw_info"}
    named = set(re.findall(r"`((?:gateway|gen_ai|process|fastgw)_[a-z_]+)`", PAGE))
    labels = {"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"}
    assert named - labels - there == set(), "named, and not there"
    histograms = {one.name for one in families if one.kind == HISTOGRAM}
    asked = {
        "gateway_requests_total", "gateway_active_requests", "gateway_upstream_errors_total", "gateway_auth_failures_total",
        "gateway_rate_limited_total", "gateway_circuit_breaker_state", "gateway_quota_exceeded_total",
        "gateway_tokens_generated_total", "gateway_tokens_prompted_total",
    }  # fmt: skip
    assert (histograms | asked) - named == set(), "there, and not named"
