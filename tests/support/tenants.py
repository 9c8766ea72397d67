"""Keys of the configuration that a test has be of a tenant, as keys of the store are."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from fastgw.accounts import _defaults
from fastgw.exchange.gateway import GatewayCore
from fastgw.limits.key import KeyRecord
from fastgw.limits.scope import Scope


def join(core: GatewayCore, key: str, tenant: str = "lab", **fields: Any) -> None:
    """The key is one of the store's from now on, of that tenant."""
    account = core.accounts.find(sha256(key.encode()).digest())
    assert account is not None
    record = KeyRecord(id=account.id, digest=account.id.encode().ljust(32), tenant=tenant, **fields)
    account.set(_defaults(core.config), record, 0, None, core.accounts.scopes.tenant(tenant))


def scopes_of(core: GatewayCore) -> list[Scope]:
    """All there are, beside the keys."""
    scopes = core.accounts.scopes
    models = dict.fromkeys(scopes.models.values())
    found = [*scopes._tenants.values(), *(model.together for model in models), *(one for one, _ in scopes._each.values())]
    return [one for one in found if one is not None]
