"""What a WebSocket session uses: each answer is counted as soon as its engine has said what it used, and not at the end.

So what was counted stands however a session ends, and nothing is counted twice: ``charge`` settles requests, and a session is
none for it (its endpoint is not ``metered``). Nothing is reserved: how many answers there will be nobody knows before.

Invariant: a session is at least one request, and each of its answers is one; it ends with the answer that spends its key's
day, its tenant's or its model's, or its budget.
"""

from __future__ import annotations

from fastgw.accel.figures import TOKENS_PER_SECOND
from fastgw.accel.tokens import MOST_TOKENS
from fastgw.config import Config
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.exchange.phases import DONE
from fastgw.limits.admission import broke
from fastgw.net.clock import monotonic
from fastgw.policy.charge import settle
from fastgw.policy.scopes import spent
from fastgw.protocol.websocket import UNSAID, Counts


class Sessions(Filter):
    """See the head of this file."""

    __slots__ = ()
    name = "sessions"

    @classmethod
    def from_config(cls, config: Config) -> Sessions:
        return cls()

    def on_said(self, exchange: Exchange, said: Counts | None) -> bool:
        """An answer has ended, or the session has (None: without any). False = the key's day, or budget, is spent."""
        account = exchange.account
        if account is None or exchange.session is None:
            return True
        if said is None:
            settle(exchange, account, monotonic(), 0, 0, 0, 0, False)
            return True
        prompt, completion, cached, reasoning, seconds = [min(count, MOST_TOKENS) for count in said]
        estimated = said == UNSAID or exchange.phase == DONE  # (its engine has not come to the end of it)
        if prompt < 0 and seconds >= 0:
            prompt = min(seconds * TOKENS_PER_SECOND, MOST_TOKENS)
            estimated = True
        cached, reasoning = min(cached, prompt), min(reasoning, completion)
        # The sums are the session's own record.
        exchange.prompt_tokens = _sum(exchange.prompt_tokens, prompt)
        exchange.completion_tokens = _sum(exchange.completion_tokens, completion)
        exchange.cached_tokens = _sum(exchange.cached_tokens, cached)
        exchange.reasoning_tokens = _sum(exchange.reasoning_tokens, reasoning)
        if estimated:
            exchange.estimated = True
            exchange.session.estimated += max(prompt, 0) + max(completion, 0)
        settle(exchange, account, monotonic(), prompt, completion, cached, reasoning, estimated)
        ledger = account.ledger
        if ledger.limit and ledger.prompt + ledger.completion >= ledger.limit:
            return False
        if exchange.shares and spent(exchange):
            return False
        return broke(account, exchange.gateway.today) is None


def _sum(before: int, more: int) -> int:
    """-1 = nobody has said anything yet."""
    return before if more < 0 else max(before, 0) + more
