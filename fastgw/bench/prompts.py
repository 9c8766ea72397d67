"""Prompts of a set length, made of common words by a seed: no two alike, unless they are meant to be.

A length in tokens is an estimate, four bytes each as everywhere in this house; what the server counts stands beside it in the
report. Each prompt begins with words that name its number, so that a server's cache of prefixes knows none of them, but for the
``shared`` tokens that all begin with.
"""

from __future__ import annotations

import random
from typing import Final

from fastgw.accel.tokens import BYTES_PER_TOKEN

_COMMON: Final = (
    "the of and to in is that it was for on are with as his they be at one have this from or had by but some what there we can"
    " out other were all your when up use how said an each she which do their time if will way about many then them would write"
    " like so these her long make thing see him two has look more day could go come did my sound no most number who over know"
    " water than call first people may down side been now find any new work part take get place made live where after back"
    " little only round man year came show every good me give our under name very through just form much great think say help"
    " low line before turn cause same mean differ move right boy old too does tell sentence set three want air well also play"
    " small end put home read hand port large spell add even land here must big high such follow act why ask men change went"
    " light kind off need house picture try us again animal point mother world near build self earth father head stand own"
)
WORDS: Final = tuple(_COMMON.split())


class Prompts:
    """Texts by length and number. One large text of each length is made once, and others are cut out of two of it: a hundred
    thousand tokens take microseconds, and the load is not kept waiting."""

    __slots__ = ("_seed", "_shared", "_text")

    def __init__(self, seed: int, shared_tokens: int = 0) -> None:
        self._seed = seed
        self._text = ""
        self._shared = self._words(shared_tokens * BYTES_PER_TOKEN, "shared")[: shared_tokens * BYTES_PER_TOKEN]

    def text(self, tokens: int, number: int) -> str:
        """The ``number``-th prompt, of ``tokens`` by the estimate."""
        size = tokens * BYTES_PER_TOKEN
        if len(self._text) < 2 * size:
            self._text = self._words(2 * size, "text")
        begins = self._shared[:size]
        dice = random.Random(f"{self._seed} {number}")  # noqa: S311 - reproducible, guards nothing
        own = " ".join(dice.choices(WORDS, k=4)) + f" {number} "
        at = dice.randrange(len(self._text) - size + 1)
        return (begins + own + self._text[at : at + size])[:size]

    def _words(self, size: int, what: str) -> str:
        dice = random.Random(f"{self._seed} {what}")  # noqa: S311
        return " ".join(dice.choices(WORDS, k=size // 3 + 8))[: max(size, 64)]
