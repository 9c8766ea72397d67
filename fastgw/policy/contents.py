"""Prompts and answers for the traces of requests, where an operator asks for them (``trace_contents``).

Owns: how much of each is kept while its exchange is under way. Must never: keep anything of a request that is not sampled, or
anything at all where it is not asked for: then this filter is not there.
"""

from __future__ import annotations

from typing import Final

from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.exchange.tracing import Contents
from fastgw.upstream.target import Engine

MOST_CONTENT_BYTES: Final = 65_536  # of a prompt, and of an answer as it goes down


class Remembering(Filter):
    """See the head of this file."""

    __slots__ = ()
    name = "contents"

    def on_attempt(self, exchange: Exchange, engine: Engine) -> None:
        trace = exchange.trace
        if trace is not None and trace.sampled and trace.contents is None and exchange.session is None:
            trace.contents = Contents(exchange.body, MOST_CONTENT_BYTES)

    def on_data(self, exchange: Exchange, data: bytes) -> None:
        trace = exchange.trace
        if trace is not None and trace.contents is not None:
            trace.contents.hears(data)
