"""The page: kept for a while, made once for all who ask, in both formats, packed where that is taken."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from fastgw.observe.exposition import GAUGE, OPENMETRICS, TEXT, Family, labels
from fastgw.observe.pages import MetricsPages
from fastgw.tasks import Tasks
from tests.support.gateway import Events

TAKES = "application/openmetrics-text"


class Hand:
    """What is made, how often, and by which clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.made = 0
        self.hurried = 0
        self.families = 1
        self.fails = False

    def made_of(self) -> Iterator[Family | None]:
        self.made += 1
        if self.fails:
            raise ValueError("not today")
        yield Family("a", "A.", GAUGE, [("", self.made)])
        for number in range(self.families):
            yield Family("b", "B.", GAUGE, [(labels(("n", str(number))), 1)])
            yield None

    def hurry(self) -> None:
        self.hurried += 1


@asynccontextmanager
async def spawning() -> AsyncIterator[Tasks]:
    tasks = Tasks(Events())
    yield tasks
    await tasks.close()


def pages(hand: Hand, tasks: Tasks, keep_s: float = 1.0) -> MetricsPages:
    return MetricsPages(hand.made_of, tasks.spawn, keep_s=lambda: keep_s, hurry=hand.hurry, clock=lambda: hand.now)


async def test_it_is_made_once_for_all_who_ask_and_kept() -> None:
    async with spawning() as tasks:
        hand = Hand()
        told = pages(hand, tasks)
        found = await asyncio.gather(*(told.page("", "gzip" if number % 2 else "") for number in range(50)))
        assert hand.made == 1
        assert {one.media_type for one in found} == {TEXT}
        assert found[0].body == gzip.decompress(found[1].body)
        assert (found[0].fields.get("Content-Encoding"), found[1].fields["Content-Encoding"]) == (None, "gzip")
        assert {one.fields["Vary"] for one in found} == {"Accept, Accept-Encoding"}
        hand.now += 0.99
        assert (await told.page("", "")).body == found[0].body
        hand.now += 0.01
        assert b"a 2\n" in (await told.page("", "")).body
        other = await told.page(TAKES, "")
        assert (other.media_type, hand.made, other.body[-6:]) == (OPENMETRICS, 3, b"# EOF\n")
        assert b"a 4\n" in (await pages(hand, tasks, 0.0).page("", "")).body


async def test_who_leaves_takes_it_from_nobody_and_a_failure_is_over() -> None:
    async with spawning() as tasks:
        hand = Hand()
        hand.families = 50
        told = pages(hand, tasks)
        leaves = asyncio.ensure_future(told.page("", ""))
        stays = asyncio.ensure_future(told.page("", ""))
        await asyncio.sleep(0)
        leaves.cancel()
        assert b'b{n="49"} 1\n' in (await stays).body
        assert (hand.made, hand.hurried > 50) == (1, True), "and others had their turns meanwhile"
        hand.fails, hand.now = True, 200.0
        with pytest.raises(ValueError, match="not today"):
            await told.page("", "")
        hand.fails = False
        assert (await told.page("", "")).body


async def test_what_others_have_stands_behind_it() -> None:
    async with spawning() as tasks:
        class More:
            closed = 0

            async def page(self) -> bytes:
                return b"# HELP gpu_x_total X.\n# TYPE gpu_x_total counter\ngpu_x_total 1\n"

            async def close(self) -> None:
                self.closed += 1

        told = pages(Hand(), tasks)
        told.more = more = More()
        assert (await told.page("", "")).body.endswith(b"# TYPE gpu_x_total counter\ngpu_x_total 1\n")
        assert (await told.page(TAKES, "")).body.endswith(b"# TYPE gpu_x counter\ngpu_x_total 1\n# EOF\n")
        await told.close()
        assert more.closed == 1
