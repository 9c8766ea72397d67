"""fastgw is what clients of HTTP/2 may expect of a server: the cases of h2spec, and floods and abuses end as they must."""

from __future__ import annotations

import asyncio

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.h2cases import hostile, server
from tests.h2cases.case import Case
from tests.h2cases.test_server_cases import against
from tests.support.gateway import running

PATH = b"/v1/chat/completions"  # a GET is answered at once, with 405; a POST when its body has come
CASES = {case.id: case for case in server.cases(PATH)}
HOSTILE = {case.id: case for case in hostile.of_client(PATH)}


async def played(case: Case, strict: bool) -> int:
    """How many requests were served meanwhile."""
    async with Simulator(SimConfig()) as sim, running([sim.url], http2=True) as gw:
        await asyncio.to_thread(against, gw.port, case, strict)
        await gw.idle()
        return int(gw.stats.exchanges_total)


@pytest.mark.parametrize("id", CASES)
async def test_the_cases_of_h2spec(id: str) -> None:
    await played(CASES[id], id != "http2/3.5/2")  # (who does not begin with the preface speaks HTTP/1)


@pytest.mark.parametrize("id", HOSTILE)
async def test_floods_and_abuses(id: str) -> None:
    case = HOSTILE[id]
    served = await played(case, True)
    assert case.most < 0 or served <= case.most
