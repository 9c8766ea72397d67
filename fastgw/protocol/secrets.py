"""What of a stranger's text may stand in a log: everything but keys.

Keys get into paths, ids and models by a slip: a shell variable in the wrong place, an SDK's argument one too far. A log goes to
more people than a key may. Owns: what a key looks like, and what stands in its place. Must never: let through a text that is a
key of this gateway, or was sent as one in the same request; beyond that it knows the usual forms of other people's keys.

Strangers write these texts, so a call has bounds: bytes that are gone through, digests that are taken. What was not compared
within them is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from fastgw.late import late

SHOWN: Final = 512
"""Bytes of a text that are shown at most."""

HIDDEN: Final = b"[key]"
CUT: Final = b"[...]"  # here was more than is compared
MAX_PIECES: Final = 16
MAX_STEPS: Final = 152  # a part that is looked at is one, its digest another: not a hundred microseconds, whoever wrote it
MAX_READ_BYTES: Final = 1024  # of the text and its decodings together
TOGETHER: Final = 4
LONGEST: Final = 1024
AHEAD: Final = 128  # longer than most keys: one that begins in what is shown is there whole
LEAST: Final = 4  # shorter ones stand in every text; nobody can keep such a key secret

_TAIL: Final = rb"[0-9A-Za-z_.~+/=-]"
_FORMS: Final = (
    rb"sk[-_]", rb"hf_", rb"gsk_", rb"xai-", rb"r8_", rb"nvapi-", rb"AIza", rb"ghp_", rb"github_pat_", rb"glpat-", rb"AKIA",
    rb"eyJ",
)  # fmt: skip
# Keys of this gateway, which nothing else looks like, and of the services that people have others of: not within a word. (Each
# form begins with a letter, so that the search skips what begins none, and looks back when it has found one.)
_FORM: Final = late(
    rb"fgw_(?:[0-9A-Za-z_-]{43}" + _TAIL + rb"*|(?<![0-9A-Za-z]fgw_)" + _TAIL + rb"{12,})|"
    + b"|".join(form + rb"(?<![0-9A-Za-z]" + form + rb")" + _TAIL + rb"{12,}" for form in _FORMS)
)  # fmt: skip
# What follows the name of a scheme.
_SCHEME: Final = late(rb"[Bb](?:[Ee][Aa][Rr][Ee][Rr]|[Aa][Ss][Ii][Cc])(?:[ +]|%20)+[!-~]{8,}")
_RUN: Final = late(rb"[0-9A-Za-z_.~+-]+")
_SEAM: Final = late(rb"[_.~+-]+")
_BREAK: Final = late(rb"[/\s]|\[key\]")
# A request id mostly is one of these; a key may be too, but then it is all of it.
_UUID: Final = late(rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Za-z]*")
FEW_SEAMS: Final = 8
MAX_SEAMS: Final = 64
DECODINGS: Final = 3

_ESCAPES: Final = late(rb"%([0-9A-Fa-f]{2})")
_DIGITS: Final = "0123456789abcdefABCDEF"
_BYTE: Final = {f"{high}{low}".encode(): bytes.fromhex(high + low) for high in _DIGITS for low in _DIGITS}

Known = Callable[[bytes], bool]


def masked(text: bytes, known: Known, plain: Iterable[bytes] = ()) -> bytes:
    """The first :data:`SHOWN` bytes of ``text`` with keys taken out: those that are ``known`` (by their digests, so only where
    they stand by themselves, or between ``_ . ~ + -``), the ``plain`` ones wherever they stand, and what has the form of one;
    in clear, or percent-encoded a few times. ``text`` itself where there is nothing to hide; :data:`CUT` stands for what is
    more than can be compared."""
    looked_at = _without(text[: SHOWN + LONGEST], plain)
    if len(looked_at) > SHOWN + AHEAD or len(text) > SHOWN + LONGEST:
        # Of a piece that does not end in what is looked at nothing can be said.
        looked_at = looked_at[: SHOWN + AHEAD]
        looked_at = looked_at[: max(looked_at.rfind(b"/"), looked_at.rfind(b" ")) + 1] + CUT
    if _UUID().fullmatch(looked_at):
        told = HIDDEN if len(looked_at) >= LEAST and known(looked_at) else _FORM().sub(HIDDEN, looked_at)
        return text if told == text and len(text) <= SHOWN else told[:SHOWN]
    reader = _Reader(known)
    told = decoded = reader.hidden(looked_at)
    for _ in range(DECODINGS):
        parts = _ESCAPES().split(decoded)
        if len(parts) == 1:
            break
        parts[1::2] = [_BYTE[digits] for digits in parts[1::2]]
        clear = b"".join(parts)
        decoded = reader.hidden(_without(clear, plain))
        if decoded != clear:
            told = decoded
    told = _without(told, reader.found)
    return text if told == text and len(text) <= SHOWN else told[:SHOWN]


def _without(text: bytes, keys: Iterable[bytes]) -> bytes:
    for key in keys:
        if len(key) >= LEAST and key in text:
            text = text.replace(key, HIDDEN)
    return text


class _EnoughError(Exception):
    """No more is compared."""


class _Reader:
    """Compares the parts of one text, and of its decodings, with the keys; none of them twice."""

    __slots__ = ("_compared", "_known", "_left", "_out", "_room", "found")

    def __init__(self, known: Known) -> None:
        self.found: list[bytes] = []
        self._known = known
        self._compared: dict[bytes, bool] = {}
        self._left = MAX_STEPS
        self._room = MAX_READ_BYTES
        self._out: list[bytes] = []

    def hidden(self, text: bytes) -> bytes:
        """``text`` without keys, as far as it was compared."""
        self._room -= len(text)
        if self._room < 0 or self._left < 0:
            return CUT
        text = _FORM().sub(HIDDEN, _SCHEME().sub(HIDDEN, text))
        self._out = []
        try:
            self._pieces(text)
        except _EnoughError:
            self._out.append(CUT)
        return b"".join(self._out)

    def _step(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _EnoughError

    def _is_key(self, part: bytes) -> bool:
        self._step(1)
        if len(part) < LEAST:
            return False
        compared = self._compared.get(part)
        if compared is None:
            self._step(1 + len(part) // 64)
            compared = self._compared[part] = self._known(part)
            if compared:
                self.found.append(part)
        return compared

    def _pieces(self, text: bytes) -> None:
        """A key may hold any visible byte, and one in base64 has slashes: what stands between blanks, between slashes, and a
        few such pieces together."""
        for word in dict.fromkeys((text, *text.split(None, MAX_PIECES))):
            if self._is_key(word):
                text = text.replace(word, HIDDEN)
        breaks = [one.span() for one in islice(_BREAK().finditer(text), MAX_PIECES + TOGETHER)]
        starts = [0, *(end for _, end in breaks)]
        ends = [*(start for start, _ in breaks), len(text)]
        at = 0
        while at < len(starts):
            if at >= MAX_PIECES:
                raise _EnoughError
            start = starts[at]
            for to in range(min(at + TOGETHER, len(ends)) - 1, at - 1, -1):
                if self._is_key(text[start : ends[to]]):
                    self._out.append(HIDDEN)
                    at = to
                    break
            else:
                self._runs(text, start, ends[at])
            at += 1
            if at < len(starts):
                self._out.append(text[ends[at - 1] : starts[at]])

    def _runs(self, text: bytes, at: int, end: int) -> None:
        """A piece: what is between its runs of the usual bytes, and these without keys."""
        for run in _RUN().finditer(text, at, end):
            self._step(1)
            if run.end() - run.start() < LEAST:
                continue
            self._out.append(text[at : run.start()])
            self._run(run[0])
            at = run.end()
        self._out.append(text[at:end])

    def _run(self, run: bytes) -> None:
        """A run of the usual bytes, without the keys that it is, or that stand between some of its seams: any of them, or
        where there are many, a few together, or all that is before or behind them."""
        if self._is_key(run):
            self._out.append(HIDDEN)
            return
        if _UUID().fullmatch(run):
            self._out.append(run)
            return
        seams = [seam.span() for seam in islice(_SEAM().finditer(run), MAX_SEAMS)]
        few = len(seams) <= FEW_SEAMS
        starts = [0, *(end for _, end in seams)]
        ends = [*(start for start, _ in seams), len(run)]
        last = len(ends) - 1
        at = 0
        while at <= last:
            if at == MAX_SEAMS:
                raise _EnoughError
            start = starts[at]
            for to in range(last, at - 1, -1):
                if (few or not at or to == last or to < at + TOGETHER) and self._is_key(run[start : ends[to]]):
                    self._out.append(HIDDEN)
                    at = to
                    break
            else:
                self._out.append(run[start : ends[at]])
            if at < last:
                self._out.append(run[ends[at] : starts[at + 1]])
            at += 1
