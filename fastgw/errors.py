"""Every error fastgw can answer with: one table from kind to status, type, code and message.

Owns: the table, the exception that carries a kind through the layers, and the rendering of the JSON body.
Must never: put ``detail`` (addresses, exceptions, paths, engine text) into what a client reads. ``docs/errors.md`` is
generated from the table, and a test keeps the two equal.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec


class Source(enum.Enum):
    """Whose fault an error is: it decides what counts against an engine's health."""

    CLIENT = "client"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


class ErrorKind(msgspec.Struct, frozen=True):
    """One row of the table.

    ``close`` says that the client's connection cannot be used again after this answer (the framing of what follows
    is unknown, or the bytes still to come are not worth reading). ``hopeless``: the same request will not succeed today,
    so clients that would try again by themselves are told not to.
    """

    name: str
    status: int
    type: str
    code: str
    message: str
    close: bool = False
    advice: str = ""
    hopeless: bool = False


_IRE: Final = "invalid_request_error"
_AUE: Final = "authentication_error"
_RLE: Final = "rate_limit_error"
_UPE: Final = "upstream_error"


def _table(*rows: ErrorKind) -> dict[str, ErrorKind]:
    return {row.name: row for row in rows}


KINDS: Final[dict[str, ErrorKind]] = _table(
    ErrorKind(
        "bad_request",
        400,
        _IRE,
        "bad_request",
        "The request is malformed.",
        True,
        "Check how the client, or a proxy before fastgw, writes HTTP: ambiguous framing is refused, never repaired.",
    ),
    ErrorKind(
        "invalid_json",
        400,
        _IRE,
        "invalid_json",
        "The request body is not valid JSON.",
        False,
        "Send one JSON object, UTF-8, without NaN or Infinity, at most 64 levels deep.",
    ),
    ErrorKind(
        "invalid_multipart",
        400,
        _IRE,
        "invalid_multipart",
        "The multipart body is malformed.",
        False,
        "The message says what to change: what two readers could understand differently is refused, never repaired.",
    ),
    ErrorKind(
        "invalid_encoding",
        400,
        _IRE,
        "invalid_encoding",
        "The compressed body is malformed.",
        False,
        "Send what the Content-Encoding says: a whole gzip, zlib (deflate) or zstd stream, and nothing behind it.",
    ),
    ErrorKind(
        "missing_model",
        400,
        _IRE,
        "missing_model",
        "The request names no model.",
        False,
        "Set `model` to a non-empty string; GET /v1/models lists the names.",
    ),
    ErrorKind(
        "invalid_parameter",
        400,
        _IRE,
        "invalid_parameter",
        "A parameter of the request is not valid.",
        False,
        "The error's `param` names the field.",
    ),
    ErrorKind(
        "duplicate_member",
        400,
        _IRE,
        "duplicate_member",
        "A member of the request body is given twice.",
        False,
        "Send each member of the body once: engines differ in which of two they take.",
    ),
    ErrorKind(
        "unauthorized",
        401,
        _AUE,
        "invalid_api_key",
        "A valid API key is required.",
        False,
        "Send `Authorization: Bearer <key>`, `x-api-key: <key>` or `api-key: <key>`.",
    ),
    ErrorKind(
        "forbidden",
        403,
        "permission_error",
        "forbidden",
        "This key may not do that.",
        False,
        "Ask the operator of the gateway.",
    ),
    ErrorKind(
        "origin_not_allowed",
        403,
        "permission_error",
        "origin_not_allowed",
        "Pages of this origin may not use this gateway; its operator can list it in `cors_origins`.",
        False,
        "Add the origin to `cors_origins`, or ask for keys: without them, what a page could send unasked is refused.",
    ),
    ErrorKind(
        "not_found",
        404,
        _IRE,
        "unknown_url",
        "There is no such endpoint.",
        False,
        "Paths are matched exactly, without normalisation; see the list of endpoints.",
    ),
    ErrorKind(
        "model_not_found",
        404,
        _IRE,
        "model_not_found",
        "No engine serves this model.",
        False,
        "GET /v1/models lists the models that are served.",
    ),
    ErrorKind(
        "response_not_found",
        404,
        _IRE,
        "response_not_found",
        "There is no response of this id.",
        False,
        "A response can be read and gone on from with the key that made it, as long as its engine keeps it.",
    ),
    ErrorKind(
        "method_not_allowed",
        405,
        _IRE,
        "method_not_allowed",
        "This endpoint does not take this method.",
        False,
        "The `Allow` header lists the methods.",
    ),
    ErrorKind(
        "request_timeout",
        408,
        _IRE,
        "request_timeout",
        "The request did not arrive in time.",
        True,
        "Send the head within 10 s and keep the body moving.",
    ),
    ErrorKind(
        "length_required",
        411,
        _IRE,
        "length_required",
        "The request needs a Content-Length.",
        False,  # the next request's place is known: without a length there is no body (RFC 9112 §6.3)
        "Send `Content-Length` or `Transfer-Encoding: chunked`.",
    ),
    ErrorKind(
        "body_too_large",
        413,
        _IRE,
        "body_too_large",
        "The request body is too large.",
        True,
        "Send less, or raise `max_body_bytes` (JSON) or `max_upload_bytes` (uploads).",
    ),
    ErrorKind(
        "unsupported_media_type",
        415,
        _IRE,
        "unsupported_media_type",
        "This content type is not supported here.",
        False,
        "Send `application/json`, or `multipart/form-data` where an endpoint takes files.",
    ),
    ErrorKind(
        "unsupported_encoding",
        415,
        _IRE,
        "unsupported_encoding",
        "This Content-Encoding is not supported here.",
        False,
        "Send the body as it is, or in a coding that the answer's `Accept-Encoding` lists.",
    ),
    ErrorKind(
        "host_not_allowed",
        421,
        _IRE,
        "host_not_allowed",
        "This gateway takes no requests for this host name; its operator can list it in `allowed_hosts`.",
        False,
        "Use an IP address or localhost, or add the name to `allowed_hosts`: without keys, a name that a web site could point "
        "here is refused.",
    ),
    ErrorKind(
        "expectation_failed",
        417,
        _IRE,
        "expectation_failed",
        "This expectation cannot be met.",
        True,
        "The only expectation known is `100-continue`.",
    ),
    ErrorKind(
        "websocket_version",
        426,
        _IRE,
        "websocket_version",
        "WebSockets are spoken in version 13 here (RFC 6455).",
        False,
        "Send `Sec-WebSocket-Version: 13`, as every WebSocket client of today does.",
    ),
    ErrorKind(
        "rate_limited",
        429,
        _RLE,
        "rate_limit_exceeded",
        "Too many requests.",
        False,
        "Wait as long as `Retry-After` says; the `x-ratelimit-` headers tell the limits of the key.",
    ),
    ErrorKind(
        "over_limit",
        429,
        _RLE,
        "request_exceeds_limit",
        "The request needs more tokens than the key may use in a minute, or in a day.",
        False,
        "Send a shorter prompt or a smaller `max_tokens`; waiting does not help.",
        True,
    ),
    ErrorKind(
        "quota_exhausted",
        429,
        _RLE,
        "daily_quota_exceeded",
        "The key's tokens for today are spent; they come back at midnight UTC.",
        False,
        "Wait until midnight UTC, as `Retry-After` says, or ask for fewer tokens; GET /v1/usage tells what is left.",
        True,
    ),
    ErrorKind(
        "quota_reserved",
        429,
        _RLE,
        "daily_quota_reserved",
        "What is left of the key's tokens for today is reserved by its requests under way.",
        False,
        "Wait as long as `Retry-After` says: what those requests do not use comes back when they end.",
    ),
    ErrorKind(
        "budget_exhausted",
        429,
        "insufficient_quota",
        "insufficient_quota",
        "What may be spent with this key in this period is spent.",
        False,
        "Wait for the next period, as `Retry-After` says, or ask the operator for more; GET /v1/usage tells what is left.",
        True,
    ),
    ErrorKind(
        "budget_reserved",
        429,
        _RLE,
        "budget_reserved",
        "What is left of the budget of this key, or of its tenant, is reserved by requests under way.",
        False,
        "Wait as long as `Retry-After` says: what those requests do not spend comes back when they end.",
    ),
    ErrorKind(
        "unpriced_model",
        403,
        "permission_error",
        "model_unpriced",
        "This key has a budget, and what the model costs is not known.",
        False,
        "Ask the operator for a price of the model, and of those that it may fall back to (`[[prices]]`), or for "
        '`on_unknown_price = "allow"`.',
    ),
    ErrorKind(
        "concurrency_limited",
        429,
        _RLE,
        "concurrency_exceeded",
        "The key has too many requests under way.",
        False,
        "Wait for one of them to end.",
    ),
    ErrorKind(
        "at_capacity",
        429,
        _RLE,
        "at_capacity",
        "All engines for this model are busy.",
        False,
        "Wait as long as `Retry-After` says.",
    ),
    ErrorKind(
        "queue_full",
        429,
        _RLE,
        "queue_full",
        "Too many requests are waiting already.",
        False,
        "Wait as long as `Retry-After` says, or raise `queue_size` or `queue_bytes`.",
    ),
    ErrorKind(
        "queue_timeout",
        503,
        _UPE,
        "queue_timeout",
        "No engine had room for the request in time.",
        False,
        "Wait as long as `Retry-After` says, or raise `queue_timeout_s`.",
    ),
    ErrorKind(
        "circuit_open",
        503,
        _UPE,
        "circuit_open",
        "The engines for this model have failed repeatedly and are being spared.",
        False,
        "Wait as long as `Retry-After` says, then look at the engines' logs.",
    ),
    ErrorKind(
        "quarantined",
        422,
        _IRE,
        "request_quarantined",
        "Each engine that got this request lost its connection; it is not sent to another.",
        False,
        "Look at the engines' logs: the request may crash them.",
        True,
    ),
    ErrorKind(
        "too_many_connections",
        503,
        _UPE,
        "too_many_connections",
        "Too many connections.",
        True,
        "Reuse connections, or raise `max_connections` or `max_connections_per_ip`.",
    ),
    ErrorKind(
        "http_only",
        426,
        _IRE,
        "http_only",
        "No engine here takes the Responses API over a WebSocket.",
        False,
        "Send the same by POST to /v1/responses, as agents do by themselves that are told so. An engine that has refused such "
        "a handshake is asked again after ten minutes.",
        True,
    ),
    ErrorKind(
        "needs_unmet",
        422,
        _IRE,
        "needs_unmet",
        "No engine for this model has all that the request needs.",
        False,
        "Leave out of `needs_header` what the message says is missing, or have an engine with it: `machine` and `features` say "
        "what an engine has, `needs` what a route asks for; GET /admin/explain?model=NAME says what each engine lacks.",
        True,
    ),
    ErrorKind(
        "head_too_large",
        431,
        _IRE,
        "head_too_large",
        "The request head is too large.",
        True,
        "Send less than 32 KiB of headers and at most 100 of them.",
    ),
    ErrorKind(
        "client_closed",
        499,
        _IRE,
        "client_closed",
        "The client closed the connection.",
        True,
        "Only in the log: nobody is left to read it.",
    ),
    ErrorKind(
        "internal",
        500,
        "server_error",
        "internal_error",
        "The gateway failed.",
        True,
        "The log has the reason under the request id.",
    ),
    ErrorKind(
        "not_implemented",
        501,
        "server_error",
        "not_implemented",
        "The gateway does not implement this.",
        True,
        "Use a method that HTTP has (`OPTIONS` lists those of a path). Send a body with `Content-Length`, or with "
        "`Transfer-Encoding: chunked` alone.",
    ),
    ErrorKind(
        "no_websockets",
        501,
        _UPE,
        "no_websockets",
        "No engine for this model takes WebSockets over HTTP/2.",
        False,
        "Let fastgw speak HTTP/1.1 with the engine for them (`protocol = auto`), or have it offer RFC 8441.",
        True,
    ),
    ErrorKind(
        "bad_gateway",
        502,
        _UPE,
        "bad_gateway",
        "No engine gave a valid answer.",
        False,
        "Look at the engine's log; the gateway's has the reason under the request id.",
    ),
    ErrorKind(
        "no_engines",
        503,
        _UPE,
        "no_engines",
        "No engine is configured.",
        False,
        "Configure one: VLLM_URL, BACKENDS, MINISGL_GATEWAY_WORKERS, OLLAMA_BASE or [[engines]].",
    ),
    ErrorKind(
        "engines_unavailable",
        503,
        _UPE,
        "engines_unavailable",
        "No engine is available right now.",
        False,
        "Wait as long as `Retry-After` says, then look at GET /ready.",
    ),
    ErrorKind(
        "runner_away",
        503,
        _UPE,
        "runner_away",
        "The runner that served this model has gone away, and may come back.",
        False,
        "Wait as long as `Retry-After` says; where it goes on, look at the runner: GET /admin/events says why it left.",
    ),
    ErrorKind(
        "engine_away",
        503,
        _UPE,
        "engine_away",
        "No engine that serves this model is there right now: it may be found again in a moment.",
        False,
        "Wait as long as `Retry-After` says; where it goes on, look at its name in DNS, or `engines_file`: GET /admin/events "
        "says since when.",
    ),
    ErrorKind(
        "engine_busy",
        503,
        _UPE,
        "engine_busy",
        "The engines take no more connections right now.",
        False,
        "Wait as long as `Retry-After` says, or raise the engine's `max_connections`.",
    ),
    ErrorKind(
        "overloaded",
        503,
        _UPE,
        "overloaded",
        "The gateway holds as many request bodies as it may.",
        False,
        "Wait as long as `Retry-After` says, or raise `memory_budget_bytes`.",
    ),
    ErrorKind(
        "draining",
        503,
        _UPE,
        "shutting_down",
        "The gateway is shutting down.",
        True,
        "Send the request again: another replica, or the restarted gateway, takes it.",
    ),
    ErrorKind(
        "loop_detected",
        508,
        _UPE,
        "loop_detected",
        "The request goes round: an engine of the gateway leads back to a gateway that it has come through.",
        False,
        "Look at the engines' URLs, the runners' and the names in DNS: one of them is a gateway that asks this one.",
        True,
    ),
    ErrorKind(
        "upstream_timeout",
        504,
        _UPE,
        "upstream_timeout",
        "The engine did not answer in time.",
        False,
        "Raise `first_byte_timeout_s`, `between_bytes_timeout_s` or `request_timeout_s`, or ask for less.",
    ),
    ErrorKind(
        "version_not_supported",
        505,
        _IRE,
        "http_version_not_supported",
        "Only HTTP/1.1 and HTTP/1.0 are spoken here.",
        True,
        "Let the client speak HTTP/1.1.",
    ),
)

# What each compatibility profile answers differently from the table (the five gateways disagree only here).
PROFILE_KINDS: Final[dict[str, dict[str, ErrorKind]]] = {
    "minisgl": _table(
        ErrorKind("no_engines", 503, "unavailable", "minisgl_cpu_gateway_no_workers", "No workers are configured."),
        ErrorKind(
            "engines_unavailable",
            502,
            "bad_gateway",
            "minisgl_cpu_gateway_all_workers_unreachable",
            "All workers are unreachable.",
        ),
        ErrorKind(
            "circuit_open", 502, "bad_gateway", "minisgl_cpu_gateway_all_workers_unreachable", "All workers are unreachable."
        ),
        ErrorKind(
            "bad_gateway", 502, "bad_gateway", "minisgl_cpu_gateway_all_workers_unreachable", "All workers are unreachable."
        ),
        ErrorKind(
            "upstream_timeout",
            502,
            "bad_gateway",
            "minisgl_cpu_gateway_all_workers_unreachable",
            "All workers are unreachable.",
        ),
    ),
    "rakka": _table(
        ErrorKind("model_not_found", 400, "no_route", "no_route", "No route to this deployment."),
        ErrorKind("upstream_timeout", 400, "internal_error", "internal_error", "coordinator timeout"),
    ),
}


class GatewayError(Exception):
    """A request that cannot be served, on its way to the one place that answers it.

    ``kind`` names a row of :data:`KINDS`. ``message`` replaces the row's message and is sent to the client, so it must
    say nothing that the client did not send itself. ``param`` names the offending field of the body. ``detail`` goes to
    the log and nowhere else. ``retry_after_s`` becomes ``Retry-After``. ``retryable`` says that another engine may be
    tried (only errors from before the first response byte are).
    """

    __slots__ = ("allow", "detail", "kind", "message", "param", "retry_after_s", "retryable", "source")

    def __init__(
        self,
        kind: str,
        message: str | None = None,
        *,
        source: Source = Source.CLIENT,
        param: str | None = None,
        detail: str = "",
        retry_after_s: float | None = None,
        retryable: bool = False,
        allow: str | None = None,
    ) -> None:
        Exception.__init__(self, kind, message, detail)  # (a head is refused in two microseconds: this is a tenth of it less)
        self.kind = KINDS[kind]
        self.message = message
        self.source = source
        self.param = param
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.retryable = retryable
        self.allow = allow


def lookup(name: str, profile: str = "") -> ErrorKind:
    """The row for ``name`` as ``profile`` (``""`` = none) renders it."""
    return PROFILE_KINDS.get(profile, {}).get(name) or KINDS[name]


def code_of(name: str) -> str:
    """What ``docs/errors.md`` calls it, and so logs, metrics and the live page do; "" = none."""
    kind = KINDS.get(name)
    return name if kind is None else kind.code


def body(kind: ErrorKind, message: str | None = None, param: str | None = None) -> bytes:
    """The OpenAI error object as JSON: ``{"error":{"message","type","param","code"}}``."""
    return msgspec.json.encode(
        {"error": {"message": message or kind.message, "type": kind.type, "param": param, "code": kind.code}}
    )


_ANTHROPICS: Final = {
    401: _AUE, 403: "permission_error", 404: "not_found_error", 408: "timeout_error", 413: "request_too_large", 429: _RLE,
    504: "timeout_error",
}  # fmt: skip
"""What Anthropic's API calls errors with these statuses: clients go by that."""


def anthropic_body(kind: ErrorKind, message: str | None = None) -> bytes:
    """The same error in the shape that Anthropic's SDKs read: ``{"type":"error","error":{"type","message"}}``."""
    name = _ANTHROPICS.get(kind.status) or ("api_error" if kind.status >= 500 else _IRE)
    return msgspec.json.encode({"type": "error", "error": {"type": name, "message": message or kind.message}})


def described(error: BaseException) -> str:
    """An exception for the log: its type and the last places it passed through.

    Never its message: messages quote values, and a value may be a prompt or a key (``repr`` of a UnicodeDecodeError holds
    the whole body).
    """
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return " > ".join([type(error).__name__, *frames[-6:]])
