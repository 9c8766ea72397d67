"""Forms against the frameworks of engines, as far as the suite has time: ``make fuzz ARGS=multipart`` goes on from here."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import multipart
from tests.protocol.forms import END, MODEL, TYPE, UPLOAD
from tests.protocol.test_multipart import ACCEPTED
from tests.support import form_readers

# Nothing here has twins: of two sessions side by side one is enough.
pytestmark = pytest.mark.once

@pytest.mark.parametrize("row", ACCEPTED)
def test_frameworks_read_what_is_accepted_alike(row: str) -> None:
    body, model, _ = ACCEPTED[row]
    multipart.check(TYPE + b"\n" + body)
    assert form_readers.starlette(TYPE, body).models == (() if model is None else (model,))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**64), st.integers(0, 5))
def test_made_up_forms(seed: int, changes: int) -> None:
    chance = random.Random(seed)
    data = multipart.made_up(chance)
    multipart.check(data)
    for _ in range(changes):
        data = multipart.mutated(data, chance)
        multipart.check(data)


@pytest.mark.parametrize(
    ("body", "lax"),
    [
        (MODEL + MODEL + END, lambda body: body.replace(MODEL, b"", 1)),
        (MODEL.replace(b'name="model"', b'name="model"; x="; filename=y"') + END, lambda body: UPLOAD + END),
        (MODEL.replace(b'name="model"', b'name="x"; name="model"') + END, lambda body: UPLOAD + END),
        (MODEL.replace(b'name="model"', b'name="/model"') + END, lambda body: UPLOAD + END),
        (MODEL.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1) + END, lambda body: MODEL + END),
    ],
)
def test_a_lax_reader_is_found(monkeypatch: pytest.MonkeyPatch, body: bytes, lax: Callable[[bytes], bytes]) -> None:
    """The check finds a gateway that reads such a body as if it were another one."""
    strict = multipart.verdict
    multipart.check(TYPE + b"\n" + body)

    def reads(content_type: bytes, pieces: list[bytes]) -> tuple[Any, ...]:
        return strict(content_type, [lax(b"".join(pieces))])

    monkeypatch.setattr(multipart, "verdict", reads)
    with pytest.raises(AssertionError):
        multipart.check(TYPE + b"\n" + body)
