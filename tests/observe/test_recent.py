"""What has gone wrong lately: found by its request id, and not pushed out by refusals that anybody can make."""

from __future__ import annotations

from fastgw.config import EngineConfig
from fastgw.observe.recent import MAX_DETAIL_CHARS, MOST_KEPT
from tests.support.conversation import conversation
from tests.support.requests import chat, request

M = EngineConfig(url="http://127.0.0.1:9", name="gpu7", models=["m"], warm_connections=0)
BROKEN = b"HTTP/1.1 500 x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
FINE = b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def test_a_fault_stays_whatever_is_refused_behind_it() -> None:
    with conversation([M]) as talk:
        recent = talk.tallies.recent
        talk.client().says(chat("m", headers=[("x-request-id", "it-broke")]))
        talk.engines[0].last.says(BROKEN)
        talk.client().says(chat("m"))
        talk.engines[0].last.says(FINE)
        for _ in range(MOST_KEPT + 5):
            talk.client().says(request("GET", "/nowhere-" + "x" * MAX_DETAIL_CHARS)).sees(404)
        found = recent.since(0)
        assert len(found) == MOST_KEPT + 1
        assert (recent.faults, recent.refusals, recent.last) == (1, MOST_KEPT + 5, MOST_KEPT + 6)
        first = found[0]
        assert (first.request_id, first.status, first.engine, first.model) == ("it-broke", 500, "gpu7", "m")
        assert {one.status for one in found[1:]} == {404}
        assert [one.number for one in found] == sorted(one.number for one in found)
        assert recent.kinds == {"engine": 1, "unknown_url": MOST_KEPT + 5}
        assert recent.since(recent.last - 1) == found[-1:]
        assert all(len(one.detail) <= MAX_DETAIL_CHARS for one in found)


def test_a_client_that_leaves_has_done_nothing_wrong_and_a_strangers_model_is_not_named() -> None:
    with conversation([M]) as talk:
        client = talk.client().says(chat("m"))
        client.leaves()
        talk.client().says(chat("sk-a-key-in-the-wrong-place")).sees(404)
        (only,) = talk.tallies.recent.since(0)
        assert (only.status, only.model) == (404, "other")
