"""JSON bodies: what a request says of itself.

:func:`outline` says of any body what it is, or what is wrong with it, in one verdict; the words for it are those of
``protocol.openai``, the complete path. :func:`read` is the short way to it for what is plainly good. Invariant: what is
accepted by the one is accepted by the other, with equal facts.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fastgw.accel.attached import ROOTS, attached_in
from fastgw.accel.brackets import too_deep
from fastgw.accel.members import (
    ABSENT,
    FRAME,
    INSIDE,
    LIMITS,
    MANY,
    MAX_MODEL_CHARS,
    MOST,
    NAMES,
    ONES,
    OPTIONS,
    OTHER_LIMITS,
    OTHER_WIDTHS,
    PEERED,
    PEERS,
    SCALARS,
    STORED,
    UNCOUNTED,
    VALUE_BYTES,
    Fault,
    Members,
    Options,
    Outline,
    TooMany,
    members,
    misnamed,
    shortened,
    whole,
)
from fastgw.accel.prompts import (
    BYTES_PER_TOKEN,
    MOST_PROMPTS,
    PAIR_TOKENS,
    SPECIAL_TOKENS,
    estimate,
    ids_in,
    inputs_in,
    prompts_in,
    several_in,
    texts_in,
    wide_bytes,
)
from fastgw.accel.tokens import MOST_CHOICES, MOST_TOKENS

COMPACT_BYTES: Final = 4096
"""A body up to this size is looked at as one of a library that puts no blanks into it, first."""


class BodyFacts(Members, gc=False, eq=False):
    """What a body says of itself. ``model`` is "" where none is given; ``stream`` null is as good as False."""

    prompt_tokens: int = 0
    """The estimate of all that becomes prompt, in tokens."""
    prompts: int = 1
    """How many prompts it has that answers are wanted for."""
    uncounted: int = 0
    """What of it becomes prompt that nobody can count here (``UNCOUNTED``), as bits, and whether it names ``PEERS``."""

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
            if isinstance(limit, int) and limit > most:
                most = min(limit, MOST)
        for name in OTHER_LIMITS:
            most = max(most, whole(getattr(self, name)))
        return most

    @property
    def choices(self) -> int:
        """How many answers are asked for: ``n``, or llama.cpp's own word for it."""
        return max(min(self.n, MOST) if self.n is not None and self.n > 0 else 1, whole(self.n_cmpl))

    @property
    def answers(self) -> int:
        """How many answers may be made for each prompt, by whatever name."""
        return max(self.choices, *[whole(getattr(self, name)) for name in OTHER_WIDTHS])

    @property
    def named(self) -> int:
        """Which of the three limits stand there as a number that is one, as bits in their order."""
        return sum(1 << at for at, name in enumerate(LIMITS) if whole(getattr(self, name)) > 0)

    @property
    def overrides(self) -> bool:
        """Whether something stands there by which an engine may make more than ``token_limit`` of each answer, or more of them
        than ``answers`` in all: another name for either, two limits, or a figure that is none."""
        limits = [limit for name in LIMITS if (limit := getattr(self, name)) is not msgspec.UNSET]
        return (
            len(limits) > 1
            or any(whole(limit) < 1 for limit in limits)
            or any(getattr(self, name) is not None for name in OTHER_LIMITS)
            or (self.n is not None and not 0 < self.n <= MOST_CHOICES)
            or any((width := getattr(self, name)) is not None and not 0 < whole(width) <= MOST_CHOICES for name in OTHER_WIDTHS)
            or any(type(getattr(self, name)) in (dict, list) for name in INSIDE)
        )

    def learn(self, limit: int, answers: int, prompts: int, tokens: int) -> None:
        """What the body says in an engine's own words: how long an answer may be (-1 = nothing of that), how many there are of
        each prompt, how many prompts, and ``tokens`` of those beside ``prompt_tokens``."""
        if limit > 0:
            self.max_new_tokens = max(limit, whole(self.max_new_tokens))
        if answers > self.choices:
            self.n = answers
        self.prompts = max(prompts, self.prompts)
        self.prompt_tokens += tokens

    def __repr__(self) -> str:
        return (
            f"BodyFacts(model={self.model!r}, stream={self.stream!r}, include_usage={self.include_usage!r}, "
            f"has_stream_options={self.has_stream_options!r}, token_limit={self.token_limit!r}, choices={self.choices!r}, "
            f"answers={self.answers!r}, named={self.named!r}, overrides={self.overrides!r}, "
            f"prompt_tokens={self.prompt_tokens!r}, prompts={self.prompts!r}, uncounted={self.uncounted!r})"
        )


_decode: Final = msgspec.json.Decoder(BodyFacts).decode
_decode_compact: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode
_decode_string: Final = msgspec.json.Decoder(str).decode
_FLAGS: Final = {b"true": True, b"false": False, b"null": False}
_COUNTS: Final = (*LIMITS, "n")
_OTHERS: Final = frozenset((*OTHER_LIMITS, *OTHER_WIDTHS, *INSIDE))
_DIGITS: Final = 18
_BAD: Final = (msgspec.DecodeError, RecursionError, ValueError)
_SPACE: Final = re.compile(rb"[ \t\r\n]*").match
_COLON: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*").match
_COMMA: Final = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*").match
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL).match


def facts_of(known: Members, outline: Outline) -> BodyFacts:
    """The facts of a body of this outline, whose scalars were found good."""
    facts = BodyFacts(
        "" if known.model is ABSENT else known.model,
        known.stream is True,
        prompt_tokens=outline.prompt_tokens,
        prompts=outline.prompts,
        uncounted=outline.uncounted,
    )
    for name in SCALARS[2:]:
        setattr(facts, name, getattr(known, name))
    return facts


def read(body: bytes, max_depth: int, max_members: int, bytes_per_token: int = BYTES_PER_TOKEN) -> BodyFacts | Outline:
    """The facts of a body that is plainly good; its outline where the complete path has to look at it."""
    found = _found(body, max_depth, max_members)
    if isinstance(found, Outline):
        return found
    facts = BodyFacts("")
    value = found.get("model")
    if value is not None:
        text = bytes(value) if len(value) <= VALUE_BYTES else b""
        model = _decode_string(text) if text[:1] == b'"' else ""
        if not 0 < len(model) <= MAX_MODEL_CHARS or not model.isprintable():
            return _outline(found, body, max_members, bytes_per_token)
        facts.model = model
    value = found.get("stream")
    if value is not None:
        flag = _FLAGS.get(bytes(value)) if len(value) <= 5 else None
        if flag is None:
            return _outline(found, body, max_members, bytes_per_token)
        facts.stream = flag
    if "stream_options" in found:
        known = _outline(found, body, max_members, bytes_per_token)
        if known.fault:
            return known
        try:
            facts.stream_options = _decode(known.known).stream_options
        except _BAD:
            return known
    for name in _COUNTS:
        value = found.get(name)
        if value is not None:
            text = bytes(value) if len(value) <= _DIGITS else b""
            if text.isdigit():
                setattr(facts, name, int(text))
            elif text == b"null":
                setattr(facts, name, None)
            else:
                return _outline(found, body, max_members, bytes_per_token)
    if not _OTHERS.isdisjoint(found):
        return _outline(found, body, max_members, bytes_per_token)
    facts.prompt_tokens = _prompt_tokens(found, body, bytes_per_token)
    facts.prompts = _prompts(found)
    facts.uncounted = _uncounted(found)
    return facts


def outline(body: bytes, max_depth: int, max_members: int, bytes_per_token: int = BYTES_PER_TOKEN) -> Outline:
    """What a body is that may nest ``max_depth`` levels, and whose objects that are read here may have ``max_members``."""
    found = _found(body, max_depth, max_members)
    return found if isinstance(found, Outline) else _outline(found, body, max_members, bytes_per_token)


def _found(body: bytes, max_depth: int, max_members: int) -> dict[str, msgspec.Raw] | Outline:
    """The members of a body, or what is wrong with it."""
    if too_deep(body, max_depth):
        return Outline(Fault.DEEP)
    try:
        if not body.isascii():
            body.decode()  # the decoder does not look at what it skips
    except UnicodeDecodeError:
        return Outline(Fault.NO_TEXT)
    compact = _compact(body) if len(body) <= COMPACT_BYTES else None
    if compact is not None and len(compact) <= max_members:
        return compact
    try:
        names, values = members(body, max_members)
    except TooMany:
        return Outline(Fault.MANY)
    except msgspec.ValidationError:
        return Outline(Fault.NO_OBJECT if _is_json(body) else Fault.NO_JSON)
    except _BAD:
        return Outline(Fault.NO_JSON)
    wrong = misnamed(names, NAMES)
    return Outline(*wrong) if wrong is not None else dict(zip(names, values, strict=True))


def _compact(body: bytes) -> dict[str, msgspec.Raw] | None:
    """The members of a body that has nothing between them, each once, with names that cannot be meant for others."""
    try:
        found = _decode_compact(body)
    except _BAD:
        return None  # the other way says what is wrong with it
    # So many bytes have room for each of them once.
    if 4 * len(found) + 1 + sum(map(len, found)) + sum(map(len, found.values())) != len(body):
        return None
    names = "".join(found)
    return found if names.isascii() and names.islower() else None


def _outline(found: dict[str, msgspec.Raw], body: bytes, max_members: int, bytes_per_token: int) -> Outline:
    """The outline of a body with these members."""
    known = []
    for name in SCALARS:
        value = found.get(name)
        if value is None:
            continue
        text = _short(name, value)
        if name == "stream_options" and text == b"{}":
            try:
                inner, options = members(value, max_members)
            except TooMany:
                return Outline(Fault.MANY, "", True)
            wrong = misnamed(inner, OPTIONS)
            if wrong is not None:
                return Outline(*wrong, True)
            if "include_usage" in inner:
                text = b'{"include_usage":%b}' % _short("include_usage", options[inner.index("include_usage")])
        known.append(b'"%b":%b' % (name.encode(), text))
    tokens = _prompt_tokens(found, body, bytes_per_token)
    return Outline(Fault.NONE, "", False, b"{%b}" % b",".join(known), tokens, _prompts(found), _uncounted(found))


def _prompts(found: dict[str, msgspec.Raw]) -> int:
    count = 0
    for name in ("prompt", "prompt_embeds"):
        value = found.get(name)
        if value is not None and (name == "prompt" or _lead(value) != b"n"):
            count += prompts_in(value)
    return min(max(1, count), MOST_PROMPTS)


def _uncounted(found: dict[str, msgspec.Raw]) -> int:
    bits = 0
    for at, name in enumerate(UNCOUNTED):
        value = found.get(name)
        if value is not None and (len(value) > 5 or bytes(value) not in ((b"null", b"false") if at == 0 else (b"null",))):
            bits |= 1 << at
    for name in PEERS:
        value = found.get(name)
        if value is not None and (len(value) > 4 or bytes(value) != b"null"):
            bits |= PEERED
    prompt = found.get("prompt")
    return bits | STORED if prompt is not None and _lead(prompt) == b"{" else bits


def _lead(value: msgspec.Raw) -> bytes:
    return bytes(memoryview(value)[:1])


def _prompt_tokens(found: dict[str, msgspec.Raw], body: bytes, bytes_per_token: int) -> int:
    attached = tokens = 0
    for name, root in ROOTS.items():
        value = found.get(name)
        if value is not None:
            some, more = attached_in(value, root)
            attached += some
            tokens += more
    for name in ("prompt", "input"):
        value = found.get(name)
        if value is not None:
            some, more = ids_in(value)
            attached += some
            tokens += more + SPECIAL_TOKENS * (inputs_in(value) - 1)
    for name in (*ONES, *MANY):
        value = found.get(name)
        if value is not None:
            some, more = ids_in(value)
            if some:
                attached += some
                tokens += more
    for name in FRAME:
        value = found.get(name)
        if value is not None:
            attached += len(name) + 4 + len(value)  # (with the quotes, the colon and the comma that it has at least)
    return estimate(len(body), wide_bytes(body), attached, tokens, bytes_per_token) + _again(found, bytes_per_token)


def _again(found: dict[str, msgspec.Raw], bytes_per_token: int) -> int:
    """Tokens of what is read again for each that it is compared with, and those that a pair has beside."""
    pairs = 0
    for name in MANY:
        value = found.get(name)
        if value is not None:
            pairs = max(pairs, several_in(value))
    most = -1
    for name in ONES if pairs else ():
        value = found.get(name)
        if value is not None:
            text = bytes(value)
            attached, tokens = attached_in(text, ROOTS[name])
            some, more = ids_in(text)
            if some:
                attached, tokens = some, more
            size = estimate(len(text), wide_bytes(text), attached, tokens, bytes_per_token)
            texts = texts_in(text)
            most = max(most, size * (-(-pairs // texts) - 1) + PAIR_TOKENS * max(pairs, texts))
    return min(max(most, 0), MOST_TOKENS)


def _short(name: str, value: msgspec.Raw) -> bytes:
    size = len(value)
    return shortened(name, bytes(value) if size <= VALUE_BYTES else bytes(memoryview(value)[:VALUE_BYTES]), size)


def _is_json(body: bytes) -> bool:
    try:
        _decode_raw(body)
    except _BAD:
        return False
    return True


def place_in(body: bytes) -> int:
    """Where the first member of the object ``body`` could stand, behind its brace; -1 = it has none."""
    at = body.index(b"{") + 1
    # A member follows at once, in nearly every body.
    empty = body[at] != 34 and body[_SPACE(body, at).end()] == 125  # type: ignore[union-attr]
    return -1 if empty else at


def with_member(body: bytes, member: bytes) -> bytes:
    """``body`` with a ``member`` more, which it does not have."""
    at = place_in(body)
    if at < 0:
        at = body.index(b"{") + 1
        return b"".join((body[:at], member, body[at:]))
    return b"".join((body[:at], member, b",", body[at:]))


def span_of(text: bytes, name: str, facts: BodyFacts | None = None) -> tuple[int, int]:
    """Where the value of ``name`` stands in the object ``text``, which was found good; (-1, -1) when it has no such member. Its
    ``facts`` know where its prompt ends, which is most of it (as compiled: here nothing is won by it)."""
    at = _SPACE(text, text.index(b"{") + 1).end()  # type: ignore[union-attr]
    if text.startswith(b'"%b"' % name.encode(), at):
        # Most bodies begin with their model.
        start = _COLON(text, at + len(name) + 2).end()  # type: ignore[union-attr]
        value = _STRING(text, start)
        if value is not None:
            return value.span()
    names, values = members(text, MOST)
    if name not in names:
        return -1, -1
    for one, raw in zip(names, values, strict=True):
        start = _COLON(text, _STRING(text, at).end()).end()  # type: ignore[union-attr]
        end = start + len(raw)
        if one == name:
            return start, end
        at = _COMMA(text, end).end()  # type: ignore[union-attr]
    raise AssertionError("the decoder has read it")


def inputs_at(text: bytes, start: int, end: int) -> tuple[int, int, int]:
    """Of the value that stands there how many inputs it is, how many bytes of it are numbers of tokens, and how many those."""
    value = text[start:end]
    return inputs_in(value), *ids_in(value)


def prompt_span(body: bytes, facts: BodyFacts) -> tuple[int, int]:
    """Where what becomes prompt stands in ``body``, whose facts these are: its messages, its prompt or its input; (-1, -1) = it
    has none of them."""
    for name in ("messages", "prompt", "input"):
        found = span_of(body, name)
        if found[0] >= 0:
            return found
    return -1, -1
