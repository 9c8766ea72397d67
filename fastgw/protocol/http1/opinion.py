"""httptools as a second reader: whether it frames a head as we do. A head that two readers frame differently is refused,
whoever of them is right.

Owns: that question, for the heads that are legal and merely unusual, which the complete path alone accepts. It asks for no
field: what those say is the tests' to compare, for a call for each costs more than the whole verdict.

httptools is imported when it is first asked (`serve` does so before, but after the start): hardly any client sends such a head,
and the start need not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httptools


class _Ended:
    """The one callback that is wanted of httptools."""

    __slots__ = ("yes",)

    def __init__(self) -> None:
        self.yes = False

    def on_headers_complete(self) -> None:
        self.yes = True


_ENDED = _Ended()


def _framed(parser: httptools.HttpRequestParser | httptools.HttpResponseParser, head: bytes) -> bool:
    import httptools

    ended = _ENDED
    ended.yes = False
    try:
        parser.feed_data(head)
        if ended.yes:
            return False
        parser.feed_data(b"\r\n\r\n")
    except httptools.HttpParserUpgrade:
        return ended.yes
    except httptools.HttpParserError:
        return False
    return ended.yes


def agrees(head: bytes) -> bool:
    """Whether httptools, too, reads a request head that ends where ``head`` does, not before."""
    import httptools

    return _framed(httptools.HttpRequestParser(_ENDED), head)


def agrees_of_response(head: bytes) -> bool:
    """The same of a response's head."""
    import httptools

    return _framed(httptools.HttpResponseParser(_ENDED), head)
