"""One call of the admin API, as its pages get it: no HTTP in it. And what all of them do with bodies, queries and refusals.

Must never: say in an error what may be a key that somebody has pasted in the wrong place.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from fastgw.accel.members import TooMany, members
from fastgw.errors import ErrorKind, GatewayError

MOST_MEMBERS: Final = 64  # of a request's body

Fields = Mapping[str, tuple[Any, str]]
"""What a caller may set: the JSON type of each, and the words for it."""


class FieldProblems(Exception):
    """Fields that cannot be taken: ``problems`` says of each what is wrong, in words that the caller may read."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)
        self.problems = tuple(problems)


async def nothing() -> bytes:
    """The body of a call to which none belongs."""
    return b""


@dataclass(slots=True)
class AdminCall:
    """One request below ``/admin``. ``read`` gives the body, and raises when it is too large or too slow.

    ``names`` has what the path's parameters say. ``key_id``, ``engine`` or ``runner``, where it is about one, are filled in for
    the log as soon as they are known, also when the call fails. ``last_event_id`` is what a reader of events says that he had
    last, ``accept`` and ``accept_encoding`` what anybody says that he takes.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    actor: str
    read: Callable[[], Awaitable[bytes]]
    names: Mapping[str, str] = field(default_factory=dict)
    last_event_id: str = ""
    accept: str = ""
    accept_encoding: str = ""
    key_id: str = ""
    engine: str = ""
    runner: str = ""

    @property
    def logged_id(self) -> str:
        """The id for the log; whatever else was asked for is a name, or a key that somebody has pasted."""
        return self.key_id if self.key_id.startswith("key_") else ""


@dataclass(slots=True)
class AdminAnswer:
    """``document`` becomes JSON; None = no body, unless ``pieces`` give one, of ``media_type``, as it comes."""

    status: int
    document: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    pieces: AsyncGenerator[bytes, None] | None = None
    media_type: str = "application/json"


def refusal(kind: ErrorKind, message: str | None = None) -> GatewayError:
    """An error of a kind that only the admin API has."""
    error = GatewayError("internal", message)
    error.kind = kind
    return error


def is_word(name: str) -> bool:
    """Whether a caller meant a field by it: anything else may be a key that was pasted in the wrong place."""
    return name.isascii() and name.isidentifier() and name.islower() and len(name) <= 32 and not name.startswith("fgw_")


def quoted(name: str) -> str:
    """The name of a field as an error may say it."""
    return f" {name!r}" if is_word(name) else " of that name"


def document_of(body: bytes) -> dict[str, Any]:
    """The JSON object of a request; GatewayError ``invalid_json`` otherwise, or ``duplicate_member``."""
    try:
        found = msgspec.json.decode(body)
        if not isinstance(found, dict):
            raise GatewayError("invalid_json", "The request body must be a JSON object.")
        names, _ = members(body, MOST_MEMBERS)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GatewayError("invalid_json") from error
    except TooMany:
        raise GatewayError("invalid_json", f"The request body has more than {MOST_MEMBERS} members.") from None
    if len(found) != len(names):
        raise GatewayError("duplicate_member")
    return found


def fields_of(document: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """What is to be set of ``fields``, each of its type. Raises FieldProblems with all that is unknown or of another type."""
    problems = []
    for name, value in document.items():
        known = fields.get(name)
        if known is None:
            problems.append(f"there is no field{quoted(name)} that can be set")
            continue
        try:
            msgspec.convert(value, known[0])
        except msgspec.ValidationError:
            problems.append(f"{name}: must be {known[1]}")
    if problems:
        raise FieldProblems(problems)
    return dict(document)


def struct_of(name: str, fields: Fields, required: Sequence[str] = ()) -> type[msgspec.Struct]:
    """The same fields as a struct, for who wants to know what a body may be."""
    ordered = sorted(fields.items(), key=lambda item: item[0] not in required)
    made = [(key, kind) if key in required else (key, kind | msgspec.UnsetType, msgspec.UNSET) for key, (kind, _) in ordered]
    return msgspec.defstruct(name, made, kw_only=True, forbid_unknown_fields=True)


def query_of(call: AdminCall, *names: str) -> dict[str, str]:
    """The query by name: a misspelt filter that filters nothing would show every key."""
    found: dict[str, str] = {}
    for name, value in call.query:
        if name not in names:
            param = name if is_word(name) else None
            raise GatewayError("invalid_parameter", f"There is no parameter{quoted(name)} of this endpoint.", param=param)
        if name in found:
            raise GatewayError("invalid_parameter", f"{name} may be given once.", param=name)
        found[name] = value
    return found
