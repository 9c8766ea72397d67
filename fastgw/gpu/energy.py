"""What each GPU has drawn: joules as its own counter has them, or its power by the time between readings where it has none.

Owns: the choice between the two, for each GPU once and for all (a counter that fails for a moment must not become another one),
and what has been added up. Must never: guess what was drawn while nobody read: a pause of more than :data:`MAX_PAUSE_S` adds
nothing. Invariant: what is added up never falls; a GPU's own counter begins anew with its driver.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fastgw.gpu.fields import FIELDS
from fastgw.gpu.reading import MOST_GPUS, Reading

MAX_PAUSE_S: Final = 60.0
"""Between two readings of a GPU whose power is added up; what it drew in a longer one is not known."""

_ROWS: Final = {field.seed.name: row for row, field in enumerate(FIELDS)}
_ENERGY: Final = _ROWS["gpu_energy_joules_total"]
_POWER: Final = _ROWS["gpu_power_watts"]
_SCALE: Final = FIELDS[_ENERGY].seed.scale


class _Sum(NamedTuple):
    """Joules up to a reading, and what it drew then."""

    joules: float
    watts: float
    at: float


class Meter:
    """See the head of this file. ``indexes``: the UUID of each GPU, by the index that it had first: where one has fallen off
    the bus the driver counts those behind it anew, and whose they are stays as it is."""

    def __init__(self) -> None:
        self.joules: dict[str, float] = {}
        self.indexes: dict[int, str] = {}
        self._sums: dict[str, _Sum | None] = {}  # None: it has a counter

    def take(self, reading: Reading) -> None:
        """Go by ``reading`` from now on: a GPU that does not answer is not in :attr:`joules`."""
        self.joules = {}
        for card in reading.cards:
            if not (card.up and card.uuid) or (card.uuid not in self._sums and len(self._sums) >= MOST_GPUS):
                continue
            counted = card.values.get(_ENERGY)
            if counted is not None:
                self._sums[card.uuid] = None
                self.joules[card.uuid] = counted * _SCALE
            elif _POWER in card.values and self._sums.get(card.uuid, True) is not None:
                self.joules[card.uuid] = self._added(card.uuid, card.values[_POWER], reading.at)
            if card.uuid not in self.indexes.values():
                self.indexes[card.index] = card.uuid

    def _added(self, uuid: str, watts: float, now: float) -> float:
        last = self._sums.get(uuid)
        joules = 0.0
        if last is not None:
            joules = last.joules
            if 0 <= now - last.at <= MAX_PAUSE_S:
                joules += (last.watts + watts) / 2 * (now - last.at)
        self._sums[uuid] = _Sum(joules, watts, now)
        return joules
