"""The two changes that fastgw makes to a request body, by splicing bytes: nothing is serialised again.

``stream_options.include_usage`` is asked of the engine, so that streams can be accounted for, and the extra chunk is taken
out again (llama.cpp is not asked: it counts in ``timings`` anyway, and would move those into the extra chunk); and
``model`` becomes the engine's own name for it, where one is configured, or that of the model it falls back to; in forms too.
(In the query of a WebSocket session it does where the request's first line is written.)
"""

from __future__ import annotations

from fastgw.config import Config
from fastgw.exchange.filter import Filter
from fastgw.exchange.state import ExchangeState
from fastgw.protocol.openai import with_model, with_usage
from fastgw.upstream.target import Engine


class Rewriting(Filter):
    """See the head of this file."""

    name = "rewrite"

    def __init__(self, ask_usage: bool) -> None:
        self._ask_usage = ask_usage

    @classmethod
    def from_config(cls, config: Config) -> Rewriting | None:
        renamed = any(engine.served_name for engine in config.engines) or any(route.fallback for route in config.routes)
        if not config.inject_usage and not renamed:
            return None
        return cls(config.inject_usage)

    def rewrite(self, exchange: ExchangeState, engine: Engine, body: bytes) -> bytes:
        facts = exchange.facts
        name = engine.served_name or exchange.substitute
        if facts is None:
            upload = exchange.upload
            return upload.renamed(body, name) if upload is not None and name else body
        exchange.strip_usage = False
        ask = self._ask_usage and not facts.include_usage and exchange.endpoint.usage
        if ask and facts.stream and engine.kind != "llamacpp":
            body = with_usage(body, facts)
            exchange.strip_usage = True
        if name and facts.model and facts.model != name:
            body = with_model(body, facts, name)
        return body
