"""JSON bodies: the few facts that the gateway needs, checked strictly, and the two edits it makes, by bytes.

A body is read once and never re-serialised: an edit replaces or inserts the bytes of one value, and every other byte
stays as the client wrote it. Invariant: what is accepted means the same to every JSON reader behind us, as far as
``model``, ``stream`` and ``stream_options`` are concerned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from fastgw.accel.bodies import BodyFacts as BodyFacts
from fastgw.accel.bodies import facts_of, read
from fastgw.accel.members import ABSENT, MAX_MODEL_CHARS, Members, too_deep
from fastgw.errors import GatewayError

MAX_MODELS: Final = 10_000

_decode: Final = msgspec.json.Decoder(Members).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode
_decode_string: Final = msgspec.json.Decoder(str).decode
_encode: Final = msgspec.json.encode

_GUARDED: Final = ("model", "stream", "stream_options")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]").search
_SPACE: Final = re.compile(rb"[ \t\r\n]*").match
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL).match
_PATH: Final = re.compile(r"`\$\.([a-z_]+)").search


def _invalid(message: str | None = None) -> GatewayError:
    return GatewayError("invalid_json", message)


def _parameter(param: str, message: str) -> GatewayError:
    return GatewayError("invalid_parameter", message, param=param)


def check_model(model: object) -> str:
    """``model`` itself when it is a usable name.

    :raises GatewayError: ``invalid_parameter`` for anything that is not a string of 1 to 256 printable characters.
    """
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_CHARS or _CONTROL(model):
        raise _parameter("model", f"model must be a string of 1 to {MAX_MODEL_CHARS} characters.")
    return model


def scan_body(body: bytes, max_depth: int = 64, need_model: bool = True) -> BodyFacts:
    """The facts of a request body.

    :raises GatewayError: ``invalid_json`` (not JSON in UTF-8, too deep, or ambiguous), ``missing_model`` (when
        ``need_model``), ``invalid_parameter`` with ``param``, or without when the body is no object.
    """
    facts = read(body, max_depth)
    if facts is None:
        facts = scan_completely(body, max_depth)
    if need_model and not facts.model:
        raise GatewayError("missing_model", param="model")
    return facts


def scan_completely(body: bytes, max_depth: int) -> BodyFacts:
    """The complete path: the facts of a body that need not be plainly good, or what is wrong with it.

    :raises GatewayError: as :func:`scan_body`; a body without a model is good here.
    """
    if body.count(b"[") + body.count(b"{") > max_depth and too_deep(body, max_depth):
        raise _invalid(f"The body is malformed, or nested more than {max_depth} levels deep.")
    if not body.isascii():
        _require_utf8(body)
    try:
        members = _decode(body)
    except msgspec.ValidationError as error:
        raise _explain(body, str(error)) from None
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise _invalid() from None
    _refuse_duplicates(body)
    if members.model is not ABSENT:
        check_model(members.model)
    return facts_of(members)


def _require_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError:
        raise _invalid("The body is not valid UTF-8.") from None


def _explain(body: bytes, reason: str) -> GatewayError:
    """Why a body did not fit: malformed further on, not an object, or a field of the wrong type."""
    try:
        _decode_raw(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return _invalid()
    match = _PATH(reason)
    if match is None:
        # It is valid JSON: whoever looks for a mistake in its syntax looks in vain.
        return GatewayError("invalid_parameter", "The body must be a JSON object.")
    expected = reason.partition(",")[0].replace("`", "")
    return _parameter(match[1], f"{match[1]} has the wrong type. {expected}.")


def _members(body: bytes) -> Iterator[tuple[str, int, int]]:
    """Key, start and end (offsets of the value) of each member of the top-level object of a valid body, in order.

    A value that equals the one the decoder kept under its key has that one's length; only the earlier of two members
    with one key can differ, and is scanned.
    """
    raw = _decode_members(body)
    at = body.index(b"{") + 1
    while True:
        at = _SPACE(body, at).end()  # type: ignore[union-attr]
        match = _STRING(body, at)
        if match is None:
            return
        key = _decode_string(match[0])
        at = _SPACE(body, match.end()).end() + 1  # type: ignore[union-attr]
        start = _SPACE(body, at).end()  # type: ignore[union-attr]
        value = bytes(raw[key])
        end = start + len(value)
        if not body.startswith(value, start) or body[end : end + 1] not in (b",", b"}", b" ", b"\t", b"\r", b"\n"):
            end = _end_of_value(body, start)
        yield key, start, end
        at = _SPACE(body, end).end()  # type: ignore[union-attr]
        if body[at : at + 1] != b",":
            return
        at += 1


def _end_of_value(body: bytes, start: int) -> int:
    # Imported when a member is repeated, which nobody's library does; latin-1 keeps offsets equal to the bytes'.
    from json import JSONDecoder

    return JSONDecoder().raw_decode(body.decode("latin-1"), start)[1]


def _refuse_duplicates(body: bytes) -> None:
    seen = set()
    for key, _, _ in _members(body):
        if key in _GUARDED:
            if key in seen:
                raise _invalid(f"The member {key} is repeated.")
            seen.add(key)


def with_usage(body: bytes, facts: BodyFacts) -> bytes:
    """``body`` asking for usage in a stream; itself when it already does."""
    if facts.include_usage:
        return body
    if not facts.has_stream_options:
        at = body.index(b"{") + 1
        # A member follows at once, in nearly every body.
        empty = body[at] != 34 and body[_SPACE(body, at).end()] == 125  # type: ignore[union-attr]
        asked = b'"stream_options":{"include_usage":true}' if empty else b'"stream_options":{"include_usage":true},'
        return b"".join((body[:at], asked, body[at:]))
    for key, start, end in _members(body):
        if key == "stream_options":
            return body[:start] + _options_with_usage(body[start:end]) + body[end:]
    return body


def _options_with_usage(options: bytes) -> bytes:
    if options[:1] != b"{":  # null
        return b'{"include_usage":true}'
    spans = [(start, end) for key, start, end in _members(options) if key == "include_usage"]
    for start, end in reversed(spans):
        options = options[:start] + b"true" + options[end:]
    if spans:
        return options
    comma = b"" if options[_SPACE(options, 1).end()] == 125 else b","  # type: ignore[union-attr]
    return b'{"include_usage":true' + comma + options[1:]


def with_model(body: bytes, facts: BodyFacts, new: str) -> bytes:
    """``body`` for the model ``new``; itself when it names no model, or that one."""
    if facts.model == new:
        return body
    for key, start, end in _members(body):
        if key == "model":
            return body[:start] + _encode(new) + body[end:]
    return body


def models_list(ids: list[tuple[str, str, int]]) -> bytes:
    """The answer of ``GET /v1/models`` for (id, owned_by, created)."""
    return _encode(
        {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": created, "owned_by": owner} for name, owner, created in ids],
        }
    )


def parse_models(body: bytes) -> list[str]:
    """The model names in an engine's list: OpenAI's ``data[].id``, or Ollama's ``models[].name``.

    Tolerant: what is not understood is left out, and what is no list at all has none. Names are usable and unique, in
    the engine's order, at most 10,000.
    """
    try:
        decoded: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return []
    items = decoded if isinstance(decoded, list) else []
    if isinstance(decoded, dict):
        for key in ("data", "models"):
            value = decoded.get(key)
            if isinstance(value, list) and value:
                items = value
                break
    names: dict[str, None] = {}
    for item in items:
        name = item
        if isinstance(item, dict):
            name = next((item[k] for k in ("id", "name", "model") if isinstance(item.get(k), str)), None)
        if isinstance(name, str) and 0 < len(name) <= MAX_MODEL_CHARS and not _CONTROL(name):
            names[name] = None
            if len(names) >= MAX_MODELS:
                break
    return list(names)
