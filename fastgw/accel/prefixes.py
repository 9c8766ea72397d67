"""Which prompts begin alike, and at which engines such a beginning was last: a table of hashes of blocks.

A prompt is cut into blocks, each of which is hashed together with all before it: equal hashes are equal beginnings. Blocks grow
with their place, 16 of each size from 512 bytes on, so that a prompt of 400 kB has a hundred of them and none is longer than a
sixteenth of what lies before it (but for the first 16). What lies behind a megabyte is not looked at: whose first megabyte is
alike goes to one engine. A remainder that fills no block tells nothing.

Of each engine (a *slot* here) the blocks are known that it was sent last, up to so many bytes as its own cache is thought to
hold; the deeper ones of a prompt are forgotten before those that it shares with others, as engines do it. The whole table has a
hard ceiling of bytes: it is allocated once, and who is new takes the place of who was not used for longest.

Invariants: no text is kept, and no hash can be made up from outside, for they are keyed; the table never grows. The twins hash
differently, and agree in everything else.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

FIRST_BYTES: Final = 512
STEP: Final = 16  # blocks of one size
MOST_BLOCKS: Final = 112  # of seven sizes: a megabyte
MOST_HOLDERS: Final = 8  # engines that are known to have one beginning: the latest
MOST_SLOTS: Final = 4096
NODE_BYTES: Final = 40  # that one block at one engine takes of the table, as compiled; of the pure Python twin ten times that
FEWEST_NODES: Final = 64
SECRET_BYTES: Final = 40


class Prefixes:
    """See the head of this file. ``secret``: :data:`SECRET_BYTES` of them, which nobody else knows. ``most_bytes``: of the
    whole table. ``slot_bytes``: of prompts that each engine has at hand.

    :meth:`look` hashes a prompt; ``count`` blocks it has then, and ``found`` engines are known to have had it or its beginning:
    :meth:`holder` and :meth:`held` tell of each. :meth:`put` says where it went.
    """

    __slots__ = (
        "_at", "_blocks", "_found", "_free", "_hand", "_held", "_lru", "_secret", "_sizes", "_slots", "_taken", "_ticks",
        "_turn", "count", "found", "most_bytes", "slot_bytes",
    )  # fmt: skip

    def __init__(self, secret: bytes, most_bytes: int, slot_bytes: int) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes")
        self._secret = secret
        self.most_bytes = most_bytes
        self._free = max(most_bytes // NODE_BYTES, FEWEST_NODES)
        self.slot_bytes = slot_bytes
        self._at: dict[bytes, list[int]] = {}  # the slots that have a block, the latest first
        self._lru: list[dict[bytes, int]] = []  # of each slot its blocks, and their sizes; the one used last is the last
        self._taken: list[int] = []  # bytes of each slot
        self._ticks: list[int] = []  # when it was used last
        self._slots: dict[str, int] = {}
        self._turn = 0
        self._hand = 0
        self._blocks: list[bytes] = []  # of the prompt that was looked at last
        self._sizes: list[int] = []
        self._found: list[int] = []
        self._held: list[int] = []
        self.count = 0
        self.found = 0

    # --- slots
    def slot(self, name: str) -> int:
        """The slot of the engine ``name``; where there are too many, that of the engine that was not used for longest."""
        slot = self._slots.get(name)
        if slot is not None:
            return slot
        if len(self._slots) >= MOST_SLOTS:
            gone = min(self._slots, key=lambda one: self._ticks[self._slots[one]])
            slot = self._slots.pop(gone)
            self.forget(slot)
        else:
            slot = len(self._slots)
            self._lru.append({})
            self._taken.append(0)
            self._ticks.append(0)
        self._turn += 1
        self._ticks[slot] = self._turn
        self._slots[name] = slot
        return slot

    def forget(self, slot: int) -> None:
        """The engine has nothing any more."""
        while self._lru[slot]:
            self._drop_oldest(slot)

    def taken(self, slot: int) -> int:
        """Bytes of prompts that the engine is thought to have at hand."""
        return self._taken[slot]

    def nodes(self) -> int:
        """Blocks at engines that there is room for still."""
        return self._free

    # --- a prompt
    def look(self, body: bytes, start: int, end: int, seed: int) -> int:
        """Hash ``body`` from ``start`` to ``end``; ``seed`` tells prompts apart that are nothing to each other. Returns how
        many blocks it has; ``found`` engines have had some of them, the one with most first."""
        blocks: list[bytes] = []
        sizes: list[int] = []
        self._blocks, self._sizes = blocks, sizes
        self._found = []
        self._held = []
        self.found = 0
        self.count = 0
        if start < 0 or end > len(body):
            return 0
        known = (seed & (1 << 64) - 1).to_bytes(8, "little")
        size = FIRST_BYTES
        at = start
        while at + size <= end and len(blocks) < MOST_BLOCKS:
            known = blake2b(known + body[at : at + size], digest_size=8, key=self._secret).digest()
            blocks.append(known)
            sizes.append(size)
            at += size
            if len(blocks) % STEP == 0:
                size *= 2
        self.count = len(blocks)
        held = at - start
        for place in range(len(blocks) - 1, -1, -1):
            for slot in self._at.get(blocks[place], ()):
                if slot not in self._found:
                    self._found.append(slot)
                    self._held.append(held)
                    if len(self._found) == MOST_HOLDERS:
                        self.found = MOST_HOLDERS
                        return self.count
            held -= sizes[place]
        self.found = len(self._found)
        return self.count

    def holder(self, number: int) -> int:
        """The slot of the engine ``number`` of those that were found."""
        return self._found[number]

    def held(self, number: int) -> int:
        """Bytes of the prompt that it has had."""
        return self._held[number]

    def put(self, slot: int) -> None:
        """The prompt that was looked at last goes to the engine of ``slot``."""
        self._turn += 1
        self._ticks[slot] = self._turn
        lru = self._lru[slot]
        for place in range(self.count - 1, -1, -1):
            block = self._blocks[place]
            size = lru.pop(block, 0)
            if not size:
                size = self._sizes[place]
                self._make_room(slot)
                self._free -= 1
                holders = self._at.setdefault(block, [])
                if len(holders) == MOST_HOLDERS:
                    self._drop(block, holders[-1])
                holders.insert(0, slot)
                self._taken[slot] += size
            lru[block] = size
        while self._taken[slot] > self.slot_bytes:
            self._drop_oldest(slot)

    def _make_room(self, slot: int) -> None:
        if self._free:
            return
        if not self._lru[slot]:
            while not self._lru[self._hand]:
                self._hand = (self._hand + 1) % len(self._lru)
            slot = self._hand
            self._hand = (self._hand + 1) % len(self._lru)
        self._drop_oldest(slot)

    def _drop_oldest(self, slot: int) -> None:
        self._drop(next(iter(self._lru[slot])), slot)

    def _drop(self, block: bytes, slot: int) -> None:
        self._taken[slot] -= self._lru[slot].pop(block)
        self._free += 1
        holders = self._at[block]
        holders.remove(slot)
        if not holders:
            del self._at[block]
