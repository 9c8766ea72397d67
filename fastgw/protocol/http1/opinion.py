"""httptools as a judge: whether it reads the fields of a head as we do. A head that two readers split differently is
refused, whoever of them is right.
"""

from __future__ import annotations

from typing import Any

import httptools


class _Silent:
    """The callbacks of httptools that are wanted of a judge: the fields, and that the head ended."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.complete = False
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


def dissent(parser: Any, head: bytes, fields: list[tuple[bytes, bytes]]) -> str:
    """Why ``parser`` (a parser class of httptools) does not find ``fields`` in ``head``; "" when it does.

    ``fields`` have lower-case names and values without blanks around them.
    """
    judge = _Silent()
    try:
        parser(judge).feed_data(head + b"\r\n\r\n")
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        return f"httptools: {type(error).__name__}"
    if not judge.complete or [(name.lower(), value.strip(b" \t")) for name, value in judge.fields] != fields:
        return "httptools reads other fields"
    return ""
