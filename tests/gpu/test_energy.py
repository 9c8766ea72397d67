"""What GPUs have drawn, of NVML's own words."""

from __future__ import annotations

from fastgw.gpu.driver import Driver
from fastgw.gpu.energy import MAX_PAUSE_S, Meter
from fastgw.gpu.reading import Reader
from tests.gpu.conftest import Script

A, B = (f"GPU-00000000-0000-0000-0000-00000000000{number}" for number in range(2))
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"


class Meters:
    """A meter over the stub, whose clock a test moves."""

    def __init__(self, nvml: Script) -> None:
        self.nvml = nvml
        self.now = 1000.0
        self.reader = Reader(Driver(), 0, clock=lambda: self.now)
        self.meter = Meter()

    def read(self, *lines: str, after: float = 5.0) -> dict[str, float]:
        self.nvml.say(*lines)
        self.now += after
        self.meter.take(self.reader.read())
        return self.meter.joules


def test_the_counter_of_each_gpu_in_joules_and_power_by_time_of_one_that_has_none(nvml: Script) -> None:
    meters = Meters(nvml)
    none = f"fail {ENERGY}@1 3"
    assert meters.read("gpus 2", "energy 0 1500", none, "power 1 100000") == {A: 1.5, B: 0.0}
    assert meters.meter.indexes == {0: A, 1: B}
    assert meters.read("gpus 2", "energy 0 2750", none, "power 1 300000") == {A: 2.75, B: 1000.0}, "on average 200 W, 5 s"
    assert meters.read("gpus 2", "energy 0 2750", none, "power 1 300000", after=10.0)[B] == 4000.0
    assert meters.read("gpus 2", "energy 0 2750", none, "power 1 300000", after=MAX_PAUSE_S + 1)[B] == 4000.0, "not guessed"
    assert meters.read("gpus 2", "energy 0 2750", none, "power 1 100000", after=1.0)[B] == 4200.0


def test_a_counter_that_fails_for_a_moment_is_no_other_one_and_a_lost_gpu_has_none(nvml: Script) -> None:
    meters = Meters(nvml)
    assert meters.read("gpus 2", "energy 0 1000", "energy 1 2000") == {A: 1.0, B: 2.0}
    assert meters.read("gpus 2", "energy 0 3000", f"fail {ENERGY}@1 999") == {A: 3.0}
    assert meters.read("gpus 2", "energy 0 4000", "lost 1") == {A: 4.0}
    assert meters.read("fail nvmlInitWithFlags 9", "fail nvmlDeviceGetCount_v2 1") == {}
    assert meters.read("gpus 2", "energy 0 9000", "energy 1 8000", after=100.0) == {A: 9.0, B: 8.0}


def test_an_index_is_of_the_gpu_that_had_it_where_others_have_fallen_off_the_bus(nvml: Script) -> None:
    """Settings give engines their GPUs by it, and processes go on with those that they have."""
    meters = Meters(nvml)
    meters.read("gpus 2")
    assert meters.read("gpus 1", "from 1", "energy 0 8000") == {B: 8.0}, "the driver counts it as 0 now"
    assert meters.meter.indexes == {0: A, 1: B}
    meters.read("gpus 1", "from 2")
    assert meters.meter.indexes[0] not in (A, B), "another one, in its place"
