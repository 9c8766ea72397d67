"""The queue before a model that has parts, over any history: its limit holds for all of them, and nobody waits who could go."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import RouteConfig
from tests.conversations.deployed_row import Deployed, deployed, key_of, tenant_key
from tests.support.requests import chat
from tests.support.scripts import ok

LIMIT = 3
ENGINES: dict[str, dict[str, Any]] = {
    "v1": {"models": ("m",), "version": "v1", "max_concurrent": 1},
    "v2": {"models": ("m",), "version": "v2", "max_concurrent": 2},
    "theirs": {"models": ("m",), "tenant": "acme", "max_concurrent": 1},
    "n": {"models": ("n",), "max_concurrent": 1},
}
ROUTE = RouteConfig(
    model="m", max_concurrent=LIMIT, versions={"v1": 1, "v2": 1}, fallback=["n"], fallback_on=["failure"], aliases=["a"]
)
NAMES = tuple(ENGINES)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("asks"), st.sampled_from(("acme", "other")), st.sampled_from(("m", "a", "n"))),
        st.tuples(st.sampled_from(("answers", "dies", "ill", "well", "drains", "back")), st.sampled_from(NAMES), st.just("")),
    ),
    max_size=30,
)


def open_at(row: Deployed, name: str) -> list[Any]:
    return [stream for stream in row.engines[name].asked if not stream.closed and stream.waiting]


@settings(deadline=None)
@given(steps)
def test_over_any_history(history: list[tuple[str, str, str]]) -> None:
    keys = tenant_key("acme"), tenant_key("other")
    silent: Any = dict.fromkeys(NAMES, lambda asked: None)
    with deployed(ENGINES, ROUTE, plays=silent, keys=keys, queue_timeout_s=1000.0, first_byte_timeout_s=0.0) as row:
        clients = []
        for what, name, model in history:
            if what == "asks":
                clients.append(row.talk.client().says(chat(model, key=key_of(name))))
                continue
            engine = row.engines[name].engine
            if what in ("answers", "dies"):
                for stream in open_at(row, name)[:1]:
                    stream.says(ok()) if what == "answers" else stream.closes("reset")
            elif what in ("ill", "well"):
                engine.healthy = what == "well"
            else:
                engine.draining = what == "drains"
            row.talk.core.room()
            row.talk.passes(0.01)
            assert sum(len(open_at(row, one)) for one in ("v1", "v2", "theirs")) <= LIMIT
            for one in NAMES:
                assert len(open_at(row, one)) <= ENGINES[one]["max_concurrent"]
        for pool in row.engines.values():
            pool.engine.healthy, pool.engine.draining = True, False
        row.talk.core.room()
        for _ in range(len(clients) + 1):
            row.talk.passes(0.01)
            for name in NAMES:
                for stream in open_at(row, name):
                    stream.says(ok())
        assert row.talk.waiting == 0
        assert all(client.sink is None for client in clients)
