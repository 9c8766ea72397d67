"""What one server-sent event says: its data, the texts in it and what they weigh, and whether there is more to be read.

Machines of the Python twin of ``sse``, which watches the stream; the compiled one has them in its own file. Nothing here is
remembered from one event to the next, but for a :class:`LongEvent`, which is one that comes in pieces.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fastgw.accel.figures import EMPTY_WORDS
from fastgw.accel.usage import UsageScanner

# A delta with something in it. Escaped quotes keep these bytes from occurring inside a JSON string, and no line end is in
# one: without that, an event that breaks off there would read differently with its last line end and without.
_A_TEXT: Final = rb'"(content|text|reasoning_content|reasoning|arguments|thinking|refusal|partial_json)"\s?:\s?"(?=[^"\n])'
TEXT: Final = re.compile(_A_TEXT).search
_TEXTS: Final = re.compile(_A_TEXT + rb'([^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+)').findall
SHORT_BYTES: Final = 32


class _Event(msgspec.Struct, gc=False):
    choices: msgspec.Raw = msgspec.Raw(b"")
    usage: msgspec.Raw = msgspec.Raw(b"null")
    timings: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"null")
    type: msgspec.Raw = msgspec.Raw(b"")
    delta: msgspec.Raw = msgspec.Raw(b"")
    response: msgspec.Raw = msgspec.Raw(b"")
    message: msgspec.Raw = msgspec.Raw(b"")


decode_event: Final = msgspec.json.Decoder(_Event).decode
FINISH: Final = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"([^"\\]{1,64})"').search
A_LIST: Final = re.compile(rb"\[\s*[^\s\]]").match
_NO_CHOICES: Final = re.compile(rb"(?:\[\s*\]|null)?").fullmatch
DELTA_TYPE: Final = re.compile(rb'"[^"\\]*\.delta"').fullmatch
# The kinds of event that bring something new. All others frame what was said, or repeat it (`response.output_text.done`).
SPEAKS: Final = re.compile(rb'"(?:[^"\\]*\.delta|content_block_delta)"|[^"].*', re.DOTALL).fullmatch
FAILURES: Final = ("error", "response.failed")
"""The kinds of event that tell of one, whether or not they are called by their names in a line of their own."""
_FAILURES: Final = frozenset(b'"%b"' % kind.encode() for kind in FAILURES)
LAST: Final = frozenset(
    (b'"message_stop"', b'"response.completed"', b'"response.incomplete"', b'"response.failed"', b'"response.cancelled"')
)
"""The kinds of event behind which nothing more is to come, in the APIs whose events have kinds. (OpenAI names none for what
was cancelled; others do, by that status.)"""
LAST_WORD: Final = b"[DONE]"
"""With what data that ends a stream begins, where it is none of a kind. (More is not asked, as the SDKs ask no more: some
engines write a blank behind it.)"""
MARKED: Final = 1
NAMED: Final = 2
"""What has been said of a stream's last word: that (by all that has no kinds of its own), an event of those kinds."""
NO_ERROR: Final = re.compile(rb'""|\[\s*\]|\{\s*\}|%b' % b"|".join(sorted(EMPTY_WORDS))).fullmatch
"""What ``error`` holds where there is none: some engines say it in every event."""
SHORTEST: Final = len(b'{"text":"a')  # of what says anything
_ERROR_FIELD: Final = re.compile(rb"(?m)^error:").sub
_ERROR_NAME: Final = re.compile(rb"(?:\A|\n)event: *error *(?:\n|\Z)").search


def read(event: bytes) -> tuple[bytes | None, bool]:
    """The data of an event's lines (None = it has none), and whether its name is ``error``. (A field ``error`` is both: of
    llama.cpp's, which has no other for one.)"""
    if b"\r" in event:
        event = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if event.startswith(b"data:") and event.endswith(b"\n") and event.find(b"\n") >= len(event) - 2:
        # One line of data, which nearly every event is.
        return event[6 if event[5:6] == b" " else 5 :].rstrip(b"\n"), False
    if b"error:" in event:
        event = _ERROR_FIELD(b"event: error\ndata:", event)
    if b"data" not in event:
        return None, b"error" in event and _ERROR_NAME(event) is not None
    lines = event.rstrip(b"\n")
    if lines.startswith(b"data:") and lines.count(b"\n") == lines.count(b"\ndata:"):
        # Lines of data alone; no CR is left that could be taken for these.
        joined = lines[4:].replace(b"\ndata:", b"\r").replace(b"\r ", b"\n").replace(b"\r", b"\n")
        return joined[2 if joined[1:2] == b" " else 1 :], False
    error = b"error" in event and _ERROR_NAME(event) is not None
    found = [line for line in event.split(b"\n") if line[:4] == b"data" and (line[4:5] == b":" or len(line) == 4)]
    if not found:
        return None, error
    # (Joined once: an event may have ten thousand lines.)
    return b"\n".join([line[6:] if line[5:6] == b" " else line[5:] for line in found]), error


_MORE: Final = re.compile(rb'_reason|\\u|"(?:usage|error|timings|response|message|type)"').search


def says_more(data: bytes) -> bool:
    """Whether an event may say more than a piece of text. (The name of a member may be written with escapes.)"""
    if len(data) < 64:
        return _MORE(data) is not None
    # Of longer ones the pattern costs more than eight searches.
    return (
        b'"usage"' in data
        or b"_reason" in data
        or b"\\u" in data
        or b'"error"' in data
        or b'"timings"' in data
        or b'"type"' in data
        or b'"response"' in data
        or b'"message"' in data
    )


def weight(size: int) -> int:
    """The tokens of a text of ``size`` bytes, as JSON writes it: engines send one in each, unless it is longer than one is."""
    return 1 if size <= SHORT_BYTES else (size + 3) >> 2


def tokens_in(data: bytes) -> int:
    """The tokens of all texts in ``data``. One that repeats the text before it under another name is none: some engines say
    the same in ``reasoning`` and in ``reasoning_content``."""
    texts = _TEXTS(data)
    if len(texts) == 1:
        return weight(len(texts[0][1]))
    tokens = 0
    before, same = b"", b""
    for name, text in texts:
        if text != same or name == before or not before:
            tokens += weight(len(text))
            before, same = name, text
    return tokens


def says_it_failed(event: _Event) -> bool:
    """Whether it says that the engine has failed: with an error, or by what kind of event it is."""
    return NO_ERROR(bytes(event.error)) is None or bytes(event.type) in _FAILURES


def is_usage_chunk(event: _Event) -> bool:
    """Whether it is the extra one: it has usage, and no choices. (Of an API whose events have kinds it is none.)"""
    if bytes(event.usage)[:1] != b"{" or _NO_CHOICES(bytes(event.choices)) is None:
        return False
    return bytes(event.choices)[:1] == b"[" or bytes(event.type)[:1] != b'"'


def is_json(data: bytes | None) -> bool:
    try:
        decode_event(data or b"")
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


_LINE: Final = re.compile(rb"[^\r\n]*+").match


class LongEvent:
    """What an event of any length says of usage, read as it passes: the data of its lines goes into a scanner. (And what it is
    called, by a line of its own.)"""

    __slots__ = ("_begun", "_head", "_kind", "_name", "_named", "scanner")

    _BEGINS, _DATA, _NAME, _OTHER = range(4)

    def __init__(self) -> None:
        self.scanner = UsageScanner()
        self._kind = self._BEGINS  # the line that we are in
        self._head = b""  # its first bytes, while they do not say yet what it is
        self._begun = False  # there was a line of data before
        self._name = b""  # that it is given in the line that we are in, as much of it as tells
        self._named = False  # an error, in a line before

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            stop = _LINE(data, at).end()  # type: ignore[union-attr]
            ends = stop < len(data)
            if self._kind == self._BEGINS:
                self._head += data[at:stop]
                if ends or len(self._head) >= 6:
                    self._judge(self._head)
                    self._head = b""
            elif self._kind == self._DATA:
                self.scanner.feed(data[at:stop])
            elif self._kind == self._NAME:
                self._calls(data[at:stop])
            if ends:
                self._named = self.named()
                self._name = b""
                self._kind = self._BEGINS
            at = stop + 1

    def named(self) -> bool:
        """Whether it is called an error, as :func:`read` says it of a shorter one."""
        return self._named or self._name.rstrip(b" ") == b"error"

    def _calls(self, name: bytes) -> None:
        name = (self._name + name).lstrip(b" ")
        bare = name.rstrip(b" ")
        # (Of blanks behind it one says as much as all.)
        self._name = (bare if bare == name or not bare else bare + b" ")[:7]

    def _judge(self, line: bytes) -> None:
        self._kind = self._OTHER
        if line[:6] == b"event:":
            self._kind = self._NAME
            self._calls(line[6:])
        fails = line[:6] == b"error:"  # (llama.cpp's: both its name and its data)
        if fails or line[:5] == b"data:" or line == b"data":
            self._kind = self._DATA
            self._named = self._named or fails
            if self._begun:
                self.scanner.feed(b"\n")
            self._begun = True
            self.scanner.feed(line[6 if fails or line[5:6] == b" " else 5 :])
