"""Keys that are read while another process has the folder, and what of them is another when it is taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastgw.limits.key import KeyRecord
from fastgw.stats import NullLog
from fastgw.store.database import Database
from fastgw.store.folder import Folder
from fastgw.store.keys import create, delete, update
from fastgw.store.place import FILE_NAME
from fastgw.store.schema import StateError
from fastgw.store.state import State

DAY = 20_000


def after(records: list[KeyRecord], more: list[KeyRecord]) -> dict[str, KeyRecord]:
    """What a register has that was told of these, one after the other."""
    found = {record.id: record for record in records}
    for record in more:
        if record.deleted:
            found.pop(record.id, None)
        else:
            found[record.id] = record
    return found


def named(folder: Path, name: str, **fields: Any) -> str:
    with_ = Database.open(str(folder / FILE_NAME), create=False)
    try:
        return create(with_, {"name": name, **fields}, "test")[0].id
    finally:
        with_.close()


async def test_what_has_changed_meanwhile_is_told_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    old = State(str(folder), log=NullLog())
    old.open(DAY)
    gone, other, same = (named(folder, name) for name in ("gone", "other", "same"))
    new = State(str(folder), log=NullLog())
    ahead = new.ahead()
    assert {record.id for record in ahead} == {gone, other, same}
    with pytest.raises(StateError, match="another gateway"):
        State(str(folder), log=NullLog()).open(DAY)
    database = Database.open(str(folder / FILE_NAME), create=False)
    delete(database, gone, "test")
    update(database, other, {"daily_tokens": 7}, "test")
    database.close()
    come = named(folder, "come")
    await old.close()
    loaded = new.open(DAY)
    assert {record.id for record in loaded.keys} == {gone, other, come}, "those that are as they were are known"
    found = after(ahead, loaded.keys)
    assert found.keys() == {other, same, come}
    assert found[other].daily_tokens == 7
    assert loaded.closed, "there were keys"
    await new.close()


async def test_a_store_that_took_its_place_meanwhile_is_none_to_go_on_with(tmp_path: Path) -> None:
    folder, another = tmp_path / "state", tmp_path / "another"
    for one in (folder, another):
        state = State(str(one), log=NullLog())
        state.open(DAY)
        await state.close()
    file = Folder(str(folder), set_aside=False)
    file.ahead()
    (another / FILE_NAME).replace(folder / FILE_NAME)
    with pytest.raises(StateError, match="was replaced"):
        file.open(DAY)
    file.close()
