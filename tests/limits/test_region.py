"""Several processes that use the same limits admit together what one would, whoever is killed in the midst of it."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from fastgw.limits.account import Account, Accounts, Defaults
from fastgw.limits.admission import admit
from fastgw.limits.meter import Meter, Meters
from fastgw.limits.region import Region
from fastgw.limits.scope import Limits, Share
from fastgw.limits.scopes import ModelLimits

DIGEST = bytes(32)
NOW_US = 20_000_000_000
TODAY = 20_000


def accounts(region: Region, **limits: int) -> Accounts:
    made = Accounts(Defaults(scoped=True, **limits), [DIGEST], required=True)  # type: ignore[arg-type]
    made.scopes.follow({}, [ModelLimits(("m",), Limits(daily_tokens=700), Limits(requests_per_minute=90))], NOW_US)
    made.share_in(region)
    return made


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region.create(3, 64)
    yield made
    made.close()


def forked(region: Region, worker: int, run: Callable[[Region], None]) -> int:
    """Another process, of that number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run(Region.attached(region.fds(), worker))
    except BaseException:
        os._exit(1)
    os._exit(0)


def ended(pids: list[int]) -> None:
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0


def shares_of(here: Accounts, account: Account) -> tuple[Share, ...]:
    return tuple([Share(scope) for scope in here.scopes.of(account.id, None, "m", NOW_US, TODAY)])


def key(here: Accounts) -> Account:
    found = here.find(DIGEST)
    assert found is not None
    return found


def test_a_storm_over_three_is_admitted_as_by_one(region: Region) -> None:
    """Each is admitted by all limits or by none, and what is settled is counted once."""
    out, told = os.pipe()

    def storm(region: Region) -> None:
        here = accounts(region, requests_per_minute=100, tokens_per_minute=1000, daily_tokens=990)
        account = key(here)
        admitted = 0
        for _ in range(200):
            shares = shares_of(here, account)
            region.enter(account, shares)
            well = admit(account, TODAY, NOW_US, 8, 8, 0, shares)
            region.leave()
            if well:
                admitted += 1
                region.enter(account, shares)
                account.ledger.settle(TODAY, 8, 3, 4, False)
                account.tokens.settle(NOW_US, NOW_US, 8, 7)  # type: ignore[union-attr]
                for share in shares:
                    share.settle(TODAY, NOW_US, NOW_US, 7)
                region.leave()
        os.write(told, b"%d\n" % admitted)

    here = accounts(region, requests_per_minute=100, tokens_per_minute=1000, daily_tokens=990)
    ended([forked(region, worker, storm) for worker in (1, 2, 3)])
    os.close(told)
    admitted = sum(map(int, os.read(out, 100).split()))
    os.close(out)
    account = key(here)
    (each, _), (model, _) = ((share.scope, share) for share in shares_of(here, account))
    with region.inside(account, each, model):
        assert admitted == 90, "the narrowest: requests of the key for the model"
        assert (account.ledger.requests, account.ledger.prompt, account.ledger.completion) == (90, 270, 360)
        assert account.ledger.reserved == 0
        assert account.requests.left(NOW_US) == 10  # type: ignore[union-attr]
        assert account.tokens.left(NOW_US) == 1000 - 630  # type: ignore[union-attr]
        assert model.day is not None
        assert (model.day.spent, model.day.reserved) == (630, 0)


@pytest.mark.parametrize("inside", [False, True])
def test_whoever_is_killed_leaves_nothing_reserved_and_each_record_whole(region: Region, inside: bool) -> None:
    """``inside``: between the two copies of a record, with the lock in its hands."""

    def dies(region: Region) -> None:
        here = accounts(region, daily_tokens=10_000_000, concurrency=5)
        account = key(here)
        count = 0

        def trial() -> None:
            nonlocal count
            count += 1
            if count == 7:
                os.kill(os.getpid(), signal.SIGKILL)

        region.trial = trial if inside else None
        while True:
            region.enter(account, ())
            if account.inflight < 5:
                account.inflight += 1
            account.ledger.reserve(TODAY, 5)
            account.ledger.settle(TODAY, 0, 1, 1, False)
            region.leave()

    here = accounts(region, daily_tokens=10_000_000, concurrency=5)
    account = key(here)
    for worker in (1, 2, 3):
        pid = forked(region, worker, dies)
        if not inside:
            time.sleep(0.02 + 0.003 * worker)
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with region.inside(account):
            ledger = account.ledger
            assert 1 <= account.inflight <= 5
            assert ledger.prompt == ledger.completion == ledger.requests, "a record is what it was, or what it is"
            used = ledger.requests
        assert sum(region.release(worker)) == 1
        with region.inside(account):
            assert (account.inflight, ledger.reserved) == (0, 0)
            assert ledger.requests == used, "what was used stays used"


def test_whoever_waits_hears_of_a_place_that_another_gives_back(region: Region) -> None:
    other = Region.attached(region.fds(), 2)
    here, there = key(accounts(region, concurrency=1)), key(accounts(other, concurrency=1))
    with region.inside(here):
        here.inflight += 1
    there.parked = ["one"]
    with other.inside(there):
        assert not there.room()
    with region.inside(here):
        here.inflight -= 1
    assert select.select([region.wake_fd(2)], [], [], 0)[0], "it was told"
    assert not select.select([region.wake_fd(1)], [], [], 0)[0], "and nobody else"
    with other.inside(there):
        assert there.room()


def test_a_limit_that_is_lowered_by_each_in_turn_is_lowered_once(region: Region) -> None:
    other = Region.attached(region.fds(), 1)
    both = [accounts(region, tokens_per_minute=100_000), accounts(other, tokens_per_minute=100_000)]
    with region.inside(key(both[0])):
        key(both[0]).tokens.charge(NOW_US, 90_000)  # type: ignore[union-attr]
    low, high = Defaults(tokens_per_minute=10), Defaults(tokens_per_minute=100_000)
    for terms in (low, high):
        for one in both:
            one.follow(terms, NOW_US)
            one.admit([DIGEST], NOW_US)
    for region_, one in zip((region, other), both, strict=True):
        with region_.inside(key(one)):
            assert key(one).tokens.left(NOW_US) == 10_000  # type: ignore[union-attr]


def test_a_day_that_turns_for_one_before_the_other_is_counted_where_it_was(region: Region) -> None:
    other = Region.attached(region.fds(), 1)
    both = (region, key(accounts(region))), (other, key(accounts(other)))
    for day in (TODAY, TODAY + 1):
        for section, account in both:
            for late in (0, 1):
                with section.inside(account):
                    account.ledger.settle(day - late, 0, 1, 1, False)
    with region.inside(both[0][1]):
        rows = both[0][1].ledger.rows()
    assert [(row[0], row[3]) for row in sorted(rows)] == [(TODAY - 1, 2), (TODAY, 4), (TODAY + 1, 2)]


def test_a_table_that_is_full_makes_room_of_what_is_as_good_as_new() -> None:
    region = Region.create(1, 1)
    try:
        region.now_us, region.today = NOW_US, TODAY
        made = [Account(f"key {at}") for at in range(60)]
        for account in made[:40]:
            account.set(Defaults(), None, NOW_US)
            region.join(account)
            with region.inside(account):
                pass
        assert region.crowded_total == 0
        for account in made[40:]:
            account.set(Defaults(), None, NOW_US)
            region.join(account)
            with region.inside(account):
                account.inflight += 1
        assert region.crowded_total > 0, "where all is in use one is shared"
    finally:
        region.close()


def test_what_is_no_region_of_this_version_is_refused(region: Region) -> None:
    fd = os.memfd_create("other")
    os.ftruncate(fd, 4096)
    try:
        with pytest.raises(ValueError, match="no memory of limits"):
            Region.attached((fd, *region.fds()[1:]), 1)
    finally:
        os.close(fd)


def of_address(region: Region, name: str, meters: Meters) -> Meter:
    meter = meters.get(name, NOW_US)
    meter.record = region.address("" if meters.crowd(meter) else name)
    return meter


def test_a_storm_of_one_address_over_three_is_admitted_as_by_one() -> None:
    """Whoever is killed in it has taken what he took, and no more; and what was taken decays once for all."""
    region = Region.create(3, 8, 8)
    out, told = os.pipe()

    def storm(region: Region) -> None:
        meter = of_address(region, "192.0.2.1", Meters(10, 1_000_000, 90, 100))
        for _ in range(60):
            if region.take(meter, NOW_US):
                os.write(told, b"1")
        os.kill(os.getpid(), signal.SIGKILL)

    for pid in [forked(region, worker, storm) for worker in (1, 2, 3)]:
        os.waitpid(pid, 0)
    os.close(told)
    admitted = len(os.read(out, 200))
    os.close(out)
    meter = of_address(region, "192.0.2.1", Meters(10, 1_000_000, 90, 100))
    assert (admitted, region.take(meter, NOW_US)) == (90, False)
    later = NOW_US + 200_000
    assert [region.take(meter, later) for _ in range(3)] == [True, True, False]
    region.close()


def test_strangers_addresses_share_what_is_left_and_push_out_no_key_and_no_busy_address() -> None:
    region = Region.create(1, 8, 8)
    other = Region.attached(region.fds(), 1)
    here, there = (key(accounts(one, requests_per_minute=5)) for one in (region, other))
    with region.inside(here):
        assert here.requests is not None
        assert here.requests.take(NOW_US, 5)
    meters, others = (Meters(1, 1_000_000, 1, 1000) for _ in range(2))
    first = of_address(region, "192.0.2.1", meters)
    assert region.take(first, NOW_US)
    taken = sum(region.take(of_address(region, f"2001:db8::{at:x}/64", meters), NOW_US) for at in range(300))
    assert 8 <= taken <= 34, "places that there are, and one for all others"
    assert not other.take(of_address(other, "2001:db8::ffff/64", others), NOW_US), "the others' is one in all processes"
    assert not other.take(of_address(other, "192.0.2.1", others), NOW_US)
    with other.inside(there):
        assert there.requests is not None
        assert there.requests.left(NOW_US) == 0
    later = NOW_US + 3_000_000
    assert other.take(of_address(other, "192.0.2.77", Meters(1, 1_000_000, 1, 1)), later), "who is idle makes room"
    region.close()
