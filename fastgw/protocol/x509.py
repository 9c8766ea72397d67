"""What a gateway must know of its own certificates: for which names they are, and until when (RFC 5280).

Owns: the walk through a certificate's DER to the two. Must never: judge one; OpenSSL does. What is not understood is a
``ValueError``, and the file is refused: these are the operator's, not a peer's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_SEQUENCE: Final = 0x30
_ALT_NAMES: Final = b"\x06\x03\x55\x1d\x11"
_COMMON_NAME: Final = b"\x06\x03\x55\x04\x03"
_CA_ISSUERS: Final = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x30\x02"
_TIMES: Final = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
_DNS_NAME: Final = 0x82  # [2] of a GeneralName


def names_of(der: bytes) -> tuple[str, ...]:
    """The host names that it is for, in lower case; ``*.name`` for all of one level below."""
    fields = _fields(der)
    for tag, value in fields[6:]:
        if tag == 0xA3:
            found = _alternative(value)
            if found:
                return found
    at = fields[5][1].rfind(_COMMON_NAME)
    if at < 0:
        return ()
    return (_item(fields[5][1], at + len(_COMMON_NAME))[1].decode("utf-8", "replace").lower(),)


def ends_at(der: bytes) -> float:
    """When it ends, in Unix seconds."""
    return _time(*_items(_fields(der)[4][1])[1])


def begins_at(der: bytes) -> float:
    """When it begins, likewise."""
    return _time(*_items(_fields(der)[4][1])[0])


def names_its_issuer(der: bytes) -> bool:
    """Whether it says where its issuer's certificate is to be had (RFC 5280 §4.2.2.1, id-ad-caIssuers): those of public CAs do,
    and come from others than clients know."""
    return any(tag == 0xA3 and _CA_ISSUERS in value for tag, value in _fields(der)[6:])


def _time(tag: int, text: bytes) -> float:
    try:
        return datetime.strptime(text.decode("ascii"), _TIMES[tag]).replace(tzinfo=UTC).timestamp()
    except KeyError as error:
        raise ValueError("a certificate whose begin or end is no time") from error


def _fields(der: bytes) -> list[tuple[int, bytes]]:
    """Of the part that is signed: [version], serial, algorithm, issuer, validity, subject, key, extensions."""
    tag, certificate, _ = _item(der, 0)
    inner = _items(certificate)[0] if tag == _SEQUENCE else (0, b"")
    fields = _items(inner[1])
    if fields and fields[0][0] != 0xA0:
        fields.insert(0, (0xA0, b""))  # (version 1 is not told)
    if len(fields) < 7 or fields[4][0] != _SEQUENCE:
        raise ValueError("this is no certificate")
    return fields


def _alternative(extensions: bytes) -> tuple[str, ...]:
    for _, extension in _items(_item(extensions, 0)[1]):
        if extension.startswith(_ALT_NAMES):
            names = _item(_items(extension)[-1][1], 0)[1]
            return tuple(name.decode("ascii", "replace").lower() for tag, name in _items(names) if tag == _DNS_NAME)
    return ()


def _items(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    at = 0
    while at < len(data):
        tag, value, at = _item(data, at)
        found.append((tag, value))
    return found


def _item(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Tag, value, and where the next one begins."""
    if at + 2 > len(data):
        raise ValueError("a certificate that ends too soon")
    tag, size = data[at], data[at + 1]
    at += 2
    if size & 0x80:
        more = size & 0x7F
        size = int.from_bytes(data[at : at + more], "big")
        at += more
    if at + size > len(data):
        raise ValueError("a certificate that ends too soon")
    return tag, data[at : at + size], at + size
