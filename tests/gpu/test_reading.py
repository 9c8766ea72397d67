"""What the library says, and what it does not: GPUs that are lost and come back, calls that fail, drivers that go."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fastgw.gpu import reading
from fastgw.gpu.driver import Driver
from fastgw.gpu.fields import FIELDS
from fastgw.gpu.reading import Card, Reader, Reading
from tests.gpu.conftest import HERE, Script

# What a GPU is asked.
FUNCTIONS = sorted(
    set(re.findall(r"\b(nvmlDeviceGet\w+)\(struct device", (HERE / "stub.c").read_text()))
    | set(re.findall(r"(?:NUMBER|LIMITED)\((nvmlDeviceGet\w+)", (HERE / "stub.c").read_text()))
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(nvml: Script, clock: Clock) -> Reader:
    return Reader(Driver(), 32, clock, lambda pid: f"engine-{pid}")


def value(card: Card, name: str, **labels: str) -> float | None:
    (row,) = [at for at, field in enumerate(FIELDS) if field.seed.name == name and dict(field.seed.labels) == labels]
    found = card.values.get(row)
    return None if found is None else found * FIELDS[row].seed.scale


def ups(found: Reading) -> dict[str, bool]:
    return {card.uuid[-1:]: card.up for card in found.cards}


def test_S2_25_every_field_is_read_of_every_gpu(reader: Reader) -> None:
    found = reader.read()
    assert (found.state, found.detail, found.errors) == ("ok", "", {})
    assert (found.driver, found.nvml, found.cuda) == ("590.48.01", "13.590.48.01", "13.1")
    first, second = found.cards
    assert set(first.values) == set(second.values) == set(range(len(FIELDS)))
    assert (first.index, first.name, first.bus_id, first.minor) == (0, "NVIDIA H200", "00000000:83:00.0", "0")
    assert (value(first, "gpu_utilization_percent"), value(second, "gpu_utilization_percent")) == (42, 43)
    assert value(first, "gpu_memory_used_gb") == 43  # (what the driver reserves is not in use)
    assert value(first, "gpu_memory_total_gb") == 144
    assert value(first, "gpu_power_watts") == 295.01
    assert value(first, "gpu_energy_joules_total") == pytest.approx(123456.789)
    assert value(first, "gpu_clock_hertz", clock="memory") == 1.2e9
    assert value(first, "gpu_pcie_bytes_per_second", direction="rx") == 2.5e6
    assert value(first, "gpu_ecc_errors_total", error="uncorrected", count="volatile") == 11
    assert value(first, "gpu_throttle_reason", reason="sw_power_cap") == 1
    assert value(first, "gpu_throttle_reason", reason="gpu_idle") == 0


@pytest.mark.parametrize("code", [3, 4, 13, 999])
def test_M5_what_one_call_does_not_give_is_absent_and_the_rest_stays(nvml: Script, reader: Reader, code: int) -> None:
    gone: set[int] = set()
    for function in FUNCTIONS:
        nvml.say("gpus 2", f"fail {function}@1 {code}")
        found = reader.read()
        first, second = found.cards
        assert (found.state, first.up, second.up) == ("ok", True, True), function
        assert len(first.values) == len(FIELDS)
        missing = set(range(len(FIELDS))) - set(second.values)
        assert len(missing) < 5, function
        gone |= missing
    # Each row is some call's; but for these an older call stands in.
    held = {at for at, field in enumerate(FIELDS) if field.mig in ("used", "free", "total") or "throttle" in field.seed.name}
    assert set(range(len(FIELDS))) - gone == held
    assert set(reader.read().errors) == {3: set(), 4: {"no_permission"}, 13: set(), 999: {"unknown"}}[code]


def test_an_old_driver_has_its_memory_and_reasons_by_the_old_calls(nvml: Script, reader: Reader) -> None:
    nvml.say("gpus 1", "fail nvmlDeviceGetMemoryInfo_v2 13", "fail nvmlDeviceGetCurrentClocksEventReasons 13")
    found = reader.read()
    (card,) = found.cards
    assert (value(card, "gpu_memory_used_gb"), value(card, "gpu_memory_reserved_gb")) == (44, None)
    assert value(card, "gpu_throttle_reasons") == 0x24
    assert found.errors == {}


@pytest.mark.parametrize("line", ["lost 1", "fail nvmlDeviceGetPowerUsage@1 15"])  # (at once, and in the middle of a reading)
def test_M5_a_gpu_that_is_lost_is_down_by_its_uuid_and_comes_back(
    nvml: Script, reader: Reader, clock: Clock, line: str
) -> None:
    assert ups(reader.read()) == {"0": True, "1": True}
    nvml.say("gpus 2", line)
    began = nvml.inits
    found = reader.read()
    assert found.errors == {"gpu_lost": 1}
    assert (found.state, ups(found)) == ("ok", {"0": True, "1": False})
    lost = found.cards[-1]
    assert (lost.index, lost.values) == (1, {})
    # The library is opened anew for it: after a second, two, four, a minute at most. The others are there all the while.
    for _ in range(300):
        clock.now += 1.0
        found = reader.read()
        assert (ups(found), len(found.cards[0].values)) == ({"0": True, "1": False}, len(FIELDS))
    assert 6 + 3 <= nvml.inits - began <= 6 + 5
    nvml.say("gpus 2")
    clock.now += reading.MAX_PAUSE_S
    found = reader.read()
    assert ups(found) == {"0": True, "1": True}
    assert len(found.cards[1].values) == len(FIELDS)
    before = nvml.inits
    clock.now += 1000
    reader.read()
    assert nvml.inits == before  # (all is well)


def test_M5_a_gpu_that_falls_off_the_bus_is_down_though_nobody_counts_it(nvml: Script, reader: Reader, clock: Clock) -> None:
    reader.read()
    nvml.say("gpus 1", "from 1")  # the second is the first now
    found = reader.read()
    began = nvml.inits
    assert found.gpus == 1
    assert [(card.index, card.uuid[-1:], card.up) for card in found.cards] == [(0, "1", True), (0, "0", False)]
    nvml.say("gpus 2")
    clock.now += 5
    assert ups(reader.read()) == {"0": True, "1": True}
    assert nvml.inits == began + 1  # (one that opened the library before does not see it)


def test_M5_a_gpu_that_was_lost_from_the_start_is_down_by_its_place(nvml: Script, reader: Reader) -> None:
    nvml.say("gpus 2", "lost 0")
    assert [(card.index, card.uuid, card.up) for card in reader.read().cards] == [
        (0, "", False), (1, "GPU-00000000-0000-0000-0000-000000000001", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "state", "advice"),
    [
        ("fail nvmlInitWithFlags 9", "driver_not_loaded", "kernel module"),
        ("fail nvmlInitWithFlags 18", "version_mismatch", "restart"),
        ("fail nvmlInitWithFlags 4", "no_permission", "/dev/nvidia"),
        ("fail nvmlInitWithFlags 999", "unknown", "nvidia-smi"),
        ("fail nvmlDeviceGetCount_v2 1", "not_initialized", "opened again"),
        ("fail nvmlDeviceGetUUID 1", "not_initialized", "opened again"),
    ],
)
def test_M5_a_driver_that_goes_and_comes(
    nvml: Script, reader: Reader, clock: Clock, line: str, state: str, advice: str
) -> None:
    reader.read()
    nvml.say("gpus 2", "fail nvmlDeviceGetCount_v2 1")
    reader.read()
    nvml.say("gpus 2", line)
    clock.now += 1
    found = reader.read()
    assert (found.state, ups(found)) == (state, {"0": False, "1": False})
    assert advice in found.detail
    assert found.driver == ""
    failures = sum(found.errors.values())
    for _ in range(10):
        reader.read()  # (within the pause nothing is asked, and nothing counted)
    assert sum(reader.read().errors.values()) == failures
    nvml.say("gpus 2")
    assert reader.read().state == state
    clock.now += 60
    assert (reader.read().state, ups(reader.read())) == ("ok", {"0": True, "1": True})


def test_M5_sixteen_gpus_and_more_than_there_may_be(nvml: Script, reader: Reader) -> None:
    nvml.say("gpus 16")
    assert [card.index for card in reader.read().cards if card.up] == list(range(16))
    nvml.say("gpus 100")
    found = reader.read()
    assert (found.gpus, len(found.cards)) == (100, reading.MOST_GPUS)
    nvml.say("gpus 64", "from 64")  # others in the place of all: those that went are told, and no more than so many
    assert len(reader.read().cards) <= 2 * reading.MOST_GPUS


def test_M5_mig_instances_share_the_memory_of_their_gpu_instance(nvml: Script, reader: Reader) -> None:
    nvml.say("gpus 2", "mig 1 3", "process 1 12 1024")
    first, second = reader.read().cards
    assert first.instances == []
    assert [(one.profile, one.gpu_instance, one.compute_instance) for one in second.instances] == [
        ("1g.18gb", "1", "0"), ("1g.18gb", "2", "0"), ("1g.18gb", "2", "1"),
    ]  # fmt: skip
    assert value(second, "gpu_utilization_percent") is None  # NVML has none for a GPU that is divided
    assert value(second, "gpu_power_watts") == 295.01
    assert {FIELDS[row].mig: number for row, number in second.instances[0].values.items()}["used"] == 1.5 * 2**30
    assert [(one.pid, one.instance, one.used_bytes) for one in second.processes] == [(12, "1", 1024), (12, "2", 1024)]


def test_processes_are_so_many_at_most_those_with_most_memory(nvml: Script, reader: Reader) -> None:
    nvml.say("gpus 1", *(f"process 0 {pid} {pid * 1024}" for pid in range(1, 41)), "process 0 99 18446744073709551615")
    (card,) = reader.read().cards
    assert card.processes_total == 41
    assert [one.pid for one in card.processes] == [*range(40, 8, -1)]
    assert (card.processes[0].name, card.processes[0].used_bytes) == ("engine-40", 40960)
    nvml.say("gpus 1", "fail nvmlDeviceGetComputeRunningProcesses_v3 4")
    (card,) = reader.read().cards
    assert (card.processes, card.processes_total) == ([], -1)


def test_a_process_is_called_as_the_kernel_calls_it_and_not_by_its_command_line() -> None:
    assert reading.kernels_name(os.getpid()) == Path("/proc/self/comm").read_text().strip()
    assert reading.kernels_name(1 << 30) == ""
