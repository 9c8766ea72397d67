"""By what a request is told to belong with others: a session, a user, a key, an address.

Owns: the words for where to look (``session_sources``, ``hash_sources``), and the fields by which coding agents tell their
sessions. Must never: keep what it read; whoever remembers a session remembers a hash of it.
"""

from __future__ import annotations

from typing import Any, Final

from fastgw.accel.bodies import span_of
from fastgw.accel.lookup import first_in

AGENTS: Final = (
    b"x-claude-code-session-id",  # Claude Code, with each request
    b"session-id",  # Codex CLI
    b"session_id",  # Codex CLI of 2025, pi
    b"conversation_id",  # the same, beside it
    b"x-opencode-session",  # opencode, to its own providers
    b"x-session-affinity",  # opencode, to all others
    b"x-session-id",  # what gateways and their clients have agreed on
    b"x-task-id",  # Cline and Roo Code
)
"""Fields that agents send by themselves, those that nobody else sends first. (Of aider, Cursor and Gemini CLI none is known:
their requests are told by `prompt_cache_key` or `user` where they say one, else by the key or the address.)"""

MOST_BYTES: Final = 1024
"""Of what tells a session; what is longer counts as nothing."""
_MOST_BYTES: Final = MOST_BYTES  # (the compiled twin has it as a C number)

FIELD, COOKIE, MEMBER, KEY, ADDRESS = range(5)
_FIELD, _COOKIE, _MEMBER, _KEY = FIELD, COOKIE, MEMBER, KEY


class Keys:
    """Reads what tells a request by ``sources``, the first that it has: ``agents``, ``header:<name>``, ``cookie:<name>``,
    ``body:<member>``, ``key``, ``address``."""

    __slots__ = ("_kinds", "_words")

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._kinds: list[int] = []
        self._words: list[Any] = []
        for source in sources:
            kind, _, name = source.partition(":")
            if kind in {"agents", "header"}:
                names = AGENTS if kind == "agents" else (name.lower().encode(),)
                if self._kinds and self._kinds[-1] == FIELD:
                    self._words[-1] += names  # one pass finds all of them
                    continue
                self._kinds.append(FIELD)
                self._words.append(names)
            elif kind == "cookie":
                self._kinds.append(COOKIE)
                self._words.append(name.encode())
            elif kind == "body":
                self._kinds.append(MEMBER)
                self._words.append(name)
            else:
                self._kinds.append(KEY if kind == "key" else ADDRESS)
                self._words.append(None)

    def read(self, exchange: Any) -> bytes | None:
        """What tells it; None = nothing does. Costs one pass over its head, and where a member is asked for, one over the
        body's members beside its prompt."""
        for at in range(len(self._kinds)):
            kind = self._kinds[at]
            if kind == _FIELD:
                found = first_in(exchange.head.forward, self._words[at])
            elif kind == _COOKIE:
                found = cookie_in(exchange.head.own, self._words[at])
            elif kind == _MEMBER:
                found = member_of(exchange, self._words[at])
            elif kind == _KEY:
                found = exchange.key_id.encode()
            else:
                found = exchange.client_ip.encode()
            if found and len(found) <= _MOST_BYTES:
                return found
        return None


def cookie_in(own: dict[bytes, bytes] | None, name: bytes) -> bytes | None:
    """The value of the cookie ``name`` (RFC 6265 section 5.4: pairs behind semicolons)."""
    value = own.get(b"cookie") if own is not None else None
    if not value:
        return None
    for pair in value.split(b";"):
        one, _, found = pair.strip(b" \t").partition(b"=")
        if one == name:
            return found
    return None


def member_of(exchange: Any, name: str) -> bytes | None:
    """The text that the member ``name`` of the request's body has, as it is written there."""
    body = exchange.body
    facts = exchange.facts
    if facts is None or not body:
        return None
    start, end = span_of(body, name, facts)
    if start < 0 or end - start > _MOST_BYTES or body[start] != 34:
        return None
    text: bytes = body[start + 1 : end - 1]
    return text
