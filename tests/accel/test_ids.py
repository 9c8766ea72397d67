"""Which ids of requests are repeated, over either twin."""

from __future__ import annotations

import pytest

from fastgw.accel.ids import valid_request_id


@pytest.mark.parametrize("value", [b"a", b"req-1", b"A.b_c:d~e+f/g=h@i-0", b"x" * 128, b"a_____b"])
def test_D12_good_request_ids(value: bytes) -> None:
    assert valid_request_id(value)


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"x" * 10**6, b"a b", b"a\r\nb", b"a\n", b"\xc3\xa9", b"a\x00", b'a"',
    b"a,b", b"<a>", b"a;b", b"a\\", b"___prefill_addr_192.0.2.1:1_0a", b"a___decode_addr_192.0.2.1:1",
    b"____prefill_addr_1"])
def test_D12_bad_request_ids(value: bytes) -> None:
    assert not valid_request_id(value)
