"""``/debug/*``: what the engine received and how it stands, for tests and for people who look for a lost request.

Only there with ``--debug``: it shows prompts and keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from fastgw.sim.engine import Answer, Shape
from fastgw.sim.received import Received, Recorder
from fastgw.sim.shapes import JSON, BadRequestError, Overrides

Handler = Callable[[Received, Overrides], "Answer | Shape"]


class Controls(Protocol):
    """What of the simulator these paths may read and change."""

    @property
    def requests(self) -> Recorder: ...

    def state_dict(self) -> dict[str, Any]: ...

    def refuse(self, seconds: float, drop: bool = False) -> None: ...

    def h2_connections(self) -> list[Any]: ...

    def meet(self, given: bytes) -> None: ...

    def set_healthy(self, healthy: bool) -> None: ...


class Refuse(msgspec.Struct):
    seconds: float
    drop: bool = False


class Health(msgspec.Struct):
    healthy: bool


def _json(value: Any) -> Answer:
    return Answer(200, JSON, msgspec.json.encode(value))


class Debug:
    """The handlers, over ``controls``."""

    __slots__ = ("_controls",)

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    def table(self) -> dict[str, dict[str, Handler]]:
        echo: dict[str, Handler] = dict.fromkeys(("GET", "POST", "PUT", "PATCH", "DELETE"), self._echo)
        return {
            "/debug/echo": echo,
            "/debug/requests": {"GET": self._requests, "DELETE": self._clear},
            "/debug/state": {"GET": self._state},
            "/debug/h2": {"GET": self._h2, "POST": self._meet},
            "/debug/refuse": {"POST": self._refuse},
            "/debug/health": {"POST": self._health},
        }

    def _echo(self, request: Received, _: Overrides) -> Answer:
        return _json(request.as_dict())

    def _requests(self, request: Received, _: Overrides) -> Answer:
        return _json([record.as_dict() for record in self._controls.requests])

    def _clear(self, request: Received, _: Overrides) -> Answer:
        self._controls.requests.clear()
        return _json({"cleared": True})

    def _state(self, request: Received, _: Overrides) -> Answer:
        return _json(self._controls.state_dict())

    def _h2(self, request: Received, _: Overrides) -> Answer:
        return _json(self._controls.h2_connections())

    def _meet(self, request: Received, _: Overrides) -> Answer:
        self._controls.meet(request.body)
        return _json({"met": msgspec.json.decode(request.body)})

    def _refuse(self, request: Received, _: Overrides) -> Answer:
        asked = msgspec.json.decode(request.body, type=Refuse)
        if not 0 <= asked.seconds <= 86_400:
            raise BadRequestError("seconds: 0 to 86400.")
        self._controls.refuse(asked.seconds, asked.drop)
        return _json({"refusing_s": asked.seconds})

    def _health(self, request: Received, _: Overrides) -> Answer:
        healthy = msgspec.json.decode(request.body, type=Health).healthy
        self._controls.set_healthy(healthy)
        return _json({"healthy": healthy})
