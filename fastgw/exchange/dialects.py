"""What is said in the APIs that are an engine's own: Ollama's lines of JSON, TGI's and SGLang's ``/generate``.

Answers pass as they are; here is read, beside the bytes that go down, what was used. Owns: where these engines count, and how a
body tells them how long an answer may be. Must never: change a byte of an answer, or hold one back. Invariant: what is kept of
an answer is one unfinished line of :data:`MAX_LINE_BYTES`, and of a longer one the counts in it and its last
:data:`OVERLAP_BYTES`; and two counts for each of :data:`MOST_SEQUENCES` texts.

    Ollama   {"message":{"content":"a"},"done":false} ... {"done":true,"prompt_eval_count":5,"eval_count":9}
    TGI      data:{"token":{...},"generated_text":null} ... data:{..., "details":{"generated_tokens":9,"input_length":5}}
    SGLang   data: {"text":"...","meta_info":{"prompt_tokens":5,"completion_tokens":9},"index":0}

SGLang makes several texts, of several prompts or for ``n``: a list of such objects, or events of each that say its ``index``.
The ``text`` of an event is all that there is of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

import msgspec

from fastgw.accel.bodies import BodyFacts, inputs_at, span_of, with_member
from fastgw.accel.members import MOST as ENDLESS
from fastgw.accel.members import TooMany, whole
from fastgw.accel.prompts import SPECIAL_TOKENS
from fastgw.accel.spans import bounds_in, spans_of
from fastgw.accel.tokens import MOST_CHOICES
from fastgw.late import late
from fastgw.protocol.openai import MAX_MEMBERS, MOST_INSIDE, each_of, spliced

OLLAMA: Final = "lines"
TGI: Final = "generate"

MAX_LINE_BYTES: Final = 1 << 16
OVERLAP_BYTES: Final = 96
"""Of a longer line: a count and its name are shorter."""
MOST: Final = 10**12
SHORT_BYTES: Final = 32
BLANKS: Final = b" \t\r\n"
MOST_SEQUENCES: Final = 1024
FIGURE_BYTES: Final = 40
"""Longer numbers say nothing: no engine takes them."""
NOT_MADE: Final = ("load", "unload")
"""Why an answer of Ollama's ends that is none: the model was to be there, or to go."""

_PROMPT_FIELD: Final = late(rb"(?im)^x-prompt-tokens:[ \t]*([0-9]{1,12})[ \t]*\r?$")
_ANSWER_FIELD: Final = late(rb"(?im)^x-generated-tokens:[ \t]*([0-9]{1,12})[ \t]*\r?$")
# (A quote within a text has a backslash before it: no text passes for a member.)
_COUNTS: Final = late(
    rb'(?<!\\)"(prompt_eval_count|eval_count|done|generated_tokens|input_length|prompt_tokens|completion_tokens|index'
    rb'|details|meta_info)"[ \t]*:[ \t]*(?:\{|([0-9]{1,12}|true|false)(?=[ \t\r\n]*[,}\]]))'
)
_BEGINNING: Final = late(
    rb'[ \t\r]*(?:data:)?[ \t]*(?:(\[)|\{[ \t]*("error"[ \t]*:[ \t]*+(?!null|false|0[ \t,}]|""|\[[ \t]*\]|\{[ \t]*\}))?)'
)
_VECTORS: Final = late(rb"\[[ \t\r\n]*\[[ \t\r\n]*\[")  # a list of lists of them


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw = msgspec.Raw(b"")
    thinking: msgspec.Raw = msgspec.Raw(b"")


class _Word(msgspec.Struct, gc=False):
    """One line, or one event, of any of them."""

    # Ollama
    message: msgspec.Raw = msgspec.Raw(b"")
    response: msgspec.Raw = msgspec.Raw(b"")
    thinking: msgspec.Raw = msgspec.Raw(b"")
    done: Any = None
    done_reason: Any = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    # TGI
    token: Any = None
    generated_text: Any = None
    details: Any = None
    # SGLang
    text: msgspec.Raw = msgspec.Raw(b"")
    meta_info: Any = None
    index: Any = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Word).decode
_decode_all: Final = msgspec.json.Decoder(list[_Word]).decode
_decode_message: Final = msgspec.json.Decoder(_Message).decode
_BAD: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _count(said: Any) -> int:
    """A count as these engines write it, -1 = it is none."""
    return said if type(said) is int and 0 <= said < MOST else -1


def _weight(said: msgspec.Raw) -> int:
    """Tokens of a piece of text, as JSON writes it: engines send one in each, unless it is longer than one is."""
    size = len(said) - 2
    if size <= 0 or bytes(said)[:1] != b'"':
        return 0
    return 1 if size <= SHORT_BYTES else (size + 3) >> 2


class _Long:
    """A line that is too long to be kept: the counts in it, by their names. (Of several of Ollama's the last counts: those that
    a model puts into a tool's arguments come before the engine's own. TGI's and SGLang's stand in an object of theirs: what has
    their names before that, or twice in it, is somebody else's.)"""

    __slots__ = ("_before", "_details", "_each", "_own", "completion", "counts", "error", "listed", "made", "prompt", "texts")

    def __init__(self, each: int) -> None:
        self._each = each  # texts for each prompt
        self._before: bytes | None = None
        self._details = False  # TGI's have begun
        self._own: set[bytes] = set()  # what one of SGLang's is still to say
        self.listed = False
        self.error = False
        self.counts: dict[bytes, int] = {}  # the last of each name
        self.made = -1  # TGI's, of all sequences
        self.texts = 0  # SGLang's, so many
        self.prompt = self.completion = -1  # and of all of them

    def feed(self, piece: bytes) -> None:
        start = 0
        if self._before is None:
            if (begins := _BEGINNING().match(piece)) is not None:
                self.listed, self.error = begins[1] is not None, begins[2] is not None
        else:
            piece = self._before + piece
            start = 1  # (behind the byte that may be a backslash)
        for found in _COUNTS().finditer(piece, start):
            self._count(found[1], found[2])
            start = found.end()
        self._before = piece[max(start - 1, len(piece) - OVERLAP_BYTES, 0) :]

    def _count(self, name: bytes, said: bytes | None) -> None:
        if said is None:
            if name == b"meta_info":
                self._own = {b"prompt_tokens", b"completion_tokens"}
            self._details = self._details or name == b"details"
            return
        if name == b"done":
            self.counts = {name: 1} if said == b"true" else {}
        if not said.isdigit():
            return
        count = int(said)
        if name == b"prompt_tokens" or name == b"completion_tokens":
            if name not in self._own:
                return
            self._own.discard(name)
        if name == b"generated_tokens":
            self.made = max(self.made, 0) + count if self._details else -1
        elif name == b"completion_tokens":
            self.completion = max(self.completion, 0) + count
        elif name == b"prompt_tokens":
            if self.texts % self._each == 0:
                self.prompt = max(self.prompt, 0) + count
            self.texts += 1
        elif name != b"input_length" or name not in self.counts:
            self.counts[name] = count


class Dialect:
    """One for each answer. ``tokens``: pieces of text that have passed; ``prompt``, ``completion``: the engine's last word, -1
    before any; ``error``: it has said that it failed, and ``failure`` in which line, where that was kept; ``answers``: there is
    a text of TGI's. ``each``: so many texts are asked for of each prompt."""

    __slots__ = (
        "_before", "_each", "_long", "_none", "_rest", "_texts",
        "answers", "completion", "error", "failure", "prompt", "tokens",
    )  # fmt: skip

    def __init__(self, fields: bytes, each: int = 1) -> None:
        """``fields`` are those of the answer's head: TGI counts there, too."""
        self.tokens = 0
        self.error = self.answers = False
        self.failure = b""
        found, made = _PROMPT_FIELD().search(fields), _ANSWER_FIELD().search(fields)
        self.prompt = int(found[1]) if found is not None else -1
        self.completion = int(made[1]) if made is not None else -1
        self._each = max(each, 1)
        self._texts: dict[int, tuple[int, int, int]] = {}  # by their index: prompt, completion, and what it may weigh
        self._none = False  # nothing was to be made
        self._rest = b""  # the unfinished line
        self._long: _Long | None = None  # or what is known of it
        self._before: Callable[[bytes], bytes | None] | None = None

    def sees(self, before: Callable[[bytes], bytes | None] | None) -> Callable[[bytes], bytes | None]:
        """What is shown each piece of the answer before it goes down, where ``before`` is shown it too, and may change it."""
        self._before = before
        return self._seen

    def twin(self) -> Dialect:
        """One that has read what this one has, for what does not go down."""
        from copy import copy, deepcopy  # (which no start pays for)

        made = copy(self)
        made._texts = dict(self._texts)
        made._long = deepcopy(self._long)
        made._before = None
        return made

    def _seen(self, piece: bytes) -> bytes | None:
        self.feed(piece)
        return piece if self._before is None else self._before(piece)

    def feed(self, piece: bytes) -> None:
        """Take note of what goes down next."""
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._part(line)
            self._line_ends()
        self._part(rest)

    def _part(self, part: bytes) -> None:
        """Some of a line."""
        if self._long is None:
            part = self._rest = self._rest + part
            if len(part) <= MAX_LINE_BYTES:
                return
            self._rest = b""
            self._long = _Long(self._each)
        self._long.feed(part)

    def _line_ends(self) -> bool:
        """Take note of the line; whether it was a whole one, or none that says anything."""
        rest, self._rest = self._rest, b""
        long, self._long = self._long, None
        if long is None:
            return self._line(rest)
        self._counted(long)
        return True

    def end(self) -> None:
        """No more comes: the last line may have no end, as that of an answer that is no stream."""
        rest = self._rest
        if not self._line_ends():
            # (It was not to be the last, but these have come.)
            long = _Long(self._each)
            long.feed(rest)
            self._counted(long)

    def _line(self, line: bytes) -> bool:
        if line[:5] == b"data:":
            line = line[5:]
        line = line.strip()
        failed = self.error
        try:
            if line[:1] == b"{":
                self._word(_decode(line))
            elif line[:1] == b"[":  # a whole answer of several
                for at, word in enumerate(_decode_all(line)):
                    word.index = at
                    self._word(word)
        except _BAD:
            return False
        if self.error and not failed:
            self.failure = line
        return True

    def _word(self, word: _Word) -> None:
        if word.error:  # (an empty one is none)
            self.error = True
        self.answers = self.answers or bool(word.generated_text)
        if bytes(word.message)[:1] == b"{":
            said = _decode_message(word.message)
            self.tokens += _weight(said.content) or _weight(said.thinking)
        elif len(word.response) or len(word.thinking):
            self.tokens += _weight(word.response) or _weight(word.thinking)
        elif isinstance(word.token, dict):
            self.tokens += 1  # one event, one token, those that are no text too
        if word.done is True:
            self._none = word.done_reason in NOT_MADE
            self._take(_count(word.prompt_eval_count), _count(word.eval_count))
        if isinstance(word.details, dict):
            self._details(word.details)
        meta = word.meta_info if isinstance(word.meta_info, dict) else {}
        if meta or len(word.text):
            prompt, completion = _count(meta.get("prompt_tokens")), _count(meta.get("completion_tokens"))
            self._text(_count(word.index), prompt, completion, _weight(word.text))

    def _text(self, index: int, prompt: int, completion: int, weight: int) -> None:
        """What is known of one of SGLang's texts by now."""
        index = min(max(index, 0), MOST_SEQUENCES)
        before = self._texts.get(index, (-1, -1, 0))
        self._texts[index] = (
            prompt if prompt >= 0 else before[0], completion if completion >= 0 else before[1], max(weight, before[2])
        )  # fmt: skip

    def _counted(self, long: _Long) -> None:
        """What is known of a line that was not kept, or has no end."""
        counts = long.counts
        self.error = self.error or long.error
        if b"done" in counts:
            self._take(counts.get(b"prompt_eval_count", -1), counts.get(b"eval_count", -1))
        if long.made >= 0:
            self._take(counts.get(b"input_length", -1), long.made)
        if long.listed:
            self._take(long.prompt, long.completion)
        elif long.prompt >= 0 or long.completion >= 0:
            self._text(counts.get(b"index", 0), long.prompt, long.completion, 0)

    def _details(self, said: dict[str, Any]) -> None:
        """TGI's, of one answer or the best of several, all of which were made."""
        made = _count(said.get("generated_tokens"))
        others = said.get("best_of_sequences")
        if made >= 0 and isinstance(others, list):
            made += sum(
                max(_count(one.get("generated_tokens")), 0) for one in others[:MOST_SEQUENCES] if isinstance(one, dict)
            )
        prefill = said.get("prefill")
        prompt = _count(said.get("input_length"))
        if prompt < 0 and isinstance(prefill, list) and prefill:
            prompt = len(prefill)
        self._take(prompt, made)

    def _take(self, prompt: int, completion: int) -> None:
        if prompt >= 0:
            self.prompt = prompt
        if completion >= 0:
            self.completion = completion

    def failed(self) -> bool:
        """Whether the answer, which has ended, says that the engine failed."""
        self.end()
        return self.error

    def prompts(self) -> int:
        """Of how many prompts a text has told the figures, 0 = of none by itself."""
        return len({index // self._each for index, one in self._texts.items() if one[0] >= 0})

    def figures(self) -> tuple[int, int, bool]:
        """(prompt, completion, estimated) tokens, -1 = nobody knows: what the engine has said, else what has passed. A prompt
        of none is one that nobody has counted, unless nothing was to be made."""
        self.end()
        if self._none and self.completion <= 0:
            return 0, 0, False
        prompt, completion, estimated = self.prompt, self.completion, False
        if self._texts:
            prompts = {index // self._each: one[0] for index, one in self._texts.items() if one[0] >= 0}
            prompt = sum(prompts.values()) or prompt
            completion = sum(made if made >= 0 else weight for _, made, weight in self._texts.values())
            estimated = MOST_SEQUENCES in self._texts or any(made < 0 for _, made, _ in self._texts.values())
        elif completion < 0 and self.tokens:
            completion, estimated = self.tokens, True
        return prompt or -1, completion, estimated or (completion < 0 and self.error and self.answers)


# ---- requests


class Place(NamedTuple):
    """Where an engine looks for what it is to make: in the object ``outer`` of a body, or in each of a list of such. ``name``
    is how long an answer may be, ``usual`` how long it is where that is not said, ``width`` how many there are of a prompt."""

    outer: str
    name: str
    width: str
    usual: int


# (TGI's own was 100 tokens once, and is all there is room for; Ollama's is endless.)
PARAMETERS: Final = Place("parameters", "max_new_tokens", "best_of", ENDLESS)
SAMPLING: Final = Place("sampling_params", "max_new_tokens", "n", 128)
OPTIONS: Final = Place("options", "num_predict", "", ENDLESS)


class Own(NamedTuple):
    """What a body says in its engine's own API, beside its facts: its ``places``, how many texts are made of ``each`` prompt,
    and the ``most`` tokens of an answer that the engine makes where the body names no length."""

    places: tuple[Place, ...]
    each: int
    most: int


class _Figures(msgspec.Struct, gc=False):
    """(Raw, for they may be lists of a million.)"""

    num_predict: msgspec.Raw = msgspec.Raw(b"")
    max_new_tokens: msgspec.Raw = msgspec.Raw(b"")
    n: msgspec.Raw = msgspec.Raw(b"")
    best_of: msgspec.Raw = msgspec.Raw(b"")


_ASKED: Final = (
    "options",
    "inputs", "parameters",  # TGI's
    "text", "input_ids", "input_embeds", "sampling_params",  # SGLang's
)  # fmt: skip
"""Members of a body of any of them."""


_decode_figures: Final = msgspec.json.Decoder(_Figures).decode
_decode_rows: Final = msgspec.json.Decoder(list[_Figures]).decode
_decode_number: Final = msgspec.json.Decoder(int | float).decode


def _places(asked: Collection[str], dialect: str) -> tuple[Place, ...]:
    """Where the engine looks. (Whose ``/generate`` it is, the prompt's name says.)"""
    if dialect == OLLAMA:
        return (OPTIONS,)
    if "inputs" not in asked:
        return (SAMPLING,)
    return (PARAMETERS,) if {"text", "input_ids", "input_embeds"}.isdisjoint(asked) else (PARAMETERS, SAMPLING)


def _rows(value: bytes) -> list[_Figures]:
    """What an object says, or each of a list; of more than are looked at, nothing."""
    try:
        if value[:1] != b"[":
            return [_decode_figures(value)]
        return (_decode_rows(value) if value.count(b"{") <= MOST_INSIDE else []) or [_Figures()]
    except _BAD:
        return [_Figures()]


def _figure(said: msgspec.Raw) -> int:
    """The number that is said, 1 at least; -1 = it is no such number."""
    try:
        return whole(_decode_number(said)) if 0 < len(said) <= FIGURE_BYTES else -1
    except _BAD:
        return -1


def learn(facts: BodyFacts, body: bytes, dialect: str, most: int, bytes_per_token: int) -> Own:
    """Tell ``facts`` what the body says in its API's own places. A length of more than ``most`` is as good as none: it is
    lowered to what may be."""
    asked = spans_of(body, _ASKED)

    def value(name: str) -> bytes:
        start, end = asked.get(name, (0, 0))
        return body[start:end]

    places = _places(asked, dialect)
    named, limits, widths, each = True, [], [1], 1
    for place in places:
        rows = _rows(value(place.outer))
        for row in rows:
            said = getattr(row, place.name)
            limit = _figure(said) if len(said) else place.usual
            named = named and 0 < limit <= most and len(said) > 0
            limits.append(limit if limit > 0 else ENDLESS)
        if place.width:
            wide = [max(_figure(getattr(row, place.width)), 1) for row in rows]
            widths += wide
            if place is SAMPLING:
                each = min(*wide, MOST_CHOICES)  # (it refuses those that differ)
    prompts = tokens = 0
    for name in ("text", "input_ids"):
        if name in asked:
            several, ids, count = inputs_at(body, *asked[name])
            prompts = max(prompts, several)
            tokens += SPECIAL_TOKENS * (several - 1) + max(count - -(-ids // bytes_per_token), 0)
    vectors = value("input_embeds")
    if _VECTORS().match(vectors) is not None:
        prompts = max(prompts, vectors.translate(None, BLANKS).count(b"]]"))  # two close for each list of vectors
    facts.learn(max(limits) if named else -1, min(max(widths), MOST_CHOICES), max(prompts, 1), tokens)
    return Own(places, each, max(limits))


def told(body: bytes, places: tuple[Place, ...], bound: int) -> bytes:
    """``body`` under which the engine makes no more than ``bound`` tokens. (Figures that are there say no more already.)"""
    for place in places:
        start, end = span_of(body, place.outer)
        if start < 0:
            body = with_member(body, b'"%b":%b' % (place.outer.encode(), _limited(b"{}", place, bound)))
        else:
            body = b"".join((body[:start], _limited(body[start:end], place, bound), body[end:]))
    return body


def _limited(value: bytes, place: Place, bound: int) -> bytes:
    """An object that says ``bound`` at most, each time that it says anything, or a list of such; null is as good as an empty
    one. Where it says nothing, its engine makes no more for it than it would have."""
    if value[:1] == b"[":
        value = each_of(value, lambda one: _limited(one, place, bound))
        if value[:1] == b"[":
            return value
    elif value[:1] != b"{":
        value = b"{}"
    try:
        found = bounds_in(value, MAX_MEMBERS)
    except TooMany:
        value, found = b"{}", []
    if span_of(value, place.name)[0] < 0:
        return with_member(value, b'"%b":%d' % (place.name.encode(), min(bound, place.usual)))
    said = b"%d" % bound
    return spliced(value, [(at, to, value[at:to] if value[at:to].isdigit() else said)
                           for name, at, to in found if name == place.name])  # fmt: skip
