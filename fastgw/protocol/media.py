"""Media types of request bodies (RFC 9110 §8.3): whether one is JSON, and in which characters.

Must never: let a body pass whose type says other characters than UTF-8, for an engine that listens to it would read another
body than the gateway did.
"""

from __future__ import annotations

from typing import Final

UTF_8: Final = (b"utf-8", b"utf8")


def is_json(content_type: bytes) -> bool:
    """Whether the type is ``application/json``, ``text/json`` or ``something/...+json``."""
    media = content_type.partition(b";")[0].strip(b" \t").lower()
    return media in (b"application/json", b"text/json") or media.endswith(b"+json")


def is_form(content_type: bytes) -> bool:
    """Whether the type is ``multipart/form-data``."""
    return content_type.partition(b";")[0].strip(b" \t").lower() == b"multipart/form-data"


def in_utf_8(content_type: bytes) -> bool:
    """Whether the type names no characters, or UTF-8, once, where every reader finds it."""
    lower = content_type.lower()
    if b"charset" not in lower:
        return True
    named = 0
    for parameter in lower.split(b";")[1:]:
        name, equals, value = parameter.partition(b"=")
        if name.strip(b" \t") == b"charset" and equals:
            named += 1
            value = value.strip(b" \t")
            if len(value) > 2 and value[:1] == value[-1:] == b'"':
                value = value[1:-1]
            if value not in UTF_8:
                return False
    return named == lower.count(b"charset") == 1
