"""The engine that has the fewest tokens to do: prompts that it has not read yet, and answers that it is to make.

A request counts with the estimate of its prompt until its first token has come, and from then on with the tokens that its
answer is expected to have: ``default_cost_tokens`` of them, or fewer where the request says so. An engine that reads one prompt
of 100,000 tokens is busier than one that makes ten short answers, which the number of requests does not tell. """

from __future__ import annotations

from fastgw.policy.routing.least_loaded import LeastLoaded
from fastgw.policy.routing.loads import TOKENS


class TokenLoad(LeastLoaded):
    """Fewest tokens relative to weight; who is equal has its turn one after another."""

    __slots__ = ()

    def __init__(self) -> None:
        self._unit = TOKENS
