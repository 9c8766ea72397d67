"""What becomes of a running gateway's settings when they are read again: which hold now, and which wait for a restart.

Owns: the comparison of two configurations, and the one that is made of both: the new one, with what cannot change on a living
process as it was. Invariant: what comes out has passed every check of a configuration, as a whole; and a gateway that asked for
keys goes on to. Must never: say what a secret was, or is.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import force_setattr, replace

from fastgw.config.row import RESTART
from fastgw.config.settings import Config
from fastgw.config.table import TABLE


class Change(msgspec.Struct, frozen=True):
    """``config`` is what holds from now on, ``changed`` the settings that hold with it and did not before, ``pending`` those
    that are written otherwise and wait for a restart. Names as in the table, in its order."""

    config: Config
    changed: tuple[str, ...]
    pending: tuple[str, ...]


def between(before: Config, after: Config) -> Change:
    """``before`` is what holds in the gateway, ``after`` what is written now.

    Raises :class:`~fastgw.config.problems.ConfigErrors` where what waits for a restart cannot be with what does not.
    """
    kept: dict[str, Any] = {
        row.name: getattr(before, row.name)
        for row in TABLE
        if row.reload == RESTART and getattr(before, row.name) != getattr(after, row.name)
    }
    if "tls_client_ca_file" in kept and not before.tls_client_ca_file and after.tls_client_keys:
        kept["tls_client_keys"] = ()  # no client is asked for a certificate before the restart
    if (before.require_key or before.api_key_digests) and not (after.require_key or after.api_key_digests):
        # Nothing opens by itself: somebody may have emptied the wrong file.
        kept["require_key"] = True
    config = after
    if kept:
        # (Keys were read a moment ago: what is checked here is the rest.)
        config = replace(after, **kept, api_keys_file="", admin_keys_file="")
        force_setattr(config, "api_keys_file", after.api_keys_file)
        force_setattr(config, "admin_keys_file", after.admin_keys_file)
    changed = {row.name for row in TABLE if row.reload and getattr(before, row.name) != getattr(config, row.name)}
    if before.api_key_digests != config.api_key_digests:
        changed.add("api_keys")
    return Change(
        config,
        tuple(row.name for row in TABLE if row.name in changed),
        tuple(row.name for row in TABLE if row.name in kept),
    )
