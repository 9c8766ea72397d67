"""``/admin/usage``: pages that add up, a CSV that is whole and harms no spreadsheet, and questions that are refused."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from fastgw.config.money import BILLION
from fastgw.control.admin_usage import SLICE, AdminUsage, SpentPage, TooMuch, cell
from fastgw.control.call import AdminAnswer, AdminCall
from fastgw.errors import GatewayError

KEYS = {"key_1": "ann", "key_2": "=HYPERLINK(1)", "key_3": ""}


class Backend:
    """A key a day, with a cost of its number."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, Sequence[str]]] = []
        self.error: Exception | None = None

    async def spent(self, first: int, last: int, by: Sequence[str]) -> Mapping[tuple[str | int, ...], Sequence[int]]:
        self.asked.append((first, last, by))
        if self.error is not None:
            raise self.error
        words: dict[str, str | int] = {"tenant": "-lab", "model": "m", "day": first}
        return {
            tuple(words.get(name, key) for name in by): [10, 5, 1, 0, 2, 1, number * BILLION // 4, 7]
            for number, key in enumerate(KEYS, 1)
        }

    async def names(self, ids: Sequence[str]) -> Mapping[str, str]:
        return {id: KEYS[id] for id in ids}


async def ask(backend: Backend | None, **query: str) -> AdminAnswer:
    async def read() -> bytes:
        return b""

    pairs = [(name.rstrip("_"), value) for name, value in query.items()]
    page = AdminUsage(backend, lambda: "EUR")
    return await page.show(AdminCall("GET", "/admin/usage", pairs, "admin", read))


async def test_pages_add_up_and_say_what_they_are_of() -> None:
    backend = Backend()
    seen = []
    for offset in ("0", "2"):
        answer = await ask(backend, from_="1970-01-08", to="1970-01-09", by="key,day", limit="2", offset=offset)
        page = msgspec.convert(json.loads(json.dumps(answer.document)), SpentPage)
        assert (page.first, page.to, page.currency, page.has_more) == ("1970-01-08", "1970-01-09", "EUR", offset == "0")
        assert (page.total.cost, page.total.prompt_tokens, page.total.unpriced_tokens) == ("1.5", 30, 21)
        seen += [(one.key, one.name, one.day, one.cost) for one in page.data]
        assert all(one.tenant is msgspec.UNSET for one in page.data)
    assert backend.asked == [(7, 8, ["key", "day"])] * 2
    assert seen == [
        ("key_1", "ann", "1970-01-08", "0.25"), ("key_2", "=HYPERLINK(1)", "1970-01-08", "0.5"),
        ("key_3", "", "1970-01-08", "0.75"),
    ]  # fmt: skip


@pytest.mark.parametrize(("order", "keys"), [
    ("cost", ["dear", "busy", "long"]), ("tokens", ["long", "busy", "dear"]), ("requests", ["busy", "dear", "long"]),
    (None, ["busy", "dear", "long"]),
])  # fmt: skip
async def test_whoever_has_used_the_most_can_come_first(order: str | None, keys: list[str]) -> None:
    """Over all pages, in a CSV too; of equals the names decide."""
    class Three(Backend):
        async def spent(self, first: int, last: int, by: Sequence[str]) -> Mapping[tuple[str | int, ...], Sequence[int]]:
            return {
                ("long",): [900, 100, 1, 0, 0, 0, 0, 0], ("busy",): [10, 20, 3, 0, 0, 0, 5, 0],
                ("dear",): [1, 0, 1, 0, 0, 0, 70, 0],
            }  # fmt: skip

        async def names(self, ids: Sequence[str]) -> Mapping[str, str]:
            return {}

    said = {"order": order} if order is not None else {}
    pages = [await ask(Three(), limit="1", offset=str(offset), **said) for offset in range(3)]
    assert [one.key for page in pages for one in msgspec.convert(page.document, SpentPage).data] == keys
    table = await ask(Three(), format="csv", **said)
    assert table.pieces is not None
    text = b"".join([piece async for piece in table.pieces]).decode()
    assert [row["key"] for row in csv.DictReader(io.StringIO(text))] == keys


async def test_a_csv_is_whole_and_holds_no_formula() -> None:
    answer = await ask(Backend(), from_="1970-01-08", to="1970-01-08", by="key,tenant", format="csv", limit="1")
    assert answer.media_type == "text/csv"
    assert answer.pieces is not None
    text = b"".join([piece async for piece in answer.pieces]).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["key"], row["name"], row["tenant"], row["cost"]) for row in rows] == [
        ("key_1", "ann", "'-lab", "0.25"), ("key_2", "'=HYPERLINK(1)", "'-lab", "0.5"), ("key_3", "", "'-lab", "0.75"),
    ]  # fmt: skip
    assert [cell(one) for one in ("+1", "@a", "\tb", "\rb", "\nb")] == ["'+1", "'@a", "'\tb", "'\rb", "'\nb"]
    assert [cell(one) for one in ("a=b", 7)] == ["a=b", "7"]
    assert [cell(chr(ord(one) + 0xFEE0))[0] for one in "=+-@"] == ["'"] * 4, "as wide as a Chinese letter"


async def test_many_groups_are_put_in_order_while_the_loop_has_its_turns() -> None:
    """So that no stream waits for an accountant."""
    groups: dict[tuple[str | int, ...], Sequence[int]] = {
        (f"key_{number * 7919 % 20_000:05}",): [1, 0, 1, 0, 0, 0, number, 0] for number in range(20_000)
    }

    class Many(Backend):
        async def spent(self, first: int, last: int, by: Sequence[str]) -> Mapping[tuple[str | int, ...], Sequence[int]]:
            return groups

        async def names(self, ids: Sequence[str]) -> Mapping[str, str]:
            return {}

    asked = asyncio.create_task(ask(Many(), limit="3", offset="19998"))
    turns = 0
    while not asked.done():
        await asyncio.sleep(0)
        turns += 1
    page = msgspec.convert((await asked).document, SpentPage)
    assert [one.key for one in page.data] == ["key_19998", "key_19999"]
    assert (page.total.requests, page.total.cost, page.has_more) == (20_000, "0.19999", False)
    assert turns > 2 * len(groups) // SLICE


@pytest.mark.parametrize(("query", "param"), [
    ({"from_": "1970-01-08", "to": "1970-01-07"}, "from"),
    ({"from_": "1970-01-01", "to": "1971-02-05"}, "from"),
    ({"from_": "19700108"}, "from"),
    ({"from_": "1970-W02-4", "to": "1970-01-09"}, "from"),
    ({"to": "yesterday"}, "to"),
    ({"by": "colour"}, "by"),
    ({"by": "key,key"}, "by"),
    ({"by": ""}, "by"),
    ({"format": "xml"}, "format"),
    ({"order": "colour"}, "order"),
    ({"order": ""}, "order"),
    ({"limit": "0"}, "limit"),
    ({"limit": "10001"}, "limit"),
    ({"offset": "-1"}, "offset"),
    ({"colour": "red"}, "colour"),
])  # fmt: skip
async def test_what_cannot_be_asked_is_refused(query: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as found:
        await ask(Backend(), **query)
    assert (found.value.kind.status, found.value.param) == (400, param)


async def test_too_much_and_no_store_are_told() -> None:
    backend = Backend()
    for backend.error in (TooMuch(), TimeoutError()):  # (the second of all days together: to ask again would help nobody)
        with pytest.raises(GatewayError, match="fewer days"):
            await ask(backend)
    with pytest.raises(GatewayError, match="FASTGW_STATE_DIR"):
        await ask(None)
