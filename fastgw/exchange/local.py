"""The answers that fastgw gives itself: liveness, readiness, health, the list of models, and the way into a tunnel.

Readiness asks the engines when the last verdicts are older than a second, so that what it says is true now; many
askers at once share one round of probes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from time import time
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from fastgw.accel.hashing import digest
from fastgw.errors import GatewayError, Source
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.state import LOCAL
from fastgw.net.clock import micros, monotonic
from fastgw.protocol.headers import handshake_lines
from fastgw.protocol.openai import check_model, models_list
from fastgw.protocol.query import parameter

FRESH_S: Final = 1.0

Spawn = Callable[[str, Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class LocalEndpoints:
    """Handlers by name, as the endpoint table calls them."""

    def __init__(self, core: GatewayCore, spawn: Spawn) -> None:
        self._core = core
        self._spawn = spawn
        self._created = int(time())
        core.locals.update(
            liveness=self.liveness,
            readiness=self.readiness,
            health=self.health,
            healthz=self.healthz,
            ready=self.ready,
            models=self.models,
            model=self.model,
            usage=self.usage,
            tunnel=self.tunnel,
        )

    def _json(self, exchange: Exchange, status: int, value: object) -> None:
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        exchange.answer(status, self._core.local_response(exchange, status, b"application/json", body))

    # --- health
    def liveness(self, exchange: Exchange) -> None:
        self._json(exchange, 200, {"status": "ok"})

    def healthz(self, exchange: Exchange) -> None:
        text = b"OK" if self._core.profile == "openai-llm-gateway" else b"ok"
        if self._core.profile == "openai-llm-gateway":
            self._core.log.info("health check", path="/healthz")
        exchange.answer(200, self._core.local_response(exchange, 200, b"text/plain; charset=utf-8", text))

    def health(self, exchange: Exchange) -> None:
        """The process is up and says what it knows of its engines; always 200 while it can answer."""
        well, total = self._core.health.counts()
        self._json(exchange, 200, {"status": "ok", "healthy_engines": well, "total_engines": total})

    def readiness(self, exchange: Exchange) -> None:
        self._later(exchange, self._readiness)

    def _readiness(self, exchange: Exchange) -> None:
        well, total = self._core.health.counts()
        ready = well > 0 and not self._core.draining
        answer: dict[str, object] = {"ready": ready, "healthy_workers": well, "total_workers": total}
        if not total:
            answer["reason"] = "no_workers_configured"
        elif self._core.draining:
            answer["reason"] = "draining"
        elif not ready:
            answer["reason"] = "no_healthy_workers"
        self._json(exchange, 200 if ready else 503, answer)

    def ready(self, exchange: Exchange) -> None:
        self._later(exchange, self._ready)

    def _ready(self, exchange: Exchange) -> None:
        well, total = self._core.health.counts()
        ready = well > 0 and not self._core.draining
        status = "ready" if ready else "draining" if self._core.draining else "not_ready"
        self._json(exchange, 200 if ready else 503, {"status": status, "healthy_engines": well, "total_engines": total})

    def _later(self, exchange: Exchange, answer: Callable[[Exchange], None]) -> None:
        """Answer when the engines' verdicts are fresh; the client may leave meanwhile."""
        exchange.phase = LOCAL

        async def wait() -> None:
            try:
                async with asyncio.timeout(2 * self._core.config.health_timeout_s):
                    await self._core.health.freshen(FRESH_S)
            except TimeoutError:
                self._core.log.warning("probes took too long", path=exchange.endpoint.label)
            exchange.local_task = None
            if exchange.phase is LOCAL:
                answer(exchange)

        exchange.local_task = self._spawn(f"answer {exchange.endpoint.label}", wait())
        exchange.conn.poller.hurry()

    # --- models
    def _models(self) -> list[tuple[str, str, int]]:
        core = self._core
        listed = [(model, kind if kind != "auto" else "fastgw", self._created) for model, kind in core.table.models.items()]
        served = core.config.served_model_name
        if served and served not in core.table.models:
            listed.insert(0, (served, "fastgw", self._created))
        return listed

    def _listed(self, exchange: Exchange) -> bytes:
        """The list as the key may see it."""
        account = exchange.account
        allowed = account.models if account is not None else None
        return models_list([entry for entry in self._models() if allowed is None or entry[0] in allowed])

    def models(self, exchange: Exchange) -> None:
        if self._core.table.models or self._core.config.served_model_name or not self._core.table.pools:
            self._json(exchange, 200, self._listed(exchange))
            return
        # Nothing learned yet (just started): ask first.
        self._later(exchange, lambda exchange: self._json(exchange, 200, self._listed(exchange)))

    def model(self, exchange: Exchange) -> None:
        name = unquote(exchange.head.path[len(b"/v1/models/") :].decode("utf-8", "replace"))
        allowed = exchange.account.models if exchange.account is not None else None
        for model, owner, created in self._models():
            if model == name and (allowed is None or model in allowed):
                self._json(exchange, 200, {"id": model, "object": "model", "created": created, "owned_by": owner})
                return
        raise GatewayError("model_not_found", param="model")

    # --- usage
    def usage(self, exchange: Exchange) -> None:
        """What the calling key has used today (UTC), and what it may; -1 = unlimited."""
        account = exchange.account
        assert account is not None  # the endpoint asks for a key where there are any
        ledger = account.ledger
        ledger.roll(self._core.today)
        now_us = micros(monotonic())
        answer: dict[str, object] = {
            "date": datetime.fromtimestamp(ledger.day * 86400, UTC).date().isoformat(),
            "prompt_tokens": ledger.prompt,
            "completion_tokens": ledger.completion,
            "total_tokens": ledger.prompt + ledger.completion,
            "estimated_tokens": ledger.estimated,
            "requests": ledger.requests,
            "quota": ledger.limit or -1,
            "quota_remaining": ledger.left(self._core.today),
            "quota_reserved": ledger.reserved,
            "requests_under_way": account.inflight,
            "concurrency": account.concurrency or -1,
        }
        for name, meter in (("requests", account.requests), ("tokens", account.tokens)):
            answer[f"{name}_per_minute"] = meter.rate if meter is not None else -1
            answer[f"{name}_remaining"] = meter.left(now_us) if meter is not None else -1
        self._json(exchange, 200, answer)

    # --- tunnels
    def tunnel(self, exchange: Exchange) -> None:
        """A WebSocket handshake is passed to an engine on a connection of its own."""
        head = exchange.head
        upgrade = (head.own or {}).get(b"upgrade", b"")
        if upgrade.lower() != b"websocket" or exchange.conn.body is not None or head.content_length > 0:
            raise GatewayError("bad_request", "This endpoint speaks WebSocket: send `Upgrade: websocket`, and no body.")
        try:
            asked = parameter(head.query, "model")
        except ValueError as error:
            raise GatewayError("invalid_parameter", str(error), param="model") from None
        model = check_model(asked.text) if asked is not None and asked.text else ""
        group = self._core.table.group(model)
        if group is None:
            raise (
                GatewayError("model_not_found", param="model")
                if self._core.table.pools
                else GatewayError("no_engines", source=Source.GATEWAY, retry_after_s=self._core.retry_after_s)
            )
        # The client's key never leaves.
        head.forward += handshake_lines(head.own or {}, lambda text: self._core.accounts.find(digest(text)) is not None)
        exchange.tunnel_value = asked if model else None
        exchange.upgrade = True
        exchange.tunnel_model = model
        exchange.group = group
