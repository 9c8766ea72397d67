"""The OpenAPI document says what the listener does: schemathesis makes up calls from it, and holds the answers against it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw import Config, EngineConfig
from fastgw.app import Gateway

ADMIN = "op-5d0c2f-secret"
EXAMPLES = 1  # of each call; with `make peers` more
# What would end the test, or has no end: the rest is called, with bodies and without.
NOT_CALLED = {("/admin/events", "GET"), ("/admin/live", "GET")}


@contextmanager
def gateway(state: Path) -> Iterator[str]:
    """A whole gateway in a thread of its own: the control listener's URL."""
    started, stop = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        config = Config(
            port=0, control_listen="127.0.0.1:0", admin_key=ADMIN, state_dir=str(state), drain_timeout_s=0.0,
            engines=[EngineConfig(url="http://127.0.0.1:9", name="first")], health_interval_s=3600.0, warm_connections=0,
        )  # fmt: skip
        async with Gateway(config) as gw:
            found["url"], found["loop"] = gw.control_url, asyncio.get_running_loop()
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield found["url"]
    finally:
        if "loop" in found:
            found["loop"].call_soon_threadsafe(stop.set)
        thread.join(20)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.once
@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(15, marks=pytest.mark.peers)])
def test_calls_that_are_made_up_from_it_are_answered_as_it_says(tmp_path: Path, examples: int) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

    # (Ten guesses at a key, and whoever guesses waits: test_admin_proof. And ranges stand in messages, not in the document.)
    passed_over = [ignored_auth, positive_data_acceptance]

    auth = {"Authorization": f"Bearer {ADMIN}"}
    with gateway(tmp_path / "state") as url:
        schema = schemathesis.openapi.from_url(f"{url}/admin/openapi.json", headers=auth)
        schema.config.update(base_url=url)
        called = 0
        for result in schema.get_all_operations():
            operation = result.ok()
            if (operation.path, operation.method.upper()) in NOT_CALLED:
                continue

            @given(case=operation.as_strategy())
            @settings(
                max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def answered(case: Any) -> None:
                case.call_and_validate(headers=auth, excluded_checks=passed_over)

            answered()
            called += 1
        assert called > 15

