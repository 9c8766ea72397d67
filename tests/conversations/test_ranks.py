"""Data-parallel ranks (S3.11): each is an engine of its own to whoever chooses; least load wins."""

from __future__ import annotations

import pytest

from fastgw import Config, ConfigErrors, EngineConfig
from fastgw.config.names import RANKED_KINDS
from fastgw.upstream.kinds.registry import KINDS
from tests.conversations.deployed_row import deployed
from tests.support.requests import chat


def test_S3_11_each_rank_is_asked_by_its_header_and_least_load_wins() -> None:
    with deployed({"dp": {"kind": "vllm", "models": ("m",), "ranks": 3}}, policy="least_loaded", plays={}) as row:
        assert list(row.engines) == ["dp@0", "dp@1", "dp@2"]
        for pool in row.engines.values():
            pool.play = lambda asked: None
        clients = [row.talk.client().says(chat()) for _ in range(6)]
        assert list(row.asked.values()) == [2, 2, 2]
        row.engines["dp@1"].asked[0].closes("reset")
        clients.append(row.talk.client().says(chat()))
        assert row.asked["dp@1"] == 3
        for rank, pool in enumerate(row.engines.values()):
            assert b"X-data-parallel-rank: %d\r\n" % rank in pool.engine.head_block
        for client in clients:
            client.leaves()


def test_a_client_does_not_say_which_rank_it_gets() -> None:
    with deployed({"dp": {"kind": "vllm", "models": ("m",), "ranks": 2}}) as row:
        row.ask(chat(headers=[("X-Data-Parallel-Rank", "1")]))
        for pool in row.engines.values():
            for stream in pool.asked:
                assert stream.field(b"x-data-parallel-rank") is None


def test_which_kinds_have_any() -> None:
    assert {kind.name for kind in KINDS if kind.rank_header} == set(RANKED_KINDS)
    with pytest.raises(ConfigErrors, match="ranks"):
        EngineConfig(url="http://a:1", kind="ollama", ranks=2)


def test_what_a_reload_makes_of_them() -> None:
    config = Config(engines=[EngineConfig(url="http://a:1", ranks=2), EngineConfig(url="http://a:2")])
    assert [one.name for one in config.engines] == ["a:1@0", "a:1@1", "a:2"]
    again = Config(engines=config.engines)
    assert again.engines == config.engines
