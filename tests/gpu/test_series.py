"""A reading as Prometheus text, read back by Prometheus' own reader."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastgw.config.names import GPU_NAMES
from fastgw.gpu.driver import Driver
from fastgw.gpu.reading import Card, Process, Reader, Reading
from fastgw.gpu.series import MAX_LABEL_CHARS, rendered
from tests.gpu.conftest import Script

UUID = "GPU-00000000-0000-0000-0000-000000000001"
Samples = dict[str, list[tuple[dict[str, str], float]]]


def read(text: bytes) -> Samples:
    """The samples of each series, which must not be there twice, each name in one place."""
    found: Samples = {}
    seen = set()
    for line in text.decode().splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in seen
            seen.add(name)
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            there = found.setdefault(sample.name, [])
            assert sample.labels not in [labels for labels, _ in there]
            there.append((sample.labels, sample.value))
    return found


def told(nvml: Script, *names: str) -> Samples:
    return read(rendered(Reader(Driver(), 32, comm=lambda pid: "python3").read(), names, "node7"))


def test_S2_24_the_five_gauges_of_every_gpu(nvml: Script) -> None:
    found = told(nvml, "seed")
    for name, values in {
        "gpu_utilization_percent": [42, 43], "gpu_memory_used_gb": [43, 43], "gpu_memory_free_gb": [100, 100],
        "gpu_temperature_celsius": [61, 61], "gpu_power_watts": [295.01, 295.01],
    }.items():  # fmt: skip
        assert [value for _, value in found[name]] == values, name
        assert [labels["gpu"] for labels, _ in found[name]] == ["0", "1"]
        assert found[name][1][0]["uuid"] == UUID
    assert not any(name.startswith(("DCGM", "nvidia_smi")) for name in found)


# What a dashboard asks for by these names: the value of the second GPU, in the unit that they have there.
DCGM = {
    "DCGM_FI_DEV_SM_CLOCK": 1100, "DCGM_FI_DEV_MEM_CLOCK": 1200, "DCGM_FI_DEV_MEMORY_TEMP": 58, "DCGM_FI_DEV_GPU_TEMP": 61,
    "DCGM_FI_DEV_POWER_USAGE": 295.01, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 123456789, "DCGM_FI_DEV_GPU_UTIL": 43,
    "DCGM_FI_DEV_PCIE_TX_THROUGHPUT": 1500, "DCGM_FI_DEV_PCIE_RX_THROUGHPUT": 2500, "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": 9,
    "DCGM_FI_DEV_MEM_COPY_UTIL": 17, "DCGM_FI_DEV_ENC_UTIL": 5, "DCGM_FI_DEV_DEC_UTIL": 6, "DCGM_FI_DEV_FB_FREE": 102400,
    "DCGM_FI_DEV_FB_USED": 44032, "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": 1, "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": 12,
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": 4, "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": 3,
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": 0, "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": 0x24, "DCGM_FI_DEV_POWER_MGMT_LIMIT": 700,
}  # fmt: skip
NVIDIA_SMI = {
    "utilization_gpu_ratio": 0.43, "utilization_memory_ratio": 0.17, "memory_used_bytes": 43 << 30,
    "memory_total_bytes": 144 << 30, "memory_reserved_bytes": 1 << 30, "temperature_gpu": 61, "temperature_memory": 58,
    "power_draw_watts": 295.01, "power_limit_watts": 700, "enforced_power_limit_watts": 650, "pstate": 0,
    "power_default_limit_watts": 700, "fan_speed_ratio": 0.3, "clocks_current_sm_clock_hz": 1.1e9,
    "clocks_current_graphics_clock_hz": 1e9, "clocks_max_memory_clock_hz": 2.2e9, "clocks_event_reasons_active": 0x24,
    "clocks_event_reasons_sw_power_cap": 1, "clocks_event_reasons_hw_slowdown": 0, "pcie_link_gen_current": 4,
    "pcie_link_width_max": 16, "ecc_errors_corrected_volatile_total": 1, "ecc_errors_uncorrected_aggregate_total": 12,
    "ecc_mode_current": 1, "mig_mode_current": 0, "energy_joules_total": 123456.789,
    "pcie_throughput_tx_bytes_per_second": 1.5e6, "remapped_rows_pending": 1, "compute_apps": 1,
}  # fmt: skip


def test_S2_25_the_names_of_dcgm_exporter(nvml: Script) -> None:
    page = rendered(Reader(Driver(), 32).read(), ["dcgm"], "node7")
    labels = {
        "gpu": "1", "UUID": UUID, "pci_bus_id": "00000000:84:00.0", "device": "nvidia1", "modelName": "NVIDIA H200",
        "Hostname": "node7", "DCGM_FI_DRIVER_VERSION": "590.48.01",
    }  # fmt: skip
    assert b"\nDCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{" in page
    # (The reader here has each counter end in _total; the page, as Prometheus takes it, does not.)
    seen = {name.removesuffix("_total") if name not in DCGM else name: samples[-1] for name, samples in read(page).items()}
    assert {name: seen[name] for name in DCGM} == {name: (labels, value) for name, value in DCGM.items()}


def test_S2_25_the_names_of_nvidia_gpu_exporter(nvml: Script) -> None:
    nvml.say("gpus 2", "process 1 4711 1048576")
    found = told(nvml, "nvidia_smi")
    uuid = {"uuid": "00000000-0000-0000-0000-000000000001"}
    for name, value in NVIDIA_SMI.items():
        labels, number = found[f"nvidia_smi_{name}"][1]
        assert labels == uuid
        assert number == pytest.approx(value), name
    (info, _) = found["nvidia_smi_gpu_info"][1]
    assert info | uuid == info
    assert [info[name] for name in ("name", "index", "driver_version")] == ["NVIDIA H200", "1", "590.48.01"]
    assert found["nvidia_smi_compute_app_used_memory_bytes"] == [({**uuid, "pid": "4711", "process_name": "python3"}, 1048576)]


def test_S2_25_mig_instances_under_all_names(nvml: Script) -> None:
    nvml.say("gpus 2", "mig 1 3")
    found = told(nvml, *GPU_NAMES)
    ours = [(labels["gpu_instance_id"], value) for labels, value in found["gpu_mig_memory_used_gb"]]
    assert ours == [("1", 1.5), ("2", 1.5)]
    assert [labels["profile"] for labels, _ in found["gpu_mig_info"]] == ["1g.18gb"] * 3
    assert [value for _, value in found["nvidia_smi_mig_memory_total_bytes"]] == [18 << 30] * 2
    # dcgm-exporter tells of the instances in place of their GPU: a sum over all is right.
    assert [(labels["gpu"], labels.get("GPU_I_ID"), value) for labels, value in found["DCGM_FI_DEV_FB_USED"]] == [
        ("0", None, 44032), ("1", "1", 1536), ("1", "2", 1536),
    ]  # fmt: skip


def test_info_joins_with_every_series_and_a_lost_gpu_has_none() -> None:
    cards = [Card(index=0, uuid="GPU-a", up=True, name="A", values={0: 1.0}), Card(index=1, uuid="GPU-b", up=False, name="B")]
    found = read(rendered(Reading(at=0.0, state="ok", cards=cards, driver="590"), ["seed"], "h"))
    assert found["gpu_up"] == [({"gpu": "0", "uuid": "GPU-a"}, 1), ({"gpu": "1", "uuid": "GPU-b"}, 0)]
    assert found["gpu_info"] == [({"gpu": "0", "uuid": "GPU-a", "name": "A", "driver_version": "590"}, 1)]
    assert [labels for labels, _ in found["gpu_utilization_percent"]] == [{"gpu": "0", "uuid": "GPU-a"}]


def test_M2_a_label_is_what_the_machine_says_and_breaks_no_page() -> None:
    """A process may have any name that its owner gives it."""
    hostile = 'a"} 1\n# TYPE gpu_up counter\r\x00\\" b'
    processes = [Process(1, hostile, 1), Process(1, hostile, 2), Process(2, "é" * 500, 3)]
    card = Card(index=0, uuid=hostile, up=True, name=hostile, bus_id=hostile, values={0: 1.0}, processes=processes)
    page = rendered(Reading(at=0.0, state="ok", cards=[card, card], driver=hostile), GPU_NAMES, hostile)
    found = read(page)  # (and no series is there twice)
    assert [value for _, value in found["gpu_up"]] == [1]
    names = [labels["process_name"] for labels, _ in found["gpu_process_memory_used_gb"]]
    assert names == ['a"} 1 # TYPE gpu_up counter  \\" b', "é" * MAX_LABEL_CHARS]
