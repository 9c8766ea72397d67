"""The words between a runner and its gateway: JSON in text frames of a WebSocket, told apart by ``type``.

Owns: the shape of every message, and its bounds. A message has two names: the one on the wire (``register``) and the one of the
protocol's page (``Registration``); both are read, and a runner is answered in those that it began with. Members that are not
known are passed over, so that a runner may say more than is asked. Must never: take a list, a text or a number without an end.

    runner → gateway   register, heartbeat, status_update, command_response
    gateway → runner   register_ack, load_model, unload_model, request_status, ping, error, go_away

Beside those of the protocol (version 1) there are members of our own, which other gateways pass over: ``url`` and ``go_away``
in ``register`` (who says the latter is told that message, which is ours too), in an engine ``context_tokens`` (how much context
fits, for each model of which it is known), and in ``metrics`` ``requests_running``, ``requests_waiting``, ``kv_cache_usage``,
``gpu_utilization_percent`` and ``gpu_joules`` (what each GPU has drawn in all, by its UUID).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

VERSION: Final = 1
MAX_FRAME_BYTES: Final = 128 * 1024
"""Of one message: five hundred models of a hundred characters are half of it."""
MAX_NAMES: Final = 1000
MAX_ENGINES: Final = 64
MAX_CONTEXTS: Final = 100
"""Models of one engine of which it is said how much fits: each name stands in a message once more."""
MAX_GPUS: Final = 64
MAX_TEXT_CHARS: Final = 2000

Word = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$")]
"""An id: it stands in paths, in metrics and in each line of the log."""
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Short = Annotated[str, Meta(max_length=200)]
Names = Annotated[list[Name], Meta(max_length=MAX_NAMES)]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
Tokens = Annotated[int, Meta(ge=1, le=1 << 40)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]
Share = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]

Health = Literal["healthy", "degraded", "starting", "shutting_down", "unhealthy"]
ROUTABLE: Final[frozenset[Health]] = frozenset({"healthy", "degraded"})

PROTOCOL_ERROR: Final = "PROTOCOL_ERROR"
PARSE_ERROR: Final = "PARSE_ERROR"
TIMEOUT: Final = "TIMEOUT"
AUTH_FAILED: Final = "AUTH_FAILED"


def is_name(said: str) -> bool:
    """Whether that can be a model's name: it stands in metrics and in the log."""
    return said.isprintable() and 0 < len(said.encode("utf-8", "replace")) <= 200


# --- what a runner says of itself
class EngineStatus(msgspec.Struct, kw_only=True):
    """One engine behind a runner."""

    engine_type: Short
    is_healthy: bool
    version: Short | None = None
    loaded_models: Names = []
    available_models: Names = []
    error: Text | None = None
    batch_size: Count | None = None
    context_tokens: Annotated[dict[Name, Tokens], Meta(max_length=MAX_CONTEXTS)] = {}


class Capability(msgspec.Struct, kw_only=True):
    """What a runner can do, by the runner's own words. (``metadata`` may be anything, and is passed over.)"""

    capability: Short
    status: Short = ""
    model_id: Short = ""
    active_requests: Count = 0
    avg_latency_ms: Amount | None = None


class RunnerMetrics(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a runner measures; memory in bytes. The last five are ours."""

    requests_processed: Count = 0
    avg_latency_ms: Amount | None = None
    gpu_memory_used: Amount | None = None
    gpu_memory_total: Amount | None = None
    cpu_usage_percent: Amount | None = None
    memory_used: Amount | None = None
    requests_running: Count | None = None
    requests_waiting: Count | None = None
    kv_cache_usage: Share | None = None
    gpu_utilization_percent: Amount | None = None
    gpu_joules: Annotated[dict[Short, Amount], Meta(max_length=MAX_GPUS)] = {}


class RunnerStatus(msgspec.Struct, kw_only=True):
    """How a runner is."""

    health: Health
    capabilities: Annotated[list[Capability], Meta(max_length=MAX_NAMES)] = []
    engines: Annotated[list[EngineStatus], Meta(max_length=MAX_ENGINES)] = []
    metrics: RunnerMetrics | None = None
    model_aliases: Annotated[dict[Name, Name], Meta(max_length=MAX_NAMES)] = {}

    def __post_init__(self) -> None:
        """Raises ValueError: each list has its bound, and all of them have it together."""
        names = {*self.model_aliases, *self.model_aliases.values()}
        for engine in self.engines:
            names.update(engine.loaded_models, engine.available_models)
        if len(names) > MAX_NAMES or len(self.model_aliases) + len(self.capabilities) > MAX_NAMES:
            raise ValueError(f"There are more than {MAX_NAMES} names of models, aliases and capabilities.")

    def models(self) -> tuple[str, ...]:
        """Names that it answers to: what is loaded first, then what could be, then aliases; each once. Of engines that are not
        well there are none, while another one is."""
        well = [engine for engine in self.engines if engine.is_healthy] or self.engines
        loaded = [name for engine in well for name in engine.loaded_models]
        available = [name for engine in well for name in engine.available_models]
        aliases = [alias for alias, name in self.model_aliases.items() if name in loaded or name in available]
        return tuple(dict.fromkeys([*loaded, *available, *aliases]))

    def loaded(self) -> frozenset[str]:
        return frozenset(name for engine in self.engines if engine.is_healthy for name in engine.loaded_models)


# --- runner to gateway
class Register(msgspec.Struct, kw_only=True, tag="register"):
    """The first message. ``url`` is where the runner's engine is, where that is not the runner's own address and
    ``http_port``. ``go_away``: it knows :class:`GoAway`."""

    runner_id: Word
    runner_name: Short = ""
    machine_type: Short | None = None
    http_port: Port
    protocol_version: int
    auth_token: Annotated[str, Meta(max_length=4096)]
    status: RunnerStatus
    mac_address: Short | None = None
    url: Annotated[str, Meta(max_length=512)] | None = None
    go_away: bool = False

    def __repr__(self) -> str:
        return f"<Register {self.runner_id}>"  # (not with its token)


class Heartbeat(RunnerStatus, kw_only=True, tag="heartbeat"):
    """It lives, and is as it says."""


class StatusUpdate(RunnerStatus, kw_only=True, tag="status_update"):
    """Something has changed."""


class CommandResponse(msgspec.Struct, kw_only=True, tag="command_response"):
    """What became of the command ``request_id``."""

    request_id: Short
    success: bool
    error: Text | None = None
    status: RunnerStatus | None = None


class _Register(Register, kw_only=True, tag="Registration"):
    pass


class _Heartbeat(Heartbeat, kw_only=True, tag="Heartbeat"):
    pass


class _StatusUpdate(StatusUpdate, kw_only=True, tag="StatusUpdate"):
    pass


class _CommandResponse(CommandResponse, kw_only=True, tag="CommandResponse"):
    pass


FromRunner = Register | Heartbeat | StatusUpdate | CommandResponse


# --- gateway to runner
class RegisterAck(msgspec.Struct, kw_only=True, tag="register_ack"):
    """The runner is known from now on."""

    runner_id: str


class LoadModel(msgspec.Struct, kw_only=True, tag="load_model"):
    """Load a model; a ``command_response`` of the same ``request_id`` is waited for."""

    model_id: Name
    request_id: Short


class UnloadModel(msgspec.Struct, kw_only=True, tag="unload_model"):
    """Let a model go; answered as :class:`LoadModel`."""

    model_id: Name
    request_id: Short


class RequestStatus(msgspec.Struct, kw_only=True, tag="request_status"):
    """How are you? Answered by a ``command_response`` with ``status``."""

    request_id: Short


class Ping(msgspec.Struct, kw_only=True, tag="ping"):
    """Nothing has been heard for a while: a heartbeat is waited for. ``timestamp``: Unix seconds."""

    timestamp: int


class Error(msgspec.Struct, kw_only=True, tag="error", omit_defaults=True):
    """Why the connection closes. ``retry_after_s``: when whoever it is told to may come again, where that can be said."""

    code: Short
    message: Text
    retry_after_s: Amount | None = None


class GoAway(msgspec.Struct, kw_only=True, tag="go_away"):
    """The gateway ends, or another process takes its place: the runner is to dial again at once, and this connection goes on
    beside that, with what is under way, until the gateway closes it."""


class _Welcome(RegisterAck, kw_only=True, tag="Welcome"):
    pass


class _LoadModel(LoadModel, kw_only=True, tag="LoadModel"):
    pass


class _UnloadModel(UnloadModel, kw_only=True, tag="UnloadModel"):
    pass


class _RequestStatus(RequestStatus, kw_only=True, tag="RequestStatus"):
    pass


Command = LoadModel | UnloadModel | RequestStatus
FromGateway = RegisterAck | LoadModel | UnloadModel | RequestStatus | Ping | Error | GoAway

_PAGE: Final[dict[type[msgspec.Struct], type[msgspec.Struct]]] = {
    RegisterAck: _Welcome, LoadModel: _LoadModel, UnloadModel: _UnloadModel, RequestStatus: _RequestStatus,
}  # fmt: skip

_from_runner: Final = msgspec.json.Decoder(
    Register | Heartbeat | StatusUpdate | CommandResponse | _Register | _Heartbeat | _StatusUpdate | _CommandResponse
)
_from_gateway: Final = msgspec.json.Decoder(
    RegisterAck | LoadModel | UnloadModel | RequestStatus | Ping | Error | GoAway | _Welcome | _LoadModel | _UnloadModel
    | _RequestStatus
)  # fmt: skip
_encoder: Final = msgspec.json.Encoder()


class Unreadable(ValueError):
    """``code`` is the protocol's word for it, and the text says where, without quoting what stood there."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def from_runner(text: str | bytes) -> FromRunner:
    """Raises :class:`Unreadable`."""
    try:
        said: FromRunner = _from_runner.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _unreadable(error) from None
    return said


def from_gateway(text: str | bytes) -> FromGateway:
    """Raises :class:`Unreadable`."""
    try:
        told: FromGateway = _from_gateway.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _unreadable(error) from None
    return told


def _unreadable(error: Exception) -> Unreadable:
    if isinstance(error, msgspec.ValidationError):
        message = str(error)
        if message.endswith(("`$.type`", "missing required field `type`")):
            return Unreadable(PROTOCOL_ERROR, "There is no message of this type.")
        # (What is expected where; a name among them is a member's, which the runner chose for `model_aliases` alone.)
        return Unreadable(PARSE_ERROR, message if "[...]" not in message else "A value is not as it must be.")
    return Unreadable(PARSE_ERROR, "This is no JSON.")


def by_page(message: msgspec.Struct) -> bool:
    """Whether a runner speaks by the names of the protocol's page."""
    return isinstance(message, _Register)


def written(message: msgspec.Struct, page: bool = False) -> bytes:
    """The message as it goes over the wire, by the names of the page if asked."""
    if page and (other := _PAGE.get(type(message))) is not None:
        message = other(**{name: getattr(message, name) for name in message.__struct_fields__})
    return _encoder.encode(message)
