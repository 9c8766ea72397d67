"""Engines that say when they want to be asked again: for whom that holds. (For how long, and under every policy:
``test_retries.py``.)"""

from __future__ import annotations

import pytest

from fastgw import RouteConfig
from fastgw.control.admin_explain import Asked
from fastgw.explaining import ExplainDesk
from tests.conversations.deployed_row import deployed, fine
from tests.conversations.engine_row import status
from tests.support.requests import chat

ENGINES = {"a": {"models": ("m",)}, "b": {"models": ("n",)}, "c": {"models": ("k",)}}
ROUTE = RouteConfig(model="m", fallback=["n", "k"], fallback_on=["failure"])


@pytest.mark.parametrize("number", [429, 503])
def test_who_was_told_to_wait_has_his_fallback_at_once_and_others_when_two_were(number: int) -> None:
    """One client may meet a limit of his own: he moves nobody but himself."""
    with deployed(ENGINES, ROUTE, plays={"a": status(number, b"retry-after: 60")}) as row:
        for _ in range(4):
            assert row.ask(chat()).header("x-fallback-model") == "n"
        assert row.asked == {"a": 1, "b": 4, "c": 0}
        row.engines["a"].play = fine
        assert row.ask(chat(), "127.0.0.2").header("x-fallback-model") is None
        row.engines["a"].play = status(number, b"retry-after: 60")
        for at in range(2, 6):
            assert row.ask(chat(), f"127.0.0.{at}").header("x-fallback-model") == "n"
        assert row.asked == {"a": 3, "b": 8, "c": 0}
        row.engines["b"].engine.healthy = row.engines["c"].engine.healthy = False
        assert (row.ask(chat()).status, row.asked["a"]) == (number, 4)


def test_one_told_by_an_engine_whose_own_figures_say_why_is_enough() -> None:
    with deployed(ENGINES, ROUTE, plays={"a": status(503, b"retry-after: 60")}) as row:
        row.engines["a"].engine.tells(8, 40)
        for at in range(1, 4):
            assert row.ask(chat(), f"127.0.0.{at}").header("x-fallback-model") == "n"
        assert row.asked["a"] == 1


def test_an_operator_who_asks_why_is_told_for_whom_it_holds() -> None:
    with deployed({**ENGINES, "a2": {"models": ("m",)}}, plays={"a": status(503, b"retry-after: 60")}, policy="ordered") as row:
        def why(address: str) -> tuple[str, str]:
            said = ExplainDesk(row.talk.core).explain(Asked(model="m", address=address))
            return said["engine"], next(one.why for one in said["candidates"] if one.engine == "a")

        row.ask(chat(), "127.0.0.7")
        assert why("127.0.0.7") == ("a2", "has told this caller to come again later")
        assert why("127.0.0.8")[0] == "a"
        row.ask(chat(), "127.0.0.8")
        engine, said = why("127.0.0.9")
        assert (engine, said[:12]) == ("a2", "rests until ")


def test_what_a_copy_is_told_is_nobodys() -> None:
    route = RouteConfig(model="m", mirror_to="n", mirror_percent=100)
    with deployed(ENGINES, route, plays={"b": status(503, b"retry-after: 60")}) as row:
        for at in range(1, 4):
            assert row.ask(chat(), f"127.0.0.{at}").status == 200
        assert row.asked["b"] == 3
        engine = row.engines["b"].engine
        assert (engine.words, engine.rests()) == ((), False)
