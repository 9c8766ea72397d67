"""An engine's error that came as an answer does, with status 200: whose fault it is, and which answer it would have been.

Engines say it as an event, as a line, or as all there is of a plain answer, each in the shape of its own API. Owns: what their
words stand for. Must never: judge by anything but those words; one that says nothing is the engine's.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from fastgw import errors
from fastgw.accel.events import FAILURES
from fastgw.accel.fields import response_status
from fastgw.accel.figures import ANSWERS
from fastgw.accel.heads import ResponseHead
from fastgw.exchange.endpoints import Endpoint
from fastgw.late import late

BAD_GATEWAY: Final = 502
NOT_IMPLEMENTED: Final = 501  # it does not do what it was asked for (RFC 9110 §15.6.2), however well it is
LOOP: Final = 508  # an engine that is a gateway, or is reached through one, has met the request before

NO_STREAM: Final = "The engine did not answer with a stream."

_CONTENT_TYPE: Final = late(rb"(?im)^content-type:[^\r\n]*\r\n")

_STATUS: Final = {
    # Anthropic's, and OpenAI's where they are the same
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504,
    "overloaded_error": 529,
    # OpenAI's
    "context_length_exceeded": 400, "insufficient_quota": 429, "rate_limit_exceeded": 429, "server_error": 500,
    "invalid_prompt": 400,
    # vLLM's, SGLang's, llama.cpp's, TGI's
    "BadRequestError": 400, "NotFoundError": 404, "InternalServerError": 500, "exceed_context_size_error": 400,
    "not_supported_error": 501, "unavailable_error": 503, "validation": 422, "generation": 424, "overloaded": 429,
    "template_error": 422, "missing_template_variable": 422, "tool_error": 422, "incomplete_generation": 500,
}  # fmt: skip
"""The status with which an error comes where it is an answer of its own, by what engines call its type or its code."""

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""What an error is called that is its client's, and does not say: ``invalid_request_error`` with any other status."""

_NO_FAULT: Final = frozenset((NOT_IMPLEMENTED, 503, LOOP))


def is_error(body: bytes) -> bool:
    """Whether a whole ``body`` that begins as an error does is one, and no answer. (One of which there is something beside its
    error has failed on its way, and passes as it is. A ``message`` may be Ollama's answer, or an error's text.)"""
    said = _object(body)
    fails = bool(said.get("error")) or "error" in (said.get("object"), said.get("type"))
    return fails and not any(said.get(name) for name in ANSWERS) and type(said.get("message")) is not dict


def status_of(data: bytes) -> int:
    """The status that an error says, or its words stand for; 502 where they say nothing."""
    said = _object(data)
    return _status(_fields(said), said)


def blames(status: int, keyed: bool) -> bool:
    """Whether an engine that says ``status`` has failed: it did not refuse what it was sent, nor for now. ``keyed``: the key
    that it was shown is the gateway's."""
    if status == 401 or status == 403:
        return keyed
    return status >= 500 and status not in _NO_FAULT


def as_answer(head: ResponseHead, data: bytes, endpoint: Endpoint) -> tuple[ResponseHead, bytes]:
    """The answer that the error in ``data`` is, which came behind ``head``: a head with its status, and a body in the API that
    the client of ``endpoint`` speaks, which is an engine's own, Anthropic's, or OpenAI's."""
    anthropic = endpoint.label.startswith("/v1/messages")
    said = _object(data)
    fields = _fields(said)
    if not said:
        kind = errors.lookup("bad_gateway")
        status, body = kind.status, errors.anthropic_body(kind) if anthropic else errors.body(kind)
    else:
        status, body = _status(fields, said), data
        if _is_rewritten(said, endpoint):
            body = _written(fields, said, anthropic, status)
    lines = b"content-type: application/json\r\n" + _CONTENT_TYPE().sub(b"", head.forward)
    # (Its connection is of no more use: whatever follows the error on it is nobody's.)
    return ResponseHead(
        status, head.minor, response_status(status, b""), lines, len(body), False, False, False, True, head.has_date, 0.0, 0
    ), body


def as_event(status: int, body: bytes, endpoint: Endpoint) -> bytes:
    """The event that an answer with ``status`` and ``body`` is behind a stream's head: its error, in the API that the client of
    ``endpoint`` speaks. (One that is no error is no stream either: that is an error.)"""
    anthropic = endpoint.label.startswith("/v1/messages")
    said = _object(body) if status >= 400 else {}
    if not _error(said) and type(said.get("message")) is not str:
        said = {"message": f"The engine answered {status}." if status >= 400 else NO_STREAM}
        body = b""
    if not body or _is_rewritten(said, endpoint):
        body = _written(_fields(said), said, anthropic, status if status >= 400 else BAD_GATEWAY)
    return b"%bdata: %b\n\n" % (b"event: error\n" if anthropic else b"", msgspec.json.format(body, indent=-1))


def _is_rewritten(said: dict[str, Any], endpoint: Endpoint) -> bool:
    """Whether clients of ``endpoint`` would not read the error that was ``said``."""
    anthropic = endpoint.label.startswith("/v1/messages")
    return not endpoint.dialect and (type(said.get("error")) is not dict or (anthropic and said.get("type") != "error"))


def _object(data: bytes) -> dict[str, Any]:
    """The JSON object that ``data`` is; an empty one where it is none."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if type(found) is dict else {}


def _error(said: dict[str, Any]) -> Any:
    """What is called so in it, or in the response that it is about."""
    response = said.get("response")
    return said.get("error") or (response.get("error") if type(response) is dict else None)


def _fields(said: dict[str, Any]) -> dict[str, Any]:
    """The object in which an error says what it is: its own, or all that was said."""
    error = _error(said)
    return error if type(error) is dict else said


def _status(fields: dict[str, Any], said: dict[str, Any]) -> int:
    code = fields.get("code", fields.get("http_status_code"))  # (TGI, in OpenAI's API)
    if type(code) is str and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    if type(code) is int:
        return code if 400 <= code <= 599 and code != 499 else BAD_GATEWAY  # (499: its client has left, and this one has not)
    for word in (code, fields.get("type"), said.get("error_type")):
        if type(word) is str:
            if word in _STATUS:
                return _STATUS[word]
            if word in errors.KINDS:
                return errors.KINDS[word].status
    return BAD_GATEWAY


def _written(fields: dict[str, Any], said: dict[str, Any], anthropic: bool, status: int) -> bytes:
    """An error with ``status`` that its engine wrote in another way, as OpenAI's clients or Anthropic's read it."""
    error = _error(said)
    message = error if type(error) is str else fields.get("message")
    name = fields.get("type")
    if type(name) is not str or name in FAILURES:
        engines = "api_error" if anthropic else "upstream_error"
        name = engines if status >= 500 or status == 424 else _TYPES.get(status, "invalid_request_error")
    told = {"type": name, "message": message if type(message) is str else errors.lookup("bad_gateway").message}
    if anthropic:
        return msgspec.json.encode({"type": "error", "error": told})
    return msgspec.json.encode({"error": {**told, "param": fields.get("param"), "code": fields.get("code")}})
