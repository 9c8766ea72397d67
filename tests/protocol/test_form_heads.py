"""The Content-Type of a form: what names a boundary, and what is refused with which advice."""

from __future__ import annotations

import pytest

from fastgw.errors import GatewayError
from fastgw.protocol.form_heads import PartHead, boundary_of, part_head

ACCEPTED = {
    b"multipart/form-data; boundary=abc": b"abc",
    b"multipart/form-data;boundary=abc": b"abc",
    b"multipart/form-data; charset=utf-8; boundary=abc": b"abc",
    b'multipart/form-data; boundary="abc"; charset="UTF-8"': b"abc",
    b"multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW": b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
    b'multipart/form-data; boundary="===============8123=="': b"===============8123==",
    b'multipart/form-data; boundary="4d22-befc"': b"4d22-befc",
    b"multipart/form-data; boundary=" + b"a" * 70: b"a" * 70,
}

REFUSED = {
    b"Multipart/Form-Data; boundary=abc": "in lower case",  # cpp-httplib: no form
    b"multipart/form-data": "names no boundary",
    b"multipart/form-data; charset=utf-8": "names no boundary",
    b"multipart/form-data; boundary=": "write each parameter as",
    b'multipart/form-data; boundary=""': "The boundary is malformed",
    b"multipart/form-data; boundary=" + b"a" * 71: "The boundary is malformed",
    b'multipart/form-data; boundary="a "': "The boundary is malformed",
    b'multipart/form-data; boundary="a b"': "The boundary is malformed",
    b'multipart/form-data; boundary="a\xff"': "The boundary is malformed",
    b'multipart/form-data; boundary="a;b"': "The boundary is malformed",
    b'multipart/form-data; boundary="a\\=b"': "The boundary is malformed",
    b'multipart/form-data; boundary="a\\"': "has a backslash before",
    b"multipart/form-data; boundary=a%b": "The boundary is malformed",
    b"multipart/form-data; boundary=a/b": "write each parameter as",
    b"multipart/form-data; boundary=a=b": "write each parameter as",
    b"multipart/form-data; boundary='a b'": "write each parameter as",
    b"multipart/form-data; boundary=a, b": "write each parameter as",
    b"multipart/form-data; boundary=a;": "write each parameter as",
    b"multipart/form-data; boundary=a ": "write each parameter as",
    b"multipart/form-data; boundary = a": "write each parameter as",
    b"multipart/form-data ; boundary=a": "write each parameter as",
    b"multipart/form-data; boundary=a; boundary=b": "`boundary` of the Content-Type is repeated",
    b"multipart/form-data; boundary=a; boundary*=utf-8''b": "`boundary` of the Content-Type plain, without `*`",
    b"multipart/form-data; boundary*0=a": "`boundary` of the Content-Type plain, without `*`",
    b"multipart/form-data; Boundary=a": "`boundary` of the Content-Type in lower case",
    b'multipart/form-data; x="; boundary=a"': "Leave the parameter `x` out",
    b"multipart/form-data; boundary=a; charset=utf-16": "Send the form in UTF-8",
    b"multipart/form-data; boundary=a; charset=iso-8859-1": "Send the form in UTF-8",
    b'multipart/form-data; boundary="a\tb"': "has a control character",
    b"multipart/form-data;\tboundary=a": "has a control character",
}


@pytest.mark.parametrize("content_type", ACCEPTED)
def test_boundary(content_type: bytes) -> None:
    assert boundary_of(content_type) == ACCEPTED[content_type]


@pytest.mark.parametrize("content_type", REFUSED)
def test_C9_content_type(content_type: bytes) -> None:
    with pytest.raises(GatewayError) as refusal:
        boundary_of(content_type)
    assert refusal.value.kind.name == "invalid_multipart"
    assert REFUSED[content_type] in str(refusal.value.message)


@pytest.mark.parametrize(
    "content_type", [b"multipart/form-datax; boundary=a", b"multipart/mixed; boundary=a", b"application/json", b""]
)
def test_C9_not_a_form(content_type: bytes) -> None:
    with pytest.raises(GatewayError) as refusal:
        boundary_of(content_type)
    assert refusal.value.kind.name == "unsupported_media_type"


def test_what_a_head_says() -> None:
    disposition = b'Content-Disposition: form-data; name="model"'
    assert part_head(disposition) == PartHead("model", -1, (0, 0), False)
    told = b"content-length:  12\r\n" + disposition + b"\r\nContent-Type: text/plain; charset=us-ascii"
    head = part_head(told)
    assert head == PartHead("model", 12, (17, 19), True)
    assert told[slice(*head.length_span)] == b"12"
    assert part_head(b'Content-Disposition: form-data; name="file"; filename="model"') == PartHead("", -1, (0, 0), False)


def test_a_message_repeats_nothing_but_a_token() -> None:
    for name in (b"<script>", b"a\xff", b"\x1b[31m", b"a" * 5000):
        with pytest.raises(GatewayError) as refusal:
            part_head(b"Content-Disposition: form-data; " + name + b"=x")
        message = str(refusal.value.message)
        assert message.isascii()
        assert message.isprintable()
        assert "<" not in message
        assert len(message) < 200
