"""Filters: one file, one policy; ``ORDER`` is the order in which they see a request.

A new policy is one file here, its test, and one line in ``ORDER``: docs/recipes/filter.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastgw.config import Config
from fastgw.exchange.filter import Filter, check, hooks
from fastgw.policy.auth import Auth
from fastgw.policy.bodylimit import BodyLimit
from fastgw.policy.browsers import Browsers
from fastgw.policy.charge import Charge
from fastgw.policy.cors import Cors
from fastgw.policy.iplimit import IpLimit
from fastgw.policy.queue import Queue
from fastgw.policy.quota import Quota
from fastgw.policy.ratelimit import RateLimit
from fastgw.policy.rewrite import Rewriting
from fastgw.policy.route import Route
from fastgw.policy.sessions import Sessions


def _mirroring(config: Config) -> Filter | None:
    if not any(route.mirror_to for route in config.routes):
        return None
    from fastgw.policy.mirror import Mirroring

    return Mirroring.from_config(config)


def _beating(config: Config) -> Filter | None:
    if not config.sse_heartbeat_s:
        return None
    from fastgw.policy.heartbeat import Heartbeats

    return Heartbeats(config.sse_heartbeat_s)


def _explaining(config: Config) -> Filter | None:
    if not config.explain_keys:
        return None
    from fastgw.policy.explain import Explaining

    return Explaining.from_config(config)


def _remembering(config: Config) -> Filter | None:
    if not (config.enable_otlp_tracing and config.trace_contents):
        return None
    from fastgw.policy.contents import Remembering

    return Remembering()


ORDER: tuple[Callable[[Config], Filter | None], ...] = (
    IpLimit.from_config,
    Cors.from_config,
    Browsers.from_config,
    Auth.from_config,
    RateLimit.from_config,
    BodyLimit.from_config,
    _beating,
    Quota.from_config,
    Charge.from_config,
    Sessions.from_config,
    Route.from_config,
    Queue.from_config,
    _mirroring,
    _explaining,
    _remembering,
    Rewriting.from_config,
)


def build(config: Config) -> tuple[Filter, ...]:
    """The filters that this configuration needs, in order.

    :raises TypeError: one has a hook that nobody would call.
    """
    filters = tuple(one for make in ORDER if (one := make(config)) is not None)
    check(filters)
    return filters


def rebuild(config: Config, before: Sequence[Filter]) -> tuple[Filter, ...]:
    """The filters that ``config`` needs in a gateway that has run with ``before``: what those know of requests goes on.

    :raises TypeError: as :func:`build`; and where requests that wait would not find their place among the filters again.
    """
    known = {one.name: one for one in before}
    built = build(config)
    names = {one.name for one in built}
    built += tuple(one for one in before if one.stays and one.name not in names)
    made = tuple(one.after(known[one.name], config) if one.name in known else one for one in built)
    if [one.name for one in walked(made)] != [one.name for one in walked(before)]:
        raise TypeError("a filter with on_body or on_route has to be there whatever the settings: requests wait between them")
    return made


def walked(filters: Sequence[Filter]) -> list[Filter]:
    """Those that may have a request wait, each as often as it may."""
    return [hook.__self__ for name in ("on_body", "on_route") for hook in hooks(filters, name)]
