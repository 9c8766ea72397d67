"""Prices and tenants: in TOML, in one line, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastgw.config import Config, ConfigErrors, EngineConfig, RouteConfig, load
from fastgw.config.paying import MAX_PRICES, MAX_TENANTS, PriceConfig, TenantConfig

ENGINE = EngineConfig(url="http://127.0.0.1:9")
FILE = """\
currency = "EUR"
[[engines]]
url = "http://127.0.0.1:9"
[[prices]]
model = "m"
input = "0.6"
output = "2.4"
[[tenants]]
name = "lab"
budget = "250.00"
budget_period = "week"
"""


def test_tables_and_lines_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "fastgw.toml"
    path.write_text(FILE)
    read = load({"config": str(path)}, {}, "/nowhere")
    line = {"FASTGW_PRICES": "m|0.6|2.4", "FASTGW_TENANTS": "lab|250.00|week", "FASTGW_CURRENCY": "EUR"}
    said = load({}, {**line, "VLLM_URL": "http://127.0.0.1:9"}, "/nowhere")
    assert (read.prices, read.tenants, read.currency) == (said.prices, said.tenants, said.currency)
    assert read.prices == (PriceConfig(model="m", input="0.6", output="2.4"),)
    assert read.tenants == (TenantConfig(name="lab", budget="250.00", budget_period="week"),)
    said = load({}, {"FASTGW_TENANTS": "lab|||60|5|6000|100000|8;ops|9", "VLLM_URL": "http://127.0.0.1:9"}, "/nowhere")
    lab = TenantConfig(
        name="lab", requests_per_minute=60, burst=5, tokens_per_minute=6000, daily_tokens=100_000, concurrency=8
    )  # fmt: skip
    assert said.tenants == (lab, TenantConfig(name="ops", budget="9"))


@pytest.mark.parametrize(("text", "says"), [
    ('[[prices]]\nmodel = "m"\n', "this price has no input"),
    ('[[prices]]\nmodel = "m"\ninput = 0.6\n', "input: must be text"),
    ('[[prices]]\nmodel = "m"\ninput = "1e3"\n', "must be a price of a million tokens"),
    ('[[prices]]\nmodel = "m"\ninput = "1"\nouput = "1"\n', "a price has no setting ouput; did you mean output?"),
    ('[[tenants]]\nname = "lab"\nbudget = "-1"\n', "must be an amount"),
    ('[[tenants]]\nname = "lab"\nbudget_period = "year"\n', "must be one of day, week, month"),
    ('[[tenants]]\nname = "lab"\nconcurrency = -1\n', "concurrency: must be a whole number from 0 to 1000000"),
    ('[[routes]]\nmodel = "m"\nkey_daily_tokens = "5"\n', "key_daily_tokens: must be a whole number from 0 to"),
    ('[[routes]]\nmodel = "m"\nmodels = ["n"]\ndaily_tokens = 5\n', "daily_tokens: belongs to the route of each of its models"),
    ('prices = "m"\n', "must be written as [[prices]] tables"),
])  # fmt: skip
def test_a_mistake_has_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "fastgw.toml"
    path.write_text(text)
    with pytest.raises(ConfigErrors) as found:
        load({"config": str(path)}, {"VLLM_URL": "http://127.0.0.1:9"}, "/nowhere")
    assert says in str(found.value)
    assert f"{path}:" in str(found.value)


@pytest.mark.parametrize(("settings", "says"), [
    ({"prices": [PriceConfig(model="m", input="1")] * 2}, "'m' is named twice"),
    ({"tenants": [TenantConfig(name="lab")] * 2}, "'lab' is named twice"),
    ({"prices": [PriceConfig(model=f"m{at}", input="1") for at in range(MAX_PRICES + 1)]}, f"more than {MAX_PRICES}"),
    ({"tenants": [TenantConfig(name=f"t{at}") for at in range(MAX_TENANTS + 1)]}, f"more than {MAX_TENANTS}"),
    ({"currency": "US dollars"}, "a word"),
    ({"key_budget": "1.0000000001"}, "an amount"),
    ({"budget_webhook_url": "ftp://hooks.example/"}, "must be http://"),
    ({"budget_webhook_url": "https://hooks.example/#part"}, "must be http://"),
    ({"budget_webhook_url": "https://hooks.example:65536/"}, "must be http://"),
    ({"budget_webhook_url": "https://hooks.example/" + "a" * 2048}, "must be http://"),
    ({"budget_webhook_secret": "short"}, "16 characters or more"),
])  # fmt: skip
def test_what_cannot_be_together_is_told(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigErrors, match=says):
        Config(engines=[ENGINE], **settings)


@pytest.mark.parametrize(("route", "told"), [
    ({"model": "m", "aliases": ["a", "b"]}, "prices: 'b' is an alias of 'm', and costs what that does: name that"),
    ({"model": "b", "models": ["m", "n"]}, "prices: 'b' stands for several models"),
])  # fmt: skip
def test_what_is_no_model_has_no_price(route: dict[str, Any], told: str) -> None:
    """It would hold for nothing."""
    prices = [PriceConfig(model=name, input="1") for name in ("b", "m")]
    with pytest.raises(ConfigErrors, match=told):
        Config(routes=[RouteConfig(**route)], prices=prices)
    assert Config(routes=[RouteConfig(**route)], prices=prices[1:]).prices
