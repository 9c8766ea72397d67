"""JSON bodies of the usual kind: what a request says of itself, and what an answer says it has used.

:func:`read` takes what is plainly good and leaves the rest to the complete path, ``protocol.openai``, which alone knows
what is wrong with it. Invariant: what is accepted here the complete path accepts too, with equal facts; whatever is
invalid, ambiguous, too deep, wrongly typed or merely odd is not accepted.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fastgw.accel.members import ABSENT, MAX_MODEL_CHARS, MOST, Members, Options, too_deep

SEARCH_BYTES: Final = 8192
"""An answer's end that is searched for ``usage``; more would have to be all logprobs and the like behind it."""

CANDIDATES: Final = 8
"""How many times the word ``"usage"`` is looked at before it is given up: a list may be full of it."""


class BodyFacts(Members, gc=False, eq=False):
    """What a body says of itself. ``model`` is "" where none is given; ``stream`` null is as good as False."""

    @property
    def include_usage(self) -> bool:
        """Whether the client asks for the usage chunk itself."""
        options = self.stream_options
        return isinstance(options, Options) and options.include_usage is True

    @property
    def has_stream_options(self) -> bool:
        return self.stream_options is not msgspec.UNSET

    @property
    def token_limit(self) -> int:
        """The most tokens that the answer may have, -1 where the body does not say.

        Of several the largest: which of them counts is each engine's own choice.
        """
        most = -1
        for limit in (self.max_tokens, self.max_completion_tokens, self.max_output_tokens):
            if limit is not None and limit > most:
                most = min(limit, MOST)
        return most

    @property
    def choices(self) -> int:
        """How many answers are asked for (``n``)."""
        return min(self.n, MOST) if self.n is not None and self.n > 0 else 1

    @property
    def prompt_bytes(self) -> int:
        """The size of the prompt's JSON."""
        return len(self.messages) + len(self.prompt) + len(self.input)

    def __repr__(self) -> str:
        return (
            f"BodyFacts(model={self.model!r}, stream={self.stream!r}, include_usage={self.include_usage!r}, "
            f"has_stream_options={self.has_stream_options!r}, token_limit={self.token_limit!r}, choices={self.choices!r}, "
            f"prompt_bytes={self.prompt_bytes!r})"
        )


_decode: Final = msgspec.json.Decoder(BodyFacts).decode
# A key that spells an ASCII letter or underscore as an escape can hide from a search for its plain spelling; none of
# those that matter is longer than 14 characters.
_ESCAPED_KEY: Final = re.compile(rb'\\u00[4-7][0-9a-fA-F](?:[^"\\]|\\u00[0-9a-fA-F]{2}){0,13}"[ \t\r\n]*:').search


def facts_of(members: Members) -> BodyFacts:
    """The facts of a body that the complete path has decoded, and found good."""
    return BodyFacts(
        "" if members.model is ABSENT else members.model,
        members.stream is True,
        members.stream_options,
        members.max_tokens,
        members.max_completion_tokens,
        members.max_output_tokens,
        members.n,
        members.messages,
        members.prompt,
        members.input,
    )


def read(body: bytes, max_depth: int) -> BodyFacts | None:
    """The facts of a body that nests at most ``max_depth`` levels; ``None`` = ask the complete path."""
    if body.count(b'"model"') > 1 or (b"\\u00" in body and _ESCAPED_KEY(body)):
        return None
    streams = body.count(b'"stream')
    if streams > 1 and (streams > 2 or body.count(b'"stream"') > 1 or body.count(b'"stream_options"') > 1):
        return None
    if body.count(b"[") + body.count(b"{") > max_depth and too_deep(body, max_depth):
        return None
    try:
        if not body.isascii():
            body.decode()  # the decoder does not look at what it skips
        facts = _decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    model = facts.model
    if model is ABSENT:
        facts.model = ""
    elif not 0 < len(model) <= MAX_MODEL_CHARS or not model.isprintable():
        return None
    if facts.stream is None:
        facts.stream = False
    return facts


_ABSENT_COUNT: Final = -(2**62)


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = _ABSENT_COUNT
    completion_tokens: int = _ABSENT_COUNT
    input_tokens: int = _ABSENT_COUNT
    output_tokens: int = _ABSENT_COUNT


class _Answer(msgspec.Struct, gc=False):
    usage: _Usage | None = None


_decode_answer: Final = msgspec.json.Decoder(_Answer).decode
_NAMES: Final = (b"prompt_tokens", b"completion_tokens", b"input_tokens", b"output_tokens")
_TOO_MANY: Final = 10**12
_OPENS: Final = re.compile(rb'"usage"[ \t\r\n]*:[ \t\r\n]*\{').match
# A count, any other string, a bracket, or a string that never ends.
_NEXT: Final = re.compile(
    b'"(?:(' + b"|".join(_NAMES) + rb')"[ \t\r\n]*:[ \t\r\n]*([0-9]{1,12})(?=[,} \t\r\n])'
    rb'|[^"\\]*+(?:\\.[^"\\]*+)*+")|[][{}"]',
    re.DOTALL,
).finditer


def usage_in(body: bytes) -> tuple[int, int]:
    """(prompt, completion) tokens of a plain JSON answer, or of its last bytes; -1 = not said.

    What counts is the last member ``usage`` that is an object, in the answer's last bytes: a quote inside a string is
    escaped, so that no text can pass for one. Of it the last count of each name that stands in it directly:
    ``prompt_tokens`` before ``input_tokens``, ``completion_tokens`` before ``output_tokens``. A count has 1 to 12 digits.
    """
    start = max(len(body) - SEARCH_BYTES, 0)
    at = body.rfind(b'"usage"', start)
    for _ in range(CANDIDATES):
        if at < 0:
            break
        if not at or body[at - 1] != 92:
            opens = _OPENS(body, at)
            if opens is not None:
                return _usual_counts(body, at) or _counts(body, opens.end())
        at = body.rfind(b'"usage"', start, at)
    return -1, -1


def _usual_counts(body: bytes, at: int) -> tuple[int, int] | None:
    """The counts of the member at ``at``, where it is one of the answer's own and all is well with it."""
    end = b"{" + body[at:]
    if b"\\u00" in end:
        return None  # another spelling of the names
    try:
        usage = _decode_answer(end).usage
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    if usage is None:
        return None
    prompt = usage.prompt_tokens if usage.prompt_tokens != _ABSENT_COUNT else usage.input_tokens
    completion = usage.completion_tokens if usage.completion_tokens != _ABSENT_COUNT else usage.output_tokens
    return (prompt, completion) if 0 < prompt < _TOO_MANY and 0 < completion < _TOO_MANY else None


def _counts(body: bytes, at: int) -> tuple[int, int]:
    """The counts of the object that opens before ``at``; that it is JSON is not asked."""
    found: dict[bytes, int] = {}
    depth = 1
    for match in _NEXT(body, at):
        name, count = match.groups()
        if name is not None:
            if depth == 1:
                found[name] = int(count)
            continue
        text = match[0]
        if text == b"{" or text == b"[":
            depth += 1
        elif text == b"}" or text == b"]":
            depth -= 1
            if not depth:
                break
        elif text == b'"':
            break
    prompt, completion, input_, output = (found.get(name, -1) for name in _NAMES)
    return prompt if prompt >= 0 else input_, completion if completion >= 0 else output
