"""Bodies that engines alone judge: what is read of them all the same."""

from __future__ import annotations

import pytest

from fastgw.accel.members import PEERED
from fastgw.errors import GatewayError
from fastgw.protocol.openai import scan_foreign

PEER = b'"kv_transfer_params":{"remote_host":"h"}'


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b"[]", None), (b'"text"', None), (b"5", None), (b"null", None),
        (b"{}", ""), (b'{"model":"m"}', "m"), (b'{"input":[{"model":"m"}]}', ""),
        (b'{"model":5}', ""), (b'{"model":null}', ""), (b'{"model":["m"]}', ""), (b'{"model":""}', ""),
        (b'{"model":"m","stream":"sse","n":[1],"max_output_tokens":"many","stream_options":[1]}', "m"),
        (b'{"n":"all","model":"\\u006d"}', "m"), (b'{"n":1,"n":2,"model":"m"}', "m"), (b'{"N":1,"Stream":2,"model":"m"}', "m"),
        (b'{"stream_options":{"include_usage":1,"include_usage":2},"model":"m"}', "m"),
    ],
)  # fmt: skip
def test_a_body_that_its_engine_judges_is_only_asked_for_its_model(body: bytes, model: str | None) -> None:
    facts = scan_foreign(body, 64, 256)
    assert (facts.model if facts is not None else None) == model
    if facts is not None:
        assert not facts.uncounted & PEERED
        with_peer = scan_foreign(body[:-1] + (b"," if len(body) > 2 else b"") + PEER + b"}", 64, 256)
        assert with_peer is not None
        assert (with_peer.model, with_peer.uncounted & PEERED) == (model, PEERED)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "invalid_json"), (b'{"a":NaN}', "invalid_json"), (b'{"a":"\xff"}', "invalid_json"), (b"[" * 100, "invalid_json"),
        (b'{"model":"a","model":"b"}', "duplicate_member"), (b'{"n":"x","model":"a","model":"a"}', "duplicate_member"),
        (b'{"N":1,"model":"a","Model":"b"}', "invalid_parameter"), (b'{"n":"x","MODEL":"b"}', "invalid_parameter"),
        (b"{%b,%b}" % (PEER, PEER), "duplicate_member"), (b'{"Kv_Transfer_Params":{}}', "invalid_parameter"),
        (b"{%b}" % b",".join(b'"m%d":1' % at for at in range(257)), "invalid_parameter"),
    ],
)  # fmt: skip
def test_but_never_has_two_models_or_hides_a_peer(body: bytes, kind: str) -> None:
    with pytest.raises(GatewayError) as found:
        scan_foreign(body, 64, 256)
    assert found.value.kind.name == kind
