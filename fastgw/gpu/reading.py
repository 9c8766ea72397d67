"""One reading of all GPUs after another: what is there, and what is not for now.

    closed ---- the library opens ----> open ---- it says that it is not, or a GPU is lost ----> opened again, after a pause
       ^                                                                                              |
       +----------------- it does not: a pause, longer each time, MAX_PAUSE_S at most ----------------+

Owns: the order of calls, the pauses, and what is remembered of a GPU that has been seen: one that is lost stays in the
readings, by its UUID, as down. What one GPU does not give is absent for it, and all the rest stays. Must never: run in the
loop, or raise (what is wrong is in the reading). Invariant: nothing in a reading has more of anything than its bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Final

import msgspec

from fastgw.errors import described
from fastgw.gpu.driver import Absent, Driver, Gpu, Lost, NoDriver
from fastgw.gpu.fields import FIELDS

MOST_GPUS: Final = 64
"""That are read, and of those that were, remembered. (No machine has more than sixteen yet.)"""
MOST_INSTANCES: Final = 16
"""Of MIG, for each GPU. (NVML has seven at most.)"""
MOST_PROCESSES: Final = 1024
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
_LARGEST: Final = float(1 << 63)
"""A number from here on is one that NVML says for "not available"."""


class Process(msgspec.Struct, frozen=True):
    """One that computes on a GPU. ``name`` is the kernel's for it, "" where we do not see it; ``instance``: of MIG."""

    pid: int
    name: str
    used_bytes: int
    instance: str = ""


class Instance(msgspec.Struct, frozen=True):
    """A MIG instance. ``values`` by the index of their row; those of instances that share memory are the same."""

    uuid: str
    profile: str
    gpu_instance: str
    compute_instance: str
    values: Mapping[int, float]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU. ``values`` by the index of their row in ``FIELDS``; not ``up``: it was seen, and does not answer now."""

    index: int
    uuid: str
    up: bool
    name: str = ""
    bus_id: str = ""
    minor: str = ""
    vbios: str = ""
    values: Mapping[int, float] = {}
    processes: Sequence[Process] = ()
    processes_total: int = -1
    instances: Sequence[Instance] = ()


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a reading found, ``at`` a time of the clock. ``state``: "ok", or a word for why the driver cannot be asked, and
    ``detail`` what to do. ``errors``: how many of each kind there have been since the start."""

    at: float
    took_s: float = 0.0
    state: str
    detail: str = ""
    cards: Sequence[Card] = ()
    gpus: int = 0
    driver: str = ""
    nvml: str = ""
    cuda: str = ""
    errors: Mapping[str, int] = {}


def kernels_name(pid: int) -> str:
    """What the kernel calls a process (15 bytes; not its command line, which may hold anything), "" where we do not see it."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read(64).decode("utf-8", "replace").strip()
    except OSError:
        return ""


class Reader:
    """See the head of this file. ``processes``: how many are told for each GPU, those with most memory; ``clock`` in seconds;
    ``comm`` says what the kernel calls a process."""

    def __init__(
        self, driver: Driver, processes: int, clock: Callable[[], float] = monotonic, comm: Callable[[int], str] = kernels_name
    ) -> None:
        self._driver = driver
        self._processes = min(processes, MOST_PROCESSES)
        self._clock = clock
        self._comm = comm
        self._errors: Counter[str] = Counter()
        self._known: dict[str, Card] = {}  # by UUID: those that answered once
        self._again_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._lost = False
        self._why = NoDriver("starting", "")
        self._versions = {"driver": "", "nvml": "", "cuda": ""}

    def read(self) -> Reading:
        """The next one; takes as long as the driver does."""
        began = self._clock()
        cards: list[Card] = []
        count = 0
        try:
            self._open(began)
            count = int(self._driver.system("DeviceGetCount"))
            cards = self._cards(min(count, MOST_GPUS))
            state, detail = "ok", ""
        except NoDriver as error:
            self._gone(error)
            state, detail = error.word, str(error)
        except Exception as error:  # (a driver's library may say anything)
            state, detail = "unexpected", described(error)
            self._errors[state] += 1
        now = self._clock()
        there = {card.uuid for card in cards}
        cards += [_down(card) for card in self._known.values() if card.uuid not in there]
        return Reading(
            at=now, took_s=now - began, state=state, detail=detail, cards=cards, gpus=count, errors=dict(self._errors),
            **(self._versions if state == "ok" else {}),
        )  # fmt: skip

    def close(self) -> None:
        self._driver.stop()

    # --- the driver
    def _open(self, now: float) -> None:
        """Have it open; raises :class:`NoDriver`. A lost GPU is seen again only by who opens it anew (so NVML has it)."""
        if self._driver.open and not self._lost:
            return
        if now < self._again_at:
            if self._driver.open:
                return  # (the others are there)
            raise self._why
        self._driver.stop()
        self._wait(now)
        self._driver.start()
        if not self._lost:
            self._pause_s = FIRST_PAUSE_S
        told = self._driver.told
        cuda = told("SystemGetCudaDriverVersion")
        number = int(cuda) if cuda.isdigit() else 0
        self._versions = {
            "driver": told("SystemGetDriverVersion"), "nvml": told("SystemGetNVMLVersion"),
            "cuda": f"{number // 1000}.{number % 1000 // 10}" if number else "",
        }  # fmt: skip

    def _wait(self, now: float) -> None:
        self._again_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def _gone(self, error: NoDriver) -> None:
        if error is not self._why:
            self._errors[error.word] += 1
            self._why = error
        self._driver.stop()

    # --- GPUs
    def _cards(self, count: int) -> list[Card]:
        found: dict[str, Card] = {}
        lost = False
        for index in range(count):
            card = self._card(index)
            if card is None or not card.up:
                lost = True
            if card is not None:
                # (One that has no UUID is known by its place. Two of one name would be a page that nobody reads.)
                found.setdefault(card.uuid or f"#{index}", card)
        # One that is not even counted any more is as lost.
        lost = lost or bool(self._known.keys() - found.keys())
        for key, card in found.items():
            if card.uuid and (key in self._known or len(self._known) < MOST_GPUS):
                self._known[key] = card
        if lost != self._lost:
            self._lost = lost
            self._pause_s = FIRST_PAUSE_S
            if lost:
                self._wait(self._clock())
        return list(found.values())

    def _card(self, index: int) -> Card | None:
        """None: it is lost, and is known by its UUID already or never was."""
        try:
            return self._asked(index, self._driver.gpu(index))
        except Lost:
            self._errors["gpu_lost"] += 1
        except Absent as error:
            self._errors[error.word or "other"] += 1
        return None if self._uuid_at(index) else Card(index=index, uuid="", up=False)

    def _uuid_at(self, index: int) -> str:
        """Of the GPU that was last seen there."""
        return next((card.uuid for card in self._known.values() if card.index == index), "")

    def _asked(self, index: int, gpu: Gpu) -> Card:
        uuid = gpu.text("UUID") or self._uuid_at(index)
        known = self._known.get(uuid)
        values: dict[int, float] = {}
        for row, field in enumerate(FIELDS):
            self._put(values, row, lambda field=field: field.read(gpu))  # type: ignore[misc]
        instances = self._instances(gpu)
        processes, total = self._running(gpu, instances)
        return Card(
            index=index, uuid=uuid, up=True, values=values, processes=processes, processes_total=total,
            instances=[one for one, _ in instances],
            name=known.name if known is not None else gpu.text("Name"),
            bus_id=known.bus_id if known is not None else _bus_id(gpu),
            minor=known.minor if known is not None else gpu.text("MinorNumber"),
            vbios=known.vbios if known is not None else gpu.text("VbiosVersion"),
        )  # fmt: skip

    def _put(self, values: dict[int, float], row: int, read: Callable[[], float]) -> None:
        try:
            value = read()
        except Absent as error:
            self._missed(error)
        except (AttributeError, IndexError, TypeError, ValueError):  # another pynvml than the one that this was written for
            self._errors["unexpected"] += 1
        else:
            if 0 <= value < _LARGEST:
                values[row] = value

    def _missed(self, error: Absent) -> None:
        if error.word:
            self._errors[error.word] += 1

    # --- what is below them
    def _instances(self, gpu: Gpu) -> list[tuple[Instance, Gpu]]:
        found: list[tuple[Instance, Gpu]] = []
        try:
            if not gpu("MigMode")[0]:
                return found
            most = min(int(gpu("MaxMigDeviceCount")), MOST_INSTANCES)
        except Absent:
            return found
        for index in range(most):
            try:
                part = gpu.mig(index)
                values: dict[int, float] = {}
                for row, field in enumerate(FIELDS):
                    if field.mig:
                        self._put(values, row, lambda field=field: field.read(part))  # type: ignore[misc]  # noqa: B023
                found.append((
                    Instance(
                        uuid=part.text("UUID"), profile=part.text("Name").rpartition(" MIG ")[2],
                        gpu_instance=part.text("GpuInstanceId"), compute_instance=part.text("ComputeInstanceId"), values=values,
                    ),
                    part,
                ))  # fmt: skip
            except Absent as error:
                self._missed(error)
        return found

    def _running(self, gpu: Gpu, instances: Sequence[tuple[Instance, Gpu]]) -> tuple[list[Process], int]:
        """Who computes there, those with most memory first; and how many that are, -1 = nobody says."""
        used: Counter[tuple[int, str]] = Counter()
        told = False
        for instance, part in [(one.gpu_instance, part) for one, part in instances] or [("", gpu)]:
            try:
                running = part("ComputeRunningProcesses_v3")
            except Absent as error:
                self._missed(error)
                continue
            told = True
            for one in running:
                # (Compute instances of one GPU instance may each tell of all that are in it.)
                used[int(one.pid), instance] = max(used[int(one.pid), instance], int(one.usedGpuMemory or 0))
        chosen = used.most_common(self._processes)
        return [Process(pid, self._comm(pid), size, instance) for (pid, instance), size in chosen], len(used) if told else -1


def _down(card: Card) -> Card:
    return Card(index=card.index, uuid=card.uuid, up=False, name=card.name, bus_id=card.bus_id, minor=card.minor,
                vbios=card.vbios)  # fmt: skip


def _bus_id(gpu: Gpu) -> str:
    try:
        found = gpu("PciInfo").busId
    except Absent:
        return ""
    return found.decode("ascii", "replace") if isinstance(found, bytes) else str(found)
