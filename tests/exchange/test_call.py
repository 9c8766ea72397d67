"""A call counts once, gives its place back once, and its breaker hears one verdict of it, whatever comes and in which order."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from typing import Final

import pytest

from fastgw.errors import GatewayError
from fastgw.exchange.call import Call
from fastgw.exchange.tally import ERROR
from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN, PROBE
from fastgw.net.clock import monotonic
from fastgw.protocol.start import RequestStart
from tests.exchange.calls import Core
from tests.net.talk import answered, until
from tests.upstream.test_pool import Place, place


class Heard(Call):
    """Remembers that its stream is there."""

    ready = False

    def on_stream(self) -> None:
        self.ready = True


DOES: Final[dict[str, Callable[[Call], None]]] = {
    "succeeded": lambda call: call.succeeded(),
    "failed": lambda call: call.failed(ERROR),
    "released": lambda call: call.released(),
    "leave": lambda call: call.leave(),
    "ends well": lambda call: call.complete(monotonic(), True, False, 0.0),
    "breaks": lambda call: call.complete(monotonic(), False, False, 0.0),
}
VERDICTS: Final = {
    "succeeded": "well", "failed": "ill", "released": "nothing", "ends well": "well", "breaks": "nothing",
}  # fmt: skip
ENDS: Final = ("leave", "ends well", "breaks")


async def opened(core: Core, here: Place, probe: bool = False) -> Heard:
    call = Heard(core, here.pool, probe)
    if not call.open(monotonic(), False):
        await here.take()
        await until(lambda: call.ready)
    call.sent_at = monotonic()
    return call


@pytest.mark.parametrize("probe", [False, True])
async def test_one_place_and_one_verdict(probe: bool) -> None:
    async with place() as here:
        core = Core(here.reactor, here.stats)
        engine = here.pool.engine
        for steps in [*permutations(DOES, 3), *product(ENDS, ENDS)]:
            engine.breaker = breaker = type(engine.breaker)(1, 0.0)
            if probe:
                breaker.failed(monotonic(), 0.0, False)
                assert breaker.admit(monotonic() + 1.0) == PROBE
            opened_before = breaker.opened_total
            call = await opened(core, here, probe)
            stream = call.stream
            assert stream is not None
            assert engine.inflight == 1
            for step in steps:
                DOES[step](call)
            assert engine.inflight == (not set(steps) & set(ENDS)), steps
            assert stream.closed == (engine.inflight == 0), steps
            call.leave()
            assert engine.inflight == 0
            said = next((VERDICTS[step] for step in steps if step in VERDICTS), "nothing")
            assert breaker.opened_total - opened_before == (said == "ill"), steps
            ends_as = {"well": CLOSED, "ill": OPEN, "nothing": HALF_OPEN if probe else CLOSED}[said]
            assert breaker.state == ends_as, steps
            assert not breaker.probing or not any(step in VERDICTS for step in steps), steps


@pytest.mark.parametrize("ends", ["ends well", "breaks", "failed", "leave"])
async def test_an_answer_that_says_that_it_failed_counts_when_it_has_ended(ends: str) -> None:
    """Once: also where it breaks off as well."""
    async with place(max_idle=0) as here:
        call = await opened(Core(here.reactor, here.stats), here)
        call.faulty = True
        assert here.pool.engine.breaker.failures == 0
        DOES[ends](call)
        call.leave()
        call.complete(monotonic(), False, False, 0.0)
        engine = here.pool.engine
        assert (engine.failures_total, engine.breaker.failures, engine.answered_total) == (1, 1, 1)


@pytest.mark.parametrize(("fields", "reusable", "kept"), [
    (b"content-length: 0\r\n", True, True),
    (b"content-length: 0\r\n", False, False),
    (b"content-length: 0\r\nconnection: close\r\n", True, False),
])  # fmt: skip
async def test_a_connection_comes_back_where_the_answer_ended_as_it_should(fields: bytes, reusable: bool, kept: bool) -> None:
    async with place() as here:
        call = await opened(Core(here.reactor, here.stats), here)
        stream = call.stream
        assert stream is not None
        stream.send(RequestStart(b"GET", b"/", b"x-request-id: "), b"", b"id", 0, b"", b"", 0, monotonic() + 5.0)
        call.head = answered(fields)
        call.complete(monotonic(), True, reusable, 0.0)
        assert (len(here.pool.idle), here.pool.engine.inflight) == (kept, 0)


async def test_where_there_is_no_stream_there_is_no_place() -> None:
    async with place(max_connections=1) as here:
        core = Core(here.reactor, here.stats)
        first = await opened(core, here)
        with pytest.raises(GatewayError) as refused:
            Heard(core, here.pool, False).open(monotonic(), False)
        assert (refused.value.kind.name, here.pool.engine.inflight) == ("engine_busy", 1)
        first.leave()
        assert (here.pool.engine.inflight, core.rooms) == (0, 1)


async def test_who_waits_is_told_when_a_breaker_moves_or_a_probe_is_free_again() -> None:
    async with place() as here:
        core = Core(here.reactor, here.stats)
        engine = here.pool.engine
        engine.breaker = breaker = type(engine.breaker)(1, 0.0)
        call = await opened(core, here)
        call.failed(ERROR)
        assert core.moved == [OPEN]
        assert breaker.admit(monotonic() + 1.0) == PROBE
        probe = await opened(core, here, probe=True)
        probe.released()
        assert (breaker.probing, core.rooms) == (False, 1)
        assert breaker.admit(monotonic() + 1.0) == PROBE
        again = await opened(core, here, probe=True)
        again.succeeded()
        assert core.moved == [OPEN, CLOSED]
        for one in (call, probe, again):
            one.leave()


async def test_a_trial_is_none_of_an_opening_that_came_later() -> None:
    """Another caller has closed the breaker meanwhile, and it has opened anew: it waits for its own trial's word."""
    async with place() as here:
        core = Core(here.reactor, here.stats)
        engine = here.pool.engine
        for step in ("succeeded", "failed", "released"):
            engine.breaker = breaker = type(engine.breaker)(1, 0.0)
            breaker.failed(monotonic(), 0.0, False, ("one", ""))
            assert breaker.admit(monotonic() + 1.0) == PROBE
            late = await opened(core, here, True)
            assert breaker.hears("other")
            breaker.failed(monotonic(), 0.0, False)
            assert breaker.admit(monotonic() + 1.0) == PROBE
            trial = await opened(core, here, True)
            DOES[step](late)
            assert (breaker.state, breaker.probing) == (HALF_OPEN, True), step
            trial.succeeded()
            assert breaker.state == CLOSED
            for one in (late, trial):
                one.leave()


async def test_what_was_never_sent_says_nothing_of_its_engine() -> None:
    """A filter has answered in its place: no verdict, and no answer of the engine's."""
    async with place() as here:
        engine = here.pool.engine
        engine.breaker = breaker = type(engine.breaker)(1, 0.0)
        breaker.failed(monotonic(), 0.0, False)
        assert breaker.admit(monotonic() + 1.0) == PROBE
        call = await opened(Core(here.reactor, here.stats), here, True)
        call.sent_at = 0.0
        call.complete(monotonic(), True, False, 0.0)
        assert (breaker.state, engine.inflight, engine.answered_total) == (HALF_OPEN, 0, 0)
