"""Runners by hand: their words, a session with a registry behind it, and a yard that keeps what it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastgw.config import EngineConfig
from fastgw.protocol.runners import Refused, Session, Terms
from fastgw.upstream.absent import Absent
from fastgw.upstream.runner_address import networks
from fastgw.upstream.runners import Registry
from fastgw.upstream.target import Engine

TOKEN = "a-token-of-these-tests"
PEER = "10.0.0.7"


def status(*loaded: str, health: str = "healthy", **more: Any) -> dict[str, Any]:
    """A RunnerStatus with one engine that has these models in memory."""
    engine = {
        "engine_type": more.pop("engine_type", "vllm"), "is_healthy": more.pop("is_healthy", True), "batch_size": 8,
        "loaded_models": list(loaded), "available_models": list(more.pop("available", ())),
    }  # fmt: skip
    return {"health": health, "capabilities": [], "engines": [engine], "model_aliases": {}, **more}


def register(*loaded: str, id: str = "r1", **more: Any) -> dict[str, Any]:
    """A ``register``; ``more`` are other members of it, or other values, and ``None`` leaves one out."""
    words: dict[str, Any] = {
        "type": "register", "runner_id": id, "runner_name": "one", "machine_type": "gpu", "http_port": 8000,
        "protocol_version": 1, "auth_token": TOKEN, "status": status(*(loaded or ("llama",))), "mac_address": None,
    }  # fmt: skip
    words.update(more)
    return {name: value for name, value in words.items() if value is not None or name == "mac_address"}


def heartbeat(*loaded: str, **more: Any) -> dict[str, Any]:
    return {"type": more.pop("type", "heartbeat"), **status(*(loaded or ("llama",)), **more)}


class Yard:
    """A :class:`fastgw.upstream.runners.Yard` without a fleet."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.models: dict[str, tuple[str, ...]] = {}
        self.told: list[tuple[str, str]] = []
        self.done: list[tuple[str, str]] = []
        self.refuses = ""

    def take_in(self, config: EngineConfig) -> Engine:
        if self.refuses:
            raise Refused(self.refuses)
        engine = self.engines[config.name] = Engine(config)
        self.done.append(("taken in", config.name))
        return engine

    def free_name(self, name: str) -> str:
        number, free = 1, name
        while free in self.engines:
            number += 1
            free = f"{name}~{number}"
        return free

    def holds(self, engine: Engine) -> bool:
        return self.engines.get(engine.name) is engine

    def serves(self, engine: Engine, models: Sequence[str], aliases: dict[str, str]) -> None:
        self.models[engine.name] = tuple(models)
        engine.aliases = dict(aliases)

    def rests(self, engine: Engine, resting: bool) -> None:
        engine.draining = resting

    def vouched(self, engine: Engine, well: bool, away: bool = False) -> None:
        engine.healthy = well
        engine.away = away

    def disowned(self, engine: Engine, ill: bool) -> None:
        engine.disowned = ill
        engine.healthy = not ill

    def lose(self, engine: Engine, why: str) -> None:
        self.done.append(("lost", engine.name))
        del self.engines[engine.name]

    def let_go(self, engine: Engine) -> None:
        self.done.append(("let go", engine.name))
        del self.engines[engine.name]

    def tell(self, what: str, runner: str, **about: object) -> None:
        self.told.append((what, runner))


class Talk:
    """A registry, its clock, and connections to it."""

    def __init__(self, *, most: int = 10, listed: Sequence[str] = (), token: str = TOKEN) -> None:
        self.now = 1000.0
        self.yard = Yard()
        self.absent = Absent()
        self.absent.begin(0.0)
        self.registry = Registry(self.yard, self.absent, most=most, listed=networks(listed))
        self.terms = Terms(token, 30.0, 90.0)
        self.sessions: list[Session] = []

    def connect(self, peer: str = PEER) -> Session:
        session = Session(self.registry, self.terms, peer, self.now)
        self.sessions.append(session)
        return session

    def joined(self, *loaded: str, peer: str = PEER, **more: Any) -> Session:
        """One that has registered."""
        session = self.connect(peer)
        assert self.say(session, register(*loaded, **more))[0]["type"] in ("register_ack", "Welcome"), session
        return session

    def say(self, session: Session, message: dict[str, Any] | str | bytes) -> list[dict[str, Any]]:
        """What is answered."""
        session.on_text(message if isinstance(message, (str, bytes)) else json.dumps(message), self.now)
        return self.heard(session)

    def heard(self, session: Session) -> list[dict[str, Any]]:
        said = [json.loads(one) for one in session.out]
        session.out.clear()
        return said

    def wait(self, seconds: float, step_s: float = 0.25) -> None:
        """Time goes by."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + step_s)
            for session in self.sessions:
                if session.state.value == "new":
                    session.tick(self.now, self.now)
            self.registry.tick(self.now, self.now)
