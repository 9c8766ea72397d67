"""A reading as Prometheus text (format 0.0.4), by the sets of names that were asked for.

Written out here, for the names are other programs': prometheus_client has every counter end in ``_total``, which DCGM's do not.
Must never: have a label of what a client sent, a line break in one, or the same series twice (Prometheus then takes nothing of
the page). A label that is empty is left out, which is the same to Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from fastgw.gpu.fields import FIELDS, GIB, Field
from fastgw.gpu.reading import Card, Reading

MAX_LABEL_CHARS: Final = 128
_ESCAPED: Final = {**dict.fromkeys((*range(32), 127), " "), ord("\\"): "\\\\", ord('"'): '\\"'}

Labels = Iterable[tuple[str, str]]


def pairs(labels: Labels) -> str:
    """As they stand between the braces."""
    return ",".join(f'{key}="{text[:MAX_LABEL_CHARS].translate(_ESCAPED)}"' for key, text in labels if text)


class Page:
    """Metrics in the order of their first sample, the samples of each together."""

    def __init__(self) -> None:
        self._metrics: dict[str, tuple[str, dict[str, float]]] = {}

    def add(self, name: str, help_: str, kind: str, value: float, *labels: str) -> None:
        """One sample; a second of the same labels is left out."""
        if name not in self._metrics:
            self._metrics[name] = f"# HELP {name} {help_}\n# TYPE {name} {kind}\n", {}
        self._metrics[name][1].setdefault(",".join(filter(None, labels)), value)

    def text(self) -> bytes:
        parts = []
        for name, (head, samples) in self._metrics.items():
            parts.append(head)
            for labels, value in samples.items():
                number = str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
                parts.append(f"{name}{{{labels}}} {number}\n" if labels else f"{name} {number}\n")
        return "".join(parts).encode()


def rendered(reading: Reading, names: Sequence[str], host: str) -> bytes:
    """All GPUs of a reading. ``host``: what ``dcgm`` calls this machine. (1 ms for each GPU under all names.)"""
    page = Page()
    _identities(page, reading, names)
    for one in names:
        there = [(card, pairs(_labels(one, card, reading, host))) for card in reading.cards]
        for row, field in enumerate(FIELDS):
            called = field.called(one)
            if called is None:
                continue
            help_ = f"{field.help} In {called.unit}." if called.unit else field.help
            kind = "counter" if field.counter else "gauge"
            own = pairs(called.labels)
            for card, whose in there:
                for part, values in _parts(card, field) if one == "dcgm" else (("", card.values),):
                    if row in values:
                        page.add(called.name, help_, kind, values[row] * called.scale, whose, own, part)
        if one != "dcgm":
            _below(page, one, there)
    return page.text()


def _parts(card: Card, field: Field) -> Iterable[tuple[str, Mapping[int, float]]]:
    """A GPU's readings, or those of its MIG instances: dcgm-exporter has one or the other."""
    if not (field.mig and card.instances):
        return (("", card.values),)
    return [(pairs((("GPU_I_PROFILE", one.profile), ("GPU_I_ID", one.gpu_instance))), one.values) for one in card.instances]


def _labels(names: str, card: Card, reading: Reading, host: str) -> tuple[tuple[str, str], ...]:
    if names == "seed":
        return ("gpu", str(card.index)), ("uuid", card.uuid)
    if names == "nvidia_smi":
        return (("uuid", card.uuid.lower().removeprefix("gpu-")),)  # as that exporter has it
    device = f"nvidia{card.minor}" if card.minor else ""
    return (
        ("gpu", str(card.index)), ("UUID", card.uuid), ("pci_bus_id", card.bus_id), ("device", device),
        ("modelName", card.name), ("Hostname", host), ("DCGM_FI_DRIVER_VERSION", reading.driver),
    )  # fmt: skip


def _identities(page: Page, reading: Reading, names: Sequence[str]) -> None:
    """What other series are joined with."""
    for card in reading.cards:
        which = pairs(_labels("seed", card, reading, ""))
        page.add("gpu_up", "1 = the GPU answers, 0 = it did, and is lost.", "gauge", int(card.up), which)
        if not card.up:
            continue
        more = pairs((
            ("name", card.name), ("pci_bus_id", card.bus_id), ("driver_version", reading.driver),
            ("cuda_version", reading.cuda), ("vbios_version", card.vbios),
        ))  # fmt: skip
        page.add("gpu_info", "Which GPU it is.", "gauge", 1, which, more)
        if "nvidia_smi" in names:
            own = pairs((*_labels("nvidia_smi", card, reading, ""), ("index", str(card.index))))
            page.add("nvidia_smi_gpu_info", "Which GPU it is.", "gauge", 1, own, more)


def _below(page: Page, names: str, cards: Iterable[tuple[Card, str]]) -> None:
    """MIG instances and processes, each with the labels of its GPU."""
    ours = names == "seed"
    total = "gpu_processes" if ours else "nvidia_smi_compute_apps"
    used = "gpu_process_memory_used_gb" if ours else "nvidia_smi_compute_app_used_memory_bytes"
    mig, unit, scale = ("gpu_mig", "gb", 1 / GIB) if ours else ("nvidia_smi_mig", "bytes", 1.0)
    told = "In GiB, 2^30 bytes." if ours else "In bytes."
    for card, whose in cards:
        for one in card.instances:
            group = pairs((("gpu_instance_id", one.gpu_instance),))
            rest = (("mig_uuid", one.uuid), ("compute_instance_id", one.compute_instance), ("profile", one.profile))
            page.add(f"{mig}_info", "A MIG instance of the GPU.", "gauge", 1, whose, group, pairs(rest))
            # (Compute instances share the memory of their GPU instance: it is there once.)
            for row, value in one.values.items():
                what = FIELDS[row].mig
                help_ = f"Memory of a MIG instance: {what}. {told}"
                page.add(f"{mig}_memory_{what}_{unit}", help_, "gauge", value * scale, whose, group)
        if card.processes_total >= 0:
            page.add(total, "Processes that compute on it.", "gauge", card.processes_total, whose)
        for process in card.processes:
            who = pairs((("pid", str(process.pid)), ("process_name", process.name), ("gpu_instance_id", process.instance)))
            page.add(used, f"Memory that a process has. {told}", "gauge", process.used_bytes * scale, whose, who)


def of_itself(reading: Reading, *, up: bool, age_s: float, late: int, readings: int, version: str) -> bytes:
    """How the exporter is. ``up``: the reading is of now, and the driver was there; ``late``: readings not waited for."""
    page = Page()
    add = page.add
    add("gpu_exporter_up", "1 = the driver was asked just now, 0 = it is not there, or does not answer.", "gauge", int(up))
    labels = (
        ("version", version), ("driver_version", reading.driver), ("nvml_version", reading.nvml),
        ("cuda_version", reading.cuda), ("state", reading.state),
    )  # fmt: skip
    add("gpu_exporter_info", "What runs, and how the driver is.", "gauge", 1, pairs(labels))
    add("gpu_exporter_gpus", "GPUs that the driver counts.", "gauge", reading.gpus)
    add("gpu_exporter_reading_age_seconds", "How old the figures are.", "gauge", age_s)
    add("gpu_exporter_reading_seconds", "How long the driver took to give them.", "gauge", reading.took_s)
    add("gpu_exporter_readings_total", "Readings that have ended.", "counter", readings)
    add("gpu_exporter_late_total", "Readings that were not waited for any longer.", "counter", late)
    for word, count in sorted(reading.errors.items()):
        which = pairs((("error", word),))
        add("gpu_exporter_errors_total", "What the driver did not give, and should have.", "counter", count, which)
    return page.text()
