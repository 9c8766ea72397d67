"""What answers say in the APIs that are an engine's own: Ollama's lines of JSON, TGI's and SGLang's ``/generate``.

They pass as they are; here is read, beside the bytes that go down, what was used. Owns: where these engines count, and how a
body tells them how long an answer may be. Must never: change a byte of an answer, or hold one back. Invariant: what is kept of
an answer is one unfinished line of :data:`MAX_LINE_BYTES`, and of a longer one its end.

    Ollama   {"message":{"content":"a"},"done":false} ... {"done":true,"prompt_eval_count":5,"eval_count":9}
    TGI      data:{"token":{...},"generated_text":null} ... data:{..., "details":{"generated_tokens":9,"input_length":5}}
    SGLang   data: {"text":"...","meta_info":{"prompt_tokens":5,"completion_tokens":9}}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from fastgw.accel.bodies import span_of, with_member
from fastgw.late import late

OLLAMA: Final = "lines"
TGI: Final = "generate"

MAX_LINE_BYTES: Final = 1 << 16
END_BYTES: Final = 1 << 12
"""Of a longer line, so much of its end is kept: Ollama's counts stand there, behind the numbers of all tokens."""
MOST: Final = 10**12
SHORT_BYTES: Final = 32
MOST_SEQUENCES: Final = 128
INSIDE: Final = {OLLAMA: ("options", "num_predict"), TGI: ("parameters", "max_new_tokens")}
"""In which object of a body the engine looks for how long an answer may be, and under which name."""

_PROMPT_FIELD: Final = late(rb"(?im)^x-prompt-tokens:[ \t]*([0-9]{1,12})[ \t]*\r?$")
_ANSWER_FIELD: Final = late(rb"(?im)^x-generated-tokens:[ \t]*([0-9]{1,12})[ \t]*\r?$")
# (A quote within a text has a backslash before it: no text passes for a member.)
_PROMPT_COUNT: Final = late(rb'(?<!\\)"prompt_eval_count"[ \t]*:[ \t]*([0-9]{1,12})[ \t\r\n]*[,}]')
_ANSWER_COUNT: Final = late(rb'(?<!\\)"eval_count"[ \t]*:[ \t]*([0-9]{1,12})[ \t\r\n]*[,}]')
_DETAILS: Final = late(rb'(?<!\\)"details"[ \t]*:[ \t]*\{')
_MADE: Final = late(rb'(?<!\\)"generated_tokens"[ \t]*:[ \t]*([0-9]{1,12})[ \t\r\n]*[,}]')
_READ: Final = late(rb'(?<!\\)"input_length"[ \t]*:[ \t]*([0-9]{1,12})[ \t\r\n]*[,}]')
_DONE: Final = late(rb'(?<!\\)"done"[ \t]*:[ \t]*true')


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
    prompt_eval_count: Any = None
    eval_count: Any = None
    # TGI
    token: Any = None
    generated_text: Any = None
    details: Any = None
    # SGLang
    meta_info: Any = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Word).decode
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


class Dialect:
    """One for each answer. ``tokens``: pieces of text that have passed; ``prompt``, ``completion``: the engine's last word, -1
    before any; ``error``: it has said that it failed."""

    __slots__ = ("_before", "_cut", "_rest", "completion", "error", "prompt", "tokens")

    def __init__(self, fields: bytes) -> None:
        """``fields`` are those of the answer's head: TGI counts there, too."""
        self.tokens = 0
        self.error = False
        found, made = _PROMPT_FIELD().search(fields), _ANSWER_FIELD().search(fields)
        self.prompt = int(found[1]) if found is not None else -1
        self.completion = int(made[1]) if made is not None else -1
        self._rest = b""  # the unfinished line, or the end of one
        self._cut = False  # of which the beginning is not there
        self._before: Callable[[bytes], bytes | None] | None = None

    def sees(self, before: Callable[[bytes], bytes | None] | None) -> Callable[[bytes], bytes | None]:
        """What is shown each piece of the answer before it goes down, where ``before`` is shown it too, and may change it."""
        self._before = before
        return self._seen

    def _seen(self, piece: bytes) -> bytes | None:
        self.feed(piece)
        return piece if self._before is None else self._before(piece)

    def feed(self, piece: bytes) -> None:
        """Take note of what goes down next."""
        lines = piece.split(b"\n")
        if self._rest:
            lines[0] = self._rest + lines[0]
        for line in lines[:-1]:
            self._line(line)
            self._cut = False
        rest = lines[-1]
        if len(rest) > MAX_LINE_BYTES or (self._cut and len(rest) > END_BYTES):
            self._cut = True
            rest = rest[-END_BYTES:]
        self._rest = rest

    def end(self) -> None:
        """No more comes: the last line may have no end, as that of an answer that is no stream."""
        rest, self._rest = self._rest, b""
        if not rest or self._line(rest):
            return
        if _DONE().search(rest):
            self._end_of_line(rest)
        details = _DETAILS().search(rest)
        if details is not None:
            # (The answer has not ended, but these have come: each of several answers says how long it is.)
            made, prompt = _MADE().findall(rest, details.end()), _READ().findall(rest, details.end())
            self._take(int(prompt[0]) if prompt else -1, sum(map(int, made)) if made else -1)

    def _line(self, line: bytes) -> bool:
        """Take note of a line; whether it is a whole one, or none that says anything."""
        if self._cut or len(line) > MAX_LINE_BYTES:
            self._end_of_line(line[-END_BYTES:])
            return True
        if line[:5] == b"data:":
            line = line[5:]
        line = line.strip()
        if line[:1] != b"{":
            return True
        try:
            word = _decode(line)
        except _BAD:
            return False
        if word.error is not None:
            self.error = True
        if bytes(word.message)[:1] == b"{":
            said = _decode_message(word.message)
            self.tokens += _weight(said.content) or _weight(said.thinking)
        elif len(word.response) or len(word.thinking):
            self.tokens += _weight(word.response) or _weight(word.thinking)
        elif isinstance(word.token, dict):
            self.tokens += 1  # one event, one token, those that are no text too
        if word.done is True:
            self._take(_count(word.prompt_eval_count), _count(word.eval_count))
        if isinstance(word.details, dict):
            self._details(word.details)
        if isinstance(word.meta_info, dict):
            self._take(_count(word.meta_info.get("prompt_tokens")), _count(word.meta_info.get("completion_tokens")))
        return True

    def _end_of_line(self, end: bytes) -> None:
        """The end of a line that is too long to be read, or whose own end has not come. (The engine's counts stand last: what
        a model puts into a tool's arguments comes before them.)"""
        prompt, completion = _PROMPT_COUNT().findall(end), _ANSWER_COUNT().findall(end)
        self._take(int(prompt[-1]) if prompt else -1, int(completion[-1]) if completion else -1)

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

    def figures(self) -> tuple[int, int, bool]:
        """(prompt, completion, estimated) tokens, -1 = nobody knows: what the engine has said, else what has passed."""
        self.end()
        if self.completion < 0 and self.tokens:
            return self.prompt, self.tokens, True
        return self.prompt, self.completion, False


def told(body: bytes, dialect: str, bound: int) -> bytes:
    """``body`` under which the engine makes no more than ``bound`` tokens. (Figures that are there say no more already.)"""
    outer, name = INSIDE[dialect]
    said = b'"%b":%d' % (name.encode(), bound)
    start, end = span_of(body, outer)
    if start < 0:
        return with_member(body, b'"%b":{%b}' % (outer.encode(), said))
    value = body[start:end]
    if value[:1] != b"{":  # null: as good as nothing
        return b"".join((body[:start], b"{", said, b"}", body[end:]))
    first, last = span_of(value, name)
    if first < 0:
        value = with_member(value, said)
    elif not value[first:last].isdigit():
        value = b"".join((value[:first], b"%d" % bound, value[last:]))
    return b"".join((body[:start], value, body[end:]))
