"""One reading for all who ask, and none of them waits for a driver that hangs."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from fastgw.gpu.fields import FIELDS
from fastgw.gpu.reading import Card, Reading
from fastgw.gpu.watch import HUNG, STALE_S, Use, Watch
from tests.gpu.test_series import read
from tests.gpu.test_server import until
from tests.support.gateway import Events

HANGS_S = 0.4
ENERGY = next(row for row, field in enumerate(FIELDS) if field.seed.name == "gpu_energy_joules_total")


class Driver:
    """A source of readings that hangs when it is told to."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.readings = self.at_once = 0
        self.closed = False
        self.state = "ok"
        self.breaks = False
        self.values = {0: 40.0, 1: 3.0 * 2**30, 5: 9.0 * 2**30}
        self.now = 1000.0

    def clock(self) -> float:
        return self.now  # (it goes on when a test says so)

    def read(self) -> Reading:
        self.at_once += 1
        assert self.at_once == 1, "two threads in the driver"
        self.goes_on.wait(20)
        self.readings += 1
        self.at_once -= 1
        if self.breaks:
            raise RuntimeError("a fault of ours")
        cards = [Card(index=at, uuid=f"GPU-{at}", up=True, values=self.values) for at in range(2)] if self.state == "ok" else []
        return Reading(at=self.clock(), took_s=0.01, state=self.state, detail="what to do", cards=cards, gpus=len(cards))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def driver() -> Driver:
    return Driver()


def watching(driver: Driver, log: Events | None = None, fresh_s: float = 0.0, deadline_s: float = 10.0) -> Watch:
    return Watch(driver, ["seed"], log or Events(), deadline_s=deadline_s, fresh_s=fresh_s, clock=driver.clock)


def one(page: bytes, name: str) -> float | None:
    found = read(page).get(name)
    return found[0][1] if found else None


async def test_M3_fifty_who_ask_at_once_share_one_reading_and_so_do_those_within_a_second(driver: Driver) -> None:
    watch = watching(driver, fresh_s=1.0)
    pages = await asyncio.gather(*(watch.page() for _ in range(50)))
    assert {one(page, "gpu_utilization_percent") for page in pages} == {40}
    await watch.page()
    assert driver.readings == 1
    driver.now += 1
    await watch.page()
    assert driver.readings == 2
    await watch.close()
    assert driver.closed


async def test_M5_a_driver_that_hangs_holds_nobody_and_what_it_said_last_is_told_with_its_age(driver: Driver) -> None:
    log = Events()
    watch = watching(driver, log, deadline_s=HANGS_S)
    assert one(await watch.page(), "gpu_exporter_up") == 1
    driver.goes_on.clear()
    driver.now += 7
    began = time.monotonic()
    page = await watch.page()
    assert HANGS_S * 0.9 <= time.monotonic() - began < HANGS_S + 2
    assert (one(page, "gpu_exporter_up"), one(page, "gpu_utilization_percent")) == (0, 40)
    assert one(page, "gpu_exporter_reading_age_seconds") == 7
    # From then on nobody waits, and no second thread is given to it.
    began = time.monotonic()
    pages = await asyncio.gather(*(watch.page() for _ in range(50)))
    assert time.monotonic() - began < HANGS_S * 0.9
    assert {one(page, "gpu_exporter_late_total") for page in pages} == {1}
    health = watch.health()
    assert (health.status, health.driver, health.gpus_up) == ("degraded", HUNG, 2)
    assert "nvidia-smi" in health.detail
    assert [fields["driver"] for _, _, fields in log.lines] == ["ok", HUNG]
    driver.now += STALE_S
    page = await watch.page()
    assert (one(page, "gpu_exporter_up"), one(page, "gpu_utilization_percent")) == (0, None)
    driver.goes_on.set()
    await until(lambda: watch.health().driver != HUNG)
    page = await watch.page()
    assert (one(page, "gpu_exporter_up"), one(page, "gpu_utilization_percent")) == (1, 40)
    await watch.close()


async def test_an_end_waits_for_no_driver_that_hangs(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.gpu.watch.CLOSE_S", 0.05)
    watch = watching(driver, deadline_s=0.05)
    driver.goes_on.clear()
    assert one(await watch.page(), "gpu_exporter_up") == 0
    began = time.monotonic()
    await watch.close()
    assert time.monotonic() - began < 1
    assert not driver.closed
    driver.goes_on.set()


async def test_M5_no_driver_is_told_as_such_once_and_what_to_do(driver: Driver) -> None:
    log = Events()
    driver.state = "driver_not_loaded"
    watch = watching(driver, log)
    for _ in range(3):
        page = await watch.page()
        assert one(page, "gpu_exporter_up") == 0
        assert read(page)["gpu_exporter_info"][0][0]["state"] == "driver_not_loaded"
    assert (watch.health().driver, watch.health().detail) == ("driver_not_loaded", "what to do")
    driver.state = "ok"
    await watch.page()
    await watch.page()
    assert [(level, fields["driver"]) for level, _, fields in log.lines] == [("warning", "driver_not_loaded"), ("info", "ok")]
    await watch.close()


async def test_a_fault_of_ours_ends_no_wait(driver: Driver) -> None:
    watch = watching(driver)
    driver.breaks = True
    assert one(await watch.page(), "gpu_exporter_up") == 0
    driver.breaks = False
    await watch.page()
    assert one(await watch.page(), "gpu_exporter_up") == 1
    await watch.close()


async def test_where_the_system_has_no_thread_there_is_no_reading_and_then_there_is(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watching(driver)

    def refuses(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuses)
        assert one(await watch.page(), "gpu_exporter_up") == 0
    assert one(await watch.page(), "gpu_exporter_up") == 1
    await watch.close()


async def test_what_all_gpus_have_together(driver: Driver) -> None:
    watch = watching(driver)
    assert watch.use() is None  # (nobody waits)
    await watch.page()
    use = watch.use()
    assert use is not None
    assert (use.used_bytes, use.total_bytes, use.utilization_percent) == (6 * 2**30, 18 * 2**30, 40)
    driver.values = {1: 2.0, 5: 4.0}  # (divided by MIG)
    await watch.page()  # (one that was under way)
    await watch.page()
    assert watch.use() == Use(4.0, 8.0, None)
    first, second = watch.tiles()
    assert (second.index, second.up, first.used_gib, first.total_gib) == (1, True, 2.0 / 2**30, 4.0 / 2**30)
    assert (first.busy_percent, first.celsius, first.watts) == (None, None, None), "what it does not say is not made up"
    driver.values = {0: 30.0, ENERGY: 2500.0}
    await watch.page()
    await watch.page()
    assert watch.use() == Use(None, None, 30, {"GPU-0": 2.5, "GPU-1": 2.5}), "its memory is the machine's"
    driver.state = "driver_not_loaded"
    await watch.page()
    await watch.page()
    assert watch.use() is None
    assert watch.tiles() == []
    await watch.close()
