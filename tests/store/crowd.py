"""Very many keys in a file, in one transaction: made one by one they would take minutes."""

from __future__ import annotations

import random
from typing import Any

from fastgw.limits.key import KeyRecord
from fastgw.store import keys
from fastgw.store.database import Database

TENANTS = 50


def fill(database: Database, count: int, **fields: Any) -> list[KeyRecord]:
    """That many keys at once; every third is deleted."""
    chance = random.Random(7)
    records = [
        KeyRecord(
            **{
                "id": f"key_{chance.getrandbits(64):016x}",
                "digest": chance.randbytes(32),
                "name": f"name {number % (count // 4 or 1)}",
                "tenant": f"tenant {number % TENANTS}",
                "created_at": 1e9 + number,
                "revision": number + 1,
                "deleted": number % 3 == 0,
                **fields,
            }
        )
        for number in range(count)
    ]
    with database.transaction():
        columns = KeyRecord.__struct_fields__
        database._connection.executemany(
            f"INSERT INTO keys ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", map(keys._row, records)
        )
        database.change("UPDATE meta SET value = ? WHERE name = 'revision'", (count,))
        database._connection.executemany(
            "INSERT INTO audit (at, actor, action, key_id, changes) VALUES (1.0, 'test', 'create', ?, '{}')",
            [(record.id,) for record in records],
        )
    return records
