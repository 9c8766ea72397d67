"""What an agent is told on its command line, and who does for it what it does not do itself.

Must never: show a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from fastgw.net.poller import Reactor
from fastgw.net.wire import Wire


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says. ``token`` is read at each dial: it raises CannotRead where that fails. ``ping_s``: so often
    the gateway is asked whether it lives. ``url``: where the engine is asked, "" = at our own address and ``http_port``."""

    gateway: str
    runner_id: str
    runner_name: str = ""
    machine_type: str = ""
    http_port: int
    url: str = ""
    token: Callable[[], str]
    aliases: dict[str, str] = {}
    heartbeat_s: float = 30.0
    ping_s: float = 10.0
    look_s: float = 2.0
    drain_s: float = 30.0

    def __repr__(self) -> str:
        return f"<Asked {self.runner_id} of {self.gateway}>"  # (not with its token)


class GpuUse(Protocol):
    """All GPUs of this machine together."""

    @property
    def used_bytes(self) -> float | None: ...
    @property
    def total_bytes(self) -> float | None: ...
    @property
    def utilization_percent(self) -> float | None: ...
    @property
    def joules(self) -> Mapping[str, float]: ...


class Front(Protocol):
    """Who serves the requests of a tunnel."""

    @property
    def reactor(self) -> Reactor: ...

    def serve(self, wire: Wire) -> None:
        """Serve what comes over ``wire``, until it ends."""
        ...

    def doubts(self, told: Callable[[], None]) -> None:
        """Have ``told`` called at each request that the engine has not answered, or not to the end."""
        ...

    def follow(self, api_key: str) -> None:
        """From now on ask the engine with this key, "" = without one."""
        ...

    async def stop(self) -> None:
        """End all that is left."""
        ...
