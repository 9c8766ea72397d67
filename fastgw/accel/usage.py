"""What an answer says that it has used, wherever in it that stands: a scanner of its top-level members in little memory.

Owns: which bytes are a count that means something; what it means is in ``figures``. An answer may be of any length and come
in any pieces: what is kept of it is the counts and one unfinished name or number. Invariants: the result depends on the bytes
alone, not on how they were split; no text can pass for a member, for nothing is looked for but where members stand; from
where it is no JSON on an answer says nothing more. (What is skipped is only counted through: strings and brackets. Numbers and
words are not looked at there.)
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.accel.brackets import NOT_STRUCTURE, TO_SQUARE, heights
from fastgw.accel.figures import (
    ANSWER,
    ANSWERED,
    COUNTS,
    DIGITS,
    EMPTY_WORDS,
    FAILED,
    FAILED_SO,
    MAX_DEPTH,
    MEMBERS,
    MOST_NAMES,
    NAME_BYTES,
    NUMBER_BYTES,
    OWN,
    PLACES,
    QUICK_BYTES,
    SECONDS,
    TIMED,
    USAGE,
    Member,
    meaning,
)
from fastgw.accel.plain_usage import of_event, plainly
from fastgw.accel.words import Words

# What comes next: between the members that matter, and in what is skipped.
_START, _FIRST, _KEY, _NAME, _COLON, _VALUE, _SCALAR, _LONG, _STRING, _AFTER, _SKIP, _SKIP_STRING, _OVER, _OPENED = range(14)
_IN_TEXT: Final = (_STRING, _SKIP_STRING, _NAME)
_IN_WORD: Final = (_SCALAR, _LONG)
_IN_VALUE: Final = (_SKIP, _OPENED)
_BEFORE_NAME: Final = (_FIRST, _KEY)
_BEFORE_END: Final = (_AFTER, _FIRST)

_KNOWN: Final = [{one.name: one for one in MEMBERS if one.where == where} for where in range(max(MEMBERS)[0] + 1)]
_BLANKS: Final = b" \t\r\n"
_BLANK: Final = re.compile(rb"[ \t\r\n]*+").match
_TEXT: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL).match
_WORD: Final = re.compile(rb"[-+.0-9A-Za-z]*+").match
_COUNT: Final = re.compile(rb"([0-9]{1,%d})(?:\.0+)?" % DIGITS).fullmatch
_LENGTH: Final = re.compile(rb"([0-9]{1,%d})(?:\.([0-9]+))?" % DIGITS).fullmatch
_ESCAPE: Final = re.compile(rb"\\u00([0-7][0-9A-Fa-f])")
# What nests in what is skipped, a few levels at a time: a step for each bracket costs twenty times as much.
_PLAIN: Final = rb'[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NEST: Final = rb"(?:%b)*+" % _PLAIN
for _ in range(8):
    _NEST = rb"(?:%b|[\[{]%b[\]}])*+" % (_PLAIN, _NEST)  # type: ignore[misc]
_FLAT: Final = re.compile(rb"(?:%b)*+" % _PLAIN, re.DOTALL).match
_NESTED: Final = re.compile(_NEST, re.DOTALL).match
_NEST_LEVELS: Final = 8
# Members that say nothing, with plain values: as many as there are.
_STRANGERS: Final = [
    re.compile(
        rb'(?:"(?!(?:%b)")[^"\\]*+(?:\\(?!u00|\\u00).[^"\\]*+)*+"[ \t\r\n]*+:[ \t\r\n]*+'
        rb'(?:[-+.0-9A-Za-z]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]%b[\]}])[ \t\r\n]*+,[ \t\r\n]*+)*+'
        % (b"|".join(names), _NEST),
        re.DOTALL,
    ).match
    for names in _KNOWN
]
_LEAPS: Final = (4096, 512, 64)

_NOTHING: Final = (-1,) * COUNTS


def _spelt(name: bytes) -> bytes:
    """A name without the escapes that one of ours can be written with; with others it is none of ours."""
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), name)


def _number(word: bytes, count: int) -> int:
    """The count that ``word`` is, -1 = it is none; of seconds those that have begun."""
    if count == SECONDS:
        match = _LENGTH(word)
        return -1 if match is None else int(match[1]) + (match[2] is not None and match[2].strip(b"0") != b"")
    match = _COUNT(word)
    return -1 if match is None else int(match[1])


class UsageScanner:
    """One per answer, or event. ``error``: it has a top-level member ``error`` that is not empty; ``answers``: or one that is
    of an answer. ``whole``: it has been an object from its beginning to its end, and nothing has come behind it."""

    __slots__ = (
        "_closes",
        "_counts",
        "_depth",
        "_member",
        "_names",
        "_phase",
        "_places",
        "_rest",
        "_stack",
        "_tried",
        "_words",
        "answers",
        "error",
        "whole",
    )

    def __init__(self) -> None:
        self._phase = _START
        self._stack: list[tuple[int, int, int]] = []  # where we are; whose counts; which of them it is made of
        self._member: Member | None = None  # whose value comes next
        self._names = 0  # that were looked at
        self._depth = 0  # of what is skipped
        self._tried = 0  # up to there of these bytes no more levels are skipped at once
        self._rest = b""  # the beginning of a token
        self._counts: list[int] = []
        self._places: list[list[int] | None] = [None] * PLACES
        self._words: Words | None = None  # of the first error, where it has any
        self._closes = 0  # the byte with which a value ends of whose next one it depends whether it is empty
        self.error = False
        self.answers = False
        self.whole = False

    def feed(self, data: bytes) -> None:
        """Take note of the next bytes."""
        if self._words is not None:
            self._words.feed(data)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = self._tried = 0
        end = len(data)
        while at < end:
            phase = self._phase
            if phase in _IN_VALUE:
                at = self._skip(data, at) if phase == _SKIP else self._opened(data, at)
                continue
            if phase in _IN_TEXT:
                at = _TEXT(data, at).end()  # type: ignore[union-attr]
                if at == end:
                    return
                if data[at] == 92:
                    self._rest = data[at:]
                    return
                at += 1
                self._phase = _AFTER if phase == _STRING else _SKIP if phase == _SKIP_STRING else _COLON
                continue
            if phase == _OVER:
                self.whole = self.whole and not data[at:].strip(_BLANKS)
                return
            if phase in _IN_WORD:
                stop = _WORD(data, at).end()  # type: ignore[union-attr]
                if phase == _LONG or stop - at > NUMBER_BYTES:
                    self._phase = _AFTER if stop < end else _LONG
                    at = stop
                    self._tells(b"")
                    continue
                if stop == end:
                    self._rest = data[at:]
                    return
                if stop == at:
                    self._phase = _OVER
                    return
                self._scalar(data[at:stop])
                at = stop + (plain := data[stop] == 44)
                self._phase = _KEY if plain else _AFTER
                continue
            c = data[at]
            if c <= 32:
                at = _BLANK(data, at).end()  # type: ignore[union-attr]
                if at == end:
                    return
                c = data[at]
            if phase == _VALUE:
                at = self._value(c, at)
            elif c == 34 and phase in _BEFORE_NAME:
                at = self._name(data, at)
            elif c == 58 and phase == _COLON:
                self._phase = _VALUE
                at += 1
            elif c == 44 and phase == _AFTER:
                self._phase = _KEY
                at += 1
            elif c == 125 and phase in _BEFORE_END:
                self._close()
                at += 1
            elif c == 123 and phase == _START:
                self._stack.append((ANSWER, OWN, -1))
                self._phase = _FIRST
                at += 1
            else:
                self._phase = _OVER
                return

    def _opened(self, data: bytes, at: int) -> int:
        """The next byte of a value that tells something says whether it is empty; where to go on, with this byte."""
        text = self._closes == 34
        if not text:
            at = _BLANK(data, at).end()  # type: ignore[union-attr]
        if at < len(data):
            if data[at] != self._closes:
                self._tells(b'"' if text else b"[" if self._closes == 93 else b"{", data[at:])
            self._phase = _STRING if text else _SKIP
        return at

    def _tells(self, begins: bytes, rest: bytes = b"") -> None:
        """The value is not empty, and ``begins`` so (none: it is no text, list or object): an error's words are kept."""
        member = self._member
        tells = 0 if member is None else member.tells
        if tells == ANSWERED and begins:
            self.answers = True
        if tells == FAILED_SO or (tells == FAILED and not self.error):
            if begins:
                self._words = self._words or Words()
                self._words.begin(member.name)  # type: ignore[union-attr]
                self._words.feed(begins + rest)
            self.error = self.error or tells == FAILED

    def _name(self, data: bytes, at: int) -> int:
        """A name begins, whose opening quote is at ``at``: take it, or as many members as say nothing; where to go on."""
        end = len(data)
        where = self._stack[-1][0]
        stop = _TEXT(data, at + 1).end()  # type: ignore[union-attr]
        if stop < end and data[at + 1 : stop] not in _KNOWN[where]:
            behind = _STRANGERS[where](data, at).end()  # type: ignore[union-attr]
            if behind > at:
                self._phase = _KEY
                return behind
        if stop - at - 1 > NAME_BYTES:
            self._named(b"")
            self._phase = _NAME
            return stop
        if stop == end or data[stop] == 92:
            self._rest = data[at:]
            return end
        plain = data[stop + 1 : stop + 2] == b":"
        self._phase = _VALUE if plain else _COLON
        self._named(data[at + 1 : stop])
        return stop + 1 + plain

    def _skip(self, data: bytes, at: int) -> int:
        deep = len(self._stack) + self._depth
        begin = at
        at = (_NESTED if deep + _NEST_LEVELS <= MAX_DEPTH else _FLAT)(data, at).end()  # type: ignore[union-attr]
        if at == len(data):
            return at
        if at - begin < 16 and at >= self._tried and len(data) - at >= 64:
            # Brackets for the most part.
            for size in _LEAPS:
                self._tried = min(at + size, len(data))
                if self._leap(data[at : self._tried]):
                    return self._tried
        c = data[at]
        if c == 34:
            self._phase = _SKIP_STRING  # its end has not come
        elif c == 91 or c == 123:
            self._depth += 1
            if deep == MAX_DEPTH:
                self._phase = _OVER
        else:
            self._depth -= 1
            if not self._depth:
                self._phase = _AFTER
        return at + 1

    def _leap(self, text: bytes) -> bool:
        """Skip ``text``, if no value ends and no bound is reached in it."""
        if b"\\" in text:
            return False
        brackets = text.translate(TO_SQUARE, NOT_STRUCTURE).replace(b'""', b"")
        pieces = brackets.split(b'"')
        lowest, highest, level = heights(b"".join(pieces[::2]))
        if self._depth + lowest <= 0 or len(self._stack) + self._depth + highest > MAX_DEPTH:
            return False
        self._depth += level
        if len(pieces) % 2 == 0:
            self._phase = _SKIP_STRING
        return True

    def _named(self, name: bytes) -> None:
        """The next value's name."""
        where, _, parts = self._stack[-1]
        member = _KNOWN[where].get(_spelt(name) if b"\\" in name else name)
        self._member = member
        if member is not None or b"\\u00" in name:
            self._names += 1
            if self._names > MOST_NAMES:
                self._phase = _OVER
        if member is None:
            return
        # The last of its name counts, whatever it is.
        if member.place >= 0:
            self._places[member.place] = None
        elif member.opens == USAGE:
            self._places[self._stack[-1][1]] = None
        if member.slot >= 0:
            self._counts[member.slot] = -1
        elif parts >= 0:
            self._counts[parts] = -1

    def _value(self, c: int, at: int) -> int:
        """A value begins with ``c``; where to go on."""
        member = self._member
        if c == 123 and member is not None and member.opens >= 0:
            _, place, _ = self._stack[-1]
            if member.place >= 0:
                place = member.place
            if member.slot < 0:
                self._counts = list(_NOTHING)
            self._stack.append((member.opens, place, member.slot))
            self._phase = _FIRST
            return at + 1
        if c == 34:
            self._phase = _STRING
        elif c == 123 or c == 91:
            self._phase = _SKIP
            self._depth = 1
        else:
            self._phase = _SCALAR
            return at
        if member is not None and member.tells:
            self._closes = 34 if c == 34 else c + 2
            self._phase = _OPENED
        return at + 1

    def _scalar(self, word: bytes) -> None:
        member = self._member
        if member is None:
            return
        if member.tells:
            if word not in EMPTY_WORDS:
                self._tells(b"")
            return
        count = member.slot if member.opens < 0 else -1
        if count < 0 and member.opens < 0:
            count = self._stack[-1][2]
        if count >= 0:
            self._counts[count] = _number(word, count)

    def _close(self) -> None:
        where, place, parts = self._stack.pop()
        if parts < 0 and (where == USAGE or place == TIMED):
            self._places[place] = self._counts
        self._phase = _AFTER
        if not self._stack:
            self._phase = _OVER
            self.whole = True

    def figures(self) -> tuple[int, int, int, int]:
        """(prompt, completion, cached, reasoning) tokens, -1 = not said."""
        return self.told()[:4]

    def told(self) -> tuple[int, int, int, int, bool]:
        """The same, and whether they are of llama.cpp's timings alone, which it may send early."""
        timed = self._places[TIMED]
        for counts in self._places:
            if counts is not None:
                prompt, completion, cached, reasoning = meaning(counts)
                if prompt >= 0 or completion >= 0:
                    if cached < 0 and timed is not None:
                        cached = meaning(timed)[2]
                    return prompt, completion, cached, reasoning, counts is timed
        return -1, -1, -1, -1, False

    def failure(self) -> bytes:
        """What the error says, as far as that is kept: an object with an ``error``, or nothing."""
        return self._words.said() if self._words is not None and self.error else b""

    def says(self, place: int) -> bool:
        """Whether tokens are told there."""
        counts = self._places[place]
        return counts is not None and max(meaning(counts)[:2]) >= 0

    @property
    def measured(self) -> bool:
        """Whether the figures are of llama.cpp's timings alone, which it may send early."""
        return self.told()[4]

    @property
    def seconds(self) -> int:
        """Of audio, where the answer's own usage tells those; -1 = it does not."""
        own = self._places[OWN]
        return -1 if own is None else own[SECONDS]


_OPENS: Final = re.compile(rb'"usage"[ \t\r\n]*+:[ \t\r\n]*+\{').match


def scanned(document: bytes) -> UsageScanner:
    """A scanner that has read ``document``."""
    scanner = UsageScanner()
    scanner.feed(document)
    return scanner


def usage_in(body: bytes) -> tuple[int, int, int, int]:
    """(prompt, completion, cached, reasoning) tokens of a whole plain answer, -1 = not said.

    Looked at first are the last ``"usage"`` and what follows it: where that is short, and the rest of one object and no more,
    it stands in the answer itself, and is its last of that name. (Whether what stands before it is JSON is not asked then.)
    """
    at = body.rfind(b'"usage"')
    if at > 0 and len(body) - at <= QUICK_BYTES and body[at - 1] != 92 and _OPENS(body, at) is not None:
        end = b"{" + body[at:]
        found = plainly(end)
        if found is None:
            scanner = scanned(end)
            if scanner.whole and scanner.says(OWN):
                found = scanner.figures()
        if found is not None and (found[2] >= 0 or b'"timings"' not in body):
            return found
    return scanned(body).figures()


def event_usage(data: bytes) -> tuple[int, int, int, int, bool]:
    """The same of an event's data, and whether it is of llama.cpp's timings alone, which may come early."""
    found = of_event(data)
    if found is not None:
        return found
    return scanned(data).told()


def seconds_in(body: bytes) -> int:
    """The seconds of audio that a whole plain answer says it has used, -1 = it does not."""
    return scanned(body).seconds if b'"seconds"' in body else -1


def names_error(body: bytes) -> bool:
    """Whether a whole plain answer has the name of an error anywhere: only one that has can say that its engine failed."""
    return b'"error"' in body
