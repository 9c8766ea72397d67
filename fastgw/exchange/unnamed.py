"""Requests that name no model where their API wants one: whether that is a question.

Owns: when it is none, so that the engine says what a missing model means to it. Invariant: nobody is let through by leaving a
name out who would be refused, limited or billed by it.
"""

from __future__ import annotations

from fastgw.exchange.context import Context
from fastgw.limits.account import Account


def is_a_question(gateway: Context, account: Account | None) -> bool:
    """Whether another model would mean other engines, another limit or another price, so that one must be named.

    It means none where all engines serve the same; nor in the profile of a gateway that asks them in order, whatever for.
    """
    if account is not None and (account.models is not None or account.pays):
        return True
    table = gateway.table
    if table.routes or gateway.accounts.books.prices:  # (limits of a model stand in its route)
        return True
    for pool in table.pools:
        if pool.engine.tenant:
            return True
    if gateway.config.compat == "minisgl":
        return False
    for group in table.groups():  # noqa: SIM110 - (as the loop above)
        if group.pools != table.pools:
            return True
    return False
