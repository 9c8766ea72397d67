"""The control listener of a gateway, put together: what whoever runs it may see and do.

Owns what stands between that listener and the rest, which know nothing of each other.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from fastgw.config import Config
from fastgw.config.address import parse_host_port
from fastgw.doors import RunnerDoor
from fastgw.exchange.gateway import GatewayCore
from fastgw.limits.key import UsageRow
from fastgw.limits.scopes import used_of
from fastgw.net.clock import micros, monotonic
from fastgw.protocol.hosts import HostRule
from fastgw.stats import EventLog
from fastgw.upstream.fleet import Fleet

if TYPE_CHECKING:
    from fastgw.control.server import ControlServer, Others
    from fastgw.gpu.watch import Watch
    from fastgw.keyring import Keyring
    from fastgw.loading import Loading
    from fastgw.net.certificates import Shown
    from fastgw.store.state import State
    from fastgw.vitals import MetricsDoor


async def for_the_operator(
    core: GatewayCore,
    fleet: Fleet,
    state: Callable[[], State | None],
    loading: Loading,
    runners: RunnerDoor,
    metrics: MetricsDoor,
    shown: Shown | None = None,
    *,
    given: Sequence[socket.socket] | None = None,
    listens: bool = True,
    others: Others | None = None,
) -> ControlServer:
    """Serve the control listener, on ``given`` sockets or as configured; ``state`` is the store, as long as there is one.
    ``listens`` False: not before it is told to; ``others``: the processes that serve clients, where this one does not. Raises
    :class:`BindError`."""
    # Imported here, for it takes longer than all the rest of a start.
    from fastgw.config.dump import dumped
    from fastgw.control.admin_live import AdminLive
    from fastgw.control.proof import keys_of
    from fastgw.control.server import ControlServer
    from fastgw.engines import EngineDesk
    from fastgw.explaining import ExplainDesk
    from fastgw.observe.latencies import Latencies
    from fastgw.observe.live import Live

    config = core.config
    keys = _keyring(core, state())
    listen = config.control_listen
    free = listen.endswith(":0")  # the system chooses the port
    host, port = parse_host_port(listen.removesuffix(":0") + ":1" if free else listen)
    metrics.pages.more = metrics.vitals.joined.gpus = gpus = _gpus(config, core.log)
    latencies = Latencies(fleet.engines)
    desk = EngineDesk(fleet, latencies, runners.runner_of)
    desk.elsewhere = metrics.vitals.connections
    metrics.tasks.spawn("latencies", latencies.run())
    control = ControlServer(
        host=host,
        port=0 if free else port,
        operators=keys_of(config),
        log=core.log,
        metrics=metrics,
        health=lambda: dict(zip(("healthy_engines", "total_engines"), core.health.counts(), strict=True)),
        keys=keys,
        usage=keys,
        currency=lambda: core.config.currency,
        limits=lambda: limits_now(core),
        engines=desk,
        hosts=control_hosts(config),
        reload=loading.again,
        config=lambda: {"settings": dumped(core.config), "restart": loading.pending},
        events=fleet.events,
        runners=runners.dialled,
        explain=ExplainDesk(core),
        live=AdminLive(
            Live(metrics.vitals, latencies),
            lambda: found[0].runners() if (found := runners.dialled()) is not None else (),
            lambda: gpus.tiles() if gpus is not None else None,
            lambda: gpus.health() if gpus is not None else None,
        ),
        tls=shown.lasting() if shown is not None and config.control_tls else None,
    )
    if others is not None:
        desk.told, control.others = others.engine, others
    metrics.vitals.auth_failures = lambda: control.auth_failures
    await control.start(given, listens)
    fleet.own.add(control.socks)
    return control


def _keyring(core: GatewayCore, store: State | None) -> Keyring | None:
    """Who knows keys and what they use, where there is a store."""
    if store is None:
        return None
    from fastgw.keyring import Keyring

    return Keyring(store, lambda key_id: usage_today(core, key_id))


def _gpus(config: Config, log: EventLog) -> Watch | None:
    """Who reads this machine's GPUs, where that is asked for."""
    if not config.gpu:
        return None
    from fastgw.gpu.watch import watch

    return watch(config.gpu_names, config.gpu_processes, log)


def follow(control: ControlServer, config: Config) -> None:
    """Go by ``config`` from now on."""
    from fastgw.control.proof import keys_of

    control.follow(keys_of(config), control_hosts(config))


def control_hosts(config: Config) -> HostRule:
    """Under which names the control listener may be asked."""
    return HostRule(config.allowed_hosts, os.uname().nodename)


def limits_now(core: GatewayCore) -> Iterator[dict[str, object]]:
    """What stands beside keys, of tenants and models, and what of it is used."""
    for one in core.accounts.scopes.together():
        with core.accounts.inside(one):
            used = used_of(one, micros(monotonic()), core.today)
        yield {"kind": one.kind, "name": one.id, **used}


def usage_today(core: GatewayCore, key_id: str) -> UsageRow | None:
    account = core.accounts.by_id(key_id)
    if account is None:
        return None
    ledger = account.ledger
    with core.accounts.inside(account):
        ledger.roll(core.today)
    return (
        key_id, ledger.day, ledger.prompt, ledger.completion, ledger.requests, ledger.estimated, ledger.cached,
        ledger.reasoning,
    )  # fmt: skip
