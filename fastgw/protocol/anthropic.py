"""Anthropic's shapes of what the gateway answers itself, for those who speak its API: the list of models.

Owns: how such a client is told, by the field that its API asks of every request.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from fastgw.accel.fields import value_in

VERSION: Final = b"anthropic-version"


def speaks(lines: bytes) -> bool:
    """Whether a request with these ``lines`` is one of its API."""
    return value_in(lines, VERSION) is not None


def models_list(models: Iterable[tuple[str, int]]) -> bytes:
    """The answer of ``GET /v1/models`` for (id, created): all of them, as one page."""
    data = [model_object(name, created) for name, created in models]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return msgspec.json.encode({"data": data, "has_more": False, "first_id": first, "last_id": last})


def model_object(name: str, created: int) -> dict[str, str]:
    """One model of it; ``created`` in seconds since 1970."""
    told = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": told}
