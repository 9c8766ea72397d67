"""``python -m tests.fuzz.cost --seconds 60``: looks for an input that costs a reader too much, in the twin that is running.

Every made-up shape at every size first, then changes of what was dearest, for as long as there is time. Ends with the
dearest of each reader, in ordinary inputs of the same size; over the bound the input is saved and the exit status is 1.
Costs are times: nothing else should be running.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastgw import twins
from tests.support.costs import Reader, Reads, cut, readers, running, total

FOLDER = Path(__file__).parents[2] / "build" / "fuzz" / "cost"
KEPT = 24
LINE_EVERY_S = 10.0
SLOW_BYTES = 1 << 20
"""From here on an input is tried only as it was made up: one try takes as long as a thousand small ones."""

WORDS = (
    b'"', b"\\", b"\\u0061", b"{", b"}", b"[", b"]", b",", b":", b"1", b"1e9", b" ", b"\n", b"\r", b"\r\n", b"\r\n\r\n",
    b"\n\n", b"data: ", b"data:", b"event: ", b'"usage"', b'"model":', b'"m\\u006fdel":', b'"stream_options":{',
    b'"choices":[', b"_", b"\t", b"0\r\n", b"1\r\na\r\n", b";x=", b"Connection: ", b"Host: a\r\n", b"x-request-id: ",
    b"# TYPE ", b"vllm:", b'{le="1"} ', b"\xff", b"\xe4\xbd\xa0", b"\x00", b"null", b"true", b'"a":1,', b'"index":0',
    b'"embedding":[0.1,', b'"id":"',
)  # fmt: skip


@dataclass
class Search:
    """The dearest inputs of one reader so far, the very dearest first."""

    reader: Reader
    best: list[tuple[float, str, Reads]] = field(default_factory=list)
    tried: int = 0

    def add(self, name: str, reads: Reads) -> None:
        self.tried += 1
        ratio = self.reader.cost(reads, 1) / self.reader.plain_cost(total(reads) // self.reader.turns)
        if len(self.best) == KEPT and ratio <= self.best[-1][0]:
            return
        # What was only disturbed is not dear.
        ratio = min(ratio, self.reader.ratio(reads))
        self.best.append((ratio, name, reads))
        self.best.sort(key=lambda one: -one[0])
        del self.best[KEPT:]

    def made_up(self) -> Iterator[tuple[str, Reads]]:
        for size in self.reader.sizes:
            for name, reads in self.reader.made_up(size):
                yield f"{name}, {size} B", reads

    def vary(self, chance: random.Random) -> None:
        small = [one for one in self.best if total(one[2]) < SLOW_BYTES]
        if not small:
            return
        _, name, reads = chance.choice(small)
        other = chance.choice(small)[2]
        seed = chance.random()
        if self.reader.turns > 1:
            # Each one changed in the same way: what they have in common stays, and so does what is new in each.
            new = [changed(one, other[at % len(other)], random.Random(seed)) for at, one in enumerate(reads)]
        else:
            data = changed(b"".join(reads), b"".join(other), random.Random(seed))
            new = cut(data, len(reads[0])) if len(reads) > 1 else [data]
        if all(new) and total(new) >= 0.5 * total(reads):
            self.add(name if name.endswith("changed") else f"{name}, changed", new)


def changed(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """``data`` with something of itself, of another input or of the words put in, perhaps many times; no longer than it was."""
    new = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(new) + 1)
        what = chance.randrange(5)
        if what == 0:
            piece = chance.choice(WORDS)
        elif what == 1:
            start = chance.randrange(len(other))
            piece = other[start : start + chance.choice((1, 4, 16, 64))]
        else:
            start = chance.randrange(len(data))
            piece = data[start : start + chance.choice((1, 2, 4, 8, 16))]
        times = chance.choice((1, 1, 4, max(1, len(data) // (2 * len(piece)))))
        if chance.random() < 0.7:
            new[at : at + len(piece) * times] = piece * times
        else:
            new[at:at] = piece * times
    return bytes(new[: len(data)])


def search(seconds: float, names: list[str], seed: int) -> list[Search]:
    """Search all readers, or those named, in turn; what was found."""
    searches = [Search(reader) for reader in readers(running()) if not names or reader.name in names]
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    told = time.monotonic()
    waiting = [(one, one.made_up()) for one in searches]
    while time.monotonic() < end:
        for one, shapes in list(waiting):
            try:
                one.add(*next(shapes))
            except StopIteration:
                waiting.remove((one, shapes))
        if not waiting:
            for one in searches:
                one.vary(chance)
        if time.monotonic() - told > LINE_EVERY_S:
            told = time.monotonic()
            ratio, name, worst = max((one.best[0][0], one.best[0][1], one.reader.name) for one in searches if one.best)
            print(f"  {sum(one.tried for one in searches)} inputs, the dearest {ratio:.1f} x: {worst}: {name}", flush=True)
    if waiting:
        print(f"  note: of {', '.join(one.reader.name for one, _ in waiting)} not every shape was tried; give it more time")
    return searches


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.cost", description=__doc__.partition("\n")[0])
    parser.add_argument("readers", nargs="*", help="names of readers (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is changed at random")
    options = parser.parse_args()
    twin = "native" if twins.native() else "python"
    found = [one for one in search(options.seconds, options.readers, options.seed) if one.best]
    for one in found:
        ratio, name, reads = one.best[0]
        # Once more at the end, when the processor has settled.
        ratio = min(ratio, one.reader.ratio(reads))
        print(f"  {one.reader.name:22} {ratio:5.1f} x  {one.tried:6} inputs  ({name})")
        one.best[0] = (ratio, name, reads)
    over = [one for one in found if one.best[0][0] > one.reader.bound]
    for one in over:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{twin}-{one.reader.name.replace(' ', '-')}"
        path.write_bytes(b"".join(one.best[0][2]))
        print(f"  over {one.reader.bound:g} x; saved: {path} ({len(one.best[0][2])} reads)")
    return 1 if over or not found else 0


if __name__ == "__main__":
    sys.exit(main())
