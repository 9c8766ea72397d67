"""What is read of the gateway's own certificates, held against what OpenSSL reads."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from fastgw.protocol.x509 import ends_at, names_of
from tests.support.pki import Certificates

pytestmark = pytest.mark.once


def der(path: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(path).read_text())


def test_names_and_end_are_what_openssl_says(certs: Certificates) -> None:
    assert names_of(der(certs.gateway.cert)) == ("localhost",)
    assert names_of(der(certs.other.cert)) == ("a.example", "*.b.example")
    assert names_of(der(certs.client.cert)) == ("client",), "without others, the common name"
    for pair in (certs.gateway, certs.rsa, certs.alone, certs.ended):
        told = ssl._ssl._test_decode_cert(pair.cert)  # type: ignore[attr-defined]
        assert ends_at(der(pair.cert)) == ssl.cert_time_to_seconds(told["notAfter"])


def test_what_is_no_certificate_is_refused_however_it_is_cut(certs: Certificates) -> None:
    whole = der(certs.other.cert)
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="certificate"):
            names_of(whole[:size])
    with pytest.raises(ValueError, match="certificate"):
        ends_at(b"\x30\x03\x02\x01\x00")
