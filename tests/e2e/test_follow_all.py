"""Each setting that is said to hold after a reload does: a gateway that was told of it while it ran is as one that began so."""

from __future__ import annotations

from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fastgw import Config, EngineConfig, Gateway, RouteConfig
from fastgw.config.paying import PriceConfig, TenantConfig
from fastgw.config.row import RESTART, Setting
from fastgw.config.table import DEFAULTS, TABLE
from tests.support.pki import Certificates

ENGINE = "https://127.0.0.1:9"
BEGIN: dict[str, Any] = {
    "engines": [EngineConfig(url=ENGINE)], "port": 0, "health_interval_s": 60.0, "health_timeout_s": 0.05,
    "warm_connections": 0, "api_keys": ["of-the-start"], "control_listen": "127.0.0.1:0",
    "admin_key": "sk-admin-of-the-start", "scheduler": "auto", "scheduler_interval_s": 60.0, "embedding_merge_s": 0.01,
    "sse_heartbeat_s": 5.0, "runner_auth_token": "sk-runners-of-the-start",
}  # fmt: skip
OTHERS: dict[str, Any] = {
    "engines": [
        EngineConfig(
            url=ENGINE, weight=7, models=["m"], max_concurrent=3, api_key="k", served_name="s", cancel=False, gpus=["0"],
            stream_end="pass",
        ),
    ],
    "vllm_api_key": "sk-engines", "served_model_name": "shown", "api_keys": ["one", "two"], "admin_key": "sk-admin-of-another",
    "engines_file": "/nowhere.json", "discovery_dns": "127.0.0.1:9", "admin_keys": ["ci:read:sk-admin-of-these"],
    "trusted_proxies": ["10.0.0.0/8"], "cors_origins": ["https://a.example"], "allowed_hosts": ["a.example"],
    "passthrough_paths": ["/v1/more"], "explain_keys": ["*"],
    "retry_statuses": ["503"], "scheduler": "off", "embedding_merge_s": 0.0,
    "routes": [
        RouteConfig(
            model="m", max_concurrent=2, fallback=["n"], on_capacity="fallback", timeout_s=3.0, aliases=["a"], mirror_to="n",
            restore_name=True, versions={"v1": 1}, fallback_on=["failure"],
        ),
        RouteConfig(model="class:x", models=["m", "n"]),
    ],
    "runner_auth_token": "sk-runners-of-another", "runner_allowed_networks": ["10.0.0.0/8"],
    "policy_header": "x-policy", "policy_choices": ["ordered"], "session_sources": ["header:x-s"], "hash_sources": ["key"],
    "needs_header": "x-needs",
    "prices": [PriceConfig(model="m", input="1")], "currency": "EUR", "key_budget": "5",
    "tenants": [TenantConfig(name="lab", budget="9", requests_per_minute=60, daily_tokens=9)],
    "budget_webhook_url": "http://127.0.0.1:9/budgets", "budget_webhook_secret": "sk-signs-these-events",
    "embedding_merge_inputs": 9, "memory_budget_bytes": 1 << 30,
}  # fmt: skip
ELSEWHERE = ("api_keys_file", "admin_keys_file", "log_level")
LIVE = [row for row in TABLE if row.reload and row.reload != RESTART and row.name not in ELSEWHERE]


@pytest.fixture(scope="module", autouse=True)
def files(certs: Certificates, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What settings name: certificates, so that those of TLS hold too."""
    folder = tmp_path_factory.mktemp("follow")
    cert, both, ca = folder / "cert.pem", folder / "both.pem", folder / "ca.pem"
    cert.write_text(Path(certs.client.cert).read_text())
    both.write_text(Path(certs.client.cert).read_text() + Path(certs.client.key).read_text())
    ca.write_text(Path(certs.ca).read_text())
    shown = {"tls_cert_file": [certs.gateway.cert], "tls_key_file": [certs.gateway.key], "tls_client_ca_file": certs.ca}
    BEGIN.update(shown, engine_ca_file=certs.ca, engine_cert_file=str(both), engine_key_file=certs.client.key)
    OTHERS.update(engine_ca_file=str(ca), engine_cert_file=str(cert), engine_key_file=str(both))
    OTHERS["tls_client_keys"] = [certs.authority.fingerprint(certs.client)]


def another(row: Setting) -> Any:
    """A value that is not the one at the start."""
    if row.name in OTHERS:
        return OTHERS[row.name]
    had = BEGIN.get(row.name, DEFAULTS[row.name])
    if row.kind in ("int", "auto_int"):
        return int(min(max((had or 0) + 1, row.minimum or 0), row.maximum or 0))
    if row.kind == "float":
        return float(min(max((had or 1.0) * 0.9, row.minimum or 0), row.maximum or 0))
    if row.kind in ("bool", "auto_bool"):
        return not had
    return next(choice for choice in row.choices if choice and choice != had)


LEFT_OUT = {
    # What differs between any two gateways, or with time, or is of requests.
    "reactor", "log", "stats", "_reactor", "_log", "_stats", "_loop", "_poller", "_shortage", "locals", "heads",
    "connections", "_instance", "hops", "_serial", "version", "_doors", "_timer", "_task", "at", "today", "_known", "probed_at",
    "_core", "_state", "core", "until", "_round", "failures", "healthy", "_paused", "_turn_of", "_created", "_listed",
    "_taken", "tasks", "_tasks", "_conns", "_flushed_at", "_forgot_at", "loading", "_fleet", "health", "_health", "filters",
    "_latest", "_retired", "at_us", "pools", "everyone", "_open", "_by_model", "table", "_idle_files", "_config", "config",
    "resolved_at", "touched", "_warming", "_runner", "url", "_throttle", "_connections", "_metrics", "_keys", "_engines",
    "_reload", "_changed", "_room", "_published", "addresses", "_other_keys", "_watched", "group", "_configs", "_added",
    "on_closed", "_exempt", "_routes", "routes", "events", "_accepted", "_refusal", "_bucket", "_starts_until",
    "_due", "lag", "_spawn", "_coming", "_age", "loaded_at",
    "unread", "_unread", "beside",
}  # fmt: skip


@cache
def members(kind: type) -> tuple[set[str], set[str]]:
    """What each object of a class has: its slots, and what else is no method."""
    slots = {name for one in kind.__mro__ for name in getattr(one, "__slots__", ())}
    others = {name for name in dir(kind) if not name.startswith("__") and not callable(getattr(kind, name, None))}
    return slots - LEFT_OUT, others - slots - LEFT_OUT


def picture(value: Any, depth: int = 0) -> Any:
    """What of an object can be seen and was made of settings, as text; calls by the objects that they are bound to."""
    if isinstance(value, (str, bytes, int, float, bool, Enum, type(None))):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        found = [picture(one, depth + 1) for one in value]
        return found if isinstance(value, (list, tuple)) else sorted(map(repr, found))
    if isinstance(value, dict):
        return {repr(picture(key, depth + 1)): picture(one, depth + 1) for key, one in value.items()}
    owner = getattr(value, "__self__", None)
    if owner is not None and callable(value):
        return (value.__name__, picture(owner, depth + 1))
    if not type(value).__module__.startswith("fastgw.") or depth > 7:
        return type(value).__name__
    own, others = members(type(value))
    own = own | (getattr(value, "__dict__", {}).keys() - LEFT_OUT)
    shown = {name: getattr(value, name, None) for name in own}
    shown |= {name: one for name in others if not callable(one := getattr(value, name, None))}
    return (type(value).__name__, {name: picture(one, depth + 1) for name, one in shown.items()})


def whole(gateway: Gateway) -> dict[str, Any]:
    core, door = gateway.core, gateway._door
    assert core is not None
    assert door is not None
    config = gateway.config
    assert gateway._care is not None
    health = gateway._care.health._config
    return {
        "core": picture(core),
        "filters": [picture(one) for one in core.filters],
        "engines": [picture(pool) for pool in gateway.fleet.pools],
        "models": picture(core.table.models),
        "accounts": picture(core.accounts),
        "keys": [one.id for one in core.accounts.all()],
        "keeping": picture(gateway._keeping),
        "merger": picture(core.merger),
        "scheduler": picture(gateway._care.scheduler),
        "limits": picture(door._limits),
        "listener": picture(door.listener),
        "chosen": (door._chosen, door._most_per_ip),
        "control": picture(gateway._control),
        "endpoints": core.endpoints.find(b"/v1/more") is not None,
        "read when needed": {row.name: repr(getattr(config, row.name)) for row in TABLE},
        "of health": {row.name: repr(getattr(health, row.name)) for row in TABLE},
        "of the core": {row.name: repr(getattr(core.config, row.name)) for row in TABLE},
    }


async def begun(config: Config) -> dict[str, Any]:
    async with Gateway(config) as gateway:
        return whole(gateway)


BEFORE: dict[str, Any] = {}  # of any gateway that has begun with these


@pytest.mark.parametrize("row", LIVE, ids=lambda row: row.name)
async def test_it_is_as_if_it_had_begun_with_it(row: Setting) -> None:
    new = Config(**{**BEGIN, row.name: another(row)})
    wanted = await begun(new)
    before = BEFORE or await begun(Config(**BEGIN))
    BEFORE.update(before)
    async with Gateway(Config(**BEGIN)) as gateway:
        change = await gateway.follow(new)
        assert row.name in change.changed
        found = whole(gateway)
        assert found == wanted
        assert found != before
        # And back.
        await gateway.follow(Config(**BEGIN))
        assert whole(gateway) == before


def test_the_file_of_keys_is_read(tmp_path: Path) -> None:
    """(What it brings are keys: `config/test_changes.py`.)"""
    assert {row.name for row in TABLE} - {row.name for row in LIVE} >= {"api_keys_file", "log_level"}
