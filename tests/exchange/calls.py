"""A core that only counts, for calls of a real pool to an engine that is the test."""

from __future__ import annotations

from fastgw import Config
from fastgw.exchange.call import Call
from fastgw.exchange.context import Context, Strategy
from fastgw.exchange.tally import UNCOUNTED
from fastgw.exchange.unread import Unread
from fastgw.limits.account import Accounts, Defaults
from fastgw.net.poller import Reactor
from fastgw.stats import NullLog, Stats
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import UpstreamTable


class Core(Context):
    """``rooms``: how often those who wait were told to look; ``moved``: what a breaker has become; ``unread``: calls that are
    let finish, each for ``limit_s``."""

    def __init__(self, reactor: Reactor, stats: Stats) -> None:
        super().__init__(
            Config(port=0),
            reactor=reactor,
            log=NullLog(),
            stats=stats,
            hooked=lambda name: (self._room,) if name == "on_room" else (),
            strategy=Strategy(),
            table=UpstreamTable(()),
            accounts=Accounts(Defaults(), [], required=False),
            tally=UNCOUNTED,
            instance=b"handmade",
        )
        self.rooms = 0
        self.moved: list[int] = []
        self.unread: set[Unread] = set()
        self.limit_s = 5.0

    def _room(self) -> None:
        self.rooms += 1

    def let_finish(self, call: Call) -> None:
        Unread(self, call, self.limit_s, self.unread).begin()

    def breaker_moved(self, pool: Pool) -> None:
        self.moved.append(pool.engine.breaker.state)
