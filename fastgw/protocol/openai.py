"""JSON bodies: the few facts that the gateway needs, checked strictly, and the two edits it makes, by bytes.

A body is read once and never re-serialised: an edit replaces or inserts the bytes of one value, and every other byte
stays as the client wrote it. Invariant: what is accepted means the same to every JSON reader behind us, as far as the
members that are read here are concerned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import msgspec

from fastgw.accel.bodies import BodyFacts as BodyFacts
from fastgw.accel.bodies import facts_of, outline, read, span_of
from fastgw.accel.bodies import with_member as with_member
from fastgw.accel.members import (
    ABSENT,
    INSIDE,
    MAX_MODEL_CHARS,
    MAX_NAME_CHARS,
    MOST,
    PEERED,
    PEERS,
    WIDTHS,
    Fault,
    Members,
    Outline,
    TooMany,
    folded,
    members,
    misnamed,
)
from fastgw.accel.prompts import BYTES_PER_TOKEN
from fastgw.accel.spans import bounds_in
from fastgw.errors import GatewayError

MAX_MEMBERS: Final = 256
MAX_MODELS: Final = 10_000
FIGURE_CHARS: Final = 18  # of a whole number that is looked at
MOST_INSIDE: Final = 4096  # objects in a list of parameters, one for each prompt, with those in them
MOST_ITEMS: Final = 4 * MAX_MODELS  # objects in a list of models, with those in them, or texts

OTHER_MODELS: Final = ("lora_path", "lora", "fallbacks", "models")
"""By which engines are told of a model, or of an adapter, beside ``model``: SGLang, llama.cpp, LiteLLM, OpenRouter."""
ADAPTER_ID: Final = "adapter_id"
"""The same among TGI's ``parameters``."""
_SIGNS: Final = (*[b'"%b"' % name.encode() for name in (*OTHER_MODELS, ADAPTER_ID)], b"\\u")


class _Object(msgspec.Struct, gc=False):
    """Any object, of which nothing is looked at."""


_decode: Final = msgspec.json.Decoder(Members).decode
_decode_objects: Final = msgspec.json.Decoder(list[_Object]).decode
_decode_raws: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_string: Final = msgspec.json.Decoder(str).decode
_encode: Final = msgspec.json.encode
_JUDGED: Final = frozenset(("model", *PEERS))
"""Members that are read in every body."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]").search
_SPACE: Final = re.compile(rb"[ \t\r\n]*").match
_PATH: Final = re.compile(r"`\$\.([a-z_]+)").search
# What a client sends is JSON: a refusal names its types by JSON's words.
_KINDS: Final = re.compile(r"[a-z]+").findall
_WORDS: Final = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string", "array": "an array",
    "object": "an object", "null": "null",
}  # fmt: skip


def check_model(model: object) -> str:
    """``model`` itself when it is a usable name.

    :raises GatewayError: ``invalid_parameter`` for anything that is not a string of 1 to 256 printable characters.
    """
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_CHARS or _CONTROL(model):
        raise _parameter("model", f"model must be a string of 1 to {MAX_MODEL_CHARS} characters.")
    return model


def scan_body(
    body: bytes,
    max_depth: int = 64,
    max_members: int = MAX_MEMBERS,
    bytes_per_token: int = BYTES_PER_TOKEN,
) -> BodyFacts:
    """The facts of a request body; its prompt is estimated by so many bytes for a token.

    :raises GatewayError: ``invalid_json`` (not JSON in UTF-8, or too deep), ``duplicate_member``, ``invalid_parameter`` with
        ``param``, or without when the body is no object or has too many members. (A body without a model is good here.)
    """
    found = read(body, max_depth, max_members, bytes_per_token)
    return found if isinstance(found, BodyFacts) else _judged(found, max_depth, max_members)


def scan_foreign(body: bytes, max_depth: int, max_members: int, bytes_per_token: int = BYTES_PER_TOKEN) -> BodyFacts | None:
    """The facts of a body that its engine alone judges: the model that it names, "" = none that is one, and whether it names
    peers. None = it is no object. What it has of other APIs' members may be anything.

    :raises GatewayError: as :func:`scan_body` for what cannot be read, or where ``model`` or a peer stands twice, or in another
        case: engines would differ in what it says.
    """
    found = read(body, max_depth, max_members, bytes_per_token)
    if isinstance(found, BodyFacts):
        return found
    if found.fault == Fault.NO_OBJECT:
        return None
    if found.fault and not found.inner and found.fault not in (Fault.TWICE, Fault.CASE):
        raise _refusal(found, max_depth, max_members)
    names, values = members(body, max_members)
    wrong = misnamed([name for name in names if len(name) <= MAX_NAME_CHARS and folded(name) in _JUDGED], _JUDGED)
    if wrong is not None:
        raise _refusal(Outline(*wrong), max_depth, max_members)
    there = dict(zip(names, values, strict=True))
    peered = any(name in there and bytes(there[name]) != b"null" for name in PEERS)
    try:
        model = check_model(_decode_string(there["model"])) if "model" in there else ""
    except (GatewayError, msgspec.DecodeError, ValueError):
        model = ""
    return facts_of(Members(model), Outline(Fault.NONE, uncounted=PEERED if peered else 0))


def scan_completely(body: bytes, max_depth: int, max_members: int = MAX_MEMBERS) -> BodyFacts:
    """The complete path: the facts of a body that need not be plainly good, or what is wrong with it.

    :raises GatewayError: as :func:`scan_body`; a body without a model is good here.
    """
    return _judged(outline(body, max_depth, max_members), max_depth, max_members)


def _judged(found: Outline, max_depth: int, max_members: int) -> BodyFacts:
    if found.fault:
        raise _refusal(found, max_depth, max_members)
    try:
        known = _decode(found.known)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error)) from None
    if known.model is not ABSENT:
        check_model(known.model)
    return facts_of(known, found)


def _refusal(found: Outline, max_depth: int, max_members: int) -> GatewayError:
    fault = found.fault
    if fault == Fault.DEEP:
        return GatewayError("invalid_json", f"The body is malformed, or nested more than {max_depth} levels deep.")
    if fault == Fault.NO_TEXT:
        return GatewayError("invalid_json", "The body is not valid UTF-8.")
    if fault == Fault.NO_JSON:
        return GatewayError("invalid_json")
    if fault == Fault.NO_OBJECT:
        # It is valid JSON: whoever looks for a mistake in its syntax looks in vain.
        return GatewayError("invalid_parameter", "The body must be a JSON object.")
    if fault == Fault.MANY:
        if found.inner:
            return _parameter("stream_options", f"stream_options has more than {max_members} members.")
        return GatewayError("invalid_parameter", f"The body has more than {max_members} members.")
    param = f"stream_options.{found.name}" if found.inner and found.name else found.name
    which = f"`{param}`" if param else "Each member"
    if fault == Fault.TWICE:
        return GatewayError("duplicate_member", f"{which} may be given once.", param=param or None)
    return _parameter(param, f"{which} may be given once, and in lower case.")


def refuse_peers(body: bytes) -> None:
    """``body`` names peers of an engine.

    :raises GatewayError: always; it says what, and what may be done.
    """
    param = next((name for name in PEERS if span_of(body, name)[0] >= 0), "")
    raise _parameter(param, f"{param} tells an engine of its peers, and is not passed on here. Leave it out.")


def other_models_in(body: bytes) -> list[tuple[str, bytes]]:
    """The members by which ``body``, which was found good, names models or adapters beside ``model`` to engines that read them,
    each with its value: all of them, for one engine listens to this one and the next to that, and where one stands twice
    (``scan_foreign``) to either."""
    found: list[tuple[str, bytes]] = []
    if not any(one in body for one in _SIGNS):
        return found
    for name, value in zip(*members(body, MOST), strict=True):
        if name in OTHER_MODELS and bytes(value) not in (b"null", b"[]"):
            found.append((name, bytes(value)))
        elif name == "parameters" and bytes(memoryview(value)[:1]) == b"{":
            inside = zip(*members(value, MOST), strict=True)
            found += [(f"parameters.{ADAPTER_ID}", bytes(one)) for inner, one in inside
                      if inner == ADAPTER_ID and bytes(one) != b"null"]  # fmt: skip
    return found


def refuse_other_models(body: bytes, models: Collection[str]) -> None:
    """A key that may use ``models`` alone names none but these beside ``model``.

    :raises GatewayError: it does.
    """
    for name, other in other_models_in(body):
        if other not in [written(model) for model in models]:
            message = f"This key may use the models that it lists alone, and `{name}` names others: leave it out."
            raise GatewayError("forbidden", message, param=name)


def _parameter(param: str, message: str) -> GatewayError:
    return GatewayError("invalid_parameter", message, param=param)


def _wrong_type(reason: str) -> GatewayError:
    match = _PATH(reason)
    assert match is not None, "it is an object"
    wanted = [_WORDS[kind] for kind in _KINDS(reason.partition(",")[0]) if kind in _WORDS]
    return _parameter(match[1], f"{match[1]} must be {' or '.join(wanted)}." if wanted else f"{match[1]} has the wrong type.")


ASKS_USAGE: Final = b'"stream_options":{"include_usage":true}'


def with_usage(body: bytes, facts: BodyFacts) -> bytes:
    """``body`` asking for usage in a stream; itself when it already does."""
    if facts.include_usage:
        return body
    if not facts.has_stream_options:
        return with_member(body, ASKS_USAGE)
    start, end = span_of(body, "stream_options")
    return b"".join((body[:start], _options_with_usage(body[start:end]), body[end:]))


def _options_with_usage(options: bytes) -> bytes:
    """The same, asking for usage at the end: what else they say of it says nothing where it is not asked for."""
    if options[:1] != b"{":  # null
        return b'{"include_usage":true}'
    start, end = span_of(options, "continuous_usage_stats")  # (vLLM's and SGLang's: in each chunk)
    if start >= 0:
        options = b"".join((options[:start], b"false", options[end:]))
    start, end = span_of(options, "include_usage")
    if start >= 0:
        return b"".join((options[:start], b"true", options[end:]))
    comma = b"" if options[_SPACE(options, 1).end()] == 125 else b","  # type: ignore[union-attr]
    return b"".join((b'{"include_usage":true', comma, options[1:]))


def with_model(body: bytes, facts: BodyFacts, new: str) -> bytes:
    """``body`` for the model ``new``; itself when it names no model, or that one."""
    if facts.model == new:
        return body
    start, end = span_of(body, "model")
    return b"".join((body[:start], written(new), body[end:])) if start >= 0 else body


def written(model: str) -> bytes:
    """A model's name as it stands in a body."""
    return _encode(model)


def with_bound(body: bytes, names: Sequence[str], bound: int, answers: int) -> bytes:
    """``body`` under which no engine makes more than ``bound`` tokens of each answer, and more than ``answers`` of them.

    Each of ``names`` is there and says so; of all other names by which an engine is told one or the other each figure says so
    that said more, or was none. Null stays, but for ``names``: it is as good as nothing.
    """
    missing = list(names)
    changes = []
    for name, start, end in bounds_in(body, len(body)):
        value = body[start:end]
        if name in missing:
            missing.remove(name)
            new = _figure(value, bound) if value != b"null" else b"%d" % bound
        elif name in INSIDE:
            new = _bounded_inside(value, bound, answers)
        else:
            new = _figure(value, answers if name in WIDTHS else bound)
        changes.append((start, end, new))
    body = spliced(body, changes)
    for name in missing:
        body = with_member(body, b'"%b":%d' % (name.encode(), bound))
    return body


def spliced(text: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """``text`` in which each (start, end, new) of ``changes``, in order, has something new in its place."""
    pieces: list[bytes] = []
    done = 0
    for start, end, new in changes:
        pieces += (text[done:start], new)
        done = end
    pieces.append(text[done:])
    return b"".join(pieces)


def _bounded_inside(value: bytes, bound: int, answers: int) -> bytes:
    """An object of ``INSIDE``, or a list of them; what is neither is as good as nothing."""
    if value[:1] == b"[":
        return each_of(value, lambda one: _bounded_inside(one, bound, answers))
    if value[:1] != b"{":
        return value
    try:
        found = bounds_in(value, MAX_MEMBERS)
    except TooMany:
        return b"{}"
    return spliced(value, [(start, end, _figure(value[start:end], answers if name in WIDTHS else bound))
                           for name, start, end in found if name not in INSIDE])  # fmt: skip


def each_of(value: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The list ``value`` of objects, each of which is changed; of more than are looked at, or of none, nothing is left."""
    try:
        if value.count(b"{") > MOST_INSIDE or not _decode_objects(value):
            return b"{}"
    except _BAD:  # (something else is among them; Raw would take a million numbers)
        return b"{}"
    return b"[%b]" % b",".join([change(bytes(one)) for one in _decode_raws(value)])


def _figure(value: bytes, most: int) -> bytes:
    """A figure that says ``most`` at most, 1 at least."""
    if value == b"null":
        return value
    # (It begins with a digit, and so it is a number, perhaps one with a point.)
    if len(value) <= FIGURE_CHARS and value[:1].isdigit() and float(value).is_integer() and 0 < float(value) <= most:
        return value
    return b"%d" % most


def models_list(models: Iterable[tuple[str, str, int, int] | tuple[str, str, int, int, str, str]]) -> bytes:
    """The answer of ``GET /v1/models`` for (id, owned_by, created, max_model_len, and where that is known root, parent)."""
    return _encode({"object": "list", "data": [model_object(*one) for one in models]})


def model_object(name: str, owner: str, created: int, fits: int, root: str = "", parent: str = "") -> dict[str, str | int]:
    """One model of it, as vLLM says it. ``fits``: tokens that a prompt and its answer may have; 0 = not known. ``root``, of
    what it is made, and ``parent``, of which it is an adapter: "" = not known."""
    found: dict[str, str | int] = {"id": name, "object": "model", "created": created, "owned_by": owner}
    if fits:
        found["max_model_len"] = fits
    if root:
        found["root"] = root
    if parent:
        found["parent"] = parent
    return found


class _List(msgspec.Struct, gc=False):
    data: msgspec.Raw = msgspec.Raw(b"")
    models: msgspec.Raw = msgspec.Raw(b"")


class _Skipped(msgspec.Struct, gc=False, array_like=True):
    """A list where a name is looked for: none of its items becomes an object."""


_Value = str | int | float | bool | _Skipped | None


class _Item(msgspec.Struct, gc=False):
    id: _Value = None
    name: _Value = None
    model: _Value = None


_BAD: Final = (msgspec.DecodeError, RecursionError, ValueError)
_decode_list: Final = msgspec.json.Decoder(_List).decode
_decode_items: Final = msgspec.json.Decoder(list[_Item]).decode
_decode_texts: Final = msgspec.json.Decoder(list[str]).decode
_BLANKS: Final = b" \t\r\n"
# No shorter items name as many models as there are.
_OBJECT: Final = b'{"id":"m"},'
_TEXT: Final = b'"abc",'


def parse_models(body: bytes) -> list[str]:
    """The model names in an engine's list: OpenAI's ``data[].id``, or Ollama's ``models[].name``, or texts.

    Tolerant: what is no list has no names, nor has one of anything but objects or texts, or of more of them than so many bytes
    can name. Names are usable and unique, in the engine's order, at most 10,000.
    """
    try:
        if body.lstrip(_BLANKS)[:1] == b"[":
            return _names_in(body)
        found = _decode_list(body)
        for several in (bytes(found.data), bytes(found.models)):
            if several[:1] == b"[" and several[1:-1].strip(_BLANKS):
                return _names_in(several)
    except _BAD:
        pass
    return []


def _names_in(several: bytes) -> list[str]:
    """The names in a list, whole lists at a time: a peer may write a hundred thousand items."""
    if several.lstrip(_BLANKS)[1:].lstrip(_BLANKS)[:1] == b'"':
        marks = several.count(b'"') // 2
        texts = _decode_texts(several) if marks <= min(MOST_ITEMS, len(several) // len(_TEXT)) else []
    else:
        marks = several.count(b"{")
        items = _decode_items(several) if marks <= min(MOST_ITEMS, len(several) // len(_OBJECT)) else []
        names = [item.id for item in items]
        if not {*map(type, names)} <= {str}:
            names = [
                item.id if isinstance(item.id, str) else item.name if isinstance(item.name, str) else item.model
                for item in items
            ]
        texts = [name for name in names if isinstance(name, str)]
    if _CONTROL("".join(texts)):
        texts = [name for name in texts if not _CONTROL(name)]
    return [name for name in dict.fromkeys(texts) if 0 < len(name) <= MAX_MODEL_CHARS][:MAX_MODELS]
