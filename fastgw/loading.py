"""What is known of a gateway's settings beside what they are: when they were last read well, and what waits for a restart.

Owns those two, the way in which whoever runs the gateway has them read again, and what is imported and made for some of them
alone. The gateway moves them; metrics and the control listener ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from time import time
from typing import Any, Final

from fastgw.config import Config
from fastgw.exchange.gateway import GatewayCore

OF_CONTROL: Final = ("config.dump", "control.admin_live", "control.server", "engines", "explaining", "keyring", "observe.live")


class Loading:
    """See the head of this file. ``again`` reads them again, and gives what the operator is answered (status, document);
    None: an embedding program gives them itself."""

    __slots__ = ("again", "at", "pending")

    def __init__(self) -> None:
        self.at = time()  # Unix seconds
        self.pending: tuple[str, ...] = ()  # settings that are written otherwise than they hold
        self.again: Callable[[], Awaitable[tuple[int, Any]]] | None = None


def import_for(config: Config, start: bool = False) -> None:
    """What only some settings need, before anything changes: there may be no descriptor to read it with, or no file any more.
    ``start``: what a start needs as well, where clients wait meanwhile. Raises ImportError, OSError."""
    needed: dict[str, object] = {
        "fastgw.control.webhook": config.budget_webhook_url,
        "fastgw.exchange.merging": config.embedding_merge_s,
        "fastgw.runners": config.runner_auth_token,
        "fastgw.upstream.scheduler": config.scheduler == "auto",
        "ipaddress": config.trusted_proxies,
    }
    if start:
        needed |= {f"fastgw.{name}": config.control_listen for name in OF_CONTROL}
        needed |= {"fastgw.store.state": config.state_dir}
    for name, is_needed in needed.items():
        if is_needed:
            import_module(name)


def merger_for(core: GatewayCore, config: Config) -> Any:
    """Who holds embedding requests together from now on, None = nobody. (Those that are held go on as they were.)"""
    if not config.embedding_merge_s:
        return None
    from fastgw.exchange.merging import Merger

    wait_s, most = config.embedding_merge_s, config.embedding_merge_inputs
    return Merger(core, core.reactor.loop, wait_s=wait_s, most_inputs=most)
