"""``fastgw serve --gpu``: the GPUs among the metrics of the control listener."""

from __future__ import annotations

import aiohttp
import pytest

from fastgw import Config, ConfigErrors
from tests.gpu.conftest import Script
from tests.gpu.test_series import read
from tests.support.gateway import running


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
