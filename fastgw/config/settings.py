"""The settings of one gateway, whole and checked.

Owns: :class:`Config`, frozen once made; its fields stand in ``table.py``. Invariants: a ``Config`` that exists is valid, its
keys are digests, and no ``repr`` shows a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import force_setattr, replace

from fastgw.config import check
from fastgw.config.address import TUNNELS, parse_host
from fastgw.config.entries import EngineConfig
from fastgw.config.grammar import fingerprint, fingerprints
from fastgw.config.problems import ConfigError, ConfigErrors
from fastgw.config.row import own_lists, shown
from fastgw.config.table import TABLE, Settings
from fastgw.digests import certified, digest

_SECRETS: Final = frozenset({*(row.name for row in TABLE if row.secret), "api_key_digests"})


class Config(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the gateway can be told. Raises :class:`ConfigErrors` when it cannot hold together.

    ``api_keys`` is only an entrance: the keys are hashed into ``api_key_digests`` and dropped. Each engine comes out
    with what it inherits filled in: ``vllm_api_key``, ``warm_connections``, ``engine_max_connections``.
    """

    # Nobody's settings: what api_keys becomes, and what the reader of the configuration wants the operator to know.
    api_key_digests: Sequence[bytes] = ()
    warnings: Sequence[str] = ()

    def __post_init__(self) -> None:
        own_lists(self, TABLE)
        for name in ("api_key_digests", "warnings"):
            force_setattr(self, name, tuple(getattr(self, name)))
        wrong = check.types(self)
        unread = {name for name, _ in wrong}
        keys, found, notes = check.read_keys(
            () if "api_keys" in unread else self.api_keys, "" if "api_keys_file" in unread else self.api_keys_file
        )
        # The raw keys leave before anything below can fail and show them in a traceback.
        force_setattr(self, "api_keys", ())
        if wrong:
            raise ConfigErrors(ConfigError("Config", name, message) for name, message in [*wrong, *found])
        force_setattr(self, "admin_keys", check.all_admin_keys(self.admin_keys, self.admin_keys_file))
        good = not fingerprints(self.tls_client_keys)
        certificates = [certified(fingerprint(text)) for text in self.tls_client_keys] if good else []
        digests = dict.fromkeys([*self.api_key_digests, *_digests(keys), *certificates])
        force_setattr(self, "api_key_digests", tuple(digests))
        found += check.problems(self, keyed=bool(digests or found))
        if found:
            raise ConfigErrors(ConfigError("Config", name, message) for name, message in found)
        force_setattr(self, "host", parse_host(self.host))
        force_setattr(self, "engines", _inherit(self))
        notes += check.notes_on(self, keyed=bool(digests))
        force_setattr(self, "warnings", tuple(dict.fromkeys([*self.warnings, *notes])))

    def __repr__(self) -> str:
        return shown(self, _SECRETS)

    def __rich_repr__(self) -> Any:
        yield repr(self)


def _digests(keys: Sequence[str]) -> list[bytes]:
    return [digest(key.encode()) for key in keys]


def _inherit(config: Config) -> tuple[EngineConfig, ...]:
    """The engines with what they leave open filled in, and names that no two of them share."""
    taken: set[str] = {engine.name for engine in config.engines if engine.name != engine.address.label}
    engines = []
    for engine in config.engines:
        given = engine.name != engine.address.label
        for one in by_rank(engine) if engine.ranks else [engine]:
            name, number = one.name, 1
            if not given:
                while name in taken:
                    number += 1
                    name = f"{one.name}#{number}"
                taken.add(name)
            engines.append(inherited(replace(one, name=name), config))
    return tuple(engines)


def by_rank(engine: EngineConfig) -> list[EngineConfig]:
    """Each data-parallel rank of an engine as an engine of its own."""
    return [replace(engine, name=f"{engine.name}@{rank}", ranks=0, rank=rank) for rank in range(engine.ranks)]


def inherited(engine: EngineConfig, config: Config) -> EngineConfig:
    """The engine with what it leaves open filled in from the gateway's own settings."""
    # (Who answers at the other end of a tunnel is a runner, which has the engine's key itself: that of all engines is not its.)
    dialled = not engine.address.host.endswith(TUNNELS)
    return replace(
        engine,
        api_key=engine.api_key or (config.vllm_api_key if dialled else ""),
        warm_connections=config.warm_connections if engine.warm_connections < 0 else engine.warm_connections,
        protocol=engine.protocol or config.upstream_protocol,
        max_connections=engine.max_connections or config.engine_max_connections,
        max_concurrent=engine.max_concurrent or config.engine_max_concurrent,
        ca_file=engine.ca_file or config.engine_ca_file,
        cert_file=engine.cert_file or config.engine_cert_file,
        key_file=engine.key_file or ("" if engine.cert_file else config.engine_key_file),
        verify=config.engine_verify if engine.verify is None else engine.verify,
    )
