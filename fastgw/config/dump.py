"""The settings that hold, as a document for who runs the gateway.

Must never: hold a secret: of those it says that they are set, and of keys how many there are.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from fastgw.config.entries import ENGINE_FIELDS, ROUTE_FIELDS
from fastgw.config.paying import PRICE_FIELDS, TENANT_FIELDS
from fastgw.config.row import Setting
from fastgw.config.settings import Config
from fastgw.config.table import TABLE

SET: Final = "<set>"
_ENTRIES: Final = {"engines": ENGINE_FIELDS, "routes": ROUTE_FIELDS, "prices": PRICE_FIELDS, "tenants": TENANT_FIELDS}


def dumped(config: Config) -> dict[str, Any]:
    """Every setting by its name. Of a secret :data:`SET`, or nothing; of clients' keys their number."""
    found = {row.name: _value(row, getattr(config, row.name)) for row in TABLE}
    found["api_keys"] = len(config.api_key_digests)
    found["admin_keys"] = [":".join((*entry.split(":", 2)[:2], SET)) for entry in config.admin_keys]
    return found


def _value(row: Setting, value: Any) -> Any:
    if row.kind in _ENTRIES:
        return [_entry(_ENTRIES[row.kind], one) for one in value]
    if row.secret:
        return SET if value else ""
    return list(value) if isinstance(value, tuple) else value


def _entry(rows: tuple[Setting, ...], entry: msgspec.Struct) -> dict[str, Any]:
    return {row.name: _value(row, getattr(entry, row.name)) for row in rows}
