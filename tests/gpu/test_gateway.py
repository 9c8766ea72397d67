"""``fastgw serve --gpu``: the GPUs among the metrics of the control listener."""

from __future__ import annotations

from functools import partial

import aiohttp
import pytest

from fastgw import Config, ConfigErrors, energy
from fastgw.config import EngineConfig
from fastgw.gpu import watch
from fastgw.sim import SimConfig, Simulator
from tests.gpu.conftest import Script
from tests.gpu.test_series import Samples, read
from tests.support.gateway import Running, running


async def test_S2_23_the_gateway_has_them_among_its_own_metrics(nvml: Script) -> None:
    async with running(control_listen="127.0.0.1:0", gpu=True, gpu_names=["seed", "nvidia_smi"]) as gw:
        async with aiohttp.ClientSession() as http, http.get(f"{gw.gateway.control_url}/metrics") as answer:
            found = read(await answer.read())
        assert [value for _, value in found["gpu_utilization_percent"]] == [42, 43]
        assert {"gateway_queue_waiting", "gpu_exporter_up", "nvidia_smi_memory_used_bytes"} <= set(found)
        assert [fields["gpus"] for _, message, fields in gw.events.lines if message == "GPUs"] == [2]


def test_without_a_control_listener_nothing_would_show_them() -> None:
    with pytest.raises(ConfigErrors, match=r"gpu: needs control_listen: .* or run `fastgw gpu-exporter`"):
        Config(gpu=True)


async def page(gw: Running, name: str) -> dict[str, float]:
    """The samples of one series, by their labels in one."""
    async with aiohttp.ClientSession() as http, http.get(f"{gw.gateway.control_url}/metrics") as answer:
        found: Samples = read(await answer.read())
    return {"/".join(labels.values()): value for labels, value in found.get(name, [])}


async def until(gw: Running, name: str, wanted: dict[str, float]) -> None:
    found: dict[str, float] = {}
    for _ in range(500):
        found = await page(gw, name)
        if wanted.items() <= found.items():
            return
    raise AssertionError(f"{name}: {found}")


async def test_what_an_engines_gpus_draw_is_told_by_model_and_by_key_and_idle_apart(
    nvml: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "READ_S", 0.01)
    monkeypatch.setattr(watch, "watch", partial(watch.watch, fresh_s=0.0))
    nvml.say("gpus 3", "energy 0 1000", "energy 1 20000", "energy 2 0")
    second = "GPU-00000000-0000-0000-0000-000000000001"
    async with Simulator(SimConfig(models=("m",))) as sim, running(
        [EngineConfig(url=sim.url, gpus=["0", second])], control_listen="127.0.0.1:0", gpu=True, metrics_by="key",
        api_keys=["sk-a-key-of-this-test"],
    ) as gw:  # fmt: skip
        joules = "gateway_energy_joules_total"
        await until(gw, "gateway_energy_gpus", {"": 2})
        nvml.say("gpus 3", "energy 0 3500", "energy 1 20001", "energy 2 999")
        await until(gw, joules, {"/idle": 2.501})
        headers = {"authorization": "Bearer sk-a-key-of-this-test"}
        async with aiohttp.ClientSession(headers=headers) as http:
            body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
            async with http.post(f"{gw.url}/v1/chat/completions", json=body) as answer:
                assert answer.status == 200
        # (One of them alone, for a look between two of them would share out each by itself.)
        nvml.say("gpus 3", "energy 0 10000", "energy 1 20001", "energy 2 5000")
        await until(gw, joules, {"m/active": 6.5})
        assert await page(gw, joules) == {"m/active": 6.5, "/idle": 2.501, "/unshared": 0.0}
        assert list((await page(gw, "gateway_caller_energy_joules_total")).values()) == [6.5]
