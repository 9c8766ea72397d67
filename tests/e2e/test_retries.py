"""Retries by policy (S2), over sockets. Of which answers, where to, how often and how soon: ``tests/conversations``."""

from __future__ import annotations

import pytest

from tests.e2e.engine_row import BACK_PRESSURE, fleet, status
from tests.e2e.engines import ANSWER, fine, pool_engine, posts


class TestStatuses:
    """``retry_statuses``: another engine is asked instead of passing the answer on."""

    @pytest.mark.parametrize("number", [429, 502, 503])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_S2_another_engine_answers_and_the_client_sees_nothing_else(self, number: int, stream: bool) -> None:
        async with fleet(status(number), fine, retry_statuses=BACK_PRESSURE) as it:
            answer = await it.ask(stream=stream, content="the very same")
            assert (answer.status, answer.body) == (200, ANSWER)
            assert it.asked == [1, 1]
            first, second = (posts(engine)[0] for engine in it.engines)
            assert (first.body, first.target) == (second.body, second.target)
            assert b"the very same" in second.body
            assert first.header(b"x-request-id") == second.header(b"x-request-id")
            assert (it.gw.stats.retries_total, it.gw.stats.retries_refused) == (1, 0)
            [record] = it.gw.records
            assert (record["status"], record["engine"]) == (200, pool_engine(it.gw, 1).name)
