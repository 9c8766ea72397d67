"""Which prompts begin alike, and who has had them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fastgw.accel.prefixes import (
    FEWEST_NODES,
    FIRST_BYTES,
    MOST_BLOCKS,
    MOST_HOLDERS,
    MOST_SLOTS,
    NODE_BYTES,
    SECRET_BYTES,
    STEP,
    Prefixes,
)
from tests.support.twins import native_twin, python_twin

SECRET = bytes(range(SECRET_BYTES))
PLENTY = 1 << 22


def made(most_bytes: int = PLENTY, slot_bytes: int = 1 << 30) -> Prefixes:
    return Prefixes(SECRET, most_bytes, slot_bytes)


def text(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def holders(table: Any, body: bytes, start: int = 0, end: int = -1, seed: int = 0) -> dict[int, int]:
    """Slot by slot what is known of ``body``, in the order in which it is told."""
    table.look(body, start, len(body) if end < 0 else end, seed)
    return {table.holder(number): table.held(number) for number in range(table.found)}


def put(table: Any, slot: int, body: bytes, seed: int = 0) -> None:
    table.look(body, 0, len(body), seed)
    table.put(slot)


def test_a_prompt_is_found_by_its_beginning_and_no_further_than_it_is_alike() -> None:
    table = made()
    one, two = table.slot("one"), table.slot("two")
    common = text(4096, 1)
    put(table, one, common + text(4096, 2))
    put(table, two, common + text(4096, 3))
    assert holders(table, common + text(4096, 2)) == {one: 8192, two: 4096}
    assert holders(table, common + text(4096, 4)) == {two: 4096, one: 4096}  # of equals the latest first
    assert holders(table, text(4096, 5) + common) == {}
    assert holders(table, common, seed=1) == {}, "another model's is nothing to it"


def test_what_stands_around_the_prompt_does_not_matter() -> None:
    table = made()
    slot = table.slot("one")
    prompt = text(2048)
    table.look(b'{"model":"m","messages":' + prompt, 24, 24 + 2048, 0)
    table.put(slot)
    assert holders(table, b"{" + prompt + b',"x":1}', 1, 2049) == {slot: 2048}


def test_blocks_grow_and_end_at_a_megabyte() -> None:
    table = made()
    sizes = [FIRST_BYTES << block // STEP for block in range(MOST_BLOCKS)]
    whole = sum(sizes)
    assert whole == 1040384
    assert table.look(text(FIRST_BYTES - 1), 0, FIRST_BYTES - 1, 0) == 0, "less than a block tells nothing"
    assert table.look(bytes(whole + 5000), 0, whole + 5000, 0) == MOST_BLOCKS
    assert table.look(bytes(whole - 1), 0, whole - 1, 0) == MOST_BLOCKS - 1
    for block in range(STEP, MOST_BLOCKS):
        assert sizes[block] * STEP <= sum(sizes[:block]) + FIRST_BYTES * STEP
    assert table.look(b"abc", -1, 3, 0) == table.look(b"abc", 0, 4, 0) == table.found == 0


def test_an_engine_is_thought_to_keep_what_its_cache_holds_and_forgets_ends_before_beginnings() -> None:
    table = made(slot_bytes=16 * 512)
    slot = table.slot("one")
    first, second = text(6144, 1), text(6144, 2)  # of 12 blocks each, and there is room for 16
    put(table, slot, first)
    put(table, slot, second)
    assert table.taken(slot) == 16 * 512
    assert holders(table, second) == {slot: 6144}
    assert holders(table, first) == {slot: 4 * 512}
    put(table, slot, text(1 << 19, 3))
    assert table.taken(slot) <= 16 * 512
    assert holders(table, second) == {}


def test_a_beginning_that_all_have_is_known_of_the_latest_few() -> None:
    table = made()
    common = text(1024)
    for number in range(MOST_HOLDERS + 3):
        put(table, table.slot(f"engine-{number}"), common)
    assert list(holders(table, common)) == [*range(MOST_HOLDERS + 2, 2, -1)]
    assert table.taken(0) == 0


def test_the_table_has_a_ceiling_and_the_engine_that_asks_gives_way_itself() -> None:
    table = made(most_bytes=FEWEST_NODES * NODE_BYTES)
    assert table.nodes() == FEWEST_NODES
    one, two = table.slot("one"), table.slot("two")
    put(table, one, text(FEWEST_NODES // 2 * 1024, 1))  # of growing blocks fewer than that
    used = FEWEST_NODES - table.nodes()
    for seed in range(2, 9):
        put(table, two, text(8192, seed))
    assert table.nodes() == 0
    assert holders(table, text(8192, 8)) == {two: 8192}
    assert holders(table, text(FEWEST_NODES // 2 * 1024, 1)) != {}, "who asks for nothing keeps what it has"
    put(table, table.slot("three"), text(512, 20))
    assert holders(table, text(512, 20)) == {2: 512}, "somebody gives way to one who has nothing"
    assert used < FEWEST_NODES


def test_engines_that_are_too_many_take_the_places_of_those_used_least() -> None:
    table = made()
    put(table, table.slot("first"), text(512, 1))
    put(table, table.slot("second"), text(512, 2))
    for number in range(MOST_SLOTS - 2):
        table.slot(f"engine-{number}")
    put(table, table.slot("second"), text(512, 3))
    assert table.slot("another") == 0
    assert holders(table, text(512, 1)) == {}
    assert holders(table, text(512, 2)) == {1: 512}
    assert table.slot("first") == 2, "it is another one now"


def test_a_secret_is_as_long_as_it_says() -> None:
    with pytest.raises(ValueError, match="a secret has 40 bytes"):
        Prefixes(b"short", PLENTY, 1000)


@pytest.mark.both_twins
@pytest.mark.parametrize("seed", range(6))
def test_the_twins_know_the_same(seed: int) -> None:
    """Conversations that share beginnings, on engines whose caches are too small for them, in a table that is too small."""
    dice = random.Random(seed)
    tables = [
        twin("fastgw.accel.prefixes").Prefixes(SECRET, dice.choice((4000, 20_000, PLENTY)), dice.choice((3000, 30_000)))
        for twin in (python_twin, native_twin)
        for dice in [random.Random(seed)]
    ]
    texts = [text(dice.choice((700, 3000, 40_000)), number) for number in range(6)]
    for _ in range(300):
        body = b"".join([dice.choice(texts) for _ in range(dice.randint(1, 3))])
        end = dice.randint(0, len(body))
        name = f"engine-{dice.randint(0, 12)}"
        forgets = dice.random() < 0.05
        seen = []
        for table in tables:
            count = table.look(body, 0, end, 7)
            found = [(table.holder(at), table.held(at)) for at in range(table.found)]
            slot = table.slot(name)
            if forgets:
                table.forget(slot)
            table.put(slot)
            seen.append((count, found, slot, table.taken(slot), table.nodes()))
        assert seen[0] == seen[1]
