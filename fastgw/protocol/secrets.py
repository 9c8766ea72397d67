"""What of a stranger's text may stand in a log: everything but keys.

Keys get into paths, ids and models by a slip: a shell variable in the wrong place, an SDK's argument one too far. A log goes to
more people than a key may. Owns: what a key looks like, and what stands in its place. Must never: let through a text that is a
key of this gateway, or was sent as one in the same request; beyond that it knows the usual forms of other people's keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

SHOWN: Final = 512
"""Bytes of a text that are looked at, and shown."""

HIDDEN: Final = b"[key]"
MAX_PIECES: Final = 16
TOGETHER: Final = 4
LONGEST: Final = 1024
LEAST: Final = 4  # shorter ones stand in every text; nobody can keep such a key secret

# Keys of this gateway and of the services that people have others of; and what follows the name of a scheme.
_FORM: Final = re.compile(
    rb"(?<![0-9A-Za-z])(?:fgw_|sk-|sk_|hf_|gsk_|xai-|r8_|nvapi-|AIza|ghp_|github_pat_|glpat-|AKIA|eyJ)[0-9A-Za-z_.~+/=-]{12,}"
    rb"|(?i:bearer|basic)(?:[ +]|%20)+[!-~]{8,}"
)
_RUN: Final = re.compile(rb"[0-9A-Za-z_.~+-]+")
_ONE_RUN: Final = re.compile(rb"[0-9A-Za-z_.~+-]*").fullmatch
_SEAM: Final = re.compile(rb"[_.~+-]+")
# A request id mostly is one of these; a key may be too, but then it is all of it.
_UUID: Final = re.compile(rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Za-z]*").fullmatch
MOST_SEAMS: Final = 8
DECODINGS: Final = 3

Known = Callable[[bytes], bool]


def masked(text: bytes, known: Known, plain: Iterable[bytes] = ()) -> bytes:
    """The first :data:`SHOWN` bytes of ``text`` with keys taken out: those that are ``known`` (by their digests, so only where
    they stand by themselves, or between ``_ . ~ + -``), the ``plain`` ones wherever they stand, and what has the form of one;
    in clear, or percent-encoded a few times. ``text`` itself where there is nothing to hide."""
    looked_at = text[: SHOWN + LONGEST]  # a key that begins in what is shown is there whole
    told = _hidden(looked_at, known, plain)
    decoded = looked_at
    for _ in range(DECODINGS):
        if told != decoded or b"%" not in decoded:
            break
        decoded = unquote_to_bytes(decoded)
        told = _hidden(decoded, known, plain)
    if told == decoded:
        told = looked_at
    return text if told == text and len(text) <= SHOWN else told[:SHOWN]


def _hidden(text: bytes, known: Known, plain: Iterable[bytes]) -> bytes:
    for key in plain:
        if len(key) >= LEAST and key in text:
            text = text.replace(key, HIDDEN)
    text = _FORM.sub(HIDDEN, text)
    if not _ONE_RUN(text):
        # A key may hold any visible byte, and one in base64 has slashes: what stands between blanks, between slashes, and a
        # few such pieces together.
        pieces = text.split(b"/", MAX_PIECES)
        parts = [b"/".join(pieces[at : at + count]) for count in range(1, TOGETHER + 1) for at in range(len(pieces))]
        for part in dict.fromkeys((text, *parts, *text.split(None, MAX_PIECES))):
            if len(part) >= LEAST and (known(part) or (b"%" in part and known(unquote_to_bytes(part)))):
                text = text.replace(part, HIDDEN)
    return _RUN.sub(lambda run: _unless_known(run[0], known), text)


def _unless_known(run: bytes, known: Known) -> bytes:
    """A run of the usual bytes, without the key that it is, or that stands between some of its seams."""
    if len(run) < LEAST:
        return run
    if known(run):
        return HIDDEN
    if _UUID(run):
        return run
    seams = [seam.span() for seam in _SEAM.finditer(run)]
    if len(seams) > MOST_SEAMS:
        # More than any name or id has: what is before or behind a few of them.
        seams = [*seams[: MOST_SEAMS // 2], *seams[-MOST_SEAMS // 2 :]]
    starts = [0, *(end for _, end in seams)]
    ends = [*(start for start, _ in seams), len(run)]
    for at, start in enumerate(starts):
        for end in reversed(ends[at:]):
            if LEAST <= end - start < len(run) and known(run[start:end]):
                return run[:start] + HIDDEN + _unless_known(run[end:], known)
    return run
