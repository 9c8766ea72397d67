"""What is read of a GPU: one row for each reading, with how it is asked for and what each set of names calls it.

A row's ``read`` is told a GPU (:class:`Ask`) and gives the number that NVML gives, in NVML's unit; ``scale`` of a name makes it
that name's. What cannot be read raises, and the row is absent for that GPU; two rows that ask the same share one call. Must
never: import pynvml (``driver`` does; constants are named as texts here), or hold a number of its own.

The names: ``seed`` are ours, and five of them those of the exporter that this one stands in for; ``dcgm`` those of NVIDIA's
dcgm-exporter; ``nvidia_smi`` those of utkuozdemir/nvidia_gpu_exporter. Dashboards query them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

MIB: Final = 1 << 20
GIB: Final = 1 << 30


class Ask(Protocol):
    """One GPU. Each raises what :mod:`fastgw.gpu.driver` says where there is no answer."""

    def __call__(self, name: str, *arguments: str) -> Any:
        """What ``nvmlDeviceGet<name>`` says; arguments by the names of their constants."""
        ...

    def field(self, name: str) -> float:
        """One field value (``NVML_FI_...``)."""
        ...

    def memory(self) -> Any:
        """``total``, ``used``, ``free`` and, of a driver that tells it apart, ``reserved``."""
        ...

    def reasons(self) -> int:
        """Why its clocks are lower than they could be: a set of bits."""
        ...


class Name(NamedTuple):
    """What one set of names calls a reading. ``unit`` stands in the help text."""

    name: str
    unit: str = ""
    scale: float = 1.0
    labels: tuple[tuple[str, str], ...] = ()


class Field(NamedTuple):
    """A row. ``mig``: MIG instances have it too, and then ``dcgm`` has it of them alone, as dcgm-exporter does."""

    help: str
    read: Callable[[Ask], float]
    seed: Name
    dcgm: Name | None = None
    smi: Name | None = None
    counter: bool = False
    mig: str = ""

    def called(self, names: str) -> Name | None:
        return self.seed if names == "seed" else self.dcgm if names == "dcgm" else self.smi


def _smi(name: str, unit: str = "", scale: float = 1.0) -> Name:
    return Name(f"nvidia_smi_{name}", unit, scale)


def _dcgm(name: str, unit: str = "", scale: float = 1.0) -> Name:
    return Name(f"DCGM_FI_DEV_{name}", unit, scale)


def _memory(what: str, help_: str, dcgm: str) -> Field:
    return Field(
        help_, lambda ask: float(getattr(ask.memory(), what)),
        Name(f"gpu_memory_{what}_gb", "GiB, 2^30 bytes", 1 / GIB), _dcgm(dcgm, "MiB", 1 / MIB), _smi(f"memory_{what}_bytes"),
        mig=what,
    )  # fmt: skip


def _clock(word: str, constant: str, dcgm: str, smi: str, most: bool = False) -> Field:
    name, call, help_ = ("gpu_clock_max_hertz", "MaxClockInfo", "The most that the clock may be") if most else (
        "gpu_clock_hertz", "ClockInfo", "The clock")  # fmt: skip
    which = f"clocks_{'max' if most else 'current'}_{smi}_clock_hz"
    return Field(
        f"{help_}.", lambda ask: float(ask(call, constant)), Name(name, scale=1e6, labels=(("clock", word),)),
        _dcgm(dcgm, "MHz") if dcgm else None, _smi(which, scale=1e6),
    )  # fmt: skip


def _limit(call: str, seed: str, help_: str, dcgm: str, smi: str) -> Field:
    return Field(help_, lambda ask: float(ask(call)) / 1000, Name(seed), _dcgm(dcgm, "W"), _smi(smi))


def _reason(word: str, bit: int) -> Field:
    return Field(
        "1 = the clocks are lower for this reason.", lambda ask: float(bool(ask.reasons() & bit)),
        Name("gpu_throttle_reason", labels=(("reason", word),)), None, _smi(f"clocks_event_reasons_{word}"),
    )  # fmt: skip


def _ecc(error: str, since: str, dcgm: str) -> Field:
    constants = f"NVML_MEMORY_ERROR_TYPE_{error.upper()}", f"NVML_{since.upper()}_ECC"
    return Field(
        "Memory errors: volatile = since the driver was loaded, aggregate = ever.",
        lambda ask: float(ask("TotalEccErrors", *constants)),
        Name("gpu_ecc_errors_total", labels=(("error", error), ("count", since))), _dcgm(dcgm),
        _smi(f"ecc_errors_{error}_{since}_total"), counter=True,
    )  # fmt: skip


def _link(call: str, seed: str, help_: str, dcgm: str, smi: str) -> Field:
    return Field(help_, lambda ask: float(ask(call)), Name(seed), _dcgm(dcgm), _smi(smi))


def _traffic(way: str, help_: str) -> Field:
    constant = f"NVML_PCIE_UTIL_{way.upper()}_BYTES"
    return Field(
        f"{help_} over PCIe, in the 20 ms before.", lambda ask: float(ask("PcieThroughput", constant)),
        Name("gpu_pcie_bytes_per_second", scale=1000, labels=(("direction", way),)),
        _dcgm(f"PCIE_{way.upper()}_THROUGHPUT", "KB/s"), _smi(f"pcie_throughput_{way}_bytes_per_second", scale=1000),
    )  # fmt: skip


def _rows(part: int, word: str, help_: str, dcgm: str, smi: str) -> Field:
    counted = part < 2
    seed = Name("gpu_remapped_rows", labels=(("error", word),)) if counted else Name(f"gpu_row_remap_{word}")
    return Field(help_, lambda ask: float(ask("RemappedRows")[part]), seed, _dcgm(dcgm), _smi(smi) if smi else None)


def _state(ask: Ask) -> float:
    said = int(ask("PerformanceState"))
    return float(said) if said < 16 else -1.0  # (32: it does not know)


FIELDS: Final[tuple[Field, ...]] = (
    # The five of the page.
    Field("How much of the time a kernel ran.", lambda ask: float(ask("UtilizationRates").gpu),
          Name("gpu_utilization_percent"), _dcgm("GPU_UTIL", "%"), _smi("utilization_gpu_ratio", scale=0.01)),
    _memory("used", "Memory that is in use.", "FB_USED"),
    _memory("free", "Memory that is free.", "FB_FREE"),
    Field("Temperature of the chip.",
          lambda ask: float(ask("Temperature", "NVML_TEMPERATURE_GPU")),
          Name("gpu_temperature_celsius"), _dcgm("GPU_TEMP", "degrees C"), _smi("temperature_gpu", "degrees C")),
    Field("What it draws now.", lambda ask: float(ask("PowerUsage")) / 1000,
          Name("gpu_power_watts"), _dcgm("POWER_USAGE", "W"), _smi("power_draw_watts")),
    # Memory, and who is busy.
    _memory("total", "All memory.", "FB_TOTAL"),
    _memory("reserved", "Memory that the driver keeps for itself.", "FB_RESERVED"),
    Field("How much of the time memory was read or written.", lambda ask: float(ask("UtilizationRates").memory),
          Name("gpu_memory_utilization_percent"), _dcgm("MEM_COPY_UTIL", "%"), _smi("utilization_memory_ratio", scale=0.01)),
    Field("How busy the encoder is.", lambda ask: float(ask("EncoderUtilization")[0]),
          Name("gpu_encoder_utilization_percent"), _dcgm("ENC_UTIL", "%"), _smi("utilization_encoder_ratio", scale=0.01)),
    Field("How busy the decoder is.", lambda ask: float(ask("DecoderUtilization")[0]),
          Name("gpu_decoder_utilization_percent"), _dcgm("DEC_UTIL", "%"), _smi("utilization_decoder_ratio", scale=0.01)),
    # Heat and power.
    Field("Temperature of the memory.", lambda ask: ask.field("NVML_FI_DEV_MEMORY_TEMP"),
          Name("gpu_memory_temperature_celsius"), _dcgm("MEMORY_TEMP", "degrees C"), _smi("temperature_memory", "degrees C")),
    Field("How fast its fan is asked to turn.", lambda ask: float(ask("FanSpeed")),
          Name("gpu_fan_speed_percent"), _dcgm("FAN_SPEED", "%"), _smi("fan_speed_ratio", scale=0.01)),
    _limit("PowerManagementLimit", "gpu_power_limit_watts", "What it may draw.", "POWER_MGMT_LIMIT", "power_limit_watts"),
    _limit("EnforcedPowerLimit", "gpu_power_enforced_limit_watts", "What it may draw, by whichever limit is lowest.",
           "ENFORCED_POWER_LIMIT", "enforced_power_limit_watts"),
    _limit("PowerManagementDefaultLimit", "gpu_power_default_limit_watts", "What it may draw where nobody has said.",
           "POWER_MGMT_LIMIT_DEF", "power_default_limit_watts"),
    Field("What it has drawn since the driver was loaded.", lambda ask: float(ask("TotalEnergyConsumption")),
          Name("gpu_energy_joules_total", scale=0.001), _dcgm("TOTAL_ENERGY_CONSUMPTION", "mJ"),
          _smi("energy_joules_total", scale=0.001), counter=True),
    Field("Its performance state: 0 = the fastest, 15 = the slowest.", _state,
          Name("gpu_performance_state"), _dcgm("PSTATE"), _smi("pstate")),
    # Clocks.
    _clock("sm", "NVML_CLOCK_SM", "SM_CLOCK", "sm"),
    _clock("memory", "NVML_CLOCK_MEM", "MEM_CLOCK", "memory"),
    _clock("graphics", "NVML_CLOCK_GRAPHICS", "", "graphics"),
    _clock("video", "NVML_CLOCK_VIDEO", "VIDEO_CLOCK", "video"),
    _clock("sm", "NVML_CLOCK_SM", "MAX_SM_CLOCK", "sm", most=True),
    _clock("memory", "NVML_CLOCK_MEM", "MAX_MEM_CLOCK", "memory", most=True),
    Field("Why the clocks are lower than they could be, as NVML's bits.", lambda ask: float(ask.reasons()),
          Name("gpu_throttle_reasons"), _dcgm("CLOCK_THROTTLE_REASONS"), _smi("clocks_event_reasons_active")),
    *(_reason(word, 1 << bit) for bit, word in enumerate((
        "gpu_idle", "applications_clocks_setting", "sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal_slowdown",
        "hw_thermal_slowdown", "hw_power_brake_slowdown", "display_clock_setting",
    ))),
    # What has gone wrong in its memory.
    Field("1 = memory errors are corrected.", lambda ask: float(ask("EccMode")[0]),
          Name("gpu_ecc_mode"), _dcgm("ECC_CURRENT"), _smi("ecc_mode_current")),
    _ecc("corrected", "volatile", "ECC_SBE_VOL_TOTAL"),
    _ecc("uncorrected", "volatile", "ECC_DBE_VOL_TOTAL"),
    _ecc("corrected", "aggregate", "ECC_SBE_AGG_TOTAL"),
    _ecc("uncorrected", "aggregate", "ECC_DBE_AGG_TOTAL"),
    _rows(0, "corrected", "Rows that others stand in for.", "CORRECTABLE_REMAPPED_ROWS", ""),
    _rows(1, "uncorrected", "Rows that others stand in for.", "UNCORRECTABLE_REMAPPED_ROWS", ""),
    _rows(2, "pending", "1 = a row is replaced at the next reset.", "ROW_REMAP_PENDING", "remapped_rows_pending"),
    _rows(3, "failure", "1 = a row could not be replaced.", "ROW_REMAP_FAILURE", "remapped_rows_failure"),
    # PCIe.
    _link("CurrPcieLinkGeneration", "gpu_pcie_link_generation", "Generation of its PCIe link now.", "PCIE_LINK_GEN",
          "pcie_link_gen_current"),
    _link("MaxPcieLinkGeneration", "gpu_pcie_link_generation_max", "The most that it and the machine can.",
          "PCIE_MAX_LINK_GEN", "pcie_link_gen_max"),
    _link("CurrPcieLinkWidth", "gpu_pcie_link_width", "Lanes of its PCIe link now.", "PCIE_LINK_WIDTH",
          "pcie_link_width_current"),
    _link("MaxPcieLinkWidth", "gpu_pcie_link_width_max", "The most that it and the machine can.", "PCIE_MAX_LINK_WIDTH",
          "pcie_link_width_max"),
    _traffic("tx", "Sent"),
    _traffic("rx", "Received"),
    Field("Times that something was sent again over PCIe.", lambda ask: float(ask("PcieReplayCounter")),
          Name("gpu_pcie_replays_total"), _dcgm("PCIE_REPLAY_COUNTER"), None, counter=True),
    # How it is set up.
    Field("1 = it is divided into MIG instances.", lambda ask: float(ask("MigMode")[0]),
          Name("gpu_mig_mode"), _dcgm("MIG_MODE"), _smi("mig_mode_current")),
)  # fmt: skip
